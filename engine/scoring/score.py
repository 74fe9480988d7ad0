"""Scores of a finished stage: cloze accuracies and the alignment of hidden states.

STAGE/scores.json      accuracies by task, pair and measure, also by the labels that items have;
                       cosine similarities by layer
STAGE/answers.jsonl    log-likelihoods of every item
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

from tresse.data.durable import write_text
from tresse.data.packing.settings import Packing, Vocabulary
from tresse.data.store.cloze import ITEMS, read_items
from tresse.data.store.corpus import Corpus
from tresse.engine.checkpoint import Checkpoint
from tresse.engine.finished import DTYPES, load_model, open_finished
from tresse.engine.model import Transformer
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.run_folder import Row
from tresse.engine.scoring.questions import (
    Accuracy,
    Questions,
    accuracies,
    ask,
    language_pairs,
    score_cloze,
    to_jsonl,
)
from tresse.engine.scoring.similarity import measure_alignment
from tresse.kernels.attention import Attend

ANSWERS, SCORES = "answers.jsonl", "scores.json"
# Tokens of a forward pass: scores are the same for any number of ranks, but not for other batches.
BATCH_TOKENS = 32_768


def read_questions(cloze: Corpus, packing: Packing, vocabulary: Vocabulary) -> Questions:
    """Ask a cloze corpus' items in all pairs of its languages, as a run's rows are made.

    A sequence begins with the token that a document is preceded by in training, if there is one.
    """
    if not (cloze.path / ITEMS).exists():
        raise ValueError(f"{cloze.path / ITEMS}: not there; a cloze corpus has its items beside it")
    prefixes = {"none": None, "eos": vocabulary.eos, "bos_eos": vocabulary.bos}
    return ask(
        cloze,
        read_items(cloze.path / ITEMS),
        pairs=language_pairs(cloze.languages),
        row_length=packing.row_length,
        prefix_token=prefixes[packing.separators],
        switch_token=vocabulary.switch if packing.language_switch else None,
    )


def score_stage(
    folder: Path, questions: Questions, valid: Corpus | None, ranks: Ranks, attend: Attend
) -> None:
    """Score the final weights of a stage, unless that is done; a collective."""
    path = folder / SCORES
    known = json.loads(path.read_bytes())["questions"] if path.exists() else None
    if ranks.any(known != questions.digest()):
        # One rank hashes the files, the others take its word.
        final = ranks.from_first(open_finished(folder).path if ranks.is_first else folder)
        score(Checkpoint(final), questions, valid, folder, ranks, attend)


def score(
    checkpoint: Checkpoint,
    questions: Questions,
    valid: Corpus | None,
    out: Path,
    ranks: Ranks,
    attend: Attend,
) -> None:
    """Score a checkpoint and write scores.json and answers.jsonl into `out`; a collective.

    valid: held-out documents whose translations are compared, if there are any.
    """
    dtype = DTYPES[checkpoint.config.sharding.precision]
    model = load_model(checkpoint, dtype, ranks.device, attend)
    items = score_cloze(model, questions, batch_tokens=BATCH_TOKENS, ranks=ranks)
    scores: Row = {
        "questions": questions.digest(),
        "tokens": checkpoint.state["tokens"],
        "cloze": [_cell(accuracy) for accuracy in accuracies(items)],
        "alignment": _alignments(model, valid, ranks) if valid else {},
    }
    if ranks.is_first:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / ANSWERS, to_jsonl(items))
        write_text(out / SCORES, json.dumps(scores, indent=2, allow_nan=False) + "\n")


def _cell(accuracy: Accuracy) -> Row:
    """Return an accuracy as JSON values; the error of a single item is not known."""
    cell: Row = {"task": accuracy.task, "pair": accuracy.pair} | asdict(accuracy)
    for mean in [cell, *(row for table in cell["by"].values() for row in table.values())]:
        mean["stderr"] = {k: None if math.isnan(v) else v for k, v in mean["stderr"].items()}
    return cell


def _alignments(model: Transformer, corpus: Corpus, ranks: Ranks) -> Row:
    """Compare the hidden states of translations, for each pair of languages that has some."""
    pairs = [(a, b) for a, b in language_pairs(corpus.languages) if a < b]
    measured = {
        f"{a}-{b}": measure_alignment(model, corpus, (a, b), batch_tokens=BATCH_TOKENS, ranks=ranks)
        for a, b in pairs
        if corpus.aligned_columns((a, b))[0].size > 1
    }
    return {name: asdict(alignment) for name, alignment in measured.items()}
