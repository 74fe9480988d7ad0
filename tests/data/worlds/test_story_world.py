"""The story world is as its docstring says, and a cloze item needs its prompt."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tresse.data.store.cloze import read_items
from tresse.data.store.corpus import Corpus
from tresse.data.worlds.endings import partners
from tresse.data.worlds.story_world import (
    Stories,
    StoryWorld,
    documents,
    draw_stories,
    generate,
    lexicon,
)

WORLD = StoryWorld(
    aligned_documents=300, extra_documents=200, valid_documents=50, cloze_documents=600
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "story"
    generate(WORLD, out)
    return out


@pytest.fixture(scope="module")
def cloze() -> tuple[Stories, np.ndarray, np.ndarray]:
    """Many stories that no corpus holds, and the lenders of their endings."""
    stories = draw_stories(WORLD, 4020)
    return stories, *partners(stories.topics, stories.places)


def contents(folder: Path) -> dict[Path, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder): file.read_bytes() for file in files}


def tokens(out: Path) -> list[int]:
    return Corpus.open(out / "train").shards["en"][0].tokens.tolist()


def accuracy(correct: np.ndarray, incorrect: np.ndarray) -> float:
    return float(((correct > incorrect) + 0.5 * (correct == incorrect)).mean())


def test_the_seed_decides_every_byte(corpora: Path, tmp_path: Path):
    generate(WORLD, tmp_path / "again")
    generate(dataclasses.replace(WORLD, seed=1), tmp_path / "other")
    assert contents(tmp_path / "again") == contents(corpora)
    assert tokens(tmp_path / "again") == tokens(corpora) != tokens(tmp_path / "other")


def test_the_corpora_have_the_documents_that_were_asked_for(corpora: Path):
    sizes = {name: Corpus.open(corpora / name) for name in ("train", "valid", "cloze")}
    assert {name: [c.num_documents(x) for x in ("en", "fr")] for name, c in sizes.items()} == {
        "train": [500, 300],
        "valid": [50, 50],
        "cloze": [1200, 1200],  # each a prompt and an ending
    }
    assert len(sizes["train"].aligned(["en", "fr"])) == 300
    assert sizes["train"].num_sentences("fr") == 300 * WORLD.sentences_per_story
    assert len(list(read_items(corpora / "cloze" / "items.jsonl"))) == 2 * WORLD.cloze_documents


def test_languages_share_keys_and_sentence_counts_but_no_unit(corpora: Path):
    for name in ("train", "valid", "cloze"):
        corpus = Corpus.open(corpora / name)
        for en, fr in corpus.aligned(["en", "fr"]).tolist():
            assert corpus.key("en", en) == corpus.key("fr", fr)
            assert len(corpus.document("en", en)) == len(corpus.document("fr", fr))
        units = [{*np.concatenate([s.tokens for s in own])} for own in corpus.shards.values()]
        assert not units[0] & units[1]
        assert max(units[0] | units[1]) < WORLD.vocab_size


def tell(world: StoryWorld, concepts: np.ndarray, language: str, kind: str) -> list:
    """Return the sentences of stories."""
    stories = Stories(concepts, *np.zeros((2, len(concepts)), int))
    return [d.sentences for d in documents(world, stories, slice(None), kind, (language,))]


def test_an_aligned_sentence_says_the_same_concepts_in_every_language():
    world = dataclasses.replace(WORLD, fillers=0.0, units_per_word=(2, 2))
    concepts = draw_stories(world, 50).concepts
    for language in world.languages:
        words = {tuple(word): i for i, word in enumerate(lexicon(world, language)[:-1])}
        assert len(words) == world.num_concepts * world.pronunciations + world.num_fillers
        for story, sentences in zip(concepts, tell(world, concepts, language, "x"), strict=True):
            said = [[words[tuple(w)] for w in s.reshape(-1, 2).tolist()] for s in sentences]
            assert [[w // world.pronunciations for w in s] for s in said] == story.tolist()


def test_the_words_of_two_languages_have_nothing_in_common():
    en, fr = (lexicon(WORLD, language)[:-1] for language in WORLD.languages)
    shifted = np.where(fr < 0, fr, fr - WORLD.units_per_language)
    assert (en[:, :2] == shifted[:, :2]).mean() < 0.05  # chance is one in 120
    assert np.corrcoef((en >= 0).sum(1), (fr >= 0).sum(1))[0, 1] < 0.5


def test_a_story_without_noise_follows_the_order_of_its_topic():
    world = dataclasses.replace(WORLD, noise=0.0, skip=0.0, sentences_per_story=2)
    stories = draw_stories(world, 48)
    assert (stories.concepts // world.concepts_per_topic == stories.topics[:, None, None]).all()
    places = stories.concepts.reshape(48, -1) % world.concepts_per_topic
    assert (np.diff(places, axis=1) % world.concepts_per_topic == 1).all()
    assert (stories.concepts[:, -1, 0] % world.concepts_per_topic == stories.places).all()


def test_a_third_language_has_its_documents_too(tmp_path: Path):
    generate(dataclasses.replace(WORLD, languages=("en", "fr", "br")), tmp_path / "three")
    corpus = Corpus.open(tmp_path / "three" / "train")
    assert corpus.languages == ("br", "en", "fr")
    assert len(corpus.aligned(corpus.languages)) == WORLD.aligned_documents


def test_no_story_is_told_twice(corpora: Path):
    """Compare concepts: the same story may have different units when it is told twice."""
    concepts = draw_stories(WORLD, 300 + 200 + 50 + 600).concepts
    assert len(np.unique(concepts.reshape(len(concepts), -1), axis=0)) == len(concepts)
    opened = [Corpus.open(corpora / name) for name in ("train", "valid", "cloze")]
    keys = [c.key("en", i) for c in opened for i in range(c.num_documents("en"))]
    assert len(set(keys)) == len(keys)


def test_a_world_too_small_for_its_stories_is_an_error():
    small = dict(num_topics=2, concepts_per_topic=4, noise=0.0, skip=0.0)
    with pytest.raises(ValueError, match="has fewer than 600 different stories"):
        draw_stories(dataclasses.replace(WORLD, **small), 600)


def test_too_few_stories_to_borrow_wrong_endings_from_are_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="cloze_documents=6: too few stories"):
        generate(dataclasses.replace(WORLD, cloze_documents=6), tmp_path / "few")
    assert not list(tmp_path.iterdir())


def test_wrong_endings_are_of_the_right_topic_at_the_wrong_time_or_of_another_topic(cloze):
    stories, same, other = cloze
    apart = (stories.places - stories.places[same]) % WORLD.concepts_per_topic
    assert (stories.topics == stories.topics[same]).all()
    pairs = np.zeros((WORLD.num_topics, WORLD.num_topics), dtype=int)
    np.add.at(pairs, (stories.topics, stories.topics[other]), 1)
    others = pairs[~np.eye(len(pairs), dtype=bool)]
    assert (others == 4020 / 6 / 5).all()  # all other topics equally often
    assert (pairs.diagonal() == 0).all()
    assert np.minimum(apart, WORLD.concepts_per_topic - apart).min() >= 2


def test_every_ending_is_the_wrong_one_once(cloze):
    for lender in cloze[1:]:
        assert np.array_equal(np.sort(lender), np.arange(len(lender)))


def test_items_name_the_partners_endings(corpora: Path):
    stories = draw_stories(WORLD, 300 + 200 + 50 + 600)
    lenders = partners(stories.topics[-600:], stories.places[-600:])
    for item in read_items(corpora / "cloze" / "items.jsonl"):
        other = lenders[["sSC", "sTC"].index(item.task)][int(item.id)]
        assert item.prompt == f"cloze/{item.id}/prompt"
        assert item.correct == f"cloze/{item.id}/ending"
        assert item.incorrect == f"cloze/{other:06d}/ending"
    corpus = Corpus.open(corpora / "cloze")
    prompt, ending = (corpus.find("fr", f"cloze/000007/{half}") for half in ("prompt", "ending"))
    told = [*corpus.document("fr", prompt), *corpus.document("fr", ending)]
    expected = list(tell(WORLD, stories.concepts[-600:], "fr", "cloze"))[7]
    assert all(map(np.array_equal, told, expected))
    assert len(told) == WORLD.sentences_per_story


@pytest.mark.parametrize("task", [1, 2], ids=["sSC", "sTC"])
@pytest.mark.parametrize("language", WORLD.languages)
def test_an_ngram_model_of_the_ending_alone_is_at_chance(corpora: Path, cloze, task, language):
    corpus = Corpus.open(corpora / "train")
    size = WORLD.vocab_size
    counts = np.full((size, size), 0.1)
    for i in range(corpus.num_documents(language)):
        for sentence in corpus.document(language, i):
            np.add.at(counts, (sentence[:-1], sentence[1:]), 1)
    bigram, unigram = np.log(counts / counts.sum(1, keepdims=True)), np.log(counts.sum(1))
    endings = [story[-1] for story in tell(WORLD, cloze[0].concepts, language, "x")]
    scores = {
        "length": np.array([float(len(e)) for e in endings]),
        "sum": np.array([unigram[e[0]] + bigram[e[:-1], e[1:]].sum() for e in endings]),
    }
    scores["mean"] = scores["sum"] / scores["length"]
    for name, score in scores.items():
        found = accuracy(score, score[cloze[task]])
        assert found == pytest.approx(0.5, abs=0.032), name  # 4 standard errors


def test_exact_knowledge_of_the_world_answers_and_ssc_is_the_harder_task(cloze):
    """The ceiling is the exact probability of an ending's concepts after those of the prompt."""
    stories, same, other = cloze
    right = ending_log_likelihood(WORLD, stories, np.arange(len(stories.topics)))
    ssc, stc = (
        accuracy(right, ending_log_likelihood(WORLD, stories, lender)) for lender in (same, other)
    )
    assert 0.75 < ssc < 0.95
    assert stc > 0.95


