"""A small model trained for ten steps by the Triton kernels, against PyTorch in fp32."""

import pytest
import torch

from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig
from tresse.kernels import linear_cross_entropy, rmsnorm, rope, swiglu
from tresse.kernels.adamw import AdamW, clip_coefficient, sum_of_squares
from tresse.kernels.attention import Attend, attention
from tresse.kernels.flash_attention import flash_attention

NUM_STEPS = 10
B, T, VOCAB = 1, 32, 50
CUTS = [0, 5, 5, 21, 32]
CLIP = 0.5  # below the norm of every step
OPTIM = {"lr": 3e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}
MODEL = ModelConfig(
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=80,
    qkv_bias=True,
)
DISPATCHED = [
    (rmsnorm, "add_rmsnorm"),
    (rope, "rope_qkv"),
    (swiglu, "swiglu_linear"),
    (linear_cross_entropy, "linear_cross_entropy"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Send CPU tensors to the kernels, and count the calls."""
    counts = dict.fromkeys([name for _, name in DISPATCHED], 0)

    def counted(name, function):
        def call(*arguments):
            counts[name] += 1
            return function(*arguments)

        return call

    for module, name in DISPATCHED:
        kernel = counted(name, getattr(module, f"{name}_triton"))
        monkeypatch.setattr(module, f"{name}_reference", kernel)
    return counts


def rows_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that count up from a random number: inputs and labels, some of them ignored."""
    start = torch.randint(0, VOCAB, (B, 1), generator=torch.Generator().manual_seed(step))
    tokens = (start + torch.arange(T + 1)) % VOCAB
    labels = tokens[:, 1:].clone()
    labels[:, 20 + step] = -100
    return tokens[:, :-1].contiguous(), labels


def train(attend: Attend, by_kernels: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps and the weights after them."""
    model = Transformer(MODEL, vocab_width=64, vocab_used=VOCAB, attend=attend)
    model.init_weights(seed=0)
    parameters = list(model.parameters())
    optimizer = (AdamW if by_kernels else torch.optim.AdamW)(parameters, **OPTIM)
    cu_seqlens = torch.tensor(CUTS, dtype=torch.int32)
    losses = []
    for step in range(NUM_STEPS):
        tokens, labels = rows_of(step)
        scale = 1 / (labels != -100).sum().float()
        loss, _ = model(tokens, labels, cu_seqlens, scale)
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if isinstance(optimizer, AdamW):
            norm, coefficient = clip_coefficient(sum_of_squares(gradients), CLIP)
            optimizer.step(coefficient)
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
        assert norm > CLIP
        losses.append(loss.item())
    return losses, {name: p.detach() for name, p in model.named_parameters()}


def test_ten_steps_by_kernels_are_those_of_pytorch(request: pytest.FixtureRequest):
    expected_losses, expected = train(attention, by_kernels=False)
    calls = request.getfixturevalue("calls")
    losses, weights = train(flash_attention, by_kernels=True)
    assert calls == {
        "add_rmsnorm": (2 * MODEL.num_layers + 1) * NUM_STEPS,
        "rope_qkv": MODEL.num_layers * NUM_STEPS,
        "swiglu_linear": MODEL.num_layers * NUM_STEPS,
        "linear_cross_entropy": NUM_STEPS,
    }
    assert losses == pytest.approx(expected_losses, abs=1e-5)
    assert losses[-1] < losses[0] - 0.5, "it learns"
    # A key's bias has gradients next to zero, whose rounding AdamW takes for a direction.
    for name, weight in expected.items():
        assert (weights[name] - weight).norm() <= 1e-4 * weight.norm(), name
    found, wanted = (torch.cat([w.flatten() for w in x.values()]) for x in (weights, expected))
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
