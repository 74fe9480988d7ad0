"""The values that docs/tour.md shows of its document are those that the code gives."""

import json
import re
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tresse.data.formats.commands import Output
from tresse.data.packing.packer import Plan, plan_rows
from tresse.data.prepare import prepare_manifest
from tresse.data.store.cloze import ITEMS
from tresse.data.store.corpus import Corpus
from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipe_file import read_recipe
from tresse.engine.scoring.questions import read_questions

TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")


def numbers(text: str) -> list[int]:
    """The integers in a line of the page."""
    return [int(number) for number in re.findall(r"\d+", text)]


def matched(pattern: str) -> str:
    """Return the text of the page at the only place that matches."""
    (found,) = re.findall(pattern, TOUR)
    return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder that the page has its reader fill."""
    block = TOUR.split("```")[1]
    for name, content in re.findall(r"(?m)^(\S+) +((?:.+\n(?: +.+\n)*))", block):
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def corpus(files: Path) -> Corpus:
    """The training corpus of the page."""
    return prepare_manifest(
        (files / "en.jsonl", files / "fr.jsonl"), output=Output(out=files / "tour")
    )


def plan(config: RunConfig, corpus: Corpus) -> Plan:
    """The rows of the page's first stage."""
    stage, packing = config.stages[0], config.data.packing
    return plan_rows(corpus, stage.streams, packing, tokens=stage.tokens, seed=config.seed, stage=0)


def test_the_corpus_has_the_name_and_the_shard_of_the_page(corpus: Corpus) -> None:
    assert corpus.id.startswith(matched(r"`(\w{8})\.\.\.`, is the corpus id"))
    (shard,) = corpus.shards["fr"]
    assert shard.path.name == matched(r"`(fr-\w+\.safetensors)`")
    assert shard.tokens.tolist() == numbers(matched(r"tokens\s+`\[([\d ]+)\]` uint16"))


def test_the_last_row_is_that_of_the_page(files: Path, corpus: Corpus) -> None:
    batch = plan(read_recipe(files / "tour.json"), corpus).fill(3, 1)
    assert batch.tokens[0].tolist() == numbers(matched(r"tokens +\[([\d ]+)\]   uint16"))
    languages = [corpus.languages[k] for k in batch.language_ids()[0]]
    assert languages == matched(r"language +\[([\w ]+)\]").split()


def test_the_questions_are_those_of_the_page(files: Path, corpus: Corpus) -> None:
    manifests = (files / "en.jsonl", files / "fr.jsonl", files / "ends.jsonl")
    cloze = prepare_manifest(manifests, output=Output(out=files / "cloze"))
    item = matched(r"echo '(.+)' > corpora/cloze/items.jsonl")
    (cloze.path / ITEMS).write_text(json.dumps(json.loads(item)) + "\n")
    config = read_recipe(files / "tour.json")
    questions = read_questions(cloze, config.data.packing, plan(config, corpus).vocabulary)
    pairs = [pair for _, pair in questions.asked]
    first = 2 * pairs.index(("en", "fr"))
    shown = [numbers(text) for text in re.findall(r"`\[([\d ]+ \| \d+)\]`", TOUR)]
    assert [each.tokens.tolist() for each in questions.sequences[first : first + 2]] == shown


def test_each_hop_names_a_function_of_its_file() -> None:
    named = re.findall(r"`([\w.:]+)` (?:in |\()`([\w/.]+)`", re.sub(r"\s+", " ", TOUR))
    assert len(named) > 30
    for name, path in named:
        function = re.split(r"\.|::", name)[-1]
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"(?:def |class |::){function}\b", text), f"{name}, {path}"
