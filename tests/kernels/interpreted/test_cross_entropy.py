"""`kernels.cross_entropy` in Triton's interpreter, against the formula in fp64.

The bound is relative to PyTorch's cross-entropy of the same logits in the same dtype: twice its
error and one unit in the last place of the largest value.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.accuracy import assert_within_bound, random
from tests.support.guarded import guarded
from tresse.kernels.cross_entropy import IGNORE_INDEX, MAX_HELD, cross_entropy_

DTYPES = [torch.float32, torch.float16]
SCALE = torch.tensor(-0.7)


def in_place(logits: torch.Tensor, labels: torch.Tensor, num_classes: int, scale: torch.Tensor):
    """Losses and dlogits by the kernel, over a copy of the logits."""
    losses, dlogits = torch.empty_like(labels, dtype=torch.float32), logits.clone()
    cross_entropy_(dlogits, labels, num_classes, losses, scale)
    return losses, dlogits


def reference(logits: torch.Tensor, labels: torch.Tensor, num_classes: int, scale: torch.Tensor):
    """Losses and dlogits by PyTorch, in fp64 if the logits are."""
    leaf = logits.detach().requires_grad_()
    used = leaf[:, :num_classes].to(torch.promote_types(leaf.dtype, torch.float32))
    losses = F.cross_entropy(used, labels, ignore_index=IGNORE_INDEX, reduction="none")
    return losses.detach(), *torch.autograd.grad(losses.sum() * scale, leaf)


def check(logits: torch.Tensor, labels: torch.Tensor, num_classes: int, ulps: int = 1) -> None:
    """Compare with PyTorch and fp64; padding and ignored rows are NaN and must give zeros."""
    ignored = labels == IGNORE_INDEX
    poisoned = logits.clone()
    poisoned[:, num_classes:] = float("nan")
    poisoned[ignored] = float("nan")
    ours = in_place(poisoned, labels, num_classes, SCALE)
    plain = reference(logits, labels, num_classes, SCALE)
    exact = reference(logits.double(), labels, num_classes, SCALE.double())
    for name, x, y, want in zip(("losses", "dlogits"), ours, plain, exact, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert_within_bound(name, x, y, want, x.dtype, ulps)
    losses, dlogits = ours
    assert (losses[ignored] == 0).all()
    assert (dlogits[ignored] == 0).all()
    assert (dlogits[:, num_classes:] == 0).all()

    alone, untouched = torch.empty_like(losses), poisoned.clone()
    cross_entropy_(untouched, labels, num_classes, alone)
    assert torch.equal(alone, losses)
    torch.testing.assert_close(untouched, poisoned, rtol=0, atol=0, equal_nan=True)


def test_unwritten_memory_is_nan_so_that_a_missing_store_shows():
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.ones(3, dtype=torch.float16)).isnan().all()


# Held rows: one block, with a tail, a tail in padding alone; 1, primes, the longest. Long ones: one
# block and one column, two blocks and a tail that the classes do not fill.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size",
    [
        (4, 2048, 2048),
        (4, 2176, 2051),
        (3, 2176, 2048),
        (7, 131, 101),
        (5, 64, 1),
        (3, MAX_HELD, MAX_HELD),
        (3, MAX_HELD - 1, 5003),
        (3, MAX_HELD + 1, MAX_HELD + 1),
        (3, 33_600, 33_333),
    ],
)
def test_losses_and_gradients_are_as_accurate_as_pytorch(
    size: tuple[int, int, int], dtype: torch.dtype
):
    N, V, num_classes = size
    labels = torch.randint(num_classes, (N,), generator=torch.Generator().manual_seed(0))
    labels[0], labels[1], labels[2] = num_classes - 1, IGNORE_INDEX, 0
    check((4 * random(N, V)).to(dtype), labels, num_classes)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_size_and_any_pattern_of_ignored_labels(data: st.DataObject):
    V = data.draw(st.integers(1, 40) | st.sampled_from([2049, 6151, 8200]))
    num_classes = data.draw(st.integers(1, V))
    label = st.just(IGNORE_INDEX) | st.integers(0, num_classes - 1)
    labels = torch.tensor(data.draw(st.lists(label, min_size=1, max_size=4)))
    spread = data.draw(st.sampled_from([0.0, 1.0, 30.0]))
    logits = spread * random(len(labels), V, seed=data.draw(st.integers(0, 99)))
    logits += data.draw(st.sampled_from([0.0, 1000.0]))
    # PyTorch may be exact by chance.
    check(logits.to(data.draw(st.sampled_from(DTYPES))), labels, num_classes, ulps=4)


def test_losses_are_finite_where_the_exponential_overflows():
    logits = torch.tensor([[1e4, -1e4, 1e4], [-6e4, -6e4, 6e4]], dtype=torch.float16)
    losses, dlogits = in_place(logits, torch.tensor([0, 1]), 3, SCALE)
    torch.testing.assert_close(losses, torch.tensor([2.0, 1.0]).log() + torch.tensor([0, 120_000]))
    assert dlogits.isfinite().all()


@pytest.mark.parametrize("V", [16, MAX_HELD + 8])
def test_the_gradient_of_a_label_that_is_all_but_certain_keeps_its_digits(V: int):
    logits = random(1, V)
    logits[0, 5] = 30
    _, dlogits = in_place(logits.float(), torch.tensor([5]), V - 3, SCALE)
    _, exact = reference(logits.float().double(), torch.tensor([5]), V - 3, SCALE.double())
    others = exact[0].sum() - exact[0, 5]  # fp64 too has lost digits of softmax - 1
    torch.testing.assert_close(dlogits[0, 5].double(), -others, rtol=1e-5, atol=0)


@pytest.mark.parametrize("V", [16, MAX_HELD + 8])
@pytest.mark.parametrize("scale", [0.0, float("inf"), float("nan")])
def test_padding_and_ignored_rows_have_no_gradient_at_any_scale(V: int, scale: float):
    labels = torch.tensor([1, IGNORE_INDEX])
    losses, dlogits = in_place(random(2, V).float(), labels, 7, torch.tensor(scale))
    assert losses.isfinite().all()
    assert not dlogits[1].any()
    assert not dlogits[0, 7:].any()
    assert dlogits[0, :7].isfinite().all() == (scale == 0)


@pytest.mark.parametrize(
    ("num_classes", "V"), [(1, 1), (37, 37), (33, 64), (2049, 2049), (8195, 8197)]
)
def test_nothing_is_read_or_written_behind_the_rows(num_classes: int, V: int):
    logits, labels = random(2, V).float(), torch.tensor([IGNORE_INDEX, num_classes - 1])
    losses, dlogits = in_place(logits, labels, num_classes, SCALE)
    over, sums = guarded(logits), guarded(torch.empty(2))
    cross_entropy_(over, guarded(labels), num_classes, sums, guarded(SCALE))
    assert torch.equal(over, dlogits)
    assert torch.equal(sums, losses)


def test_no_rows_are_nothing_to_do():
    cross_entropy_(torch.ones(0, 5), torch.ones(0, dtype=torch.int64), 5, torch.ones(0), SCALE)


@pytest.mark.parametrize("V", [8, MAX_HELD + 8])
@pytest.mark.parametrize("label", [-1, 7, 8, 2**40])
def test_a_label_outside_the_classes_makes_its_own_loss_nan(label: int, V: int):
    losses, _ = in_place(random(2, V).float(), torch.tensor([label, 1]), 7, SCALE)
    assert losses.isnan().tolist() == [True, False]
