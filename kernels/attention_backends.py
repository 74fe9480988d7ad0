"""Choose which attention runs, once at the start of a run.

    fa4      flash_attn.cute, the package flash-attn-4: Hopper and later
    fa2      flash_attn, the package flash-attn 2.8: Ampere and later
    varlen   torch.nn.attention.varlen, torch's own FlashAttention-2 for documents
    sdpa     torch's scaled_dot_product_attention: on a GPU cuDNN or FlashAttention for rows; a
             (T, T) mask for documents; the only one on a CPU
    triton   `flash_attention.py`

`auto` takes the first that can run here: fa4, fa2, then for documents varlen and triton, then sdpa,
which comes last because its mask holds every pair. Packages are found by their metadata and
imported when they are chosen.
"""

import importlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, cast

import torch
from torch.nn.attention import SDPBackend
from torch.torch_version import TorchVersion

from tresse.kernels.attention import Attend, attention
from tresse.kernels.flash_attention import flash_attention
from tresse.kernels.flash_attention_tiles import HEAD_DIMS, capability_of

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The demands of a run on its attention."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    mask_documents: bool
    deterministic: bool
    """The gradient must have the same bits in every run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """The attention of a run."""

    name: str
    version: str
    reason: str
    """The reason of the choice."""
    attend: Attend

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.reason})"


class UnavailableError(Exception):
    """Says why a backend cannot run here."""


def choose(requested: str, setting: Setting) -> Backend:
    """Choose the attention of a run.

    Raises ValueError where the requested one cannot run here; it says why, and which ones can.
    """
    if requested != "auto":
        try:
            return _backend(requested, setting, "as kernels.attention says")
        except UnavailableError as missing:
            able = ", ".join(name for name in BACKENDS if _runs(name, setting))
            raise ValueError(
                f"kernels.attention={requested} cannot run here: {missing}; choose auto or one "
                f"that can: {able}"
            ) from None
    if setting.device.type != "cuda":
        return _backend("sdpa", setting, f"on {setting.device.type} the only one")
    documents = ["varlen", "triton"] if setting.mask_documents else []
    obstacles: list[str] = []
    for name in ("fa4", "fa2", *documents):
        try:
            return _backend(name, setting, "; ".join(obstacles) or "the first choice")
        except UnavailableError as missing:
            obstacles.append(str(missing))
    return _backend("sdpa", setting, "; ".join(obstacles))


def _backend(name: str, setting: Setting, reason: str) -> Backend:
    version, attend = BACKENDS[name](setting)
    return Backend(name=name, version=version, reason=reason, attend=attend)


def _runs(name: str, setting: Setting) -> bool:
    try:
        BACKENDS[name](setting)
    except UnavailableError:
        return False
    return True


def _fa4(setting: Setting) -> tuple[str, Attend]:
    _check_gpu("fa4", setting, capability=90, head_dim=128)
    if setting.deterministic and capability_of(setting.device) >= 120:
        raise UnavailableError("fa4 has no deterministic gradient on compute capability 12")
    version = _installed("flash-attn-4", "4.0.0b36")
    attend = _of_package(_imported("flash_attn.cute"), setting)
    # It compiles its own kernels when it is called; dynamo must not trace that.
    return version, cast(Attend, torch.compiler.disable(attend))


def _fa2(setting: Setting) -> tuple[str, Attend]:
    _check_gpu("fa2", setting, capability=80, head_dim=256)
    version = _installed("flash-attn", "2.8")
    return version, _of_package(_imported("flash_attn"), setting)


def _varlen(setting: Setting) -> tuple[str, Attend]:
    _check_gpu("varlen", setting, capability=80, head_dim=256)
    if torch_version() < "2.11":  # the first whose window may be causal
        raise UnavailableError(f"varlen needs torch 2.11, this is {torch_version()}")
    varlen_attn = _imported("torch.nn.attention.varlen").varlen_attn
    has_gqa = "enable_gqa" in inspect.signature(varlen_attn).parameters  # since torch 2.12
    return torch.__version__, partial(_attend_varlen, varlen_attn, has_gqa)


def _sdpa(setting: Setting) -> tuple[str, Attend]:
    name = _sdp_backend(setting) if setting.device.type == "cuda" else ""
    return f"{torch.__version__}{name and ' by '}{name}", attention


def _sdp_backend(setting: Setting) -> str:
    """Return which of its implementations torch takes for two small rows of this kind."""
    shape = 2, 2, 64, setting.head_dim
    q, k, v = (torch.zeros(shape, device=setting.device, dtype=setting.dtype) for _ in range(3))
    mask = torch.ones(64, 64, device=setting.device, dtype=torch.bool).tril()
    options: dict[str, Any] = {"is_causal": True}
    if setting.mask_documents:
        options = {"attn_mask": mask}
    for x in (q, k, v):
        x.requires_grad_()
    chosen = torch._fused_sdp_choice(q, k, v, **options)  # type: ignore[attr-defined]
    return SDPBackend(chosen).name.lower()


def _triton(setting: Setting) -> tuple[str, Attend]:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if setting.device.type != "cuda" and not interpreted:
        raise UnavailableError(f"triton needs a CUDA device, this is {setting.device.type}")
    if setting.device.type == "cuda":
        _check_capability("triton", setting, 80)
    if setting.head_dim not in HEAD_DIMS:
        raise UnavailableError(
            f"triton needs model.head_dim of {HEAD_DIMS}, this is {setting.head_dim}"
        )
    return importlib.metadata.version("triton"), flash_attention


BACKENDS: dict[str, Callable[[Setting], tuple[str, Attend]]] = {
    "fa4": _fa4,
    "fa2": _fa2,
    "varlen": _varlen,
    "sdpa": _sdpa,
    "triton": _triton,
}


def torch_version() -> TorchVersion:
    """Return torch's version, which compares as a version."""
    return TorchVersion(torch.__version__)


