"""Each kernel on a GPU, in every dtype, against its definition in fp64.

The bound is that of tests/support/accuracy.py, with PyTorch on the GPU as the measure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.gpu.on_gpu import need_memory, on_gpu, outputs_and_gradients
from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tresse.kernels.cross_entropy import IGNORE_INDEX, cross_entropy_
from tresse.kernels.linear_cross_entropy import (
    linear_cross_entropy_reference,
    linear_cross_entropy_triton,
)
from tresse.kernels.rmsnorm import (
    add_rmsnorm_reference,
    add_rmsnorm_triton,
    rmsnorm_reference,
    rmsnorm_triton,
)
from tresse.kernels.rope import rope_qkv_reference, rope_qkv_triton, rope_tables
from tresse.kernels.swiglu import (
    launch_backward_,
    launch_forward,
    swiglu_linear_reference,
    swiglu_linear_triton,
)

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
SEEDS = [0, 100]
T = 7  # positions of a row: rope's tables repeat


@dataclass(frozen=True)
class Case:
    """A kernel at one size, and its definition."""

    name: str
    kernel: Callable
    reference: Callable
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its inputs."""

    def inputs(self, seed: int) -> list[torch.Tensor]:
        """Draw normals in fp64, wide enough for the ends of sigmoids and exponentials."""
        return [2 * random(*shape, seed=seed + i) for i, shape in enumerate(self.shapes)]


def rope_case(N: int, heads: tuple[int, int], K: int) -> Case:
    width = (heads[0] + 2 * heads[1]) * K

    def bound(function: Callable) -> Callable:
        def rotate(qkv: torch.Tensor):
            return function(qkv, *rope_tables(T, K, 500.0, None, qkv.device), *heads)

        return rotate

    functions = bound(rope_qkv_triton), bound(rope_qkv_reference)
    return Case(f"rope {N}x{heads}x{K}", *functions, ((N, width),))


def labels_of(N: int, num_classes: int) -> torch.Tensor:
    """Draw labels; every third one is ignored, and the first and the last class occur."""
    labels = torch.randint(num_classes, (N,), generator=torch.Generator().manual_seed(0))
    labels[0], labels[-1] = num_classes - 1, 0
    labels[1::3] = IGNORE_INDEX
    return labels


class InPlace(torch.autograd.Function):
    """`cross_entropy_`, with the gradient that it leaves in the memory of the logits."""

    @staticmethod
    def forward(ctx, logits: torch.Tensor, labels: torch.Tensor, num_classes: int):
        dlogits, losses = logits.clone(), torch.empty_like(labels, dtype=torch.float32)
        cross_entropy_(dlogits, labels, num_classes, losses, torch.ones((), device=logits.device))
        ctx.save_for_backward(dlogits)
        return losses.sum()

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor):
        return ctx.saved_tensors[0] * grad_outputs[0], None, None


def cross_entropy_case(N: int, V: int, num_classes: int) -> Case:
    labels = labels_of(N, num_classes)

    def kernel(logits: torch.Tensor) -> torch.Tensor:
        return InPlace.apply(logits, labels.to(logits.device), num_classes)  # type: ignore[return-value]

    def reference(logits: torch.Tensor) -> torch.Tensor:
        used = logits[:, :num_classes]
        used = used if used.dtype == torch.float64 else used.float()
        return F.cross_entropy(used, labels.to(logits.device), reduction="sum")

    return Case(f"cross_entropy {N}x{V}, {num_classes} used", kernel, reference, ((N, V),))


def linear_cross_entropy_case(N: int, D: int, V: int, num_classes: int) -> Case:
    labels = labels_of(N, num_classes)

    def bound(function: Callable) -> Callable:
        def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            scale = torch.tensor(0.125, device=hidden.device)
            weight = weight / D**0.5
            return function(hidden, weight, labels.to(hidden.device), num_classes, scale)[0]

        return loss

    functions = bound(linear_cross_entropy_triton), bound(linear_cross_entropy_reference)
    return Case(f"linear_cross_entropy {N}x{D}x{V}", *functions, ((N, D), (V, D)))


