"""Other libraries' functions, called as their authors document it: Liger and quack.

Each takes and returns the same tensors as the case of its kernel (cases/), and imports
its library when it is first called. Signatures: liger-kernel 0.8.5, quack-kernels 0.6.5.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from tresse.kernels.cross_entropy import IGNORE_INDEX

PACKAGES = {"liger": "liger_kernel", "quack": "quack"}
QUACK_CHUNK = 4096  # tokens: its default


@cache
def is_installed(name: str) -> bool:
    """Return True where a library's package can be found, or for a variant of ours."""
    return name not in PACKAGES or find_spec(PACKAGES[name]) is not None


def missing() -> list[str]:
    """Name the libraries that are not installed."""
    return [f"{name} is not installed" for name in PACKAGES if not is_installed(name)]


def failures() -> tuple[type[Exception], ...]:
    """Errors that the compiler of quack and FlashAttention 4 raises, once it is imported."""
    module = sys.modules.get("cutlass.base_dsl.common")
    return (module.DSLBaseError,) if module else ()


@cache
def _from(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def liger_rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(N, D), (D,) -> (N, D); the gradient does not overwrite dy."""
    function = _from("liger_kernel.ops.rms_norm", "LigerRMSNormFunction")
    return function.apply(x, weight, eps, 0.0, "llama", False)


def liger_add_rmsnorm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Any:
    """(N, D) twice, (D,) -> (normed, new residual); the gradient does not overwrite dy."""
    function = _from("liger_kernel.ops.fused_add_rms_norm", "LigerFusedAddRMSNormFunction")
    return function.apply(x, residual, weight, eps, 0.0, "llama", False)


def liger_rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """(B, T, H, K), (B, T, Hkv, K), (T, K) twice -> both rotated in place."""
    function = _from("liger_kernel.ops.rope", "LigerRopeFunction")
    q, k = function.apply(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
    return q.transpose(1, 2), k.transpose(1, 2)


def liger_swiglu(gate_up: Tensor) -> Tensor:
    """(N, 2F) -> (N, F)."""
    function = _from("liger_kernel.ops.swiglu", "LigerFusedGateUpSiLUMulFunction")
    return function.apply(gate_up)


def liger_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, V), (N,) -> mean loss; the forward leaves the gradient in the logits."""
    function = _from("liger_kernel.ops.cross_entropy", "LigerCrossEntropyFunction")
    return function.apply(logits, labels, None, IGNORE_INDEX, 0.0, 0.0, "mean", None, False)[0]


def liger_linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """(N, D), (V, D), (N,) -> mean loss; the gradient of the weight is summed in fp32."""
    name = "LigerFusedLinearCrossEntropyFunction"
    function = _from("liger_kernel.ops.fused_linear_cross_entropy", name)
    options = (None, None, IGNORE_INDEX, 0.0, 0.0, "mean", None, False, torch.float32)
    return function.apply(hidden, weight, labels, *options)[0]


def quack_rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(N, D), (D,) -> (N, D)."""
    return _from("quack.rmsnorm", "rmsnorm")(x, weight, eps=eps)


def quack_add_rmsnorm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Any:
    """(N, D) twice, (D,) -> (normed, new residual)."""
    return _from("quack.rmsnorm", "rmsnorm")(x, weight, residual=residual, eps=eps, prenorm=True)


def quack_rope(qkv: Tensor, cos: Tensor, sin: Tensor, heads: Sequence[int], head_dim: int) -> Any:
    """(B, T, (H + 2 Hkv) K) rotated in place -> q, k, v as views (N, heads, K)."""
    function = _from("quack.rotary", "apply_rotary_emb_qkv_")
    rotated = function(qkv, cos, sin, num_heads_q=heads[0], headdim=head_dim)
    return rotated.view(-1, sum(heads), head_dim).split(list(heads), dim=1)


def quack_mlp(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """(N, D), (2F, D), (D, F) -> (N, D); without its search over tilings, which takes minutes."""
    function = _from("quack.mlp", "mlp_func")
    return function(x, gate_up, down, "swiglu", tuned=False, concat_layout=True)


def quack_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, V), (N,) -> mean loss."""
    function = _from("quack.cross_entropy", "cross_entropy")
    return function(logits, labels, ignore_index=IGNORE_INDEX, reduction="mean")


def quack_linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """(N, D), (V, D), (N,) -> mean loss; without its search over tilings, which takes minutes."""
    function = _from("quack.linear_cross_entropy", "chunked_linear_cross_entropy")
    return function(hidden, weight, labels, QUACK_CHUNK, IGNORE_INDEX, "mean", tuned=False)
