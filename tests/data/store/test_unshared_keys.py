"""Languages that share no keys, or nearly none, are a warning that shows near misses."""

import pytest

from tests.support.corpora.tiny import UNITS, small, story
from tresse.data.prepare import main
from tresse.data.store.corpus_writer import merge_corpora, write_corpus


def corpus(out, **keys: list[str]):
    """A corpus with these keys in each language."""
    documents = [story(key, language) for language, own in keys.items() for key in own]
    return write_corpus(out, documents, UNITS)


def test_the_most_similar_keys_are_shown(tmp_path, caplog):
    names = ["wolf", "farm", "plate"]
    corpus(tmp_path / "c", en=[f"En/{n}" for n in names], fr=[f"fr/{n}" for n in names[1:]])
    (record,) = caplog.records
    assert record.getMessage() == (
        "languages share hardly any keys; documents are translations of each other only if their "
        "keys are equal:\n  fr shares 0 of its 2 keys with en; the most similar are 'fr/plate' "
        "and 'En/plate', 'fr/farm' and 'En/farm'"
    )


def test_merging_warns_of_languages_that_come_together(tmp_path, caplog):
    parts = [corpus(tmp_path / "a", en=["0001"]).path, corpus(tmp_path / "b", fr=["1"]).path]
    assert not caplog.records
    merge_corpora(parts, tmp_path / "m")
    assert "'0001' and '1'" in caplog.text


@pytest.mark.parametrize(("num_shared", "num_lines"), [(6, 1), (7, 0)])
def test_less_than_one_percent_of_the_smaller_language_is_a_warning(
    num_shared, num_lines, tmp_path, caplog
):
    fr = [f"k{i}" for i in range(num_shared)] + [f"fr{i}" for i in range(700 - num_shared)]
    corpus(tmp_path / "c", en=[f"k{i}" for i in range(1200)], fr=fr)
    assert len(caplog.records) == num_lines
    if num_lines:
        assert f"fr shares {num_shared} of its 700 keys with en" in caplog.text
        assert "'fr6' and 'k6'" in caplog.text  # a shared key is no near miss


def test_each_pair_counts_by_itself_and_the_first_three_are_listed(tmp_path, caplog):
    corpus(tmp_path / "c", de=["x"], en=["x"], es=["1"], fr=["2"])
    assert [line[:16] for line in caplog.text.splitlines()[1:]] == [
        "  de shares 0 of", "  de shares 0 of", "  en shares 0 of", "  ... and 2 more",
    ]  # fmt: skip


def test_languages_that_share_keys_and_a_single_one_are_no_warning(tmp_path, caplog):
    small(tmp_path / "c")
    corpus(tmp_path / "d", en=["a"])
    assert not caplog.records


def test_preparing_says_it_on_the_command_line(tmp_path, caplog):
    (tmp_path / "m.jsonl").write_text(
        '{"key": "en_1", "lang": "en", "sentences": [[1]]}\n'
        '{"key": "fr_1", "lang": "fr", "sentences": [[1]]}\n'
    )
    assert main(["manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "c")]) == 0
    assert "'en_1' and 'fr_1'" in caplog.text
