"""Tokens per second of the packer against a memcpy of the same bytes, mode by mode.

The corpus has stories of 100 to 800 tokens in two languages, in sentences of 45 tokens and ten
words on average; it is written once into `--corpus`. A batch is [75, 2049] uint16, in one
page-aligned buffer for all variants. "memcpy" reads the corpus from end to end. "blocks" copies
blocks of 450 tokens, the mean document, in random order: the best that a shuffled epoch can reach
without looking ahead. "copies of" lists the places of the tokens, for a gather on the device; its
bytes are those of the list. Variants take turns within a pass, so that a drift of the machine
affects all alike.

    python bench/packer.py --json bench/results/packer.json
"""

import mmap
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from tresse.bench.records import quantiles, write_records
from tresse.data.packing.packer import Plan, plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer

B, T = 75, 2048
BLOCK, WORDS = 450, 10
EN = Stream(languages=("en",))
VARIANTS = {
    "mono": (EN, Packing()),
    "alternate": (Stream(languages=("en", "fr"), mode="alternate"), Packing()),
    "sample": (Stream(languages=("en", "fr"), mode="sample"), Packing()),
    "sample, 2-5 words": (
        Stream(languages=("en", "fr"), mode="sample", unit="words", words=(2, 5)), Packing()
    ),
    "sample, 5-30 words": (
        Stream(languages=("en", "fr"), mode="sample", unit="words", words=(5, 30)), Packing()
    ),
    "mono, best_fit": (EN, Packing(mode="best_fit")),
    "alternate, best_fit": (
        Stream(languages=("en", "fr"), mode="alternate"), Packing(mode="best_fit")
    ),
    "alternate, eos, switch, mask": (
        Stream(languages=("en", "fr"), mode="alternate"),
        Packing(separators="eos", language_switch=True, mask_documents=True),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes of the benchmark."""

    tokens: int = 200_000_000
    """Tokens of the synthetic corpus, both languages together; 1,000,000 or more."""
    passes: int = 9
    """Number of measurements of each variant."""
    batches: int = 200
    """Number of batches in a measurement."""
    corpus: str = ""
    """Folder that keeps the synthetic corpus for later runs; empty: a temporary folder."""
    json: str = ""
    """File for the results; empty: none."""

    def __post_init__(self) -> None:
        if self.tokens < 1_000_000:
            raise ValueError(f"tokens is {self.tokens}, expected 1,000,000 or more")


def stories(tokens: int) -> Iterator[Document]:
    """Yield stories in two languages, of 100 to 800 tokens in sentences of ten words."""
    rng = np.random.default_rng(0)
    num_stories = max(tokens // 2 // 450, 1)
    for i in tqdm(range(num_stories), unit="story", desc="corpus", disable=None):
        num_sentences = max(int(rng.integers(100, 801)) // 45, 1)
        for language in ("en", "fr"):
            lengths = rng.integers(20, 71, num_sentences)
            units = rng.integers(0, 2048, lengths.sum(), dtype=np.uint16)
            words = [[n * length // WORDS for n in range(WORDS)] for length in lengths.tolist()]
            sentences = np.split(units, np.cumsum(lengths)[:-1])
            yield Document(f"story {i}", language, sentences, words)


def open_corpus(folder: Path, tokens: int) -> Corpus:
    """Open the corpus, and write it first where it does not exist."""
    if (folder / "corpus.json").exists():
        return Corpus.open(folder)
    return write_corpus(folder, stories(tokens), Tokenizer("synthetic", "", "25/2", 2048))


def page_aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Allocate zeros at the start of a page: copies elsewhere can be several times slower."""
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)[:num_bytes].view(dtype).reshape(shape)


class Copy:
    """The baseline: numpy copies consecutive tokens of the corpus."""

    def __init__(self, corpus: Corpus, buffer: np.ndarray) -> None:
        self.source, self.buffer, self.next = corpus.shards["en"][0].tokens, buffer.reshape(-1), 0

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            if self.next + self.buffer.size > self.source.size:
                self.next = 0
            np.copyto(self.buffer, self.source[self.next : self.next + self.buffer.size])
            self.next += self.buffer.size


class CopyBlocks:
    """numpy copies blocks of the corpus in a random order that is drawn beforehand."""

    def __init__(self, corpus: Corpus, buffer: np.ndarray) -> None:
        tokens = corpus.shards["en"][0].tokens
        self.source = tokens[: tokens.size // BLOCK * BLOCK].reshape(-1, BLOCK)
        num_blocks = buffer.size // BLOCK
        self.out = buffer.reshape(-1)[: num_blocks * BLOCK].reshape(num_blocks, BLOCK)
        order = np.random.default_rng(0).permutation(len(self.source))
        self.orders = order[: order.size // num_blocks * num_blocks].reshape(-1, num_blocks)
        self.next = 0

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            order = self.orders[self.next % len(self.orders)]
            np.take(self.source, order, axis=0, out=self.out, mode="clip")
            self.next += 1


class Pack:
    """The packer fills consecutive batches of a plan."""

    def __init__(self, plan: Plan, buffer: np.ndarray, threads: int) -> None:
        self.plan, self.threads, self.next_row = plan, threads, 0
        counts = page_aligned((B,), np.int32)
        self.memory = {2: buffer, 1: counts}

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self.plan.fill(
                self.next_row, B, threads=self.threads, allocate=lambda s, _: self.memory[len(s)]
            )
            self.next_row += B


class Locate:
    """The packer lists the copies of consecutive batches."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self.plan, self.threads, self.next_row = plan, threads, 0
        self.num_bytes = self.num_batches = 0

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            found = self.plan.copies(self.next_row, B, threads=self.threads)
            self.next_row += B
            self.num_bytes += found.copies.nbytes
        self.num_batches += batches


def variants(
    corpus: Corpus, buffer: np.ndarray, num_batches: int
) -> dict[tuple[str, int], Callable[[int], None]]:
    """Return the functions to time, by name and number of threads."""
    found: dict[tuple[str, int], Callable[[int], None]] = {
        ("memcpy", 1): Copy(corpus, buffer),
        ("blocks", 1): CopyBlocks(corpus, buffer),
    }
    for name, (stream, packing) in VARIANTS.items():
        tokens = num_batches * B * T
        plan = plan_rows(corpus, [stream], packing, tokens=tokens, seed=0, stage=0)
        found |= {(name, threads): Pack(plan, buffer, threads) for threads in (1, 2)}
        found |= {(f"copies of {name}", threads): Locate(plan, threads) for threads in (1, 2)}
    return found


def measure(options: Options, corpus: Corpus) -> list[dict[str, Any]]:
    """Time all variants in turns and return results with tokens per second."""
    buffer = page_aligned((B, T + 1), np.uint16)
    # The first pass opens tables and maps pages; it does not count.
    runs = variants(corpus, buffer, (options.passes + 1) * options.batches)
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for number in tqdm(range(options.passes + 1), unit="pass", desc="measure", disable=None):
        for key, run in runs.items():
            start = time.perf_counter()
            run(options.batches)
            elapsed = time.perf_counter() - start
            if number > 0:
                rates[key].append(options.batches * buffer.size / elapsed)
    copy = np.array(rates["memcpy", 1])
    records = []
    for (name, threads), values in rates.items():
        median, low, high = quantiles(values)
        run = runs[name, threads]
        written = run.num_bytes / run.num_batches if isinstance(run, Locate) else buffer.nbytes
        records.append(
            {
                "bench": "packer",
                "variant": name,
                "threads": threads,
                "tokens_per_s": round(median),
                "p20": round(low),
                "p80": round(high),
                "bytes_per_batch": round(written),
                "bytes_per_s": round(median / buffer.size * written),  # a fill reads as much
                "of_memcpy": round(float(np.median(np.array(values) / copy)), 4),
                "batch": list(buffer.shape),
                "dtype": str(buffer.dtype),
                "corpus_tokens": sum(corpus.num_tokens(name) for name in corpus.languages),
            }
        )
    return records


def main(options: Options) -> None:
    """Measure, print a table, and write the results if there is a file for them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.corpus or f"{temporary}/corpus")
        records = measure(options, open_corpus(folder, options.tokens))
    print(
        f"{'variant':39} {'threads':>7} {'M tokens/s':>10} {'p20':>7} {'p80':>7} {'of memcpy':>9} "
        f"{'kB':>6}"
    )
    for record in records:
        rates = (record[name] / 1e6 for name in ("tokens_per_s", "p20", "p80"))
        batch_kb = record["bytes_per_batch"] / 1e3
        print("{:39} {:7} {:10.0f} {:7.0f} {:7.0f} {:9.1%} {:6.1f}".format(
            record["variant"], record["threads"], *rates, record["of_memcpy"], batch_kb
        ))  # fmt: skip
    if options.json:
        write_records(options.json, records)
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
