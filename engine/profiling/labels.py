"""Names of a step's parts in a trace: those of engine/forecast/step_time.py.

While the labels are on, the functions that the model and the step call open a range named after
their part. The backward pass has no ranges: its operators are found by the sequence number that
autograd gives them and the operator of the forward pass.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch.profiler import record_function

PREFIX = "tresse.part."
FUNCTIONS = {
    "tresse.engine.model.add_rmsnorm": "norm",
    "tresse.engine.model.rope_qkv": "rope",
    "tresse.engine.model.swiglu_linear": "swiglu",
    "tresse.engine.model.linear_cross_entropy": "loss",
    "tresse.engine.step.apply_gradient": "optimizer",
}
"""Functions that a step calls by these names, and their parts."""


@contextmanager
def labels() -> Iterator[None]:
    """Label the parts of every step that is taken inside."""
    patches = [patch(name, _labelled_by_name(name, part)) for name, part in FUNCTIONS.items()]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def _labelled_by_name(name: str, part: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    return labelled(part, getattr(__import__(module, fromlist=[function]), function))


def labelled(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a range around each call."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(PREFIX + part):
            return function(*args, **kwargs)

    return call
