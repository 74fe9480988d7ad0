"""What `kernels.cross_entropy` launches at our vocabularies: units, with specials, and text."""

from tests.aot import Configuration
from tresse.kernels.cross_entropy import (
    _backward_kernel,
    _forward_kernel,
    backward_options,
    forward_options,
)


def configurations(dtype: str, num_classes: int, V: int) -> list[Configuration]:
    """Forward and backward; the last, narrower block of a row is one load of few bytes a lane."""
    forward_constexprs = forward_options(num_classes, V)
    backward_constexprs = backward_options(num_classes, V)
    statistics = ["largest_ptr", "total_ptr"]
    pointers = {"logits_ptr": f"*{dtype}", "labels_ptr": "*i64"}
    forward = Configuration(
        name=f"cross_entropy forward {dtype} V={V}",
        kernel=_forward_kernel,
        signature=pointers | dict.fromkeys(["losses_ptr", *statistics], "*fp32"),
        num_warps=forward_constexprs.pop("num_warps"),
        constexprs=forward_constexprs,
        narrow_loads=2 + (forward_constexprs["TAIL"] > 0),  # the label and its logit
        narrow_stores=3,  # loss, maximum and sum
    )
    backward = Configuration(
        name=f"cross_entropy backward {dtype} V={V}",
        kernel=_backward_kernel,
        signature=pointers
        | dict.fromkeys([*statistics, "grad_losses_ptr"], "*fp32")
        | {"dlogits_ptr": f"*{dtype}"},
        num_warps=backward_constexprs.pop("num_warps"),
        constexprs=backward_constexprs,
        narrow_loads=4 + (backward_constexprs["TAIL"] > 0),  # the label, maximum, sum, gradient
        narrow_stores=int(backward_constexprs["TAIL"] > 0),
    )
    return [forward, backward]


SIZES = [(2048, 2048), (2051, 2176), (151_936, 151_936)]
CONFIGURATIONS = [
    configuration
    for size in SIZES
    for dtype in ("bf16", "fp32")
    for configuration in configurations(dtype, *size)
]
