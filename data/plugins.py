"""Functions that a user wrote, named on the command line as `module:function`."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def build_own(flag: str, name: str, known: str, device: str, members: Sequence[str]) -> Any:
    """Call the user's `module:function` with a device and return the object that it builds.

    known: names that the flag takes besides `module:function`, for the message.
    members: attributes that the object must have.
    ValueError names flag and value: not found, not a function of a device, or a member is missing.
    An error that is raised within the user's function is not changed.
    """
    build = import_own(flag, name, known)
    try:
        own = build(device)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # the call itself succeeded
        raise ValueError(
            f"{flag} {name}: {error}; expected a function that is called with the device"
        ) from None
    if missing := [member for member in members if not hasattr(own, member)]:
        raise ValueError(
            f"{flag} {name} gave an object of type {type(own).__name__}, which has no "
            f"{', '.join(missing)}; expected one with {', '.join(members)}"
        )
    return own


def import_own(flag: str, name: str, known: str) -> Callable[..., Any]:
    """Return the user's function `module:function`; ValueError names flag and value without one."""
    module, _, function = name.partition(":")
    if not function or not all(module.split(".")):
        raise ValueError(f"{flag} is {name!r}, expected {known} or module:function")
    if (folder := str(Path.cwd())) not in sys.path:  # a script has its own folder there instead
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{flag} {name}: {error}") from None
