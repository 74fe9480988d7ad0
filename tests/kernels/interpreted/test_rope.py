"""The Triton rotation of a packed projection against its formula in fp64."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import packed, rope_formula
from tests.support.guarded import guarded
from tresse.kernels import rope as module
from tresse.kernels.rope import (
    _backward,
    _forward,
    rope_qkv,
    rope_qkv_reference,
    rope_qkv_triton,
    rope_tables,
)

# B, T, H, Hkv, K. One pair; a prime row, heads of an odd number of pairs, more keys than queries;
# two blocks of query heads, the second one partly used; more values than one block copies.
SIZES = [(1, 1, 1, 1, 2), (2, 7, 3, 5, 6), (2, 3, 20, 2, 64), (1, 3, 3, 3, 96)]


def tables(size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return rope_tables(size[1], size[4], 500.0, None, torch.device("cpu"))


def gradients(size: tuple[int, ...]) -> list[torch.Tensor]:
    B, T, H, Hkv, K = size
    return [random(B * T, h, K, seed=seed).float() for seed, h in ((1, H), (2, Hkv), (3, Hkv))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_rope_is_as_accurate_as_pytorch(size: tuple[int, ...], dtype: torch.dtype):
    cos, sin = tables(size)
    heads = {"num_heads": size[2], "num_kv_heads": size[3]}
    function = partial(rope_qkv_triton, cos=cos, sin=sin, **heads)
    formula = partial(rope_formula, cos=cos, sin=sin, **heads)
    assert_as_accurate_as_pytorch(function, formula, [packed(size)], dtype)


@settings(max_examples=20, deadline=None)
@given(*(st.integers(low, high) for low, high in ((0, 3), (1, 9), (1, 5), (1, 3), (1, 9))))
def test_rope_agrees_with_the_pytorch_path(B: int, T: int, H: int, Hkv: int, half: int):
    size = (B, T, H, Hkv, 2 * half)
    qkv = packed(size).float().requires_grad_()
    results = []
    for function in (rope_qkv_triton, rope_qkv_reference):
        outputs = function(qkv, *tables(size), H, Hkv)
        assert all(y.is_contiguous() for y in outputs)
        results.append((*outputs, *torch.autograd.grad(outputs, qkv, gradients(size))))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_values_come_and_go_bit_for_bit():
    size = SIZES[1]
    qkv = packed(size).float()
    qkv[3, -size[4]] = float("inf")
    qkv[4, -size[4]] = -0.0
    *_, v = rope_qkv_triton(qkv, *tables(size), 3, 5)
    want = qkv.view(14, 13, 6)[:, 8:]
    assert torch.equal(v.view(torch.int32), want.contiguous().view(torch.int32))
    dq, dk, _ = gradients(size)
    dqkv = _backward(dq, dk, v, *tables(size))
    assert torch.equal(dqkv.view(14, 13, 6)[:, 8:], v)


@pytest.mark.parametrize("present", [(0,), (1,), (2,), (0, 2)])
def test_a_missing_gradient_is_zero(present: tuple[int, ...]):
    size = SIZES[1]
    qkv = packed(size).float().requires_grad_()
    outputs = rope_qkv_triton(qkv, *tables(size), 3, 5)
    grads = gradients(size)
    (some,) = torch.autograd.grad([outputs[i] for i in present], qkv, [grads[i] for i in present])
    zeros = [grad if i in present else torch.zeros_like(grad) for i, grad in enumerate(grads)]
    assert torch.equal(some, _backward(*zeros, *tables(size)))


def test_rope_takes_tensors_of_any_strides():
    size = SIZES[1]
    qkv = packed(size).float().T.contiguous().T.requires_grad_()
    grads = [grad.mT.contiguous().mT for grad in gradients(size)]
    for function in (rope_qkv_triton, rope_qkv_reference):
        results = []
        for x, cotangents in ((qkv, grads), (qkv.contiguous(), [g.contiguous() for g in grads])):
            outputs = function(x, *tables(size), 3, 5)
            results.append((*outputs, *torch.autograd.grad(outputs, qkv, cotangents)))
        assert all(map(torch.equal, *results))


@pytest.mark.parametrize("size", SIZES)
def test_rope_reads_nothing_behind_its_inputs(size: tuple[int, ...]):
    tensors = packed(size).float(), *tables(size)
    outputs = _forward(*map(guarded, tensors), *size[2:4])
    assert all(map(torch.equal, outputs, _forward(*tensors, *size[2:4])))
    tensors = *gradients(size), *tables(size)
    assert torch.equal(_backward(*map(guarded, tensors)), _backward(*tensors))


def test_rope_keeps_the_tables_alone_for_the_backward():
    size, kept = SIZES[1], []
    cos, sin = tables(size)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        rope_qkv_triton(packed(size).float().requires_grad_(), cos, sin, 3, 5)
    assert {x.data_ptr() for x in kept} == {cos.data_ptr(), sin.data_ptr()}


def test_rope_has_the_gradient_of_finite_differences():
    size = (2, 2, 2, 1, 4)
    function = lambda qkv: rope_qkv_triton(qkv, *tables(size), 2, 1)  # noqa: E731
    assert torch.autograd.gradcheck(function, packed(size).requires_grad_())


def test_rope_keeps_the_promises_of_a_custom_op():
    size = (2, 3, 3, 1, 4)
    qkv, (cos, sin) = packed(size).float().requires_grad_(), tables(size)
    torch.library.opcheck(_forward, (qkv, cos, sin, 3, 1))
    torch.library.opcheck(_backward, (*gradients(size), cos, sin))


def test_rope_compiles_without_a_graph_break():
    size = (2, 3, 4, 2, 6)
    qkv = packed(size).float().requires_grad_()
    compiled = torch.compile(rope_qkv_triton, backend="aot_eager", fullgraph=True)
    results = []
    for function in (rope_qkv_triton, compiled):
        outputs = function(qkv, *tables(size), 4, 2)
        results.append((*outputs, *torch.autograd.grad(outputs, qkv, gradients(size))))
    assert all(map(torch.equal, *results))


def test_tensors_of_a_gpu_go_to_the_kernels_and_others_to_pytorch(monkeypatch: pytest.MonkeyPatch):
    for name in ("rope_qkv_triton", "rope_qkv_reference"):
        monkeypatch.setattr(module, name, lambda *_, name=name: name)
    with FakeTensorMode():
        for device, name in [("cuda", "rope_qkv_triton"), ("cpu", "rope_qkv_reference")]:
            cos = torch.ones(3, 2, device=device)
            assert rope_qkv(torch.ones(6, 16, device=device), cos, cos, 2, 1) == name
