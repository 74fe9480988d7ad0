"""Names give keys, languages and sentence numbers; a document is gathered whole or not at all."""

import json
import random
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.corpora.tiny import contents
from tests.support.foreign.units import NUMBERED
from tresse.data.formats.utterances import Utterance, read_documents
from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.naming import Naming, stem
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.tokenizer import Tokenizer

UNITS = Tokenizer("units", "", "25", 500)


def utterances(*named: tuple[str, list[int]]) -> list[Utterance]:
    return [
        Utterance(name, Path(name).stem, units, f"f:{i}") for i, (name, units) in enumerate(named)
    ]


def gather(
    tmp_path: Path, *named: tuple[str, list[int]], left_out: LeftOut | None = None, **flags
) -> list[tuple]:
    """Return key, language and sentences of the documents."""
    spool = tmp_path / "spool"
    documents = read_documents(utterances(*named), Naming(**flags), UNITS, spool, left_out)
    return [
        (d.key, d.language, [np.array(sentence).tolist() for sentence in d.sentences])
        for d in documents
    ]


def test_a_file_is_a_document_called_by_its_stem(tmp_path):
    found = gather(tmp_path, ("/a/b/x.y.flac", [1, 2]), ("/a/z", [3]), lang="fr")
    assert found == [("x.y", "fr", [[1, 2]]), ("z", "fr", [[3]])]
    assert not (tmp_path / "spool").exists()


def test_backslashes_separate_like_slashes(tmp_path):
    named = [(rf"C:\audio\en\a_{i}.flac", [i]) for i in range(2)]
    mixed = [(rf"C:\audio/fr\a_{i}.flac", [i]) for i in range(2)]
    assert gather(tmp_path, *named, *mixed, key_pattern=NUMBERED) == [
        ("a", "en", [[0], [1]]),
        ("a", "fr", [[0], [1]]),
    ]
    assert [stem(name) for name in (r"C:\a\x.y.flac", r"a/b\x.flac", "a/b/x")] == ["x.y", "x", "x"]


def test_sentences_are_gathered_wherever_they_stand_and_documents_keep_their_order(tmp_path):
    named = [
        ("/w/fr/b_1.flac", [4, 5]),
        ("/w/en/a_0.flac", [1]),
        ("/w/fr/b_0.flac", [3]),
        ("/w/en/a_10.flac", [12]),
        *((f"/w/en/a_{i}.flac", [i]) for i in range(9, 0, -1)),
    ]
    assert gather(tmp_path, *named, key_pattern=NUMBERED) == [
        ("b", "fr", [[3], [4, 5]]),
        ("a", "en", [[1], *([i] for i in range(1, 10)), [12]]),
    ]
    assert list((tmp_path / "spool").iterdir()) == []


def test_any_shuffle_of_the_sentences_gives_the_same_documents(tmp_path_factory):
    sizes = st.dictionaries(
        st.tuples(st.sampled_from(["en", "fr"]), st.sampled_from("abcde")),
        st.integers(1, 6),
        min_size=1,
    )

    @settings(max_examples=40, deadline=None)
    @given(sizes, st.integers(0, 1), st.randoms(use_true_random=False))
    def check(sizes: dict, first: int, rng: random.Random) -> None:
        expected = {
            (language, key): [[ord(key), i] for i in range(size)]
            for (language, key), size in sizes.items()
        }
        named = [
            (f"{language}/{key}_{first + i}.flac", units)
            for (language, key), sentences in expected.items()
            for i, units in enumerate(sentences)
        ]
        rng.shuffle(named)
        found = gather(tmp_path_factory.mktemp("g"), *named, key_pattern=NUMBERED)
        assert {(language, key): sentences for key, language, sentences in found} == expected
        assert len(found) == len(expected)

    check()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 2], r"f:0 \(en/a_0.flac\): document 'a' \(en\): sentence 1 is missing"),
        ([2, 3], "sentence 1 is missing"),
        ([0, 1, 1], "sentence 1 is there twice"),
        ([1, 2, 4], "sentence 3 is missing"),
    ],
)
def test_a_missing_or_repeated_sentence_is_an_error(numbers, message, tmp_path):
    named = [(f"en/a_{n}.flac", [n]) for n in numbers]
    with pytest.raises(ValueError, match=message):
        gather(tmp_path, *named, key_pattern=NUMBERED)


def test_the_first_sentence_is_missed_where_others_have_it(tmp_path):
    named = [("en/a_0.flac", [1]), ("en/a_1.flac", [1]), ("en/b_1.flac", [2])]
    with pytest.raises(ValueError, match=r"document 'b' \(en\): sentence 0 is missing"):
        gather(tmp_path, *named, key_pattern=NUMBERED)


