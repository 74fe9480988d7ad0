"""The job that continues prompts: batch by batch, on one process or several, resumable.

    OUT/continuations.jsonl   every prompt with its continuation (`output.py`)
    OUT/details.jsonl         the end, the switches and the probabilities of each
    OUT/recordings.jsonl      with sound: a manifest of the files in OUT/audio

Every rank (RANK and WORLD_SIZE, which torchrun sets) continues its share of the batches.
`data/jobs.py` keeps finished batches in `{out}.parts`, and lets the rank that finds all of them
there write the output. Batches follow from the prompts and the settings alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import xxhash
from torch import Tensor
from tqdm import tqdm

from tresse.data.interrupt import Interrupt
from tresse.data.jobs import (
    PREPARED,
    Result,
    Results,
    find_output,
    parts_of,
    read_own,
    run_job,
    stop_if_asked,
    write_report,
)
from tresse.data.processes import rank, world_size
from tresse.data.speech.spoken_files import write_recordings
from tresse.data.store.documents import Document
from tresse.engine.checkpoint.state import State
from tresse.engine.generation.continuing import CHECK_EVERY, Continued, Continuer, Row
from tresse.engine.generation.layout import (
    Layout,
    PromptTokens,
    prompt_tokens,
    tags_of,
)
from tresse.engine.generation.output import (
    CONTINUATIONS,
    DETAILS,
    Said,
    Writing,
    count,
    format_counts,
    write_output,
)
from tresse.engine.generation.sampling import Sampling
from tresse.engine.generation.sounds import Decoder, list_sound, speech_of, write_sound
from tresse.engine.generation.stream import Stream
from tresse.engine.model import Transformer
from tresse.engine.run.typed_json import Record, from_json, to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """The number and the length of continuations."""

    continuations: int = 1
    """Number of continuations of each prompt."""
    max_seconds: float = 10.0
    """Largest length of a continuation in seconds, by the frame rate of the units."""
    max_units: int = 0
    """Largest length in units, tokens of text included; 0: the one in seconds decides."""
    batch: int = 16
    """Number of continuations that run at once."""

    def __post_init__(self) -> None:
        for name in ("continuations", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least 1")
        if not (0 < self.max_seconds < math.inf and self.max_units >= 0):
            raise ValueError(
                f"--max-seconds is {self.max_seconds} and --max-units {self.max_units}; expected a "
                "finite number above 0, and 0 or more"
            )

    def num_units(self, frame_rate: Fraction) -> int:
        """Return the largest number of new units, at least 1."""
        return self.max_units or max(1, math.floor(Fraction(self.max_seconds) * frame_rate))


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that are continued together."""

    prompts: list[int]
    """Numbers of the prompts among all."""
    rows: list[Row]
    """For each row the place of its prompt in `prompts`, and the number of its continuation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that the output depends on."""

    state: State
    """State of the checkpoint."""
    prompts: Sequence[Document]
    sampling: Sampling
    amount: Amount
    precision: str
    """Dtype of the computation, a key of DTYPES."""
    writing: Writing
    layouts: Mapping[str, Layout]
    """What stands around the prompts in each language."""
    decoder: Decoder | None = None
    """Writes the sound; None for units alone."""
    to: str = ""
    """Language that comes after the prompts; empty: their documents go on."""
    stream: bool = False
    """True to print each turn as soon as it is complete."""

    def __post_init__(self) -> None:
        if self.state.vocabulary.speech is None and not self.amount.max_units:
            raise ValueError("the model has no units, which --max-seconds counts; give --max-units")

    @property
    def frame_rate(self) -> Fraction:
        """Units in a second."""
        return Fraction(speech_of(self.state.vocabulary).frame_rate)

    @property
    def num_tokens(self) -> int:
        """Largest number of new tokens."""
        return self.amount.max_units or self.amount.num_units(self.frame_rate)

    def describe(self) -> Record:
        """Return all of it as JSON."""
        told = xxhash.xxh3_64()
        for prompt in self.prompts:
            sentences = [np.asarray(sentence).tolist() for sentence in prompt.sentences]
            told.update(repr((prompt.key, prompt.language, sentences)).encode())
        return {
            "format": "tresse-generate-job",
            "version": 2,
            "checkpoint": self.state.digest,
            "prompts": told.hexdigest(),
            "settings": asdict(self.sampling) | asdict(self.amount) | {"to": self.to},
            "precision": self.precision,
            "audio": self.decoder is not None,
        }


