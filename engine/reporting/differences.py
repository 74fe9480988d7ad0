"""Which differences between setups are real, by a paired bootstrap.

Runs that differ in nothing but the seed are one setup with several seeds. Of one setup, its last
stage is compared with those before it; of several, the stages of the first with those of the same
name in the others.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tresse.engine.reporting.blocks import Block, Kind, Note, Section, Table
from tresse.engine.reporting.facts import RunFacts
from tresse.engine.reporting.settings import PLACES, flat
from tresse.engine.reporting.setups import arrow
from tresse.engine.run.typed_json import to_json
from tresse.engine.scoring.compare import LEVEL, NUM_RESAMPLES, Difference, compare, holm

MAX_PAIRS = 6


@dataclass(frozen=True, slots=True)
class Compared:
    """A scored stage of one run, or of several that differ in their seeds."""

    name: str
    stage: str
    folders: Sequence[Path]


def differences(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of differences between setups."""
    pairs, measure = pairs_of(runs), runs[0].config.score_by
    found: dict[str, list[Difference]] = {}
    notes: list[Block] = []
    for first, second in pairs[:MAX_PAIRS]:
        try:
            own = compare(first.folders, second.folders, measure)
        except ValueError as error:
            notes.append(Note(str(error)))
        else:
            found[f"{first.name} vs. {second.name}"] = own
    if left := pairs[MAX_PAIRS:]:
        names = ", ".join(f"{first.name} with {second.name}" for first, second in left)
        notes.append(Note(f"Not compared here: {names}. `tresse compare` does."))
    if not pairs:
        notes.append(Note("There are no two scored stages to compare."))
    tables = [_table(found, _num_seeds(pairs))] if found else []
    return Section("Differences", [*tables, *notes])


def pairs_of(runs: Sequence[RunFacts]) -> list[tuple[Compared, Compared]]:
    """Return the scored setups to compare, the most telling ones first."""
    setups = [_stages(seeds, len(runs) > 1) for seeds in _by_settings(runs)]
    if len(setups) == 1:
        return [(each, setups[0][-1]) for each in reversed(setups[0][:-1])]
    first = {each.stage: each for each in setups[0]}
    return [
        (each, first[each.stage])
        for others in setups[1:]
        for each in reversed(others)
        if each.stage in first
    ]


def _by_settings(runs: Sequence[RunFacts]) -> list[list[RunFacts]]:
    """Return the runs in groups that differ in nothing but the seed."""
    groups: dict[str, list[RunFacts]] = {}
    for run in runs:
        fields = dict(flat(to_json(run.config)))
        kept = {name: value for name, value in fields.items() if name not in (*PLACES, "seed")}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(run)
    return list(groups.values())


def _stages(seeds: Sequence[RunFacts], is_one_of_several: bool) -> list[Compared]:
    """Return the scored stages of runs that differ in their seeds."""
    found: dict[str, list[Path]] = {}
    for run in seeds:
        for stage in run.stages:
            if stage.scores:
                found.setdefault(stage.config.name, []).append(stage.folder)
    start = f"{seeds[0].name}/" if is_one_of_several else ""
    ends = {name: f" ({len(own)} seeds)" if len(own) > 1 else "" for name, own in found.items()}
    return [Compared(f"{start}{name}{ends[name]}", name, own) for name, own in found.items()]


def _num_seeds(pairs: Sequence[tuple[Compared, Compared]]) -> int:
    """Return the smallest number of seeds of a setup."""
    return min((len(each.folders) for pair in pairs for each in pair), default=0)


def _table(found: dict[str, list[Difference]], num_seeds: int) -> Table:
    """Return a column for each pair of setups, and a line for each task and pair of languages."""
    each_found = [(name, each) for name, own in found.items() for each in own]
    corrected = holm([each.p for _, each in each_found])
    tasks = list(dict.fromkeys(each.cell[0] for _, each in each_found))
    cells = sorted({each.cell: None for _, each in each_found}, key=lambda c: tasks.index(c[0]))
    names = list(found)
    lines = [[arrow(" ".join(cell)), *[""] * len(names)] for cell in cells]
    kinds: dict[tuple[int, int], Kind] = {}
    for (name, each), p in zip(each_found, corrected, strict=True):
        line, column = cells.index(each.cell), names.index(name) + 1
        lines[line][column] = _format(each) + "*" * (p < LEVEL)
        kinds[line, column] = "best" if p < LEVEL else "faint"
    seeds = "and seeds" if num_seeds > 1 else "alone: the spread over training seeds is not in it"
    caption = (
        "The first setup's accuracy minus the second's in points, with its 95 % interval. Bold, "
        f"with a star: real at the level {LEVEL} over all {len(each_found)} differences (Holm). A "
        f"paired bootstrap, {NUM_RESAMPLES:,} resamples of items {seeds}."
    )
    return Table(header=["", *names], lines=lines, kinds=kinds, caption=caption)


def _format(each: Difference) -> str:
    shares = (each.difference, each.low, each.high)
    value, low, high = (f"{100 * share:+.1f}".replace("-", "−") for share in shares)
    return f"{value} ({low} to {high})"
