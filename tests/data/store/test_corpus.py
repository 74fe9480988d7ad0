"""Corpora: reading, translations and merging; documents that cannot become a corpus."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.corpora.tiny import UNITS, contents, small, stories, story
from tresse.data.store import documents as documents_module
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.inspection import describe
from tresse.data.store.tokenizer import Tokenizer


def test_a_corpus_is_read_back_in_the_order_it_was_written(tmp_path):
    corpus = small(tmp_path / "c")
    assert corpus.languages == ("en", "fr")
    assert [corpus.key("fr", i) for i in range(3)] == ["d", "b", "e"]
    assert corpus.document("fr", 1)[1].tolist() == [ord("b")] * 3
    counts = [
        (corpus.num_documents(x), corpus.num_sentences(x), corpus.num_tokens(x))
        for x in ("en", "fr")
    ]
    assert counts == [(4, 8, 20), (3, 6, 15)]
    assert corpus.find("fr", "b") == 1


def test_words_survive_the_corpus(tmp_path):
    document = Document("a", "en", [[1, 2, 3], [4]], [[0, 2], [0]])
    assert write_corpus(tmp_path / "c", [document], UNITS).words("en", 0) == [[0, 2], [0]]
    assert small(tmp_path / "d").words("en", 0) is None


def test_aligned_holds_the_shared_keys_in_the_first_languages_order(tmp_path):
    corpus = small(tmp_path / "c")
    assert corpus.aligned(("en", "fr")).tolist() == [[1, 1], [3, 0]]
    assert corpus.aligned(("fr", "en")).tolist() == [[0, 3], [1, 1]]
    assert corpus.aligned(("fr",)).tolist() == [[0], [1], [2]]
    assert corpus.aligned(("en", "fr")).dtype == np.int64


def test_aligned_is_the_intersection_of_keys_for_every_set_of_languages(tmp_path_factory):
    keys = st.lists(st.sampled_from("abcdefg"), unique=True, max_size=7)

    @settings(max_examples=40, deadline=None)
    @given(st.dictionaries(st.sampled_from(["de", "en", "fr", "pt"]), keys, min_size=1), st.data())
    def check(languages, data):
        content = [d for name, own in languages.items() for d in stories(name, "".join(own))]
        languages = {name: own for name, own in languages.items() if own}
        if not content:
            return
        corpus = write_corpus(tmp_path_factory.mktemp("c") / "c", content, UNITS)
        names = st.lists(st.sampled_from(sorted(languages)), min_size=1, unique=True)
        chosen = data.draw(names)
        shared = [k for k in languages[chosen[0]] if all(k in languages[n] for n in chosen)]
        expected = [[languages[n].index(k) for n in chosen] for k in shared]
        assert corpus.aligned(chosen).tolist() == expected
        verify_corpus(corpus.path)

    check()


@pytest.mark.parametrize("languages", [(), ("en", "en"), ("en", "de")])
def test_aligned_refuses_no_repeated_or_unknown_languages(languages, tmp_path):
    with pytest.raises(ValueError, match=r"each once|no language 'de'; it has en, fr"):
        small(tmp_path / "c").aligned(languages)


def test_a_key_or_document_that_is_not_there_is_named(tmp_path):
    corpus = small(tmp_path / "c")
    with pytest.raises(ValueError, match="language fr has no document with the key 'a'"):
        corpus.find("fr", "a")
    for document in (3, -1):
        with pytest.raises(ValueError, match=f"no document {document} in fr"):
            corpus.document("fr", document)


def test_equal_content_gives_equal_bytes_and_ids_whatever_the_language_order(tmp_path):
    one = write_corpus(tmp_path / "1", stories("en", "abcd") + stories("fr", "dbe"), UNITS)
    two = write_corpus(tmp_path / "2", stories("fr", "dbe") + stories("en", "abcd"), UNITS)
    assert one.id == two.id
    files = [{p.name: p.read_bytes() for p in c.path.iterdir()} for c in (one, two)]
    assert files[0] == files[1]
    other = write_corpus(tmp_path / "3", stories("en", "abcd") + stories("fr", "deb"), UNITS)
    assert other.id != one.id


def test_corpus_json_holds_no_floats_and_is_sorted(tmp_path):
    text = (small(tmp_path / "c").path / "corpus.json").read_text()

    def refuse(text):
        raise AssertionError(text)

    content = json.loads(text, parse_float=refuse)
    assert text == json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def misaligned(count: int) -> list[Document]:
    pairs = [[story(f"k{i}", "en", (1, 2)), story(f"k{i}", "fr", (1,))] for i in range(count)]
    return [document for pair in pairs for document in pair]


def test_documents_that_do_not_match_are_listed_up_to_ten(tmp_path):
    with pytest.raises(ValueError, match="12 keys have documents that differ") as caught:
        write_corpus(tmp_path / "c", [*misaligned(12), *stories("en", "a")], UNITS)
    message = str(caught.value)
    assert message.count("en 2, fr 1") == 10
    assert "... and 2 more" in message
    assert list(tmp_path.iterdir()) == []


def test_skip_misaligned_gives_the_corpus_without_these_keys_and_says_so(tmp_path, caplog):
    clean = stories("en", "abc") + stories("fr", "cb") + stories("de", "a")
    extra = misaligned(3)
    mixed = [extra[0], *clean[:2], *extra[1:4], *clean[2:], *extra[4:], story("k0", "de", (1, 2))]
    found = write_corpus(tmp_path / "1", mixed, UNITS, skip_misaligned=True)
    assert "left out 3 keys" in caplog.text
    assert "'k0': de 2, en 2, fr 1" in caplog.text
    assert found.id == write_corpus(tmp_path / "2", clean, UNITS).id
    assert {p.name for p in found.path.iterdir()} == {
        p.name for p in (tmp_path / "2").iterdir()
    }  # no shard of the first attempt is left
    verify_corpus(found.path)


def test_skip_misaligned_keeps_words_and_a_language_that_loses_nothing(tmp_path):
    words = Document("a", "en", [[1, 2]], [[0, 1]])
    documents = [words, story("b", "en"), story("b", "fr", (1,))]
    with pytest.raises(ValueError, match="some do not"):
        write_corpus(tmp_path / "0", documents, UNITS, skip_misaligned=True)
    documents = [words, Document("b", "en", [[1], [2]], [[0], [0]]), story("b", "fr", (1,))]
    found = write_corpus(tmp_path / "1", documents, UNITS, skip_misaligned=True)
    assert found.languages == ("en",)
    assert found.words("en", 0) == [[0, 1]]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "no documents"),
        ([story("a", "en"), story("a", "en")], r"document 'a' \(en\): this key is taken"),
        ([Document("a", "en", [[1], [9999]], where="x.jsonl:3")],
         r"^x\.jsonl:3: document 'a' \(en\): sentence 1, token 0 is 9999"),
        ([Document("a", "../en", [[1]], where="x.jsonl:3")], r"^x\.jsonl:3: language '\.\./en'"),
    ],
)  # fmt: skip
def test_bad_documents_are_refused_and_leave_nothing(documents, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_corpus(tmp_path / "c", documents, UNITS)
    assert list(tmp_path.iterdir()) == []


def test_two_keys_with_one_hash_are_refused_across_languages(tmp_path, monkeypatch):
    hashes = {"a": 1, "b": 2, "c": 1, "dd": 2}
    monkeypatch.setattr("tresse.data.store.shards.key_hash", hashes.__getitem__)
    with pytest.raises(ValueError, match=r"'a' \(en\) and 'c' \(fr\) have the same 64-bit hash"):
        write_corpus(tmp_path / "c", stories("en", "ba") + stories("fr", "c"), UNITS)
    with pytest.raises(ValueError, match=r"'b' \(en\) and 'dd' \(fr\) have the same 64-bit"):
        write_corpus(tmp_path / "c", [*stories("en", "ab"), story("dd", "fr")], UNITS)
    with pytest.raises(ValueError, match="this key is taken"):
        write_corpus(tmp_path / "c", stories("en", "ac"), UNITS)


def test_an_existing_corpus_or_full_folder_is_not_touched(tmp_path):
    before = small(tmp_path / "c").id
    with pytest.raises(ValueError, match="already holds a corpus"):
        small(tmp_path / "c")
    with pytest.raises(ValueError, match="already holds a corpus"):
        merge_corpora([tmp_path / "c"], tmp_path / "c")
    assert Corpus.open(tmp_path / "c").id == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        small(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert small(tmp_path / "empty").id == before


def test_merging_parts_gives_the_documents_and_translations_of_all(tmp_path):
    parts = [stories("en", "ab"), stories("fr", "cb") + stories("en", "c"), stories("de", "a")]
    inputs = [write_corpus(tmp_path / str(i), part, UNITS) for i, part in enumerate(parts)]
    merged = merge_corpora([c.path for c in inputs], tmp_path / "m")
    whole = write_corpus(tmp_path / "w", [d for part in parts for d in part], UNITS)
    assert contents(merged) == contents(whole)
    for languages in (("en", "fr"), ("fr", "en"), ("de", "en"), ("de", "fr")):
        np.testing.assert_array_equal(merged.aligned(languages), whole.aligned(languages))
    verify_corpus(merged.path)
    for corpus in inputs:
        for shard in (s for own in corpus.shards.values() for s in own):
            assert shard.path.stat().st_ino == (merged.path / shard.path.name).stat().st_ino


def test_merging_copies_where_links_fail(tmp_path, monkeypatch):
    corpus = small(tmp_path / "c")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "cross-device")))
    merged = merge_corpora([corpus.path], tmp_path / "m")
    assert merged.id == corpus.id
    shard = merged.shards["en"][0].path
    assert shard.stat().st_nlink == 1
    verify_corpus(merged.path)


def test_a_merge_that_fails_midway_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    parts = [write_corpus(tmp_path / k, stories("en", k), UNITS) for k in "abc"]
    before = set(tmp_path.rglob("*"))
    link, bad = os.link, parts[1].shards["en"][0].path

    def fail(source, target, **options):
        if source == bad:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        link(source, target, **options)

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(ValueError, match=rf"^{bad}: cannot be copied to .*quota exceeded"):
        merge_corpora([part.path for part in parts], tmp_path / "m")
    assert set(tmp_path.rglob("*")) == before
    for part in parts:
        verify_corpus(part.path)


def test_a_document_is_found_after_several_shards(tmp_path):
    names = ["ab", "c", "def"]
    parts = [write_corpus(tmp_path / n, stories("en", n), UNITS).path for n in names]
    merged = merge_corpora(parts, tmp_path / "m")
    assert [merged.key("en", i) for i in range(6)] == list("abcdef")
    assert [merged.find("en", k) for k in "fedcba"] == [5, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="no document 6 in en, of 6"):
        merged.key("en", 6)


def test_what_does_not_merge_is_refused_and_leaves_nothing(tmp_path):
    a = small(tmp_path / "a").path
    other = Tokenizer("units", "other", "25/2", 2048)
    b = write_corpus(tmp_path / "b", stories("en", "z"), other).path
    c = write_corpus(tmp_path / "c", [*stories("en", "z"), story("a", "fr", (1, 1, 1))], UNITS).path
    d = write_corpus(tmp_path / "d", stories("en", "xa"), UNITS).path
    before = set(tmp_path.iterdir())
    for inputs, message in [
        ([], "no corpora"),
        ([a, b], r"b: en has units other, .*; tokenise all alike"),
        ([a, a], "is in an earlier input too"),
        ([a, c], r"1 keys have documents that differ.*\n  'a': en 2, fr 3"),
        ([a, d], "language en: two documents have the key 'a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            merge_corpora(inputs, tmp_path / "m")
    assert set(tmp_path.iterdir()) == before


def test_describe_counts_the_documents_and_tokens(tmp_path):
    text = describe(small(tmp_path / "c"))
    lines = [line.split() for line in text.splitlines()]
    assert ["en", "4", "8", "20", "0.00", "1"] in lines
    assert ["document", "fr", "5", "5", "5", "5", "5"] in lines
    assert ["sentence", "en", "2", "2", "3", "3", "3"] in lines
    assert ["en", "+", "fr", "2", "en", "2,", "fr", "1"] in lines
    assert "shared" not in describe(write_corpus(tmp_path / "d", stories("en", "a"), UNITS))


def test_describe_counts_the_keys_that_all_languages_share(tmp_path):
    documents = [*stories("de", "abc"), *stories("en", "abcd"), *stories("fr", "bcde")]
    text = describe(write_corpus(tmp_path / "c", documents, UNITS))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[lines.index("languages shared keys left out of each") :] == [
        "languages shared keys left out of each",
        "de + en + fr 2 de 1, en 2, fr 2",
        "de + en 3 de 0, en 1",
        "de + fr 2 de 1, fr 2",
        "en + fr 3 en 1, fr 1",
    ]


def test_documents_module_hash_is_what_shards_use(tmp_path):
    corpus = small(tmp_path / "c")
    expected = [documents_module.key_hash(key) for key in "abcd"]
    assert corpus.shards["en"][0].key_hash.tolist() == expected
