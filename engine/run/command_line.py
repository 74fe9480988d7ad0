"""The command line of the main job: a recipe and the fields that change in it."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import tyro

from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipe_file import SUFFIX, read_recipe
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.run_folder import find_differences, has_run, read_config

DEFAULT_RECIPE = "demo"
COMMAND = "TRESSE_COMMAND"
"""Variable of the environment with the command that started this process, if `tresse` did."""
STATUS = "TRESSE_STATUS"
"""Variable with the file for the exit status that `tresse train` ends with on this node."""
LAUNCHER = """
OPTION is one of torchrun's, such as --nproc-per-node 4, --nnodes 2 or --max-restarts 3; they may
stand anywhere (`torchrun --help` lists them). Without any, it takes all GPUs of this machine."""
USAGE = """usage: {command} {option}[RECIPE] [--run-dir DIR] [--field value ...]

Train the stages of a recipe, score each of them on the cloze set, and print the table.

RECIPE is one of the names below, or a FILE.json that changes fields of one (see README.md).
The default is {default}; with --run-dir DIR alone, the run in DIR is resumed.

recipes:
{recipes}

`{command} RECIPE --help` lists all fields of a recipe.{launcher}"""


def parse_config(arguments: Sequence[str]) -> RunConfig:
    """Build the configuration that the arguments ask for.

    If the run folder holds a run, the flags change that run's configuration;
    `run_folder.find_changes` decides whether they may.
    """
    arguments = list(arguments)
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0)
    named = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    try:
        default, folder = _default(named, _run_dir(arguments))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    parsed = tyro.cli(
        tyro.conf.configure(tyro.conf.AvoidSubcommands)(RunConfig),
        prog=f"{_command()} {default.recipe}",
        default=default,
        args=arguments,
    )
    return _with_shape(_with_absolute_paths(replace(parsed, run_dir=str(folder))))


def _default(named: str | None, run_dir: str) -> tuple[RunConfig, Path]:
    """Return the configuration that the flags change, a recipe's or a run's, and the run folder."""
    file = Path(named) if named is not None and named.endswith(SUFFIX) else None
    if named is not None and not file and named not in RECIPES:
        raise ValueError(
            f"no recipe {named!r}; expected {', '.join(RECIPES)}, or a file that ends in {SUFFIX}"
        )
    name = named or DEFAULT_RECIPE
    recipe = read_recipe(file) if file else RECIPES[name]()
    folder = Path(run_dir or f"runs/{file.stem if file else name}")
    if not has_run(folder):
        if run_dir and not named:
            raise ValueError(f"{folder}: no run to resume; name a recipe to start one there")
        return recipe, folder
    started = read_config(folder)
    if named and started.recipe != recipe.recipe:
        raise ValueError(f"{folder}: a run of the recipe {started.recipe}, not of {recipe.recipe}")
    if not file:
        return started, folder
    differences = find_differences(started, recipe)
    if refused := [
        str(each) for each in differences if not (each.is_of_stages and each.is_allowed)
    ]:
        raise ValueError(
            f"{folder}: the run was started with other settings than {file} has: "
            f"{'; '.join(refused)}. Resume it by --run-dir {folder} without the "
            "file, or start another run by --run-dir"
        )
    # Whatever else differs is a matter of execution, where the run's own settings count.
    return replace(started, stages=recipe.stages), folder


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Resolve the folders that are named, so that the run can be resumed from any folder."""

    def resolve(path: str) -> str:
        return str(Path(path).resolve()) if path else ""

    data, model = config.data, config.model
    corpora = tuple(resolve(path) for path in data.corpus)
    return replace(
        config,
        run_dir=resolve(config.run_dir),
        init=resolve(config.init),
        data=replace(data, corpus=corpora, valid=resolve(data.valid), cloze=resolve(data.cloze)),
        model=replace(model, pretrained=resolve(model.pretrained)),
    )


def resume_command(config: RunConfig) -> str:
    """Return the command that resumes the run, as this one was started on this node."""
    started = os.environ.get(COMMAND)  # by `tresse train`
    if started is None and "TORCHELASTIC_RUN_ID" in os.environ:
        started = shlex.join(["torchrun", *_options_of_torchrun(), sys.argv[0]])
    several = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    where = " (on each node)" if several else ""
    return f"{started or f'python {sys.argv[0]}'} --run-dir {config.run_dir}{where}"


def _options_of_torchrun() -> list[str]:
    """Return the options that torchrun was given: the words before the script."""
    words = psutil.Process(os.getppid()).cmdline()
    options = words[: words.index(sys.argv[0])] if sys.argv[0] in words else []
    while options and not options[0].startswith("--"):
        del options[0]  # python -m torch.distributed.run
    return options or ["--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]


def leave_status(status: int) -> None:
    """Leave the exit status for `tresse train`, if that started this process."""
    if path := os.environ.get(STATUS):
        Path(path).write_text(str(status))


def _with_shape(config: RunConfig) -> RunConfig:
    """Read the shape of a model from its checkpoint, if the recipe has none."""
    from tresse.engine.pretrained import with_shape  # it takes torch

    try:
        return replace(config, model=with_shape(config.model))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def usage() -> str:
    """Return the help of the main job, with one line per recipe."""
    width = max(map(len, RECIPES))
    lines = [f"  {name:{width}}  {_summary(name)}" for name in RECIPES]
    return USAGE.format(
        command=_command(),
        option="[OPTION ...] " if COMMAND in os.environ else "",
        default=DEFAULT_RECIPE,
        recipes="\n".join(lines),
        launcher=LAUNCHER if COMMAND in os.environ else "",
    )


def _command() -> str:
    """Return the command that the user typed, without options of torchrun."""
    return "tresse train" if COMMAND in os.environ else "engine/train.py"


def _summary(recipe: str) -> str:
    return (RECIPES[recipe].__doc__ or "").split("\n")[0]


def _run_dir(arguments: list[str]) -> str:
    """Find the value of --run-dir: the run there gives the defaults of all other flags."""
    for position, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in ("--run-dir", "--run_dir"):
            return value or next(iter(arguments[position + 1 :]), "")
    return ""
