"""Under torchrun: steps with layers that are computed again have the bits of steps without.

    torchrun --nproc-per-node N tests/support/workers/recompute.py

Exits 0 if losses, gradient norms and final weights are equal at every ZeRO level. At level 3 every
weight is divided, and none stays after its use.
"""

from typing import Any

import torch

from tests.support.workers.step import MODEL, OPTIM, ROWS, VOCAB, T, make_rows, take
from tresse.engine.batches import DeviceBatch
from tresse.engine.model import Transformer
from tresse.engine.run.config import ShardingConfig
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.sharding import shard as shard_module
from tresse.engine.sharding.full_state import full_state, set_full_state
from tresse.engine.sharding.shard import release, shard
from tresse.engine.step import train_step

NUM_STEPS, NUM_MICRO = 3, 2
plain_config = shard_module.deepspeed_config


def divided(*arguments: Any) -> dict[str, Any]:
    """DeepSpeed's configuration without a size below which tensors stay whole."""
    config = plain_config(*arguments)
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


def train(sharding: ShardingConfig, num_recomputed: int, ranks: Ranks) -> list[torch.Tensor]:
    """Take steps; return the loss and the norm of each, and the weights after the last one."""
    micro_rows = ROWS // (NUM_MICRO * ranks.world_size)
    model = Transformer(MODEL, 64, VOCAB, keep_h=True, num_recomputed=num_recomputed)
    model.init_weights(seed=0)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = shard(
        model, sharding, OPTIM, ranks, micro_rows=micro_rows, num_micro_batches=NUM_MICRO
    )
    set_full_state(engine, lambda name: {"weight": weights[name]}, num_updates=0)
    found = []
    for step in range(NUM_STEPS):
        rows, first = make_rows(step), ranks.rank * ROWS // ranks.world_size
        micro = [
            masked(take(rows, first + k * micro_rows, first + (k + 1) * micro_rows))
            for k in range(NUM_MICRO)
        ]
        result = train_step(engine, micro, 2, OPTIM.lr, ranks).result()
        found.append(torch.tensor([result.loss, result.grad_norm], dtype=torch.float64))
    found += [state["weight"].clone() for _, state in full_state(engine)]
    release(engine)
    return found


def masked(batch: DeviceBatch) -> DeviceBatch:
    """The batch with two documents in each row."""
    cuts = torch.arange(0, batch.tokens.numel() + 1, T // 2, dtype=torch.int32)
    return DeviceBatch(batch.tokens, batch.labels, batch.languages, cuts)


def main() -> None:
    """Compare all layers kept, some and none of them, at every level."""
    ranks = join()
    shard_module.deepspeed_config, shard_module.LIVE = divided, 1
    for level, precision in ((0, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")):
        sharding = ShardingConfig(zero_stage=level, precision=precision)  # type: ignore[arg-type]
        kept, *others = [train(sharding, count, ranks) for count in (0, 1, MODEL.num_layers)]
        for other in others:
            assert len(other) == len(kept) > NUM_STEPS
            assert all(map(torch.equal, kept, other)), (level, precision)
    leave()


if __name__ == "__main__":
    main()
