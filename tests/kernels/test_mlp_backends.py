"""quack's MLP, where it is asked for: what it is given, and what is said where it cannot run."""

import dataclasses
import importlib.metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.formulas import swiglu_linear_formula
from tresse.engine.model import Block
from tresse.engine.run.config import KernelsConfig, ShardingConfig
from tresse.engine.run.recipes import TINY, tiny
from tresse.kernels import mlp_backends
from tresse.kernels.mlp_backends import choose_mlp
from tresse.kernels.rope import rope_tables

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with Hopper and a stand-in for quack, from which a test takes something away."""
    machine = SimpleNamespace(capability=90, version="0.6.5", error=None, options=[])

    def mlp_func(x: torch.Tensor, weight1: torch.Tensor, weight2: torch.Tensor, *rest: Any, **kw):
        machine.options.append((rest, kw))
        return swiglu_linear_formula(x @ weight1.T, weight2)

    def version(name: str) -> str:
        if machine.version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return machine.version

    def import_module(_name: str) -> SimpleNamespace:
        if machine.error:
            raise machine.error
        return SimpleNamespace(mlp_func=mlp_func)

    monkeypatch.setattr(mlp_backends, "capability_of", lambda _: machine.capability)
    monkeypatch.setattr(mlp_backends.importlib.metadata, "version", version)
    monkeypatch.setattr(mlp_backends.importlib, "import_module", import_module)
    return machine


def test_a_block_with_it_computes_the_same_with_the_same_parameters(
    machine: SimpleNamespace,
) -> None:
    mlp = choose_mlp("quack", GPU, torch.bfloat16)
    assert mlp is not None
    ours, theirs = Block(TINY), Block(TINY, mlp=mlp)
    theirs.load_state_dict(ours.state_dict())
    tables = rope_tables(8, TINY.head_dim, TINY.rope_theta, None, CPU)
    x = torch.randn(2, 8, TINY.hidden_size, generator=torch.Generator().manual_seed(0))
    results = []
    for block in (ours, theirs):
        branch, residual = block(x, None, tables, None)
        results.append(
            (branch, residual, *torch.autograd.grad(branch.sum(), list(block.parameters())))
        )
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert machine.options == [(("swiglu",), {"tuned": False, "concat_layout": True})]


@pytest.mark.usefixtures("machine")
def test_ours_is_taken_unless_it_is_asked_for() -> None:
    assert choose_mlp("tresse", GPU, torch.bfloat16) is None


@pytest.mark.parametrize(
    ("has", "device", "dtype", "message"),
    [
        ({}, CPU, torch.bfloat16, "needs a CUDA device, this is cpu"),
        ({"capability": 80}, GPU, torch.bfloat16, r"needs compute capability 9\.0, this is 8\.0"),
        ({}, GPU, torch.float32, r"needs bf16, this is torch\.float32"),
        ({"version": None}, GPU, torch.bfloat16, "quack-kernels is not installed"),
        ({"version": "0.5.3"}, GPU, torch.bfloat16, r"0\.5\.3 is older than 0\.6\.5"),
        (
            {"error": TypeError("a ContextVar")},
            GPU,
            torch.bfloat16,
            "not import: a ContextVar",
        ),
    ],
)
def test_what_it_lacks_is_an_error_that_says_so(
    machine: SimpleNamespace, has: dict, device: torch.device, dtype: torch.dtype, message: str
) -> None:
    vars(machine).update(has)
    with pytest.raises(ValueError, match=f"kernels.mlp=quack cannot run here: .*{message}"):
        choose_mlp("quack", device, dtype)


@pytest.mark.parametrize("sharding", [{"zero_stage": 3}, {"fp8": True, "precision": "bf16"}])
def test_weights_that_are_not_whole_or_not_plain_are_refused(sharding: dict) -> None:
    with pytest.raises(ValueError, match="ZeRO level 3 and fp8"):
        dataclasses.replace(
            tiny(), kernels=KernelsConfig(mlp="quack"), sharding=ShardingConfig(**sharding)
        )
