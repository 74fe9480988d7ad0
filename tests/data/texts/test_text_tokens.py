"""Texts as tokens: they read as the text, and words keep their places."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Split

from tresse.data import prepare
from tresse.data.left_out import LeftOut
from tresse.data.store.corpus import verify_corpus
from tresse.data.store.corpus_writer import merge_corpora
from tresse.data.store.text_tokenizer import (
    identify_text_tokenizer,
    load_text_tokenizer,
    tokenise_text,
)
from tresse.data.texts.text_tokens import encode_texts, train_tokenizer
from tresse.data.texts.texts import Text

STORIES = [
    Text("a", "en", ("The cat saw a café.", "Then, it slept: \u2018zzz\u2019!")),
    Text("a", "fr", ("Le chat vit un  café.", "Puis il dormit\u00a0: zzz !")),
    Text("b", "en", ("One more cat 🐈 here.",)),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    train_tokenizer(STORIES, tmp_path / "tokenizer.json", 300)
    return tmp_path / "tokenizer.json"


def write_stories(path: Path) -> Path:
    lines = [{"key": t.key, "lang": t.language, "sentences": t.sentences} for t in STORIES]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_documents_read_as_their_texts_and_words_as_words(file: Path):
    tokenizer = load_text_tokenizer(file)
    documents = list(encode_texts(STORIES, tokenizer, "-text", LeftOut("stop")))
    assert [d.language for d in documents] == ["en-text", "fr-text", "en-text"]
    for text, document in zip(STORIES, documents, strict=True):
        ids = [i for sentence in document.sentences for i in sentence]
        assert tokenizer.decode(ids, skip_special_tokens=False) == " ".join(text.sentences)
        assert document.words is not None
        for sentence, own, words in zip(
            text.sentences, document.sentences, document.words, strict=True
        ):
            ends = [*words[1:], len(own)]
            read = [
                tokenizer.decode(list(own[a:b])).strip() for a, b in zip(words, ends, strict=True)
            ]
            assert read == sentence.split()


def test_the_command_writes_a_corpus_that_merges_with_speech(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stories = write_stories(tmp_path / "stories.jsonl")
    units = [
        {"key": t.key, "lang": t.language, "sentences": [[1, 2]] * len(t.sentences)}
        for t in STORIES
    ]
    (tmp_path / "units.jsonl").write_text("".join(json.dumps(line) + "\n" for line in units))
    out, spoken = str(tmp_path / "t"), str(tmp_path / "s")
    assert prepare.main(["text", str(stories), "--tokenizer", str(tmp_path), "--out", out]) == 0
    assert "text tokens" in capsys.readouterr().out
    assert prepare.main(["manifest", str(tmp_path / "units.jsonl"), "--out", spoken]) == 0
    merged = merge_corpora([tmp_path / "t", tmp_path / "s"], tmp_path / "m")
    verify_corpus(tmp_path / "m")
    assert merged.languages == ("en", "en-text", "fr", "fr-text")
    assert merged.tokenizer("fr-text") == identify_text_tokenizer(file)
    assert [each.is_text for each in merged.tokenizers] == [False, True]
    assert len(merged.aligned(["en", "en-text", "fr-text"])) == 1
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: hash .*; restore the file"):
        verify_corpus(tmp_path / "m")


def test_as_one_sentence_a_text_has_the_same_tokens(file: Path, tmp_path: Path):
    stories, found = str(write_stories(tmp_path / "stories.jsonl")), []
    for name, flags in (("many", []), ("one", ["--one-sentence"])):
        words = [stories, "--tokenizer", str(file), "--out", str(tmp_path / name), *flags]
        assert prepare.main(["text", *words]) == 0
        corpus = verify_corpus(tmp_path / name)
        found.append(corpus.document("en-text", corpus.find("en-text", "a")))
    assert [len(sentences) for sentences in found] == [2, 1]
    assert np.concatenate(found[0]).tolist() == found[1][0].tolist()


def test_equal_texts_train_equal_tokenizers(file: Path, tmp_path: Path):
    again = tmp_path / "again" / "tokenizer.json"
    assert train_tokenizer(STORIES, again, 300) == 300
    assert again.read_bytes() == file.read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        train_tokenizer(STORIES, again, 300)
    with pytest.raises(ValueError, match="more than the 256 bytes"):
        train_tokenizer(STORIES, tmp_path / "small.json", 200)


def test_a_token_of_several_words_is_named():
    whole = Tokenizer(WordLevel({"a b": 0, "c": 1}, unk_token="c"))
    whole.pre_tokenizer = Split("|", "removed")
    with pytest.raises(ValueError, match="x: sentence 'a b': the token 'a b' belongs to several"):
        list(encode_texts([Text("k", "en", ("a b",), "x")], whole, "", LeftOut("stop")))


@pytest.mark.parametrize("content", ["{}", "no JSON"])
def test_what_is_no_tokenizer_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stories = str(write_stories(tmp_path / "stories.jsonl"))
    (tmp_path / "tokenizer.json").write_text(content)
    for path, message in (
        (tmp_path, "tokenizer.json: not the tokenizer.json of a tokenizer"),
        (tmp_path / "none", "none: no such file; expected a tokenizer.json"),
    ):
        flags = ["--tokenizer", str(path), "--out", str(tmp_path / "t")]
        assert prepare.main(["text", stories, *flags]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["Le cafe\u0301", "\u1112\u1161\u11ab", "ok\ufe0f", "\ufeffok"])
def test_characters_that_a_normalizer_composes_are_not_lost(text: str, tmp_path: Path):
    composed = unicodedata.normalize("NFC", text)
    train_tokenizer([Text("a", "en", (composed,))], tmp_path / "tokenizer.json", 280)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_text_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.decode(tokenise_text(tokenizer, text).ids) == composed


def test_characters_that_have_no_token_are_named():
    tokenizer = Tokenizer(BPE({"a": 0, "b": 1}, []))
    with pytest.raises(ValueError, match="loses characters of 'acb', near 'b'"):
        tokenise_text(tokenizer, "acb")


def test_a_tokenizer_is_the_same_wherever_it_lies(file: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "other.json"
    copy.write_bytes(file.read_bytes())
    assert identify_text_tokenizer(copy) == identify_text_tokenizer(file)
