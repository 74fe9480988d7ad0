"""Cases of the layers: RMSNorm, SwiGLU with the projection after it, the rotation of q and k."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tresse.bench.kernels import peers
from tresse.bench.kernels.inputs import Inputs, Shape
from tresse.bench.kernels.providers import (
    Case,
    Provider,
    both_ways,
    case_with_peers,
    differentiable,
    product_flops,
)
from tresse.kernels.rmsnorm import add_rmsnorm, rmsnorm
from tresse.kernels.rope import rope_qkv, rope_tables
from tresse.kernels.swiglu import swiglu_linear

EPS = 1e-5


def rmsnorm_formula(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm by PyTorch's own function."""
    return F.rms_norm(x, weight.shape, weight, EPS)


def rmsnorm_case(shape: Shape, device: torch.device) -> Case:
    """RMSNorm alone, the first of a model."""
    N, D, inputs = shape.N, shape.D, Inputs(device)
    return case_with_peers(
        partial(rmsnorm, eps=EPS),
        rmsnorm_formula,
        [inputs.leaf(N, D), inputs.leaf(D)],
        [inputs.normal(N, D)],
        kernel="rmsnorm",
        shape=f"{shape.name} N={N} D={D}",
        names=("y", "dx", "dweight"),
        num_bytes=both_ways(2 * 2 * N * D, 3 * 2 * N * D),  # x, y; x, dy, dx
        others={
            "liger": partial(peers.liger_rmsnorm, eps=EPS),
            "quack": partial(peers.quack_rmsnorm, eps=EPS),
        },
    )


