"""`tresse plan`: what a run needs, how long it takes and what it costs, before GPUs are rented."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from tresse.data.durable import write_text
from tresse.data.packing.packer import Plan
from tresse.engine.forecast.forecast import Forecast, forecast_run
from tresse.engine.forecast.gpus import GPUS, Gpu, read_rates
from tresse.engine.forecast.tables import Given, format_forecast
from tresse.engine.run.command_line import parse_config, usage
from tresse.engine.run.config import RunConfig
from tresse.engine.run.corpora import open_corpora
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.typed_json import Record, to_json
from tresse.engine.stage import plan_stages

LEVELS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Forecast a run: what fits, how long it takes, what it costs. No GPU is needed."""

    gpus: tuple[int, ...] = (4,)
    """Numbers of GPUs."""
    gpu: str = "h100"
    """The kind of GPU: h100, h200 or a100."""
    rates: Path | None = None
    """File with the rates of your own GPU, as bench/gemms.py writes it."""
    tokens_per_s: float | None = None
    """Measured tokens per second of a GPU, for the days; the default is the predicted rate."""
    price: float | None = None
    """Price of a GPU for an hour, in any currency."""
    json: Path | None = None
    """File for the forecast as JSON."""


def plan(arguments: Sequence[str]) -> None:
    """Forecast the run that the arguments describe, and print it."""
    options, others = tyro.cli(
        Options,
        args=arguments,
        prog="tresse plan [RECIPE] [--field value ...]",
        description=f"{Options.__doc__}\n\nAll else is as for `tresse train`:\n\n{usage()}",
        return_unknown_args=True,
    )
    config = parse_config(others)
    forecast = forecast_run(
        config, _gpu(options), _numbers(options), _levels(config), _plans(config)
    )
    print(format_forecast(forecast, Given(options.tokens_per_s, options.price)))
    if options.json:
        write_text(options.json, json.dumps(_as_json(forecast), indent=2) + "\n")
        print(f"wrote {options.json}")


def _gpu(options: Options) -> Gpu:
    if options.gpu not in GPUS:
        raise ValueError(f"no GPU {options.gpu!r}; expected {', '.join(GPUS)}, or --rates FILE")
    base = GPUS[options.gpu]
    return read_rates(options.rates, base) if options.rates else base


def _numbers(options: Options) -> tuple[int, ...]:
    if not options.gpus or min(options.gpus) < 1:
        raise ValueError(f"gpus={options.gpus}; expected one or more numbers above 0")
    return options.gpus


def _levels(config: RunConfig) -> tuple[int, ...]:
    own = config.sharding.zero_stage
    return LEVELS if own in LEVELS else (own, *LEVELS)


def _plans(config: RunConfig) -> dict[str, Plan]:
    """Return the rows of each stage if a corpus is named."""
    if not config.data.corpus:
        return {}
    ranks = Ranks(0, 1, torch.device("cpu"))
    print(f"rows of {config.data.corpus}:", file=sys.stderr)
    return plan_stages(config, open_corpora(config, ranks), ranks)


def _as_json(forecast: Forecast) -> Record:
    """Return a forecast without the whole configuration."""
    record = to_json(forecast)
    record["recipe"] = record.pop("config")["recipe"]
    return record
