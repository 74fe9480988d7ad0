"""Frozen dataclasses as JSON, read back strictly: no unknown field, no value of another type."""

import json
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

Record = dict[str, Any]
"""A JSON object."""

T = TypeVar("T")


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def to_json(value: object) -> Record:
    """Return a dataclass as plain JSON values."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[T], values: Any) -> T:
    """Return the dataclass that `to_json` wrote.

    ValueError names all unknown fields and the nearest known one, or else the first value that is
    missing, of the wrong type (such as "1" for 1) or out of range, with what was found.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError(_describe(error.errors(), kind)) from None


def _describe(faults: list[ErrorDetails], kind: type) -> str:
    unknown = [f for f in faults if f["type"] == "unexpected_keyword_argument"]
    if unknown:
        names = field_names(kind)
        return "; ".join(_unknown(".".join(map(str, f["loc"])), names) for f in unknown)
    fault = faults[0]
    field = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if fault["type"] == "missing_argument" or fault["type"] == "missing":
        message = "is missing"
    elif fault["type"] != "value_error":
        message = f"{message.replace('a valid array', 'a list')}, found {fault['input']!r}"
    return f"{field}: {message}" if field else message


def _unknown(field: str, names: list[str]) -> str:
    *parents, name = field.split(".")
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {'.'.join([*parents, *near])}?" if near else ""
    return f"there is no field {field}{hint}"


def field_names(kind: type) -> list[str]:
    """Return the names of a dataclass' fields and of those of the dataclasses within, each once."""
    found: dict[str, None] = {}
    todo = [kind]
    while todo:
        hint = todo.pop()
        if isinstance(hint, type) and is_dataclass(hint):
            found |= dict.fromkeys(each.name for each in fields(hint))
            todo += get_type_hints(hint).values()
        else:
            todo += get_args(hint)
    return list(found)