def generate(job: Job, model: Transformer, out: Path) -> str:
    """Continue this rank's batches; the last rank to finish writes `out`. Returns a report.

    model: that of `job.state`, on this rank's device. KeyboardInterrupt after a signal, within 16
    units. ValueError for a prompt that is too long, and for a folder with something else in it.
    """
    out, laid, described = out.resolve(), lay_out(job), job.describe()
    if (former := find_output(out, described)) is not None:
        return f"{out} was finished before\n\n{format_counts(former)}"
    batches, kept = make_batches([len(own.tokens) for own in laid], job.amount), parts_of(out)

    def work(todo: Sequence[int], interrupt: Interrupt) -> Results:
        with tqdm(
            total=sum(len(batches[number].rows) for number in todo),
            unit="continuation",
            desc="generate",
            disable=None if rank() == 0 else True,
        ) as bar:
            run = _runner(job, model, laid, interrupt)
            for number in todo:
                found = run(batches[number])
                if job.decoder is not None:
                    for document in _heard(job, _pair(job, batches[number], found)):
                        write_sound(kept, document, job.decoder)
                yield to_json(found)
                bar.update(len(batches[number].rows))

    def write(folder: Path, results: Iterator[Result]) -> None:
        folder.mkdir(parents=True)
        said = _collect(job, batches, results)
        write_output(folder, said, job.writing)
        if job.decoder is not None:
            records = (list_sound(each, job.frame_rate) for each in _heard(job, said))
            write_recordings(kept, folder, records, ascii_only=False)
        write_report(folder, described, count(said, job.writing))

    own = range(len(batches))[rank() :: world_size()]
    if reason := run_job(out, described, len(batches), own, work, write):
        return reason
    return f"wrote {out}: {CONTINUATIONS}, {DETAILS}\n\n{format_counts(read_own(out / PREPARED))}"


def lay_out(job: Job) -> list[PromptTokens]:
    """Return the tokens of all prompts; ValueError names one that leaves no room in a row."""
    packing = job.state.config.data.packing
    laid = [prompt_tokens(each, job.layouts[each.language], job.state) for each in job.prompts]
    for prompt, own in zip(job.prompts, laid, strict=True):
        if len(own.tokens) > packing.row_length:
            raise ValueError(
                f"{prompt.where}: a prompt of {len(own.tokens):,} tokens; the model was trained on "
                f"rows of {packing.row_length:,}: shorten it, for example with --sentences"
            )
    return laid


def make_batches(lengths: Sequence[int], amount: Amount) -> list[Batch]:
    """Return the batches of all continuations, those of the longest prompts first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows = list(product(order, range(amount.continuations)))
    batches = []
    for start in range(0, len(rows), amount.batch):
        own = rows[start : start + amount.batch]
        prompts = list(dict.fromkeys(prompt for prompt, _ in own))
        batches.append(Batch(prompts, [(prompts.index(prompt), n) for prompt, n in own]))
    return batches


def _runner(
    job: Job, model: Transformer, laid: Sequence[PromptTokens], interrupt: Interrupt
) -> Callable[[Batch], Continued]:
    """Return a function that continues a batch, and prints its turns if the job says so."""
    packing, vocabulary = job.state.config.data.packing, job.state.vocabulary
    stream = Stream(job.writing, vocabulary.specials(packing).eos) if job.stream else None

    def proceed(tokens: Tensor) -> None:
        stop_if_asked(interrupt)
        if stream is not None:
            stream.show(tokens)

    continuer = Continuer(
        model,
        vocabulary,
        packing,
        job.sampling,
        job.num_tokens,
        proceed,
        tags_of(job.state),
        1 if job.stream else CHECK_EVERY,
    )

    def run(batch: Batch) -> Continued:
        prompts = [laid[i] for i in batch.prompts]
        if stream is not None:
            own = [(job.prompts[batch.prompts[i]], number) for i, number in batch.rows]
            stream.begin(own, [continuer.limit(prompts[i]) for i, _ in batch.rows])
        found = continuer.run(prompts, batch.rows)
        if stream is not None:
            stream.end(found.continuations)
        return found

    return run


def _pair(job: Job, batch: Batch, found: Continued) -> Iterator[Said]:
    """Yield the continuations of a batch, each with its prompt."""
    for (place, number), continuation in zip(batch.rows, found.continuations, strict=True):
        prompt, after = job.prompts[batch.prompts[place]], found.after_sentences[place]
        yield Said(prompt, number, continuation, after)


def _heard(job: Job, said: Iterable[Said]) -> Iterator[Document]:
    """Yield the units of continuations that have any."""
    documents = (each.document(job.writing) for each in said)
    return (document for document in documents if document.sentences)


def _collect(job: Job, batches: Sequence[Batch], results: Iterator[Result]) -> list[Said]:
    """Return all continuations in the order of the prompts."""
    places = {id(prompt): place for place, prompt in enumerate(job.prompts)}
    said = [
        each
        for batch, result in zip(batches, results, strict=True)
        for each in _pair(job, batch, from_json(Continued, result))
    ]
    return sorted(said, key=lambda each: (places[id(each.prompt)], each.number))
