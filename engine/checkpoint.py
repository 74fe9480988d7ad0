"""Checkpoints: the whole training state, independent of rank count and ZeRO level, without pickle.

    STAGE/step-00000200/model-00001-of-00002.safetensors      fp32 weights under HF names
                        optimizer-00001-of-00002.safetensors  fp32 exp_avg.NAME, exp_avg_sq.NAME
                        state.json                            engine/state.py: counters, hashes

Every rank writes its share of the parameters. A checkpoint is written as step-N.tmp, synced and
renamed, so a folder without .tmp is complete.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from tresse.data.durable import commit, sync_path
from tresse.data.store.corpus import Corpus
from tresse.data.store.tensor_file import checksum_file
from tresse.engine.hugging_face import WEIGHTS, export, join_parameter, save_tensors, to_hf
from tresse.engine.model import DTYPES, Transformer
from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding.full_state import MOMENTS, full_state
from tresse.engine.sharding.shard import Engine
from tresse.engine.state import FILE, State, TensorFile, folder_name, read_state, write_state
from tresse.kernels.attention import Attend, attention

logger = logging.getLogger(__name__)


def save(folder: Path, engine: Engine, state: State, keep: int, ranks: Ranks) -> None:
    """Write the checkpoint of a step into a stage's folder; a collective.

    The files of `state` are filled in. When the checkpoint is complete, all others but the
    `keep` - 1 before it are removed. FloatingPointError when weights or moments are not finite;
    then nothing is written.
    """
    final = folder / folder_name(state.step)
    temporary = final.with_name(final.name + ".tmp")
    if ranks.is_first:
        if final.exists():  # a broken one: otherwise the run would have resumed from it
            _remove(final)
        for leftover in folder.glob("step-*.tmp"):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
    ranks.barrier()
    share = _write_share(temporary, engine, ranks)
    shares = ranks.gather(share)
    if broken := [name for each in shares for name in each.not_finite]:
        if ranks.is_first:
            shutil.rmtree(temporary)
        raise FloatingPointError(
            f"stage {state.stage}, step {state.step}: {len(broken)} tensors are not finite, such "
            f"as {broken[0]}; this step was not saved, and the checkpoint before it stays"
        )
    if ranks.is_first:
        files = {name: entry for each in shares for name, entry in each.files.items()}
        write_state(temporary, replace(state, files=files))
        sync_path(temporary)
        commit(temporary, final)
        _prune(folder, final, keep)
    ranks.barrier()


def newest(folder: Path, stage: str = "") -> Path | None:
    """Return the newest checkpoint in a folder that verifies; warn of each broken one.

    stage: name of the stage that it must be of; by default of any.
    """
    for path in _all(folder):
        try:
            verify(path, stage)
        except (ValueError, OSError) as error:
            logger.warning("%s: %s; skipping this checkpoint", path, error)
        else:
            return path
    return None


def readable_states(folder: Path) -> Iterator[tuple[Path, State]]:
    """Yield the states of a stage's checkpoints that can be read; `newest` names the others."""
    for path in _all(folder):
        with suppress(ValueError, OSError):
            yield path, read_state(path)


def has_checkpoints(folder: Path) -> bool:
    """Return whether a stage's folder has any checkpoint, verified or not."""
    return bool(_all(folder))


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

    def check_tokenizer(self, corpus: Corpus) -> None:
        """Raise ValueError if a corpus has other units than the checkpoint was trained on."""
        if corpus.tokenizer != self.state.tokenizer:
            raise ValueError(
                f"{corpus.path}: units of {corpus.tokenizer}, but {self.path} was trained on units "
                f"of {self.state.tokenizer}; tokenise both alike"
            )

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

        return join_parameter(name, read, model.config, model.vocab_width)

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

    Its state.json says what they were trained on, so that it can be scored as well.
    """
    checkpoint = open_checkpoint(folder)
    model = load_model(checkpoint, torch.float32, torch.device("cpu"))
    config, vocabulary = checkpoint.state.config, checkpoint.state.vocabulary
    packing = config.data.packing
    specials = vocabulary.specials(packing)

    def write_own(folder: Path) -> None:
        path = folder / WEIGHTS
        file = TensorFile(bytes=path.stat().st_size, xxh3=checksum_file(path))
        write_state(folder, replace(checkpoint.state, files={path.name: file}))

    export(
        dict(model.named_parameters()),
        config.model,
        out,
        DTYPES[dtype],
        vocab_used=vocabulary.num_used,
        max_positions=packing.row_length,
        eos=specials.eos,
        bos=specials.bos,
        write_more=write_own,
    )


@dataclass(frozen=True, slots=True)
class _Share:
    """What a rank has written of a checkpoint."""

    files: dict[str, TensorFile]
    not_finite: list[str]
    """Tensors with values that are not finite."""


def _write_share(folder: Path, engine: Engine, ranks: Ranks) -> _Share:
    """Write this rank's share of the parameters."""
    model, moments, not_finite = {}, {}, []
    for name, tensors in _share(engine, ranks):
        module = engine.module
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                not_finite.append(f"{key} of {name}")
            parts = to_hf({name: tensor.cpu()}, module.config, module.vocab_used)
            target, prefix = (model, "") if key == "weight" else (moments, f"{key}.")
            target |= {prefix + hf: part.contiguous().clone() for hf, part in parts.items()}
    suffix = f"{ranks.rank + 1:05d}-of-{ranks.world_size:05d}.safetensors"
    files = {}
    for kind, content in (("model", model), ("optimizer", moments)):
        if content and not not_finite:
            path = folder / f"{kind}-{suffix}"
            save_tensors(content, path)
            files[path.name] = TensorFile(bytes=path.stat().st_size, xxh3=checksum_file(path))
    return _Share(files, not_finite)


def _share(engine: Engine, ranks: Ranks) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for position, item in enumerate(full_state(engine)):
        if position % ranks.world_size == ranks.rank:
            yield item


def _prune(folder: Path, written: Path, keep: int) -> None:
    """Remove old checkpoints, and newer ones: those are broken, as the run did not use them."""
    checkpoints = _all(folder)
    position = checkpoints.index(written)
    for path in checkpoints[:position] + checkpoints[position + keep :]:
        try:
            _remove(path)
        except OSError as error:  # the new one is complete: the run can go on
            logger.warning("%s: an old checkpoint that cannot be removed (%s)", path, error)


def _remove(path: Path) -> None:
    """Rename a checkpoint before it is removed, so that a half of it never looks complete."""
    temporary = path.with_name(path.name + ".tmp")
    path.rename(temporary)
    shutil.rmtree(temporary)


def _all(folder: Path) -> list[Path]:
    """Return all complete checkpoints of a stage, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.suffix != ".tmp"), reverse=True)
