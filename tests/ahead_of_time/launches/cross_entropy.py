"""Launches of the cross-entropy at our vocabularies: units, with specials, and text."""

from tests.ahead_of_time.compiling import Launch
from tresse.kernels.cross_entropy import _cross_entropy_long_kernel, kernel_for
from tresse.kernels.linear_cross_entropy import SCALE_OPTIONS, _scale_kernel


def cross_entropy(dtype: str, num_classes: int, V: int, scale: str) -> Launch:
    """The losses with the gradient (scale is the type of a pointer) or without (scale is empty).

    Narrow loads are those of the label, the scale, a long row's target and a tail, which has few
    bytes a thread; narrow stores are those of the loss and a tail.
    """
    kernel, constants = kernel_for(num_classes, V)
    num_warps = constants.pop("num_warps")
    narrow = constants["TAIL"] > 0
    return Launch(
        name=f"cross_entropy {'in place' if scale else 'losses'} {dtype} V={V}",
        kernel=kernel,
        signature={
            "logits_ptr": f"*{dtype}",
            "labels_ptr": "*i64",
            "losses_ptr": "*fp32",
            **({"scale_ptr": scale} if scale else {}),
        },
        constexprs=constants if scale else {"scale_ptr": None, **constants},
        unaligned=frozenset(["labels_ptr", "losses_ptr"]),
        num_warps=num_warps,
        narrow_loads=1 + (kernel is _cross_entropy_long_kernel) + bool(scale) + narrow,
        narrow_stores=1 + (narrow and bool(scale)),
    )


def scale(dtype: str) -> Launch:
    """The gradient of the loss, multiplied in place."""
    constants = dict(SCALE_OPTIONS)
    return Launch(
        name=f"scale {dtype}",
        kernel=_scale_kernel,
        signature={"x_ptr": f"*{dtype}", "factor_ptr": "*fp32", "numel": "i32"},
        num_warps=constants.pop("num_warps"),
        constexprs=constants,
        narrow_loads=1,
    )


SIZES = [(2048, 2048), (2051, 2176), (128_256, 128_256), (151_936, 151_936)]
LAUNCHES = [
    launch
    for dtype in ("bf16", "fp32")
    for launch in (
        *(cross_entropy(dtype, *size, scale) for size in SIZES for scale in ("*fp32", "")),
        scale(dtype),
    )
]
