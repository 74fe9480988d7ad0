"""Files written like SlamKit's are read, unit by unit."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.corpora.tiny import contents
from tests.support.foreign.units import HEARD, NAMES, dedup, units_of, write_features, write_tokens
from tresse.data.formats.slamkit import read_slamkit
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus


def test_features_are_read_as_they_are_or_as_they_were_heard(tmp_path):
    path = write_features(tmp_path / "features.jsonl", NAMES, HEARD)
    assert units_of(path, expand=False) == [dedup(units) for units in HEARD]
    assert units_of(path, expand=True) == HEARD
    found = list(read_slamkit([path], expand_durations=False))
    assert [u.name for u in found] == NAMES
    assert [u.key for u in found] == ["x", "y.z", "é"]
    assert [u.where for u in found] == [f"{path}:{i}" for i in (1, 2, 3)]


def test_tokens_are_read_as_they_are(tmp_path):
    path = write_tokens(tmp_path / "tokens.jsonl", NAMES, HEARD)
    assert units_of(path, expand=False) == [dedup(units) for units in HEARD]


def test_any_units_are_read_back(tmp_path_factory):
    heard = st.lists(st.lists(st.integers(0, 10**18 - 1), min_size=1), max_size=4)

    @settings(max_examples=50, deadline=None)
    @given(heard)
    def check(heard: list[list[int]]) -> None:
        folder, names = tmp_path_factory.mktemp("s"), [f"{i}.wav" for i in range(len(heard))]
        features = write_features(folder / "f.jsonl", names, heard)
        assert units_of(features, expand=True) == heard
        tokens = write_tokens(folder / "t.jsonl", names, heard)
        assert units_of(tokens, expand=False) == [dedup(units) for units in heard]

    check()


def test_one_command_makes_a_corpus_with_slamkits_own_tokenizer(tmp_path):
    write_features(tmp_path / "f.jsonl", NAMES, HEARD)
    command = ["slamkit", str(tmp_path / "f.jsonl"), "--out", str(tmp_path / "c"), "--lang", "en"]
    assert main([*command, "--expand"]) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert contents(corpus) == {
        ("en", "x"): [HEARD[0]],
        ("en", "y.z"): [HEARD[1]],
        ("en", "é"): [HEARD[2]],
    }
    assert (corpus.tokenizers[0].frame_rate, corpus.tokenizers[0].vocab_size) == ("25", 500)


GOOD = {"file_name": "a.wav", "units": [1, 2], "duration": [1, 2]}
TOKENS = {"file_name": "a.wav", "audio_repr": "<Un1>"}


@pytest.mark.parametrize(
    ("record", "expand", "message"),
    [
        ({"units": [1]}, False, "file_name is None"),
        (GOOD | {"file_name": 3}, False, "file_name is 3"),
        ({"file_name": "a"}, False, "has neither 'units' .* nor 'audio_repr'"),
        ({"prompt_path": "a", "chosen_path": "b"}, False, "file_name is None"),
        (GOOD | {"units": "1 2"}, False, "units is not a list"),
        (GOOD | {"duration": [1]}, True, "1 durations for 2 units"),
        (GOOD | {"duration": None}, True, "durations are missing"),
        (GOOD | {"duration": [1, 0]}, True, "durations from 0 to 1"),
        (GOOD | {"duration": [1, 2.0]}, True, "duration is 2.0, expected an integer"),
        (GOOD | {"duration": [True, 1]}, True, "duration is True"),
        (GOOD | {"units": [1, "2"]}, True, "unit is '2'"),
        (GOOD | {"duration": [1, 1 << 70]}, True, "does not fit in 64 bits"),
        (GOOD | {"duration": [1, 1 << 40]}, True, "at most 16777216 in all"),
        (TOKENS, True, "tokens.jsonl has no durations"),
        (TOKENS | {"audio_repr": "<speech><Un1><text> a"}, False, "interleaved with text"),
        (
            TOKENS | {"audio_repr": "Once upon a time"},
            False,
            "has 'Once upon a time', expected units",
        ),
        (TOKENS | {"audio_repr": "<Un1> <Un2>"}, False, "has ' <Un2>', expected units"),
        (TOKENS | {"audio_repr": "<Un1><Un-2>"}, False, "has '<Un-2>', expected units"),
        (TOKENS | {"audio_repr": "<Un1><Un٣>"}, False, "has '<Un٣>', expected units"),
        (TOKENS | {"audio_repr": ["<Un1>"]}, False, "expected text"),
        (TOKENS | {"sentence_lengths": [2]}, False, "counts that add up to 1"),
        (TOKENS | {"sentence_lengths": [1, 0]}, False, "counts that add up to 1"),
        (TOKENS | {"sentence_lengths": 1}, False, "counts that add up to 1"),
    ],
)
def test_a_line_that_is_not_slamkits_is_refused_with_its_number(record, expand, message, tmp_path):
    path = tmp_path / "f.jsonl"
    good = GOOD if expand else TOKENS
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        list(read_slamkit([path], expand_durations=expand))
    assert str(caught.value).startswith(f"{path}:3: ")


def test_a_name_that_comes_twice_is_named_with_both_its_name_and_key(tmp_path, capsys):
    path = write_features(tmp_path / "f.jsonl", ["/en/x.flac", "/fr/x.flac"], HEARD[:2])
    command = ["slamkit", str(path), "--out", str(tmp_path / "c"), "--lang", "en"]
    assert main(command) == 1
    assert re_flat(f"{path}:2 (/fr/x.flac): document 'x' (en): this key is taken") in re_flat(
        capsys.readouterr().err
    )
    assert not (tmp_path / "c").exists()


def re_flat(text: str) -> str:
    return " ".join(text.split())
