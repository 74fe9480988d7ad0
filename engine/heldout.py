"""Cross-entropy on held-out documents, per language, while a model trains."""

import torch

from tresse.data.packing.packer import Plan, plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus
from tresse.engine.batches import to_device
from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding import Engine
from tresse.engine.step import count_targets, sum_by_language

Plans = dict[str, Plan]


def plan_heldout(corpus: Corpus, packing: Packing) -> Plans:
    """Plan one pass over each language's documents, in one order for the whole run."""
    return {
        language: plan_rows(
            corpus,
            [Stream(languages=(language,))],
            packing,
            tokens=corpus.num_tokens(language) - corpus.num_documents(language),
            seed=0,
            stage=0,
        )
        for language in corpus.languages
    }


@torch.no_grad()
def heldout_losses(
    engine: Engine, plans: Plans, packing: Packing, micro_rows: int, ranks: Ranks
) -> dict[str, float]:
    """Mean cross-entropy in nats of each language's targets. A collective."""
    engine.eval()
    losses = {name: _mean_loss(engine, p, packing, micro_rows, ranks) for name, p in plans.items()}
    engine.train()
    return losses


def _mean_loss(
    engine: Engine, plan: Plan, packing: Packing, micro_rows: int, ranks: Ranks
) -> float:
    totals = torch.zeros(2, dtype=torch.float64, device=ranks.device)
    # Every rank runs as many passes, on empty rows past the end: ZeRO-3 gathers weights in each.
    for first in range(0, plan.num_rows, micro_rows * ranks.world_size):
        packed = plan.fill(first + ranks.rank * micro_rows, micro_rows)
        batch = to_device(packed, ranks.device, packing.mask_documents)
        _, losses = engine(batch.tokens, batch.labels, batch.cu_seqlens)
        num_languages = len(plan.languages)
        totals[0] += sum_by_language(losses, batch.languages, num_languages).sum()
        totals[1] += count_targets(batch, num_languages).sum()
    total, num_targets = ranks.all_reduce(totals).tolist()
    return total / num_targets
