"""Reader of pickles of plain values (dict, str, int, float, None) that runs no code.

`pickle.load` calls any function that a file names. Here `pickletools` lists the instructions, the
few that build plain values are followed, and any other is an error.
"""

import pickletools
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 16
VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "NONE"),
}
IGNORED = {"PROTO", "FRAME"}


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Read the dict in a file; ValueError names anything else in it, which is never called."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: more than {MAX_BYTES} bytes, expected a small dict")
    try:
        value = _build(content)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a whole pickle") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds {type(value).__name__}, expected a dict")
    return value


def _build(content: bytes) -> Any:
    """Follow the instructions of a pickle and return its value."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for instruction, argument, _ in pickletools.genops(content):
        name = instruction.name
        if name in VALUES and not isinstance(argument, bool):
            stack.append(argument)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            start = len(stack) - 2 if name == "SETITEM" else marks.pop()
            items = stack[start:]
            del stack[start:]
            if name == "DICT":
                stack.append({})
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif name == "STOP":
            return stack.pop()
        elif name not in IGNORED:
            raise ValueError(f"{_describe(name, argument, stack)}; expected plain values only")
    raise IndexError("no STOP")


def _describe(name: str, argument: object, stack: list[Any]) -> str:
    """Describe a refused instruction for the message."""
    if name == "STACK_GLOBAL":
        return f"would load {'.'.join(str(part) for part in stack[-2:])}"
    if name in ("GLOBAL", "INST"):
        return f"would load {str(argument).replace(' ', '.')}"
    return f"holds {name}" + (f" {argument}" if isinstance(argument, bool) else "")
