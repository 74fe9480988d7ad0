"""A model that keeps the keys and values of the tokens that it has read, and reads each one once.

A batch has B rows. Each continues one of P prompts, and several rows may continue the same one. The
prompts are read once, as rows of T tokens with padding on the right, by the attention of training.
Their keys and values go to slots such that all prompts end in the same slot, so the next token of
every row has one slot too:

    slot             0  1  2  3  4 | 5  6
    row 0, start 0   a  b  c  d  e | f  g
    row 1, start 2   -  -  x  y  z | u  v

The slots before `start` are masked. A token's position is its slot less its row's start, so it is
rotated as if its row stood alone. S slots are allocated at the beginning, Hkv heads of width K. All
that changes from step to step is on the device, so no step waits for it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tresse.engine.model import Transformer
from tresse.kernels.attention import Attend

WINDOW = 128
"""Attention reads a multiple of this many slots, so that few shapes occur."""


class CachedModel:
    """A Transformer with the cache of one batch; call `read_prompts`, then `step`.

    Between the two calls the model's own attention is replaced: use it within `generating`.
    """

    def __init__(self, model: Transformer, sources: Tensor, num_slots: int) -> None:
        """sources: (B,) int64, the prompt of each row; num_slots: S, at least the longest row."""
        self._model, self._sources, device = model, sources, sources.device
        self._num_slots = -(-num_slots // WINDOW) * WINDOW
        config, dtype = model.config, model.embedding.weight.dtype
        shape = (len(sources), config.num_kv_heads, self._num_slots, config.head_dim)

        def empty() -> Tensor:
            """Zeros: a masked slot must hold a number, as 0 times NaN is NaN."""
            return torch.zeros(shape, device=device, dtype=dtype)

        self._layers = [LayerCache(empty(), empty(), self) for _ in model.layers]
        self._tables = model.rope_tables(self._num_slots, device)
        self._slots = torch.arange(self._num_slots, device=device)
        self._starts, self._num_used = torch.zeros_like(sources), 0
        self._readable = torch.full((len(sources), self._num_slots), -torch.inf, device=device)
        self._readable = self._readable.to(dtype)
        self.slot = torch.zeros(1, dtype=torch.int64, device=device)
        self.mask = self._readable[:, None, None]

    def read_prompts(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read all prompts; return their last hidden states, (P, T, D).

        tokens: (P, T) int64, any ids after the end of a prompt; lengths: (P,) int64, the longest T.
        """
        T = tokens.shape[1]
        self._starts, self._num_used = T - lengths[self._sources], T
        self.slot.fill_(T)
        positions = self._slots[:T] - self._starts[:, None]  # (B, T), below 0 before the start
        self._readable[:, :T].masked_fill_(positions >= 0, 0.0)
        places = self._sources[:, None], positions.clamp(min=0)
        reading = [
            partial(cache.read, attend, places)
            for cache, attend in zip(self._layers, _attention(self._model), strict=True)
        ]
        with _attending(self._model, reading):
            return self._model.last_hidden(tokens, self._model.rope_tables(T, tokens.device))

    @contextmanager
    def generating(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield `step`, which appends a token to every row and returns the logits that follow it.

        step: (B,) int64 -> (B, vocab_used).
        """
        with _attending(self._model, [cache.attend for cache in self._layers]):
            yield self._step

    def _step(self, tokens: Tensor) -> Tensor:
        assert self._num_used < self._num_slots
        self._num_used += 1
        self._readable.index_fill_(1, self.slot, 0.0)
        self.mask = self._mask()
        cos, sin = self._tables
        positions = self.slot - self._starts
        hidden = self._model.last_hidden(tokens[:, None], (cos[positions], sin[positions]))
        self.slot += 1
        return self._model.logits(hidden[:, 0])

    def _mask(self) -> Tensor:
        """Return 0 where a row may read and -inf elsewhere, for grouped heads: (B, 1, G, W)."""
        window = -(-self._num_used // WINDOW) * WINDOW
        group = self._model.config.num_heads // self._model.config.num_kv_heads
        return self._readable[:, None, None, :window].expand(-1, -1, group, -1)


class LayerCache:
    """Keys and values of one layer, (B, Hkv, S, K) each, and its attention."""

    def __init__(self, keys: Tensor, values: Tensor, batch: CachedModel) -> None:
        self.keys, self.values, self.batch = keys, values, batch

    def read(
        self,
        attend: Attend,
        places: tuple[Tensor, Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        row_length: int,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Keep the keys and values of the prompts, and attend as the layer does.

        places: the prompt of each row, (B, 1), and the position in it of each slot, (B, T).
        """
        for cache, new in ((self.keys, k), (self.values, v)):
            rows = new.unflatten(0, (-1, row_length))[places]  # (B, T, Hkv, K)
            cache[:, :, :row_length] = rows.transpose(1, 2)
        return attend(q, k, v, row_length, cu_seqlens)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        row_length: int,  # noqa: ARG002
        cu_seqlens: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Attend from the newest token of each row: (B, H, K); k, v: (B, Hkv, K)."""
        batch = self.batch
        self.keys.index_copy_(2, batch.slot, k[:, :, None])
        self.values.index_copy_(2, batch.slot, v[:, :, None])
        window = batch.mask.shape[-1]
        keys, values = self.keys[:, :, :window], self.values[:, :, :window]
        # The queries of a group are those of one key head, so no key is repeated.
        grouped = q.unflatten(1, (k.shape[1], -1))
        y = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=batch.mask)
        return y.flatten(1, 2)


@contextmanager
def _attending(model: Transformer, functions: Sequence[Attend]) -> Iterator[None]:
    """Replace the attention of each layer for a while."""
    former = _attention(model)
    try:
        _set_attention(model, functions)
        yield
    finally:
        _set_attention(model, former)


def _attention(model: Transformer) -> list[Any]:
    return [layer.attend for layer in model.layers]


def _set_attention(model: Transformer, functions: Sequence[Attend]) -> None:
    for layer, function in zip(model.layers, functions, strict=True):
        layer.attend = function  # pyright: ignore[reportArgumentType]
