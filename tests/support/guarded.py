"""Tensors followed by memory without access: a load that lacks its mask ends the process."""

import ctypes
import mmap

import torch

LIBC = ctypes.CDLL(None, use_errno=True)
NO_ACCESS = 0  # PROT_NONE


def guarded(x: torch.Tensor) -> torch.Tensor:
    """Copy x to memory that ends just before a page without access."""
    size = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    region = mmap.mmap(-1, size + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    if LIBC.mprotect(ctypes.c_void_p(start + size), mmap.PAGESIZE, NO_ACCESS):
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = torch.frombuffer(region, dtype=x.dtype, count=x.numel(), offset=size - x.nbytes)
    return copy.view(x.shape).copy_(x)
