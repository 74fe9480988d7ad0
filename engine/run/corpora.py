"""The corpora of a run: opened, or generated from the story world into the run's folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import xxhash

from tresse.data.durable import write_text
from tresse.data.store.corpus import Corpus
from tresse.data.worlds.story_world import generate
from tresse.engine.run.config import RunConfig
from tresse.engine.run.ranks import Ranks

CORPORA = "corpora.json"


@dataclass(frozen=True, slots=True)
class Corpora:
    """What a run reads."""

    train: Corpus
    valid: Corpus | None
    cloze: Corpus | None


def open_corpora(run: RunConfig, ranks: Ranks) -> Corpora:
    """Open the corpora that the configuration names, generating the story world's first.

    Raises ValueError when no training corpus is named, or one has another vocabulary than it.
    """
    data = run.data
    # Named after its settings, so that another world is never taken for this one.
    digest = xxhash.xxh3_64_hexdigest(repr(data.story_world).encode())
    world = Path(run.run_dir) / f"story-world-{digest[:8]}"
    if data.story_world is None and not data.corpus:
        raise ValueError("no training corpus: name the folder of one with --data.corpus")
    if data.story_world is not None and ranks.is_first and not world.exists():
        print(f"writing the story world to {world}")
        generate(data.story_world, world)
    ranks.barrier()
    named = {"train": data.corpus, "valid": data.valid, "cloze": data.cloze}
    if data.story_world is not None:
        named = {name: path or str(world / name) for name, path in named.items()}
    opened = {name: Corpus.open(path) for name, path in named.items() if path}
    train = opened["train"]
    for corpus in opened.values():
        if corpus.tokenizer != train.tokenizer:
            raise ValueError(
                f"{corpus.path}: units of {corpus.tokenizer}, but {train.path} has units of "
                f"{train.tokenizer}; tokenise both alike"
            )
    return Corpora(train, opened.get("valid"), opened.get("cloze"))


def check_same_corpus(run: RunConfig, corpora: Corpora) -> None:
    """Refuse to go on with other training data: rows would repeat or be left out."""
    path = Path(run.run_dir) / CORPORA
    started = json.loads(path.read_bytes())["train"] if path.exists() else corpora.train.id
    if started != corpora.train.id:
        raise ValueError(
            f"{run.run_dir}: the run trains on corpus {started}, but {corpora.train.path} is "
            f"{corpora.train.id}; name the first one, or start another run with --run-dir"
        )


def write_corpora(run: RunConfig, corpora: Corpora) -> None:
    """Write the ids of the corpora into the run's folder."""
    named = {"train": corpora.train, "valid": corpora.valid, "cloze": corpora.cloze}
    ids = {name: corpus and corpus.id for name, corpus in named.items()}
    write_text(Path(run.run_dir) / CORPORA, json.dumps(ids, indent=2) + "\n")
