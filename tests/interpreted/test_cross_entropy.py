"""`kernels.cross_entropy` by its Triton kernels, against the formula in fp64.

The bound is relative to PyTorch's cross-entropy of the same logits in the same dtype: twice its
error and one unit in the last place of the largest value.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.interpreted.guarded import guarded
from tests.test_kernels import random
from tresse.kernels import cross_entropy as module
from tresse.kernels.cross_entropy import (
    IGNORE_INDEX,
    cross_entropy,
    cross_entropy_reference,
    cross_entropy_triton,
)

DTYPES = [torch.float32, torch.float16]


def losses_and_gradient(function, logits: torch.Tensor, labels: torch.Tensor, num_classes: int):
    """Losses and gradient of the logits for a random gradient per token."""
    leaf = logits.detach().requires_grad_()
    losses = function(leaf, labels, num_classes)
    grad_losses = random(*labels.shape, seed=9).to(losses.dtype)
    (dlogits,) = torch.autograd.grad(losses, leaf, grad_losses)
    return losses.detach(), dlogits


def check(logits: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
    """Compare with PyTorch and fp64; what takes no part holds NaN and must give exact zeros."""
    ignored = labels == IGNORE_INDEX
    poisoned = logits.clone()
    poisoned[..., num_classes:] = float("nan")
    poisoned[ignored] = float("nan")
    ours = losses_and_gradient(cross_entropy_triton, poisoned, labels, num_classes)
    plain = losses_and_gradient(cross_entropy_reference, logits, labels, num_classes)
    exact = losses_and_gradient(cross_entropy_reference, logits.double(), labels, num_classes)
    for name, x, y, want in zip(("losses", "dlogits"), ours, plain, exact, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        error, floor = ((z.double() - want).abs().max().item() for z in (x, y))
        ulp = torch.finfo(x.dtype).eps * want.abs().max().item()
        assert error <= 2 * floor + ulp, f"{name}: {error=:.3e} {floor=:.3e} {ulp=:.3e}"
    losses, dlogits = ours
    assert (losses[ignored] == 0).all()
    assert (dlogits[ignored] == 0).all()
    assert (dlogits[..., num_classes:] == 0).all()


def test_memory_that_nobody_wrote_is_nan_so_that_a_missing_store_shows():
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.ones(3, dtype=torch.float16)).isnan().all()


# One block, blocks with a tail, a tail alone in padding; 1, primes, one past a power of two; text.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size",
    [(4, 2048, 2048), (4, 2176, 2051), (3, 2176, 2048), (3, 4099, 4097), (7, 131, 101), (5, 64, 1)],
)
def test_losses_and_gradients_are_as_accurate_as_pytorch(
    size: tuple[int, int, int], dtype: torch.dtype
):
    N, V, num_classes = size
    labels = torch.randint(num_classes, (N,), generator=torch.Generator().manual_seed(0))
    labels[0], labels[1], labels[2] = num_classes - 1, IGNORE_INDEX, 0
    check((4 * random(N, V)).to(dtype), labels, num_classes)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_size_and_any_pattern_of_ignored_labels(data: st.DataObject):
    V = data.draw(st.integers(1, 40) | st.sampled_from([2049, 4096, 4113, 6151]))
    num_classes = data.draw(st.integers(1, V))
    label = st.just(IGNORE_INDEX) | st.integers(0, num_classes - 1)
    labels = torch.tensor(data.draw(st.lists(label, min_size=1, max_size=4)))
    scale = data.draw(st.sampled_from([0.0, 1.0, 30.0]))
    logits = scale * random(len(labels), V, seed=data.draw(st.integers(0, 99)))
    logits += data.draw(st.sampled_from([0.0, 1000.0]))
    check(logits.to(data.draw(st.sampled_from(DTYPES))), labels, num_classes)


def test_losses_are_finite_where_the_exponential_overflows():
    logits = torch.tensor([[1e4, -1e4, 1e4], [-6e4, -6e4, 6e4]], dtype=torch.float16)
    losses, dlogits = losses_and_gradient(cross_entropy_triton, logits, torch.tensor([0, 1]), 3)
    torch.testing.assert_close(losses, torch.tensor([2.0, 1.0]).log() + torch.tensor([0, 120_000]))
    assert dlogits.isfinite().all()


def test_rows_may_be_a_strided_view_and_the_gradient_of_a_sum():
    base = random(2, 9, 3).float().requires_grad_()
    labels = torch.tensor([[0, 4, IGNORE_INDEX], [8, 1, 2]]).T.contiguous().T
    logits = base.transpose(1, 2)  # (2, 3, 9), its rows not contiguous
    losses = cross_entropy_triton(logits, labels, 9)
    want = cross_entropy_reference(logits, labels, 9)
    torch.testing.assert_close(losses, want, rtol=1e-6, atol=1e-6)
    grads = [torch.autograd.grad(x.sum(), base)[0] for x in (losses, want)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("num_classes", "V"), [(1, 1), (37, 37), (33, 64), (2049, 2049)])
def test_nothing_is_read_behind_the_inputs(num_classes: int, V: int):
    logits, labels = random(2, V).float(), torch.tensor([IGNORE_INDEX, num_classes - 1])
    statistics = torch.ops.tresse.cross_entropy(logits, labels, num_classes)
    behind_guards = guarded(logits), guarded(labels)
    for x, y in zip(
        torch.ops.tresse.cross_entropy(*behind_guards, num_classes), statistics, strict=True
    ):
        assert torch.equal(x, y)
    saved = [guarded(x) for x in statistics[1:]]
    dlogits = torch.ops.tresse.cross_entropy_backward(
        *behind_guards, *saved, guarded(torch.ones(2)), num_classes
    )
    leaf = logits.requires_grad_()
    cross_entropy_triton(leaf, labels, num_classes).sum().backward()
    assert leaf.grad is not None
    assert torch.equal(dlogits, leaf.grad)


def test_no_rows_give_no_losses():
    logits = torch.ones(0, 5, requires_grad=True)
    losses = cross_entropy_triton(logits, torch.ones(0, dtype=torch.int64), 5)
    assert losses.shape == (0,)
    assert torch.autograd.grad(losses.sum(), logits)[0].shape == (0, 5)


@pytest.mark.parametrize("label", [-1, 7, 8, 2**40])
def test_a_label_outside_the_classes_makes_its_own_loss_nan(label: int):
    losses = cross_entropy_triton(random(2, 8).float(), torch.tensor([label, 1]), 7)
    assert losses.isnan().tolist() == [True, False]


def test_what_the_kernels_cannot_take_is_an_error():
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="float64"):
        cross_entropy_triton(random(2, 8), labels, 8)
    with pytest.raises(ValueError, match="int32"):
        cross_entropy_triton(random(2, 8).float(), labels.int(), 8)
    with pytest.raises(ValueError, match="num_classes=9"):
        cross_entropy_triton(random(2, 8).float(), labels, 9)
    with pytest.raises(ValueError, match=r"labels \(2,\)"):
        cross_entropy_triton(random(3, 8).float(), labels, 8)


def test_the_operators_pass_torchs_checks():
    logits = random(3, 10).float()
    labels = torch.tensor([2, IGNORE_INDEX, 6])
    ops = torch.ops.tresse
    torch.library.opcheck(ops.cross_entropy, (logits.requires_grad_(), labels, 7))
    logits = logits.detach()
    _, *statistics = ops.cross_entropy(logits, labels, 7)
    inputs = (logits, labels, *statistics, torch.ones(3), 7)
    torch.library.opcheck(ops.cross_entropy_backward, inputs)


def test_tensors_of_a_gpu_go_to_the_kernels_and_others_to_pytorch(monkeypatch: pytest.MonkeyPatch):
    for name in ("cross_entropy_triton", "cross_entropy_reference"):
        monkeypatch.setattr(module, name, lambda *_, name=name: name)
    with FakeTensorMode():
        for device, name in [("cuda", "cross_entropy_triton"), ("cpu", "cross_entropy_reference")]:
            labels = torch.zeros(2, 3, device=device, dtype=torch.int64)
            assert cross_entropy(torch.ones(2, 3, 64, device=device), labels, 37) == name
