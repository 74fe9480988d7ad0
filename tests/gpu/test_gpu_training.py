"""Small models on a GPU train as on a CPU, by every attention; compiled blocks equal eager ones."""

import pytest
import torch

from tresse.engine.model import Block, Transformer
from tresse.engine.run.config import ModelConfig
from tresse.kernels.attention import Attend, attention
from tresse.kernels.flash_attention import flash_attention
from tresse.kernels.rope import rope_tables

NUM_STEPS = 20
ROWS, T, VOCAB = 6, 64, 50
CUTS = [0, 5, 64, 64, 128, 192, 199, 256, 320, 384, 384]
MODEL = ModelConfig(
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=208,
    qkv_bias=True,
)
ATTENTION = {"sdpa": attention, "triton": flash_attention}


def rows_of(step: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that count up by ones or twos: inputs and labels, some of them ignored."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCAB, (ROWS, 1), generator=generator)
    stride = torch.randint(1, 3, (ROWS, 1), generator=generator)
    tokens = (start + stride * torch.arange(T + 1)) % VOCAB
    labels = tokens[:, 1:].clone()
    labels[0, T // 2 :] = -100
    return tokens[:, :-1].contiguous().to(device), labels.to(device)


def train(
    device: str, dtype: torch.dtype, attend: Attend = attention
) -> tuple[list[float], torch.Tensor]:
    """Losses of NUM_STEPS steps of AdamW on fp32 weights, and all weights after them."""
    model = Transformer(MODEL, vocab_width=128, vocab_used=VOCAB, attend=attend)
    model.init_weights(seed=0)
    model.to(device, dtype)
    masters = [p.detach().float().clone().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.1)
    cu_seqlens = torch.tensor(CUTS, dtype=torch.int32, device=device)
    losses = []
    for step in range(NUM_STEPS):
        tokens, labels = rows_of(step, device)
        scale = 1 / (labels != -100).sum().float()
        loss, _ = model(tokens, labels, cu_seqlens, scale)
        loss.backward()
        for master, parameter in zip(masters, model.parameters(), strict=True):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, model.parameters(), strict=True):
                parameter.copy_(master)
        losses.append(loss.item())
    return losses, torch.cat([master.detach().cpu().flatten() for master in masters])


@pytest.fixture(scope="module")
def on_a_cpu() -> tuple[list[float], torch.Tensor]:
    """The reference."""
    return train("cpu", torch.float32)


@pytest.mark.parametrize("name", ATTENTION)
def test_in_fp32_training_is_that_of_a_cpu(name: str, on_a_cpu: tuple[list[float], torch.Tensor]):
    losses, weights = train("cuda", torch.float32, ATTENTION[name])
    assert losses == pytest.approx(on_a_cpu[0], abs=1e-4)
    assert losses[-1] < losses[0] - 0.5
    assert (weights - on_a_cpu[1]).norm() < 1e-3 * on_a_cpu[1].norm()


# bf16 has 8 bits: operands are rounded by up to 2^-9, and about 20 roundings in a row make 2 %.
@pytest.mark.parametrize("name", ATTENTION)
def test_in_bf16_training_stays_within_rounding_of_a_cpu_in_fp32(
    name: str, on_a_cpu: tuple[list[float], torch.Tensor]
):
    losses, _ = train("cuda", torch.bfloat16, ATTENTION[name])
    assert losses == pytest.approx(on_a_cpu[0], abs=4e-2)


@pytest.mark.parametrize("name", ATTENTION)
def test_training_gives_the_same_bits_again(name: str):
    first, second = (train("cuda", torch.bfloat16, ATTENTION[name]) for _ in range(2))
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ATTENTION)
def test_a_compiled_block_is_the_eager_one(name: str, dtype: torch.dtype, bound: float):
    torch.manual_seed(0)
    block = Block(MODEL, ATTENTION[name]).to("cuda", dtype)
    compiled = torch.compile(block, fullgraph=True, dynamic=False)
    tables = rope_tables(T, MODEL.head_dim, MODEL.rope_theta, None, torch.device("cuda"))
    cu_seqlens = torch.tensor(CUTS, dtype=torch.int32, device="cuda")
    shape = ROWS, T, MODEL.hidden_size
    streams = [torch.randn(shape, device="cuda", dtype=dtype).requires_grad_() for _ in range(2)]
    cotangents = [torch.randn_like(x) for x in streams]
    leaves, results = [*streams, *block.parameters()], []
    for function in (block, compiled):
        outputs = function(*streams, tables, cu_seqlens)
        results.append((*outputs, *torch.autograd.grad(outputs, leaves, cotangents)))
    for eager, found in zip(*results, strict=True):
        assert (found - eager).norm() <= bound * eager.norm()
