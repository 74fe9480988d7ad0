"""A story world with text: the same words in speech and text, and questions about stories."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tresse.data.store.cloze import read_items
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.text_tokenizer import identify_text_tokenizer, load_text_tokenizer
from tresse.data.worlds.story_texts import answer_words
from tresse.data.worlds.story_world import generate, lexicon
from tresse.data.worlds.world import StoryWorld

WORLD = StoryWorld(
    text=True, aligned_documents=60, extra_documents=12, valid_documents=10, cloze_documents=60
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "story"
    generate(WORLD, out)
    return out


def test_speech_and_text_say_the_same_words(world: Path):
    corpus = verify_corpus(world / "train")
    assert corpus.languages == ("en", "en-text", "fr", "fr-text")
    assert [each.is_text for each in corpus.tokenizers] == [False, True]
    for language in WORLD.languages:
        numbers = {}
        for number, word in enumerate(lexicon(WORLD, language)[:-1].tolist()):
            numbers[tuple(unit for unit in word if unit >= 0)] = number
        spelled: dict[int, set[int]] = {}
        for spoken, written in corpus.aligned([language, f"{language}-text"]).tolist():
            words = corpus.words(language, spoken)
            assert words is not None
            for sentence, offsets, text in zip(
                corpus.document(language, spoken),
                words,
                corpus.document(f"{language}-text", written),
                strict=True,
            ):
                said = [tuple(word.tolist()) for word in np.split(sentence, offsets[1:])]
                assert len(said) == len(text)
                for word, token in zip(said, text.tolist(), strict=True):
                    spelled.setdefault(token, set()).add(numbers[word])
        assert all(
            len({word // WORLD.pronunciations for word in words}) == 1
            for token, words in spelled.items()
            if min(words) < WORLD.num_concepts * WORLD.pronunciations
        ), "pronunciations of a word are spelled alike"
    texts = [corpus.document(f"{name}-text", 0)[0].tolist() for name in WORLD.languages]
    assert not set(texts[0]) & set(texts[1])


def test_texts_can_be_read_and_their_tokenizer_encodes_them(world: Path):
    corpus = Corpus.open(world / "train")
    tokenizer = load_text_tokenizer(corpus.path / "tokenizer.json")
    ids = np.concatenate(corpus.document("fr-text", 7)).tolist()
    text = " ".join(tokenizer.id_to_token(i) for i in ids)
    assert tokenizer.encode(text).ids == ids
    assert corpus.tokenizer("fr-text") == identify_text_tokenizer(corpus.path / "tokenizer.json")


def test_answers_name_the_topic_and_no_story_does(world: Path):
    dialogues = Corpus.open(world / "dialogues")
    assert dialogues.languages == (
        "en-answer",
        "en-answer-text",
        "en-question",
        "en-question-text",
    )
    names = set()
    for number in range(WORLD.aligned_documents):
        (answer,) = dialogues.document("en-answer-text", number)
        topic = number % WORLD.num_topics
        names.add(int(answer[0]))
        assert answer[1:].tolist() == [topic * WORLD.concepts_per_topic + i for i in range(3)]
        (question,) = dialogues.document("en-question-text", number)
        assert not names & set(question.tolist())
    assert len(names) == WORLD.num_topics
    assert len(answer_words(WORLD, 0)) == 4


def test_each_answer_is_wrong_as_often_as_it_is_right(world: Path):
    items = [item for item in read_items(world / "cloze" / "items.jsonl") if item.task == "QA"]
    assert len(items) == WORLD.cloze_documents
    right = Counter(item.correct for item in items)
    assert right == Counter(item.incorrect for item in items)
    corpus = verify_corpus(world / "cloze")
    assert {item.task for item in read_items(world / "cloze" / "items.jsonl")} == {"sTC", "QA"}
    assert corpus.languages == ("en", "en-text", "fr", "fr-text")
