"""Mimi's first codebook: 2,048 units at 12.5 Hz, which carry what is said.

Mimi is Kyutai's neural codec (Défossez et al. 2024, https://arxiv.org/abs/2410.00037). The encoder
is causal: a unit depends on the sound up to the end of its 80 ms, and on nothing after it. So
waveforms are padded to the right into one batch, and a long batch is encoded in chunks, with the
encoder's state kept from one to the next.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.tokenizer import Tokenizer

if TYPE_CHECKING:
    from moshi.models.compression import MimiModel

REPOSITORY = "kyutai/moshiko-pytorch-bf16"
WEIGHTS = "tokenizer-e351c8d8-checkpoint125.safetensors"
INSTALL = 'pip install "tresse[mimi]" && pip install --no-deps "moshi==0.2.13"'
# Memory for attention grows with the square of the length; 60 s are 1,500 positions.
MAX_WHOLE_FRAMES = 750
CHUNK_FRAMES = 125


class Mimi:
    """A Mimi encoder as an `AudioTokenizer`."""

    def __init__(
        self, model: "MimiModel", weights_hash: str, precision: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        model.set_num_codebooks(1)
        self._model = model
        self._device = next(model.parameters()).device
        self._context = _attention_context(model)
        self._autocasts = precision == "bf16"
        self.sample_rate = model.sample_rate
        self.frame_samples = model.frame_size
        self.identity = Tokenizer("mimi", weights_hash, "25/2", model.cardinality)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the units of each waveform, int64 [ceil(samples / 1920)].

        waveforms: mono, float32 [samples], 24 kHz.
        """
        lengths = [-(-waveform.size // self.frame_samples) for waveform in waveforms]
        batch = torch.zeros(len(waveforms), 1, max(lengths) * self.frame_samples)
        for padded, waveform in zip(batch, waveforms, strict=True):
            padded[0, : waveform.size] = torch.from_numpy(waveform)
        with (
            torch.no_grad(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocasts),
        ):
            codes = self._encode(batch).cpu().numpy()
        return [own[:length] for own, length in zip(codes, lengths, strict=True)]

    def _encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Return int64 [B, T] for float32 [B, 1, samples], whole frames."""
        num_frames = batch.shape[-1] // self.frame_samples
        if num_frames <= MAX_WHOLE_FRAMES:
            return self._model.encode(batch.to(self._device))[:, 0]
        # All chunks have one size: moshi captures a CUDA graph of the first.
        size = CHUNK_FRAMES * self.frame_samples
        batch = torch.nn.functional.pad(batch, (0, -batch.shape[-1] % size))
        with self._streaming(batch.shape[0]):
            codes = [self._model.encode(c.to(self._device)) for c in batch.split(size, dim=-1)]
        return torch.cat(codes, dim=-1)[:, 0]

    @contextmanager
    def _streaming(self, batch_size: int) -> Iterator[None]:
        """Keep the encoder's state from chunk to chunk.

        moshi 0.2.13 keeps as many keys as a step attends to, and a chunk overwrites the oldest
        before its first steps have read them: units after the first 10 s would change. So the
        cache is made larger by a chunk; the mask of the attention stays.
        """
        from moshi.modules.transformer import set_attention_context

        transformer = self._model.encoder_transformer
        assert transformer is not None
        chunk_steps = round(CHUNK_FRAMES * self._model.encoder_frame_rate / self._model.frame_rate)
        set_attention_context(transformer, self._context + chunk_steps)
        try:
            with self._model.streaming(batch_size):
                set_attention_context(transformer, self._context)
                yield
        finally:
            set_attention_context(transformer, self._context)


def _attention_context(model: "MimiModel") -> int:
    """Return the number of steps that the encoder's attention looks back."""
    from moshi.modules.transformer import StreamingMultiheadAttention

    assert model.encoder_transformer is not None
    layers = model.encoder_transformer.modules()
    contexts = {m.context for m in layers if isinstance(m, StreamingMultiheadAttention)}
    (context,) = contexts
    assert context is not None
    return context


def load_mimi(
    weights: str,
    device: str,
    precision: Literal["fp32", "bf16"] = "fp32",
    *,
    compile_encoder: bool = False,
) -> Mimi:
    """Load Mimi from a safetensors file or hf://owner/repository/file; Kyutai's weights when empty.

    ValueError when the package or the weights are missing, or belong to another model.
    """
    try:
        from moshi.models.loaders import get_mimi
    except ImportError as error:
        raise ValueError(f"Mimi needs the package moshi ({error}): {INSTALL}") from None
    path = _find(weights)
    try:
        model = get_mimi(path, device=device)
    except (RuntimeError, KeyError) as error:
        text = str(error).splitlines()[0]
        raise ValueError(f"{path}: not the weights of Mimi ({text})") from None
    if compile_encoder:
        model.encoder.compile(dynamic=True)
    return Mimi(model, checksum_file(path), precision)


def _find(weights: str) -> Path:
    """Return the path of a local file, or of one that is downloaded from the hub once."""
    if weights and not weights.startswith("hf://"):
        path = Path(weights)
        if not path.is_file():
            raise ValueError(f"--mimi-weights {path}: no such file")
        if path.suffix != ".safetensors":
            raise ValueError(
                f"--mimi-weights {path}: expected a .safetensors file, which runs no code"
            )
        return path
    repository, file = REPOSITORY, WEIGHTS
    if weights:
        owner, name, file = [*weights.removeprefix("hf://").split("/", 2), "", ""][:3]
        repository = f"{owner}/{name}"
        if not file.endswith(".safetensors"):
            raise ValueError(
                f"--mimi-weights {weights}: expected hf://owner/repository/file.safetensors"
            )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except OSError as error:
        raise ValueError(
            f"Mimi's weights {repository}/{file} are not on this machine and cannot be downloaded "
            f"({error}); name a file with --mimi-weights"
        ) from None
