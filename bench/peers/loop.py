"""The loop that a careful user writes: accumulate gradients, clip, step; DDP between ranks."""

import contextlib
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tresse.bench.peers.workload import Clock, Workload, autocast, fused_adamw, micro_batches

LossOf = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""model, tokens (B, T), labels (B, T) -> mean loss."""


def train_steps(workload: Workload, model: nn.Module, loss_of: LossOf, clock: Clock) -> float:
    """Take all steps, mark the end of each, and return the last micro-batch's loss."""
    torch.set_float32_matmul_precision("high")
    optimizer, clip = fused_adamw(model, workload), workload.config.optim.clip
    wrapped = wrap(model, clock.device)
    batches, loss = micro_batches(workload, clock.device), torch.zeros(())
    for _ in range(workload.total_steps):
        for position in range(workload.accumulation):
            rows = next(batches)
            tokens, labels = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
            with reduces_last(wrapped, position == workload.accumulation - 1):
                with autocast(workload, clock.device):
                    loss = loss_of(wrapped, tokens, labels)
                (loss / workload.accumulation).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.mark()
    return loss.item()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model inside DistributedDataParallel, if there are several ranks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return model
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def reduces_last(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[object]:
    """Return the context of a micro-batch: gradients are summed over ranks after the last one."""
    if is_last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
