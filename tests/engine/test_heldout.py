"""The held-out loss: one pass over the documents of each language, the mean over their targets."""

import numpy as np
import pytest
import torch

from tests.support.corpora.in_memory import memory_corpus
from tests.support.labels import counted_labels
from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.heldout import heldout_losses, plan_heldout
from tresse.engine.run.ranks import Ranks
from tresse.kernels.cross_entropy import IGNORE_INDEX

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
DOCUMENTS = [[1, 2, 3], [4, 5, 6, 7], [8, 9], [10, 11, 12, 13, 14]]
CORPUS = memory_corpus({"en": {str(i): [tokens] for i, tokens in enumerate(DOCUMENTS)}})


class Identity(torch.nn.Module):
    """A model whose loss of a label is the label itself."""

    def forward(self, _tokens: torch.Tensor, labels: torch.Tensor, _cu_seqlens: object) -> tuple:
        """Return no loss, and the losses of the labels."""
        return None, torch.where(labels == IGNORE_INDEX, 0, labels).double()


def targets_of(packing: Packing) -> list[int]:
    """Return all targets of the plan for English."""
    plan = plan_heldout(CORPUS, packing, Vocabulary.of(CORPUS.tokenizers, packing))["en"]
    batch = plan.fill(0, plan.num_rows)
    return batch.tokens[:, 1:][counted_labels(batch, packing.mask_documents)].tolist()


def test_with_masked_documents_every_token_but_the_first_is_a_target_once() -> None:
    found = targets_of(Packing(row_length=4, mask_documents=True))
    assert sorted(found) == [token for tokens in DOCUMENTS for token in tokens[1:]]


@pytest.mark.parametrize("row_length", [3, 4, 64])
def test_no_token_is_a_target_twice(row_length: int) -> None:
    found = targets_of(Packing(row_length=row_length))
    assert len(set(found)) == len(found) == sum(map(len, DOCUMENTS)) - len(DOCUMENTS)


@pytest.mark.parametrize("micro_rows", [1, 2, 5])
def test_the_loss_is_the_mean_over_all_targets(micro_rows: int) -> None:
    packing = Packing(row_length=4, mask_documents=True)
    model = Identity()
    losses = heldout_losses(
        model,
        plan_heldout(CORPUS, packing, Vocabulary.of(CORPUS.tokenizers, packing)),
        micro_rows,
        ALONE,
    )
    expected = np.mean([token for tokens in DOCUMENTS for token in tokens[1:]])
    assert losses == {"en": pytest.approx(expected)}
    assert model.training


def test_text_alone_has_the_ids_of_a_run_with_speech() -> None:
    corpus = memory_corpus({"en-text": {"a": [[1, 2, 3]]}}, text=["en-text"])
    units, packing = Tokenizer("units", "", "25/2", 50), Packing(row_length=2)
    vocabulary = Vocabulary.of([units, *corpus.tokenizers], packing)
    plan = plan_heldout(corpus, packing, vocabulary)["en-text"]
    assert plan.fill(0, 1).tokens.tolist() == [[51, 52, 53]]
