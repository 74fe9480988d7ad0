"""Which kernels a run uses, chosen once at its start."""

from tresse.engine.finished import DTYPES
from tresse.engine.run.config import RunConfig
from tresse.engine.run.ranks import Ranks
from tresse.kernels.attention import Attend
from tresse.kernels.attention_backends import Setting, choose


def choose_attention(run: RunConfig, ranks: Ranks) -> Attend:
    """Choose the attention and say on the first rank which it is, and why.

    Raises ValueError if the one that the settings ask for cannot run here.
    """
    setting = Setting(
        device=ranks.device,
        dtype=DTYPES[run.sharding.precision],
        head_dim=run.model.head_dim,
        mask_documents=run.data.packing.mask_documents,
        deterministic=run.deterministic,
    )
    backend = choose(run.kernels.attention, setting)
    if ranks.is_first:
        print(f"attention: {backend}")
    return backend.attend
