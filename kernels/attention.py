"""Causal attention with grouped queries and an optional document mask.

    y[t] = sum over s <= t, s in the document of t, of softmax(q[t] . k[s] / sqrt(K)) v[s]

q and y are (N, H, K), k and v (N, Hkv, K) of N tokens in rows of row_length; query head h reads key
head h // (H / Hkv). Without cu_seqlens a row is a document. cu_seqlens (num_documents + 1,) int32
holds the offsets of the documents, from 0 to N. The end of every row is one of them, and repeated
offsets (empty documents) are allowed. Scores and softmax are fp32 inside the backends.

`attention` is PyTorch's own, which runs everywhere; `attention_backends.py` has the others.
"""

from typing import Protocol

import torch
import torch.nn.functional as F


class Attend(Protocol):
    """The signature of every backend: attention as described above."""

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        row_length: int,
        cu_seqlens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend within rows, or within the documents of cu_seqlens: (N, H, K), in q's dtype."""
        ...


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    row_length: int,
    cu_seqlens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend by PyTorch: on a GPU cuDNN or FlashAttention for rows; a (T, T) mask for documents."""
    rows = [x.unflatten(0, (-1, row_length)).transpose(1, 2) for x in (q, k, v)]
    num_rows, H = rows[0].shape[:2]
    mask = None if cu_seqlens is None else document_mask(cu_seqlens, num_rows, row_length)
    y = F.scaled_dot_product_attention(
        *rows, attn_mask=mask, is_causal=mask is None, enable_gqa=k.shape[1] != H
    )
    return y.transpose(1, 2).flatten(0, 1)


def document_mask(cu_seqlens: torch.Tensor, num_rows: int, row_length: int) -> torch.Tensor:
    """Return a mask, (B, 1, T, T) bool, true where a query may read a key (the last dimension)."""
    positions = torch.arange(
        num_rows * row_length, device=cu_seqlens.device, dtype=cu_seqlens.dtype
    )
    documents = torch.searchsorted(cu_seqlens, positions, right=True).view(num_rows, 1, row_length)
    return (documents[..., :, None] == documents[..., None, :]).tril()
