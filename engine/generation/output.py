"""What generation writes: prompts with their continuations, and details.

Of a model of units it is a manifest, a document a line: the sentences of the prompt,
`prompt_sentences` of them, then the continuation. Nothing tells where sentences of a continuation
end, so it is one sentence, or one more after each special token. Of a model with text a line has
the turns of both:

    {"key": "0001#0", "lang": "en-question-text", "prompt": [{"text": "Who came?"}],
     "turns": [{"text": "Anna"}, {"token": "<switch>"}, {"units": [12, 907]}]}

The line of details has the same key:

    {"key": "0001#0", "lang": "en", "prompt": "0001", "continuation": 0, "units": 125,
     "seconds": 10.0, "ended": "length", "switches": [61],
     "probabilities": {"switch": {"after_sentences": [0.02, 0.41], "mean": 0.008}}}

`continuing.py` says what the probabilities are. `switches` are the numbers of units of the
continuation before each switch token. Details of a model with text have `text_tokens` too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tresse.data.durable import replaced_file
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.data.text_table import format_table
from tresse.engine.generation.continuing import Continuation, Probabilities
from tresse.engine.generation.turns import Teller, Turn, split_turns, units_of
from tresse.engine.run.typed_json import Record

CONTINUATIONS, DETAILS = "continuations.jsonl", "details.jsonl"
SWITCH = "<switch>"
ENDS = {"eos": "ended", "length": "cut", "row": "filled a row"}
"""Columns that count the ends of continuations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """What it takes to write ids as units and texts."""

    vocabulary: Vocabulary
    tokenizers: Mapping[str, Tokenizer]
    """The tokenizer of each language."""
    text: Any = None
    """The tokenizer of the texts, of the tokenizers package; None for a model without text."""

    @property
    def has_text(self) -> bool:
        """True if the model has text."""
        return self.vocabulary.text is not None


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
        return continuation_key(self.prompt, self.number)

    def turns(self, writing: Writing) -> list[Turn]:
        """Return the turns of the continuation."""
        return split_turns(self.continuation.tokens, writing.vocabulary)

    def document(self, writing: Writing) -> Document:
        """Return the units of prompt and continuation as one document."""
        prompt = [np.asarray(sentence).tolist() for sentence in self.prompt.sentences]
        if writing.tokenizers[self.prompt.language].is_text:
            prompt = units_of(prompt_turns(self.prompt, writing))
        sentences = prompt + units_of(self.turns(writing))
        return Document(self.key, self.prompt.language, sentences, where=self.prompt.where)

    def record(self, writing: Writing) -> Record:
        """Return the line of the continuation."""
        record: Record = {"key": self.key, "lang": self.prompt.language}
        if not writing.has_text:
            record["sentences"] = self.document(writing).sentences
            return record | {"prompt_sentences": len(self.prompt.sentences)}
        prompt, turns = prompt_turns(self.prompt, writing), self.turns(writing)
        tell = Teller(writing.vocabulary, writing.text)
        return record | {"prompt": [*map(tell, prompt)], "turns": [*map(tell, turns)]}

    def details(self, writing: Writing) -> Record:
        """Return the line of details."""
        turns, speech = self.turns(writing), writing.vocabulary.speech
        ends = np.cumsum([len(turn.ids) * (turn.kind == "units") for turn in turns]).tolist()
        num_units = ends[-1] if ends else 0
        names = writing.vocabulary.special_names
        record = {
            "key": self.key,
            "lang": self.prompt.language,
            "prompt": self.prompt.key,
            "continuation": self.number,
            "units": num_units,
            "seconds": round(speech.hours(num_units) * 3600, 4) if speech else 0.0,
            "ended": self.continuation.ended,
            "switches": [
                end
                for turn, end in zip(turns, ends, strict=True)
                if turn.kind == "token" and names[turn.ids[0]] == SWITCH
            ],
            "probabilities": {
                name: {"after_sentences": self.after_sentences[name], "mean": mean}
                for name, mean in self.continuation.probabilities.items()
            },
        }
        if writing.has_text:
            record["text_tokens"] = sum(len(turn.ids) for turn in turns if turn.kind == "text")
        return record


def continuation_key(prompt: Document, number: int) -> str:
    """Return the key of a prompt with one of its continuations."""
    return f"{prompt.key}#{number}"


def prompt_turns(prompt: Document, writing: Writing) -> list[Turn]:
    """Return the turns of a prompt, of which those of its continuation go on."""
    first = writing.vocabulary.first_id(writing.tokenizers[prompt.language])
    ids = np.concatenate(prompt.sentences).astype(np.int64) + first
    return split_turns(ids.tolist(), writing.vocabulary)


def write_output(folder: Path, said: Sequence[Said], writing: Writing) -> None:
    """Write both files into a folder."""
    _write_lines(folder / CONTINUATIONS, (each.record(writing) for each in said))
    _write_lines(folder / DETAILS, (each.details(writing) for each in said))


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    with replaced_file(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def count(said: Sequence[Said], writing: Writing) -> Record:
    """Return counts and mean probabilities by language, for the report of the job."""
    counts: Record = {}
    for language in sorted({each.prompt.language for each in said}):
        own = [each for each in said if each.prompt.language == language]
        details = [each.details(writing) for each in own]
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
