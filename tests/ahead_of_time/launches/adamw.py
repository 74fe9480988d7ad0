"""Launches of `kernels.adamw`: as DeepSpeed's client, in full, and with an unaligned gradient."""

from tests.ahead_of_time.compiling import Launch
from tresse.kernels.adamw import (
    SQUARES_OPTIONS,
    TOTAL_OPTIONS,
    UPDATE_OPTIONS,
    _adamw_kernel,
    _squares_kernel,
    _total_kernel,
)

FACTORS = ["decay", "weight1", "beta2", "weight2", "step_size", "correction", "eps"]


def update(name: str, grad: str, copy: str | None, unaligned: str = "") -> Launch:
    """The update, with a clip where there is a copy."""
    options = dict(UPDATE_OPTIONS)
    num_warps = options.pop("num_warps")
    pointers = ["master_ptr", "exp_avg_ptr", "exp_avg_sq_ptr"]
    signature = {"grad_ptr": f"*{grad}"} | dict.fromkeys(pointers, "*fp32")
    if copy is not None:
        signature |= {"copy_ptr": f"*{copy}", "coefficient_ptr": "*fp32"}
    absent = {} if copy is not None else {"copy_ptr": None, "coefficient_ptr": None}
    per_thread = options["BLOCK"] // (32 * num_warps)
    return Launch(
        name=f"adamw update {name}",
        kernel=_adamw_kernel,
        signature=signature | {"numel": "i32"} | dict.fromkeys(FACTORS, "fp32"),
        constexprs=absent | options,
        unaligned=frozenset({"numel", unaligned}),
        num_warps=num_warps,
        # The last elements, the coefficient, and the gradient where it is unaligned.
        narrow_loads=4 + (copy is not None) + (per_thread if unaligned else 0),
        narrow_stores=3 + (copy is not None),
    )


def squares(grad: str) -> Launch:
    options = dict(SQUARES_OPTIONS)
    return Launch(
        name=f"adamw squares {grad}",
        kernel=_squares_kernel,
        signature={"x_ptr": f"*{grad}", "sums_ptr": "*fp32", "numel": "i32"},
        num_warps=options.pop("num_warps"),
        constexprs=options,
        unaligned=frozenset({"numel"}),
        narrow_loads=1,  # the last elements
        narrow_stores=1,  # the sum
    )


def total() -> Launch:
    options = dict(TOTAL_OPTIONS)
    return Launch(
        name="adamw total",
        kernel=_total_kernel,
        signature={"sums_ptr": "*fp32", "total_ptr": "*fp64", "num_sums": "i32"},
        num_warps=options.pop("num_warps"),
        constexprs=options,
        narrow_stores=1,
    )


LAUNCHES = [
    update("fp32", "fp32", None),
    update("fp32 in full", "fp32", "bf16"),
    update("bf16 in full", "bf16", "bf16"),
    update("fp32 unaligned gradient", "fp32", None, "grad_ptr"),
    squares("fp32"),
    squares("bf16"),
    total(),
]
