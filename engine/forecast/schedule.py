"""The stages of a run before it starts: steps, tokens by language, passes over the corpus."""

import math
from dataclasses import dataclass, field

from tresse.data.packing.packer import Plan
from tresse.data.packing.settings import Stream, Vocabulary, split_targets
from tresse.engine.run.config import RunConfig, StageConfig

UNITS = 2048
"""Units of a corpus that is not named: the paper's."""


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
    if not plan:
        tokens_per_step = rows_per_step * config.data.packing.row_length
        return StageForecast(
            stage.name, math.ceil(stage.tokens / tokens_per_step), _expected_tokens(stage)
        )
    tokens: dict[str, float] = {}
    for stream in plan.streams:
        _add(tokens, stream.targets)
    epochs = {_name(each.stream): each.epochs for each in plan.streams}
    return StageForecast(stage.name, math.ceil(plan.num_rows / rows_per_step), tokens, epochs)


def _expected_tokens(stage: StageConfig) -> dict[str, float]:
    tokens: dict[str, float] = {}
    for stream, targets in zip(
        stage.streams, split_targets(stage.tokens, stage.streams), strict=True
    ):
        number = len(stream.languages)
        shares = stream.probabilities or (1 / number,) * number
        _add(tokens, {n: targets * p for n, p in zip(stream.languages, shares, strict=True)})
    return tokens


def _add(total: dict[str, float], more: dict[str, float]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0.0) + count


def _name(stream: Stream) -> str:
    return f"{'+'.join(stream.languages)} {stream.mode}"


def vocabulary(config: RunConfig, plans: dict[str, Plan]) -> Vocabulary:
    """Return the ids of a run: those of its corpus or story world, or the paper's units."""
    for plan in plans.values():
        return plan.vocabulary
    world = config.data.story_world
    units = world.vocab_size if world else UNITS
    return Vocabulary(units, config.data.packing.uses_specials)
