"""What GPUs reach in a training step, as far as a forecast needs to know."""

from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path

from tresse.data.lines import decode_json
from tresse.engine.run.typed_json import from_json, to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """Rates of a GPU and of the links between several; FLOP/s and bytes/s."""

    name: str
    """Name that torch.cuda.get_device_name returns: `flops.peak_flops` reads it."""
    memory_bytes: float
    """Memory that a process can use."""
    best_flops: float
    """Rate of the fastest square product in bf16: what floors are computed with."""
    matmul_flops: float
    """Rate of a product in bf16 whose operands cost nothing to move; fitted, see `read_rates`."""
    matmul_move_share: float
    """Share of the time to move a product's operands and result that adds to it, 0 to 1; fitted."""
    fp32_flops: float
    """Rate of a product in fp32, without TF32."""
    attention_flops: float
    """Rate of attention in bf16, forward and backward, counted as the causal mask leaves it."""
    copy_bytes: float
    """Rate of a copy in device memory, bytes read plus bytes written."""
    bus_bytes: float
    """Bus bandwidth of a collective within a node, as nccl-tests defines it."""
    network_bytes: float
    """Bandwidth of one GPU's share of the network between nodes."""
    gpus_per_node: int = 8
    """GPUs that share the faster links."""
    host_link_bytes: float = 40e9
    """Bandwidth between a GPU and the memory of its host, one way."""
    host_bytes: float = 40e9
    """One GPU's share of the bandwidth of the host's memory."""
    latency_s: float = 30e-6
    """Seconds that a collective takes at least, per doubling of the number of GPUs."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "matmul_move_share" and not 0 <= value <= 1:
                raise ValueError(f"{each.name}={value}; expected 0 to 1")
            if each.name not in ("name", "matmul_move_share") and not 0 < value < inf:
                raise ValueError(f"{each.name}={value}; expected a number above 0")


# Measured: the H100's best product, copy and attention (cuDNN) in the profile of a 1B step
# (docs/log.md), the H200's in bench/results/kernels.csv (FlashAttention 4). The H100's two fitted
# numbers come from the products of a 1B and a 360M step; the H200 has its best product instead, and
# the H100's share. Assumed: fp32, links, networks, hosts, all of the A100, and that attention with
# heads of 128 has the rate of heads of 64.
H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=85.0e9,
    best_flops=739e12,
    matmul_flops=805e12,
    matmul_move_share=0.66,
    fp32_flops=50e12,
    attention_flops=277e12,
    copy_bytes=3.03e12,
    bus_bytes=330e9,
    network_bytes=45e9,
)
GPUS = {
    "h100": H100,
    "h200": replace(
        H100,
        name="NVIDIA H200",
        memory_bytes=150.0e9,
        best_flops=709e12,
        matmul_flops=709e12,
        attention_flops=402e12,
        copy_bytes=4.26e12,
    ),
    "a100": replace(
        H100,
        name="NVIDIA A100-SXM4-80GB",
        memory_bytes=84.9e9,
        best_flops=255e12,
        matmul_flops=265e12,
        fp32_flops=17e12,
        attention_flops=150e12,
        copy_bytes=1.7e12,
        bus_bytes=230e9,
        network_bytes=23e9,
    ),
}


def read_rates(path: Path, base: Gpu) -> Gpu:
    """Return a GPU with the rates in a file, as bench/gemms.py writes it; others are the base's.

    ValueError names the file and the field that is unknown, of the wrong type or out of range.
    """
    try:
        found = decode_json(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return from_json(Gpu, to_json(base) | found)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no file of rates ({error}); bench/gemms.py writes one") from None
