"""The stages of a run before it starts: steps, tokens by language, passes over the corpus."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from tresse.data.packing.packer import Plan
from tresse.data.packing.settings import split_targets
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.run.config import RunConfig, StageConfig

UNITS, TEXT = 2048, 128_256
"""Tokens of a corpus that is not named: the paper's units, and the text of Llama 3."""


@dataclass(frozen=True, slots=True)
class StageForecast:
    """What a stage trains on."""

    name: str
    num_steps: int
    tokens: dict[str, float]
    """Targets of each language; in expectation where languages are drawn."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Passes over the documents of each stream; empty without a corpus."""


def forecast_stages(
    config: RunConfig, rows_per_step: int, plans: dict[str, Plan]
) -> list[StageForecast]:
    """Return what each stage trains on; plans: the rows of each stage, or none without a corpus.

    Without a corpus all languages of a stream are taken to have sentences of the same length.
    """
    return [_forecast(config, stage, rows_per_step, plans) for stage in config.stages]


def _forecast(
    config: RunConfig, stage: StageConfig, rows_per_step: int, plans: dict[str, Plan]
) -> StageForecast:
    plan = plans.get(stage.name)
    tokens_per_step = rows_per_step * config.data.packing.row_length
    num_steps = math.ceil(plan.num_rows / rows_per_step if plan else stage.tokens / tokens_per_step)
    last_step = stage.last_step(num_steps)
    share = last_step / num_steps
    tokens: dict[str, float] = {}
    for targets in [each.targets for each in plan.streams] if plan else _expected(stage):
        for name, count in targets.items():
            tokens[name] = tokens.get(name, 0.0) + share * count
    epochs = {each.name: share * each.epochs for each in plan.streams} if plan else {}
    return StageForecast(stage.name, last_step, tokens, epochs)


def _expected(stage: StageConfig) -> Iterator[dict[str, float]]:
    """Yield the targets of each language of each stream."""
    for stream, targets in zip(
        stage.streams, split_targets(stage.tokens, stage.streams), strict=True
    ):
        number = len(stream.languages)
        drawn = stream.probabilities or (1 / number,) * number
        lengths = dict.fromkeys(stream.given, 1.0) | dict(zip(stream.languages, drawn, strict=True))
        counted = {name: lengths[name] for name in stream.loss_on or stream.all_languages}
        total = sum(counted.values())
        yield {name: targets * length / total for name, length in counted.items()}


def vocabulary(config: RunConfig, plans: dict[str, Plan]) -> Vocabulary:
    """Return the ids of a run: those of its corpus, or as many as are likely without one.

    Languages whose names end with -text are taken for text.
    """
    for plan in plans.values():
        return plan.vocabulary
    world = config.data.story_world
    units = Tokenizer("units", "", "25/2", world.vocab_size if world else UNITS)
    streams = [stream for stage in config.stages for stream in stage.streams]
    has_text = any(name.endswith("-text") for each in streams for name in each.all_languages)
    text = [Tokenizer("text", "", "", TEXT)] if has_text else []
    return Vocabulary.of([units, *text], config.data.packing)
