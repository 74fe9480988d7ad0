"""From StoryCloze's CSV to spoken questions in two languages."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.story_cloze import STORIES, WRONG, story_cloze_lines, write_story_cloze
from tresse.data.left_out import LeftOut
from tresse.data.prepare import main
from tresse.data.store.cloze import Item, read_items
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.texts.cloze_texts import draw_lenders, write_cloze_texts
from tresse.data.texts.story_files import read_stories
from tresse.data.texts.texts import Text, read_texts

OWN = "tests.support.own_translator:translate"
LOUDNESS = "tests.support.workers.slow_tokenizer:build"


def run(*command: str | Path) -> None:
    """Run a command of prepare.py that must succeed."""
    assert main([*map(str, command)]) == 0


def units(corpus: Corpus, language: str, key: str) -> list[list[int]]:
    """Return the sentences of a document."""
    document = corpus.document(language, corpus.find(language, key))
    return [sentence.tolist() for sentence in document]


@pytest.mark.slow
def test_a_csv_becomes_spoken_questions_in_two_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ttspico")
    monkeypatch.chdir(tmp_path)
    write_story_cloze(tmp_path / "cloze_test.csv", story_cloze_lines())
    run(
        "translate",
        "cloze_test.csv",
        "--from",
        "en",
        "--to",
        "fr",
        "--translator",
        OWN,
        "--out",
        "t",
    )
    run("cloze-texts", "t/en.jsonl", "t/fr.jsonl", "--out", "cloze")
    voice = ("--pitch", "100", "100", "--rate", "120", "120")
    run("pico", "cloze/texts.jsonl", "--out", "spoken", *voice)
    run("audio", "spoken/recordings.jsonl", "--tokenizer", LOUDNESS, "--out", "corpus")
    run("eval-items", "cloze", "sSC", "sTC", "--corpus", "corpus")

    corpus, items = verify_corpus(tmp_path / "corpus"), list(read_items(Path("corpus/items.jsonl")))
    assert [(item.task, item.id) for item in items] == [
        (task, story) for task in ("sSC", "sTC") for story in sorted(STORIES)
    ]
    assert items[3] == Item(
        task="sTC",
        id="0c11",
        prompt="sTC/0c11_mutual",
        correct="sTC/0c11_correct",
        incorrect="sTC/0c11_incorrect",
        languages=("en", "fr"),
    )
    texts = {(text.key, text.language): text for text in read_texts(["cloze/texts.jsonl"])}
    for language in ("en", "fr"):
        right = {
            text.sentences: key
            for (key, lang), text in texts.items()
            if lang == language and key.startswith("sTC") and key.endswith("_correct")
        }
        for item in items[3:]:
            assert item.prompt is not None
            assert len(units(corpus, language, item.prompt)) == 4
            # The wrong ending is the right one of another story, in the same voice.
            lender = right[texts[item.incorrect, language].sentences]
            assert lender != item.correct
            assert units(corpus, language, item.incorrect) == units(corpus, language, lender)


def texts_of(tmp_path: Path, *languages: str) -> list[Text]:
    """Return the stories of the CSV, once for each language."""
    path = write_story_cloze(tmp_path / "s.csv", story_cloze_lines())
    return [text for lang in languages for text in read_stories([path], lang, LeftOut())]


def test_a_story_has_its_right_ending_before_the_wrong_one(tmp_path: Path) -> None:
    texts = texts_of(tmp_path, "en")
    assert [text.key for text in texts] == list(STORIES)
    for text, story in zip(texts, STORIES.values(), strict=True):
        assert text.sentences == (*(f"{sentence}." for sentence in story), WRONG)


def test_both_sets_have_all_stories_in_all_languages(tmp_path: Path) -> None:
    texts = texts_of(tmp_path, "fr", "en")
    assert write_cloze_texts(texts, tmp_path / "out", 0, LeftOut()) == (3, ["en", "fr"])
    found = read_texts([tmp_path / "out" / "texts.jsonl"])
    assert len(found) == 2 * 2 * 3 * 3
    own = {(text.key, text.language): text.sentences for text in found}
    assert own["sSC/7d2a_x_mutual", "fr"] == tuple(f"{each}." for each in STORIES["7d2a_x"][:4])
    assert own["sSC/7d2a_x_incorrect", "en"] == (WRONG,)
    for language in ("en", "fr"):
        right = [own[f"sTC/{story}_correct", language] for story in STORIES]
        wrong = [own[f"sTC/{story}_incorrect", language] for story in STORIES]
        assert sorted(right) == sorted(wrong)
        assert not any(a == b for a, b in zip(right, wrong, strict=True))


def test_a_story_without_a_translation_is_left_out_of_all_languages(tmp_path: Path) -> None:
    *kept, gone = texts_of(tmp_path, "en", "fr")
    with pytest.raises(ValueError, match=r"story '0c11' is not in fr"):
        write_cloze_texts(kept, tmp_path / "out", 0, LeftOut())
    assert write_cloze_texts(kept, tmp_path / "out", 0, LeftOut("skip"))[0] == 2
    keys = {text.key for text in read_texts([tmp_path / "out" / "texts.jsonl"])}
    assert not any("0c11" in key for key in keys)
    fault = json.loads((tmp_path / "out" / "skipped.jsonl").read_text())
    assert (fault["key"], fault["lang"]) == (gone.key, "fr")


def test_each_ending_is_lent_once_to_a_story_that_ends_otherwise() -> None:
    endings = [[f"{i % 40}", f"{i}"] for i in range(200)]
    lenders = draw_lenders(endings, seed=3)
    assert sorted(lenders.tolist()) == list(range(200))
    assert all(i % 40 != j % 40 for i, j in enumerate(lenders.tolist()))
    assert np.array_equal(lenders, draw_lenders(endings, seed=3))
    assert not np.array_equal(lenders, draw_lenders(endings, seed=4))
    for few in ([["a"]], [["a"], ["a"], ["b"]]):
        with pytest.raises(ValueError, match="are too few to lend each other endings that differ"):
            draw_lenders(few, seed=0)


def test_other_texts_than_stories_of_six_sentences_are_refused(tmp_path: Path) -> None:
    text = Text("1", "en", ("One.", "Two."), "t:1")
    with pytest.raises(ValueError, match="t:1: en/1 has 2 sentences, expected 6: four, the right"):
        write_cloze_texts([text], tmp_path / "out", 0, LeftOut("skip"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"AnswerRightEnding": "3"}, r"s\.csv:3: AnswerRightEnding is '3', expected 1 or 2"),
        ({"InputSentence2": "..."}, r"s\.csv:3: sentence 1 is '\.\.\.', expected words"),
        ({"InputStoryid": ""}, r"s\.csv:3: InputStoryid is empty"),
        ({"InputStoryid": "0c11"}, r"s\.csv:4: key '0c11' is in en already"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(
    change: dict[str, str], fault: str, tmp_path: Path
) -> None:
    first, second, third = story_cloze_lines()
    path = write_story_cloze(tmp_path / "s.csv", [first, second | change, third])
    with pytest.raises(ValueError, match=fault):
        list(read_stories([path], "en", LeftOut()))


def test_another_csv_is_refused_with_the_columns_that_it_lacks(tmp_path: Path) -> None:
    path = write_story_cloze(tmp_path / "s.csv", story_cloze_lines())
    path.write_bytes(path.read_bytes().replace(b"AnswerRightEnding", b"Answer"))
    with pytest.raises(ValueError, match=r"s\.csv: no column AnswerRightEnding; expected StoryCl"):
        list(read_stories([path], "en", LeftOut("skip")))
    path.write_bytes(path.read_bytes().replace(b"Answer", b"AnswerRightEnding") + b"\xff\n")
    with pytest.raises(ValueError, match=r"s\.csv:\d: not CSV in UTF-8"):
        list(read_stories([path], "en", LeftOut("skip")))
