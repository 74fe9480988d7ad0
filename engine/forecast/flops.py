"""FLOPs of a token and peak of a device: the two numbers of model FLOPs utilisation (MFU).

    matmuls    6 N            N: weights of all projections and the head, not the embedding's lookup
    attention  12 L H K span  span: T with the full count, (T + 1) / 2 with the causal one

This counts forward and backward, and a multiply-add as two. Most published utilisations count
attention in full (PaLM, nanoGPT), though causal kernels skip half of it. So there are two counts,
and a report names the one it uses. Recomputation and the document mask change neither.
"""

from typing import Literal, NamedTuple

from tresse.engine.run.config import ModelConfig

# Dense bf16 tensor-core peaks in FLOP/s, from NVIDIA's data sheets (SXM: 989 also for the H200).
BF16_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
# Versions of these chips with fewer units or lower clocks.
OTHER_PEAKS = {"PCIe", "NVL"}


class Flops(NamedTuple):
    """FLOPs to train on one token, forward and backward."""

    causal: float
    """Count with the attention scores that a causal mask leaves, about half of them."""
    full: float
    """Count with all attention scores."""


def flops_per_token(config: ModelConfig, row_length: int, vocab_width: int) -> Flops:
    """Count the FLOPs in rows of `row_length` tokens; vocab_width: columns of the padded logits."""
    D, K = config.hidden_size, config.head_dim
    qkv = D * (config.num_heads + 2 * config.num_kv_heads) * K
    out = config.num_heads * K * D
    swiglu = 3 * D * config.intermediate_size
    matmuls = 6 * (config.num_layers * (qkv + out + swiglu) + vocab_width * D)
    per_key = 12 * config.num_layers * config.num_heads * K
    return Flops(matmuls + per_key * (row_length + 1) / 2, matmuls + per_key * row_length)


def peak_flops(device_name: str, precision: Literal["bf16", "fp32"]) -> float | None:
    """Return the peak of a device in FLOP/s, or None if it is not known.

    device_name: as torch.cuda.get_device_name returns it, such as "NVIDIA H100 80GB HBM3".
    """
    words = set(device_name.replace("-", " ").split())
    if precision != "bf16" or words & OTHER_PEAKS:
        return None
    return next((peak for name, peak in BF16_PEAKS.items() if name in words), None)
