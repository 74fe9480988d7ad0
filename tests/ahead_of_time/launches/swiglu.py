"""Launches of `kernels.swiglu` at the widths of the Llama and the Qwen shape."""

import torch

from tests.ahead_of_time.compiling import Launch
from tresse.kernels.swiglu import _swiglu_backward_kernel, _swiglu_forward_kernel, launch_options

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
KERNELS = {
    "forward": (_swiglu_forward_kernel, ["gate_up_ptr", "h_ptr"]),
    "backward": (_swiglu_backward_kernel, ["dh_ptr", "gate_up_ptr", "d_gate_up_ptr"]),
    "backward with h kept": (_swiglu_backward_kernel, ["dh_ptr", "gate_up_ptr", "d_gate_up_ptr"]),
}


def launch(direction: str, dtype: str, width: int) -> Launch:
    kernel, pointers = KERNELS[direction]
    options = launch_options(width, DTYPES[dtype])
    if kernel is _swiglu_backward_kernel:
        options["KEPT"] = direction != "backward"
    return Launch(
        name=f"swiglu {direction} {dtype} F={width}",
        kernel=kernel,
        signature=dict.fromkeys(pointers, f"*{dtype}"),
        num_warps=options.pop("num_warps"),
        constexprs=options,
    )


LAUNCHES = [
    launch(direction, dtype, width)
    for width in (8192, 4864)
    for dtype in DTYPES
    for direction in KERNELS
]
