"""`tresse plan`: what a run needs, how long it takes and what it costs, before GPUs are rented."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

import torch
import tyro

from tresse.data.durable import write_text
from tresse.data.packing.packer import Plan
from tresse.engine.forecast.forecast import Forecast, forecast_run
from tresse.engine.forecast.gpus import GPUS, read_rates
from tresse.engine.forecast.tables import Given, format_forecast
from tresse.engine.run.command_line import COMMAND, parse_config, usage
from tresse.engine.run.config import RunConfig
from tresse.engine.run.corpora import open_corpora
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.typed_json import Record, to_json
from tresse.engine.stage import plan_stages

LEVELS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Forecast a run: what fits, how long it takes, what it costs. No GPU is needed."""

    gpus: tuple[int, ...] = (4,)
    """Numbers of GPUs."""
    gpu: Literal["h100", "h200", "a100"] = "h100"
    """The kind of GPU."""
    rates: Path | None = None
    """File with the rates of your own GPU, as bench/gemms.py writes it."""
    tokens_per_s: float | None = None
    """Measured tokens per second of a GPU, for the days; the default is the predicted rate."""
    price: float | None = None
    """Price of a GPU for an hour, in any currency."""
    json: Path | None = None
    """File for the forecast as JSON."""

    def __post_init__(self) -> None:
        if not self.gpus or min(self.gpus) < 1:
            raise ValueError(f"gpus={self.gpus}; expected one or more numbers above 0")
        for name in ("tokens_per_s", "price"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ValueError(f"{name}={value}; expected a number above 0")
        if self.json and not self.json.parent.is_dir():
            raise ValueError(f"{self.json}: there is no folder {self.json.parent}")


def plan(arguments: Sequence[str]) -> None:
    """Forecast the run that the arguments describe, and print it."""
    os.environ.setdefault(COMMAND, "tresse train")  # mistakes name its help
    options, others = tyro.cli(
        Options,
        args=recipe_first(arguments),
        prog="tresse plan [RECIPE] [--field value ...]",
        description=f"{Options.__doc__}\n\nAll else is as for `tresse train`:\n\n{usage()}",
        return_unknown_args=True,
    )
    config, gpu = parse_config(others), GPUS[options.gpu]
    if options.rates:
        gpu = read_rates(options.rates, gpu)
    numbers = tuple(dict.fromkeys(options.gpus))
    forecast = forecast_run(config, gpu, numbers, _levels(config), _plans(config))
    print(format_forecast(forecast, Given(options.tokens_per_s, options.price)))
    if options.json:
        write_text(options.json, json.dumps(_as_json(forecast), indent=2) + "\n")
        print(f"wrote {options.json}")


def recipe_first(arguments: Sequence[str]) -> list[str]:
    """Move a recipe that follows a number to the front: `--gpus 4 8` would take it for one more."""
    for position in range(1, len(arguments)):
        if arguments[position] in RECIPES and arguments[position - 1].isdigit():
            before, after = arguments[:position], arguments[position + 1 :]
            return [arguments[position], *before, *after]
    return list(arguments)


def _levels(config: RunConfig) -> tuple[int, ...]:
    own = config.sharding.zero_stage
    return LEVELS if own in LEVELS else (own, *LEVELS)


def _plans(config: RunConfig) -> dict[str, Plan]:
    """Return the rows of each stage if a corpus is named."""
    if not config.data.corpus:
        return {}
    ranks = Ranks(0, 1, torch.device("cpu"))
    print(f"rows of {', '.join(config.data.corpus)}:", file=sys.stderr)
    return plan_stages(config, open_corpora(config, ranks), ranks)


def _as_json(forecast: Forecast) -> Record:
    """Return a forecast without the whole configuration."""
    record = to_json(forecast)
    record["recipe"] = record.pop("config")["recipe"]
    return record
