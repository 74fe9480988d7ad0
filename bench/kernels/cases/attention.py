"""Attention in rows and in documents, by every backend that runs on this machine."""

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tresse.bench.kernels.inputs import BF16, Inputs, Shape, shapes
from tresse.bench.kernels.providers import (
    Case,
    Provider,
    both_ways,
    differentiable,
    differentiated,
)
from tresse.kernels.attention import Attend
from tresse.kernels.attention_backends import BACKENDS, Setting, UnavailableError, choose

DOCUMENT_LENGTHS = (150, 700)
CUTS = 256  # the engine adds empty documents up to a multiple of it


def document_cuts(shape: Shape) -> list[int]:
    """Draw offsets of documents of random lengths, cut where rows end."""
    low, high = (length * shape.T // 2048 for length in DOCUMENT_LENGTHS)
    generator, cuts = random.Random(0), {0}
    for row in range(shape.rows):
        lengths = (generator.randint(low, high) for _ in itertools.count())
        ends = itertools.takewhile(lambda end: end < shape.T, itertools.accumulate(lengths))
        cuts |= {row * shape.T + end for end in ends} | {(row + 1) * shape.T}
    return sorted(cuts)


def attention_formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in one document: (L, H, K), (L, Hkv, K) twice -> (L, H, K)."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("thk,shk->hts", q, k) / q.shape[2] ** 0.5
    future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return torch.einsum("hts,shk->thk", weights, v)


def attention_case(documents: bool, shape: Shape, device: torch.device) -> Case:
    """Attention on the layout of the engine, in rows or in documents."""
    N, T, H, Hkv, K, inputs = shape.N, shape.T, shape.H, shape.Hkv, shape.K, Inputs(device)
    leaves = [inputs.leaf(N, heads, K) for heads in (H, Hkv, Hkv)]
    cotangents = [inputs.normal(N, H, K)]
    cuts = document_cuts(shape) if documents else list(range(0, N + 1, T))
    filled = cuts + [N] * (-len(cuts) % CUTS)
    offsets = torch.tensor(filled, dtype=torch.int32, device=device) if documents else None
    setting = Setting(
        device=device, dtype=BF16, head_dim=K, mask_documents=documents, deterministic=False
    )

    def want() -> list[Tensor]:
        parts = [
            differentiated(
                attention_formula,
                [x[start:stop] for x in leaves],
                [grad[start:stop] for grad in cotangents],
            )
            for start, stop in itertools.pairwise(cuts)
        ]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def by(attend: Attend) -> Provider:
        function = partial(attend, row_length=T, cu_seqlens=offsets)
        return differentiable(function, leaves, cotangents)

    def flex() -> Provider:
        function = partial(by_flex, T=T, mask=block_mask(cuts, shape, device))
        return differentiable(function, leaves, cotangents)

    providers: dict[str, Callable[[], Provider]] = {
        "tresse" if name == "triton" else name: partial(by, attend)
        for name, attend in available(setting)
    }
    if device.type == "cuda":
        providers["flex"] = flex
    else:
        providers = {"tresse": partial(by, choose("auto", setting).attend)}
    pairs = sum((b - a) * (b - a + 1) // 2 for a, b in itertools.pairwise(cuts))
    read_and_written = 2 * N * K * (2 * H + 2 * Hkv)
    layout = "documents" if documents else "rows"
    return Case(
        kernel="attention",
        shape=f"{shape.name} {layout} N={N} T={T} H={H} Hkv={Hkv} K={K}",
        names=("y", "dq", "dk", "dv"),
        want=want,
        providers=providers,
        # q, k, v, y; then all of these with their gradients
        num_bytes=both_ways(read_and_written, 2 * read_and_written),
        # of the keys that a query may see: two products forward, five backward
        flops=both_ways(4.0 * K * H * pairs, 10.0 * K * H * pairs),
    )


def available(setting: Setting) -> Iterator[tuple[str, Attend]]:
    """Yield the backends that run here, ours first."""
    for name in sorted(BACKENDS, key=lambda name: name != "triton"):
        try:
            yield name, BACKENDS[name](setting)[1]
        except UnavailableError:
            continue


def unavailable(device: torch.device) -> list[str]:
    """Say why the other backends do not run here."""
    setting = Setting(
        device=device, dtype=BF16, head_dim=64, mask_documents=True, deterministic=False
    )
    reasons = []
    for name, find in BACKENDS.items():
        try:
            find(setting)
        except UnavailableError as reason:
            reasons.append(f"attention by {name}: {reason}")
    return reasons


def block_mask(cuts: list[int], shape: Shape, device: torch.device):
    """Make the causal mask of documents that FlexAttention takes."""
    lengths = torch.tensor([b - a for a, b in itertools.pairwise(cuts)], device=device)
    documents = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
    documents = documents.view(shape.rows, shape.T)

    def seen(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:  # noqa: ARG001
        return (t >= s) & (documents[b, t] == documents[b, s])

    return create_block_mask(seen, shape.rows, None, shape.T, shape.T, device=str(device))


COMPILED_FLEX: Any = torch.compile(flex_attention, dynamic=False)


def by_flex(q: Tensor, k: Tensor, v: Tensor, T: int, mask) -> Tensor:
    """Attend by FlexAttention, compiled, as its documentation asks."""
    rows = [x.unflatten(0, (-1, T)).transpose(1, 2) for x in (q, k, v)]
    y = COMPILED_FLEX(*rows, block_mask=mask, enable_gqa=True)
    return y.transpose(1, 2).flatten(0, 1)


def attention_cases(device: torch.device) -> list[Callable[[], Case]]:
    """Rows and documents of each model."""
    return [
        partial(attention_case, documents, shape, device)
        for shape in shapes(device)
        for documents in (False, True)
    ]
