"""Datasets side by side: tokens per second, seconds to open and to reach any step, memory.

Tresse, plain Python and the installed ones of Megatron-Core, Mosaic streaming and litdata give
[75, 2049] batches of the same documents (see dataset_peers.py). Each runs in its own process with
one thread. Contenders take turns within a pass, so that a drift of the machine affects all alike.

The time to open ends when the object can give batches; the first batch is timed after it. Imports
do not count. "first" has no cache of the library and no file in the page cache, "cold" has the
library's cache, and "warm" has both. "Any step" is the batch in the middle of the first epoch,
asked of an object that has read nothing yet. The time to open is the better one of two. Corpora of
1 M and 50 M documents of 4 to 12 tokens are written for this.

    taskset -c 0 python bench/dataset.py --json bench/results/dataset.json
"""

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from tresse.bench.dataset_peers import (
    CONTENDERS,
    LANGUAGES,
    MODES,
    VOCABULARY,
    B,
    T,
    package_version,
    write,
)
from tresse.bench.packer import open_corpus
from tresse.bench.records import quantiles, write_records
from tresse.data.store.corpus import Corpus
from tresse.data.store.index import CorpusIndex, write_index
from tresse.data.store.shards import ShardEntry, shard_metadata
from tresse.data.store.tensor_file import write_tensors
from tresse.data.store.tokenizer import Tokenizer

