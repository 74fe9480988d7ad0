"""The decoder: Llama 3.2 and Qwen2 shapes over a vocabulary of speech units.

    h = embedding[tokens]
    per layer:  h += o_proj(attention(rope(qkv_proj(rmsnorm(h)))))
                h += down_proj(swiglu(gate_up_proj(rmsnorm(h))))
    logits = head(rmsnorm(h))

B rows, T tokens in a row, D model width, H query heads, Hkv key and value heads, K head width, F
the SwiGLU width. qkv_proj.weight is [q | k | v] of ((H + 2 Hkv) K, D), gate_up_proj.weight [gate |
up] of (2F, D): one matmul each. Tests compare the model with transformers' LlamaForCausalLM and
Qwen2ForCausalLM; `hugging_face.py` maps the names.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tresse.data import processes
from tresse.engine.run.config import ModelConfig
from tresse.kernels.attention import Attend, attention
from tresse.kernels.linear_cross_entropy import linear_cross_entropy
from tresse.kernels.mlp_backends import Mlp
from tresse.kernels.rmsnorm import add_rmsnorm
from tresse.kernels.rope import rope_qkv, rope_tables
from tresse.kernels.swiglu import swiglu_linear

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Dtypes of the computation, by their names in the configuration."""

Tables = tuple[torch.Tensor, torch.Tensor]


