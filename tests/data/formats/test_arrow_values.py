"""Every layout that Arrow has for texts and lists is read, or refused by column and type."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.foreign.units import write_arrow_file, write_parquet
from tresse.data.formats.arrow_values import read_lists, read_texts
from tresse.data.formats.parquet import Columns, read_columns

I64 = pa.int64()
TEXTS = ["a", "é", "", "a"]
UNITS = [[1, 2], [3, 4], [5, 6]]
NESTED = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view]


def fixed(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind, 2)


def plain(lists: list) -> list:
    return [plain(x) if isinstance(x, list) else x.tolist() for x in lists]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
     pa.binary_view()],
    ids=str,
)  # fmt: skip
def test_texts_of_any_layout_are_texts(kind):
    column = pa.array(TEXTS, pa.string()).cast(kind)
    assert read_texts(column) == TEXTS
    assert read_texts(column.slice(1, 2)) == TEXTS[1:3]
    indices = pa.array([3, 1, 1], pa.int8())
    assert read_texts(pa.DictionaryArray.from_arrays(indices, column)) == ["a", "é", "é"]


@pytest.mark.parametrize("make", [*LISTS, fixed], ids=lambda make: make.__name__)
def test_lists_of_any_layout_are_lists(make):
    column = pa.array(UNITS, make(I64))
    assert plain(read_lists(column, 1)) == UNITS
    assert plain(read_lists(column.slice(1, 1), 1)) == [[3, 4]]
    assert read_lists(column.slice(1, 0), 1) == []
    for other in [*LISTS, fixed]:
        nested = pa.array(NESTED, make(other(I64)))
        assert plain(read_lists(nested, 2)) == NESTED
        assert plain(read_lists(nested.slice(1), 2)) == NESTED[1:]


def test_lists_that_share_values_out_of_order_are_read_where_they_lie():
    values = pa.array([9, 1, 2, 3, 9])
    view = pa.ListViewArray.from_arrays(pa.array([2, 1, 4]), pa.array([2, 3, 0]), values)
    assert plain(read_lists(view, 1)) == [[2, 3], [1, 2, 3], []]


def test_units_are_views_of_the_file_without_a_copy():
    column = pa.array(UNITS, pa.large_list(I64))
    values = column.values.to_numpy()
    assert all(np.shares_memory(values, units) for units in read_lists(column, 1))


def test_lists_of_a_dictionary_are_lists():
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array([[1], [2, 3]]))
    assert plain(read_lists(column, 1)) == [[2, 3], [1], [2, 3]]
    units = pa.array([[7, 8], [7]], pa.list_(pa.dictionary(pa.int8(), I64)))
    assert plain(read_lists(units, 1)) == [[7, 8], [7]]


def test_an_array2d_of_datasets_is_lists_of_lists(tmp_path):
    # `datasets` saves an Array2D as lists of lists under the name of a type that only it knows
    extension = {"ARROW:extension:name": "datasets.features.features.Array2DExtensionType"}
    kind = pa.list_(pa.list_(I64))
    schema = pa.schema([
        pa.field("key", pa.string()), pa.field("s", kind, metadata=extension),
    ])  # fmt: skip
    content = pa.table([pa.array(["a"]), pa.array(NESTED[:1], kind)], schema)
    for write in (write_parquet, write_arrow_file):
        (found,) = read_columns(
            [write(tmp_path / write.__name__, content)], Columns(sentences="s"), ""
        )
        assert list(found.units) == [1, 2, 3, 4]
        assert found.lengths == [2, 2]


TENSORS = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12).reshape(2, 2, 3))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("units", TENSORS, "column 'units': is extension<arrow.fixed_shape_tensor.*expected a lis"),
        ("units", pa.array([[(1, 2)]] * 2, pa.map_(I64, I64)), "column 'units': is map<.*expected"),
        ("units", pa.array([{"a": 1}] * 2), "column 'units': is struct<.*, expected a list"),
        ("units", pa.array([[{"a": 1}]] * 2), "units are struct<.*, expected integers"),
        ("key", pa.array([1.0, 2.0]), "column 'key': is double, expected text or integers"),
        ("key", pa.array([b"a", b"b"], pa.binary(1)), r"is fixed_size_binary\[1\], expected text"),
        ("key", pa.array([b"a", b"\xff"]), "column 'key' of type binary cannot be read: .*UTF8"),
        ("key", pa.RunEndEncodedArray.from_arrays([2], ["a"]), "'key': is run_end_encoded<"),
        ("key", pa.array([None, None]), "column 'key': value 0 is null"),
        ("units", pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([[1], None])),
         "column 'units': value 1 is null"),
        ("units", pa.array([[], []]), "column 'units': units are null, expected integers"),
    ],
)  # fmt: skip
def test_other_types_are_refused_by_column_and_type(name, column, message, tmp_path):
    content = {"key": pa.array(["a", "b"]), "units": pa.array([[1], [2]])} | {name: column}
    path = write_arrow_file(tmp_path / "t", pa.table(content))
    with pytest.raises(ValueError, match=rf"^{path}: batch at line 0, .*{message}"):
        list(read_columns([path], Columns(units="units"), ""))


def test_parquet_keeps_the_layouts(tmp_path):
    keys = pa.array(["a", "b"], pa.string_view())
    content = pa.table({"key": keys, "units": pa.array([[1], [2, 3]], pa.list_view(I64))})
    pq.write_table(content, tmp_path / "t")
    assert "view" in str(pq.read_schema(tmp_path / "t").field("key").type)
    found = read_columns([tmp_path / "t"], Columns(units="units"), "")
    assert [(u.key, list(u.units)) for u in found] == [("a", [1]), ("b", [2, 3])]
