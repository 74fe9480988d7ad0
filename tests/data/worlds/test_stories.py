"""Stories of the speech demo are translations, and their endings alone give no hint."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tresse.data.store.cloze import read_items
from tresse.data.texts.texts import Text, read_texts
from tresse.data.worlds.grammar import ADJECTIVES, ARTICLES, PLACES, tell
from tresse.data.worlds.stories import StorySizes, draw, sentences, write_stories

SIZES = StorySizes(train=30, extra=10, valid=6, cloze=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that `stories` writes."""
    out = tmp_path_factory.mktemp("stories") / "texts"
    write_stories(out, SIZES)
    return out


def place_and_event(text: Text) -> tuple[int, int]:
    """Return the place and the event of an English ending, by its noun."""
    words = text.sentences[-1].rstrip(".")
    found = [
        (place, event)
        for place, each in enumerate(PLACES)
        for event, told in enumerate(each.events)
        if words.endswith(told.noun[0])
    ]
    (only,) = found
    return only


def test_the_same_sizes_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_stories(tmp_path / "again", SIZES)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_each_part_has_its_stories_in_its_languages(folder: Path) -> None:
    for name, counts in {
        "train": {"en": 40, "fr": 30},
        "valid": {"en": 6, "fr": 6},
        "cloze": {"en": 120, "fr": 120},
    }.items():
        texts = read_texts([folder / f"{name}.jsonl"])
        assert Counter(text.language for text in texts) == counts


def test_no_story_is_told_twice() -> None:
    told = [tuple(sentences(story, "en")) for story in draw(StorySizes(events=2), 3000)]
    assert len(told) == len(set(told)) == 3000


def test_a_story_stays_at_its_place_and_moves_on() -> None:
    for story in draw(SIZES, 100):
        assert story.events[0] != story.events[1]
        english, french = sentences(story, "en"), sentences(story, "fr")
        assert len(english) == len(french) == 1 + SIZES.events
        for event, en, fr in zip(story.events, english[1:], french[1:], strict=True):
            assert PLACES[story.place].events[event].noun[0] in en
            assert PLACES[story.place].events[event].noun[1] in fr


def test_every_ending_is_right_once_and_wrong_once_in_each_task(folder: Path) -> None:
    items = list(read_items(folder / "items.jsonl"))
    assert Counter(item.task for item in items) == {"sSC": 60, "sTC": 60}
    for task in ("sSC", "sTC"):
        own = [item for item in items if item.task == task]
        endings = sorted(f"cloze/{i:06d}/ending" for i in range(60))
        assert sorted(item.correct for item in own) == endings
        assert sorted(item.incorrect for item in own) == endings


def test_wrong_endings_are_of_the_right_place_in_ssc_and_of_another_in_stc(folder: Path) -> None:
    texts = read_texts([folder / "cloze.jsonl"])
    english = {text.key: text for text in texts if text.language == "en"}
    for item in read_items(folder / "items.jsonl"):
        assert item.prompt is not None
        assert item.correct == item.prompt.replace("prompt", "ending")
        place, event = place_and_event(english[item.correct])
        assert place == place_and_event(english[item.prompt])[0]
        wrong_place, wrong_event = place_and_event(english[item.incorrect])
        if item.task == "sTC":
            assert wrong_place != place
        else:
            assert wrong_place == place
            assert wrong_event != event


def test_endings_do_not_say_who_it_is(folder: Path) -> None:
    for line in (folder / "cloze.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["key"].endswith("/ending"):
            (ending,) = record["sentences"]
            assert (" he " if record["lang"] == "en" else " il ") in ending


@pytest.mark.parametrize("language", [0, 1])
def test_nouns_are_told_apart_by_their_sentences(language: int) -> None:
    nouns = [event.noun[language] for place in PLACES for event in place.events]
    assert len(set(nouns)) == len(nouns)
    assert len({len(place.events) for place in PLACES}) == 1, "partners need rounds of one length"


def test_french_adjectives_and_articles_agree() -> None:
    fire, cows = PLACES[4].events[5], PLACES[0].events[0]
    assert tell(fire, 0, 0, "fr") == "Puis il allume le petit feu."
    assert tell(cows, 1, 1, "fr") == "Maintenant il nourrit les grandes vaches."
    assert tell(cows, 2, 2, "en") == "So he feeds the pretty cows."
    forms = {event.form for place in PLACES for event in place.events}
    assert forms == set(ARTICLES)
    assert all(set(french) == forms for _, french in ADJECTIVES)


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ({"cloze": 61}, "cloze is 61, expected a multiple of 6"),
        ({"cloze": 6}, "cloze is 6, expected 12 or more"),
        ({"events": 1}, "events is 1, expected 2 or more"),
        ({"train": 0}, "train is 0"),
    ],
)
def test_sizes_that_make_no_cloze_are_refused(sizes: dict[str, int], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        StorySizes(**sizes)
