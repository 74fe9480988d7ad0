"""The scores of a finished stage: answers, accuracies and similarities, written to its folder.

STAGE/answers.jsonl    log-likelihoods of both sequences of every question
STAGE/scores.json      accuracies by task, pair and measure, also by the labels of items;
                       likeness of translations by layer, as "alignment"; losses by position
                       and given a translation, as "perplexity"

Batches depend only on the sequences, so every number is the same for any number of ranks.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import xxhash
from torch import nn

from tresse.data.durable import write_text
from tresse.data.lines import parse_records
from tresse.data.store.corpus import Corpus
from tresse.data.store.tensor_file import checksum_file
from tresse.engine.checkpoint.checkpoint import Checkpoint, load_model, open_finished
from tresse.engine.model import DTYPES
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.sealed import read_sealed, write_sealed
from tresse.engine.run.typed_json import Record
from tresse.engine.scoring.accuracy import accuracies
from tresse.engine.scoring.padded import padded_batches
from tresse.engine.scoring.perplexity import measure_positions, measure_translations
from tresse.engine.scoring.questions import MEASURES, Answer, Questions, TokenSequence, pair_name
from tresse.engine.scoring.similarity import measure_similarities
from tresse.kernels.attention import Attend

ANSWERS, SCORES = "answers.jsonl", "scores.json"
# Tokens of a forward pass on a rank. Another size would change the scores by rounding.
BATCH_TOKENS = 32_768

logger = logging.getLogger(__name__)


def score_stage(
    folder: Path, questions: Questions, valid: Corpus | None, ranks: Ranks, attend: Attend
) -> None:
    """Score the final weights of a stage, unless scores.json is up to date; a collective."""
    # The first rank verifies the checkpoint's hashes for all ranks.
    final = Checkpoint(ranks.from_first(open_finished(folder).path if ranks.is_first else folder))
    outdated = _find_outdated(folder, _origin(final, questions, valid))
    if outdated and (folder / SCORES).exists() and ranks.is_first:
        logger.warning("%s: %s; scoring it again", folder, outdated)
    if ranks.any(bool(outdated)):
        score(final, questions, valid, folder, ranks, attend)


def score(
    checkpoint: Checkpoint,
    questions: Questions,
    valid: Corpus | None,
    out: Path,
    ranks: Ranks,
    attend: Attend,
) -> None:
    """Score a checkpoint and write scores.json and answers.jsonl into `out`; a collective.

    valid: held-out corpus whose translations are compared; None to leave that out.
    """
    dtype = DTYPES[checkpoint.state.config.sharding.precision]
    model = load_model(checkpoint, dtype, ranks.device, attend)
    answers = answer(model, questions, batch_tokens=BATCH_TOKENS, ranks=ranks)
    how = {"batch_tokens": BATCH_TOKENS, "ranks": ranks}
    vocabulary = checkpoint.state.vocabulary
    similarities = measure_similarities(model, valid, vocabulary, **how) if valid else {}
    perplexity = _perplexity(model, checkpoint, valid, ranks) if valid else {}
    written = to_jsonl(answers)
    scores: Record = {
        **_origin(checkpoint, questions, valid),
        ANSWERS: xxhash.xxh3_64_hexdigest(written.encode()),
        "tokens": checkpoint.state.tokens,
        "truncated": questions.num_truncated,
        "cloze": [accuracy.to_json() for accuracy in accuracies(answers)],
        "alignment": {name: asdict(found) for name, found in similarities.items()},
        "perplexity": perplexity,
    }
    if ranks.is_first:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / ANSWERS, written)
        write_sealed(out / SCORES, scores)


def _perplexity(model: nn.Module, checkpoint: Checkpoint, valid: Corpus, ranks: Ranks) -> Record:
    """Return losses of held-out documents by position, and given their translations."""
    packing, vocabulary = checkpoint.state.config.data.packing, checkpoint.state.vocabulary
    how = {"batch_tokens": BATCH_TOKENS, "ranks": ranks}
    positions = measure_positions(model, valid, packing, vocabulary, **how)
    translations = measure_translations(model, valid, packing, vocabulary, **how)
    return {
        "positions": {name: asdict(found) for name, found in positions.items()},
        "translations": {name: asdict(found) for name, found in translations.items()},
    }


def _origin(checkpoint: Checkpoint, questions: Questions, valid: Corpus | None) -> Record:
    """Return what the scores depend on, as hashes."""
    return {
        "checkpoint": checkpoint.state.digest,
        "questions": questions.digest(),
        "valid": valid and valid.id,
    }


def _find_outdated(folder: Path, origin: Record) -> str:
    """Return why the scores in a folder are not those of `origin`; "" if they are."""
    try:
        scores = read_sealed(folder / SCORES)
        answers = checksum_file(folder / ANSWERS)
    except (ValueError, OSError) as error:
        return str(error)
    if others := [name for name, value in origin.items() if scores.get(name) != value]:
        return f"{SCORES} is of another {' and '.join(others)}"
    return "" if scores.get(ANSWERS) == answers else f"{ANSWERS} was changed"


def answer(
    model: nn.Module, questions: Questions, *, batch_tokens: int, ranks: Ranks
) -> list[Answer]:
    """Answer every question; a collective.

    model: a Transformer or an engine around one. batch_tokens: tokens of a forward pass on a rank.
    """
    sequences = questions.sequences
    sums = _log_likelihoods(model, sequences, batch_tokens, ranks)
    _check_finite(questions, sums)
    measures = [_measures(*each) for each in zip(sequences, sums.tolist(), strict=True)]
    return [
        Answer(item.task, item.id, pair_name(pair), correct, incorrect, item.group, item.labels)
        for (item, pair), correct, incorrect in zip(
            questions.asked, measures[::2], measures[1::2], strict=True
        )
    ]


def _check_finite(questions: Questions, sums: torch.Tensor) -> None:
    """Raise FloatingPointError if a log-likelihood is not finite: it would count as wrong."""
    broken = (~sums.isfinite()).any(1).nonzero().flatten().tolist()
    if broken:
        item, pair = questions.asked[broken[0] // 2]
        raise FloatingPointError(
            f"{len(broken)} of {len(sums)} log-likelihoods are not finite, first of {item.task} "
            f"{item.id} {pair_name(pair)}: the weights are damaged, or the model has diverged"
        )


def to_jsonl(answers: Iterable[Answer]) -> str:
    """Return the answers as JSON lines."""
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in answers)


def read_answers(folder: Path) -> Iterator[Answer]:
    """Yield the answers of a scored stage; ValueError if there are none, or for a damaged line."""
    path = folder / ANSWERS
    if not path.exists():
        raise ValueError(f"{path}: no such file; `tresse score` or the end of a stage writes it")
    with path.open("rb") as file:
        numbered = ((f"{path}:{number}", line) for number, line in enumerate(file, start=1))
        for where, record in parse_records(numbered):
            try:
                yield Answer(**record)
            except TypeError as error:
                raise ValueError(f"{where}: not an answer ({error}); score again") from None


@torch.no_grad()
def _log_likelihoods(
    model: nn.Module, sequences: list[TokenSequence], batch_tokens: int, ranks: Ranks
) -> torch.Tensor:
    """Return the log-likelihood of each full sequence and of each continuation, (n, 2) fp64."""
    num_prompt = torch.tensor([s.num_prompt for s in sequences], device=ranks.device)
    sums = torch.zeros(len(sequences), 2, dtype=torch.float64, device=ranks.device)
    for batch in padded_batches([s.tokens for s in sequences], batch_tokens, ranks, "answers"):
        losses = batch.losses(model)
        positions = torch.arange(1, batch.tokens.shape[1], device=ranks.device)
        ending = positions >= num_prompt[batch.indices, None]
        if batch.is_own:
            sums[batch.indices] = -torch.stack((losses.sum(1), (losses * ending).sum(1)), dim=1)
    return ranks.all_reduce(sums)


def _measures(sequence: TokenSequence, sums: Sequence[float]) -> dict[str, float]:
    num_full, num_continuation = sequence.num_scored
    full, continuation = sums
    values = (full, full / num_full, continuation, continuation / num_continuation)
    return dict(zip(MEASURES, values, strict=True))
