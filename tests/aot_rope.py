"""What `kernels.rope` launches on q and k of the Llama and the Qwen shape, packed with v."""

import torch

from tests.aot import Configuration
from tresse.kernels.rope import _rotate_kernel, launch_options

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def rotation(dtype: str, heads: int, inverse: bool) -> Configuration:
    options = launch_options(heads, 32, inverse, DTYPES[dtype])
    num_warps = options.pop("num_warps")
    tables = {"cos_ptr": "*fp32", "sin_ptr": "*fp32"}
    return Configuration(
        name=f"rope {'backward' if inverse else 'forward'} {dtype} heads={heads}",
        kernel=_rotate_kernel,
        signature={"x_ptr": f"*{dtype}"}
        | tables
        | {"y_ptr": f"*{dtype}", "T": "i32", "stride_x_token": "i32"},
        constexprs=options,
        unaligned=frozenset({"T"}),
        num_warps=num_warps,
    )


CONFIGURATIONS = [
    rotation(dtype, heads, inverse)
    for heads in (40, 16)
    for dtype in DTYPES
    for inverse in (False, True)
]
