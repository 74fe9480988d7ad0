"""The tables, the plot and the documents of `tresse inspect`; merging with `--skip-misaligned`."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.corpora.sparse import poke
from tests.support.corpora.tiny import UNITS, contents, small, stories, story
from tests.support.processes import run
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.inspection import (
    count_units,
    describe_usage,
    entropy_bits,
    plot_corpus,
    show_document,
)
from tresse.data.store.tokenizer import Tokenizer

CLI = [sys.executable, "-m", "tresse.engine.commands"]


def test_units_are_counted_over_shards_and_languages(tmp_path):
    parts = [write_corpus(tmp_path / key, stories("en", key), UNITS).path for key in "ab"]
    parts.append(write_corpus(tmp_path / "f", stories("fr", "b"), UNITS).path)
    counts = count_units(merge_corpora(parts, tmp_path / "c"))
    expected = np.zeros(2048, np.int64)
    expected[[ord("a"), ord("b")]] = 5
    assert np.array_equal(counts["en"], expected)
    assert counts["fr"].nonzero()[0].tolist() == [ord("b")]


def test_entropy_is_that_of_the_definition(tmp_path):
    assert entropy_bits(np.array([3, 3, 3, 3, 0])) == 2
    assert entropy_bits(np.array([0, 9])) == 0
    p = np.array([0.5, 0.25, 0.125, 0.125])
    assert entropy_bits((p * 64).astype(int)) == pytest.approx(1.75)
    corpus = write_corpus(tmp_path / "c", stories("en", "abcd"), UNITS)
    text = describe_usage(count_units(corpus))
    assert text.splitlines()[1].split() == ["en", "4", "2,044", "2.00", "4.0", "97", "(25.0%)"]


def test_a_unit_beyond_the_vocabulary_is_named_instead_of_counted(tmp_path):
    corpus = small(tmp_path / "c")
    poke(corpus.shards["fr"][0].path, 3, [60_000])
    with pytest.raises(ValueError, match=r"token 60000 is outside .* tresse verify says where"):
        count_units(Corpus.open(corpus.path))
    large = Tokenizer("units", "", "25", 1 << 32)
    with pytest.raises(ValueError, match="counted in vocabularies of at most 16777216"):
        count_units(write_corpus(tmp_path / "l", stories("en", "a"), large))


def test_a_document_is_shown_side_by_side_in_its_languages(tmp_path):
    documents = [
        Document("a", "en", [[1, 2, 3], [400, 500, 600, 700]], [[0, 2], [0]]),
        Document("a", "fr", [list(range(1000, 1006)), [7]], [[0], [0]]),
        Document("b", "de", [[1]]),
    ]
    text = show_document(write_corpus(tmp_path / "c", documents, UNITS), "a", 50)
    assert text.splitlines() == [
        "document 'a'",
        "not in de",
        "",
        "en 0: 3 units, 2 words    fr 0: 6 units, 1 words",
        "1 2 | 3                   1000 1001 1002 1003 1004",
        "                          1005",
        "",
        "en 1: 4 units, 1 words    fr 1: 1 units, 1 words",
        "400 500 600 700           7",
    ]


def test_a_document_of_one_language_and_one_that_is_not_there(tmp_path):
    corpus = small(tmp_path / "c")
    assert "not in fr" in show_document(corpus, "a", 80)
    message = "no document has the key 'z'; the first keys of its languages are 'a', 'd'"
    with pytest.raises(ValueError, match=message):
        show_document(corpus, "z", 80)


def test_the_plot_is_a_png_and_is_never_written_over(tmp_path):
    corpus = small(tmp_path / "c")
    plot_corpus(corpus, count_units(corpus), tmp_path / "new" / "p.png")
    content = (tmp_path / "new" / "p.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000
    with pytest.raises(ValueError, match=r"p\.png exists; choose another file"):
        plot_corpus(corpus, count_units(corpus), tmp_path / "new" / "p.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.png"]


def test_a_document_has_no_plot(tmp_path):
    corpus = small(tmp_path / "c")
    plot = tmp_path / "p.png"
    done = run(
        *CLI, "inspect", str(corpus.path), "--document", "a", "--plot", str(plot), check=False
    )
    assert done.returncode == 1
    assert "--document shows one document" in done.stderr
    assert not plot.exists()


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'tresse\[plot\]'"):
        plot_corpus(small(tmp_path / "c"), {}, tmp_path / "p.png")


def test_the_verb_prints_all_of_it(tmp_path):
    corpus = small(tmp_path / "c")
    done = run(*CLI, "inspect", str(corpus.path), "--plot", str(tmp_path / "p.png"))
    assert corpus.id in done.stdout
    assert "perplexity" in done.stdout
    assert (tmp_path / "p.png").exists()
    done = run(*CLI, "inspect", str(corpus.path), "--document", "b")
    assert "en 0: 2 units" in done.stdout
    done = run(*CLI, "inspect", str(corpus.path), "--document", "z", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def misaligned_parts(folder: Path) -> list[Path]:
    """Documents b and c of fr do not match those of en; en has words in one part only."""
    words = Document("d", "en", [[1, 2], [3]], [[0, 1], [0]])
    parts = [
        [*stories("en", "abc")],
        [words, *stories("fr", "d")],
        [story("b", "fr", (1,)), story("c", "fr", (1, 2, 3)), *stories("fr", "a")],
        [story("b", "de"), story("c", "de", (4,))],
    ]
    return [
        write_corpus(folder / f"part{i}", documents, UNITS).path
        for i, documents in enumerate(parts)
    ]


def test_merging_refuses_what_does_not_match_or_leaves_it_out(tmp_path, caplog):
    parts = misaligned_parts(tmp_path)
    with pytest.raises(ValueError, match=r"2 keys have .*\(--skip-misaligned\)"):
        merge_corpora(parts, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    merged = merge_corpora(parts, tmp_path / "c", skip_misaligned=True)
    assert "left out 2 keys" in caplog.text
    assert set(contents(merged)) == {("en", "a"), ("en", "d"), ("fr", "a"), ("fr", "d")}
    assert merged.words("en", merged.find("en", "d")) == [[0, 1], [0]]
    verify_corpus(merged.path)
    whole = Corpus.open(parts[1]).shards["en"][0].path
    assert (merged.path / whole.name).samefile(whole)  # nothing of it was left out
    for part in parts:
        verify_corpus(part)  # an input is never changed


def test_a_merge_of_what_matches_is_the_same_with_and_without_skipping(tmp_path):
    parts = [write_corpus(tmp_path / k, stories("en", k), UNITS).path for k in "ab"]
    plain = merge_corpora(parts, tmp_path / "c")
    assert merge_corpora(parts, tmp_path / "d", skip_misaligned=True).id == plain.id


def test_more_shards_are_merged_than_a_process_may_have_open_files(tmp_path):
    parts = [
        str(write_corpus(tmp_path / f"{i}", [story(f"{i}", "en"), story(f"{i}", "fr")], UNITS).path)
        for i in range(60)
    ]
    few = ["bash", "-c", 'ulimit -n 48; exec "$@"', "bash", *CLI]
    done = run(*few, "merge", *parts, "--out", str(tmp_path / "c"))
    assert re.search(r"^en \+ fr +60 ", done.stdout, re.MULTILINE)
    assert "undamaged" in run(*few, "verify", str(tmp_path / "c")).stdout


def test_the_verb_merges_with_the_flag(tmp_path):
    parts = [str(part) for part in misaligned_parts(tmp_path)]
    done = run(*CLI, "merge", *parts, "--out", str(tmp_path / "c"), check=False)
    assert done.returncode == 1
    done = run(*CLI, "merge", *parts, "--out", str(tmp_path / "c"), "--skip-misaligned")
    assert "left out 2 keys" in done.stderr
    assert "en + fr" in done.stdout
