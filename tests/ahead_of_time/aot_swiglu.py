"""What `kernels.swiglu` launches at the widths of the Llama and the Qwen shape."""

import torch

from tests.ahead_of_time.aot import Configuration
from tresse.kernels.swiglu import _backward_kernel, _forward_kernel, launch_options

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def configurations(dtype: str, width: int) -> list[Configuration]:
    options = launch_options(width, DTYPES[dtype])
    num_warps = options.pop("num_warps")
    gradients = ["dh_ptr", "gate_up_ptr", "d_gate_up_ptr"]
    kernels = {
        "forward": (_forward_kernel, ["gate_up_ptr", "h_ptr"], {}),
        "backward": (_backward_kernel, gradients, {"OVERWRITE": False}),
        "backward over dh": (_backward_kernel, gradients, {"OVERWRITE": True}),
    }
    return [
        Configuration(
            name=f"swiglu {way} {dtype} F={width}",
            kernel=kernel,
            signature=dict.fromkeys(pointers, f"*{dtype}"),
            constexprs=options | more,
            num_warps=num_warps,
        )
        for way, (kernel, pointers, more) in kernels.items()
    ]


CONFIGURATIONS = [
    configuration
    for width in (8192, 4864)
    for dtype in DTYPES
    for configuration in configurations(dtype, width)
]
