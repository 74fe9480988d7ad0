"""A recipe in a file: the name of a recipe and the fields that change in it, as JSON.

    {
      "recipe": "360m-interleave",
      "rows_per_step": 600,
      "stages": [
        {"name": "en", "tokens": 40000000000, "streams": [{"languages": ["en"]}]},
        {"name": "braid", "tokens": 20000000000, "streams": [
          {"languages": ["de", "en", "fr"], "mode": "sample", "weight": 3},
          {"languages": ["en", "fr"], "mode": "alternate"}
        ]}
      ]
    }

An object changes the fields that it names and keeps the others; a list or a value replaces the
recipe's own. Paths are relative to the current folder. The config.json of a run is also a
recipe file; its `run_dir` is ignored.
"""

from pathlib import Path
from typing import Any

from tresse.data.lines import decode_json
from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.typed_json import Record, from_json, to_json

SUFFIX = ".json"


def read_recipe(path: Path) -> RunConfig:
    """Read a recipe file.

    ValueError names the file and the field that is unknown, out of range or of the wrong type.
    """
    changes = _read(path)
    try:
        return from_json(RunConfig, _merge(to_json(RECIPES[changes["recipe"]]()), changes))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> Record:
    try:
        values = decode_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    found = values.get("recipe") if isinstance(values, dict) else values
    if not isinstance(values, dict) or found not in tuple(RECIPES):
        raise ValueError(
            f"{path}: expected an object whose field 'recipe' is one of {', '.join(RECIPES)}; "
            f"found {found!r}"
        )
    return {name: value for name, value in values.items() if name != "run_dir"}


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _merge(old.get(name), value) for name, value in new.items()}
    return new
