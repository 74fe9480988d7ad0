"""The processes of a run: who am I, on which device, and how do we add numbers up.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; `python engine/train.py` is a world of one. NCCL
carries the collectives on GPUs and gloo on CPUs.
"""

import gc
import os
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

# A save of a large model or a cold file system takes minutes; DeepSpeed's own default has moved
# from 30 to 10 minutes between releases.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)

T = TypeVar("T")

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # importing deepspeed would warn without it


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among all of them."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process prints, logs and writes what exists once."""
        return self.rank == 0

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank: the same answer on all of them."""
        return bool(self.all_reduce(torch.tensor(int(flag), device=self.device)).item())

    def barrier(self) -> None:
        """Wait until every rank is here."""
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


def join() -> Ranks:
    """Join the process group that torchrun describes, or make one of a single process."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} found here; "
            "start torchrun with --nproc-per-node of at most that many"
        )
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _set_rendezvous_of_one()
        _init_process_group("nccl" if on_gpu else "gloo")
    return Ranks(rank, world_size, device)


def leave() -> None:
    """Leave the process group. Only after a clean end: a rank that failed must not wait for it.

    gloo's threads own tensors until their group goes, and a thread that frees one while Python
    exits aborts the process: so everything that holds a group is let go here, DeepSpeed's too.
    """
    import deepspeed

    gc.collect()
    deepspeed.comm.destroy_process_group()
    gc.collect()


def _set_rendezvous_of_one() -> None:
    """Give the variables that torchrun would, so that one code path serves both."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _init_process_group(backend: str) -> None:
    # DeepSpeed 0.19.8 calls collectives by the names that torch 2.13 renames.
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed

    deepspeed.utils.logger.setLevel("WARNING")
    # DeepSpeed would compile a shared-memory all-reduce for CPUs here, for two minutes; gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=COLLECTIVE_TIMEOUT
    )