def _check_gpu(name: str, setting: Setting, *, capability: int, head_dim: int) -> None:
    """Raise UnavailableError where FlashAttention cannot do the work."""
    if setting.device.type != "cuda":
        raise UnavailableError(f"{name} needs a CUDA device, this is {setting.device.type}")
    _check_capability(name, setting, capability)
    if setting.dtype not in HALF:
        raise UnavailableError(f"{name} needs bf16 or fp16, this is {setting.dtype}")
    if setting.head_dim % 8 or setting.head_dim > head_dim:
        raise UnavailableError(
            f"{name} needs model.head_dim of a multiple of 8 up to {head_dim}, "
            f"this is {setting.head_dim}"
        )


def _check_capability(name: str, setting: Setting, least: int) -> None:
    capability = capability_of(setting.device)
    if capability < least:
        raise UnavailableError(
            f"{name} needs compute capability {least / 10}, this is {capability / 10}"
        )


def _installed(package: str, oldest: str) -> str:
    """Return the version of a package; raise UnavailableError if absent or older than `oldest`."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError(f"{package} is not installed") from None
    if TorchVersion(version) < oldest:
        raise UnavailableError(f"{package} {version} is older than {oldest}")
    return version


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:  # built for another torch, or a dependency is missing
        raise UnavailableError(f"{module} does not import: {error}") from None


def _of_package(package: ModuleType, setting: Setting) -> Attend:
    """Attend by flash_attn or flash_attn.cute: same arguments, but the latter returns (y, lse)."""
    dense, varlen = package.flash_attn_func, package.flash_attn_varlen_func
    options: dict[str, Any] = {"causal": True, "deterministic": setting.deterministic}

    def attend(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        row_length: int,
        cu_seqlens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if cu_seqlens is None:
            rows = (x.unflatten(0, (-1, row_length)) for x in (q, k, v))
            return _first(dense(*rows, **options)).flatten(0, 1)
        offsets: dict[str, Any] = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
        offsets |= {"max_seqlen_q": row_length, "max_seqlen_k": row_length}
        return _first(varlen(q, k, v, **offsets, **options))

    return attend


def _first(result: Any) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result


def _attend_varlen(
    varlen_attn: Callable[..., Any],
    has_gqa: bool,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    row_length: int,
    cu_seqlens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend by torch's varlen_attn, deterministic where torch's deterministic mode is on."""
    options: dict[str, Any] = {"window_size": (-1, 0)}  # nothing ahead: causal
    group = q.shape[1] // k.shape[1]
    if has_gqa:
        options["enable_gqa"] = group > 1
    elif group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    if cu_seqlens is None:
        cu_seqlens = torch.arange(0, len(q) + 1, row_length, dtype=torch.int32, device=q.device)
    return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, row_length, row_length, **options)
