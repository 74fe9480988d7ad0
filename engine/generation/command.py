"""`tresse generate`: continue prompts by the weights of a stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from tresse.data.processes import device, rank
from tresse.engine.checkpoint.checkpoint import Checkpoint, load_model, open_checkpoint
from tresse.engine.generation.job import Amount, Job, generate, lay_out
from tresse.engine.generation.layout import layouts_of
from tresse.engine.generation.output import Writing
from tresse.engine.generation.packed import pack_weights
from tresse.engine.generation.prompts import PromptSettings, load_text, read_prompts
from tresse.engine.generation.sampling import Sampling
from tresse.engine.generation.sounds import SoundSettings, open_decoder, speech_of
from tresse.engine.model import DTYPES, Transformer
from tresse.engine.run.config import RunConfig
from tresse.kernels.attention_backends import Setting, choose

AMOUNT, SAMPLING, SOUND = Amount(), Sampling(), SoundSettings()


def main(arguments: Sequence[str]) -> None:
    """Run the command line and print the report."""
    tyro.cli(_generate, prog="tresse generate", args=arguments)


def _generate(
    stage: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path,
    prompts: tyro.conf.OmitArgPrefixes[PromptSettings],
    amount: tyro.conf.OmitArgPrefixes[Amount] = AMOUNT,
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = SAMPLING,
    sound: tyro.conf.OmitArgPrefixes[SoundSettings] = SOUND,
    stream: bool = False,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
) -> None:
    """Continue prompts with units or text that a model says next; use torchrun for several GPUs.

    If it is stopped or killed, the same command resumes it; {out}.parts keeps the finished work.

    Args:
        stage: Folder RUN/STAGE of a finished stage, RUN/STAGE/step-N, or an exported folder.
        out: Folder for continuations.jsonl and details.jsonl (docs/generate.md).
            It must not exist, or be empty.
        prompts: The prompts.
        amount: Number and length of the continuations.
        sampling: The choice of each next unit.
        sound: Tokenizer and sound.
        stream: Print each turn, units or text, as a line of JSON as soon as it is complete.
        precision: Dtype of the computation; `auto`: that of the training on a GPU, fp32 on a CPU.
            In bf16 rounding depends on the batch, and a continuation may change with it.
    """
    checkpoint = open_checkpoint(stage)
    state = checkpoint.state
    decoder = open_decoder(sound, speech_of(state.vocabulary)) if sound.audio else None
    text = load_text(checkpoint)
    read = read_prompts(prompts, sound, checkpoint, text)
    job = Job(
        state=state,
        prompts=read,
        to=prompts.to,
        layouts=layouts_of(state, dict.fromkeys(each.language for each in read), prompts.to, text),
        writing=Writing(vocabulary=state.vocabulary, tokenizers=state.tokenizers, text=text),
        stream=stream,
        sampling=sampling,
        amount=amount,
        precision=_precision(precision, state.config),
        decoder=decoder,
    )
    lay_out(job)  # before the weights are read, so that a mistake is said at once
    model = _load(checkpoint, DTYPES[job.precision])
    pack_weights(model, min(amount.batch, amount.continuations * len(job.prompts)))
    print(generate(job, model, out))
    if rank() == 0:
        _say_what_switches_mean(job)


def _precision(asked: str, config: RunConfig) -> str:
    if asked != "auto":
        return asked
    return "fp32" if device() == "cpu" else config.sharding.precision


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> Transformer:
    """Load the model on this process' device, with the attention that runs fastest there."""
    place = torch.device(device())
    setting = Setting(
        device=place,
        dtype=dtype,
        head_dim=checkpoint.state.config.model.head_dim,
        mask_documents=False,
        deterministic=False,
    )
    return load_model(checkpoint, dtype, place, choose("auto", setting).attend)


def _say_what_switches_mean(job: Job) -> None:
    """Say why no probability of a change of language is given, if a model braids languages."""
    config = job.state.config
    modes = {stream.mode for stage in config.stages for stream in stage.streams}
    if modes != {"mono"} and not config.data.packing.language_switch:
        print(
            "\nThe languages share one vocabulary of units, and this run has no language-switch "
            "token: no probability of a change of language is defined, and none is given."
        )
