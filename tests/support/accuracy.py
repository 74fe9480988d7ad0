"""Random inputs, and the bound on a kernel's error.

The bound is relative to PyTorch: a kernel may have twice the error that the plain formula has in
the same dtype, plus one unit in the last place of the largest value. The exact results are fp64.
"""

from collections.abc import Callable

import torch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normals in fp64, the same for a seed in every process."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_within_bound(
    name: str,
    ours: torch.Tensor,
    plain: torch.Tensor,
    exact: torch.Tensor,
    dtype: torch.dtype,
    ulps: int = 1,
) -> None:
    """Check the error of ours against that of plain; dtype is the one of the last place."""
    error, floor = ((x.double() - exact).abs().max().item() for x in (ours, plain))
    ulp = torch.finfo(dtype).eps * exact.abs().max().item()
    assert error <= 2 * floor + ulps * ulp, f"{name}: {error=:.3e} {floor=:.3e} {ulp=:.3e}"


def assert_as_accurate_as_pytorch(
    function: Callable,
    formula: Callable,
    inputs: list[torch.Tensor],
    dtype: torch.dtype,
    ulps: int = 1,
) -> None:
    """Check outputs and gradients of a function, with the formula in both precisions as measure."""
    inputs = [x.to(dtype).double() for x in inputs]  # the rounding of the inputs is no error
    exact = _outputs_and_gradients(formula, inputs, torch.float64)
    ours, plain = (_outputs_and_gradients(f, inputs, dtype) for f in (function, formula))
    for i, results in enumerate(zip(ours, plain, exact, strict=True)):
        assert_within_bound(f"result {i}", *results, dtype, ulps)


def _outputs_and_gradients(
    function: Callable, inputs: list[torch.Tensor], dtype: torch.dtype
) -> list[torch.Tensor]:
    """Outputs and gradients of the inputs for a fixed random cotangent."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    cotangents = [random(*y.shape, seed=9).to(y.dtype) for y in outputs]
    grads = torch.autograd.grad(outputs, leaves, cotangents)
    return [x.detach() for x in (*outputs, *grads)]
