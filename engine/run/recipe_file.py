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

Objects are laid over the recipe's field by field, lists and values replace its own. Paths are
relative to the current folder. The config.json of a run is such a file too; the folder that it
names is left out.
"""

from pathlib import Path
from typing import Any

from tresse.data.lines import decode_json
from tresse.engine.run.config import RunConfig
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.run_folder import Row, from_json, to_json

SUFFIX = ".json"


def read_recipe(path: Path) -> RunConfig:
    """The recipe in a file; ValueError names the file, and the field that is wrong.

    That is one that there is not, or whose value has another type or is out of its range.
    """
    values = _read(path)
    merged = _merge(to_json(RECIPES[values["recipe"]]()), values)
    try:
        found = from_json(merged, strict=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if unknown := _unknown(merged, to_json(found)):
        raise ValueError(f"{path}: there is no field {', '.join(unknown)}")
    return found


def _read(path: Path) -> Row:
    try:
        values = decode_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    found = values.get("recipe") if isinstance(values, dict) else values
    if not isinstance(values, dict) or found not in tuple(RECIPES):
        raise ValueError(
            f"{path}: expected an object whose field 'recipe' names the recipe that the other "
            f"fields change: {', '.join(RECIPES)}; found {found!r}"
        )
    return {name: value for name, value in values.items() if name != "run_dir"}


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
