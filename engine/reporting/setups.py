"""The stages of all runs of a report as setups: their looks, and the order of their languages."""

import math
import re
from collections.abc import Iterable, Sequence

from tresse.engine.reporting.blocks import Line, Style
from tresse.engine.reporting.facts import RunFacts, StageFacts

MISSING = "–"
"""Cell of a value that is not known."""


def all_stages(runs: Iterable[RunFacts]) -> list[StageFacts]:
    """Return the stages of all runs in order."""
    return [stage for run in runs for stage in run.stages]


def styles(runs: Sequence[RunFacts]) -> dict[str, Style]:
    """Return the look of each setup: of one run by its stage; of several by run and by stage.

    Stages of one name have one marker in all runs.
    """
    names = list(dict.fromkeys(stage.config.name for stage in all_stages(runs)))
    return {
        stage.setup: Style(position if len(runs) > 1 else mark, mark)
        for position, run in enumerate(runs)
        for stage in run.stages
        for mark in [names.index(stage.config.name)]
    }


def languages(stages: Iterable[StageFacts]) -> list[str]:
    """Return the languages that were measured, in the order of their first measurement."""
    names: dict[str, None] = {}
    for stage in stages:
        names |= dict.fromkeys(stage.measured.losses)
        names |= dict.fromkeys(name for _, losses in stage.measured.heldout for name in losses)
    return list(names)


def below_chance(lines: Sequence[Line], stages: Iterable[StageFacts]) -> tuple[Sequence[Line], str]:
    """Return the lines of losses without those above chance, and a sentence that names these.

    A model that was not trained on a language may be far above, where it would flatten all others.
    """
    states = [stage.state for stage in stages if stage.state]
    chance = math.log(states[0].vocabulary.num_used) if states else math.inf
    above = [line for line in lines if min(line.ys) > chance]
    if not above or len(above) == len(lines):
        return lines, ""
    names = ", ".join(f"{line.name} (last {line.ys[-1]:.1f})" for line in above)
    return [each for each in lines if each not in above], (
        f"Not drawn, as above the loss of guessing ({chance:.1f}): {names}."
    )


def number(value: float | None, form: str = ",.3f") -> str:
    """Return a number as text; a dash for one that is not known."""
    return MISSING if value is None or value != value else format(value, form)


def slug(name: str) -> str:
    """Return a name of letters, digits, "-" and "_", for a file."""
    return re.sub(r"[^\w-]", "_", name)


def arrow(name: str) -> str:
    """Return the name of a pair of languages as it is printed."""
    return name.replace("->", "→")
