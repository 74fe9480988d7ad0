"""The head's loss in plain PyTorch against its formula, and the memory that its chunks take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tresse.kernels import linear_cross_entropy as module
from tresse.kernels.linear_cross_entropy import (
    ADDMM_WIDENS,
    MAX_CHUNK_BYTES,
    TILE,
    WAVE,
    linear_cross_entropy,
    rows_per_chunk,
)

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(5, 7, 128, 37), (3, 16, 64, 64), (1, 1, 1, 1)])
def test_the_loss_is_as_accurate_as_pytorch(size: tuple[int, int, int, int], dtype: torch.dtype):
    N, D, V, num_classes = size
    labels = torch.randint(num_classes, (N,), generator=torch.Generator().manual_seed(0))
    labels[1::2] = -100
    scale = torch.tensor(0.3)

    def formula(hidden, weight):
        used = (hidden @ weight.T)[:, :num_classes]
        picked = used.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        return torch.where(labels == -100, 0.0, used.logsumexp(1) - picked).sum() * 0.3

    def loss(hidden, weight):
        return linear_cross_entropy(hidden, weight, labels, num_classes, scale)[0]

    assert_as_accurate_as_pytorch(loss, formula, [random(N, D), random(V, D, seed=1)], dtype)


def test_losses_are_fp32_and_zero_with_their_gradients_at_ignored_labels_and_padding():
    hidden = random(6, 9).bfloat16().requires_grad_()
    weight = random(128, 9, seed=1).bfloat16().requires_grad_()
    labels = torch.tensor([1, -100, 36, -100, 0, 5])
    loss, losses = linear_cross_entropy(hidden, weight, labels, 37, torch.tensor(2.0))
    loss.backward()
    assert losses.dtype == loss.dtype == torch.float32
    assert loss == 2 * losses.sum()
    assert not losses.requires_grad
    assert (losses == 0).tolist() == (labels == -100).tolist()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad[labels == -100].any()
    assert hidden.grad[labels != -100].any(-1).all()
    assert not weight.grad[37:].any()
    assert weight.grad[:37].any(-1).all()


@given(st.integers(0, 2**24), st.integers(1, 2**19))
def test_a_chunk_is_full_tiles_within_its_bounds(N: int, row_bytes: int):
    rows = rows_per_chunk(N, row_bytes)
    assert rows % TILE == 0
    assert rows == TILE or rows * row_bytes <= MAX_CHUNK_BYTES
    assert rows <= max(WAVE, N / 32)
    assert rows >= min(WAVE, MAX_CHUNK_BYTES // row_bytes // TILE * TILE)


class Memory(TorchDispatchMode):
    """Peak of the bytes in tensors that operations created and that are still referenced.

    Calls with `out` are skipped: they would create no tensor.
    """

    def __init__(self, *inputs: torch.Tensor) -> None:
        super().__init__()
        self.inputs = {x.untyped_storage()._cdata for x in inputs}
        self.peak, self.storages = 0, {}

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if kwargs and "out" in kwargs:
            return kwargs["out"]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            if storage._cdata not in self.inputs:
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.peak = max(self.peak, self.held())
        return result

    def held(self) -> int:
        """Bytes that are referenced now."""
        return sum(size for ref, size in self.storages.values() if not ref.expired())


@pytest.mark.skipif(not ADDMM_WIDENS, reason="this torch needs a product beside the sum")
# The paper's micro-batches at both widths, and Llama's text vocabulary; in MB, as documented.
@pytest.mark.parametrize(
    ("N", "D", "V", "megabytes"),
    [
        (153_600, 2048, 2048, 34.2),
        (51_200, 2048, 2048, 25.4),
        (153_600, 896, 2176, 26.2),
        (153_600, 2048, 128_256, 2101.9),
    ],
)
def test_beside_inputs_and_gradients_a_chunk_and_the_sum_are_held(
    N: int, D: int, V: int, megabytes: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "cross_entropy_", lambda *_: None)
    hidden = torch.empty(N, D, dtype=torch.bfloat16, device="meta")
    weight = torch.empty(V, D, dtype=torch.bfloat16, device="meta")
    labels = torch.empty(N, dtype=torch.int64, device="meta")
    scale = torch.empty((), device="meta")
    with Memory(hidden, weight, labels, scale) as memory:
        made = module._losses_and_gradients(hidden, weight, labels, V, scale)
    gradients = hidden.nbytes + weight.nbytes
    assert memory.held() == sum(x.nbytes for x in made)
    assert memory.peak - gradients == pytest.approx(megabytes * 1e6, rel=2e-3)
    assert memory.peak - gradients < 2 * N * V / 8

    with Memory(hidden, weight, labels) as memory:
        module._losses(hidden, weight, labels, V)
    assert memory.peak == rows_per_chunk(N, 2 * V) * 2 * V + 4 * N
