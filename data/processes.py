"""Which of several processes this one is, as torchrun and batch systems say it, and its GPU."""

import os


def rank() -> int:
    """Return this process' number, RANK; 0 where nothing says it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, WORLD_SIZE; 1 where nothing says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> str:
    """The GPU of this process where there is one, torchrun's LOCAL_RANK, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} found here; "
            "start torchrun with --nproc-per-node of at most that many"
        )
    return f"cuda:{local_rank}"