def test_incomplete_documents_are_left_out_on_demand_and_listed(tmp_path, caplog):
    named = [
        ("en/a_0.flac", [1]),
        ("en/b_0.flac", []),
        ("en/b_1.flac", [2]),
        ("en/c_1.flac", [3]),
        ("fr/c_0.flac", [4]),
    ]
    left_out = LeftOut("skip")
    found = gather(tmp_path, *named, key_pattern=NUMBERED, left_out=left_out)
    assert found == [("a", "en", [[1]]), ("c", "fr", [[4]])]
    assert [(fault.key, fault.lang) for fault in left_out.faults] == [("b", "en"), ("c", "en")]
    assert "f:1 (en/b_0.flac): sentence 0 has 0 tokens" in left_out.faults[0].reason
    assert "sentence 0 is missing" in left_out.faults[1].reason
    assert left_out.faults[1].reason in caplog.text
    repeated = [*named, ("fr/c_0.flac", [4])]
    with pytest.raises(ContradictionError, match="sentence 0 is there twice"):
        gather(tmp_path, *repeated, key_pattern=NUMBERED, left_out=left_out)


def test_a_document_that_loses_its_last_sentence_is_left_out_whole(tmp_path):
    left_out = LeftOut("skip")
    named = [("en/a_0.flac", [1]), ("en/a_1.flac", [500]), ("en/b_0.flac", [2])]
    assert gather(tmp_path, *named, key_pattern=NUMBERED, left_out=left_out) == [("b", "en", [[2]])]
    (fault,) = left_out.faults
    assert fault.key == "a"
    assert "token 0 is 500, outside the vocabulary" in fault.reason


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("a.flac", {}, "no language; give --lang"),
        ("a.flac", {"lang": "../fr"}, r"language '\.\./fr'"),
        ("a.flac", {"lang": "fr", "key_pattern": "b(?P<key>.)"}, "f:0 .*: name 'a.flac' does not"),
        ("a_x.", {"lang": "fr", "key_pattern": "(?P<key>.)_(?P<sentence>.)"}, "sentence is 'x'"),
        ("ab", {"lang": "fr", "key_pattern": "(?P<key>.)(?P<sentence>\\d)?"}, "finds no sentence"),
        ("a/b", {"key_pattern": "(?P<lang>.*)/(?P<key>.)", "lang": "fr"}, "give one of them"),
        ("/b", {"key_pattern": "(?P<lang>.*)/(?P<key>.)"}, "f:0 .*: no language"),
        ("../b", {"key_pattern": "(?P<lang>.*)/(?P<key>.)"}, r"f:0 .*: language '\.\.'"),
        ("a", {"lang": "fr", "key_pattern": "("}, "--key-pattern '\\('"),
        ("a", {"lang": "fr", "key_pattern": "(.)"}, r"groups \[\]; expected \(\?P<key>"),
        ("a", {"lang": "fr", "key_pattern": "(?P<key>.)(?P<x>)"}, "has the groups"),
        ("a", {"key_pattern": NUMBERED, "split_long": True}, "--split-long would cut"),
    ],
)
def test_a_name_that_says_too_little_is_an_error(name, flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        gather(tmp_path, (name, [1]), **flags)


def test_units_out_of_range_are_named_with_their_file(tmp_path):
    with pytest.raises(ValueError, match=r"f:0 \(en/a_0.flac\): .*token 1 is 500, outside"):
        gather(tmp_path, ("en/a_0.flac", [1, 500]), key_pattern=NUMBERED)
    documents = read_documents(utterances(("a.flac", [1, 500])), Naming(lang="en"), UNITS, tmp_path)
    with pytest.raises(ValueError, match=r"f:0 \(a.flac\): document 'a' .*token 1 is 500"):
        write_corpus(tmp_path / "c", documents, UNITS)


def test_long_files_are_refused_or_cut_on_demand(tmp_path):
    long = [("a.flac", list(range(500)) * 300)]
    with pytest.raises(ValueError, match=r"150000 units, .* use --split-long"):
        gather(tmp_path, *long, lang="en")
    [(_, _, sentences)] = gather(tmp_path, *long, lang="en", split_long=True)
    assert [len(s) for s in sentences] == [65_535, 65_535, 18_930]
    assert list(chain(*sentences)) == long[0][1]


def test_two_languages_of_numbered_sentences_come_out_aligned(tmp_path, capsys):
    path, records = tmp_path / "features.jsonl", []
    for language, base in (("en", 0), ("fr", 100)):
        for key in ("s1", "s2"):
            for sentence in range(3):
                name = f"/audio/{language}/{key}_{sentence}.flac"
                units = [base + sentence] * (5 - sentence)
                records.append({"units": units, "duration": [1] * len(units), "file_name": name})
    records.sort(key=lambda record: -len(record["units"]))  # as SlamKit does
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "new" / "c"
    assert main(["slamkit", str(path), "--out", str(out), "--key-pattern", NUMBERED]) == 0
    assert "en 0, fr 0" in capsys.readouterr().out
    corpus = Corpus.open(out)
    assert contents(corpus)["fr", "s2"] == [[100] * 5, [101] * 4, [102] * 3]
    assert corpus.aligned(("en", "fr")).tolist() == [[0, 0], [1, 1]]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["c"]
