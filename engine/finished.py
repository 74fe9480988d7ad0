"""What is done with a finished stage: load its model, export it."""

from pathlib import Path
from typing import Literal

import torch

from tresse.engine.checkpoint import Checkpoint, newest
from tresse.engine.hugging_face import export
from tresse.engine.model import Transformer
from tresse.kernels.attention import Attend, attention

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def open_finished(folder: Path) -> Checkpoint:
    """Return the checkpoint at the end of a stage's folder; ValueError if there is none."""
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
    """Build the model with a checkpoint's weights, whole."""
    vocabulary = checkpoint.vocabulary
    model = Transformer(checkpoint.config.model, vocabulary.width, vocabulary.num_used, attend)
    checkpoint.load_into(model)
    return model.to(device, dtype).eval()


def export_stage(folder: Path, out: Path, dtype: Literal["bf16", "fp32"]) -> None:
    """Write the final weights of RUN/STAGE as a folder that transformers loads."""
    checkpoint = open_finished(folder)
    model = load_model(checkpoint, torch.float32, torch.device("cpu"))
    vocabulary = checkpoint.vocabulary
    separators = checkpoint.config.data.packing.separators
    export(
        dict(model.named_parameters()),
        checkpoint.config.model,
        out,
        DTYPES[dtype],
        vocab_used=vocabulary.num_used,
        max_positions=checkpoint.config.data.packing.row_length,
        eos=vocabulary.eos if separators != "none" else None,
        bos=vocabulary.bos if separators == "bos_eos" else None,
    )