RUN_EPOCHS = 4
SHARD_DOCUMENTS = 10_000_000
PARTS = ("open_s", "first_batch_s", "any_step_s")
STATES = ("first", "cold", "warm")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes and contenders of the benchmark."""

    tokens: int = 200_000_000
    """Tokens of the corpus for rates, both languages together; 1,000,000 or more."""
    documents: tuple[int, ...] = (1_000_000, 50_000_000)
    """Numbers of documents of the corpora for the times to open."""
    passes: int = 9
    """Number of measurements of each rate."""
    seconds: float = 0.5
    """Approximate seconds of one measurement of a rate."""
    only: tuple[str, ...] = tuple(CONTENDERS)
    """Names of the contenders to measure; all by default."""
    folder: str = ""
    """Folder that keeps the corpora, 8 GB, for later runs; empty: a temporary folder."""
    json: str = ""
    """File for the results; empty: none."""


def write_many(folder: Path, num_documents: int) -> Corpus:
    """Write a corpus of short documents of one sentence, with random numbers as key hashes."""
    if (folder / "corpus.json").exists():
        return Corpus.open(folder)
    folder.mkdir(parents=True)
    tokenizer = Tokenizer("synthetic", "", "25/2", VOCABULARY)
    rng, entries = np.random.default_rng(0), []
    for first in tqdm(range(0, num_documents, SHARD_DOCUMENTS), desc="corpus", disable=None):
        tensors = _short_documents(rng, first, min(SHARD_DOCUMENTS, num_documents - first))
        D, N = tensors["key_hash"].size, tensors["tokens"].size
        metadata = shard_metadata("en", tokenizer, D, D, N)
        path, hashes = write_tensors(folder, "en", tensors, metadata)
        entries.append(ShardEntry(path.name, path.stat().st_size, D, D, N, hashes))
    write_index(folder, CorpusIndex({"en": tokenizer}, {"en": tuple(entries)}, None))
    return Corpus.open(folder)


def _short_documents(rng: np.random.Generator, first: int, D: int) -> dict[str, np.ndarray]:
    lengths = rng.integers(4, 13, D, dtype=np.uint16)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    digits = np.arange(first, first + D)[:, None] // 10 ** np.arange(7, -1, -1) % 10
    return {
        "tokens": rng.integers(0, VOCABULARY, ends[-1], dtype=np.uint16),
        "sentence_lengths": lengths,
        "document_lengths": lengths.astype(np.uint32),
        "document_tokens": ends,
        "document_sentences": np.arange(D + 1),
        "key_hash": rng.integers(0, 2**63, D).astype(np.uint64),
        "keys": (digits + ord("0")).astype(np.uint8).reshape(-1),
        "key_offsets": np.arange(D + 1) * 8,
    }


def memory_mib() -> dict[str, float]:
    """Return the memory of this process in MiB, without and with mapped files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    held = {
        name: int(rest.split()[0]) / 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    return {"anonymous_mib": round(held["Anonymous"], 1), "rss_mib": round(held["Rss"], 1)}


def evict(folder: Path) -> None:
    """Drop a folder's files from the page cache; they must be clean and not mapped."""
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            descriptor = os.open(Path(root, name), os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def serve(connection: Connection, name: str, folder: Path, mode: str, epochs: int) -> None:
    """Open a contender in this process, then time the batches or the seek of each request."""
    for module in CONTENDERS[name].MODULES:
        import_module(module)
    memory = memory_mib()["anonymous_mib"]
    start = time.perf_counter()
    contender = CONTENDERS[name](folder, mode, epochs)
    connection.send(time.perf_counter() - start)
    while (request := connection.recv()) is not None:
        kind, value = request
        start = time.perf_counter()
        if kind == "seek":
            contender.seek(value)
        for _ in range(value if kind == "batches" else 1):
            contender.batch()
        seconds = time.perf_counter() - start
        connection.send({"seconds": seconds, "imports_mib": memory, **memory_mib()})


class Process:
    """A contender in a process of its own."""

    def __init__(self, name: str, folder: Path, mode: str, epochs: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, name, folder, mode, epochs)
        self.process = context.Process(target=serve, args=arguments)
        self.process.start()
        theirs.close()
        self.open_s = self.connection.recv()

    def ask(self, kind: str, value: int) -> dict[str, float]:
        """Return the seconds of "batches" (how many) or "seek" (the step), and the memory after it.

        Between requests the process is stopped: some contenders work on in the background, which
        would slow down the next one.
        """
        self._signal(signal.SIGCONT)
        self.connection.send((kind, value))
        answer = self.connection.recv()
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        self.connection.send(None)
        self.process.join()

    def _signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def measure_rates(options: Options, folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Return results with the tokens per second of each contender and mode, measured in turns."""
    runs = {
        (name, mode): Process(name, folder / name, mode, RUN_EPOCHS)
        for name in names
        for mode in CONTENDERS[name].MODES
    }
    batches = dict.fromkeys(runs, 5)
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    memory = {}
    for number in tqdm(range(-2, options.passes), unit="pass", desc="rates", disable=None):
        for key, run in runs.items():
            memory[key] = run.ask("batches", batches[key])
            seconds = memory[key].pop("seconds")
            if number < 0:  # warm up, and find the number of batches to time
                batches[key] = max(round(options.seconds / seconds * batches[key]), 1)
            else:
                rates[key].append(batches[key] * B * (T + 1) / seconds)
    for run in runs.values():
        run.close()
    return [_rate_row(name, mode, rates, memory) for mode in MODES for name in names]


def _rate_row(name: str, mode: str, rates: dict, memory: dict) -> dict[str, Any]:
    record: dict[str, Any] = {"measured": "rate", "mode": mode, "contender": name}
    if (name, mode) not in rates:
        return {**record, "cannot": "languages interleave only as they did when it was written"}
    found = np.array(rates[name, mode])
    ours = np.array(rates.get(("tresse", mode), found))
    median, low, high = quantiles(found.tolist())
    record |= {"tokens_per_s": round(median), "p20": round(low), "p80": round(high)}
    record["tresse_over_this"] = round(float(np.median(ours / found)), 2)
    return {**record, **memory[name, mode]}


def measure_opening(name: str, folder: Path, num_documents: int) -> dict[str, Any]:
    """Return a result with the seconds to open, to a first batch and to the middle of the epoch."""
    record: dict[str, Any] = {"measured": "open", "contender": name, "documents": num_documents}
    middle = num_documents * 8 // T // B // 2
    requests = {"first_batch_s": ("batches", 1), "any_step_s": ("seek", middle)}
    for state in STATES:
        for part, request in requests.items():
            if state == "first" and part == "any_step_s":
                continue  # any step is measured only with a cache
            if state == "first":
                shutil.rmtree(folder / "cache", ignore_errors=True)  # Megatron's and ours
            if state != "warm":
                evict(folder)
            run = Process(name, folder, "mono", 1)
            found = run.ask(*request)
            run.close()
            for key, seconds in {"open_s": run.open_s, part: found.pop("seconds")}.items():
                field = f"{state}_{key}"
                record[field] = round(min(seconds, record.get(field, seconds)), 5)
            record |= found
    return record


def prepare(options: Options, folder: Path, names: list[str]) -> int:
    """Write the missing corpora and return the number of tokens in the one for rates.

    No file stays mapped, because mapped pages cannot be evicted.
    """
    corpus = open_corpus(folder / "stories", options.tokens)
    for name in names:
        write(name, corpus, folder / "rates" / name)
    for num_documents in options.documents:
        many = write_many(folder / f"many-{num_documents}", num_documents)
        for name in names:
            write(name, many, folder / f"opened-{num_documents}" / name)
    return sum(corpus.num_tokens(language) for language in LANGUAGES)


def measure(options: Options, folder: Path) -> list[dict[str, Any]]:
    """Return all results."""
    names = [name for name in options.only if package_version(name) is not None]
    records: list[dict[str, Any]] = [
        {"measured": "nothing", "contender": name, "cannot": "not installed"}
        for name in options.only
        if name not in names
    ]
    corpus_tokens = prepare(options, folder, names)
    records += measure_rates(options, folder / "rates", names)
    for num_documents in tqdm(options.documents, desc="open", disable=None):
        for name in names:
            if name != "tresse, int64":  # opens like tresse
                where = folder / f"opened-{num_documents}" / name
                records.append(measure_opening(name, where, num_documents))
    common = {"corpus_tokens": corpus_tokens, "batch": [B, T + 1], "load": os.getloadavg()[0]}
    return [
        {"bench": "dataset", **record, "package": package(record["contender"]), **common}
        for record in records
    ]


def package(name: str) -> str:
    """Return package and version of a contender."""
    return f"{CONTENDERS[name].PACKAGE} {package_version(name) or ''}".strip()


def show(records: list[dict[str, Any]]) -> None:
    """Print the rates, then the times to open."""
    for record in records:
        what = f"{record['contender']:17} {record.get('mode', record.get('documents', '')):>10}"
        if "cannot" in record:
            print(f"{what}  cannot: {record['cannot']}")
        elif record["measured"] == "rate":
            print(
                f"{what} {record['tokens_per_s'] / 1e6:8.1f} M tokens/s, ours is "
                f"{record['tresse_over_this']:.1f} x, {_held(record):.0f} MiB"
            )
        else:
            times = (
                f"{state} "
                + " / ".join(
                    f"{record[f'{state}_{part}']:.3f}"
                    for part in PARTS
                    if f"{state}_{part}" in record
                )
                for state in STATES
            )
            print(f"{what} {', '.join(times)} s, {_held(record):.0f} MiB")


def _held(record: dict[str, Any]) -> float:
    """Return a contender's own memory in MiB, without imports."""
    return record["anonymous_mib"] - record["imports_mib"]


def main(options: Options) -> None:
    """Measure, print a table, and write the results if there is a file for them."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes
    with tempfile.TemporaryDirectory() as temporary:
        records = measure(options, Path(options.folder or temporary))
    show(records)
    if options.json:
        write_records(options.json, records)
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
