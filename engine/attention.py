"""The choice of a run's attention, made once at its start."""

from tresse.engine.model import DTYPES
from tresse.engine.run.config import RunConfig
from tresse.engine.run.ranks import Ranks
from tresse.kernels.attention import Attend
from tresse.kernels.attention_backends import Setting, choose


def choose_attention(config: RunConfig, ranks: Ranks) -> Attend:
    """Choose the attention; print the choice and its reason on the first rank.

    Raises ValueError if the configuration names one that cannot run here.
    """
    setting = Setting(
        device=ranks.device,
        dtype=DTYPES[config.sharding.precision],
        head_dim=config.model.head_dim,
        mask_documents=config.data.packing.mask_documents,
        deterministic=config.deterministic,
    )
    backend = choose(config.kernels.attention, setting)
    if ranks.is_first:
        print(f"attention: {backend}")
    return backend.attend
