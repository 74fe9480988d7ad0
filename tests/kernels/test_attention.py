"""Attention against its formula in fp64, and which backend runs where."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.torch_version import TorchVersion

from tests.support.accuracy import assert_as_accurate_as_pytorch, random
from tests.support.formulas import attention_formula
from tresse.engine.attention import choose_attention
from tresse.engine.run.config import KernelsConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.recipes import RECIPES
from tresse.kernels import attention_backends
from tresse.kernels.attention import attention, document_mask
from tresse.kernels.attention_backends import Setting, choose

DTYPES = [torch.float32, torch.bfloat16]


# Heads: as many key heads as query heads, groups of 3 (no power of two), one key head for all.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("rows", [(2, 37), (1, 128)])  # a prime, a tile
def test_attention_is_as_accurate_as_pytorch(
    rows: tuple[int, int], heads: tuple[int, int], dtype: torch.dtype
):
    (B, T), (H, Hkv), K = rows, heads, 16
    inputs = [random(B * T, H, K), random(B * T, Hkv, K, seed=1), random(B * T, Hkv, K, seed=2)]
    formula = partial(attention_formula, cuts=list(range(0, B * T + 1, T)))
    function = partial(attention, row_length=T)
    assert_as_accurate_as_pytorch(function, formula, inputs, dtype)


def test_attention_of_one_token_is_its_value():
    q, k = (random(2, heads, 16).float().requires_grad_() for heads in (6, 2))
    v = random(2, 2, 16, seed=2).float()
    y = attention(q, k, v, 1)
    assert torch.equal(y, v.repeat_interleave(3, dim=1))
    for grad in torch.autograd.grad(y.sum(), (q, k)):
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_in_documents_is_as_accurate_as_pytorch(dtype: torch.dtype):
    T, K = 19, 16
    cuts = [0, 1, 7, 19, 19, 19, 36, 38, 38]  # length 1, empty ones inside and at the end
    inputs = [random(2 * T, 4, K), random(2 * T, 2, K, seed=1), random(2 * T, 2, K, seed=2)]
    cu_seqlens = torch.tensor(cuts, dtype=torch.int32)
    function = partial(attention, row_length=T, cu_seqlens=cu_seqlens)
    formula = partial(attention_formula, cuts=cuts)
    assert_as_accurate_as_pytorch(function, formula, inputs, dtype)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.data())
def test_document_mask_is_causal_and_block_diagonal(B: int, T: int, data: st.DataObject):
    interior = data.draw(st.lists(st.integers(0, B * T), max_size=8))
    cuts = sorted([*interior, *range(0, B * T + 1, T)])
    mask = document_mask(torch.tensor(cuts, dtype=torch.int32), B, T)
    for row, query, key in itertools.product(range(B), range(T), range(T)):
        start = max(cut for cut in cuts if cut <= row * T + query)
        assert mask[row, 0, query, key].item() == (start <= row * T + key <= row * T + query)


CPU, GPU = torch.device("cpu"), torch.device("cuda")
PACKAGES = {"flash-attn-4": "4.0.0b36", "flash-attn": "2.8.3"}
SETTING = Setting(
    device=GPU, dtype=torch.bfloat16, head_dim=64, mask_documents=False, deterministic=False
)


@dataclass
class Machine:
    """A GPU and packages that this machine does not have."""

    packages: dict[str, str]
    capability: int = 90
    torch: str = "2.13.0"
    broken: tuple[str, ...] = ()
    """Modules whose import fails."""
    modules: dict[str, SimpleNamespace] = field(default_factory=dict)

    def version(self, package: str) -> str:
        if package not in self.packages:
            raise PackageNotFoundError(package)
        return self.packages[package]

    def import_module(self, name: str) -> SimpleNamespace:
        if name in self.broken:
            raise ImportError(f"undefined symbol in {name}")
        return self.modules[name]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with Hopper and all packages, from which a test takes something away."""
    machine = Machine(dict(PACKAGES) | {"triton": "3.7.1"})
    for name in ("flash_attn", "flash_attn.cute"):
        dense, varlen = partial(recorded_dense, name), partial(recorded_varlen, name)
        fake = SimpleNamespace(flash_attn_func=dense, flash_attn_varlen_func=varlen)
        machine.modules[name] = fake
    machine.modules["torch.nn.attention.varlen"] = SimpleNamespace(varlen_attn=recorded_torch)
    monkeypatch.setattr(attention_backends.importlib.metadata, "version", machine.version)
    monkeypatch.setattr(attention_backends.importlib, "import_module", machine.import_module)
    monkeypatch.setattr(attention_backends, "capability_of", lambda _: machine.capability)
    monkeypatch.setattr(attention_backends, "_sdp_backend", lambda _: "cudnn_attention")
    monkeypatch.setattr(attention_backends, "torch_version", lambda: TorchVersion(machine.torch))
    calls.clear()
    return machine


