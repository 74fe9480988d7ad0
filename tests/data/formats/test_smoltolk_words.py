"""Words of SmolTolk's samples are cut where its own training code cuts them."""

import json
import pickle
import tracemalloc
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.foreign.units import write_hubert, write_mimi, write_words
from tresse.data.formats.smoltolk import read_meta, read_smoltolk
from tresse.data.left_out import LeftOut
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus

SAMPLES = [[5, 5, 2047, 8, 9], [0, 1], list(range(100))]
WORDS = [[(2, 0.16), (1, 0.35)], [(3, 9.0)], [(1, 0.08), (1, 0.08), (4, 2.0), (1, 8.0)]]
PLACES = [[[0, 2]], [[0]], [[0, 1, 2, 25]]]


def write(folder: Path) -> Path:
    path = write_mimi(folder / "stories" / "mimi", SAMPLES)
    write_words(path, WORDS)
    return path


def read(
    path: Path, *, expand: bool = False, words: str = "smollm", left_out: LeftOut | None = None
) -> list[Any]:
    meta = read_meta([path])
    found = read_smoltolk([path], meta, left_out, expand_durations=expand, words=words)
    return [utterance.words for utterance in found]


def test_one_command_keeps_the_words(tmp_path: Path):
    command = ["smoltolk", str(write(tmp_path)), "--out", str(tmp_path / "c"), "--lang", "en"]
    assert main([*command, "--words", "smollm"]) == 0
    corpus = Corpus.open(tmp_path / "c")
    for i, (units, places) in enumerate(zip(SAMPLES, PLACES, strict=True)):
        number = corpus.find("en", f"stories/mimi/train/{i}")
        assert corpus.document("en", number)[0].tolist() == units
        assert corpus.words("en", number) == places


def test_without_the_flag_there_are_no_words(tmp_path: Path):
    assert read(write(tmp_path), words="") == [None] * 3


def test_the_folder_of_text_lies_beside_that_of_the_units(tmp_path: Path, monkeypatch):
    path = write(tmp_path)
    monkeypatch.chdir(path.parent)
    assert read(Path("train.bin")) == PLACES
    (path.parent / "sub").mkdir()
    monkeypatch.chdir(path.parent / "sub")
    assert read(Path("../train.bin")) == PLACES


def test_words_of_deduplicated_units_are_placed_by_their_durations(tmp_path: Path):
    heard = [[7, 7, 7, 3, 499, 499], [0] * 10 + [1]]  # of 0.04 s each
    path = write_hubert(tmp_path / "units", heard)
    write_words(path, [[(1, 0.08), (1, 0.12), (2, 0.2)], [(1, 0.3), (1, 0.44)]])
    assert read(path) == [[[0, 1, 2]], [[0, 1]]]  # no unit is in two words
    assert read(path, expand=True) == [[[0, 2, 3]], [[0, 7]]]
    path.with_suffix(".dur").write_bytes(b"\1\1")
    with pytest.raises(ValueError, match=r"dev\.dur: 2 durations for 7 tokens"):
        read(path)


def smoltolk_cuts(ends: np.ndarray, rate: float) -> list[slice]:
    """What `sample_interleaved` of `dataset.py` takes for each word of a sample."""
    times = (np.append(np.float32(0), ends) * rate).astype(np.int64)
    return [slice(begin, end) for begin, end in pairwise(times)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(5, 300), min_size=1, max_size=20), st.sampled_from([12.5, 25.0, 50]))
def test_words_are_smoltolks_own_but_for_silence_at_the_end(tmp_path_factory, steps, rate):
    ends = (np.cumsum(steps) * 0.02).astype(np.float32)  # four steps are a unit of 12.5 Hz
    units = list(range(int(ends[-1] * rate) + 3))
    path = write_mimi(tmp_path_factory.mktemp("d") / "units", [units], frame_rate=rate)
    write_words(path, [[(1, float(end)) for end in ends]])
    ((words,),) = read(path)
    cuts = [units[a:b] for a, b in pairwise([*words, len(units)])]
    expected = [units[own] for own in smoltolk_cuts(ends, rate)]
    assert cuts == [*expected[:-1], expected[-1] + units[-3:]]


def change(ending: str, values: object, dtype: type) -> Callable[[Path], object]:
    return lambda text: text.with_suffix(ending).write_bytes(np.array(values, dtype).tobytes())


def change_meta(**changes: object) -> Callable[[Path], object]:
    meta = pickle.dumps({"vocab_size": 49152, "eos": 0} | changes)
    return lambda text: (text.parent / "meta.pkl").write_bytes(meta)


def drop(ending: str, count: int) -> Callable[[Path], object]:
    def damage(text: Path) -> None:
        path = text.with_suffix(ending)
        path.write_bytes(path.read_bytes()[:-count])

    return damage


def unlink(ending: str) -> Callable[[Path], object]:
    return lambda text: text.with_suffix(ending).unlink()


def rename(text: Path) -> None:
    text.parent.rename(text.parent.with_name("other"))


