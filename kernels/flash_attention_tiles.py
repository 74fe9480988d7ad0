"""Tiles of the score matrix that the kernels of FlashAttention visit: their sizes and ranges.

A program takes a block of the flat token axis, not of a document: a block of queries t visits keys
s from the start of its first query's document to its own end. Tiles in which every pair has s <= t
and one document need no mask. `starts` and `ends` (N,) hold the bounds of each token's document. So
an empty document costs nothing, and no tile has to end where a document does.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch.torch_version import TorchVersion

HEAD_DIMS = (16, 32, 64, 128)
DELTA_BLOCK = 64

# Queries, keys, warps and stages of the pipeline by kernel and K, for 16-bit inputs. They were
# chosen from the machine code, without a GPU: no spills, then wgmma of 64 columns, then warps on an
# SM.
HOPPER = {
    ("forward", 16): (128, 64, 4, 3),
    ("forward", 32): (128, 64, 8, 3),
    ("forward", 64): (128, 64, 8, 3),
    ("forward", 128): (128, 64, 8, 2),
    ("keys", 16): (64, 64, 4, 2),
    ("keys", 32): (64, 128, 8, 2),
    ("keys", 64): (64, 128, 8, 2),
    ("keys", 128): (32, 64, 8, 2),
    ("queries", 16): (64, 64, 4, 2),
    ("queries", 32): (64, 64, 4, 2),
    ("queries", 64): (64, 64, 4, 2),
    ("queries", 128): (128, 32, 8, 2),
}
OTHERS = HOPPER | {("keys", 64): (32, 128, 8, 2)}  # half the queries: without wgmma more registers
# Before 3.7 Triton loads lse and delta directly in the layout of a tile's columns, with a register
# and an address for each: 64 queries spill. With 3.9 they spill again.
FEW_QUERIES = TorchVersion(triton.__version__) < "3.7" or TorchVersion(triton.__version__) >= "3.9"


def launch_options(kernel: str, K: int, dtype: torch.dtype, capability: int) -> dict[str, Any]:
    """Constants of a kernel for a compute capability, 90 for Hopper."""
    block_t, block_s, num_warps, num_stages = (HOPPER if capability == 90 else OTHERS)[kernel, K]
    if kernel == "keys" and FEW_QUERIES:
        block_t = min(block_t, 32)
    if dtype.itemsize > 2:  # no tensor cores: a product of fp32 is one of fp32, not of TF32
        block_t, block_s, num_warps, num_stages = (32 if K <= 64 else 16), 32, 8, 1
    return {
        "K": K,
        "SCALE": math.log2(math.e) / math.sqrt(K),
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,  # fp64 is for gradcheck
        "BLOCK_T": block_t,
        "BLOCK_S": block_s,
        "num_warps": num_warps,
        "num_stages": num_stages,
    }


@functools.cache
def capability_of(device: torch.device) -> int:
    """Return the compute capability of a GPU, 90 for Hopper and for the interpreter."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@triton.jit
def key_range(starts_ptr, first, N, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """Range of the keys that a block of queries sees: begin, end of the unmasked tiles, end."""
    last = tl.minimum(first + BLOCK_T, N) - 1
    begin = tl.load(starts_ptr + first).to(tl.int64)
    one_document = tl.load(starts_ptr + last) == begin
    num_whole = tl.where(one_document, (first + 1 - begin) // BLOCK_S, 0)
    return begin, begin + num_whole * BLOCK_S, last + 1


@triton.jit
def query_range(ends_ptr, first, N, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """Range of the queries that see a block of keys: begin of the unmasked tiles, end."""
    last = tl.minimum(first + BLOCK_S, N) - 1
    end = tl.load(ends_ptr + last).to(tl.int64)
    one_document = tl.load(ends_ptr + first) == end
    num_whole = tl.where(one_document, (end - last) // BLOCK_T, 0)
    return end - num_whole * BLOCK_T, end


@triton.jit
def load_tile(ptr, offsets, first, stride, end, MASKED: tl.constexpr):
    """Load a tile of a matrix that begins at row `first`; MASKED: rows past `end` are zero.

    offsets: those of the tile's elements from its first row.
    """
    ptr += first * stride
    if MASKED:
        inside = tl.arange(0, offsets.shape[0]) < tl.cast(end - first, tl.int32)
        return tl.load(ptr + offsets, mask=inside[:, None], other=0.0)
    return tl.load(ptr + offsets)


@triton.jit
def load_vector(ptr, first, end, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    """Load elements beginning at `first`; MASKED: those past `end` are zero."""
    places = tl.arange(0, BLOCK)
    ptr += first
    if MASKED:
        inside = places < tl.cast(end - first, tl.int32)
        return tl.load(ptr + places.to(tl.int64), mask=inside, other=0)
    return tl.load(ptr + places.to(tl.int64))


@torch.compiler.assume_constant_result
def row_bounds(N: int, row_length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the start and end of each token's row, (N,) int32."""
    return _cached_row_bounds(N, row_length, device)


@functools.lru_cache(maxsize=16)
def _cached_row_bounds(
    N: int, row_length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):  # one created in it cannot be saved for a backward
        positions = torch.arange(N, dtype=torch.int32, device=device)
        starts = positions - positions % row_length
        return starts, starts + row_length


def document_bounds(cu_seqlens: torch.Tensor, N: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the start and end of each token's document, (N,) int32."""
    positions = torch.arange(N, dtype=torch.int32, device=cu_seqlens.device)
    following = torch.searchsorted(cu_seqlens, positions, right=True, out_int32=True)
    return cu_seqlens[following - 1], cu_seqlens[following]
