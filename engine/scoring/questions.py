"""Which of two endings does the model find more likely?

An item of a cloze set asks about two sequences, prompt + correct ending and prompt + incorrect
ending. One forward pass over both gives four measures of each: the log-likelihood summed over
tokens or averaged over them, of the full sequence or of the continuation (the ending) alone.
Without a prompt the two are the same. The score is 1 where the correct sequence measures higher,
1/2 at a tie, else 0; an accuracy is the mean score, where items of a group (one word in several
voices) first have a mean of their own, as ZeroSpeech has it.

Batches are a pure function of the sequences, so every number is the same for any count of ranks.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import xxhash
from torch import nn

from tresse.data.store.cloze import Item
from tresse.data.store.corpus import Corpus
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.labels import row_order, rows
from tresse.engine.scoring.padded import padded_batches
from tresse.kernels.cross_entropy import IGNORE_INDEX

MEASURES: tuple[str, ...] = ("sum_full", "mean_full", "sum_continuation", "mean_continuation")
MAX_NAMED = 10

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """What the model makes of one item in one pair of languages."""

    task: str
    id: str
    pair: str
    """`en`, or `en->fr` for an English prompt and French endings."""
    correct: dict[str, float]
    """Log-likelihood of the correct sequence in nats, by the four MEASURES."""
    incorrect: dict[str, float]
    """The same of the incorrect sequence."""
    group: str = ""
    """As of the item; so are the labels."""
    labels: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean score of some items."""

    num_items: int
    """The items of a group count as one."""
    accuracy: dict[str, float]
    """Mean score by the four MEASURES, in [0, 1]."""
    stderr: dict[str, float]
    """Its standard error: the scores' sample deviation over the root of their number."""


