"""What `kernels.rope` launches on the packed projection of the Llama and the Qwen shape."""

import torch

from tests.ahead_of_time.aot import Configuration
from tresse.kernels.rope import _backward_kernel, _forward_kernel, launch_options

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def configurations(dtype: str, heads: tuple[int, int]) -> list[Configuration]:
    options = launch_options(*heads, 32, DTYPES[dtype])
    num_warps = options.pop("num_warps")
    tables = ["cos_ptr", "sin_ptr"]
    kernels = {
        "forward": (_forward_kernel, ["qkv_ptr", *tables, "q_ptr", "k_ptr", "v_ptr"]),
        "backward": (_backward_kernel, ["dq_ptr", "dk_ptr", "dv_ptr", *tables, "dqkv_ptr"]),
    }
    return [
        Configuration(
            name=f"rope_qkv {way} {dtype} heads={heads[0]}+2*{heads[1]}",
            kernel=kernel,
            signature={name: "*fp32" if name in tables else f"*{dtype}" for name in pointers}
            | {"T": "i32"},
            constexprs=options,
            unaligned=frozenset({"T"}),
            num_warps=num_warps,
        )
        for way, (kernel, pointers) in kernels.items()
    ]


CONFIGURATIONS = [
    configuration
    for heads in ((32, 8), (14, 2))
    for dtype in DTYPES
    for configuration in configurations(dtype, heads)
]
