"""The processes of a run: their ranks, their devices and their collectives.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; `python engine/train.py` runs one process. NCCL
carries the collectives on GPUs and gloo on CPUs.
"""

import gc
import logging
import os
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from tresse.data import processes
from tresse.engine.run.watch import Watch

logger = logging.getLogger(__name__)

T = TypeVar("T")

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # importing deepspeed would warn without it
# Blocks of memory grow instead of being split, so that a micro-batch of another size fits.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


@dataclass(frozen=True, slots=True)
class Ranks:
    """All processes of the run, as seen by one of them."""

    rank: int
    world_size: int
    device: torch.device
    watch: Watch = field(default_factory=Watch)
    """The time that this rank takes for what it does."""

    @property
    def is_first(self) -> bool:
        """True on the rank that prints, logs and writes what is written once."""
        return self.rank == 0

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return True on every rank if the flag is set on any of them."""
        return bool(self.all_reduce(torch.tensor(int(flag), device=self.device)).item())

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.any(False)

    def from_first(self, value: T) -> T:
        """Return the first rank's value, any picklable object, on every rank."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: T) -> Sequence[T]:
        """Return every rank's value, in the order of the ranks, on every rank."""
        values: list[T] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values


def join(watch: Watch | None = None) -> Ranks:
    """Join the process group that torchrun describes, or create one of a single process."""
    watch = watch or Watch()
    rank, world_size = processes.rank(), processes.world_size()
    device = torch.device(processes.device())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _set_rendezvous_of_one()
        _init_process_group("nccl" if device.type == "cuda" else "gloo", watch.collective_timeout)
    _check_restarts()
    return Ranks(rank, world_size, device, watch)


def leave() -> None:
    """Leave the process group after a clean end; a rank that failed must not wait for the others.

    gloo's threads own tensors as long as their group lives, and a thread that frees a tensor while
    Python exits aborts the process. So every reference to a group goes here, DeepSpeed's too.
    """
    import deepspeed

    gc.collect()
    deepspeed.comm.destroy_process_group()
    gc.collect()


def _check_restarts() -> None:
    """Warn where torchrun's restarts would hang: its store outlives the ranks that used it."""
    # pytorch/pytorch#135712
    variables = os.environ
    restarts = int(variables.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    shares = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if restarts and shares and processes.rank() == 0:
        logger.warning(
            "with --max-restarts, start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, as "
            "`tresse train` does; otherwise a restart may hang"
        )


def _set_rendezvous_of_one() -> None:
    """Set the variables that torchrun would set, so that both starts take the same path."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _init_process_group(backend: str, timeout: timedelta) -> None:
    # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed

    deepspeed.utils.logger.setLevel("WARNING")
    # DeepSpeed would spend two minutes compiling a shared-memory all-reduce for CPUs; gloo has one.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout
    )
