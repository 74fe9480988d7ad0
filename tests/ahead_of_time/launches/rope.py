"""Launches of `kernels.rope` on the packed projection of the Llama and the Qwen shape."""

import torch

from tests.ahead_of_time.compiling import Launch
from tresse.kernels.rope import _rope_kernel, launch_options

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def launch(direction: str, dtype: str, heads: tuple[int, int]) -> Launch:
    options = launch_options(*heads, 32, DTYPES[dtype], backward=direction == "backward")
    pointers = ["packed_ptr", "cos_ptr", "sin_ptr", "q_ptr", "k_ptr", "v_ptr"]
    tables = {"cos_ptr": "*fp32", "sin_ptr": "*fp32"}
    return Launch(
        name=f"rope_qkv {direction} {dtype} heads={heads[0]}+2*{heads[1]}",
        kernel=_rope_kernel,
        signature=dict.fromkeys(pointers, f"*{dtype}") | tables | {"T": "i32"},
        num_warps=options.pop("num_warps"),
        constexprs=options,
        unaligned=frozenset({"T"}),
    )


LAUNCHES = [
    launch(direction, dtype, heads)
    for heads in ((32, 8), (14, 2))
    for dtype in DTYPES
    for direction in ("forward", "backward")
]
