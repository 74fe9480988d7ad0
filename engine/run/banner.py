"""What a run says of itself at its start, and what it warns of."""

import logging
from collections.abc import Mapping

import torch

from tresse.data.packing.packer import Plan
from tresse.engine.forecast.forecast import BYTES_SAVED
from tresse.engine.forecast.memory import state_memory
from tresse.engine.model import parameter_sizes
from tresse.engine.run.config import RunConfig
from tresse.engine.run.ranks import Ranks

MANY_EPOCHS = 100
LARGE_FOR_CPU = 50_000_000

logger = logging.getLogger(__name__)


def print_banner(config: RunConfig, plans: Mapping[str, Plan], ranks: Ranks) -> None:
    """Print the size of the run and where it runs, and warn of what is seldom meant."""
    width = next(iter(plans.values())).vocabulary.width
    sizes = parameter_sizes(config.model, width)
    num_parameters = sum(sizes)
    print(
        f"model: {num_parameters:,} parameters, {_source(config)}; a checkpoint takes "
        f"{_size(BYTES_SAVED * num_parameters)}"
    )
    print(
        f"ranks: {ranks.world_size} on {_device(ranks.device)}, {config.sharding.precision}, ZeRO "
        f"level {config.sharding.zero_stage}"
    )
    if ranks.device.type == "cpu" and num_parameters > LARGE_FOR_CPU:
        state = state_memory(config, sizes, ranks.world_size)
        needed = _size(ranks.world_size * (state.device + state.host))
        logger.warning("this model is large for a CPU: it will take %s and long", needed)
    for name, plan in plans.items():
        for stream in plan.streams:
            if stream.epochs > MANY_EPOCHS:
                logger.warning(
                    "stage %s repeats its documents %.0f times: %s", name, stream.epochs, stream
                )


def _source(config: RunConfig) -> str:
    """Return where the weights of the first stage come from."""
    if config.init:
        return f"weights of {config.init}"
    if config.model.pretrained:
        return f"weights of {config.model.pretrained}, new embeddings"
    return "random weights"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"a CPU with {threads} thread{'s' if threads > 1 else ''} each"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
