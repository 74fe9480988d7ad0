"""Accuracies on a subset of the questions, while a stage trains."""

from torch import nn

from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.accuracy import accuracies
from tresse.engine.scoring.questions import Questions
from tresse.engine.scoring.score import BATCH_TOKENS, answer


def score_subset(
    engine: nn.Module, subset: Questions, measure: str, ranks: Ranks
) -> dict[str, float]:
    """Return the accuracy of each task and pair of languages, in [0, 1]; a collective.

    engine: the engine in training. subset: from `Questions.subset`. measure: one of MEASURES.
    FloatingPointError if a log-likelihood is not finite.
    """
    engine.eval()
    answers = answer(engine, subset, batch_tokens=BATCH_TOKENS, ranks=ranks)
    engine.train()
    return {f"{each.task} {each.pair}": each.accuracy[measure] for each in accuracies(answers)}
