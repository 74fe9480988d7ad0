"""Exported units, read back, make the same corpus, byte for byte."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.corpora.tiny import UNITS, contents, small, stories
from tests.support.foreign.units import units_of
from tests.support.processes import run
from tresse.data.formats.commands import Output
from tresse.data.formats.export import export_manifest, export_slamkit, read_back
from tresse.data.naming import normal_key
from tresse.data.prepare import main, prepare_manifest
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

READ_BACK = r"(?s)(?P<lang>[^/]+)/(?P<key>.*)"


def import_slamkit(path: Path, out: Path) -> Corpus:
    flags = ["--key-pattern", READ_BACK, "--vocab-size", "2048", "--frame-rate", "25/2"]
    command = ["slamkit", str(path), "--out", str(out), *flags, "--tokenizer-name", "units"]
    assert main(command) == 0
    return Corpus.open(out)


def any_corpora(exclude: str = "") -> st.SearchStrategy[dict]:
    """Draw language -> key -> lengths of the words of each sentence.

    exclude: characters that keys do not have.
    """
    words = st.lists(st.integers(1, 4), min_size=1, max_size=3)
    characters = st.characters(exclude_categories=["Cs"], exclude_characters=exclude)
    keys = st.text(characters, max_size=6).map(normal_key)
    documents = st.dictionaries(keys, st.lists(words, min_size=2, max_size=2), min_size=1)
    return st.dictionaries(st.sampled_from(["de", "en", "fr"]), documents, min_size=1)


def build(content: dict, with_words: bool) -> list[Document]:
    documents = []
    for language, own in content.items():
        for key, sentences in own.items():
            units = [[(7 * i + sum(w)) % 2048 for i in range(sum(w))] for w in sentences]
            starts = [[sum(w[:i]) for i in range(len(w))] for w in sentences]
            documents.append(Document(key, language, units, starts if with_words else None))
    return documents


def test_our_manifest_gives_the_same_corpus_back(tmp_path_factory):
    @settings(max_examples=25, deadline=None)
    @given(any_corpora(), st.booleans())
    def check(content: dict, with_words: bool) -> None:
        folder = tmp_path_factory.mktemp("e")
        corpus = write_corpus(folder / "a", build(content, with_words), UNITS)
        export_manifest(corpus, folder / "m.jsonl")
        again = prepare_manifest((folder / "m.jsonl",), output=Output(out=folder / "b"))
        assert again.id == corpus.id

    check()


def test_slamkits_tokens_give_the_same_corpus_back(tmp_path_factory):
    @settings(max_examples=25, deadline=None)
    @given(any_corpora(exclude="\\"))
    def check(content: dict) -> None:
        folder = tmp_path_factory.mktemp("e")
        corpus = write_corpus(folder / "a", build(content, False), UNITS)
        export_slamkit(corpus, folder / "t.jsonl")
        assert import_slamkit(folder / "t.jsonl", folder / "b").id == corpus.id

    check()


def test_a_key_that_slamkits_names_cannot_hold_is_refused(tmp_path):
    corpus = write_corpus(tmp_path / "a", build({"en": {"a\\b": [[2]]}}, False), UNITS)
    with pytest.raises(ValueError, match=r"key 'a\\\\b' \(en\) has a backslash.*--format jsonl"):
        export_slamkit(corpus, tmp_path / "t.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_slamkit_finds_its_own_fields_and_its_own_spelling(tmp_path):
    corpus = small(tmp_path / "c")
    export_slamkit(corpus, tmp_path / "t.jsonl", ["fr"])
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["fr/d", "fr/b", "fr/e"]
    for row, (units,) in zip(rows, [[[ord(k)] * 5] for k in "dbe"], strict=True):
        # unit_tokeniser.py: "<Un{u}>" of each, and re.search(r"<Un(\d+)>") back
        assert row["audio_repr"] == "".join(f"<Un{u}>" for u in units)
        assert [int(u) for u in re.findall(r"<Un(\d+)>", row["audio_repr"])] == units
    assert units_of(tmp_path / "t.jsonl", expand=False) == [[ord(k)] * 5 for k in "dbe"]


def test_the_verb_writes_a_whole_file_or_none(tmp_path):
    corpus = small(tmp_path / "c")
    done = run(
        sys.executable,
        "-m",
        "tresse.engine.commands",
        "export-units",
        str(corpus.path),
        "--out",
        str(tmp_path / "new" / "m.jsonl"),
    )
    assert "wrote" in done.stdout
    again = prepare_manifest((tmp_path / "new" / "m.jsonl",), output=Output(out=tmp_path / "d"))
    assert contents(again) == contents(corpus)
    with pytest.raises(ValueError, match=r"m\.jsonl exists; choose another file"):
        export_manifest(corpus, tmp_path / "new" / "m.jsonl")
    with pytest.raises(ValueError, match="no language 'de'; it has en, fr"):
        export_manifest(corpus, tmp_path / "other.jsonl", ["en", "de"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d", "new"]


@pytest.mark.parametrize("format", ["jsonl", "slamkit"])
def test_the_command_that_is_printed_reads_the_file_back(tmp_path, capsys, format):
    tokenizer = Tokenizer("own", "00ff", "50", 3000)
    corpus = write_corpus(tmp_path / "c", build({"en": {"a b": [[2], [3]]}}, False), tokenizer)
    command = ["export-units", str(corpus.path), "--out", str(tmp_path / "u"), "--format", format]
    said, printed = run(
        sys.executable, "-m", "tresse.engine.commands", *command
    ).stdout.splitlines()
    assert said == f"wrote {tmp_path / 'u'}; to read its documents back to the same corpus id:"
    words = shlex.split(printed.replace("CORPUS", str(tmp_path / "d")))
    assert words[:2] == ["tresse", "prepare"]
    assert main(words[2:]) == 0, capsys.readouterr().err
    assert Corpus.open(tmp_path / "d").id == corpus.id


def words_of(printed: str, out: Path) -> list[str]:
    """The arguments of the command in the last line, which writes to `out`."""
    return shlex.split(printed.splitlines()[-1].replace("CORPUS", str(out)))[2:]


def test_a_merged_corpus_is_read_back_to_the_same_documents_under_another_id(tmp_path):
    parts = [write_corpus(tmp_path / k, stories("en", k) + stories("fr", k), UNITS) for k in "ab"]
    merged = merge_corpora([part.path for part in parts], tmp_path / "m")
    export_manifest(merged, tmp_path / "m.jsonl")
    said = read_back(merged, tmp_path / "m.jsonl", "jsonl")
    assert said.startswith("to read its documents back; their corpus may have another id: it has")
    assert main(words_of(said, tmp_path / "c")) == 0
    again = Corpus.open(tmp_path / "c")
    assert contents(again) == contents(merged)
    assert again.id != merged.id


def test_a_merge_of_languages_keeps_the_id(tmp_path):
    parts = [write_corpus(tmp_path / k, stories(k, "ab"), UNITS).path for k in ("en", "fr")]
    merged = merge_corpora(parts, tmp_path / "m")
    export_manifest(merged, tmp_path / "m.jsonl")
    said = read_back(merged, tmp_path / "m.jsonl", "jsonl")
    assert "to the same corpus id" in said
    assert main(words_of(said, tmp_path / "c")) == 0
    assert Corpus.open(tmp_path / "c").id == merged.id


def test_what_an_export_leaves_out_is_said(tmp_path):
    corpus = write_corpus(
        tmp_path / "c", build({"en": {"a": [[2]]}, "fr": {"a": [[1]]}}, True), UNITS
    )
    for format, languages, reason in [
        ("jsonl", ["en"], "another id: fr is left out:"),
        ("slamkit", [], "another id: SlamKit's file does not hold its words:"),
        ("jsonl", ["fr", "en"], "to the same corpus id:"),
    ]:
        said = read_back(corpus, tmp_path / "u", format, languages)
        assert said.splitlines()[0].endswith(reason)
