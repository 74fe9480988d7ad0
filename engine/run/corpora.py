"""The corpora of a run: opened, or generated from the story world into the run's folder."""

from dataclasses import dataclass
from pathlib import Path

import xxhash

from tresse.data.packing.sources import Sources
from tresse.data.store.corpus import Corpus, check_tokenizers
from tresse.data.store.text_tokenizer import FILE as TEXT_TOKENIZER
from tresse.data.store.text_tokenizer import find_text_tokenizer
from tresse.data.worlds.story_world import DIALOGUES, generate
from tresse.engine.run.config import RunConfig
from tresse.engine.run.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Corpora:
    """The corpora that a run reads; None for one that it does without."""

    train: Sources
    valid: Corpus | None
    cloze: Corpus | None


def open_corpora(config: RunConfig, ranks: Ranks) -> Corpora:
    """Open the corpora that the configuration names; generate those of the story world first.

    Raises ValueError when no training corpus is named, or when another corpus has other units.
    """
    data = config.data
    # The name holds a hash of the settings, so that no other world is taken for this one.
    digest = xxhash.xxh3_64_hexdigest(repr(data.story_world).encode())
    world = Path(config.run_dir) / f"story-world-{digest[:8]}"
    if data.story_world is None and not data.corpus:
        raise ValueError("no training corpus: name the folder of one with --data.corpus")
    if data.story_world is not None and ranks.is_first and not world.exists():
        print(f"writing the story world to {world}")
        generate(data.story_world, world)
    ranks.barrier()
    train, valid, cloze = data.corpus, data.valid, data.cloze
    if data.story_world is not None:
        train = train or _of_world(world, config)
        valid, cloze = valid or str(world / "valid"), cloze or str(world / "cloze")
    sources = Sources(tuple(Corpus.open(path) for path in train), data.weights)
    others = {path: Corpus.open(path) for path in (valid, cloze) if path}
    for corpus in others.values():
        check_tokenizers((*sources.corpora, corpus))
    return Corpora(sources, others.get(valid), others.get(cloze))


def _of_world(world: Path, config: RunConfig) -> tuple[str, ...]:
    """Return the training corpora of a world: the dialogues only if a stage reads them."""
    train, dialogues = world / "train", world / DIALOGUES
    if dialogues.exists():
        streams = (stream for stage in config.stages for stream in stage.streams)
        known = set(Corpus.open(dialogues).languages)
        if any(known.intersection(stream.all_languages) for stream in streams):
            return str(train), str(dialogues)
    return (str(train),)


def text_tokenizer(corpora: Corpora) -> Path | None:
    """Return the checked tokenizer.json of the training corpora; None if none has one."""
    for corpus in corpora.train.corpora:
        if (corpus.path / TEXT_TOKENIZER).exists():
            return find_text_tokenizer(corpus.path, corpus.tokenizers)
    return None
