"""The kernels at the paper's shapes: inputs, formulas, bytes and operations, and who computes them.

Inputs are random, never zeros. "eager" is the formula as one writes it in PyTorch, "compile" the
same by torch.compile. N, D and the other letters: bench/kernels/inputs.py.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tresse.bench.kernels import peers
from tresse.bench.kernels.adamw import adamw_case
from tresse.bench.kernels.attention import attention_cases
from tresse.bench.kernels.inputs import (
    Inputs,
    Maker,
    Shape,
    by_shape,
    by_vocabulary,
    narrowed,
    shapes,
    with_peers,
)
from tresse.bench.kernels.providers import (
    BACKWARD,
    BOTH,
    FORWARD,
    Case,
    Function,
    Provider,
    differentiable,
    differentiated,
)
from tresse.bench.kernels.timing import Call
from tresse.kernels.cross_entropy import cross_entropy_
from tresse.kernels.gather import gather_rows, gather_rows_reference
from tresse.kernels.linear_cross_entropy import linear_cross_entropy
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
    leaves = [inputs.leaf(N, D), inputs.leaf(D)]
    cotangents = [inputs.normal(N, D)]
    own = partial(differentiable, leaves=leaves, cotangents=cotangents)
    return Case(
        kernel="rmsnorm",
        shape=f"{shape.name} N={N} D={D}",
        names=("y", "dx", "dweight"),
        want=lambda: differentiated(rmsnorm_formula, leaves, cotangents),
        providers=with_peers(
            partial(rmsnorm, eps=EPS),
            rmsnorm_formula,
            leaves,
            cotangents,
            {
                "liger": lambda: own(partial(peers.liger_rmsnorm, eps=EPS)),
                "quack": lambda: own(partial(peers.quack_rmsnorm, eps=EPS)),
            },
        ),
        # x, y; then x, dy, dx
        num_bytes={FORWARD: 2 * 2 * N * D, BACKWARD: 3 * 2 * N * D, BOTH: 5 * 2 * N * D},
        flops={},
    )


def add_rmsnorm_formula(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The residual addition, then PyTorch's RMSNorm."""
    total = x + residual
    return rmsnorm_formula(total, weight), total


def add_rmsnorm_case(shape: Shape, device: torch.device) -> Case:
    """Residual addition and RMSNorm, twice a layer."""
    N, D, inputs = shape.N, shape.D, Inputs(device)
    leaves = [inputs.leaf(N, D), inputs.leaf(N, D), inputs.leaf(D)]
    cotangents = [inputs.normal(N, D), inputs.normal(N, D)]
    own = partial(differentiable, leaves=leaves, cotangents=cotangents)
    return Case(
        kernel="add_rmsnorm",
        shape=f"{shape.name} N={N} D={D}",
        names=("y", "residual", "dx", "dresidual", "dweight"),
        want=lambda: differentiated(add_rmsnorm_formula, leaves, cotangents),
        providers=with_peers(
            partial(add_rmsnorm, eps=EPS),
            add_rmsnorm_formula,
            leaves,
            cotangents,
            {
                "liger": lambda: own(partial(peers.liger_add_rmsnorm, eps=EPS)),
                "quack": lambda: own(partial(peers.quack_add_rmsnorm, eps=EPS)),
            },
        ),
        # x, residual, y, new residual; then dy, new residual and its gradient, dx
        num_bytes={FORWARD: 4 * 2 * N * D, BACKWARD: 4 * 2 * N * D, BOTH: 8 * 2 * N * D},
        flops={},
    )


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """PyTorch's cross-entropy in fp32, which bf16 logits need."""
    return F.cross_entropy(logits.float(), labels)


def cross_entropy_case(classes: int, columns: int, shape: Shape, device: torch.device) -> Case:
    """Mean loss of logits and its gradient; ours and Liger's replaces the logits."""
    shape = narrowed(shape, columns)
    N, V, inputs = shape.N, columns, Inputs(device)
    labels = inputs.labels(N, classes)
    leaves = [inputs.leaf(N, V, std=2.0)]
    cotangents = [torch.ones((), device=device)]
    scale = torch.tensor(1 / N, device=device)

    def used(function: Function) -> Function:
        cut = classes < V  # a slice of all columns would still copy its gradient
        return lambda logits: function(logits[:, :classes] if cut else logits, labels)

    def ours() -> Provider:
        logits, losses = leaves[0].detach().clone(), torch.empty_like(labels, dtype=torch.float32)

        def restore() -> None:
            logits.copy_(leaves[0].detach())

        def run() -> None:
            cross_entropy_(logits, labels, classes, losses, scale)

        def results() -> list[Tensor]:
            restore()
            run()
            return [losses.mean(), logits]

        alone = Call(lambda: cross_entropy_(logits, labels, classes, losses))
        return Provider({FORWARD: alone, BOTH: Call(run, restore)}, results)

    directions = (FORWARD, BOTH)
    own = partial(differentiable, leaves=leaves, cotangents=cotangents)
    liger = used(peers.liger_cross_entropy)
    providers = with_peers(
        used(mean_loss),
        used(mean_loss),
        leaves,
        cotangents,
        {
            "liger": lambda: own(liger, directions=(BOTH,), overwrites=True),
            "quack": lambda: own(used(peers.quack_cross_entropy), directions=directions),
        },
        directions=directions,
    )
    return Case(
        kernel="cross_entropy",
        shape=f"N={N} V={V} C={classes}",
        names=("loss", "dlogits"),
        want=lambda: differentiated(used(mean_loss), leaves, cotangents),
        providers=providers | ({"tresse": ours} if device.type == "cuda" else {}),
        # logits; logits and dlogits
        num_bytes={FORWARD: 2 * N * V, BOTH: 2 * 2 * N * V},
        flops={},
    )


