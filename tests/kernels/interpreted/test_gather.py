"""The Triton gather against copies carried out one token after another, and against PyTorch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.guarded import guarded
from tresse.kernels import gather as module
from tresse.kernels.cross_entropy import IGNORE_INDEX
from tresse.kernels.gather import (
    BLOCK,
    Three,
    gather_rows,
    gather_rows_reference,
    gather_rows_triton,
)

FUNCTIONS = gather_rows_triton, gather_rows_reference
Copy = tuple[int, int, int, int]
"""Source, start, language, 1 if a document begins + 2 if its tokens are ignored."""


def packed(copies: list[Copy]) -> torch.Tensor:
    words = [(source, p + (k << 32) + (flags << 40)) for source, p, k, flags in copies]
    return torch.tensor(words)


def one_by_one(pool: list[int], copies: list[Copy], num_valid: list[int], T: int, mask: bool):
    """Nested lists of inputs, labels and languages."""
    row, end = T + 1, len(num_valid) * (T + 1)
    ends = [start for _, start, _, _ in copies[1:]] + [end]
    batch: list[tuple[int, int, bool]] = []
    for (source, start, language, flags), stop in zip(copies, ends, strict=True):
        for i in range(stop - start):
            token = -1 - source if source < 0 else pool[source + i]
            batch.append((token, language, bool((mask and flags & 1 and i == 0) or flags & 2)))
    rows = [batch[i : i + row] for i in range(0, end, row)]
    labels = [
        [
            IGNORE_INDEX if t >= valid or ignored else token
            for t, (token, _, ignored) in enumerate(tokens[1:])
        ]
        for tokens, valid in zip(rows, num_valid, strict=True)
    ]
    inputs = [[token for token, _, _ in tokens[:-1]] for tokens in rows]
    return inputs, labels, [[language for _, language, _ in tokens[1:]] for tokens in rows]


@st.composite
def batches(draw: st.DrawFn, max_length: int = 40):
    B, T = draw(st.integers(1, 5)), draw(st.integers(1, max_length))
    dtype, top = draw(st.sampled_from([(torch.uint16, 2**16), (torch.uint32, 2**32)]))
    pool = draw(st.lists(st.integers(0, top - 1) | st.just(top - 1), min_size=1, max_size=50))
    end = B * (T + 1)
    starts = draw(st.sets(st.integers(1, end - 1), max_size=20)) if end > 1 else set()
    starts = sorted({0, *starts})
    copies: list[Copy] = []
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        fits = len(pool) - (stop - start)
        literal = st.integers(-1 - 2**17, -1) | st.just(-1 - 2**50)  # no address is that far away
        source = draw(literal if fits < 0 else literal | st.integers(0, fits) | st.just(fits))
        copies.append((source, start, draw(st.sampled_from([0, 1, 254])), draw(st.integers(0, 3))))
    num_valid = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    return pool, dtype, copies, num_valid, T, draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(batches())
def test_a_batch_is_its_copies_one_token_after_another(batch):
    pool, dtype, copies, num_valid, T, mask = batch
    want = one_by_one(pool, copies, num_valid, T, mask)
    tensors = torch.tensor(pool).to(dtype), packed(copies), torch.tensor(num_valid).int()
    for function in FUNCTIONS:
        found = function(*tensors, T, mask)
        assert [x.dtype for x in found] == [torch.int64, torch.int64, torch.uint8]
        assert all(x.is_contiguous() for x in found)
        assert tuple(x.tolist() for x in found) == want


def cut(B: int, T: int, size: int, num_copies: int) -> Three:
    """Copies of random places, the last one up to the end of the pool."""
    generator = torch.Generator().manual_seed(T)
    pool = torch.randint(2**16, (size,), generator=generator).to(torch.uint16)
    places = 1 + torch.randperm(B * (T + 1) - 1, generator=generator)[: num_copies - 1]
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), places.sort()[0]])
    lengths = starts.diff(append=torch.tensor([B * (T + 1)]))
    sources = (size - lengths) * torch.rand(num_copies, generator=generator)
    sources = sources.long()
    sources[-1] = size - lengths[-1]
    copies = torch.stack([sources, starts + (torch.arange(num_copies) % 4 << 40)], 1)
    return pool, copies, torch.full((B,), T - 1, dtype=torch.int32)


# A block and one more column, an odd prime, whole blocks; one copy, powers of two and their
# neighbours, at which the search takes another step.
@pytest.mark.parametrize("T", [BLOCK + 1, 127, 2 * BLOCK])
@pytest.mark.parametrize("num_copies", [1, 2, 31, 32, 33])
@pytest.mark.parametrize("mask", [False, True])
def test_rows_of_several_blocks_agree_with_pytorch_and_nothing_else_is_read(T, num_copies, mask):
    tensors = cut(2, T, 2 * T + 2, num_copies)
    pool, copies, num_valid = map(guarded, tensors)
    found = gather_rows_triton(pool, copies, num_valid, T, mask)
    assert all(map(torch.equal, found, gather_rows_reference(*tensors, T, mask)))


def test_no_rows_are_no_rows():
    tensors = cut(2, 5, 99, 3)
    for function in FUNCTIONS:
        found = function(*tensors[:2], tensors[2][:0], 5, True)
        assert [tuple(x.shape) for x in found] == [(0, 5)] * 3


def test_tensors_may_be_views():
    pool, copies, num_valid = cut(2, 7, 30, 5)
    apart = torch.stack([copies, copies], 1)[:, 0]
    assert not apart.is_contiguous()
    every_other = torch.stack([pool, pool], 1)[:, 0]
    found = gather_rows_triton(every_other, apart, num_valid, 7, True)
    assert all(map(torch.equal, found, gather_rows_triton(pool, copies, num_valid, 7, True)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": torch.zeros(3)}, "torch.float32"),
        ({"copies": torch.zeros(1, 2, dtype=torch.int32)}, "torch.int32"),
        ({"num_valid": torch.zeros(1, dtype=torch.int64)}, "expected uint16 or uint32, int64"),
        ({"copies": torch.zeros(2, dtype=torch.int64)}, r"\(2,\)"),
        ({"copies": torch.zeros(0, 2, dtype=torch.int64)}, "one copy or more"),
        ({"copies": torch.zeros(1, 3, dtype=torch.int64)}, r"\(1, 3\)"),
    ],
)
def test_what_the_kernel_cannot_take_is_an_error(change, message):
    tensors = dict(zip(("pool", "copies", "num_valid"), cut(1, 4, 9, 1), strict=True))
    with pytest.raises(ValueError, match=message):
        gather_rows(**{**tensors, **change}, T=4, mask_documents=False)


def test_the_operator_passes_torchs_checks():
    pool, copies, num_valid = cut(3, 5, 40, 4)
    torch.library.opcheck(torch.ops.tresse.gather_rows, (pool, copies, num_valid, 5, True))


def test_tensors_of_a_gpu_go_to_the_kernel_and_others_to_pytorch(monkeypatch: pytest.MonkeyPatch):
    for name in ("gather_rows_triton", "gather_rows_reference"):
        monkeypatch.setattr(module, name, lambda *_, name=name: name)
    with FakeTensorMode():
        for device, name in [("cuda", "gather_rows_triton"), ("cpu", "gather_rows_reference")]:
            pool = torch.empty(3, dtype=torch.uint16, device=device)
            copies = torch.empty(1, 2, dtype=torch.int64, device=device)
            num_valid = torch.empty(1, dtype=torch.int32, device=device)
            assert gather_rows(pool, copies, num_valid, 2, False) == name
