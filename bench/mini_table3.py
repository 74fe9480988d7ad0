"""Table 3 of the paper in a story world, with several seeds, and what the paper leaves open.

    python bench/mini_table3.py                       the paper's six rows, three seeds
    python bench/mini_table3.py --changes all         and one change at a time

Each run is an ordinary one of `engine/train.py`, in its own folder of --out: a run that is finished
is not repeated, and one that was stopped resumes. Results go to --json, the table to the terminal.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from tresse.bench.claim.report import format_lines, plot_lines, read_lines, summarise
from tresse.bench.claim.setups import PAPER, Setup, changes
from tresse.bench.records import write_records
from tresse.data.durable import write_text
from tresse.data.worlds.story_world import generate
from tresse.data.worlds.world import StoryWorld
from tresse.engine.scoring.report import TABLE

TRAIN = Path(__file__).resolve().parent.parent / "engine" / "train.py"
VALID = 100
"""Held-out stories of a world."""
ALL = {setup.name: setup for setup in changes()}


@dataclass(frozen=True, slots=True)
class Options:
    """What is trained, and where its results go."""

    out: Path = Path("runs/mini_table3")
    """Folder of the runs."""
    seeds: int = 3
    """Number of seeds of the paper's setups."""
    change_seeds: int = 1
    """Number of seeds of each change, at most `seeds`."""
    changes: tuple[str, ...] = ()
    """Names of changes to train as well, or `all`."""
    jobs: int = os.cpu_count() or 1
    """Number of runs at once, each with one thread; on GPUs take 1."""
    cloze_documents: int = 900
    """Number of stories in the cloze set of each world, a multiple of 6."""
    share: float = 1.0
    """Share of the budgets, to try it out."""
    json: Path | None = None
    """File for the results."""
    plot: Path | None = None
    """File for the figure."""


def main(options: Options) -> None:
    """Train all that is asked for, and report it."""
    names = tuple(ALL) if options.changes == ("all",) else options.changes
    if unknown := set(names) - set(ALL):
        raise SystemExit(f"no changes {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    chosen = [ALL[name] for name in names]
    for languages in {setup.languages for setup in (PAPER, *chosen)}:
        write_world(options, languages)
    with ThreadPoolExecutor(options.jobs) as pool:
        for setups in ((PAPER,), chosen):  # the others start from weights of the first
            list(pool.map(lambda job: train(options, *job), jobs(options, setups)))
    report(options, (PAPER, *chosen))


def jobs(options: Options, setups: Sequence[Setup]) -> list[tuple[Setup, int]]:
    """Return the runs of some setups: each with its seed, the first seed of all before the next."""
    return [
        (setup, seed)
        for seed in range(options.seeds)
        for setup in setups
        if setup is PAPER or seed < options.change_seeds
    ]


def write_world(options: Options, languages: Sequence[str]) -> None:
    """Write the corpora of a world, unless they are there."""
    folder = world_folder(options, languages)
    if not folder.exists():
        world = StoryWorld(
            languages=tuple(languages),
            valid_documents=VALID,
            cloze_documents=options.cloze_documents,
        )
        generate(world, folder)


def world_folder(options: Options, languages: Sequence[str]) -> Path:
    """Return the folder of the corpora of a world."""
    return options.out / f"world-{len(languages)}"


def run_folder(options: Options, setup: Setup, seed: int) -> Path:
    """Return the folder of a run."""
    return options.out / f"{setup.name}-{seed}"


def train(options: Options, setup: Setup, seed: int) -> None:
    """Train a setup with a seed, from where it stopped; RuntimeError with the end of its log."""
    folder = run_folder(options, setup, seed)
    if (folder / TABLE).exists():
        return
    recipe = options.out / f"{folder.name}.json"
    write_text(recipe, json.dumps(recipe_of(options, setup, seed), indent=2) + "\n")
    command = [sys.executable, str(TRAIN), str(recipe), "--run-dir", str(folder)]
    log = options.out / f"{folder.name}.log"
    with log.open("a") as file:
        one_thread = {"OMP_NUM_THREADS": "1"} if options.jobs > 1 else {}
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | one_thread, check=False
        )
    if done.returncode or not (folder / TABLE).exists():
        raise RuntimeError(f"{log}: {log.read_text()[-2000:]}")
    print(f"{folder}: trained and scored", flush=True)


def recipe_of(options: Options, setup: Setup, seed: int) -> dict[str, Any]:
    """Return the recipe file of a run."""
    world = world_folder(options, setup.languages)
    stages = [each | {"tokens": round(options.share * each["tokens"])} for each in setup.stages]
    data: dict[str, Any] = {"story_world": None, "packing": setup.packing}
    data |= {"corpus": [str(world / "train")]}
    data |= {name: str(world / name) for name in ("valid", "cloze")}
    recipe: dict[str, Any] = {"recipe": "demo", "seed": seed, "stages": stages, "data": data}
    if setup.from_first:
        recipe["init"] = str(run_folder(options, PAPER, seed) / "en")
    return recipe


def report(options: Options, setups: Sequence[Setup]) -> None:
    """Print the table; write the results and the figure."""
    lines = list(all_lines(options, setups))
    records = summarise(lines)
    print(format_lines(records))
    if options.json:
        write_records(options.json, records)
    if options.plot:
        plot_lines(records, options.plot)


def all_lines(options: Options, setups: Sequence[Setup]) -> Iterator[dict[str, Any]]:
    """Yield the scores of each stage of each run."""
    for setup, seed in jobs(options, setups):
        for line in read_lines(run_folder(options, setup, seed)):
            yield {"setup": setup.name, "question": setup.question, "seed": seed} | line


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parsed = tyro.cli(Options, description=__doc__)
    main(replace(parsed, out=parsed.out.absolute()))
