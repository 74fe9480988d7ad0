"""Tables of text: widths, sides, and lines that do not fit."""

import pytest

from tresse.data.text_table import format_table

LINES = [["name", "count", "note"], ["a", "1,000", ""], ["longer", "2", "x"]]


def test_columns_are_as_wide_as_their_widest_cell_and_the_first_is_aligned_left():
    assert format_table(LINES).split("\n") == [
        "name    count  note",
        "a       1,000",
        "longer      2     x",
    ]


def test_all_columns_can_be_aligned_right():
    assert format_table(LINES, num_left=0).split("\n")[1:] == [
        "     a  1,000",
        "longer      2     x",
    ]


def test_a_line_with_another_number_of_cells_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        format_table([["a", "b"], ["c"]])
