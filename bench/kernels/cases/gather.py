"""The case of the gather: a step's rows out of a pool of tokens."""

from functools import partial

import torch
from torch import Tensor

from tresse.bench.kernels.inputs import Inputs, Shape
from tresse.bench.kernels.providers import FORWARD, Case, Function, Provider
from tresse.bench.kernels.timing import Call
from tresse.kernels.gather import gather_rows, gather_rows_reference


def gather_formula(pool: Tensor, copies: Tensor, num_valid: Tensor, T: int) -> list[Tensor]:
    """Gather by PyTorch, with a pool in int32: on a GPU it cannot index uint16."""
    return list(gather_rows_reference(pool, copies, num_valid, T, False))


def gather_case(shape: Shape, device: torch.device) -> Case:
    """The rows that one GPU takes in a step, out of a pool of tokens, by sentences of 45 tokens."""
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
