"""Mutations of a small corpus and of a manifest, and their allowed outcomes.

    python tests/support/workers/fuzz.py FIRST LAST

Mutation i is a function of i alone. It prints i first, so that a crash or a hang shows which
mutation it was, and raises AssertionError when the data is neither refused nor right. Half of the
mutated corpora are sealed: `corpus.json` gets the hashes of the mutated files, so that the checks
after the hashes are tested too. Their data cannot be known, but reading it must not crash, and no
unit may be out of range.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from tresse.data.formats.export import export_manifest
from tresse.data.packing.packer import plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.index import FILE, read_index, write_index
from tresse.data.store.manifest import read_manifest
from tresse.data.store.tensor_file import checksum, open_tensors, write_tensors
from tresse.data.store.tokenizer import Tokenizer

UNITS = Tokenizer("units", "1f", "25/2", 300)
STREAMS = [
    Stream(languages=("en",)),
    Stream(languages=("en", "fr"), mode="sample"),
    Stream(languages=("fr", "en"), mode="alternate"),
]
NUMBERS = [0, 1, 2, -1, 255, 256, 65_535, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 63, 1e9]

Contents = dict[tuple[str, str], tuple[list[list[int]], list[list[int]] | None]]


def make_corpus(folder: Path) -> Path:
    """Two shards of each of two languages, of which some documents are translations; with words."""
    rng = np.random.default_rng(0)
    parts = []
    for part in range(2):
        documents = []
        for key in range(4 * part, 4 * part + 4):
            for language in ("en", "fr")[: 1 + (key % 4 < 3)]:
                words = [[0, 2] if rng.random() < 0.5 else [0] for _ in range(1 + key % 3)]
                sentences = [rng.integers(0, 300, rng.integers(3, 9)).tolist() for _ in words]
                documents.append(Document(f"k\u00e9{key}", language, sentences, words))
        parts.append(write_corpus(folder / f"part{part}", documents, UNITS).path)
    return merge_corpora(parts, folder / "corpus").path


def contents(corpus: Corpus) -> Contents:
    """Every document, by every way that leads to one."""
    found: Contents = {}
    for language in corpus.languages:
        for i in range(corpus.num_documents(language)):
            key = corpus.key(language, i)
            sentences = [sentence.tolist() for sentence in corpus.document(language, i)]
            found[language, key] = (sentences, corpus.words(language, i))
            assert corpus.document(language, corpus.find(language, key))
    for pair in combinations(corpus.languages, 2):
        for row in corpus.aligned(pair).tolist():
            for language, document in zip(pair, row, strict=True):
                assert (language, corpus.key(language, document)) in found
    return found


def pack(corpus: Corpus, mode: str, verified: bool) -> None:
    """A few rows of every kind of stream."""
    packing = Packing(row_length=16, mode=mode, separators="bos_eos", language_switch=True)  # type: ignore[arg-type]
    for stream in STREAMS:
        plan = plan_rows(corpus, [stream], packing, tokens=300, seed=0, stage=0)
        batch = plan.fill(0, plan.num_rows)
        assert batch.num_valid.sum() == 300
        assert not verified or batch.tokens.max() < UNITS.vocab_size + 3


# --- mutations: functions of random numbers and a place


def mutate_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """Flip, set, insert, drop, double, swap or cut."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        a, b = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        b = min(b, a + int(rng.integers(1, 65)))
        kind = rng.integers(8)
        if kind <= 1 and a < len(data):
            data[a] ^= 1 << rng.integers(8)
        elif kind == 2 and a < len(data):
            data[a] = rng.integers(256)
        elif kind == 3:
            data[a:a] = rng.bytes(b - a)
        elif kind == 4:
            del data[a:b]
        elif kind == 5:
            data[a:a] = data[a:b]
        elif kind == 6:
            data[a:b] = data[a:b][::-1]
        else:
            del data[b if rng.random() < 0.5 else a :]
    return bytes(data)


