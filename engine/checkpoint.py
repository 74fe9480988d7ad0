"""Checkpoints: the whole training state, independent of rank count and ZeRO level, without pickle.

    STAGE/step-00000200/model-00001-of-00002.safetensors      fp32 weights under HF names
                        optimizer-00001-of-00002.safetensors  fp32 exp_avg.NAME, exp_avg_sq.NAME
                        state.json                            counters, corpus, config, file hashes

Every rank writes its share of the parameters. A checkpoint is written as step-N.tmp, synced and
renamed, so a folder without .tmp is complete.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tresse.data.durable import commit, give_default_permissions, sync_path, write_text
from tresse.data.packing.settings import Vocabulary
from tresse.data.store.corpus import Corpus
from tresse.data.store.tensor_file import checksum_file
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.hugging_face import export, join_parameter, to_hf
from tresse.engine.model import DTYPES, Transformer
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.run_folder import Record, from_json
from tresse.engine.sharding import MOMENTS, Engine, full_state
from tresse.kernels.attention import Attend, attention

FORMAT = "tresse.checkpoint"
VERSION = 1

logger = logging.getLogger(__name__)


def save(folder: Path, engine: Engine, state: Record, keep: int, ranks: Ranks) -> None:
    """Write the checkpoint of `state["step"]` into a stage's folder; a collective.

    state: JSON values; format, version and the files' hashes are added. When the checkpoint is
    complete, all others but the `keep` - 1 before it are removed.
    """
    final = folder / f"step-{state['step']:08d}"
    temporary = final.with_name(final.name + ".tmp")
    if ranks.is_first:
        if final.exists():  # a broken one: otherwise the run would have resumed from it
            _remove(final)
        for leftover in folder.glob("step-*.tmp"):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
    ranks.barrier()
    shares = ranks.gather(_write_share(temporary, engine, ranks))
    if ranks.is_first:
        state = state | {"format": FORMAT, "version": VERSION}
        state["files"] = {name: entry for share in shares for name, entry in share.items()}
        write_text(temporary / "state.json", json.dumps(state, indent=2) + "\n")
        sync_path(temporary)
        commit(temporary, final)
        _prune(folder, final, keep)
    ranks.barrier()


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a stage that verifies; warn of each broken one."""
    for path in _all(folder):
        fault = find_fault(path)
        if fault is None:
            return path
        logger.warning("%s: %s; skipping this checkpoint", path, fault)
    return None


def has_checkpoints(folder: Path) -> bool:
    """Return whether a stage's folder has any checkpoint, verified or not."""
    return bool(_all(folder))


def find_fault(path: Path) -> str | None:
    """Check a checkpoint's files against the sizes and hashes in its state.json."""
    try:
        state = json.loads((path / "state.json").read_bytes())
        expected = state["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"state.json cannot be read ({error})"
    if (state.get("format"), state.get("version")) != (FORMAT, VERSION):
        return f"is {state.get('format')} {state.get('version')}, expected {FORMAT} {VERSION}"
    for name, entry in expected.items():
        file = path / name
        size = file.stat().st_size if file.exists() else 0
        if size != entry["bytes"]:
            return f"{name} has {size} bytes, expected {entry['bytes']}"
        if checksum_file(file) != entry["xxh3"]:
            return f"{name} has other content than its hash says"
    return None


class Checkpoint:
    """A complete checkpoint; a tensor is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: Record = json.loads((path / "state.json").read_bytes())
        self.config = from_json(self.state["config"])
        self.vocabulary = Vocabulary(**self.state["vocabulary"])
        self.tokenizer = Tokenizer(**self.state["tokenizer"])

    def check_tokenizer(self, corpus: Corpus) -> None:
        """Raise ValueError if a corpus has other units than the checkpoint was trained on."""
        if corpus.tokenizer != self.tokenizer:
            raise ValueError(
                f"{corpus.path}: units of {corpus.tokenizer}, but {self.path} was trained on units "
                f"of {self.tokenizer}; tokenise both alike"
            )

    def weight(self, name: str, model: Transformer) -> Tensor:
        """Return the fp32 value of a parameter; name: the model's own."""
        return self._joined(name, model, "")

    def load_into(self, model: Transformer) -> None:
        """Fill a model with the fp32 weights, one at a time."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.weight(name, model))

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
        files = [safe_open(str(self.path / name), "pt") for name in self.state["files"]]
        return {name: file for file in files for name in file.keys()}  # noqa: SIM118


def open_finished(folder: Path) -> Checkpoint:
    """Return the checkpoint at the end of the stage in a folder; ValueError if there is none."""
    path = newest(folder)
    checkpoint = Checkpoint(path) if path else None
    if checkpoint is None or not checkpoint.state["finished"]:
        raise ValueError(f"{folder}: no finished stage; expected the folder RUN/STAGE of one")
    return checkpoint


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    attend: Attend = attention,
) -> Transformer:
    """Build the whole model on one device, with the checkpoint's weights."""
    vocabulary = checkpoint.vocabulary
    model = Transformer(checkpoint.config.model, vocabulary.width, vocabulary.num_used, attend)
    checkpoint.load_into(model)
    return model.to(device, dtype).eval()


def export_stage(folder: Path, out: Path, dtype: Literal["bf16", "fp32"]) -> None:
    """Write the final weights of RUN/STAGE as a folder that transformers loads."""
    checkpoint = open_finished(folder)
    model = load_model(checkpoint, torch.float32, torch.device("cpu"))
    packing, vocabulary = checkpoint.config.data.packing, checkpoint.vocabulary
    specials = vocabulary.specials(packing)
    export(
        dict(model.named_parameters()),
        checkpoint.config.model,
        out,
        DTYPES[dtype],
        vocab_used=vocabulary.num_used,
        max_positions=packing.row_length,
        eos=specials.eos,
        bos=specials.bos,
    )


def _write_share(folder: Path, engine: Engine, ranks: Ranks) -> dict[str, Record]:
    """Write this rank's share of the parameters; return its files' sizes and hashes."""
    model, moments = {}, {}
    for name, tensors in _share(engine, ranks):
        module = engine.module
        for key, tensor in tensors.items():
            parts = to_hf({name: tensor.cpu()}, module.config, module.vocab_used)
            target, prefix = (model, "") if key == "weight" else (moments, f"{key}.")
            target |= {prefix + hf: part.contiguous().clone() for hf, part in parts.items()}
    suffix = f"{ranks.rank + 1:05d}-of-{ranks.world_size:05d}.safetensors"
    written = {}
    for kind, content in (("model", model), ("optimizer", moments)):
        if content:
            path = folder / f"{kind}-{suffix}"
            save_file(content, path)
            give_default_permissions(path)
            sync_path(path)
            written[path.name] = {"bytes": path.stat().st_size, "xxh3": checksum_file(path)}
    return written


def _share(engine: Engine, ranks: Ranks) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for position, item in enumerate(full_state(engine)):
        if position % ranks.world_size == ranks.rank:
            yield item


def _prune(folder: Path, written: Path, keep: int) -> None:
    """Remove old checkpoints, and newer ones: those are broken, as the run did not use them."""
    checkpoints = _all(folder)
    position = checkpoints.index(written)
    for path in checkpoints[:position] + checkpoints[position + keep :]:
        _remove(path)


def _remove(path: Path) -> None:
    """Rename a checkpoint before it is removed, so that a half of it never looks complete."""
    temporary = path.with_name(path.name + ".tmp")
    path.rename(temporary)
    shutil.rmtree(temporary)


def _all(folder: Path) -> list[Path]:
    """Return all complete checkpoints of a stage, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.suffix != ".tmp"), reverse=True)
