"""What generation writes: prompts with their continuations as a manifest of units, and details.

A line of the manifest is a document: the sentences of the prompt, `prompt_sentences` of them, then
the continuation. Nothing tells where sentences of a continuation end, so it is one sentence, or one
more after each switch token. Its line of details has the same key:

    {"key": "0001#0", "lang": "en", "prompt": "0001", "continuation": 0, "units": 125,
     "seconds": 10.0, "ended": "length", "switches": [61],
     "probabilities": {"switch": {"after_sentences": [0.02, 0.41], "mean": 0.008}}}

`continuing.py` says what the probabilities are. `switches` are the numbers of units of the
continuation before each switch token.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tresse.data.durable import replaced_file
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.text_table import format_table
from tresse.engine.generation.continuing import Continuation, Probabilities
from tresse.engine.run.typed_json import Record

CONTINUATIONS, DETAILS = "continuations.jsonl", "details.jsonl"
ENDS = {"eos": "ended", "length": "cut", "row": "filled a row"}
"""Columns that count the ends of continuations."""


@dataclass(frozen=True, slots=True)
class Said:
    """A prompt with one of its continuations."""

    prompt: Document
    number: int
    """Number of the continuation among those of the prompt."""
    continuation: Continuation
    after_sentences: Probabilities
    """Probabilities after each sentence of the prompt."""

    @property
    def key(self) -> str:
        """Key of the whole document."""
        return f"{self.prompt.key}#{self.number}"

    def document(self, num_units: int) -> Document:
        """Return prompt and continuation as one document; num_units: size of the vocabulary."""
        pieces: list[list[int]] = [[]]
        for token in self.continuation.tokens:
            if token < num_units:
                pieces[-1].append(token)
            else:
                pieces.append([])
        sentences = [np.asarray(sentence).tolist() for sentence in self.prompt.sentences]
        sentences += [piece for piece in pieces if piece]
        return Document(self.key, self.prompt.language, sentences, where=self.prompt.where)

    def record(self, num_units: int) -> Record:
        """Return the line of the manifest."""
        document = self.document(num_units)
        return {
            "key": document.key,
            "lang": document.language,
            "sentences": document.sentences,
            "prompt_sentences": len(self.prompt.sentences),
        }

    def details(self, tokenizer: Tokenizer) -> Record:
        """Return the line of details."""
        tokens = self.continuation.tokens
        places = [i for i, token in enumerate(tokens) if token >= tokenizer.vocab_size]
        num_units = len(tokens) - len(places)
        return {
            "key": self.key,
            "lang": self.prompt.language,
            "prompt": self.prompt.key,
            "continuation": self.number,
            "units": num_units,
            "seconds": round(tokenizer.hours(num_units) * 3600, 4),
            "ended": self.continuation.ended,
            "switches": [place - before for before, place in enumerate(places)],
            "probabilities": {
                name: {"after_sentences": self.after_sentences[name], "mean": mean}
                for name, mean in self.continuation.probabilities.items()
            },
        }


def write_output(folder: Path, said: Sequence[Said], tokenizer: Tokenizer) -> None:
    """Write both files into a folder."""
    _write_lines(folder / CONTINUATIONS, (each.record(tokenizer.vocab_size) for each in said))
    _write_lines(folder / DETAILS, (each.details(tokenizer) for each in said))


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    with replaced_file(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def count(said: Sequence[Said], tokenizer: Tokenizer) -> Record:
    """Return counts and mean probabilities by language, for the report of the job."""
    counts: Record = {}
    for language in sorted({each.prompt.language for each in said}):
        own = [each for each in said if each.prompt.language == language]
        details = [each.details(tokenizer) for each in own]
        counts[language] = {
            "prompts": len({each.prompt.key for each in own}),
            "continuations": len(own),
            "seconds": round(sum(each["seconds"] for each in details), 4),
            "ended": {end: sum(each["ended"] == end for each in details) for end in ENDS},
            "probabilities": _means([each["probabilities"] for each in details]),
        }
    return {"languages": counts}


def _means(found: Sequence[Record]) -> Record:
    """Return the means of probabilities right after prompts, and within continuations."""
    return {
        name: {
            "after_prompt": float(np.mean([each[name]["after_sentences"][-1] for each in found])),
            "within": float(np.mean([each[name]["mean"] for each in found])),
        }
        for name in found[0]
    }


def format_counts(counts: Record) -> str:
    """Return the counts of a report as a table, and the probabilities, if any, as another."""
    lines = [["language", "prompts", "continuations", "seconds", *ENDS.values()]]
    means = [["probability", "language", "after the prompt", "within"]]
    for language, own in counts["languages"].items():
        sizes = f"{own['prompts']:,}", f"{own['continuations']:,}", f"{own['seconds']:,.1f}"
        lines.append([language, *sizes, *(f"{own['ended'][end]:,}" for end in ENDS)])
        for name, mean in own["probabilities"].items():
            means.append([name, language, f"{mean['after_prompt']:.4f}", f"{mean['within']:.4f}"])
    header, *rest = means
    tables = [format_table(lines)]
    if rest:
        tables.append(format_table([header, *sorted(rest)], num_left=2))
    return "\n\n".join(tables)
