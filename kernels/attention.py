"""Causal attention with grouped queries and an optional document mask.

    y[t] = sum over s <= t, s in the document of t, of softmax(q[t] . k[s] / sqrt(K)) v[s]

q and y are (B, T, H, K), k and v (B, T, Hkv, K), query head h reads key head h // (H / Hkv). Scores
and softmax are fp32 inside the backends. cu_seqlens (num_documents + 1,) int32 holds the offsets of
the documents in the flattened B*T tokens, from 0 to B*T; it cuts at every row, and repeated offsets
(empty documents) are allowed.
"""

import torch
import torch.nn.functional as F
from torch.torch_version import TorchVersion

VARLEN_HAS_GQA = TorchVersion(torch.__version__) >= TorchVersion("2.12")


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
) -> torch.Tensor:
    """Attend within rows, or within the documents of cu_seqlens: (B, T, H, K), in the dtype of q.

    max_seqlen: the longest document as a host integer, T if not given; a smaller one saves work on
    a GPU.
    """
    if cu_seqlens is None:
        return _sdpa(q, k, v, None)
    if varlen_runs(q):
        return _varlen(q, k, v, cu_seqlens, max_seqlen or q.shape[1])
    return _sdpa(q, k, v, document_mask(cu_seqlens, q.shape[0], q.shape[1]))


def varlen_runs(q: torch.Tensor) -> bool:
    """Whether torch's varlen attention takes q: FlashAttention, with GQA since torch 2.12."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    return q.is_cuda and half and VARLEN_HAS_GQA


def document_mask(cu_seqlens: torch.Tensor, num_rows: int, row_length: int) -> torch.Tensor:
    """True where a query (row) may read a key (column): (B, 1, T, T) bool."""
    positions = torch.arange(
        num_rows * row_length, device=cu_seqlens.device, dtype=cu_seqlens.dtype
    )
    documents = torch.searchsorted(cu_seqlens, positions, right=True).view(num_rows, 1, row_length)
    return (documents[..., :, None] == documents[..., None, :]).tril()


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return y.transpose(1, 2)


def _varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # torch 2.9 does not have the module

    flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))
    y = varlen_attn(
        flat_q,
        flat_k,
        flat_v,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        window_size=(-1, 0),  # nothing ahead: causal
        enable_gqa=q.shape[2] != k.shape[2],
    )
    assert isinstance(y, torch.Tensor)
    return y.view(q.shape)
