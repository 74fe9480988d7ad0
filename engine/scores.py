"""Scores of a finished stage: cloze accuracies and the alignment of hidden states.

STAGE/scores.json    accuracies by task, pair and measure; cosine similarity by layer
STAGE/items.jsonl    log-likelihoods of every item
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from tresse.engine.alignment import measure_alignment
from tresse.engine.checkpoint import Checkpoint
from tresse.engine.corpora import Corpora
from tresse.engine.model import Transformer
from tresse.engine.ranks import Ranks
from tresse.engine.run_folder import Row, write_text
from tresse.engine.scoring import accuracies, language_pairs, score_cloze, write_scores
from tresse.engine.stage import final_checkpoint

SCORES = "scores.json"
# Tokens of a forward pass: scores are the same for any number of ranks, but not for other batches.
BATCH_TOKENS = 32_768


def score_stage(folder: Path, corpora: Corpora, ranks: Ranks) -> None:
    """Score the final weights of a stage once; a collective. Without a cloze corpus: nothing."""
    if corpora.cloze is None or ranks.any((folder / SCORES).exists()):
        return
    checkpoint = final_checkpoint(folder)
    assert checkpoint is not None, f"{folder} is not finished"
    model = load_model(checkpoint, ranks.device)
    packing, vocabulary = checkpoint.config.data.packing, checkpoint.vocabulary
    prefixes = {"none": None, "eos": vocabulary.eos, "bos_eos": vocabulary.bos}
    items = score_cloze(
        model,
        corpora.cloze,
        corpora.items,
        pairs=language_pairs(corpora.cloze.languages),
        row_length=packing.row_length,
        batch_tokens=BATCH_TOKENS,
        ranks=ranks,
        prefix_token=prefixes[packing.separators],
        switch_token=vocabulary.switch if packing.language_switch else None,
    )
    scores: Row = {
        "tokens": checkpoint.state["tokens"],
        "cloze": [asdict(accuracy) for accuracy in accuracies(items)],
        "alignment": _alignments(model, corpora, ranks),
    }
    if ranks.is_first:
        write_scores(folder / "items.jsonl", items)
        write_text(folder / SCORES, json.dumps(scores, indent=2) + "\n")


def load_model(checkpoint: Checkpoint, device: torch.device) -> Transformer:
    """Build the model with a checkpoint's weights, whole, in the compute dtype."""
    run, vocabulary = checkpoint.config, checkpoint.vocabulary
    model = Transformer(run.model, vocabulary.width, vocabulary.num_used)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.weight(name, model))
    dtype = torch.bfloat16 if run.sharding.precision == "bf16" else torch.float32
    return model.to(device, dtype).eval()


def _alignments(model: Transformer, corpora: Corpora, ranks: Ranks) -> Row:
    """Compare the hidden states of translations among the held-out documents, by language pair."""
    corpus = corpora.valid
    pairs = language_pairs(corpus.languages)[len(corpus.languages) :] if corpus else []
    return {
        f"{a}-{b}": asdict(
            measure_alignment(model, corpus, (a, b), batch_tokens=BATCH_TOKENS, ranks=ranks)
        )
        for a, b in pairs
        if corpus and a < b and len(corpus.aligned((a, b)))
    }