def ending_log_likelihood(world: StoryWorld, stories: Stories, lender: np.ndarray) -> np.ndarray:
    """Return the log-probability of the lender's ending after the prompt (forward algorithm).

    The state is the concept that the story has reached.
    """
    n, size = len(lender), world.concepts_per_topic
    step = np.zeros((world.num_concepts, world.num_concepts))
    for skipped in range(200):
        probability = (1 - world.skip) * world.skip**skipped
        for concept in range(world.num_concepts):
            first = concept - concept % size
            step[concept, first + (concept + 1 + skipped) % size] += probability
    state = np.full((n, world.num_concepts), 1 / world.num_concepts)
    total = np.zeros(n)
    prompt, ending = stories.concepts[:, :-1].reshape(n, -1), stories.concepts[lender, -1]
    for position, words in enumerate(np.concatenate([prompt, ending], axis=1).T):
        said = np.full(state.shape, world.noise / world.num_concepts)
        said[np.arange(n), words] += 1 - world.noise
        state = state @ step * said
        evidence = state.sum(1, keepdims=True)
        state /= evidence
        if position >= prompt.shape[1]:
            total += np.log(evidence[:, 0])
    return total


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("units_per_language", 1024),
        ("languages", ("en", "en")),
        ("units_per_word", (3, 2)),
        ("noise", 1.0),
        ("num_topics", 1),
        ("cloze_documents", 601),
    ],
)
def test_a_wrong_field_is_an_error_that_names_it(field: str, value: object):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(WORLD, **{field: value})
