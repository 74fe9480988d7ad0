"""Flat files written like SmolTolk's are read; its pickle is read, never run."""

import os
import pickle
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.support.corpora.tiny import contents
from tests.support.foreign.units import META, SAMPLES, write_hubert, write_mimi
from tresse.data.formats.plain_pickle import read_plain_pickle
from tresse.data.formats.smoltolk import read_meta, read_smoltolk
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus


def read(path: Path, expand: bool = False) -> list[list[int]]:
    found = read_smoltolk([path], read_meta([path]), expand_durations=expand)
    return [list(map(int, utterance.units)) for utterance in found]


@pytest.mark.parametrize("n_q", [1, 8])
def test_the_first_codebook_of_mimis_codes_is_read_without_its_end(n_q, tmp_path):
    path = write_mimi(tmp_path / "librilight" / "mimi", SAMPLES, n_q)
    assert read(path) == SAMPLES
    names = [u.key for u in read_smoltolk([path], read_meta([path]), expand_durations=False)]
    assert names == [f"librilight/mimi/train/{i}" for i in range(4)]


def test_deduplicated_units_are_read_as_they_are_or_as_they_were_heard(tmp_path):
    heard = [[7] * 120 + [3, 499, 499], [0], [1, 2, 2, 1]]
    path = write_hubert(tmp_path / "d", heard)
    assert read(path) == [[7, 3, 499], [0], [1, 2, 1]]
    assert read(path, expand=True) == heard


def test_lengths_of_16_bits_are_told_from_64_by_their_sum(tmp_path):
    path = write_mimi(tmp_path / "d", SAMPLES)
    lengths = [len(sample) + 1 for sample in SAMPLES]
    for dtype in (np.uint16, np.int16, np.uint64):
        (tmp_path / "d" / "train.len").write_bytes(np.array(lengths, dtype).tobytes())
        assert read(path) == SAMPLES
    # Four lengths of 16 bits can also be read as one of 64 bits, with another sum.
    assert np.array(lengths, np.uint16).nbytes % 8 == 0


def test_large_vocabularies_have_tokens_of_32_bits(tmp_path):
    meta = {"vocab_size": 70_002, "eos": 70_000, "pad": 70_001, "n_q": 1, "frame_rate": 25.0}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    tokens = np.array([69_999, 1, 70_000, 2, 70_000], np.uint32)
    (tmp_path / "t.bin").write_bytes(tokens.tobytes())
    (tmp_path / "t.len").write_bytes(np.array([3, 2], np.uint64).tobytes())
    assert read(tmp_path / "t.bin") == [[69_999, 1], [2]]


def test_padding_is_stripped_on_both_sides_of_the_end(tmp_path):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(META | {"n_q": 1}))
    tokens = np.array([4, 2049, 2048, 2049, 2049, 5, 2048], np.uint16)
    (tmp_path / "t.bin").write_bytes(tokens.tobytes())
    (tmp_path / "t.len").write_bytes(np.array([5, 2], np.uint64).tobytes())
    assert read(tmp_path / "t.bin") == [[4], [5]]


def test_one_command_makes_a_corpus_with_the_tokenizer_of_the_pickle(tmp_path):
    path = write_mimi(tmp_path / "librilight" / "mimi", SAMPLES)
    out = tmp_path / "c"
    assert main(["smoltolk", str(path), "--out", str(out), "--lang", "en"]) == 0
    corpus = Corpus.open(out)
    expected = {("en", f"librilight/mimi/train/{i}"): [s] for i, s in enumerate(SAMPLES)}
    assert contents(corpus) == expected
    assert (corpus.tokenizers[0].frame_rate, corpus.tokenizers[0].vocab_size) == ("25/2", 2048)


