"""Call functions on the GPU, and skip tests for which its memory is too small."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its inputs go to the GPU and its outputs come back."""

    def moved(*inputs: torch.Tensor) -> Any:
        outputs = function(*(x.cuda() for x in inputs))
        return (
            outputs.cpu() if isinstance(outputs, torch.Tensor) else tuple(y.cpu() for y in outputs)
        )

    return moved


def outputs_and_gradients(
    function: Callable[..., Any], leaves: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Call on tensors of the GPU, with random gradients of the outputs."""
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [y for y in outputs if y.requires_grad]
    generator = torch.Generator("cuda").manual_seed(9)
    grads = [torch.empty_like(y).normal_(generator=generator) for y in wanted]
    return [*outputs, *torch.autograd.grad(wanted, leaves, grads)]


def need_memory(num_bytes: float) -> None:
    """Skip the test where less memory of the GPU is free."""
    free = torch.cuda.mem_get_info()[0]
    if free < num_bytes:
        pytest.skip(f"needs {num_bytes / 1e9:.0f} GB of device memory, {free / 1e9:.0f} are free")
