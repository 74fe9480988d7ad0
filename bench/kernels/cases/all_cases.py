"""The cases of every kernel at the paper's shapes.

A case has random inputs, never zeros; the formula; the bytes and operations that it needs; and its
providers. "eager" is the formula as one writes it in PyTorch, "compile" the same by torch.compile.
N, D and the other letters: bench/kernels/inputs.py.
"""

from collections.abc import Callable
from functools import partial

import torch

from tresse.bench.kernels.cases.adamw import adamw_case
from tresse.bench.kernels.cases.attention import attention_cases
from tresse.bench.kernels.cases.gather import gather_case
from tresse.bench.kernels.cases.layers import (
    add_rmsnorm_case,
    rmsnorm_case,
    rope_case,
    swiglu_linear_case,
)
from tresse.bench.kernels.cases.loss import cross_entropy_case, linear_cross_entropy_case
from tresse.bench.kernels.cases.mlp import mlp_case
from tresse.bench.kernels.inputs import Shape, shapes, vocabularies
from tresse.bench.kernels.providers import Case

Maker = Callable[[torch.device], list[Callable[[], Case]]]


def by_shape(make: Callable[[Shape, torch.device], Case]) -> Maker:
    """A case of each model."""
    return lambda device: [partial(make, shape, device) for shape in shapes(device)]


def by_vocabulary(make: Callable[[int, int, Shape, torch.device], Case]) -> Maker:
    """A case of each vocabulary, on the first model."""
    return lambda device: [
        partial(make, classes, columns, shapes(device)[0], device)
        for classes, columns in vocabularies(device)
    ]


KERNELS: dict[str, Maker] = {
    "mlp": by_shape(mlp_case),
    "attention": attention_cases,
    "linear_cross_entropy": by_vocabulary(linear_cross_entropy_case),
    "swiglu_linear": by_shape(swiglu_linear_case),
    "add_rmsnorm": by_shape(add_rmsnorm_case),
    "rope_qkv": by_shape(rope_case),
    "adamw": lambda device: [partial(adamw_case, device)],
    "cross_entropy": by_vocabulary(cross_entropy_case),
    "rmsnorm": by_shape(rmsnorm_case),
    "gather": lambda device: [partial(gather_case, shapes(device)[0], device)],
}
"""The cases of each kernel on a device, made one at a time: their inputs fill gigabytes."""
