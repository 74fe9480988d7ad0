"""Checkouts of other training code: told apart by their files, imported from their folder."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

FILES = {
    "nanochat": "nanochat/gpt.py",
    "interleaved_lm": "src/interleaved_lm/model.py",
}
"""What each of them is known by."""


def recognise(folder: str) -> str:
    """Return the name of the project in a folder; ValueError says what is expected."""
    found = [name for name, file in FILES.items() if (Path(folder) / file).is_file()]
    if len(found) == 1:
        return found[0]
    expected = " or ".join(f"{name} (with {file})" for name, file in FILES.items())
    raise ValueError(f"--peer-dir {folder}: expected a checkout of {expected}")


def import_from(folder: str, module: str) -> Any:
    """Import a module of a checkout."""
    name = module.split(".")[0]
    file = FILES[name]
    root = str(Path(folder).resolve() / file[: file.index(f"{name}/")])
    sys.path.insert(0, root)
    return import_module(module)


def commit(folder: str) -> str:
    """Return the commit of a checkout, or nothing outside git."""
    command = ["git", "-C", folder, "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
