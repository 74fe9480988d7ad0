"""Matrix products in fp8 by torchao, with one scale per tensor: an experiment behind a flag.

x and w are rounded to e4m3 and the gradient of y to e5m2 or e4m3, as torchao's recipe says, each
divided by a scale that is computed anew from its largest value. Weights, masters and the other
operations stay as they are. The projection after SwiGLU and the head stay in bf16.
"""

import importlib.util
from dataclasses import replace

import torch
from torch import nn

from tresse.engine.model import Transformer
from tresse.kernels.flash_attention_tiles import capability_of

CAPABILITY = 89  # Ada and Hopper are the first with fp8


def check_fp8(device: torch.device) -> None:
    """Raise ValueError where fp8 cannot be used; a CPU emulates it."""
    if importlib.util.find_spec("torchao") is None:
        raise ValueError("sharding.fp8 needs torchao; install it with: pip install torchao")
    if device.type == "cuda" and capability_of(device) < CAPABILITY:
        raise ValueError(
            f"sharding.fp8 needs compute capability {CAPABILITY / 10}, "
            f"this is {capability_of(device) / 10}"
        )


def use_fp8(model: Transformer, device: torch.device) -> None:
    """Let the projections of q, k, v, of attention's output, of gate and up multiply in fp8.

    ValueError as `check_fp8` says.
    """
    check_fp8(device)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name("tensorwise")
    config = replace(config, emulate=device.type != "cuda")
    for layer in model.layers:
        convert_to_float8_training(layer, config=config, module_filter_fn=_is_plain)


def _is_plain(module: nn.Module, _name: str) -> bool:
    return type(module) is nn.Linear