def cases() -> list[Case]:
    """The paper's widths with one row and with more than programs at a time, and odd ones."""
    eps = 1e-5
    norm, add = partial(rmsnorm_triton, eps=eps), partial(add_rmsnorm_triton, eps=eps)
    norm_by, add_by = partial(rmsnorm_reference, eps=eps), partial(add_rmsnorm_reference, eps=eps)
    found = []
    for N, D in [(1, 2048), (1001, 2048), (1001, 896), (37, 123)]:
        found.append(Case(f"rmsnorm {N}x{D}", norm, norm_by, ((N, D), (D,))))
        found.append(Case(f"add_rmsnorm {N}x{D}", add, add_by, ((N, D), (N, D), (D,))))
    for N, width, D in [(1, 1, 1), (101, 8192, 2048), (101, 4864, 896), (37, 123, 24)]:
        functions = swiglu_linear_triton, swiglu_linear_reference
        found.append(
            Case(f"swiglu_linear {N}x{width}x{D}", *functions, ((N, 2 * width), (D, width)))
        )
    for N, heads, K in [(7 * 43, (32, 8), 64), (7 * 43, (14, 2), 64), (7, (3, 1), 6)]:
        found.append(rope_case(N, heads, K))
    for size in [(301, 2048, 2048), (301, 2176, 2051), (33, 128_256, 128_256), (37, 131, 101)]:
        found.append(cross_entropy_case(*size))
    for size in [(4099, 256, 2048, 2048), (301, 896, 2176, 2051), (37, 64, 136, 101)]:
        found.append(linear_cross_entropy_case(*size))
    return found


CASES = cases()
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_kernel_is_as_accurate_as_pytorch(case: Case, dtype: torch.dtype, seed: int):
    ours, plain = on_gpu(case.kernel), on_gpu(case.reference)
    assert_as_accurate_as_pytorch(ours, plain, case.inputs(seed), dtype)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_kernel_gives_the_same_bits_again(case: Case, dtype: torch.dtype):
    leaves = [x.cuda().to(dtype).requires_grad_() for x in case.inputs(0)]
    first, second = (outputs_and_gradients(case.kernel, leaves) for _ in range(2))
    assert all(map(torch.equal, first, second))


def with_gradient(function: Callable, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs and the gradient of their sum."""
    leaf = x.clone().requires_grad_()
    outputs = function(leaf)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    (grad,) = torch.autograd.grad(outputs, leaf, [torch.ones_like(y) for y in outputs])
    return [*(y.detach() for y in outputs), grad]


# Offsets of 32 bits would wrap. The last rows must equal those of a call on them alone.
@pytest.mark.parametrize("name", ["add_rmsnorm", "swiglu", "rope", "cross_entropy"])
def test_rows_behind_two_to_the_31_values_are_like_any_other(name: str):
    width, shared = 4096, torch.randn(4096, device="cuda").bfloat16()
    N = 2**31 // width + 7
    need_memory(12 * 2 * N * width)
    labels = torch.randint(width, (N,), device="cuda")
    tables = rope_tables(N, 64, 500.0, None, torch.device("cuda"))

    def call(rows: torch.Tensor, first: int) -> list[torch.Tensor]:
        if name == "add_rmsnorm":
            return with_gradient(lambda x: add_rmsnorm_triton(x, x, shared, 1e-5), rows)
        if name == "rope":
            cos, sin = (table[first:] for table in tables)
            return with_gradient(lambda x: rope_qkv_triton(x, cos, sin, 32, 16), rows)
        if name == "swiglu":
            h = launch_forward(rows)
            h_again = torch.ones_like(h)
            d_gate_up = launch_backward_(h_again, rows, kept=False)
            return [h, h_again, d_gate_up]
        dlogits, losses = rows.clone(), torch.empty(len(rows), device="cuda")
        scale = torch.ones((), device="cuda")
        cross_entropy_(dlogits, labels[first:], width, losses, scale)
        return [losses, dlogits]

    x = torch.randn(N, width, device="cuda", dtype=torch.bfloat16)
    results = [[y[-5:].clone() for y in call(x[first:], first)] for first in (0, N - 5)]
    assert all(map(torch.equal, *results))
