"""tiagoCuervo/interleaved_lm from a checkout, trained as its src/interleaved_lm/train.py does.

Its model around a backbone of our shape, with units only and no adapters, like its configuration
base-speech/2b.json: one codebook whose embedding is tied to the head. Its loop reads the loss after
every micro-batch and waits for the GPU after every step. Its dataset is not used: the rows are
random.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tresse.bench.peers.checkout import commit, import_from
from tresse.bench.peers.loop import reduces_last, wrap
from tresse.bench.peers.transformers_loop import configuration
from tresse.bench.peers.workload import (
    WIDTH,
    Clock,
    Workload,
    autocast,
    count,
    micro_batches,
)

PAD = WIDTH - 1  # never in a row


def train(workload: Workload, clock: Clock) -> dict[str, Any]:
    """Train for all steps; returns the number of parameters and the last loss."""
    module = import_from(workload.folder, "interleaved_lm.model")
    model = module.PerceptionExpressionAdaptedTextLM(arguments(module, workload))
    model = model.to(clock.device).train()
    facts = {"parameters": count(model), "peer_commit": commit(workload.folder)}
    facts["shape"] = "interleaved_lm: our shape, units only, no adapters"
    return facts | {"loss": train_steps(workload, model, clock)}


def arguments(module: Any, workload: Workload) -> Any:
    """Return its arguments for a backbone of our shape."""
    model = workload.config.model
    backbone = configuration(model, workload.row_length).to_dict()
    return module.ModelArgs(
        block_size=workload.row_length,
        backbone="",
        backbone_config=backbone,
        warm_init=False,
        aud_vocabsize=WIDTH,
        aud_pad_token=PAD,
        n_aud_codebooks=1,
        aud_inadapter_n_layers=0,
        aud_inadapter_dim=model.hidden_size,
        aud_outadapter_n_layers=0,
        aud_outadapter_dim=model.hidden_size,
    )


def train_steps(workload: Workload, model: Any, clock: Clock) -> float:
    """Take all steps, and return the last micro-batch's loss."""
    torch.set_float32_matmul_precision("high")  # its allow_tf32
    config, loss = workload.config.optim, 0.0
    optimizer = model.configure_optimizers(
        config.weight_decay, config.lr, config.betas, clock.device.type
    )
    wrapped = wrap(model, clock.device)
    if workload.compile != "none":
        wrapped.compile()
    batches = masked(micro_batches(workload, clock.device))
    for _ in range(workload.total_steps):
        optimizer.zero_grad(set_to_none=True)
        for position in range(workload.accumulation):
            with reduces_last(wrapped, position == workload.accumulation - 1):
                with autocast(workload, clock.device):
                    wrapped(*next(batches))
                    mean = model.last_loss / workload.accumulation
                mean.backward()
            loss = float(mean.detach()) * workload.accumulation
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        if clock.device.type == "cuda":
            torch.cuda.synchronize()
        clock.mark()
    return loss


def masked(batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Yield what its dataset gives for speech: tokens (B, T + 1, 1), and six masks."""
    for rows in batches:
        yes = torch.ones_like(rows, dtype=torch.bool)
        no = torch.zeros_like(yes)
        yield rows.unsqueeze(-1), no, no, yes, no[:, 1:], no[:, 1:], yes[:, 1:]
