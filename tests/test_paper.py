"""Every command of docs/paper.md, parsed by the real parsers; nothing is run."""

import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from tests.support.processes import ROOT
from tresse.data import prepare
from tresse.engine import commands, pretrained
from tresse.engine.forecast import command as forecast
from tresse.engine.run import launch
from tresse.engine.run.command_line import parse_config

PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
TABLES = ("AUDIO", "EVALUATION", "FORMATS", "SPEECH", "TEXTS")
STEPS = {
    *("split", "translate", "speak", "choose-voices", "audio", "pico", "cloze-texts"),
    *("eval", "eval-items", "merge", "verify", "plan", "train", "table", "compare", "score"),
}
"""Verbs without which the way from text to Table 3 is not whole."""


def blocks(language: str) -> list[str]:
    """Return the blocks of the page in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def page_commands() -> list[list[str]]:
    """Return the words of each command of ours on the page; those of shell loops too."""
    lines = [line.strip() for block in blocks("") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("tresse ", "torchrun "))]


def as_verb(words: list[str]) -> list[str]:
    """Return the words after `tresse` that do the same as a command."""
    if words[0] == "tresse":
        return words[1:]
    _, rest = launch.split(get_args_parser(), words[1:])
    assert (ROOT / rest[0]).is_file(), rest
    return [{"data/prepare.py": "prepare", "engine/train.py": "train"}[rest[0]], *rest[1:]]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the commands that were parsed, none of which does anything."""
    names: list[str] = []

    def note(name: str, function: Callable[..., object]) -> Callable[..., None]:
        return functools.wraps(function)(lambda *_, **__: names.append(name))

    for table in (getattr(prepare, name) for name in TABLES):
        for name, function in table.items():
            monkeypatch.setitem(table, name, note(name, function))
    for name, spec in commands.app._subcommands.items():
        assert callable(spec.target)
        monkeypatch.setattr(spec, "target", note(name, spec.target))

    def train(arguments: list[str]) -> None:
        parse_config(launch.split(get_args_parser(), arguments)[1])
        names.append("train")
        sys.exit(0)

    monkeypatch.setattr(launch, "train", train)
    monkeypatch.setattr(pretrained, "with_shape", lambda model: model)
    monkeypatch.setattr(forecast, "forecast_run", lambda *_: names.append("plan"))
    monkeypatch.setattr(forecast, "format_forecast", lambda *_: "")
    monkeypatch.chdir(tmp_path)
    (recipe,) = blocks("json")
    Path("de.json").write_text(recipe)
    return names


@contextmanager
def suppress_success() -> Iterator[None]:
    """Suppress an exit with status 0."""
    try:
        yield
    except SystemExit as end:
        if end.code:
            raise


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the words after `tresse` as the console script does."""
    monkeypatch.setattr(sys, "argv", ["tresse", *words])
    with suppress_success():
        commands.main()


def test_every_command_of_the_page_parses(
    parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in page_commands():
        before = len(parsed)
        parse(as_verb(words), monkeypatch)
        assert len(parsed) == before + 1, shlex.join(words)
    assert set(parsed) >= STEPS


@pytest.mark.parametrize(
    "line",
    [
        "prepare translate a.txt --from en --to fr --out b --translater x",
        "prepare speak a.jsonl --out b",
        "train 1b-interleave --data.korpus a",
        "compare a",
    ],
)
def test_a_command_that_is_wrong_would_be_noticed(
    line: str, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        parse(shlex.split(line), monkeypatch)
    assert not parsed


def test_the_files_that_commands_name_are_written_by_those_before() -> None:
    """Corpora and texts are made before they are used."""
    made: set[str] = set()
    for words in page_commands():
        used = [word for word in words if word.startswith(("corpora/", "texts/", "spoken/"))]
        out = words[words.index("--out") + 1] if "--out" in words else ""
        for path in used:
            assert path == out or any(path.startswith(folder) for folder in made), words
        made.add(out or "-")