calls: list[tuple[str, dict[str, object]]] = []


def recorded_dense(name: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object):
    """Attend as flash_attn_func does, to (B, T, heads, K), and note the options."""
    calls.append((f"{name} dense", options))
    B, T = q.shape[:2]
    y = attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), T).unflatten(0, (B, T))
    return (y, None) if name == "flash_attn.cute" else y


def recorded_varlen(
    name: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    **options: object,
):
    """Attend as flash_attn_varlen_func does, and note the options."""
    calls.append((f"{name} varlen", options))
    assert cu_seqlens_q is cu_seqlens_k
    y = attention(q, k, v, len(q), cu_seqlens_q)
    return (y, None) if name == "flash_attn.cute" else y


def recorded_torch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attend as torch's varlen_attn does since 2.12, and note the options."""
    assert cu_seq_q is cu_seq_k
    assert (query.shape[1] != key.shape[1]) <= enable_gqa
    options: dict[str, object] = {"max_q": max_q, "max_k": max_k, "window_size": window_size}
    calls.append(("varlen", options | {"enable_gqa": enable_gqa}))
    return attention(query, key, value, len(query), cu_seq_q)


def torch_2_11(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
    """varlen_attn before torch 2.12, without grouped queries."""
    return recorded_torch(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)


@pytest.mark.parametrize(
    ("missing", "mask_documents", "name", "reason"),
    [
        ((), False, "fa4", "the first choice"),
        (("flash-attn-4",), True, "fa2", "flash-attn-4 is not installed"),
        (PACKAGES, True, "varlen", "flash-attn-4 is not installed; flash-attn is not installed"),
        (PACKAGES, False, "sdpa", "flash-attn-4 is not installed; flash-attn is not installed"),
    ],
)
def test_auto_takes_the_first_that_is_there(
    machine: Machine, missing: Iterable[str], mask_documents: bool, name: str, reason: str
):
    for package in missing:
        del machine.packages[package]
    backend = choose("auto", replace(SETTING, mask_documents=mask_documents))
    assert (backend.name, backend.reason) == (name, reason)


def test_a_backend_is_described_with_its_version_and_its_reason(machine: Machine):
    del machine.packages["flash-attn-4"]
    assert str(choose("auto", SETTING)) == "fa2 2.8.3 (flash-attn-4 is not installed)"


def test_documents_have_ours_where_nothing_else_masks_them_without_a_matrix(machine: Machine):
    del machine.packages["flash-attn-4"], machine.packages["flash-attn"]
    machine.torch = "2.10.0"
    assert choose("auto", SETTING).name == "sdpa"
    documents = replace(SETTING, mask_documents=True)
    backend = choose("auto", documents)
    assert backend.name == "triton"
    assert backend.reason.endswith("varlen needs torch 2.11, this is 2.10.0")
    assert choose("auto", replace(documents, dtype=torch.float32)).name == "triton"
    assert choose("auto", replace(documents, head_dim=96)).name == "sdpa"


@pytest.mark.usefixtures("machine")
def test_a_cpu_has_sdpa():
    backend = choose("auto", replace(SETTING, device=CPU, mask_documents=True))
    assert (backend.name, backend.attend) == ("sdpa", attention)


# A fault that keeps a backend from running with documents, and its message.
@pytest.mark.parametrize(
    ("name", "machine_has", "setting", "message"),
    [
        ("fa4", {"capability": 80}, {}, "fa4 needs compute capability 9.0, this is 8.0"),
        ("fa2", {"capability": 75}, {}, "fa2 needs compute capability 8.0, this is 7.5"),
        ("varlen", {"capability": 75}, {}, "varlen needs compute capability 8.0"),
        ("fa2", {}, {"dtype": torch.float32}, "fa2 needs bf16 or fp16, this is torch.float32"),
        ("fa4", {}, {"head_dim": 256}, "a multiple of 8 up to 128, this is 256"),
        ("fa2", {}, {"head_dim": 60}, "a multiple of 8 up to 256, this is 60"),
        ("fa4", {"capability": 120}, {"deterministic": True}, "no deterministic gradient"),
        ("fa4", {"packages": {}}, {}, "flash-attn-4 is not installed"),
        ("fa4", {"packages": {"flash-attn-4": "4.0.0b9"}}, {}, "4.0.0b9 is older than 4.0.0b36"),
        ("fa2", {"packages": {"flash-attn": "2.7.4"}}, {}, "flash-attn 2.7.4 is older than 2.8"),
        ("fa2", {"broken": ("flash_attn",)}, {}, "does not import: undefined symbol"),
        ("varlen", {"torch": "2.10.0"}, {}, "varlen needs torch 2.11, this is 2.10.0"),
        ("triton", {}, {"head_dim": 96}, "triton needs model.head_dim of .*, this is 96"),
        ("triton", {"capability": 75}, {}, "triton needs compute capability 8.0, this is 7.5"),
        ("triton", {}, {"device": CPU}, "triton needs a CUDA device, this is cpu"),
        ("fa4", {}, {"device": CPU}, "fa4 needs a CUDA device, this is cpu"),
    ],
)
def test_what_cannot_run_is_an_error_that_says_why_and_what_can(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    machine_has: dict[str, object],
    setting: dict[str, object],
    message: str,
):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for attribute, value in machine_has.items():
        setattr(machine, attribute, value)
    machine.packages.setdefault("triton", "3.7.1")
    wanted = replace(SETTING, mask_documents=True, **setting)
    with pytest.raises(ValueError, match=message) as error:
        choose(name, wanted)
    assert f"kernels.attention={name} cannot run here" in str(error.value)
    able = re.search("one that can: ([a-z0-9, ]+)$", str(error.value))
    assert able
    assert name not in able[1].split(", ")
    for other in able[1].split(", "):
        assert choose(other, wanted).name == other
    assert choose("auto", wanted).name != name


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("name", ["fa4", "fa2", "varlen", "sdpa", "triton"])
def test_what_is_asked_for_is_taken(name: str):
    backend = choose(name, SETTING)
    assert (backend.name, backend.reason) == (name, "as kernels.attention says")


@pytest.mark.parametrize("torch_version", ["2.11.0", "2.13.0"])
@pytest.mark.parametrize("name", ["fa4", "fa2", "varlen"])
def test_each_is_called_for_rows_and_for_documents(machine: Machine, name: str, torch_version: str):
    machine.torch = torch_version
    if torch_version == "2.11.0":
        machine.modules["torch.nn.attention.varlen"].varlen_attn = torch_2_11
    attend = choose(name, replace(SETTING, deterministic=True)).attend
    q, k, v = (random(12, heads, 16, seed=heads).float() for heads in (4, 2, 2))
    cuts = torch.tensor([0, 5, 5, 6, 12], dtype=torch.int32)
    torch.testing.assert_close(attend(q, k, v, 6), attention(q, k, v, 6))
    torch.testing.assert_close(attend(q, k, v, 6, cuts), attention(q, k, v, 6, cuts))
    if name == "varlen":
        expected = [{"max_q": n, "max_k": n, "window_size": (-1, 0)} for n in (6, 6)]
        gqa = {"enable_gqa": torch_version == "2.13.0"}
        assert [options for _, options in calls] == [options | gqa for options in expected]
    else:
        module = {"fa4": "flash_attn.cute", "fa2": "flash_attn"}[name]
        options = {"causal": True, "deterministic": True}
        assert calls == [
            (f"{module} dense", options),
            (f"{module} varlen", options | {"max_seqlen_q": 6, "max_seqlen_k": 6}),
        ]


def test_fa2_need_not_be_deterministic(machine: Machine):
    q, k, v = (random(6, heads, 16, seed=heads).float() for heads in (4, 2, 2))
    choose("fa2", SETTING).attend(q, k, v, 6)
    assert machine.packages
    assert calls[0][1]["deterministic"] is False


def test_a_run_says_its_attention_on_the_first_rank(capsys: pytest.CaptureFixture[str]):
    run = RECIPES["tiny"]()
    for rank in (0, 1):
        assert choose_attention(run, Ranks(rank, 2, CPU)) is attention
    said = f"attention: sdpa {torch.__version__} (on cpu the only one)\n"
    assert capsys.readouterr().out == said


def test_a_run_that_asks_for_what_is_not_there_does_not_start():
    run = replace(RECIPES["tiny"](), kernels=KernelsConfig(attention="fa4"))
    message = r"fa4 needs a CUDA device, this is cpu; choose auto or one that can: sdpa$"
    with pytest.raises(ValueError, match=message):
        choose_attention(run, Ranks(0, 1, CPU))
