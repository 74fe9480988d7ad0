"""The whole MLP: both projections with SwiGLU between them, which quack has in their epilogues."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tresse.bench.kernels import peers
from tresse.bench.kernels.cases.layers import swiglu_linear_formula
from tresse.bench.kernels.inputs import Inputs, Shape
from tresse.bench.kernels.providers import Case, both_ways, case_with_peers, differentiable
from tresse.kernels.swiglu import swiglu_linear


def mlp(x: Tensor, gate_up: Tensor, down: Tensor, *, keep_h: bool) -> Tensor:
    """The MLP as the model computes it."""
    return swiglu_linear(F.linear(x, gate_up), down, keep_h=keep_h)


def mlp_formula(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The MLP as one writes it in PyTorch."""
    return swiglu_linear_formula(F.linear(x, gate_up), down)


def mlp_case(shape: Shape, device: torch.device) -> Case:
    """The MLP of a layer."""
    N, D, width, inputs = shape.N, shape.D, shape.F, Inputs(device)
    leaves = [inputs.leaf(N, D), inputs.leaf(2 * width, D, std=0.02)]
    leaves.append(inputs.leaf(D, width, std=0.02))
    cotangents = [inputs.normal(N, D)]
    keeping = partial(differentiable, partial(mlp, keep_h=True), leaves, cotangents)
    flops, moved = 6.0 * N * D * width, 2.0 * (2 * N * D + 3 * D * width)
    return case_with_peers(
        partial(mlp, keep_h=False),
        mlp_formula,
        leaves,
        cotangents,
        kernel="mlp",
        shape=f"{shape.name} N={N} D={D} F={width}",
        names=("y", "dx", "dgate_up", "ddown"),
        num_bytes=both_ways(moved, 2 * moved),
        flops=both_ways(flops, 2 * flops),
        others={"quack": peers.quack_mlp},
        makers={"keep_h": keeping},
    )
