"""The command line of the main job: a recipe, then any field of it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipe_file import SUFFIX, read_recipe
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.run_folder import find_differences, read_config

DEFAULT_RECIPE = "demo"
USAGE = """usage: engine/train.py [RECIPE] [--run-dir DIR] [--field value ...]

Trains the stages of a recipe, one of these or a FILE.json of what it changes in one (README.md).
Without RECIPE: the demo, or the run that --run-dir names.

recipes:
{recipes}

engine/train.py RECIPE --help lists the fields of a recipe."""


def parse_run(arguments: Sequence[str]) -> RunConfig:
    """Build the configuration that the arguments ask for.

    A run folder that exists gives its own configuration, which flags are laid over; whether they
    contradict it is for `run_folder.open_run` to say.
    """
    arguments = list(arguments)
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0)
    named = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    run_dir = _run_dir(arguments)
    try:
        default, folder = _default(named, run_dir)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    parsed = tyro.cli(
        tyro.conf.configure(tyro.conf.AvoidSubcommands)(RunConfig),
        prog=f"engine/train.py {default.recipe}",
        default=default,
        args=arguments,
    )
    return _with_absolute_paths(replace(parsed, run_dir=str(folder)))


def _default(named: str | None, run_dir: str) -> tuple[RunConfig, Path]:
    """What the flags are laid over, a recipe or the run in its folder; and that folder."""
    file = Path(named) if named is not None and named.endswith(SUFFIX) else None
    if named is not None and not file and named not in RECIPES:
        raise ValueError(
            f"no recipe {named!r}; there are: {', '.join(RECIPES)}, and files that end in {SUFFIX}"
        )
    name = named or DEFAULT_RECIPE
    recipe = read_recipe(file) if file else RECIPES[name]()
    folder = Path(run_dir or f"runs/{file.stem if file else name}")
    if not (folder / "config.json").exists():
        if run_dir and not named:
            raise ValueError(f"{folder}: no run to go on with; name a recipe to start one there")
        return recipe, folder
    started = read_config(folder)
    if named and started.recipe != recipe.recipe:
        raise ValueError(f"{folder}: a run of the recipe {started.recipe}, not of {recipe.recipe}")
    if file and (differences := find_differences(started, recipe)):
        raise ValueError(
            f"{folder}: a run of other settings than {file} has: {'; '.join(differences)}. Go on "
            f"with it by --run-dir {folder} without the file, or start another by --run-dir"
        )
    return started, folder


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Resolve the folders that are named, so that a run goes on from any folder."""

    def resolve(path: str) -> str:
        return str(Path(path).resolve()) if path else ""

    data, model = config.data, config.model
    named = {name: resolve(getattr(data, name)) for name in ("corpus", "valid", "cloze")}
    return replace(
        config,
        run_dir=resolve(config.run_dir),
        init=resolve(config.init),
        data=replace(data, **named),
        model=replace(model, pretrained=resolve(model.pretrained)),
    )


def usage() -> str:
    """Return the recipes with a line on each."""
    width = max(map(len, RECIPES))
    lines = [f"  {name:{width}}  {_summary(name)}" for name in RECIPES]
    return USAGE.format(recipes="\n".join(lines))


def _summary(recipe: str) -> str:
    return (RECIPES[recipe].__doc__ or "").split("\n")[0]


def _run_dir(arguments: list[str]) -> str:
    """Find --run-dir DIR, which decides on the defaults of all other flags."""
    for position, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in ("--run-dir", "--run_dir"):
            return value or next(iter(arguments[position + 1 :]), "")
    return ""