def add_rmsnorm_formula(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The residual addition, then PyTorch's RMSNorm."""
    total = x + residual
    return rmsnorm_formula(total, weight), total


def add_rmsnorm_case(shape: Shape, device: torch.device) -> Case:
    """Residual addition and RMSNorm, twice a layer."""
    N, D, inputs = shape.N, shape.D, Inputs(device)
    return case_with_peers(
        partial(add_rmsnorm, eps=EPS),
        add_rmsnorm_formula,
        [inputs.leaf(N, D), inputs.leaf(N, D), inputs.leaf(D)],
        [inputs.normal(N, D), inputs.normal(N, D)],
        kernel="add_rmsnorm",
        shape=f"{shape.name} N={N} D={D}",
        names=("y", "residual", "dx", "dresidual", "dweight"),
        # x, residual, y, new residual; dy, new residual and its gradient, dx
        num_bytes=both_ways(4 * 2 * N * D, 4 * 2 * N * D),
        others={
            "liger": partial(peers.liger_add_rmsnorm, eps=EPS),
            "quack": partial(peers.quack_add_rmsnorm, eps=EPS),
        },
    )


def swiglu_linear_formula(gate_up: Tensor, weight: Tensor) -> Tensor:
    """Multiply silu(gate) by up, then by the weight."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, weight)


def swiglu_linear_case(shape: Shape, device: torch.device) -> Case:
    """SwiGLU and the down projection, which share what the backward needs."""
    N, D, width, inputs = shape.N, shape.D, shape.F, Inputs(device)

    def liger(gate_up: Tensor, weight: Tensor) -> Tensor:
        return F.linear(peers.liger_swiglu(gate_up), weight)

    return case_with_peers(
        swiglu_linear,
        swiglu_linear_formula,
        [inputs.leaf(N, 2 * width), inputs.leaf(D, width, std=0.02)],
        [inputs.normal(N, D)],
        kernel="swiglu_linear",
        shape=f"{shape.name} N={N} F={width} D={D}",
        names=("y", "dgate_up", "dweight"),
        # gate, up, y; dy, gate, up and both gradients; weights are small beside them
        num_bytes=both_ways(2 * N * (2 * width + D), 2 * N * (4 * width + D)),
        flops=product_flops(N, D, width),
        others={"liger": liger},
    )


def rope_formula(qkv: Tensor, cos: Tensor, sin: Tensor, heads: tuple[int, int, int]):
    """Rotation of the q and k of a packed projection, in fp32."""
    T, half = cos.shape
    q, k, v = qkv.view(-1, T, sum(heads), 2 * half).split(heads, dim=2)

    def rotated(x: Tensor) -> Tensor:
        x1, x2 = x.float().chunk(2, dim=-1)
        table_cos, table_sin = cos[:, None], sin[:, None]
        y = torch.cat((x1 * table_cos - x2 * table_sin, x2 * table_cos + x1 * table_sin), dim=-1)
        return y.to(x.dtype).flatten(0, 1)

    return rotated(q), rotated(k), v.flatten(0, 1)


def rope_case(shape: Shape, device: torch.device) -> Case:
    """Rotary embedding on the packed projection of q, k and v."""
    N, T, K, inputs = shape.N, shape.T, shape.K, Inputs(device)
    heads = (shape.H, shape.Hkv, shape.Hkv)
    tables = rope_tables(T, K, 500_000.0, None, device)
    qkv = inputs.leaf(N, sum(heads) * K)
    cotangents = [inputs.normal(N, num_heads, K) for num_heads in heads]
    cos, sin = tables
    rotated_bytes = 2 * N * K * (shape.H + shape.Hkv)
    packed_bytes = 2 * N * K * sum(heads)
    return case_with_peers(
        lambda qkv: rope_qkv(qkv, cos, sin, shape.H, shape.Hkv),
        partial(rope_formula, cos=cos, sin=sin, heads=heads),
        [qkv],
        cotangents,
        kernel="rope_qkv",
        shape=f"{shape.name} N={N} H={shape.H} Hkv={shape.Hkv} K={K}",
        names=("q", "k", "v", "dqkv"),
        # q and k there and back, in place; the three gradients into the packed one
        num_bytes=both_ways(2 * rotated_bytes, 2 * packed_bytes),
        makers={
            "liger": lambda: rope_by_liger(qkv, cotangents, tables, heads),
            "quack": lambda: rope_by_quack(qkv, cotangents, tables, heads),
        },
    )


def rope_by_liger(
    qkv: Tensor, cotangents: list[Tensor], tables: tuple[Tensor, Tensor], heads: tuple[int, ...]
) -> Provider:
    """Liger, which rotates separate q and k in place and never touches v.

    It is given them as three projections would leave them.
    """
    N, T = len(qkv), len(tables[0])

    def rows(x: Tensor) -> Tensor:
        return x.detach().view(-1, T, *x.shape[1:])

    q, k, v = qkv.view(N, sum(heads), -1).split(heads, dim=1)
    cos, sin = (torch.cat((table, table), dim=1) for table in tables)
    own = [rows(x.contiguous()).requires_grad_() for x in (q, k)]
    grads = [rows(grad) for grad in cotangents[:2]]

    def arrange(found: list[Tensor]) -> list[Tensor]:
        y_q, y_k, dq, dk = (x.flatten(0, 1) for x in found)
        return [y_q, y_k, v, torch.cat((dq, dk, cotangents[2]), dim=1).view(N, -1)]

    rotate = partial(peers.liger_rope, cos=cos, sin=sin)
    return differentiable(rotate, own, grads, overwrites=True, arrange=arrange)


def rope_by_quack(
    qkv: Tensor, cotangents: list[Tensor], tables: tuple[Tensor, Tensor], heads: tuple[int, ...]
) -> Provider:
    """quack, which rotates in place: its q, k and v are strided views of the packed tensor."""
    T, K = len(tables[0]), cotangents[0].shape[2]
    packed = qkv.detach().view(-1, T, sum(heads) * K).requires_grad_()
    rotate = partial(peers.quack_rope, cos=tables[0], sin=tables[1], heads=heads, head_dim=K)

    def arrange(found: list[Tensor]) -> list[Tensor]:
        return [*found[:3], found[3].flatten(0, 1)]

    return differentiable(rotate, [packed], cotangents, overwrites=True, arrange=arrange)
