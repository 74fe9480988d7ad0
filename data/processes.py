"""Place of this process among all that torchrun or a batch system started, and its GPU."""

import os


def rank() -> int:
    """Return the number of this process, the variable RANK; 0 when it is not set."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, the variable WORLD_SIZE; 1 when it is not set."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the number of this process on its machine, LOCAL_RANK; 0 when it is not set."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Return the number of processes on this machine, LOCAL_WORLD_SIZE; 1 when it is not set."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def share_of_cores() -> int:
    """Return the number of cores for this process, if those on this machine share them alike."""
    return max(1, len(os.sched_getaffinity(0)) // local_world_size())


def device() -> str:
    """Return this process' GPU, "cuda:LOCAL_RANK", or "cpu" on a machine without one.

    ValueError when there are more processes than GPUs.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    if local_rank() >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank()} has no GPU: {torch.cuda.device_count()} found here; "
            "start torchrun with --nproc-per-node of at most that many"
        )
    return f"cuda:{local_rank()}"