def test_a_token_file_is_not_held_in_memory(tmp_path):
    path = write_mimi(tmp_path / "d", [[1]])
    tokens = np.full((1 << 20, 8), 7, np.int16)
    tokens[:: 1 << 10] = 2048
    tokens = np.roll(tokens, -1, axis=0)
    for _ in range(4):
        with path.open("ab") as file:
            file.write(tokens.tobytes())
        with path.with_suffix(".len").open("ab") as file:
            file.write(np.full(1 << 10, 1 << 10, np.int64).tobytes())
    del tokens
    tracemalloc.start()
    count = sum(1 for _ in read_smoltolk([path], read_meta([path]), expand_durations=False))
    assert count == 4097
    assert tracemalloc.get_traced_memory()[1] < 4 << 20  # of 64 MiB
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.with_suffix(".len").unlink(), r"train\.len: no such file"),
        (lambda p: p.with_suffix(".len").write_bytes(b""), "add up to nothing"),
        (lambda p: p.with_suffix(".len").write_bytes(b"123"), "add up to nothing"),
        (lambda p: drop(p.with_suffix(".len"), 8), "add up to 1007 as uint64"),
        (lambda p: drop(p, 16), "has 1009 frames; the files do not belong together, or one is cut"),
        (lambda p: drop(p, 1), "16159 bytes are no whole number of frames of 8 uint16 tokens"),
        (lambda p: p.write_bytes(b""), "0 bytes are no whole number of frames"),
        (lambda p: p.unlink(), r"train\.bin: no such file"),
        (
            lambda p: swap_lengths(p),
            "sample 0: ends with 2047, expected EOS 2048; the .len file or",
        ),
        (lambda p: (p.parent / "meta.pkl").unlink(), r"meta\.pkl: cannot be read \(No such"),
        (lambda p: change_meta(p, n_q=4), "add up to 1010 as uint64, .* has 2020 frames"),
        (lambda p: change_meta(p, n_q=0), "n_q 0 .* expected eos and pad as the last two"),
        (lambda p: change_meta(p, eos=0), "eos 0, .* expected eos and pad as the last two"),
        (lambda p: change_meta(p, vocab_size="2050"), "vocab_size is '2050', expected a count"),
        (lambda p: change_meta(p, frame_rate=0), "frame_rate is 0, expected units per second"),
        (lambda p: change_meta(p, frame_rate=float("nan")), "frame_rate is nan"),
    ],
)
def test_files_that_do_not_belong_together_are_named(damage, message, tmp_path):
    path = write_mimi(tmp_path / "d", SAMPLES)
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(tmp_path))


def test_durations_that_are_missing_or_cut_are_named(tmp_path):
    path = write_hubert(tmp_path / "d", [[1, 1, 2]])
    drop(path.with_suffix(".dur"), 1)
    with pytest.raises(ValueError, match=r"dev\.dur: 2 durations for 3 tokens"):
        read(path, expand=True)
    path.with_suffix(".dur").unlink()
    with pytest.raises(ValueError, match=r"dev\.dur: no such file; --expand"):
        read(path, expand=True)


def test_folders_whose_pickles_differ_are_refused(tmp_path):
    paths = [write_mimi(tmp_path / "a", SAMPLES, 8), write_mimi(tmp_path / "b", SAMPLES, 1)]
    with pytest.raises(ValueError, match=r"b/meta\.pkl says .*n_q=1.*/a/meta\.pkl"):
        read_meta(paths)


def drop(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def swap_lengths(path: Path) -> None:
    lengths = np.fromfile(path.with_suffix(".len"), np.int64)
    path.with_suffix(".len").write_bytes(lengths[::-1].tobytes())


def change_meta(path: Path, **changes: object) -> None:
    old = pickle.loads((path.parent / "meta.pkl").read_bytes())
    (path.parent / "meta.pkl").write_bytes(pickle.dumps(old | changes))


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_of_any_protocol_is_read(protocol, tmp_path):
    content = META | {"text": "é\n", "none": None, "big": -(2**70), "nested": {1: {}}, "": 0}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol))
    assert read_plain_pickle(tmp_path / "m.pkl") == content


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: META | {"eos": x}, lambda x: {x: 1}])
def test_a_pickle_that_would_run_code_is_refused_by_name_and_does_not_run(protocol, wrap, tmp_path):
    trap = tmp_path / "sprung"
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(wrap(Trap(trap)), protocol))
    with pytest.raises(ValueError, match=r"m\.pkl: would load (nt|posix)\.mkdir"):
        read_plain_pickle(tmp_path / "m.pkl")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(12.5), "would load numpy"),
        ({"a": True}, "holds .*TRUE|holds INT True"),
        ({"a": (1,)}, "holds .*TUPLE"),
        ({"a": [1]}, "holds .*LIST"),
        ({"a": b"x"}, "holds|would load"),
        (3, "holds int, expected a dict"),
    ],
)
def test_other_values_are_refused_by_name(value, message, tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(ValueError, match=message):
            read_plain_pickle(tmp_path / "m.pkl")


def test_no_bytes_make_the_reader_do_anything_but_read_or_refuse(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.pkl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        good = pickle.dumps(META, protocol)
        for _ in range(500):
            bad = bytearray(good[: rng.integers(len(good) + 1)] if rng.random() < 0.3 else good)
            for _ in range(rng.integers(4)):
                if bad:
                    bad[rng.integers(len(bad))] = rng.integers(256)
            path.write_bytes(bad)
            with suppress(ValueError):
                assert isinstance(read_plain_pickle(path), dict)
    path.write_bytes(b"\x80\x04" + b"N" * (1 << 17) + b".")
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        read_plain_pickle(path)