@dataclass(frozen=True, slots=True)
class Accuracy(Mean):
    """All items of a task in one pair of languages."""

    task: str
    pair: str
    by: dict[str, dict[str, Mean]]
    """Tables by the items' labels, such as voice or type, and the rows of each."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    tokens: np.ndarray  # int64; the first one is context
    num_prompt: int  # tokens before the ending, at least 1

    @property
    def num_scored(self) -> tuple[int, int]:
        """Scored tokens of the full sequence and of the continuation."""
        return len(self.tokens) - 1, len(self.tokens) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Questions:
    """Items in pairs of languages, checked, with the two sequences of each."""

    asked: list[tuple[Item, Pair]]
    sequences: list[_Sequence]
    """The correct and the incorrect sequence of every question, in turn."""

    def digest(self) -> str:
        """Hash of what is asked: equal for equal questions, sequences and measures."""
        state = xxhash.xxh3_64(repr((MEASURES, self.asked)).encode())
        for sequence in self.sequences:
            state.update(f"{sequence.num_prompt}/{len(sequence.tokens)}:".encode())
            state.update(sequence.tokens.tobytes())
        return state.hexdigest()


def language_pairs(languages: Iterable[str]) -> list[Pair]:
    """All pairs of a prompt's and an ending's language, those of one language first."""
    languages = list(languages)
    within = [(language, language) for language in languages]
    return within + [(a, b) for a in languages for b in languages if a != b]


def ask(
    corpus: Corpus,
    items: Iterable[Item],
    *,
    pairs: Sequence[Pair],
    row_length: int,
    prefix_token: int | None = None,
    switch_token: int | None = None,
) -> Questions:
    """Ask every item in every pair of (prompt's, ending's) language.

    An item is asked in pairs of its own languages, without a prompt in those of one language.
    row_length: longest input, in tokens, that the model is trained on. prefix_token: put before
    each sequence (bos or eos), so that its first token is scored; without one that token is
    context. switch_token: put between languages. Raises ValueError listing languages and documents
    that are missing and sequences that are too long or empty.
    """
    items = list(items)
    _check_languages(corpus, items)
    questions = [(item, pair) for pair in pairs for item in items if _has(item, pair)]
    documents = _read_documents(corpus, questions)
    sequences = [
        _join(documents, item, key, pair, prefix_token, switch_token)
        for item, pair in questions
        for key in (item.correct, item.incorrect)
    ]
    _check_lengths(questions, sequences, row_length)
    return Questions(questions, sequences)


def score_cloze(
    model: nn.Module, questions: Questions, *, batch_tokens: int, ranks: Ranks
) -> list[ItemScore]:
    """Score every question; a collective.

    model: a Transformer or an engine around one. batch_tokens: tokens of a forward pass on a rank.
    """
    sequences = questions.sequences
    sums = _log_likelihoods(model, sequences, batch_tokens, ranks)
    measures = [_measures(*each) for each in zip(sequences, sums.tolist(), strict=True)]
    return [
        ItemScore(item.task, item.id, _name(pair), correct, incorrect, item.group, item.labels)
        for (item, pair), correct, incorrect in zip(
            questions.asked, measures[::2], measures[1::2], strict=True
        )
    ]


def accuracies(scores: Iterable[ItemScore]) -> list[Accuracy]:
    """Mean scores per task and pair, in the order in which those appear."""
    groups: dict[tuple[str, str], list[ItemScore]] = {}
    for score in scores:
        groups.setdefault((score.task, score.pair), []).append(score)
    return [_accuracy(task, pair, group) for (task, pair), group in groups.items()]


def to_jsonl(scores: Iterable[ItemScore]) -> str:
    """JSON lines, one per item and pair, with the measures of both sequences."""
    return "".join(json.dumps(asdict(score), ensure_ascii=False) + "\n" for score in scores)


def _has(item: Item, pair: Pair) -> bool:
    """Whether an item is asked in a pair."""
    known = not item.languages or set(pair) <= set(item.languages)
    return known and (item.prompt is not None or pair[0] == pair[1])


def _check_languages(corpus: Corpus, items: Iterable[Item]) -> None:
    _raise_if_any(
        [
            f"{item.task} {item.id}: {language}"
            for item in items
            for language in item.languages
            if language not in corpus.languages
        ],
        f"items are in languages that {corpus.path} has not",
    )


def _read_documents(
    corpus: Corpus, questions: Iterable[tuple[Item, Pair]]
) -> dict[tuple[str, str], np.ndarray]:
    """Tokens of every document that is asked about, by language and key."""
    needed = {}
    for item, (prompt_language, ending_language) in questions:
        if item.prompt is not None:
            needed[prompt_language, item.prompt] = None
        needed |= {(ending_language, key): None for key in (item.correct, item.incorrect)}
    documents, missing = {}, []
    for language, key in needed:
        try:
            index = corpus.find(language, key)
        except ValueError as error:
            missing.append(str(error))
            continue
        sentences = corpus.document(language, index)
        documents[language, key] = np.concatenate(sentences).astype(np.int64)
    _raise_if_any(missing, "documents that items name are missing")
    return documents


def _join(
    documents: dict[tuple[str, str], np.ndarray],
    item: Item,
    ending: str,
    pair: Pair,
    prefix_token: int | None,
    switch_token: int | None,
) -> _Sequence:
    """Build the tokens of a sequence: prefix, prompt, switch, ending, each where there is one."""
    parts = [] if prefix_token is None else [np.array([prefix_token])]
    if item.prompt is not None:
        parts.append(documents[pair[0], item.prompt])
        if switch_token is not None and pair[0] != pair[1]:
            parts.append(np.array([switch_token]))
    num_prompt = max(1, sum(map(len, parts)))
    return _Sequence(np.concatenate([*parts, documents[pair[1], ending]]), num_prompt)


def _check_lengths(
    questions: list[tuple[Item, Pair]], sequences: list[_Sequence], row_length: int
) -> None:
    faults = []
    for index, sequence in enumerate(sequences):
        num_inputs, num_scored = len(sequence.tokens) - 1, sequence.num_scored[1]
        item, pair = questions[index // 2]
        name = f"{item.task} {item.id} {_name(pair)}, {('correct', 'incorrect')[index % 2]}"
        if num_inputs > row_length:
            faults.append(f"{name}: {num_inputs} tokens, the model knows rows of {row_length}")
        if num_scored < 1:
            faults.append(f"{name}: one token and nothing before it; score with a prefix token")
    _raise_if_any(faults, "sequences cannot be scored")


def _raise_if_any(faults: list[str], title: str) -> None:
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:MAX_NAMED])
        rest = f"\n  and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        raise ValueError(f"{len(faults)} {title}:{shown}{rest}")


@torch.no_grad()
def _log_likelihoods(
    model: nn.Module, sequences: list[_Sequence], batch_tokens: int, ranks: Ranks
) -> torch.Tensor:
    """Log-likelihood of each full sequence and of each continuation, (n, 2) fp64."""
    num_prompt = torch.tensor([s.num_prompt for s in sequences], device=ranks.device)
    sums = torch.zeros(len(sequences), 2, dtype=torch.float64, device=ranks.device)
    for batch in padded_batches([s.tokens for s in sequences], batch_tokens, ranks):
        labels = batch.tokens.masked_fill(~batch.inside(), IGNORE_INDEX)[:, 1:].contiguous()
        _, losses = model(batch.tokens[:, :-1].contiguous(), labels)
        losses = losses.double()
        positions = torch.arange(1, batch.tokens.shape[1], device=ranks.device)
        ending = positions >= num_prompt[batch.indices, None]
        if batch.is_own:
            sums[batch.indices] = -torch.stack((losses.sum(1), (losses * ending).sum(1)), dim=1)
    return ranks.all_reduce(sums)


def _measures(sequence: _Sequence, sums: Sequence[float]) -> dict[str, float]:
    num_full, num_continuation = sequence.num_scored
    full, continuation = sums
    values = (full, full / num_full, continuation, continuation / num_continuation)
    return dict(zip(MEASURES, values, strict=True))


def _accuracy(task: str, pair: str, scores: list[ItemScore]) -> Accuracy:
    values = np.array([[_value(score, measure) for measure in MEASURES] for score in scores])
    names = [f"group {s.group}" if s.group else f"item {i}" for i, s in enumerate(scores)]
    groups = np.unique(names, return_inverse=True)[1]
    tables: dict[str, dict[str, list[int]]] = {}
    for index, score in enumerate(scores):
        for table, row in rows(score.labels).items():
            tables.setdefault(table, {}).setdefault(row, []).append(index)
    by = {
        table: {
            row: _mean(values[own[row]], groups[own[row]]) for row in sorted(own, key=row_order)
        }
        for table, own in tables.items()
    }
    whole = _mean(values, groups)
    return Accuracy(whole.num_items, whole.accuracy, whole.stderr, task, pair, by)


def _value(score: ItemScore, measure: str) -> float:
    correct, incorrect = score.correct[measure], score.incorrect[measure]
    return 0.5 if correct == incorrect else float(correct > incorrect)


def _mean(values: np.ndarray, groups: np.ndarray) -> Mean:
    """Mean over groups of their means; values: [items, measures], groups: int64 [items]."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.zeros((sizes.size, values.shape[1]))
    np.add.at(means, group, values)
    means /= sizes[:, None]
    deviation = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(means.shape[1], math.nan)
    accuracy = dict(zip(MEASURES, means.mean(axis=0).tolist(), strict=True))
    stderr = dict(zip(MEASURES, (deviation / math.sqrt(len(means))).tolist(), strict=True))
    return Mean(len(means), accuracy, stderr)


def _name(pair: Pair) -> str:
    return pair[0] if pair[0] == pair[1] else "->".join(pair)
