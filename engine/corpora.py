"""The corpora of a run: opened, or generated from the story world into the run's folder."""

from dataclasses import dataclass
from pathlib import Path

from tresse.data.corpus import Corpus
from tresse.data.story_world import generate
from tresse.engine.config import RunConfig
from tresse.engine.ranks import Ranks


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
    data, world = run.data, Path(run.run_dir) / "data"
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
