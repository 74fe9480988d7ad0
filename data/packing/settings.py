"""Settings of the packer: the streams that a stage reads, and the rows made of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Mode = Literal["mono", "alternate", "sample"]
Unit = Literal["sentence", "words", "document"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """Fixed tokens around each stretch of a language: names of tags and, with text, any text."""

    language: str
    """The language; a stretch of it is what lies between changes of language."""
    before: str = ""
    """Stands before a stretch, such as `<asr>` or `Say it in French: `."""
    after: str = ""
    """Stands after a stretch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Documents in one or several languages, as one sequence of tokens."""

    languages: tuple[str, ...]
    """Languages of the corpus: one for mode `mono`, two or more that share keys for the others."""
    mode: Mode = "mono"
    """`mono`: documents of one language.
    `alternate`: each unit in every language, before the next unit.
    `sample`: each unit in one language, which is drawn again every epoch."""
    unit: Unit = "sentence"
    """Piece of a document that is alternated or drawn. `sentence`: a sentence.
    `words`: some words of a sentence, which has equally many in all languages.
    `document`: the whole document."""
    words: tuple[int, int] = (1, 1)
    """Least and greatest number of words in a unit of `words`, drawn for each unit. The last unit
    of a sentence may have fewer."""
    given: tuple[str, ...] = ()
    """Languages whose documents with the same key stand whole before those of `languages`."""
    loss_on: tuple[str, ...] = ()
    """Languages whose tokens are targets; by default all. Tokens of a template, separators and
    switch tokens count as the token before them; at the start of a document they do not."""
    templates: tuple[Template, ...] = ()
    """Fixed tokens around the stretches of some languages."""
    weight: float = 1.0
    """Share of the stage's targets, relative to the weights of the other streams."""
    probabilities: tuple[float, ...] = ()
    """Probability of each language in mode `sample`; they sum to 1.
    If empty or all equal, L languages take turns: in L epochs a sentence is used once in each."""
    language_order: Literal["fixed", "random"] = "random"
    """Order of the languages in mode `alternate`.
    `fixed`: the order of `languages`. `random`: drawn for each document in each epoch."""

    def __post_init__(self) -> None:
        what = f"stream of {', '.join(self.languages) or 'no language'}"
        if self.mode not in ("mono", "alternate", "sample"):
            raise ValueError(f"{what}: mode is {self.mode!r}, not mono, alternate or sample")
        if self.language_order not in ("fixed", "random"):
            raise ValueError(
                f"{what}: language_order is {self.language_order!r}, not fixed or random"
            )
        if self.mode == "mono" and len(self.languages) != 1:
            raise ValueError(f"{what}: mono takes one language, alternate and sample several")
        if self.mode != "mono" and len(self.languages) < 2:
            raise ValueError(f"{what}: {self.mode} takes two or more languages, mono one")
        if len(set(self.all_languages)) < len(self.all_languages):
            raise ValueError(f"{what}: a language is named twice")
        self._check_units(what)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"{what}: weight is {self.weight}, expected a finite number above 0")
        self._check_probabilities(what)

    def _check_units(self, what: str) -> None:
        if self.unit not in ("sentence", "words", "document"):
            raise ValueError(f"{what}: unit is {self.unit!r}, not sentence, words or document")
        if self.mode == "mono" and self.unit != "sentence":
            raise ValueError(f"{what}: mode mono takes whole documents, without a unit")
        least, most = self.words
        if not 1 <= least <= most:
            raise ValueError(f"{what}: words are {self.words}, expected 1 <= least <= most")
        if self.unit != "words" and self.words != (1, 1):
            raise ValueError(f"{what}: words are for unit words, the unit is {self.unit}")
        styled = tuple(template.language for template in self.templates)
        for name, named in (("loss_on", self.loss_on), ("templates", styled)):
            for language in named:
                if language not in self.all_languages or named.count(language) > 1:
                    raise ValueError(
                        f"{what}: {name} has {language!r}; expected languages of the stream, each "
                        f"once: {', '.join(self.all_languages)}"
                    )

    def _check_probabilities(self, what: str) -> None:
        given = self.probabilities
        if not given:
            return
        if self.mode != "sample":
            raise ValueError(f"{what}: probabilities are for mode sample, the mode is {self.mode}")
        if len(given) != len(self.languages):
            raise ValueError(
                f"{what}: {len(given)} probabilities for {len(self.languages)} languages"
            )
        if not all(0 <= p <= 1 for p in given) or abs(sum(given) - 1) > 1e-6:
            raise ValueError(f"{what}: probabilities {given} must be in [0, 1] and sum to 1")

    @property
    def all_languages(self) -> tuple[str, ...]:
        """The given languages, then the others."""
        return (*self.given, *self.languages)

    @property
    def name(self) -> str:
        """Languages and mode, as a user reads them."""
        before = f"{'+'.join(self.given)} then " if self.given else ""
        by = f" by {self.unit}" if self.unit != "sentence" else ""
        return f"{before}{'+'.join(self.languages)} {self.mode}{by}"

    @property
    def is_uniform(self) -> bool:
        """True if every language has the same probability."""
        return len(set(self.probabilities)) <= 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """The way from a stream of documents to rows."""

    row_length: int = 2048
    """Number of input tokens in a row, T."""
    mode: Literal["concat", "best_fit"] = "concat"
    """`concat`: rows are consecutive windows of the stream; nothing is padded or dropped.
    `best_fit`: rows hold whole documents and padding; only documents longer than a row are cut.
    It packs 4,096 documents at a time by best-fit decreasing."""
    separators: Literal["none", "eos", "bos_eos"] = "none"
    """Special tokens around each document. `eos`: one after it. `bos_eos`: one on each side."""
    language_switch: bool = False
    """Insert a special token where the language changes within a document."""
    mask_documents: bool = False
    """Attend only within a document. Labels that start a document then do not count."""
    tags: tuple[str, ...] = ()
    """Names of further special tokens, which the templates of streams use, such as `<asr>`."""

    def __post_init__(self) -> None:
        if self.row_length < 1:
            raise ValueError(f"row_length is {self.row_length}, expected at least 1")
        if self.mode not in ("concat", "best_fit"):
            raise ValueError(f"packing mode is {self.mode!r}, not concat or best_fit")
        if self.separators not in ("none", "eos", "bos_eos"):
            raise ValueError(f"separators is {self.separators!r}, not none, eos or bos_eos")
        for tag in self.tags:
            if not tag or self.tags.count(tag) > 1:
                raise ValueError(f"tag {tag!r}: expected names that are not empty, each once")

    @property
    def uses_specials(self) -> bool:
        """True if any special token is inserted."""
        return self.separators != "none" or self.language_switch