def mutate_json(rng: np.random.Generator, value: object) -> object:
    """Change one value somewhere: another number, text, type, nothing, one more or one less."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[rng.integers(len(keys))]
        kind = rng.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.15 and isinstance(value, list):
            value.append(value[key])
        elif kind < 0.2 and len(keys) > 1:
            other = keys[rng.integers(len(keys))]
            value[key], value[other] = value[other], value[key]
        else:
            value[key] = mutate_json(rng, value[key])
        return value
    number = NUMBERS[rng.integers(len(NUMBERS))]
    near = value + int(rng.integers(-2, 3)) if isinstance(value, int) else f"{value}x"
    others = (number, near, str(value), None, [], {}, [value], True, "../x", "\ud800")
    return others[rng.integers(len(others))]


def mutate_json_text(rng: np.random.Generator, content: bytes) -> bytes:
    """The canonical text of a changed value."""
    value = mutate_json(rng, json.loads(content))
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    return text.encode(errors="surrogatepass")


def mutate_header(rng: np.random.Generator, content: bytes) -> bytes:
    """A shard whose header is changed."""
    size = int.from_bytes(content[:8], "little")
    header = mutate_json(rng, json.loads(content[8 : 8 + size]))
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def mutate_tensors(rng: np.random.Generator, path: Path) -> None:
    """Write a file again with arrays changed: values, neighbours, another's content, lengths."""
    file = open_tensors(path)
    tensors = {name: np.array(tensor) for name, tensor in file.tensors.items()}
    names = sorted(tensors)
    for _ in range(rng.integers(1, 3)):
        name, other = (names[rng.integers(len(names))] for _ in range(2))
        array = tensors[name]
        i, j = rng.integers(0, max(array.size, 1), 2).tolist()
        kind = rng.integers(6)
        limits = np.iinfo(array.dtype)
        if kind <= 1 and array.size:
            value = int(array[i]) + int(rng.integers(-2, 3))
            array[i] = min(max(value, limits.min), limits.max)
        elif kind == 2 and array.size:
            array[i] = (limits.min, limits.max, limits.max // 2)[rng.integers(3)]
        elif kind == 3 and array.size:
            array[[i, j]] = array[[j, i]]
        elif kind == 4 and tensors[other].dtype == array.dtype:
            tensors[name], tensors[other] = tensors[other], array
        else:
            tensors[name] = array[:i] if rng.random() < 0.5 else np.append(array, array[:i])
    written, _ = write_tensors(path.parent, path.name.split("-")[0], tensors, file.metadata)
    written.replace(path)


def seal(folder: Path) -> None:
    """Write the sizes and hashes of the files into corpus.json."""
    index, _ = read_index(folder)
    languages = {
        language: tuple(
            replace(
                entry,
                bytes=(file := open_tensors(folder / entry.file)).num_bytes,
                documents=file.tensors["key_hash"].size,
                sentences=file.tensors["sentence_lengths"].size,
                tokens=file.tensors["tokens"].size,
                xxh3={name: checksum(tensor) for name, tensor in file.tensors.items()},
            )
            for entry in entries
        )
        for language, entries in index.languages.items()
    }
    assert index.alignment is not None
    file = open_tensors(folder / index.alignment.file)
    hashes = {name: checksum(tensor) for name, tensor in file.tensors.items()}
    alignment = replace(index.alignment, bytes=file.num_bytes, xxh3=hashes)
    write_index(folder, replace(index, languages=languages, alignment=alignment))


def mutate_folder(rng: np.random.Generator, folder: Path) -> bool:
    """Change a file or two of a corpus; returns whether it is sealed."""
    paths = sorted(folder.iterdir())
    path, other = (paths[i] for i in rng.choice(len(paths), 2, replace=False))
    kind = rng.integers(10)
    if path.name == FILE:
        change = mutate_json_text if kind < 5 else mutate_bytes
        path.write_bytes(change(rng, path.read_bytes()))
        return False
    if kind == 0:
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind <= 2:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    elif kind <= 4:
        path.write_bytes(mutate_header(rng, path.read_bytes()))
    else:
        mutate_tensors(rng, path)
    if rng.random() < 0.2:
        return False
    try:
        seal(folder)
    except (ValueError, KeyError):  # what cannot be sealed is refused all the more
        return False
    return True


# --- outcomes


def fault(step: Callable[[], object]) -> str:
    """The message of its ValueError, empty where there is none."""
    try:
        step()
    except ValueError as error:
        return str(error)
    return ""


def refused(step: Callable[[], object], name: str) -> bool:
    """Return whether it raises ValueError with the name in its message."""
    message = fault(step)
    assert name in message or not message, f"{name} is not named: {message}"
    assert len(message) < 5000, f"a message of {len(message)} characters"
    return bool(message)


def check_folder(folder: Path, expected: Contents, sealed: bool, mode: str) -> str:
    """Open, verify, read and pack; returns what happened."""
    if refused(lambda: Corpus.open(folder), str(folder)):
        return "not opened"
    corpus = Corpus.open(folder)
    is_right = not refused(lambda: verify_corpus(folder), str(folder))
    if is_right and not sealed:
        assert contents(corpus) == expected, "verified, but other data"
    is_read = not refused(lambda: contents(corpus), str(folder))
    assert is_read or not is_right, "verified, but not read"
    is_packed = not refused(lambda: pack(corpus, mode, is_right), "")
    assert is_packed or sealed or not is_right, "verified, but not packed"
    return "verified" if is_right else "opened, not verified"


def check_manifest(path: Path, out: Path) -> str:
    """Make a corpus of a manifest, and compare it with what the JSON library reads."""
    message = fault(lambda: write_corpus(out, read_manifest([path]), UNITS))
    if message:
        # Both are of the whole manifest.
        whole = "keys have documents that differ" in message or "no documents" in message
        assert str(path) in message or whole, f"the file is not named: {message}"
        assert not list(out.parent.glob(f"{out.name}*")), "something is left"
        return "refused"
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    expected = {(row["lang"], row["key"]): (row["sentences"], row.get("words")) for row in rows}
    assert contents(verify_corpus(out)) == expected, "other data"
    shutil.rmtree(out)
    return "right"


def mutate_manifest(rng: np.random.Generator, content: bytes) -> bytes:
    """Change a line's value, or bytes anywhere."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, content)
    lines = content.splitlines()
    i = rng.integers(len(lines))
    row = mutate_json(rng, json.loads(lines[i]))
    lines[i] = json.dumps(row, ensure_ascii=bool(rng.random() < 0.5)).encode(errors="surrogatepass")
    return b"\n".join(lines)


def main(first: int, last: int) -> None:
    """Make the mutations and count their outcomes."""
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        good = make_corpus(root)
        expected = contents(Corpus.open(good))
        export_manifest(Corpus.open(good), root / "good.jsonl")
        manifest = (root / "good.jsonl").read_bytes()
        for i in range(first, last):
            print(i, flush=True)
            rng = np.random.default_rng(i)
            if i % 4 == 3:
                path = root / "m.jsonl"
                path.write_bytes(mutate_manifest(rng, manifest))
                outcome = f"manifest {check_manifest(path, root / 'made')}"
            else:
                folder = root / "mutated"
                shutil.copytree(good, folder)
                sealed = mutate_folder(rng, folder)
                mode = ("concat", "best_fit")[rng.integers(2)]
                outcome = check_folder(folder, expected, sealed, mode)
                outcome = f"{'sealed' if sealed else 'unsealed'} corpus {outcome}"
                shutil.rmtree(folder)
            counts[outcome] = counts.get(outcome, 0) + 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
