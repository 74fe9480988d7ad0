"""Checkpoints: the whole training state, independent of rank count and ZeRO level, without pickle.

    STAGE/step-00000200/model-00001-of-00002.safetensors      fp32 weights under HF names
                        optimizer-00001-of-00002.safetensors  fp32 exp_avg.NAME, exp_avg_sq.NAME
                        state.json                            checkpoint/state.py: counters, hashes

Every rank writes its share of the parameters (writer.py). A checkpoint is written as step-N.tmp,
synced and renamed, so a folder without .tmp is complete.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from tresse.data.store.corpus import Corpus
from tresse.data.store.tensor_file import checksum_file
from tresse.engine.checkpoint.state import (
    FILE,
    MOMENTS,
    State,
    TensorFile,
    read_state,
    write_state,
)
from tresse.engine.hugging_face import VOCABULARY, WEIGHTS, export, join_parameter
from tresse.engine.model import DTYPES, Transformer
from tresse.engine.unit_tokenizer import find_tokenizer, write_tokenizer
from tresse.kernels.attention import Attend, attention

logger = logging.getLogger(__name__)


def newest(folder: Path, stage: str = "") -> Path | None:
    """Return the newest checkpoint in a folder that verifies; warn of each broken one.

    stage: name of the stage that it must be of; by default of any.
    """
    for path in all_checkpoints(folder):
        try:
            verify(path, stage)
        except (ValueError, OSError) as error:
            logger.warning("%s: %s; skipping this checkpoint", path, error)
        else:
            return path
    return None


def readable_states(folder: Path) -> Iterator[tuple[Path, State]]:
    """Yield the states of a stage's checkpoints that can be read; `newest` names the others."""
    for path in all_checkpoints(folder):
        with suppress(ValueError, OSError):
            yield path, read_state(path)


def has_checkpoints(folder: Path) -> bool:
    """Return whether a stage's folder has any checkpoint, verified or not."""
    return bool(all_checkpoints(folder))


def verify(path: Path, stage: str = "") -> None:
    """Check a checkpoint's state, and the sizes and hashes of its files.

    ValueError says what is wrong; OSError when a file cannot be read.
    """
    state = read_state(path)
    if stage not in ("", state.stage):
        raise ValueError(f"is of the stage {state.stage}, expected {stage}")
    for name, expected in state.files.items():
        file = path / name
        size = file.stat().st_size if file.exists() else 0
        if size != expected.bytes:
            raise ValueError(f"{name} has {size} bytes, expected {expected.bytes}")
        if checksum_file(file) != expected.xxh3:
            raise ValueError(f"{name} has other content than its hash says")


