"""A whole `Block` with its Triton kernels, against the same block with the PyTorch paths."""

from collections.abc import Callable

import pytest
import torch

from tests.support.accuracy import random
from tresse.engine.model import Block
from tresse.engine.run.config import ModelConfig
from tresse.kernels import rmsnorm, rope, swiglu

CONFIG = ModelConfig(
    hidden_size=24,
    num_layers=1,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=40,
    qkv_bias=True,
    rope_theta=500.0,
    norm_eps=1e-5,
    init_std=0.1,
)
B, T, D = 2, 5, CONFIG.hidden_size
Result = tuple[torch.Tensor, ...]


@pytest.fixture
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the tensors of a CPU to the kernels."""
    for module, name in [
        (rmsnorm, "rmsnorm"),
        (rmsnorm, "add_rmsnorm"),
        (rope, "rope_qkv"),
        (swiglu, "swiglu_linear"),
    ]:
        monkeypatch.setattr(module, f"{name}_reference", getattr(module, f"{name}_triton"))


@pytest.fixture
def block() -> Block:
    block = Block(CONFIG)
    with torch.no_grad():
        for seed, parameter in enumerate(block.parameters()):
            parameter.copy_(0.3 * random(*parameter.shape, seed=seed) + (parameter.ndim == 1))
    return block


def streams() -> tuple[torch.Tensor, torch.Tensor]:
    branch, residual = (random(B, T, D, seed=seed).float().requires_grad_() for seed in (90, 91))
    return branch, residual


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    return rope.rope_tables(T, CONFIG.head_dim, CONFIG.rope_theta, None, torch.device("cpu"))


def run(function: Callable, block: Block) -> Result:
    """Outputs of the block and gradients of its inputs and parameters."""
    leaves = [*streams(), *block.parameters()]
    outputs = function(*leaves[:2], tables(), None)
    cotangents = [random(*y.shape, seed=9).float() for y in outputs]
    return (*outputs, *torch.autograd.grad(outputs, leaves, cotangents))


def test_a_block_of_kernels_is_that_of_pytorch(block: Block, request: pytest.FixtureRequest):
    plain = run(block, block)
    request.getfixturevalue("_kernels")
    torch.testing.assert_close(run(block, block), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_kernels")
def test_a_block_of_kernels_compiles_without_a_graph_break(block: Block):
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(compiled, block), run(block, block))


@pytest.mark.usefixtures("_kernels")
def test_a_block_keeps_for_the_backward_what_its_docstring_says(
    block: Block, monkeypatch: pytest.MonkeyPatch
):
    attend, by_attention, kept = block._attend, [], []

    def attend_apart(*arguments):
        with saved_to(by_attention):
            return attend(*arguments)

    monkeypatch.setattr(block, "_attend", attend_apart)
    with saved_to(kept):
        block(*streams(), tables(), None)

    H, Hkv, K = CONFIG.num_heads, CONFIG.num_kv_heads, CONFIG.head_dim
    shared = [*block.parameters(), *tables()]
    values = 4 * D + H * K + 2 * CONFIG.intermediate_size + 2  # attention's output and two rstd
    assert num_bytes(kept, shared) == 4 * B * T * values
    assert num_bytes(by_attention, shared) >= 4 * B * T * (H + 2 * Hkv) * K  # q, k, v and more


def saved_to(kept: list[torch.Tensor]):
    return torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x)


def num_bytes(tensors: list[torch.Tensor], shared: list[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once, without those of the shared tensors."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    for x in shared:
        storages.pop(x.untyped_storage().data_ptr(), None)
    return sum(storages.values())
