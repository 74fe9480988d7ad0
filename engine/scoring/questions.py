"""The questions of a cloze set: which of two endings is the correct one?

An item of the set is asked in pairs of languages, of the prompt and of the endings. Each question
has two sequences: prompt + correct ending and prompt + incorrect ending. An answer holds the
log-likelihoods of both sequences by four measures: summed over tokens or averaged over them, of the
full sequence or of the continuation (the ending). Without a prompt the continuation is everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import xxhash

from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.cloze import ITEMS, Item, read_items
from tresse.data.store.corpus import Corpus

MEASURES: tuple[str, ...] = ("sum_full", "mean_full", "sum_continuation", "mean_continuation")
MAX_NAMED = 10

Pair = tuple[str, str]
"""Languages of the prompt and of the endings."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one question."""

    task: str
    id: str
    pair: str
    """`en`, or `en->fr` for an English prompt and French endings."""
    correct: dict[str, float]
    """Log-likelihood of the correct sequence in nats, by the four MEASURES."""
    incorrect: dict[str, float]
    """Log-likelihood of the incorrect sequence in nats, by the four MEASURES."""
    group: str = ""
    """Group of the item."""
    labels: Mapping[str, str | int] = field(default_factory=dict)
    """Labels of the item."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt and one of its endings."""

    tokens: np.ndarray
    """int64; the first token is context and is not scored."""
    num_prompt: int
    """Number of tokens before the ending, at least 1."""

    @property
    def num_scored(self) -> tuple[int, int]:
        """Number of scored tokens of the full sequence and of the continuation."""
        return len(self.tokens) - 1, len(self.tokens) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Questions:
    """Checked questions with their sequences."""

    asked: list[tuple[Item, Pair]]
    sequences: list[TokenSequence]
    """The correct and the incorrect sequence of each question, in turn."""
    num_truncated: int = 0
    """Number of sequences whose prompt was too long and lost its start."""

    def subset(self, num_items: int) -> "Questions":
        """Return the questions of `num_items` items of each task, in all their pairs of languages.

        They are drawn by a hash of their names, so that they stay the same. A group counts as one
        item.
        """
        names: dict[str, set[str]] = {}
        for item, _ in self.asked:
            names.setdefault(item.task, set()).add(item.group or item.id)
        drawn = {task: set(sorted(own, key=_hash)[:num_items]) for task, own in names.items()}
        kept = [
            number
            for number, (item, _) in enumerate(self.asked)
            if (item.group or item.id) in drawn[item.task]
        ]
        sequences = [each for k in kept for each in self.sequences[2 * k : 2 * k + 2]]
        return Questions([self.asked[k] for k in kept], sequences)

    def digest(self) -> str:
        """Return a hash that is equal for equal questions, sequences and measures."""
        state = xxhash.xxh3_64(repr((MEASURES, self.asked)).encode())
        for sequence in self.sequences:
            state.update(f"{sequence.num_prompt}/{len(sequence.tokens)}:".encode())
            state.update(sequence.tokens.tobytes())
        return state.hexdigest()


Truncate = Literal["", "left"]
"""What to do at a prompt that is too long: an error, or cut off its start."""


def read_questions(
    cloze: Corpus, packing: Packing, vocabulary: Vocabulary, truncate_prompt: Truncate = ""
) -> Questions:
    """Ask the items of a cloze corpus in all pairs of its languages, packed as in training.

    A sequence begins with the token that precedes a document in training, if there is one.
    """
    if not (cloze.path / ITEMS).exists():
        raise ValueError(
            f"{cloze.path / ITEMS}: no such file; a cloze corpus lists its items there"
        )
    specials = vocabulary.specials(packing)
    return ask(
        cloze,
        read_items(cloze.path / ITEMS),
        vocabulary,
        pairs=language_pairs(cloze.languages),
        row_length=packing.row_length,
        prefix_token=specials.before_document,
        switch_token=specials.switch,
        truncate_prompt=truncate_prompt,
    )


def language_pairs(languages: Iterable[str]) -> list[Pair]:
    """Return all pairs of languages, those of one language twice first."""
    languages = list(languages)
    within = [(language, language) for language in languages]
    return within + [(a, b) for a in languages for b in languages if a != b]


