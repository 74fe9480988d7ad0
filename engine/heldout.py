"""The held-out loss: cross-entropy per language on documents that the model is not trained on."""

import torch

from tresse.data.packing.packer import Plan, plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.corpus import Corpus
from tresse.engine.batches import to_device
from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding.shard import Engine
from tresse.engine.step import count_targets, sum_by_language


def plan_heldout(corpus: Corpus, packing: Packing, vocabulary: Vocabulary) -> dict[str, Plan]:
    """Plan one pass over the documents of each language, in an order that never changes.

    vocabulary: the ids of the run.
    """
    return {
        language: plan_rows(
            corpus,
            [Stream(languages=(language,))],
            packing,
            tokens=corpus.num_tokens(language) - corpus.num_documents(language),
            seed=0,
            stage=0,
            vocabulary=vocabulary,
        )
        for language in corpus.languages
    }


@torch.no_grad()
def heldout_losses(
    engine: Engine, plans: dict[str, Plan], micro_rows: int, ranks: Ranks
) -> dict[str, float]:
    """Return the mean cross-entropy of each language's targets, in nats; a collective."""
    engine.eval()
    losses = {name: _mean_loss(engine, plan, micro_rows, ranks) for name, plan in plans.items()}
    engine.train()
    return losses


def _mean_loss(engine: Engine, plan: Plan, micro_rows: int, ranks: Ranks) -> float:
    totals = torch.zeros(2, dtype=torch.float64, device=ranks.device)
    # All ranks take the same number of passes, with empty rows past the end of the plan: in each
    # pass ZeRO-3 gathers weights.
    for first in range(0, plan.num_rows, micro_rows * ranks.world_size):
        ranks.watch.enter("held-out loss", ranks.watch.place)
        packed = plan.fill(first + ranks.rank * micro_rows, micro_rows)
        batch = to_device(packed, ranks.device, plan.packing.mask_documents)
        _, losses = engine(batch.tokens, batch.labels, batch.cu_seqlens)
        num_languages = len(plan.languages)
        totals[0] += sum_by_language(losses, batch.languages, num_languages).sum()
        totals[1] += count_targets(batch, num_languages).sum()
    total, num_targets = ranks.all_reduce(totals).tolist()
    return total / num_targets
