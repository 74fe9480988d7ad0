"""From StoryCloze's CSV to scores of prompts and endings in speech and text, as a user would."""

import json
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from tests.support.families import EOS, LLAMA, finished_state, write_stage
from tests.support.processes import run
from tests.support.story_cloze import STORIES, story_cloze_lines, write_story_cloze
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus
from tresse.data.store.text_tokenizer import load_text_tokenizer
from tresse.data.texts.texts import read_texts
from tresse.engine import commands
from tresse.engine.model import Transformer
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.similarity import measure_similarities

UNITS = ("--tokenizer-name", "test", "--frame-rate", "25", "--vocab-size", "30")
PAIRS = ("en", "en-text", "en->en-text", "en-text->en")


def prepare(*words: str | Path) -> None:
    """Run a command of `tresse prepare` that must succeed."""
    assert main([*map(str, words)]) == 0


def write_units(texts: Path, out: Path) -> None:
    """Write made-up units of texts: one for every second letter."""
    with out.open("w") as file:
        for text in read_texts([texts]):
            units = [[ord(sign) % 30 for sign in sentence[::2]] for sentence in text.sentences]
            record = {"key": text.key, "lang": text.language, "sentences": units}
            print(json.dumps(record), file=file)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """The stories as units and as text, with their questions."""
    monkeypatch.chdir(tmp_path)
    write_story_cloze(tmp_path / "cloze.csv", story_cloze_lines())
    prepare("cloze-texts", "cloze.csv", "--lang", "en", "--out", "sets")
    prepare("text-tokenizer", "sets/texts.jsonl", "--size", "300", "--out", "tokenizer.json")
    prepare("text", "sets/texts.jsonl", "--tokenizer", "tokenizer.json", "--out", "written")
    write_units(tmp_path / "sets" / "texts.jsonl", tmp_path / "units.jsonl")
    prepare("manifest", "units.jsonl", *UNITS, "--out", "spoken")
    commands.merge((Path("spoken"), Path("written")), out=Path("both"))
    prepare("eval-items", "cloze", "sSC", "sTC", "--corpus", "both")
    return Corpus.open(tmp_path / "both")


def untrained(corpus: Corpus) -> tuple[Transformer, Vocabulary]:
    """Return a model with random weights, and its ids."""
    vocabulary = Vocabulary.of(corpus.tokenizers, EOS)
    model = Transformer(LLAMA, vocabulary.width, vocabulary.num_used)
    model.init_weights(seed=1)
    return model, vocabulary


@pytest.mark.slow
def test_every_story_is_asked_in_all_directions(corpus: Corpus, tmp_path: Path) -> None:
    model, vocabulary = untrained(corpus)
    languages = {name: corpus.tokenizer(name) for name in corpus.languages}
    stage = write_stage(tmp_path / "run", model, finished_state(LLAMA, EOS, vocabulary, languages))
    flags = ("--cloze", str(corpus.path), "--out", str(tmp_path / "scores"))
    tresse = (sys.executable, "-m", "tresse.engine.commands")
    printed = run(*tresse, "score", str(stage), *flags).stdout
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert {(cell["task"], cell["pair"]): cell["num_items"] for cell in scores["cloze"]} == {
        (task, pair): len(STORIES) for task in ("sSC", "sTC") for pair in PAIRS
    }
    assert "sTC en->en-text" in printed
    lines = (tmp_path / "scores" / "answers.jsonl").read_text().splitlines()
    answers = {(each["task"], each["id"], each["pair"]): each for each in map(json.loads, lines)}
    assert len(answers) == len(lines) == 2 * 4 * len(STORIES)
    for task, story in ((task, story) for task in ("sSC", "sTC") for story in STORIES):
        own = [answers[task, story, pair]["correct"]["sum_continuation"] for pair in PAIRS]
        assert len(set(own)) == 4, "each direction has sequences of its own"


def test_a_written_prompt_and_its_ending_have_the_tokens_of_the_story(corpus: Corpus) -> None:
    tokenizer = load_text_tokenizer(corpus.path / "tokenizer.json")
    for key, sentences in STORIES.items():
        parts = [
            corpus.document("en-text", corpus.find("en-text", f"sSC/{key}_{part}"))
            for part in ("mutual", "correct")
        ]
        tokens = [int(token) for token in chain.from_iterable(chain.from_iterable(parts))]
        story = " ".join(f"{sentence}." for sentence in sentences)
        assert tokenizer.decode(tokens, skip_special_tokens=False) == story
        assert tokens == tokenizer.encode(story, add_special_tokens=False).ids


def test_the_likeness_of_a_text_and_its_speech_is_cross_modal(corpus: Corpus) -> None:
    how = {"batch_tokens": 512, "ranks": Ranks(0, 1, torch.device("cpu"))}
    model, vocabulary = untrained(corpus)
    ((pair, found),) = measure_similarities(model, corpus, vocabulary, **how).items()
    assert (pair, found.is_cross_modal) == ("en-en-text", True)
    assert found.num_sentences == 2 * len(STORIES) * 6
