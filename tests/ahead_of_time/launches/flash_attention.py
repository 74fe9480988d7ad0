"""Launches of `kernels.flash_attention` with the heads of the Llama and the Qwen shape."""

import torch
from triton import language as tl

from tests.ahead_of_time.compiling import TARGETS, Launch
from tresse.kernels.flash_attention import _attention_forward_kernel
from tresse.kernels.flash_attention_backward import (
    _attention_delta_kernel,
    _attention_key_kernel,
    _attention_query_kernel,
)
from tresse.kernels.flash_attention_tiles import DELTA_BLOCK, FEW_QUERIES, launch_options

KERNELS = {
    "forward": _attention_forward_kernel,
    "keys": _attention_key_kernel,
    "queries": _attention_query_kernel,
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Loads of starts, lse and delta.
VECTORS = {"forward": 4, "keys": 90 if FEW_QUERIES else 12, "queries": 8}
POINTERS = {"lse_ptr": "*fp32", "delta_ptr": "*fp32", "starts_ptr": "*i32", "ends_ptr": "*i32"}


def matmuls(part: str, dtype: str, H: int, Hkv: int, K: int, capability: int) -> Launch:
    kernel = KERNELS[part]
    options = launch_options(part, K, DTYPES[dtype], capability) | {"H": H, "GROUP": H // Hkv}
    num_warps, num_stages = options.pop("num_warps"), options.pop("num_stages")
    names = [name for name in kernel.arg_names if name not in options]
    pointers = {name: POINTERS.get(name, f"*{dtype}") for name in names if name.endswith("_ptr")}
    return Launch(
        name=f"flash_attention {part} {dtype} heads={H}/{Hkv} K={K}",
        kernel=kernel,
        signature=pointers | {name: "i32" for name in names if name not in pointers},
        constexprs=options,
        unaligned=frozenset({"N"}),
        num_warps=num_warps,
        num_stages=num_stages,
        narrow_loads=VECTORS[part],
        narrow_stores=1 if part == "forward" else 0,  # lse
        tensor_cores=dtype == "bf16",
        capabilities=(capability,),
    )


def delta(H: int) -> Launch:
    return Launch(
        name=f"flash_attention delta bf16 heads={H} K=64",
        kernel=_attention_delta_kernel,
        signature={"dy_ptr": "*bf16", "y_ptr": "*bf16", "delta_ptr": "*fp32", "N": "i32"},
        constexprs={"H": H, "K": 64, "ACC": tl.float32, "BLOCK_T": DELTA_BLOCK},
        unaligned=frozenset({"N"}),
        narrow_stores=1,
    )


# Llama's and Qwen's heads; the narrowest and the widest; fp32.
SHAPES = [("bf16", 32, 8, 64), ("bf16", 14, 2, 64)]
SHAPES += [("bf16", 4, 2, K) for K in (16, 128)] + [("fp32", 4, 2, 64)]
LAUNCHES = [
    *(matmuls(part, *s, capability) for capability in TARGETS for s in SHAPES for part in KERNELS),
    *(delta(H) for H in (32, 14)),
]
