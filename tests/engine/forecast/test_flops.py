"""FLOPs per token against the figures of the design and against what PyTorch counts."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tresse.engine.forecast.flops import flops_per_token, peak_flops
from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig
from tresse.engine.run.recipes import LLAMA_1B, QWEN_360M


@pytest.mark.parametrize(
    ("config", "causal", "full"), [(LLAMA_1B, 6.267, 6.669), (QWEN_360M, 2.422, 2.686)]
)
def test_flops_of_the_paper_models_are_those_of_the_design(
    config: ModelConfig, causal: float, full: float
):
    counts = [count / 1e9 for count in flops_per_token(config, row_length=2048, vocab_width=2048)]
    assert counts == pytest.approx([causal, full], abs=1e-3)  # those are sums of rounded terms


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_full_count_is_what_pytorch_counts_in_the_matmuls(tie_embeddings: bool):
    config = dataclasses.replace(
        QWEN_360M,
        hidden_size=64,
        num_layers=2,
        num_heads=6,
        num_kv_heads=6,  # FlopCounterMode knows no grouped queries on a CPU
        head_dim=16,
        intermediate_size=80,
        tie_embeddings=tie_embeddings,
    )
    model = Transformer(config, vocab_width=128, vocab_used=37)
    tokens = torch.randint(37, (2, 24))
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(tokens, tokens)[0].backward()
    expected = flops_per_token(config, row_length=24, vocab_width=128).full
    assert counter.get_total_flops() == tokens.numel() * expected


def test_causal_count_has_the_keys_that_each_position_reads():
    row_length = 5
    flops = flops_per_token(LLAMA_1B, row_length, vocab_width=128)
    longer = flops_per_token(LLAMA_1B, row_length + 1, vocab_width=128)
    per_key = longer.full - flops.full
    mean_keys = sum(range(1, row_length + 1)) / row_length
    assert flops.full - flops.causal == pytest.approx(per_key * (row_length - mean_keys))


@pytest.mark.parametrize(
    ("device_name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),  # another chip at another clock
        ("NVIDIA GeForce RTX 4090", None),
        ("cpu", None),
    ],
)
def test_peak_is_known_for_the_devices_of_the_paper_and_none_elsewhere(
    device_name: str, peak: float | None
):
    assert peak_flops(device_name, "bf16") == peak
    assert peak_flops(device_name, "fp32") is None
