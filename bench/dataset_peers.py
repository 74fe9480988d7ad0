"""Datasets that give rows of 2049 tokens, each opened and read as its authors document it.

Each class writes the documents of a corpus in its own format, opens them for a mode and a number of
epochs, and gives the next batch of [75, 2049] tokens or the batch of any step. `MODES` lists the
modes that it supports. All but ours and plain Python read one sequence of documents, so languages
would be interleaved once, when it is written. Versions: megatron-core 0.16.1, mosaicml-streaming
0.13.0, litdata 0.2.76; each is imported when its class is used.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from tresse.data.packing.packer import plan_rows
from tresse.data.packing.settings import Mode, Packing, Stream
from tresse.data.store.corpus import Corpus

B, T = 75, 2048
LANGUAGES = ("en", "fr")
MODES = ("mono", "alternate", "sample")
VOCABULARY = 2048
BLOCK_ROWS = 8192  # rows of a chunk, 34 MB; litdata's and Mosaic's own default is 64 MB


class Tresse:
    """Ours: uint16 in a buffer that is reused, like pinned memory; tables cached in the folder."""

    PACKAGE: ClassVar[str] = "tresse"
    MODULES: ClassVar[tuple[str, ...]] = ()
    MODES: ClassVar[tuple[str, ...]] = MODES

    @staticmethod
    def write(corpus: Corpus, folder: Path) -> None:
        """Link to the corpus, which is in our format already."""
        folder.mkdir(parents=True)
        (folder / "corpus").symlink_to(corpus.path.resolve())

    def __init__(self, folder: Path, mode: str, epochs: int) -> None:
        os.environ["TRESSE_CACHE"] = str(folder / "cache")  # this process runs nothing else
        corpus = Corpus.open(folder / "corpus")
        if mode == "mono":
            stream = Stream(languages=(corpus.languages[0],))
        else:
            stream = Stream(languages=LANGUAGES, mode=cast(Mode, mode))
        tokens = epochs * sum(corpus.num_tokens(name) for name in stream.languages)
        self.plan = plan_rows(corpus, [stream], Packing(), tokens=tokens, seed=0, stage=0)
        self.memory: dict[tuple[int, ...], np.ndarray] = {}
        self.row = 0

    def batch(self) -> Any:
        """Return the next B rows."""
        if self.row + B > self.plan.num_rows:
            self.row = 0
        self.row += B
        return self.plan.fill(self.row - B, B, allocate=self._memory).tokens

    def _memory(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if shape not in self.memory:
            self.memory[shape] = np.empty(shape, dtype)
        return self.memory[shape]

    def seek(self, step: int) -> None:
        """Continue at a step."""
        self.row = step * B


class TresseInt64(Tresse):
    """Ours in int64, which an embedding needs and Megatron gives."""

    def batch(self) -> Any:
        """Return the next B rows as int64 [B, T + 1]."""
        return super().batch().astype(np.int64)


class PlainPython:
    """The usual loop: shuffle, append documents to a buffer, cut it into rows."""

    PACKAGE: ClassVar[str] = ""
    MODULES: ClassVar[tuple[str, ...]] = ()
    MODES: ClassVar[tuple[str, ...]] = MODES

    @staticmethod
    def write(corpus: Corpus, folder: Path) -> None:
        """Write the raw tokens and the offsets of documents and sentences."""
        folder.mkdir(parents=True)
        for language in LANGUAGES[: len(corpus.languages)]:
            lengths = _joined(corpus, language, "sentence_lengths")
            counts = np.concatenate(
                [np.diff(s.document_sentences) for s in corpus.shards[language]]
            )
            write_tokens(corpus, language, folder / f"{language}.bin")
            np.save(folder / f"{language}.sentences.npy", _offsets(lengths))
            np.save(folder / f"{language}.documents.npy", _offsets(counts))
            starts = _offsets(_joined(corpus, language, "document_lengths"))
            np.save(folder / f"{language}.starts.npy", starts)

    def __init__(self, folder: Path, mode: str, _: int) -> None:
        self.languages = LANGUAGES[: 1 if mode == "mono" else 2]
        # Slicing a memmap is several times slower than slicing an array.
        self.tokens = [
            np.asarray(np.memmap(folder / f"{name}.bin", np.uint16, "r")) for name in self.languages
        ]
        self.starts, self.documents, self.sentences = (
            [
                np.asarray(np.load(folder / f"{name}.{kind}.npy", mmap_mode="r"))
                for name in self.languages
            ]
            for kind in ("starts", "documents", "sentences")
        )
        self.mode = mode
        self.seek(0)

    def _pieces(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        while True:
            for document in rng.permutation(self.documents[0].size - 1):
                if self.mode == "mono":
                    yield self.tokens[0][slice(*self.starts[0][document : document + 2])]
                    continue
                begin, end = self.documents[0][document : document + 2]
                # Translations have the same number of sentences, in the same order.
                for sentence in range(begin, end):
                    drawn = (rng.integers(2),) if self.mode == "sample" else (0, 1)
                    for k in drawn:
                        yield self.tokens[k][slice(*self.sentences[k][sentence : sentence + 2])]

    def _batches(self) -> Iterator[np.ndarray]:
        pieces, held, size = self._pieces(), [], 0
        while True:
            while size <= B * T:
                held.append(next(pieces))
                size += held[-1].size
            joined = np.concatenate(held)
            rows = np.lib.stride_tricks.sliding_window_view(joined, T + 1)[::T][:B]
            yield np.ascontiguousarray(rows)
            held, size = [joined[B * T :]], size - B * T

    def batch(self) -> Any:
        """Return the next B rows."""
        return next(self.iterator)

    def seek(self, step: int) -> None:
        """Read and drop all batches before a step."""
        self.iterator = self._batches()
        for _ in range(step):
            next(self.iterator)


@dataclass
class _Tokenizer:
    """The members of a tokenizer that Megatron reads."""

    eod: int = VOCABULARY
    pad: int = VOCABULARY + 1
    vocab_size: int = VOCABULARY + 2

    @property
    def unique_identifiers(self) -> dict[str, Any]:
        return {"class": "units"}


class Megatron:
    """GPTDataset through its builder, with torch's DataLoader in this process.

    Indices are cached in the folder, and no attention mask is built. A batch has int64 tokens and
    labels, and the loss mask and positions that it always builds.
    """

    PACKAGE: ClassVar[str] = "megatron-core"
    MODULES: ClassVar[tuple[str, ...]] = (
        "torch.utils.data",
        "megatron.core.datasets.gpt_dataset",
        "megatron.core.datasets.blended_megatron_dataset_builder",
    )
    MODES: ClassVar[tuple[str, ...]] = ("mono",)

    @staticmethod
    def write(corpus: Corpus, folder: Path) -> None:
        """Write .bin and .idx by their format.

        IndexedDatasetBuilder gives the same files, but its lists take minutes and gigabytes for
        50 M documents.
        """
        folder.mkdir(parents=True)
        language = corpus.languages[0]
        lengths = _joined(corpus, language, "document_lengths")
        write_tokens(corpus, language, folder / "tokens.bin")
        with (folder / "tokens.idx").open("wb") as file:
            uint16 = 8
            file.write(b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, uint16))
            file.write(struct.pack("<QQ", lengths.size, lengths.size + 1))
            file.write(lengths.astype("<i4").tobytes())
            file.write((_offsets(lengths)[:-1] * 2).tobytes())
            file.write(np.arange(lengths.size + 1, dtype="<i8").tobytes())

    def __init__(self, folder: Path, _: str, epochs: int) -> None:
        datasets = "megatron.core.datasets"
        gpt = import_module(f"{datasets}.gpt_dataset")
        builders = import_module(f"{datasets}.blended_megatron_dataset_builder")
        config = gpt.GPTDatasetConfig(
            random_seed=0,
            sequence_length=T,
            blend=([str(folder / "tokens")], None),
            split="1,0,0",
            path_to_cache=str(folder / "cache"),
            tokenizer=_Tokenizer(),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        num_rows = epochs * ((folder / "tokens.bin").stat().st_size // 2 // T)
        sizes = [num_rows, 0, 0]  # of training, validation, test
        builder = builders.BlendedMegatronDatasetBuilder(
            gpt.GPTDataset, sizes, lambda: True, config
        )
        self.dataset = builder.build()[0]
        self.seek(0)

    def batch(self) -> Any:
        """Return tokens, labels, loss mask and positions of the next B rows."""
        with suppress(StopIteration):
            return next(self.iterator)
        self.seek(0)
        return next(self.iterator)

    def seek(self, step: int) -> None:
        """Continue at a step, as its sampler does with `consumed_samples`."""
        rows = range(step * B, len(self.dataset) // B * B)
        data = import_module("torch.utils.data")
        loader = data.DataLoader(self.dataset, batch_size=B, sampler=rows)
        self.iterator = iter(loader)


class Mosaic:
    """StreamingDataset over shuffled uint16 rows that are cut when written, as in llm-foundry.

    torch's DataLoader runs in this process. A document is cut at the same place in every epoch.
    """

    PACKAGE: ClassVar[str] = "mosaicml-streaming"
    MODULES: ClassVar[tuple[str, ...]] = ("torch.utils.data", "streaming")
    MODES: ClassVar[tuple[str, ...]] = ("mono",)

    @staticmethod
    def write(corpus: Corpus, folder: Path) -> None:
        """Write MDS shards of rows."""
        columns = {"tokens": f"ndarray:uint16:{T + 1}"}
        with import_module("streaming").MDSWriter(columns=columns, out=str(folder)) as writer:
            for rows in _row_blocks(corpus):
                for row in rows:
                    writer.write({"tokens": row})

    def __init__(self, folder: Path, _: str, __: int) -> None:
        streaming = import_module("streaming")
        streaming.base.util.clean_stale_shared_memory()
        self.dataset = streaming.StreamingDataset(
            local=str(folder), batch_size=B, shuffle=True, num_canonical_nodes=1
        )
        self._iterate()

    def _iterate(self) -> None:
        data = import_module("torch.utils.data")
        self.iterator = iter(data.DataLoader(self.dataset, batch_size=B, drop_last=True))

    def batch(self) -> Any:
        """Return the next B rows."""
        with suppress(StopIteration):
            return next(self.iterator)
        self._iterate()
        return next(self.iterator)

    def seek(self, step: int) -> None:
        """Continue at a step of the first epoch like a resumed run; call it before any batch."""
        state = self.dataset.state_dict(step * B, from_beginning=True)
        self.dataset.load_state_dict({**state, "epoch": 0})
        self._iterate()


def _token_block(block: np.ndarray) -> Any:
    """Return the tensor of whole rows that litdata stores for one input."""
    return import_module("torch").from_numpy(block.reshape(-1).astype(np.uint16))


class Litdata:
    """StreamingDataset with TokensLoader over shuffled blocks of 2049 uint16 tokens.

    Its StreamingDataLoader runs in this process. A document is cut at the same place in every
    epoch.
    """

    PACKAGE: ClassVar[str] = "litdata"
    MODULES: ClassVar[tuple[str, ...]] = ("litdata",)
    MODES: ClassVar[tuple[str, ...]] = ("mono",)

    @staticmethod
    def write(corpus: Corpus, folder: Path) -> None:
        """Write chunks of BLOCK_ROWS rows."""
        litdata = import_module("litdata")
        litdata.optimize(
            fn=_token_block,
            inputs=list(_row_blocks(corpus)),
            output_dir=str(folder),
            chunk_size=BLOCK_ROWS * (T + 1),
            item_loader=litdata.TokensLoader(block_size=T + 1),
            num_workers=1,
            start_method="fork",
            verbose=False,
        )

    def __init__(self, folder: Path, _: str, __: int) -> None:
        litdata = import_module("litdata")
        loader = litdata.TokensLoader(block_size=T + 1)
        self.dataset = litdata.StreamingDataset(
            str(folder), item_loader=loader, shuffle=True, drop_last=True
        )
        self.make_loader = litdata.StreamingDataLoader
        self._iterate()

    def _iterate(self) -> None:
        self.loader = self.make_loader(self.dataset, batch_size=B, drop_last=True)
        self.iterator = iter(self.loader)

    def batch(self) -> Any:
        """Return the next B rows."""
        with suppress(StopIteration):
            return next(self.iterator)
        self._iterate()
        return next(self.iterator)

    def seek(self, step: int) -> None:
        """Continue at a step of the first epoch like a resumed run; call it before any batch."""
        state, num_rows = self.loader.state_dict(), step * B
        state |= {"current_epoch": 1, "num_samples_yielded": num_rows}
        state["dataset"] |= {"num_samples_yielded": num_rows, "sample_in_epoch": num_rows}
        self.loader.load_state_dict(state)
        self.iterator = iter(self.loader)


CONTENDERS: dict[str, type] = {
    "tresse": Tresse,
    "tresse, int64": TresseInt64,
    "plain Python": PlainPython,
    "Megatron-Core": Megatron,
    "Mosaic streaming": Mosaic,
    "litdata": Litdata,
}


def package_version(name: str) -> str | None:
    """Return the version of a contender's package: empty for plain Python, None if missing."""
    package = CONTENDERS[name].PACKAGE
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return None


def write(name: str, corpus: Corpus, folder: Path) -> None:
    """Write a contender's files unless they are complete already."""
    done = folder.with_name(f"{folder.name}.done")
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    CONTENDERS[name].write(corpus, folder)
    os.sync()  # only clean pages leave the page cache
    done.touch()


def write_tokens(corpus: Corpus, language: str, path: Path) -> None:
    """Write all tokens of a language into one file."""
    with path.open("wb") as file:
        for shard in corpus.shards[language]:
            shard.tokens.tofile(file)


def _joined(corpus: Corpus, language: str, name: str) -> np.ndarray:
    return np.concatenate([getattr(shard, name) for shard in corpus.shards[language]])


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _row_blocks(corpus: Corpus) -> Iterator[np.ndarray]:
    """Yield the first language in the order of the corpus: [up to BLOCK_ROWS, T + 1] tokens."""
    for shard in corpus.shards[corpus.languages[0]]:
        rows = shard.tokens[: shard.tokens.size // (T + 1) * (T + 1)].reshape(-1, T + 1)
        for start in range(0, len(rows), BLOCK_ROWS):
            yield rows[start : start + BLOCK_ROWS]