class Transformer(nn.Module):
    """A causal language model; parameters and activations share one dtype, bf16 or fp32.

    vocab_width: rows of the embedding and columns of the logits, with padding; vocab_used: number
    of ids; attend: one of `kernels.attention_backends`; keep_h: as in `kernels.swiglu`; mlp: one of
    `kernels.mlp_backends`, or None for the layers' own; num_recomputed: the first layers, whose
    backward pass computes their activations again. Parameters have no values: call `init_weights`
    or load a checkpoint before use.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_width: int,
        vocab_used: int,
        attend: Attend = attention,
        *,
        keep_h: bool = False,
        mlp: Mlp | None = None,
        num_recomputed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < vocab_used <= vocab_width:
            raise ValueError(f"vocab_used={vocab_used} is not in 1..vocab_width={vocab_width}")
        self.config = config
        self.vocab_width = vocab_width
        self.vocab_used = vocab_used
        self.num_recomputed = num_recomputed
        self.embedding = nn.Embedding(vocab_width, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, attend, keep_h=keep_h, mlp=mlp) for _ in range(config.num_layers)
        )
        self.norm = AddRMSNorm(config.hidden_size, config.norm_eps)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, vocab_width, bias=False)

    def forward(
        self,
        tokens: torch.Tensor,
        labels: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the loss to train on and the loss of each label; without labels, the logits.

        tokens: (B, T) int64; labels: (B, T) int64, -100 where there is no target (loss 0).
        cu_seqlens: the document mask, as in `kernels.attention`. scale: () fp32, 1 by default.
        Returns (loss, losses): () fp32, scale times the sum of the losses; (B, T) fp32 in nats,
        without a gradient. Or the logits, (B, T, vocab_used).
        """
        tables = self.rope_tables(tokens.shape[1], tokens.device)
        hidden = self.last_hidden(tokens, tables, cu_seqlens)
        if labels is None:
            return self.logits(hidden)
        if scale is None:
            scale = torch.ones((), device=tokens.device)
        loss, losses = linear_cross_entropy(
            hidden.flatten(0, 1), self._head_weight, labels.flatten(), self.vocab_used, scale
        )
        return loss, losses.view(labels.shape)

    def last_hidden(
        self, tokens: torch.Tensor, tables: Tables, cu_seqlens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the normed output of the last layer, (B, T, D).

        tables: those of `rope_tables`, (T, K/2) for rows that start at position 0; (B, K/2) for
        rows of a single token, each at a position of its own.
        """
        branch, residual = self.embedding(tokens), None
        for layer in self._training_layers():
            branch, residual = layer(branch, residual, tables, cu_seqlens)
        return self.norm(branch, residual)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states of `last_hidden`: (..., D) -> (..., vocab_used)."""
        return F.linear(hidden, self._head_weight)[..., : self.vocab_used]

    def hidden_states(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the embeddings and each layer's output, the last one normed: (B, T, D) each."""
        tables = self.rope_tables(tokens.shape[1], tokens.device)
        branch, residual = self.embedding(tokens), None
        states = [branch]
        for layer in self.layers:
            branch, residual = layer(branch, residual, tables, None)
            states.append(branch + residual)
        states[-1], _ = self.norm(branch, residual)
        return tuple(states)

    def rope_tables(self, num_positions: int, device: torch.device) -> Tables:
        """Return cosine and sine of the rotation at each position, (num_positions, K/2) fp32."""
        config = self.config
        scaling = config.rope_scaling and dataclasses.astuple(config.rope_scaling)
        return rope_tables(num_positions, config.head_dim, config.rope_theta, scaling, device)

    def num_parameters(self) -> int:
        """Return the number of parameters, padding included; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill parameters: normal(0, init_std), ones for norms, zeros for biases and padded rows.

        Each tensor has its own generator, seeded by its name, so its values depend neither on the
        order nor on the device. Padded rows get no gradient: they stay zero, and exports omit them.
        """
        drawn = []
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                drawn.append((parameter, f"{seed}/{name}"))
        with ThreadPoolExecutor(processes.share_of_cores()) as threads:
            list(threads.map(self._draw, *zip(*drawn, strict=True)))
        self.embedding.weight[self.vocab_used :] = 0.0
        if not self.config.tie_embeddings:
            self.head.weight[self.vocab_used :] = 0.0

    def _draw(self, parameter: nn.Parameter, key: str) -> None:
        parameter.data.copy_(normal(parameter.shape, self.config.init_std, key))

    def _training_layers(self) -> Iterator[Callable[..., tuple[torch.Tensor, torch.Tensor]]]:
        """Yield the layers; of the first `num_recomputed` autograd keeps only the inputs."""
        for index, layer in enumerate(self.layers):
            if index < self.num_recomputed:
                layer = functools.partial(
                    checkpoint, layer, use_reentrant=False, preserve_rng_state=False
                )
            yield layer

    @property
    def _head_weight(self) -> torch.Tensor:
        return self.embedding.weight if self.config.tie_embeddings else self.head.weight


class Block(nn.Module):
    """Attention and SwiGLU, each on the normed residual stream.

    The kernels keep for the backward, in values per token: the stream and its norm before each
    half, 4D; q, k, v and attention's output, (2H + 2 Hkv) K; gate and up, 2F; with keep_h their
    product, F; in the compute dtype. In fp32 they keep 2 + H: rstd of both norms and the
    log-sum-exp of every head.
    """

    def __init__(
        self,
        config: ModelConfig,
        attend: Attend = attention,
        *,
        keep_h: bool = False,
        mlp: Mlp | None = None,
    ) -> None:
        super().__init__()
        self.mlp = mlp
        self.attend = attend
        D, K, F_ = config.hidden_size, config.head_dim, config.intermediate_size
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, K
        num_qkv = config.num_heads + 2 * config.num_kv_heads
        self.attention_norm = AddRMSNorm(D, config.norm_eps)
        self.qkv_proj = nn.Linear(D, num_qkv * K, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.num_heads * K, D, bias=False)
        self.mlp_norm = AddRMSNorm(D, config.norm_eps)
        self.gate_up_proj = nn.Linear(D, 2 * F_, bias=False)
        self.down_proj = SwiGLULinear(F_, D, keep_h=keep_h)

    def forward(
        self,
        branch: torch.Tensor,
        residual: torch.Tensor | None,
        tables: Tables,
        cu_seqlens: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the branch and the residual of the last layer to those of this one, (B, T, D) each.

        Their sum is the layer's output. The next norm adds them, as it reads both anyway.
        """
        x, residual = self.attention_norm(branch, residual)
        x = self._attend(self.qkv_proj(x), tables, cu_seqlens)
        x, residual = self.mlp_norm(self.o_proj(x), residual)
        if self.mlp:
            branch = self.mlp(x, self.gate_up_proj.weight, self.down_proj.weight)
        else:
            branch = self.down_proj(self.gate_up_proj(x))
        return branch, cast(torch.Tensor, residual)

    def _attend(
        self,
        qkv: torch.Tensor,
        tables: Tables,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        H, Hkv = self.num_heads, self.num_kv_heads
        q, k, v = rope_qkv(qkv.flatten(0, 1), *tables, H, Hkv)
        y = self.attend(q, k, v, qkv.shape[1], cu_seqlens)
        return y.view(*qkv.shape[:2], -1)


class AddRMSNorm(nn.Module):
    """Residual addition and RMSNorm; a module, so that ZeRO-3 gathers its weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normed sum and the sum of two (..., D) tensors."""
        return add_rmsnorm(x, residual, self.weight, self.eps)


class SwiGLULinear(nn.Linear):
    """A linear layer after SwiGLU; a module, so that ZeRO-3 gathers its weight."""

    def __init__(self, in_features: int, out_features: int, *, keep_h: bool) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.keep_h = keep_h

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [gate | up], (..., 2F), to (..., D)."""
        return swiglu_linear(input, self.weight, keep_h=self.keep_h)


@functools.cache
def parameter_shapes(config: ModelConfig, vocab_width: int) -> Mapping[str, torch.Size]:
    """Return the name and shape of every parameter, in order, without allocating any."""
    with torch.device("meta"):
        model = Transformer(config, vocab_width, vocab_width)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return MappingProxyType(shapes)


def parameter_sizes(config: ModelConfig, vocab_width: int) -> list[int]:
    """Return the number of elements of every parameter, in order."""
    return [shape.numel() for shape in parameter_shapes(config, vocab_width).values()]


def normal(shape: Sequence[int], std: float, key: str) -> torch.Tensor:
    """Draw fp32 normals on the CPU: a pure function of the shape and the key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(shape, generator=generator, device="cpu").mul_(std)