class Checkpoint:
    """A complete checkpoint; a tensor is read when it is asked for.

    Errors are those of `state.read_state`; the files of tensors are not verified.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, read_state(path)

    def check_tokenizers(self, corpus: Corpus) -> None:
        """Raise ValueError if a corpus has other tokens than the checkpoint was trained on."""
        for tokenizer in corpus.tokenizers:
            try:
                self.state.vocabulary.first_id(tokenizer)
            except ValueError as error:
                raise ValueError(f"{corpus.path}, for {self.path}: {error}") from None

    def weight(self, name: str, model: Transformer) -> Tensor:
        """Return the fp32 value of a parameter; name: the model's own."""
        return self._joined(name, model, "")

    def load_into(self, model: Transformer) -> None:
        """Fill a model with the fp32 weights, one at a time; ValueError if one is not finite."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                weight = self.weight(name, model)
                if not weight.isfinite().all():
                    raise ValueError(f"{self.path}: {name} is not finite; use another checkpoint")
                parameter.copy_(weight)

    def training_state(self, name: str, model: Transformer) -> dict[str, Tensor]:
        """Return a parameter's weight and moments, as `sharding.set_full_state` takes them."""
        moments = {key: self._joined(name, model, f"{key}.") for key in MOMENTS}
        return {"weight": self.weight(name, model)} | moments

    def _joined(self, name: str, model: Transformer, prefix: str) -> Tensor:
        def read(part: str) -> Tensor:
            return self._read(prefix + part)

        joined = join_parameter(name, read, model.config, model.vocab_width)
        if name in VOCABULARY and self.state.order == "text-first":
            places = torch.from_numpy(self.state.vocabulary.text_first())
            joined[places] = joined[: len(places)].clone()
        return joined

    def _read(self, name: str) -> Tensor:
        if name not in self._files:
            raise ValueError(f"{self.path}: no tensor {name}; the checkpoint is of another model")
        return self._files[name].get_tensor(name)

    @cached_property
    def _files(self) -> dict[str, Any]:
        files = [safe_open(str(self.path / name), "pt") for name in self.state.files]
        return {name: file for file in files for name in file.keys()}  # noqa: SIM118


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return a verified checkpoint: RUN/STAGE at its end, RUN/STAGE/step-N, or an exported folder.

    ValueError if there is none.
    """
    if (folder / FILE).exists():
        verify(folder)
        return Checkpoint(folder)
    return open_finished(folder)


def open_finished(folder: Path) -> Checkpoint:
    """Return the checkpoint at the end of the stage in a folder; ValueError if there is none."""
    path = newest(folder)
    checkpoint = Checkpoint(path) if path else None
    if checkpoint is None or not checkpoint.state.finished:
        raise ValueError(f"{folder}: no finished stage; expected the folder RUN/STAGE of one")
    return checkpoint


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    attend: Attend = attention,
) -> Transformer:
    """Build the whole model on one device, with the checkpoint's weights."""
    vocabulary = checkpoint.state.vocabulary
    with torch.device("meta"):
        model = Transformer(
            checkpoint.state.config.model, vocabulary.width, vocabulary.num_used, attend
        )
    model.to_empty(device="cpu")
    checkpoint.load_into(model)
    return model.to(device, dtype).eval()


def export_stage(folder: Path, out: Path, dtype: Literal["bf16", "fp32"]) -> None:
    """Write the weights of `open_checkpoint` as a folder that transformers loads.

    Its state.json says what they were trained on, so that it can be scored as well; a tokenizer
    and generation settings are beside it.
    """
    checkpoint = open_checkpoint(folder)
    model = load_model(checkpoint, torch.float32, torch.device("cpu"))
    config, vocabulary = checkpoint.state.config, checkpoint.state.vocabulary
    packing = config.data.packing
    specials = vocabulary.specials(packing)

    text = find_tokenizer(folder, vocabulary)
    tensors = dict(model.named_parameters())
    if text is not None:
        places = torch.from_numpy(vocabulary.text_first())
        for name in VOCABULARY.keys() & tensors.keys():
            tensors[name] = torch.nn.Parameter(tensors[name].detach()[places])

    def write_own(folder: Path) -> None:
        write_tokenizer(folder, vocabulary, packing, text)
        path = folder / WEIGHTS
        file = TensorFile(bytes=path.stat().st_size, xxh3=checksum_file(path))
        order = "run" if text is None else "text-first"
        write_state(folder, replace(checkpoint.state, files={path.name: file}, order=order))

    export(
        tensors,
        config.model,
        out,
        DTYPES[dtype],
        vocab_used=vocabulary.num_used,
        max_positions=packing.row_length,
        eos=specials.eos,
        bos=specials.bos,
        write_more=write_own,
    )


def is_export_of(out: Path, folder: Path) -> bool:
    """Return whether `out` has the weights at the end of the stage in a folder.

    ValueError if it is no export that can be read.
    """
    finished = open_finished(folder).state
    try:
        exported = read_state(out)
    except (ValueError, OSError) as error:
        raise ValueError(f"{out}: {error}; remove this folder to have it written again") from None
    return replace(exported, files={}, order="run") == replace(finished, files={})


def remove(path: Path) -> None:
    """Rename a checkpoint before it is removed, so that a half of it never looks complete."""
    temporary = path.with_name(path.name + ".tmp")
    path.rename(temporary)
    shutil.rmtree(temporary)


def all_checkpoints(folder: Path) -> list[Path]:
    """Return all complete checkpoints of a stage, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.suffix != ".tmp"), reverse=True)
