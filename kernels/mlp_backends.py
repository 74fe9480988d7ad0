"""Choose which MLP runs: gate and up, SwiGLU, and the projection after it.

    tresse   two products by cuBLAS, and `swiglu.py` between them
    quack    `quack.mlp`, the package quack-kernels: SwiGLU in the epilogues of the products,
             forward and backward, so that its input and its gradient are not read again

A run takes `tresse` unless it is told otherwise: on no machine has quack's been measured to be
faster. It is imported when it is chosen.
"""

import importlib
import importlib.metadata
from typing import Protocol, cast

import torch
from torch.torch_version import TorchVersion

from tresse.kernels.attention_backends import UnavailableError
from tresse.kernels.flash_attention_tiles import capability_of

OLDEST = "0.6.5"


class Mlp(Protocol):
    """The signature of an MLP that takes both weights at once."""

    def __call__(self, x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., D) by gate_up, (2F, D), and down, (D, F)."""
        ...


def choose_mlp(requested: str, device: torch.device, dtype: torch.dtype) -> Mlp | None:
    """Return quack's MLP if it is asked for; None for ours, which the model's layers compute.

    Raises ValueError where quack's cannot run here, and says why.
    """
    if requested != "quack":
        return None
    try:
        return _quack(device, dtype)
    except UnavailableError as missing:
        raise ValueError(
            f"kernels.mlp=quack cannot run here: {missing}; choose kernels.mlp=tresse"
        ) from None


def _quack(device: torch.device, dtype: torch.dtype) -> Mlp:
    if device.type != "cuda":
        raise UnavailableError(f"quack needs a CUDA device, this is {device.type}")
    if capability_of(device) < 90:
        raise UnavailableError(
            f"quack needs compute capability 9.0, this is {capability_of(device) / 10}"
        )
    if dtype != torch.bfloat16:
        raise UnavailableError(f"quack needs bf16, this is {dtype}")
    try:
        version = importlib.metadata.version("quack-kernels")
        function = importlib.import_module("quack.mlp").mlp_func
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError("quack-kernels is not installed") from None
    except (ImportError, TypeError) as error:  # TypeError: a CUTLASS DSL that it does not know
        raise UnavailableError(f"quack.mlp does not import: {error}") from error
    if TorchVersion(version) < OLDEST:
        raise UnavailableError(f"quack-kernels {version} is older than {OLDEST}")

    def mlp(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        return function(x, gate_up, down, "swiglu", tuned=False, concat_layout=True)

    # It compiles its own kernels when it is called; dynamo must not trace that.
    return cast(Mlp, torch.compiler.disable(mlp))
