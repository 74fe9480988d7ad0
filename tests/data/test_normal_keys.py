"""A key has one spelling: NFC, whether macOS, Linux or a person wrote it."""

import json
from pathlib import Path

import pytest

from tests.support.corpora.tiny import UNITS, story
from tests.support.evaluation_trees import write_tree
from tresse.data.audio.recordings import read_recordings
from tresse.data.evaluation.listing import list_languages
from tresse.data.evaluation.triples import read_triples
from tresse.data.naming import Naming
from tresse.data.store.cloze import read_items
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.texts.texts import read_texts

NFC, NFD = "caf\u00e9", "cafe\u0301"


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def old_corpus(out: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus from before keys had one form."""
    with monkeypatch.context() as patch:
        patch.setattr("tresse.data.store.shards.normal_key", lambda key: key)
        return write_corpus(out, [story("a", "fr"), story(NFD, "fr")], UNITS)


def test_documents_in_both_forms_are_translations(tmp_path):
    corpus = write_corpus(tmp_path / "c", [story(NFC, "en"), story(NFD, "fr")], UNITS)
    assert corpus.aligned(("en", "fr")).tolist() == [[0, 0]]
    assert corpus.key("fr", 0) == NFC
    assert corpus.find("en", NFD) == corpus.find("en", NFC) == 0
    verify_corpus(corpus.path)


def test_one_language_has_a_key_once_in_whatever_form(tmp_path):
    with pytest.raises(ValueError, match=r"this key is taken .* unique in Unicode's normal form"):
        write_corpus(tmp_path / "c", [story(NFC, "en"), story(NFD, "en")], UNITS)


def test_recordings_are_gathered_by_the_normal_form_and_keep_their_paths(tmp_path):
    records = [
        {"path": f"{form}.wav", "key": form, "lang": "fr", "sentence": i}
        for i, form in enumerate((NFC, NFD))
    ]
    (found,) = read_recordings([write(tmp_path / "m.jsonl", *records)])
    assert found.key == NFC
    assert [Path(str(s.source)).name for s in found.sentences] == [f"{NFC}.wav", f"{NFD}.wav"]
    twice = [{"path": "a.wav", "key": form, "lang": "fr"} for form in (NFC, NFD)]
    with pytest.raises(ValueError, match=r"m\.jsonl:2: key .* is in fr already \(.*m\.jsonl:1\)"):
        read_recordings([write(tmp_path / "m.jsonl", *twice)])


def test_texts_have_a_key_once_in_whatever_form(tmp_path):
    records = [{"key": form, "lang": "fr", "sentences": ["Un."]} for form in (NFC, NFD)]
    assert read_texts([write(tmp_path / "t.jsonl", records[1])])[0].key == NFC
    with pytest.raises(ValueError, match=r"t\.jsonl:2: key .* is in fr already"):
        read_texts([write(tmp_path / "t.jsonl", *records)])


def test_items_name_their_documents_in_the_normal_form(tmp_path):
    record = {"task": "t", "id": "1", "prompt": NFD, "correct": f"{NFD}/1", "incorrect": "x"}
    (item,) = read_items(write(tmp_path / "items.jsonl", record))
    assert (item.prompt, item.correct) == (NFC, f"{NFC}/1")
    with pytest.raises(ValueError, match="correct and incorrect are both"):
        list(read_items(write(tmp_path / "i.jsonl", record | {"incorrect": f"{NFC}/1"})))


def test_names_of_files_in_both_forms_are_one_story(tmp_path):
    for language, form in (("en", NFC), ("fr", NFD)):
        parts = ("mutual", "correct", "incorrect")
        write_tree(tmp_path / "sSC" / language, *(f"{form}_{part}" for part in parts))
    listed = list_languages(tmp_path / "sSC")
    assert str(listed["fr"][f"{NFC}_mutual"]) == str(tmp_path / "sSC" / "fr" / f"{NFD}_mutual.wav")
    (item,) = read_triples("sSC", listed)
    assert item.prompt == f"sSC/{NFC}_mutual"


@pytest.mark.parametrize("pattern", [f"(?P<key>{form}/.+)" for form in (NFC, NFD)])
def test_patterns_find_names_in_both_forms(pattern):
    for name in (f"{NFC}/1", f"{NFD}/1"):
        assert Naming(lang="fr", key_pattern=pattern).parse(name, "").key == f"{NFC}/1"


def test_old_corpora_in_another_form_are_refused_where_it_matters(tmp_path, monkeypatch):
    old = old_corpus(tmp_path / "old", monkeypatch)
    new = write_corpus(tmp_path / "new", [story(NFC, "en")], UNITS)
    message = rf"{old.shards['fr'][0].path.name}: document 1: the key .* is not in Unicode's normal"
    with pytest.raises(ValueError, match=message):
        verify_corpus(old.path)
    with pytest.raises(ValueError, match=message):
        merge_corpora([new.path, old.path], tmp_path / "m")
    assert not (tmp_path / "m").exists()