SIZES = [2, 1, 1, 3, 1, 1, 1, 4, 1, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rename, r"smollm/train\.bin: no such file; --words smollm needs it"),
        (unlink(".len"), r"smollm/train\.len: no such file; train.bin needs it"),
        (unlink(".wrds_tms"), r"train\.wrds_tms: no such file; --words needs it"),
        (unlink(".wrds_tms_len"), r"train\.wrds_tms_len: no such file; --words needs it"),
        (lambda text: (text.parent / "meta.pkl").unlink(), r"smollm/meta\.pkl: cannot be read"),
        (change_meta(eos=None), r"smollm/meta\.pkl: eos is None, expected a count"),
        (change_meta(vocab_size="many"), "vocab_size is 'many', expected a count"),
        (drop(".bin", 1), r"smollm/train\.bin: 31 bytes, expected uint16 tokens; it is cut short"),
        (drop(".bin", 2), r"train\.len: lengths add up to 16 as uint64, .* has 15 tokens"),
        (drop(".bin", 32), r"smollm/train\.bin: 0 bytes, expected uint16 tokens"),
        (change(".len", [4, 12], np.uint64), r"train\.len: 2 samples, expected 3, those of .*mimi"),
        (drop(".wrds_tms", 1), r"train\.wrds_tms: 39 bytes, expected float32 numbers; it is cut"),
        (drop(".wrds_tms", 40), r"train\.wrds_tms: 0 bytes, expected float32 numbers"),
        (drop(".wrds_tms", 4), r"train\.wrds_tms: 9 times, expected one for each of the 10 w"),
        (
            drop(".wrds_tms_len", 8),
            r"train\.wrds_tms: 10 times, .* the 9 words of train\.wrds_",
        ),
        (
            change(".wrds_tms_len", [*SIZES[:-1], 2], np.uint64),
            r"train\.wrds_tms_len: words of 17 tokens in all, train\.bin has 16; the files do not",
        ),
        (
            change(".wrds_tms_len", [2, 0, *SIZES[2:]], np.uint64),
            r"train\.wrds_tms_len: word 1 has 0 tokens, expected 1 to 16, the tokens of train\.bin",
        ),
        (
            change(".wrds_tms_len", [2, 1 << 63, *SIZES[2:]], np.uint64),
            "word 1 has 9223372036854775808 tokens, expected 1 to 16",
        ),
        (
            change(".wrds_tms_len", [2, 1, 3, 1, 1, *SIZES[5:]], np.uint64),
            r"train\.wrds_tms_len: sample 0: its words have 6 tokens, expected 4 as in the",
        ),
        (
            change(".wrds_tms_len", [*SIZES[:3], 1, 3, *SIZES[5:]], np.uint64),
            "sample 1: its last word has 3 tokens that end with 0, expected the EOS 0 alone;",
        ),
        (change(".len", [4, 4, 8, 0], np.uint64), r"train\.len: 4 samples, expected 3, those of"),
        (
            change(".len", [0, 8, 8], np.uint64),
            "sample 0: its words have . tokens, expected one or more",
        ),
        (
            change_meta(eos=2),
            "sample 0: its last word has 1 tokens that end with 0, expected the EOS 2 alone",
        ),
    ],
)
def test_files_of_words_that_do_not_belong_to_the_units_are_named(damage, message, tmp_path):
    path = write(tmp_path)
    damage(tmp_path / "stories" / "smollm" / "train.bin")
    with pytest.raises(ValueError, match=message) as caught:
        read(path, left_out=LeftOut("skip"))
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no words, expected one at least"),
        ([(1, np.nan), (1, 0.3)], "word 0 ends at nan s, expected 0 s or later, where it begins"),
        ([(1, 0.1), (1, np.nan)], "word 1 ends at nan s, expected 0.1"),
        ([(1, -0.1), (1, 0.3)], "word 0 ends at -0.1"),
        ([(1, 0.25), (1, 0.125)], "word 1 ends at 0.125 s, expected 0.25 s or later"),
        ([(1, 0.5), (1, 0.75)], "last word begins at 0.5 s, expected a time within the 0.4 s of"),
        ([(1, np.inf), (1, np.inf)], "last word begins at inf s, expected a time within the 0.4 s"),
        ([(1, 0.0)] * 6, "a sentence of 6 words has 5 units"),
    ],
)
def test_words_without_a_place_stop_the_command_or_leave_out_their_sample(words, message, tmp_path):
    path = write_mimi(tmp_path / "mimi", SAMPLES[:2])
    write_words(path, [words, WORDS[1]])
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    times = tmp_path / "smollm" / "train.wrds_tms"
    assert str(caught.value).startswith(f"{path}: sample 0: {times}: ")
    command = ["smoltolk", str(path), "--out", str(tmp_path / "c"), "--lang", "en"]
    assert main([*command, "--words", "smollm", "--on-fault", "skip"]) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.num_documents("en") == 1
    assert corpus.words("en", 0) == [[0]]
    (line,) = (tmp_path / "c" / "skipped.jsonl").read_text().splitlines()
    assert message[:20] in json.loads(line)["reason"]


@pytest.mark.parametrize(
    "flags", [["--key-pattern", r"(?P<key>.*)/(?P<sentence>\d+)"], ["--split-long"]]
)
def test_samples_with_words_are_documents_of_one_sentence(flags, tmp_path, capsys):
    command = ["smoltolk", str(write(tmp_path)), "--out", str(tmp_path / "c"), "--lang", "en"]
    assert main([*command, "--words", "smollm", *flags]) == 1
    assert "--words needs a document of one sentence" in " ".join(capsys.readouterr().err.split())


def test_words_are_not_held_in_memory(tmp_path: Path):
    num_samples, num_words = 1 << 10, 1 << 10
    path = write_mimi(tmp_path / "mimi", [list(range(num_words))])
    text = write_words(path, [[(1, (i + 1) / 12.5) for i in range(num_words)]])
    for file in (path, path.with_suffix(".len"), *text.parent.glob("train.*")):
        file.write_bytes(file.read_bytes() * num_samples)
    tracemalloc.start()
    found = read_smoltolk([path], read_meta([path]), expand_durations=False, words="smollm")
    count = 0
    for utterance in islice(found, 16):
        assert utterance.words == [list(range(num_words))]
        count += 1
    assert count == 16
    assert tracemalloc.get_traced_memory()[1] < 2 << 20  # of 12 MiB
    tracemalloc.stop()