def swiglu_linear_formula(gate_up: Tensor, weight: Tensor) -> Tensor:
    """Multiply silu(gate) by up, then by the weight."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, weight)


def swiglu_linear_case(shape: Shape, device: torch.device) -> Case:
    """SwiGLU and the down projection, which share what the backward needs."""
    N, D, width, inputs = shape.N, shape.D, shape.F, Inputs(device)
    leaves = [inputs.leaf(N, 2 * width), inputs.leaf(D, width, std=0.02)]
    cotangents = [inputs.normal(N, D)]

    def liger(gate_up: Tensor, weight: Tensor) -> Tensor:
        return F.linear(peers.liger_swiglu(gate_up), weight)

    return Case(
        kernel="swiglu_linear",
        shape=f"{shape.name} N={N} F={width} D={D}",
        names=("y", "dgate_up", "dweight"),
        want=lambda: differentiated(swiglu_linear_formula, leaves, cotangents),
        providers=with_peers(
            swiglu_linear,
            swiglu_linear_formula,
            leaves,
            cotangents,
            {"liger": lambda: differentiable(liger, leaves, cotangents)},
        ),
        # gate, up, y; then dy, gate, up and both gradients; weights are small beside them
        num_bytes={
            FORWARD: 2 * N * (2 * width + D),
            BACKWARD: 2 * N * (4 * width + D),
            BOTH: 2 * N * (6 * width + 2 * D),
        },
        flops=product_flops(N, D, width),
    )


def product_flops(N: int, D: int, width: int) -> dict[str, float]:
    """Of y = x @ w.T: one product forward, two backward."""
    product = 2.0 * N * D * width
    return {FORWARD: product, BACKWARD: 2 * product, BOTH: 3 * product}


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
    """Rotary embedding on the packed projection of q, k and v.

    Liger rotates q and k that lie apart, in place, and never touches v: it is given them so, as
    where the three projections are three products. quack rotates in place, so that q, k and v are
    strided views of the packed tensor.
    """
    N, T, K, inputs = shape.N, shape.T, shape.K, Inputs(device)
    heads = (shape.H, shape.Hkv, shape.Hkv)
    cos, sin = rope_tables(T, K, 500_000.0, None, device)
    leaves = [inputs.leaf(N, sum(heads) * K)]
    cotangents = [inputs.normal(N, num_heads, K) for num_heads in heads]
    function = partial(rope_formula, cos=cos, sin=sin, heads=heads)

    def liger() -> Provider:
        def rows(x: Tensor) -> Tensor:
            return x.detach().view(-1, T, *x.shape[1:])

        q, k, v = leaves[0].view(N, sum(heads), K).split(heads, dim=1)
        wide = torch.cat((cos, cos), dim=1), torch.cat((sin, sin), dim=1)
        own = [rows(x.contiguous()).requires_grad_() for x in (q, k)]
        grads = [rows(grad) for grad in cotangents[:2]]

        def arrange(found: list[Tensor]) -> list[Tensor]:
            y_q, y_k, dq, dk = (x.flatten(0, 1) for x in found)
            packed = torch.cat((dq, dk, cotangents[2]), dim=1)
            return [y_q, y_k, v, packed.view(N, -1)]

        rotate = partial(peers.liger_rope, cos=wide[0], sin=wide[1])
        return differentiable(rotate, own, grads, overwrites=True, arrange=arrange)

    def quack() -> Provider:
        packed = leaves[0].detach().view(-1, T, sum(heads) * K).requires_grad_()
        rotate = partial(peers.quack_rope, cos=cos, sin=sin, heads=heads, head_dim=K)

        def arrange(found: list[Tensor]) -> list[Tensor]:
            return [*found[:3], found[3].flatten(0, 1)]

        return differentiable(rotate, [packed], cotangents, overwrites=True, arrange=arrange)

    rotated_bytes = 2 * N * K * (shape.H + shape.Hkv)
    packed_bytes = 2 * N * K * sum(heads)
    return Case(
        kernel="rope_qkv",
        shape=f"{shape.name} N={N} H={shape.H} Hkv={shape.Hkv} K={K}",
        names=("q", "k", "v", "dqkv"),
        want=lambda: differentiated(function, leaves, cotangents),
        providers=with_peers(
            lambda qkv: rope_qkv(qkv, cos, sin, shape.H, shape.Hkv),
            function,
            leaves,
            cotangents,
            {"liger": liger, "quack": quack},
        ),
        # q and k there and back, in place; the three gradients into the packed one
        num_bytes={
            FORWARD: 2 * rotated_bytes,
            BACKWARD: 2 * packed_bytes,
            BOTH: 2 * rotated_bytes + 2 * packed_bytes,
        },
        flops={},
    )


def linear_cross_entropy_case(
    classes: int, columns: int, shape: Shape, device: torch.device
) -> Case:
    """The head and the mean loss, with both gradients, which most compute in the forward."""
    shape = narrowed(shape, columns)
    N, D, V, inputs = shape.N, shape.D, columns, Inputs(device)
    labels = inputs.labels(N, classes)
    leaves = [inputs.leaf(N, D), inputs.leaf(V, D, std=0.02)]
    cotangents = [torch.ones((), device=device)]
    scale = torch.tensor(1 / N, device=device)

    def ours(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, labels, classes, scale)[0]

    def formula(hidden: Tensor, weight: Tensor) -> Tensor:
        return mean_loss(F.linear(hidden, weight)[:, :classes], labels)

    def used(function: Function) -> Function:
        return lambda hidden, weight: function(
            hidden, weight[:classes] if classes < V else weight, labels
        )

    own = partial(differentiable, leaves=leaves, cotangents=cotangents, directions=(BOTH,))
    return Case(
        kernel="linear_cross_entropy",
        shape=f"{shape.name} N={N} D={D} V={V} C={classes}",
        names=("loss", "dhidden", "dweight"),
        want=lambda: differentiated(formula, leaves, cotangents),
        providers=with_peers(
            ours,
            formula,
            leaves,
            cotangents,
            {
                "liger": lambda: own(used(peers.liger_linear_cross_entropy)),
                "quack": lambda: own(used(peers.quack_linear_cross_entropy)),
            },
            directions=(BOTH,),
        ),
        num_bytes={BOTH: 2 * 2 * (N * D + V * D)},
        flops={BOTH: product_flops(N, D, V)[BOTH]},
    )


def gather_formula(pool: Tensor, copies: Tensor, num_valid: Tensor, T: int) -> list[Tensor]:
    """The batch by PyTorch, whose GPUs cannot index 16 bits without a sign: the pool is int32."""
    return list(gather_rows_reference(pool, copies, num_valid, T, False))


def gather_case(shape: Shape, device: torch.device) -> Case:
    """A step's rows of one GPU out of a pool of tokens, by sentences of 45 tokens."""
    rows, T, sentence = 3 * shape.rows, shape.T, 45
    num_tokens, pool_size = rows * (T + 1), 2000 * rows * T
    starts = torch.arange(0, num_tokens, sentence, device=device)
    sources = Inputs(device).labels(len(starts), pool_size - sentence)
    languages = torch.arange(len(starts), device=device) % 2  # in the bits above the start
    copies = torch.stack((sources, starts + (languages << 32)), dim=1)
    pool = Inputs(device).labels(pool_size, 2048).to(torch.uint16)
    wide = pool.to(torch.int32)
    num_valid = torch.full((rows,), T, dtype=torch.int32, device=device)

    def provider(function: Function, tokens: Tensor) -> Provider:
        run = partial(function, tokens, copies, num_valid, T)
        return Provider({FORWARD: Call(run)}, lambda: list(run()))

    return Case(
        kernel="gather",
        shape=f"rows={rows} T={T} copies={len(copies)} pool={pool_size}",
        names=("tokens", "labels", "languages"),
        want=lambda: [x.float() for x in gather_formula(wide, copies, num_valid, T)],
        providers={
            "tresse": lambda: provider(partial(gather_rows, mask_documents=False), pool),
            "eager": lambda: provider(gather_formula, wide),
        },
        # a token, 2 bytes, becomes input and label, 8 each, and the language, 1; the copies
        num_bytes={FORWARD: (2 + 17) * rows * T + 16 * len(copies)},
        flops={},
    )


KERNELS: dict[str, Maker] = {
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
"""The cases of each kernel on a device, not yet made: their inputs fill gigabytes."""
