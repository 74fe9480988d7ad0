"""Files written like those of textless' `transcribe.py` are read."""

from pathlib import Path

import pytest

from tests.support.corpora.tiny import contents
from tests.support.foreign.units import HEARD, dedup, transcribe
from tresse.data.formats.textless import read_textless
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus

NAMES = ["1272-128104-0000", "é x", "0"]


def read(path: Path, expand: bool = False, separator: str = " ") -> dict[str, list[int]]:
    found = read_textless([path], separator=separator, expand_durations=expand)
    return {utterance.key: list(map(int, utterance.units)) for utterance in found}


@pytest.mark.parametrize("separator", [" ", ",", " | "])
def test_named_lines_are_read(separator, tmp_path):
    path = transcribe(tmp_path / "out", NAMES, HEARD, separator)
    units = [dedup(units) for units in HEARD]
    assert read(path, separator=separator) == dict(zip(NAMES, units, strict=True))
    assert read(path, True, separator) == dict(zip(NAMES, HEARD, strict=True))


def test_lines_without_names_are_called_by_their_place(tmp_path):
    (tmp_path / "en").mkdir()
    path = transcribe(tmp_path / "en" / "train", [], HEARD)
    assert list(read(path)) == ["en/train/1", "en/train/2", "en/train/3"]
    assert list(read(path, expand=True).values()) == HEARD


def test_a_file_without_speech_is_a_name_or_an_empty_line(tmp_path):
    path = transcribe(tmp_path / "a", NAMES, [[1], [], [2]])
    assert read(path) == {NAMES[0]: [1], NAMES[1]: [], NAMES[2]: [2]}
    path = transcribe(tmp_path / "b", [], [[1], [], [2]])
    assert list(read(path).values()) == [[1], [], [2]]
    assert list(read(path, expand=True).values()) == [[1], [], [2]]


def test_one_command_makes_a_corpus(tmp_path):
    path = transcribe(tmp_path / "t", NAMES, HEARD)
    command = ["textless", str(path), "--out", str(tmp_path / "c"), "--lang", "en"]
    assert main([*command, "--vocab-size", "500"]) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert contents(corpus)["en", "1272-128104-0000"] == [dedup(HEARD[0])]
    assert corpus.tokenizers[0].frame_rate == "50"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1 2\n1 x\n", ":2: ' x' is not a number after ' '"),
        (b"1 2\n1,2\n", ":2: ',2' is not a number after ' '"),
        (b"1 2\n-1\n", ":2: '-1' is not a number"),
        (b"1 2\n1  2\n", ":2: '  2' is not a number"),
        (b"a\t1 2\nb\t1.5\n", r":2: '\.5' is not a number"),
        (b"1 2\na\t1\n", ":2: has the name 'a', earlier lines have none"),
        (b"1 2\n\xff\n", ":2: 'utf-8' codec can't decode"),
        (b"1 \xd9\xa3\n", ":1: .* is not a number"),
        (b"1" * 30 + b"\n", ":1: .* is not a number"),
    ],
)
def test_a_line_that_is_no_units_is_refused_with_its_number(text, message, tmp_path):
    path = tmp_path / "t.units"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"t\.units{message}"):
        read(path)


def test_durations_of_other_files_are_refused(tmp_path):
    path = transcribe(tmp_path / "t", NAMES, HEARD)
    durations = path.with_suffix(".durations")
    good = durations.read_text()
    durations.write_text(good.replace(NAMES[1], "other"))
    with pytest.raises(
        ValueError, match=r"t\.units:2: has the name 'é x', .*durations:2 has 'other'"
    ):
        read(path, expand=True)
    durations.write_text(good + "more\t1\n")
    with pytest.raises(ValueError, match=r"t\.durations:4: t\.units has fewer lines"):
        read(path, expand=True)
    durations.write_text("".join(good.splitlines(keepends=True)[:2]))
    with pytest.raises(
        ValueError, match=r"t\.units:3: the \.durations file beside it has fewer lines"
    ):
        read(path, expand=True)
    durations.write_text(good.replace("\t", "\t1 ", 1))
    with pytest.raises(ValueError, match=r"t\.units:1: 4 durations for 3 units \(.*durations:1\)"):
        read(path, expand=True)
    durations.unlink()
    with pytest.raises(ValueError, match=r"t\.durations: no such file"):
        read(path, expand=True)


@pytest.mark.parametrize("separator", ["", "\t", "0"])
def test_a_separator_that_separates_nothing_is_refused(separator, tmp_path):
    with pytest.raises(ValueError, match="expected text without tabs and digits"):
        read(transcribe(tmp_path / "t", NAMES, HEARD), separator=separator)
