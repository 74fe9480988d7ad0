"""A step of DeepSpeed's optimizer that is left out at a high gradient norm."""

import math
from typing import Any


class Guard:
    """Stands before an optimizer's step, and leaves it out if the gradient norm is too high.

    DeepSpeed's own step takes the norm, clips, and then calls the optimizer, at some levels once
    for each group of parameters.
    """

    def __init__(self, optimizer: Any, inner: Any) -> None:
        self._optimizer = optimizer
        self._step = inner.step
        inner.step = self
        self.begin(math.inf)

    def begin(self, limit: float, norm: float | None = None) -> None:
        """Begin a step; norm: what it is, if DeepSpeed will not say."""
        self.limit, self.norm, self.updated = limit, norm, False

    def __call__(self) -> None:
        """Take the optimizer's step, or leave it out."""
        if self.norm is None:
            self.norm = float(self._optimizer._global_grad_norm)
        if math.isfinite(self.norm) and self.norm <= self.limit:
            self._step()
            self.updated = True
