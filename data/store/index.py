"""`corpus.json`: the small canonical file that commits a corpus (`docs/format.md` shows one)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tresse.data.durable import replaced_file
from tresse.data.lines import decode_json
from tresse.data.naming import check_language
from tresse.data.store.shards import ShardEntry
from tresse.data.store.tokenizer import Tokenizer, join_tokenizers

FORMAT, VERSION, JOINT_VERSION = "tresse-corpus", 1, 2
FILE = "corpus.json"
MAX_BYTES = 1 << 28
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class AlignmentEntry:
    """The file of the corpus' translations; `alignment` is its name on disk."""

    file: str
    bytes: int
    xxh3: dict[str, str]
    """Hash of every tensor."""


@dataclass(frozen=True)
class CorpusIndex:
    """The content of `corpus.json`."""

    tokenizers: Mapping[str, Tokenizer]
    """Tokenizer of each language."""
    languages: Mapping[str, tuple[ShardEntry, ...]]
    """Shards of each language, in the order of its documents."""
    alignment: AlignmentEntry | None
    """None for a corpus of one language."""


def encode_index(index: CorpusIndex) -> bytes:
    """Return canonical bytes: sorted keys, an indent of one space, no floats, a final newline.

    A corpus of one tokenizer has it once, as in version 1; one of several has a map of them.
    """
    content = {"format": FORMAT, "version": JOINT_VERSION, **asdict(index)}
    if len(set(index.tokenizers.values())) == 1:
        content["version"] = VERSION
        content["tokenizer"] = next(iter(content.pop("tokenizers").values()))
    return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def write_index(folder: Path, index: CorpusIndex) -> None:
    """Commit the shards in a folder as a corpus."""
    with replaced_file(folder / FILE) as file:
        file.write(encode_index(index))


def read_index(folder: Path) -> tuple[CorpusIndex, bytes]:
    """Return the index of a corpus and its bytes; ValueError names the file and the field."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); is this a corpus?") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: more than {MAX_BYTES} bytes")
    try:
        index = _decode(decode_json(content))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if encode_index(index) != content:
        raise ValueError(f"{path}: not in canonical form; it was edited, write the corpus again")
    return index, content


def _decode(content: Any) -> CorpusIndex:
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    found = (content.pop("format", None), content.pop("version", None))
    if found not in ((FORMAT, VERSION), (FORMAT, JOINT_VERSION)):
        raise ValueError(
            f"format and version are {found}, expected {FORMAT!r} and {VERSION} or {JOINT_VERSION}"
        )
    if found[1] == VERSION and isinstance(content.get("languages"), dict):
        shared = content.pop("tokenizer", None)
        content["tokenizers"] = dict.fromkeys(content["languages"], shared)
    top = _take(CorpusIndex, content, "corpus")
    if not isinstance(top.languages, dict) or not top.languages:
        raise ValueError("languages is not a map with at least one language")
    languages = {}
    for language, entries in top.languages.items():
        where = f"shards of {check_language(language)}"
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{where}: expected a list with at least one shard")
        languages[language] = tuple(_checked(_take(ShardEntry, e, where), where) for e in entries)
    alignment = None
    if top.alignment is not None:
        alignment = _checked(_take(AlignmentEntry, top.alignment, "alignment"), "alignment")
    if (alignment is None) != (len(languages) == 1):
        raise ValueError("a corpus has an alignment if and only if it has several languages")
    if not isinstance(top.tokenizers, dict) or set(top.tokenizers) != set(languages):
        raise ValueError("tokenizers is not a map with each of the languages")
    tokenizers = {
        language: _take(Tokenizer, each, f"tokenizer of {language}")
        for language, each in top.tokenizers.items()
    }
    join_tokenizers(tokenizers.values())
    return CorpusIndex(tokenizers, languages, alignment)


def _take(kind: type[Entry], content: Any, where: str) -> Entry:
    """Build a dataclass from a JSON object with exactly its fields; check types int and str."""
    expected = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(content, dict) or set(content) != set(expected):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{where}: fields {found}, expected {sorted(expected)}")
    for name, type_ in expected.items():
        if type_ in (int, str) and type(content[name]) is not type_:
            raise ValueError(f"{where}: {name} is {content[name]!r}, expected {type_.__name__}")
    return kind(**content)


def _checked(entry: Entry, where: str) -> Entry:
    """Refuse file names that lead out of the folder, and hashes that are not text."""
    file, hashes = getattr(entry, "file", ""), getattr(entry, "xxh3", None)
    if Path(file).name != file or not file.endswith(".safetensors") or "\0" in file:
        raise ValueError(f"{where}: file {file!r}, expected a plain *.safetensors name")
    if not isinstance(hashes, dict) or not all(isinstance(h, str) for h in hashes.values()):
        raise ValueError(f"{where}: xxh3 of {file} is not a map of hashes")
    return entry
