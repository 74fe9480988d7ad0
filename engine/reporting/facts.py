"""What the folders of runs hold, read for a report.

Only config.json must be there. What else is missing or damaged is a gap, which the report names.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from tresse.data.lines import decode_json
from tresse.engine.checkpoint.checkpoint import readable_states
from tresse.engine.checkpoint.state import State
from tresse.engine.model import parameter_sizes
from tresse.engine.run.config import RunConfig, StageConfig
from tresse.engine.run.logbook import parse_metrics
from tresse.engine.run.provenance import read_starts
from tresse.engine.run.run_folder import CONFIG, CORPORA, has_run, read_changes, read_config
from tresse.engine.run.sealed import read_sealed
from tresse.engine.run.typed_json import Record
from tresse.engine.scoring.score import SCORES

NUMBERS = ("tokens_per_s", "step_s", "data_wait_s", "memory_gib", "mfu_causal", "mfu_full")

T = TypeVar("T")


@dataclass(slots=True)
class Measured:
    """What metrics.jsonl has of a stage. Lists have a value for each step, perhaps NaN."""

    steps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Targets of all languages since the weights were new."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Training loss by language."""
    numbers: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NUMBERS})
    heldout: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Held-out losses by language, after a number of tokens."""
    subset: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Accuracies on a subset of the questions by task and pair, after a number of tokens."""
    stall_s: float = 0.0
    """Seconds that training waited for checkpoints."""

    def add(self, record: Record) -> None:
        """Add a record of metrics.jsonl."""
        self.stall_s += record.get("stall_s", 0.0)
        if "heldout_loss" in record and self.tokens:
            self.heldout.append((self.tokens[-1], _numbers(record["heldout_loss"])))
        if "cloze" in record and self.tokens:
            self.subset.append((self.tokens[-1], _numbers(record["cloze"])))
        if "loss" in record:
            self._add_step(record)

    def _add_step(self, record: Record) -> None:
        losses, tokens = _numbers(record["loss_by_language"]), sum(record["tokens"].values())
        numbers, step = {name: _number(record.get(name)) for name in NUMBERS}, int(record["step"])
        for name, loss in losses.items():
            own = self.losses.setdefault(name, [])
            own += [math.nan] * (len(self.steps) - len(own))
            own.append(loss)
        for name, value in numbers.items():
            self.numbers[name].append(value)
        self.steps.append(step)
        self.tokens.append(tokens)

    def median(self, name: str) -> float:
        """Return the median of a number over the steps; NaN if it was not measured."""
        values = np.array(self.numbers[name])
        return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan

    def total(self, name: str) -> float:
        """Return the sum of a number over the steps."""
        return float(np.nansum(self.numbers[name]))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Record) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFacts:
    """What is known of a stage."""

    setup: str
    """Name in tables and charts: STAGE, or RUN/STAGE of several runs."""
    run: str
    folder: Path
    config: StageConfig
    measured: Measured
    scores: Record
    """Content of scores.json; empty if the stage has no scores."""
    state: State | None
    """State of its newest checkpoint."""
    streams: Sequence[Record]
    """Planned streams, as starts.jsonl has them; empty if it has none."""

    @property
    def is_finished(self) -> bool:
        """True if its last checkpoint is the one at its end."""
        return self.state is not None and self.state.finished

    def last_step(self, rows_per_step: int) -> int | None:
        """Return the step that the stage is planned to end with, if that is known."""
        num_rows = sum(stream["rows"] for stream in self.streams)
        return self.config.last_step(-(-num_rows // rows_per_step)) if num_rows else None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What is known of a run."""

    name: str
    folder: Path
    config: RunConfig
    stages: Sequence[StageFacts]
    corpora: Record
    """Ids of the corpora by their use."""
    changes: Sequence[Record]
    starts: Sequence[Record]
    gaps: Sequence[str]
    """What is missing, in a sentence each."""

    @property
    def num_parameters(self) -> int | None:
        """Number of weights, if the run has a checkpoint that says how many units it has."""
        state = next((stage.state for stage in self.stages if stage.state), None)
        return state and sum(parameter_sizes(self.config.model, state.vocabulary.width))


def read_runs(folders: Sequence[Path]) -> list[RunFacts]:
    """Read the folders of runs; ValueError for one without a run, or if none is named."""
    if not folders:
        raise ValueError("name one or more runs")
    for folder in folders:
        if not has_run(folder):
            raise ValueError(f"{folder / CONFIG}: no such file; expected the folder of a run")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError("the same run is named twice")
    return [
        _read_run(folder, name, len(folders) > 1)
        for folder, name in zip(folders, names, strict=True)
    ]


def _read_run(folder: Path, name: str, is_one_of_several: bool) -> RunFacts:
    config, gaps = read_config(folder), []
    starts = _or_gap(lambda: read_starts(folder), [], gaps)
    planned = starts[-1]["stages"] if starts else {}
    measured = _read_measured(folder, config, gaps)
    stages = [
        StageFacts(
            setup=f"{name}/{stage.name}" if is_one_of_several else stage.name,
            run=name,
            folder=folder / stage.name,
            config=stage,
            measured=measured[stage.name],
            scores=_read_scores(folder / stage.name, gaps),
            state=next((state for _, state in readable_states(folder / stage.name)), None),
            streams=planned.get(stage.name, []),
        )
        for stage in config.stages
    ]
    return RunFacts(
        name=name,
        folder=folder,
        config=config,
        stages=stages,
        corpora=_or_gap(lambda: decode_json((folder / CORPORA).read_bytes()), {}, gaps),
        changes=_or_gap(lambda: read_changes(folder), [], gaps),
        starts=starts,
        gaps=[*gaps, *_missing(config, stages, bool(starts))],
    )


def _or_gap(read: Callable[[], T], default: T, gaps: list[str]) -> T:
    """Return what a function reads, or a default, and then note why."""
    try:
        return read()
    except ValueError as error:
        gaps.append(str(error))
    except OSError as error:
        gaps.append(f"{error.filename}: {error.strerror}")
    return default


def _read_measured(folder: Path, config: RunConfig, gaps: list[str]) -> dict[str, Measured]:
    measured = {stage.name: Measured() for stage in config.stages}
    for where, found in parse_metrics(folder):
        if isinstance(found, ValueError):
            gaps.append(f"{where}: {found}; a run that resumes repairs this file")
        elif found.get("stage") in measured:
            try:
                measured[found["stage"]].add(found)
            except (KeyError, TypeError, ValueError, AttributeError):
                gaps.append(f"{where}: not a measurement of this version; it is left out")
    return measured


def _read_scores(folder: Path, gaps: list[str]) -> Record:
    if not (folder / SCORES).exists():
        return {}
    try:
        return read_sealed(folder / SCORES)
    except (ValueError, OSError) as error:
        gaps.append(f"{folder}: {error}; score the stage again")
        return {}


def _missing(config: RunConfig, stages: Sequence[StageFacts], has_starts: bool) -> list[str]:
    """Return what a run does not have, or not yet."""
    found = []
    has_world = config.data.story_world is not None
    if not (config.data.cloze or has_world):
        found.append("The run has no cloze set (--data.cloze): its stages are not scored.")
    if not (config.data.valid or has_world):
        found.append(
            "The run has no held-out corpus (--data.valid): no held-out losses, no alignment."
        )
    if not has_starts:
        found.append("The run was started before runs recorded their plan, code and machine.")
    for stage in stages:
        found += _missing_of(stage, config)
    return found


def _missing_of(stage: StageFacts, config: RunConfig) -> list[str]:
    name, steps = stage.config.name, stage.measured.steps
    if not stage.is_finished:
        last = stage.last_step(config.rows_per_step)
        end = f" of {last:,}" if last else ""
        done = f"it is at step {steps[-1]:,}{end}" if steps else "it has not begun"
        return [f"Stage {name} is not finished: {done}."]
    if not stage.scores and (config.data.cloze or config.data.story_world):
        return [f"Stage {name} is finished, but has no scores: resume the run to score it."]
    if stage.state and stage.scores and stage.scores["checkpoint"] != stage.state.digest:
        return [f"The scores of stage {name} are of an earlier checkpoint."]
    return []


def as_text(value: object) -> str:
    """Return a JSON value as text in a table."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
