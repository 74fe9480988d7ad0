"""A recipe in a file: JSON of the fields in which it differs from the recipe that it names.

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

Objects are laid over the recipe's field by field, lists and values replace its own. The config.json
of a run is such a file too; the folder that it names is left out.
"""

from pathlib import Path
from typing import Any

from tresse.data.tensor_file import decode_json
from tresse.engine.config import RunConfig
from tresse.engine.recipes import RECIPES
from tresse.engine.run_folder import Row, from_json, to_json

SUFFIX = ".json"


def read_recipe(path: Path) -> Row:
    """The fields of a recipe file; ValueError names the file and what is wrong with it."""
    try:
        values = decode_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict) or values.get("recipe") not in RECIPES:
        raise ValueError(
            f"{path}: expected an object whose field 'recipe' names the recipe that the other "
            f"fields change: {', '.join(RECIPES)}"
        )
    return {name: value for name, value in values.items() if name != "run_dir"}


def overlay(config: RunConfig, values: Row, path: Path) -> RunConfig:
    """The configuration with the values of a recipe file, called as the file is.

    ValueError names the file and a field that is unknown, of another type or out of its range.
    """
    merged = _merge(to_json(config), values | {"recipe": path.stem})
    try:
        found = from_json(merged)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if unknown := _unknown(merged, to_json(found)):
        raise ValueError(f"{path}: there is no field {', '.join(unknown)}")
    return found


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _merge(old.get(name), value) for name, value in new.items()}
    return new


def _unknown(given: Any, known: Any, field: str = "") -> list[str]:
    """Fields that were given and have no place: parsing passes over them."""
    if isinstance(given, dict) and isinstance(known, dict):
        names = [(name, f"{field}.{name}".lstrip(".")) for name in given]
        missing = [path for name, path in names if name not in known]
        inner = (_unknown(given[name], known[name], path) for name, path in names if name in known)
        return missing + [path for paths in inner for path in paths]
    if isinstance(given, list) and isinstance(known, list):
        pairs = enumerate(zip(given, known, strict=True))
        return [path for i, pair in pairs for path in _unknown(*pair, f"{field}.{i}")]
    return []
