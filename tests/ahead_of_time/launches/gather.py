"""Launches of `kernels.gather` on rows of 2048 tokens out of a pool of units."""

from tests.ahead_of_time.compiling import Launch
from tresse.kernels.gather import _gather_kernel, launch_options

POINTERS = {
    "copies_ptr": "*i64",
    "num_valid_ptr": "*i32",
    "tokens_ptr": "*i64",
    "labels_ptr": "*i64",
    "languages_ptr": "*u8",
}


def launch(dtype: str, mask_documents: bool) -> Launch:
    """The gather: narrow loads search the copies and read tokens one by one, stores are wide."""
    options = launch_options(2048, mask_documents)
    num_warps = options.pop("num_warps")
    return Launch(
        name=f"gather {dtype}{' masked' * mask_documents}",
        kernel=_gather_kernel,
        signature={"pool_ptr": f"*{dtype}", **POINTERS, "num_copies": "i32", "top": "i32"},
        constexprs=options,
        unaligned=frozenset({"num_copies", "top"}),
        num_warps=num_warps,
        # For two inputs and two labels a thread: a step of the search, the copy's two words, the
        # next copy's start, the token; and num_valid.
        narrow_loads=2 + 8 + 2 + 4 + 1,
        narrow_stores=1,  # languages, a byte each
    )


LAUNCHES = [launch(dtype, mask) for dtype in ("u16", "u32") for mask in (False, True)]
