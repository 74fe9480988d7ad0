"""What the runs are: in a line each, their settings and what differs, their code and machines."""

from collections.abc import Iterator, Sequence
from typing import Any

from tresse.engine.reporting.blocks import Block, Fold, Note, Section, Table
from tresse.engine.reporting.facts import RunFacts, as_text
from tresse.engine.reporting.setups import MISSING, number
from tresse.engine.run.typed_json import to_json

PLACES = ("run_dir", "data.corpus", "data.valid", "data.cloze")
"""Fields that say where files are, and no more."""


def overview(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter that names the runs, and what they lack."""
    header = ["run", "recipe", "parameters", "stages finished", "M tokens", "hours", "seed"]
    lines = []
    for run in runs:
        finished = [stage for stage in run.stages if stage.is_finished]
        hours = sum(stage.measured.total("step_s") for stage in run.stages) / 3600
        lines.append(
            [
                run.name,
                run.config.recipe,
                number(run.num_parameters, ","),
                f"{len(finished)} of {len(run.stages)}",
                number(_trained(run) / 1e6, ",.2f"),
                number(hours, ",.2f"),
                str(run.config.seed),
            ]
        )
    blocks: list[Block] = [Table(header=header, lines=lines, num_left=2)]
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        blocks += [Note(prefix + gap) for gap in run.gaps]
    return Section("Runs", blocks)


def _trained(run: RunFacts) -> int:
    """Return the number of targets of all stages together."""
    per_step = run.config.rows_per_step * run.config.data.packing.row_length
    return sum(len(stage.measured.steps) for stage in run.stages) * per_step


def settings(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of settings: what differs, what resumed runs changed, and all."""
    fields = {run.name: dict(flat(to_json(run.config))) for run in runs}
    blocks: list[Block] = []
    if len(runs) > 1:
        blocks.append(_differing(fields))
    for run in runs:
        if run.changes:
            lines = [[c["field"], as_text(c["old"]), as_text(c["new"])] for c in run.changes]
            caption = f"Changed when {run.name} resumed."
            blocks.append(Table(header=["field", "was", "became"], lines=lines, caption=caption))
    for name, own in fields.items():
        lines = [[field, as_text(value)] for field, value in own.items()]
        blocks.append(
            Fold(
                f"All settings of {name}", Table(header=["field", "value"], lines=lines, num_left=2)
            )
        )
    return Section("Settings", blocks)


def _differing(runs: dict[str, dict[str, Any]]) -> Block:
    """Return the fields in which runs differ, but for the places of their files."""
    names = list(dict.fromkeys(field for own in runs.values() for field in own))
    lines = []
    for name in names:
        values = [own.get(name, MISSING) for own in runs.values()]
        if name not in PLACES and any(value != values[0] for value in values):
            lines.append([name, *map(as_text, values)])
    if not lines:
        return Note("The runs have the same settings.")
    caption = "Settings in which the runs differ, but for the places of their files."
    return Table(header=["field", *runs], lines=lines, num_left=len(runs) + 1, caption=caption)


def flat(values: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of nested settings under their names on the command line."""
    nested = isinstance(values, dict) or (
        isinstance(values, list) and any(isinstance(each, dict) for each in values)
    )
    if not nested:
        yield field, values
        return
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    for name, value in pairs:
        yield from flat(value, f"{field}.{name}".lstrip("."))


def origins(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of code, versions, machines and corpora."""
    lines = []
    for run in runs:
        for start in run.starts:
            machine = start["machine"]
            versions = ", ".join(f"{name} {number}" for name, number in start["versions"].items())
            device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
            cells = [run.name, start["time"], start["commit"] or MISSING, str(start["ranks"])]
            lines.append([*cells, device, versions])
    header = ["run", "start", "commit", "ranks", "device", "versions"]
    caption = "Every start of the runs. A plus after the commit: files differed from it."
    blocks: list[Block] = [Note("No start was recorded.")]
    if lines:
        blocks = [Table(header=header, lines=lines, num_left=len(header), caption=caption)]
    return Section("Origins", [*blocks, _corpora(runs)])


def _corpora(runs: Sequence[RunFacts]) -> Table:
    lines = []
    for run in runs:
        data = run.config.data
        for name, places in (("train", data.corpus), ("valid", data.valid), ("cloze", data.cloze)):
            if id_ := run.corpora.get(name):
                lines.append([run.name, name, as_text(id_), _join(places) or "story world"])
    header = ["run", "corpus", "id", "folder"]
    return Table(header=header, lines=lines, num_left=4, caption="Corpora of the runs.")


def _join(places: str | Sequence[str]) -> str:
    return places if isinstance(places, str) else ", ".join(places)