def split_targets(tokens: int, streams: Sequence[Stream]) -> list[int]:
    """Share `tokens` by the streams' weights; the shares sum to `tokens`.

    Among the first k + 1 streams, the first k together get their share rounded down. Weights are
    exact decimal numbers, as the user wrote them. ValueError for a share below one.
    """
    if not streams:
        raise ValueError("a stage needs at least one stream")
    weights = [Fraction(repr(float(stream.weight))) for stream in streams]
    shares = []
    for k in range(len(streams) - 1, 0, -1):
        before = math.floor(tokens * sum(weights[:k]) / sum(weights[: k + 1]))
        shares.append(tokens - before)
        tokens = before
    shares.append(tokens)
    for stream, share in zip(streams, reversed(shares), strict=True):
        if share < 1:
            raise ValueError(
                f"stream of {', '.join(stream.languages)}: weight {stream.weight} leaves it "
                f"{share} targets; raise the stage's tokens or the weight"
            )
    return shares[::-1]


def thresholds(stream: Stream) -> list[int]:
    """Return cumulative probabilities times 2^64 without the last; empty for uniform draws."""
    if stream.is_uniform:
        return []
    exact = [Fraction(repr(float(p))) for p in stream.probabilities]
    cumulative = [sum(exact[:k]) for k in range(1, len(exact))]
    return [min(math.floor(c * 2**64 / sum(exact)), 2**64 - 1) for c in cumulative]
