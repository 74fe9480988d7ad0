"""Launches of `kernels.rmsnorm` at the widths of the Llama and the Qwen shape."""

import torch

from tests.ahead_of_time.compiling import Launch
from tresse.kernels.rmsnorm import _rmsnorm_backward_kernel, _rmsnorm_forward_kernel, launch_options

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def forward(dtype: str, D: int, residual: bool) -> Launch:
    options = launch_options(D, DTYPES[dtype])
    num_warps = options.pop("num_warps")
    rows = ["x_ptr", "residual_ptr", "weight_ptr", "y_ptr", "new_residual_ptr"]
    absent = () if residual else ("residual_ptr", "new_residual_ptr")
    pointers = {name: f"*{dtype}" for name in rows if name not in absent}
    return Launch(
        name=f"{'add_' * residual}rmsnorm forward {dtype} D={D}",
        kernel=_rmsnorm_forward_kernel,
        signature=pointers | {"rstd_ptr": "*fp32"},
        constexprs=dict.fromkeys(absent) | {"EPS": 1e-5} | options,
        num_warps=num_warps,
        narrow_stores=1,  # rstd
    )


def backward(dtype: str, D: int, residual: bool) -> Launch:
    options = launch_options(D, DTYPES[dtype])
    num_warps = options.pop("num_warps")
    rows = ["dy_ptr", "dresidual_ptr", "residual_ptr", "weight_ptr", "dx_ptr"]
    absent = () if residual else ("dresidual_ptr",)
    pointers = {name: f"*{dtype}" for name in rows if name not in absent}
    return Launch(
        name=f"{'add_' * residual}rmsnorm backward {dtype} D={D}",
        kernel=_rmsnorm_backward_kernel,
        signature=pointers | {"rstd_ptr": "*fp32", "dweight_ptr": "*fp32", "N": "i32"},
        constexprs=dict.fromkeys(absent) | options,
        unaligned=frozenset({"N"}),
        num_warps=num_warps,
        narrow_loads=1,  # rstd
    )


LAUNCHES = [
    direction(dtype, D, residual)
    for D in (2048, 896)
    for dtype in DTYPES
    for residual in (False, True)
    for direction in (forward, backward)
]