def ask(
    corpus: Corpus,
    items: Iterable[Item],
    vocabulary: Vocabulary,
    *,
    pairs: Sequence[Pair],
    row_length: int,
    prefix_token: int | None = None,
    switch_token: int | None = None,
    truncate_prompt: Truncate = "",
) -> Questions:
    """Ask every item in every pair of languages that it has.

    An item without a prompt is asked only in pairs of one language twice.
    row_length: longest input in tokens, as in training. prefix_token: token before each sequence
    (bos or eos), so that the first unit is scored; without it the first unit is only context.
    switch_token: token between a prompt and an ending in different languages. truncate_prompt:
    "left" cuts off the start of a prompt that is too long. ValueError lists missing languages,
    missing documents, and sequences that are too long or empty.
    """
    items = list(items)
    _check_languages(corpus, items)
    questions = [(item, pair) for pair in pairs for item in items if _has(item, pair)]
    documents = _read_documents(corpus, vocabulary, questions)
    whole = [
        _join(documents, item, key, pair, prefix_token, switch_token)
        for item, pair in questions
        for key in (item.correct, item.incorrect)
    ]
    sequences = whole
    if truncate_prompt == "left":
        keep = 0 if prefix_token is None else 1
        sequences = [_truncated(sequence, row_length, keep) for sequence in whole]
    _check_lengths(questions, sequences, row_length)
    num_truncated = sum(
        len(a.tokens) > len(b.tokens) for a, b in zip(whole, sequences, strict=True)
    )
    return Questions(questions, sequences, num_truncated)


def pair_name(pair: Pair) -> str:
    """Return the name of a pair of languages: `en` or `en->fr`."""
    return pair[0] if pair[0] == pair[1] else "->".join(pair)


def _hash(name: str) -> bytes:
    return xxhash.xxh3_64_digest(name.encode())


def _has(item: Item, pair: Pair) -> bool:
    """Return whether an item is asked in a pair."""
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
        f"items are in languages that {corpus.path} does not have",
    )


def _read_documents(
    corpus: Corpus, vocabulary: Vocabulary, questions: Iterable[tuple[Item, Pair]]
) -> dict[tuple[str, str], np.ndarray]:
    """Return the ids of every document in the questions, by language and key."""
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
        documents[language, key] = np.concatenate(vocabulary.sentences(corpus, language, index))
    _raise_if_any(missing, "documents that items name are missing")
    return documents


def _join(
    documents: dict[tuple[str, str], np.ndarray],
    item: Item,
    ending: str,
    pair: Pair,
    prefix_token: int | None,
    switch_token: int | None,
) -> TokenSequence:
    prompt = None if item.prompt is None else documents[pair[0], item.prompt]
    switch = switch_token if pair[0] != pair[1] else None
    return join(prefix_token, prompt, switch, documents[pair[1], ending])


def join(
    prefix_token: int | None,
    prompt: np.ndarray | None,
    switch_token: int | None,
    ending: np.ndarray,
) -> TokenSequence:
    """Join prefix, prompt, switch and ending; all but the ending are optional.

    Without a prompt there is no switch. Without anything before it the first token of the ending is
    context.
    """
    parts = [] if prefix_token is None else [np.array([prefix_token])]
    if prompt is not None:
        parts.append(prompt)
        parts += [] if switch_token is None else [np.array([switch_token])]
    num_prompt = max(1, sum(map(len, parts)))
    return TokenSequence(np.concatenate([*parts, ending]), num_prompt)


def _truncated(sequence: TokenSequence, row_length: int, keep: int) -> TokenSequence:
    """Return a sequence that fits, without the tokens after the first `keep` ones of its prompt."""
    excess = min(len(sequence.tokens) - 1 - row_length, sequence.num_prompt - keep - 1)
    if excess <= 0:
        return sequence
    tokens = np.concatenate([sequence.tokens[:keep], sequence.tokens[keep + excess :]])
    return TokenSequence(tokens, sequence.num_prompt - excess)


def _check_lengths(
    questions: list[tuple[Item, Pair]], sequences: list[TokenSequence], row_length: int
) -> None:
    faults, long = [], 0
    for index, sequence in enumerate(sequences):
        num_inputs, num_scored = len(sequence.tokens) - 1, sequence.num_scored[1]
        item, pair = questions[index // 2]
        name = f"{item.task} {item.id} {pair_name(pair)}, {('correct', 'incorrect')[index % 2]}"
        if num_inputs > row_length:
            faults.append(f"{name}: {num_inputs} tokens, the model takes at most {row_length}")
            long += 1
        if num_scored < 1:
            faults.append(f"{name}: one token and nothing before it; score with a prefix token")
    hint = f"{long} are too long: --truncate-prompt left cuts off the start of their prompts"
    _raise_if_any(faults, "sequences cannot be scored", hint if long else "")


def _raise_if_any(faults: list[str], title: str, hint: str = "") -> None:
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:MAX_NAMED])
        rest = f"\n  and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        hint = f"\n{hint}" if hint else ""
        raise ValueError(f"{len(faults)} {title}:{shown}{rest}{hint}")
