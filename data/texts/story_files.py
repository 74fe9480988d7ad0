"""Stories of many formats as texts; a story that is one string is split into sentences.

    *.txt                stories with <|endoftext|> between them, as TinyStories has them
    *.csv                StoryCloze, see story_cloze.py
    *.parquet, folders   Parquet, Arrow, Hugging Face datasets with a column `text` or `story`
    other files          JSON lines: our manifest, or {"text": "Once upon ...", "key": "0001"}

The key of a story without one is a hash of its words. It does not depend on the file, and a story
that is there twice is left out the second time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.lines import read_lines
from tresse.data.naming import check_language, normal_key
from tresse.data.tables import find_tables, open_table, read_batches
from tresse.data.texts.story_cloze import parse_story, read_story_cloze
from tresse.data.texts.texts import Text, check_sentences, parse_text

END_OF_STORY = b"<|endoftext|>"
FIELDS = ("text", "story")


def read_stories(paths: Sequence[str | Path], language: str, left_out: LeftOut) -> Iterator[Text]:
    """Yield the texts of files and folders, in order.

    language: language of stories that do not name their own; "" if all do. ValueError names the
    place of a story that cannot be used, or `left_out` gets it; ValueError for a key that is there
    twice in a language.
    """
    if not paths:
        raise ValueError("no files of stories")
    seen: set[int] = set()
    for path in map(Path, paths):
        for where, text in _read(path, language, left_out):
            has_key = bool(text.key)
            text = replace(text, where=where, key=text.key or hash_words(text.sentences))
            identity = xxhash.xxh3_64_intdigest(f"{text.language}/{text.key}".encode())
            if identity not in seen:
                seen.add(identity)
                yield text
            elif has_key:
                raise ContradictionError(f"{where}: key {text.key!r} is in {text.language} already")
            else:
                left_out.add(where, "the same story is there already", text.key, text.language)


def hash_words(sentences: Sequence[str]) -> str:
    """Return the key of a story without one: 16 hexadecimal digits, wherever sentences end."""
    return xxhash.xxh3_64_hexdigest(normal_key(" ".join(sentences)).encode())


def split_sentences(story: str, language: str) -> tuple[str, ...]:
    """Return the sentences of a story, each with single spaces.

    Marks without a word, such as a closing quote alone, belong to the sentence before them.
    """
    try:
        from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]: it has no types
    except ImportError:
        raise ContradictionError(  # it ends the work: every story would be left out
            "sentencex splits stories into sentences: pip install 'tresse[translate]'"
        ) from None
    sentences: list[str] = []
    for part in segment(language.partition("-")[0].lower(), story):
        sentence = " ".join(part.split())
        if any(map(str.isalnum, sentence)):
            sentences.append(sentence)
        elif sentence and sentences:
            sentences[-1] += f" {sentence}"
    return tuple(sentences)


def _read(path: Path, language: str, left_out: LeftOut) -> Iterator[tuple[str, Text]]:
    """Yield the place and the text of each story of a file or folder; some texts have no key."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    plain = partial(_parse_plain, language=language)
    if path.is_dir() or ending in (".parquet", ".arrow"):
        return left_out.parsed(_read_table(path), plain)
    if ending == ".txt":
        return left_out.parsed(_split_file(path), plain)
    if ending == ".csv":
        return left_out.parsed(read_story_cloze(path), partial(parse_story, language=language))
    return left_out.parsed_lines([path], partial(_parse_record, language=language))


def _parse_record(record: dict[str, Any], language: str) -> Text:
    """Return the text of a JSON object: a record of the manifest, or a story as one string."""
    names = [name for name in FIELDS if name in record]
    if not names or "sentences" in record:
        return parse_text(record)
    key = record.get("key", "")
    if not isinstance(key, str):
        raise ValueError(f"key is {key!r}, expected text")
    text = _parse_plain(record[names[0]], record.get("lang", language))
    return replace(text, key=normal_key(key))


def _parse_plain(story: str | bytes, language: str) -> Text:
    """Return a text without a key; ValueError for a story that cannot be spoken."""
    if isinstance(story, bytes):
        story = story.decode()
    if not isinstance(story, str):
        raise ValueError(f"the story is {story!r}, expected text")
    if not language:
        raise ContradictionError(
            "the language of the story is missing; name it on the command line"
        )
    sentences = split_sentences(story, check_language(language))
    if not sentences:
        raise ValueError(f"the story is {story[:40]!r}, expected words")
    check_sentences(sentences)
    return Text("", language, sentences)


def _split_file(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the place of the first line of each story, and the story."""
    start, lines = "", []
    for where, line in read_lines([path]):
        *ends, rest = line.split(END_OF_STORY)
        for end in ends:
            lines.append(end)
            if any(map(bytes.strip, lines)):
                yield start or where, b"\n".join(lines)
            start, lines = "", []
        lines.append(rest)
        start = start or (where if rest.strip() else "")
    if start:
        yield start, b"\n".join(lines)


def _read_table(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the story of each line of a table, counted from 0."""
    for file in find_tables([path], ""):
        with open_table(file) as table:
            names = [name for name in FIELDS if name in table.schema.names]
            found = ", ".join(table.schema.names)
        if not names:
            raise ValueError(f"{file}: no column {' or '.join(FIELDS)}; it has {found}")
        number = 0
        with tqdm(desc="prepare", unit="stories", disable=None) as bar:
            for batch, _ in read_batches(file, names[:1]):
                for story in batch.column(0).to_pylist():
                    yield f"{file}: line {number}", story
                    number += 1
                bar.update(len(batch))
