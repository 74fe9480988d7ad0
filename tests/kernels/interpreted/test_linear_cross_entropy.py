"""`kernels.linear_cross_entropy` by chunks, its kernels in Triton's interpreter, against fp64.

The bound is relative to PyTorch's on whole logits in the same dtype: twice its error and one unit
in the last place of the largest value.
"""

import ctypes
import mmap
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.accuracy import assert_within_bound, random
from tests.support.guarded import LIBC, NO_ACCESS, guarded
from tresse.kernels import linear_cross_entropy as module
from tresse.kernels.cross_entropy import IGNORE_INDEX
from tresse.kernels.linear_cross_entropy import (
    _gradients_op,
    _losses_op,
    _scale_,
    linear_cross_entropy,
    linear_cross_entropy_reference,
    linear_cross_entropy_triton,
)

DTYPES = [torch.float32, torch.float16]
SCALE = torch.tensor(0.3)
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]


def inputs(N: int, D: int, V: int, num_classes: int, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Hidden, weight, labels, classes; some labels ignored, the padded rows of weight far off."""
    weight = random(V, D, seed=seed + 1) * (1 + 4 / D**0.5)
    weight[num_classes:] = 50
    labels = torch.randint(num_classes, (N,), generator=torch.Generator().manual_seed(seed))
    labels[1::3] = IGNORE_INDEX
    return random(N, D, seed=seed).to(dtype), weight.to(dtype), labels, num_classes


def run(function: Callable, given: Inputs, scale: torch.Tensor = SCALE, dloss: float = 1.0):
    """Loss, losses, dhidden, dweight."""
    hidden, weight, labels, num_classes = given
    leaves = [x.detach().requires_grad_() for x in (hidden, weight)]
    loss, losses = function(*leaves, labels, num_classes, scale)
    return loss.detach(), losses, *torch.autograd.grad(loss, leaves, loss.new_tensor(dloss))


def check(given: Inputs, rows: int, scale: torch.Tensor = SCALE) -> None:
    """Compare with PyTorch and fp64, by chunks of so many rows."""
    hidden, weight, labels, num_classes = given
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "rows_per_chunk", lambda _N, _bytes: rows)
        ours = run(linear_cross_entropy_triton, given, scale)
    plain = run(linear_cross_entropy_reference, given, scale)
    widened = hidden.double(), weight.double(), labels, num_classes
    exact = run(linear_cross_entropy_reference, widened, scale.double())
    for name, x, y, want in zip(
        ("loss", "losses", "dhidden", "dweight"), ours, plain, exact, strict=True
    ):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        if x.numel():
            assert_within_bound(name, x, y, want, x.dtype)
    _, losses, dhidden, dweight = ours
    assert not losses[labels == IGNORE_INDEX].any()
    assert not dhidden[labels == IGNORE_INDEX].any()
    assert not dweight[num_classes:].any()


# Rows of a chunk: all, a divisor, one that leaves a last chunk of one; primes; our vocabularies.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("N", "D", "V", "num_classes", "rows"),
    [
        (1, 1, 1, 1, 128),
        (13, 7, 31, 29, 13),
        (12, 16, 64, 37, 4),
        (13, 11, 131, 101, 6),
        (9, 24, 2048, 2048, 4),
        (5, 8, 2176, 2051, 2),
        # 2,048 units, the text of Llama 3, special tokens, tags. In one chunk: with fewer rows the
        # sum of the CPU's own product over 130,432 terms is 14 times less exact.
        (3, 8, 130_432, 130_310, 3),
    ],
)
def test_losses_and_gradients_are_as_accurate_as_pytorch(
    N: int, D: int, V: int, num_classes: int, rows: int, dtype: torch.dtype
):
    check(inputs(N, D, V, num_classes, dtype), rows)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_sizes_chunks_and_patterns_of_ignored_labels(data: st.DataObject):
    V = data.draw(st.integers(1, 40))
    num_classes = data.draw(st.integers(1, V))
    label = st.just(IGNORE_INDEX) | st.integers(0, num_classes - 1)
    labels = torch.tensor(data.draw(st.lists(label, max_size=9)), dtype=torch.int64)
    N, D, dtype = len(labels), data.draw(st.integers(1, 9)), data.draw(st.sampled_from(DTYPES))
    hidden, weight, _, _ = inputs(N, D, V, num_classes, dtype, data.draw(st.integers(0, 99)))
    given = hidden, weight, labels, num_classes
    # PyTorch may be exact by chance: in fp32 a unit is some 1e-7 of every sum's largest term.
    with pytest.MonkeyPatch.context() as patch:
        rows = data.draw(st.integers(1, 10))
        patch.setattr(module, "rows_per_chunk", lambda _N, _bytes: rows)
        ours = run(linear_cross_entropy_triton, given)
    widened = hidden.double(), weight.double(), labels, num_classes
    exact = run(linear_cross_entropy_reference, widened)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for x, want in zip(ours, exact, strict=True):
        torch.testing.assert_close(x.double(), want.double(), rtol=tolerance, atol=tolerance)
    assert not ours[3][num_classes:].any()


@pytest.mark.parametrize("N", [0, 5])
def test_without_targets_all_is_zero(N: int):
    hidden, weight, labels, num_classes = inputs(N, 3, 8, 7, torch.float32)
    labels.fill_(IGNORE_INDEX)
    loss, losses, *gradients = run(
        linear_cross_entropy_triton, (hidden, weight, labels, num_classes)
    )
    assert loss == 0
    assert losses.shape == (N,)
    assert not any(x.any() for x in (losses, *gradients))


def test_a_scale_of_zero_leaves_the_losses():
    loss, losses, *gradients = run(
        linear_cross_entropy_triton, inputs(5, 3, 8, 7, torch.float32), torch.tensor(0.0)
    )
    assert loss == 0
    assert losses[0] > 0
    assert not any(x.any() for x in gradients)


@pytest.mark.parametrize("dloss", [0.0, -2.5, 1e-3])
def test_gradients_are_those_of_the_loss_times_any_number(dloss: float):
    given = inputs(7, 5, 16, 13, torch.float32)
    ours, want = (
        run(function, given, dloss=dloss)
        for function in (linear_cross_entropy_triton, linear_cross_entropy_reference)
    )
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_one_is_what_the_forward_made_bit_for_bit():
    given = inputs(7, 5, 16, 13, torch.float16)
    _, _, dhidden, dweight = _gradients_op(*given, SCALE)
    assert all(map(torch.equal, run(linear_cross_entropy_triton, given)[2:], (dhidden, dweight)))


def test_a_second_backward_is_an_error():
    hidden, weight, labels, num_classes = inputs(3, 5, 16, 13, torch.float32)
    hidden.requires_grad_()
    loss, _ = linear_cross_entropy_triton(hidden, weight, labels, num_classes, SCALE)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("trained", [0, 1])
def test_one_of_hidden_and_weight_may_be_frozen(trained: int):
    hidden, weight, labels, num_classes = inputs(5, 4, 8, 7, torch.float32)
    want = run(linear_cross_entropy_reference, (hidden, weight, labels, num_classes))
    leaves = [hidden.clone(), weight.clone()]
    leaves[trained].requires_grad_()
    linear_cross_entropy_triton(leaves[0], leaves[1], labels, num_classes, SCALE)[0].backward()
    gradients = [leaf.grad for leaf in leaves]
    assert gradients[1 - trained] is None
    torch.testing.assert_close(gradients[trained], want[2 + trained], rtol=1e-5, atol=1e-6)


def test_the_weight_may_be_the_embedding_too():
    _, weight, labels, num_classes = inputs(6, 5, 16, 13, torch.float32)
    tokens, gradients = torch.tensor([0, 3, 3, 12, 5, 0]), []
    for function in (linear_cross_entropy_triton, linear_cross_entropy_reference):
        leaf = weight.clone().requires_grad_()
        hidden = torch.nn.functional.embedding(tokens, leaf).tanh()
        function(hidden, leaf, labels, num_classes, SCALE)[0].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_without_gradients_the_losses_are_the_same_bits():
    hidden, weight, labels, num_classes = inputs(7, 5, 16, 13, torch.float32)
    loss, losses, *_ = run(linear_cross_entropy_triton, (hidden, weight, labels, num_classes))
    hidden.requires_grad_()
    with torch.no_grad():
        alone = linear_cross_entropy_triton(hidden, weight, labels, num_classes, SCALE)
    assert torch.equal(alone[0], loss)
    assert torch.equal(alone[1], losses)
    assert not alone[0].requires_grad


def test_losses_have_no_gradient():
    hidden, weight, labels, num_classes = inputs(3, 5, 16, 13, torch.float32)
    for function in (linear_cross_entropy_triton, linear_cross_entropy_reference):
        loss, losses = function(hidden.requires_grad_(), weight, labels, num_classes, SCALE)
        assert (loss.requires_grad, losses.requires_grad) == (True, False)
        assert (loss.shape, loss.dtype, losses.dtype) == ((), torch.float32, torch.float32)


@pytest.mark.parametrize("numel", [1, 4095, 4097, 3 * 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scaling_is_in_place_rounded_once_and_touches_nothing_else(
    numel: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_SCALE_PROGRAMS", 2)  # 4097 values and more take two blocks
    x = random(numel).to(dtype)
    scaled = guarded(x)
    _scale_(scaled, torch.tensor(0.3))
    assert torch.equal(scaled, (x.float() * 0.3).to(dtype))


def test_scaling_by_one_reads_and_writes_nothing():
    region = mmap.mmap(-1, mmap.PAGESIZE)
    x = torch.frombuffer(region, dtype=torch.float32, count=8)
    start = ctypes.c_void_p(x.data_ptr())
    assert LIBC.mprotect(start, mmap.PAGESIZE, NO_ACCESS) == 0
    _scale_(x, torch.tensor(1.0))
    assert LIBC.mprotect(start, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    assert x.tolist() == [0.0] * 8


def test_what_does_not_fit_together_is_an_error():
    hidden, weight, labels, num_classes = inputs(3, 5, 8, 7, torch.float32)
    for message, arguments in {
        "both bf16": (hidden.double(), weight.double(), labels, num_classes, SCALE),
        "float16": (hidden, weight.half(), labels, num_classes, SCALE),
        "int32": (hidden, weight, labels.int(), num_classes, SCALE),
        "scale": (hidden, weight, labels, num_classes, SCALE.double()),
        r"\(1,\) torch.float32": (hidden, weight, labels, num_classes, SCALE[None]),
        r"\(2,\)": (hidden, weight, labels[:2], num_classes, SCALE),
        r"\(8, 4\)": (hidden, weight[:, :4], labels, num_classes, SCALE),
        "num_classes=9": (hidden, weight, labels, 9, SCALE),
    }.items():
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy_triton(*arguments)


def test_the_operators_pass_torchs_checks():
    given = inputs(5, 3, 8, 7, torch.float32)
    torch.library.opcheck(_gradients_op, (*given, SCALE))
    torch.library.opcheck(_losses_op, given)
    torch.library.opcheck(_scale_, (random(5).float(), torch.tensor(2.0)))


def test_it_compiles_without_a_graph_break():
    given = inputs(5, 3, 8, 7, torch.float32)
    compiled = torch.compile(linear_cross_entropy_triton, backend="aot_eager", fullgraph=True)
    for dloss in (1.0, -2.0):
        results = (run(f, given, dloss=dloss) for f in (compiled, linear_cross_entropy_triton))
        assert all(map(torch.equal, *results))


def test_the_device_decides_between_the_two(monkeypatch: pytest.MonkeyPatch):
    for name in ("linear_cross_entropy_triton", "linear_cross_entropy_reference"):
        monkeypatch.setattr(module, name, lambda *_, name=name: name)
    with FakeTensorMode():
        for device, kind in (("cuda", "triton"), ("cpu", "reference")):
            hidden = torch.ones(2, 3, device=device)
            chosen = linear_cross_entropy(hidden, hidden, hidden, 2, SCALE)
            assert chosen == f"linear_cross_entropy_{kind}"
