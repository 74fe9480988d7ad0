"""What `kernels.swiglu` launches at the widths of the Llama and the Qwen shape."""

import torch

from tests.aot import Configuration
from tresse.kernels.swiglu import _backward_kernel, _forward_kernel, launch_options

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def configurations(dtype: str, width: int) -> list[Configuration]:
    options = launch_options(width, DTYPES[dtype])
    num_warps = options.pop("num_warps")
    kernels = {
        "forward": (_forward_kernel, ["gate_up_ptr", "y_ptr"]),
        "backward": (_backward_kernel, ["grad_ptr", "gate_up_ptr", "grad_gate_up_ptr"]),
    }
    return [
        Configuration(
            name=f"swiglu {way} {dtype} F={width}",
            kernel=kernel,
            signature=dict.fromkeys(pointers, f"*{dtype}"),
            constexprs=options,
            num_warps=num_warps,
        )
        for way, (kernel, pointers) in kernels.items()
    ]


CONFIGURATIONS = [
    configuration
    for width in (8192, 4864)
    for dtype in DTYPES
    for configuration in configurations(dtype, width)
]
