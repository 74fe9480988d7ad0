"""Under torchrun, on a GPU: a step queues its work, from packed rows on, without a wait.

    torchrun tests/support/workers/no_wait.py WORLD

Exits 0 when torch, which then makes an error of every wait for the device, has none to report.
"""

import sys
from pathlib import Path

import torch

from tests.support.workers.step import MODEL, OPTIM
from tresse.data.packing.packer import plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus
from tresse.engine.batches import pinned, to_device
from tresse.engine.model import Transformer
from tresse.engine.run.config import ShardingConfig
from tresse.engine.run.ranks import join, leave
from tresse.engine.sharding.full_state import set_full_state
from tresse.engine.sharding.shard import shard
from tresse.engine.step import train_step

STREAM = Stream(languages=("en", "fr"), mode="sample")
WARM_UP = 3
ROWS = 40  # of 4,096 tokens: copies above 64 KB would block from pageable memory


def main() -> None:
    """Warm up, then take steps in which nothing may wait."""
    ranks, corpus = join(), Corpus.open(Path(sys.argv[1]))
    packing = Packing(row_length=4096)
    plan = plan_rows(corpus, [STREAM], packing, tokens=10**6, seed=0, stage=0)
    model = Transformer(MODEL, plan.vocabulary.width, plan.vocabulary.num_used)
    model.init_weights(seed=0)
    engine = shard(
        model, ShardingConfig(precision="bf16"), OPTIM, ranks, micro_rows=ROWS, num_micro_batches=2
    )
    assert engine.lean
    weights = {name: p.detach().float() for name, p in engine.module.named_parameters()}
    set_full_state(engine, lambda name: {"weight": weights[name]}, 0)
    running = []
    for step in range(WARM_UP + 3):
        torch.cuda.set_sync_debug_mode("error" if step >= WARM_UP else "default")
        packed = [plan.fill(k * ROWS, ROWS, allocate=pinned) for k in (0, 1)]
        batches = [to_device(each, ranks.device, mask_documents=False) for each in packed]
        running.append(train_step(engine, batches, 2, OPTIM.lr, ranks))
    torch.cuda.set_sync_debug_mode("default")
    losses = [each.result().loss for each in running]
    assert losses == sorted(losses, reverse=True), losses
    leave()


if __name__ == "__main__":
    main()
