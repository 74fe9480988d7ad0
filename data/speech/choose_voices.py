"""Voices that sound the same in several languages, as the paper chooses its 44.

Each candidate says the same sentences in several languages. Its score is the mean cosine of the
speaker embeddings of a sentence and its translation (Moumen et al. 2025, section 4.1).
"""

import json
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tresse.data.audio.recordings import Recording, read_recordings
from tresse.data.audio.waveforms import read_spans
from tresse.data.durable import staged_file
from tresse.data.speech.embedders import SpeakerEmbedder
from tresse.data.speech.spoken_files import RECORDINGS
from tresse.data.store.translations import check_translations
from tresse.data.text_table import format_table

NUM_SHOWN = 10


class Score(NamedTuple):
    """Score of a voice: mean cosine over pairs of a recording and its translation."""

    similarity: float
    num_pairs: int


def choose_voices(
    folder: Path, embedder: SpeakerEmbedder, min_similarity: float, out: Path
) -> dict[str, Score]:
    """Score the voices FOLDER/VOICE/recordings.jsonl and write those that reach `min_similarity`.

    Returns all scores, best first. `out` is JSON, with the chosen names under `voices`, best first.
    ValueError when there are no voices, or none reaches the similarity.
    """
    manifests = sorted(folder.rglob(RECORDINGS))
    if not manifests:
        raise ValueError(f"{folder}: no voices, expected a folder with {RECORDINGS} for each")
    scores: dict[str, Score] = {}
    for path in tqdm(manifests, desc="voices", disable=None):
        scores[path.parent.relative_to(folder).as_posix()] = _score(path, embedder)
    scores = dict(sorted(scores.items(), key=lambda each: (-each[1].similarity, each[0])))
    chosen = [voice for voice, score in scores.items() if score.similarity >= min_similarity]
    if not chosen:
        best = dict(islice(scores.items(), NUM_SHOWN))
        raise ValueError(
            f"none of {len(scores)} voices reaches {min_similarity:g}; lower --min-similarity. "
            f"The best:\n\n{format_scores(best, min_similarity)}"
        )
    similarity = {voice: round(score.similarity, 6) for voice, score in scores.items()}
    found = {"voices": chosen, "min_similarity": min_similarity, "similarity": similarity}
    with staged_file(out) as file:
        file.write(json.dumps(found, indent=1, ensure_ascii=False).encode() + b"\n")
    return scores


def _score(path: Path, embedder: SpeakerEmbedder) -> Score:
    cosines = [cosine for pair in _pairs(path) for cosine in _cosines(*pair, embedder)]
    if not cosines:
        raise ValueError(
            f"{path}: no key has recordings in two languages; list translations by the same key"
        )
    return Score(float(np.mean(cosines)), len(cosines))


def _pairs(path: Path) -> Iterator[tuple[Recording, Recording]]:
    """Yield recordings that are translations of each other, every pair of languages once."""
    recordings = read_recordings([path])
    check_translations(recordings)
    keys: dict[str, list[Recording]] = {}
    for recording in recordings:
        keys.setdefault(recording.key, []).append(recording)
    for own in keys.values():
        yield from combinations(own, 2)


def _cosines(one: Recording, other: Recording, embedder: SpeakerEmbedder) -> np.ndarray:
    """Return the cosine of each sentence and its translation, float64 [num_sentences]."""
    return np.sum(_embed(one, embedder) * _embed(other, embedder), axis=1)


def _embed(recording: Recording, embedder: SpeakerEmbedder) -> np.ndarray:
    """Return unit vectors of the sentences, float64 [num_sentences, D]."""
    waveforms = list(read_spans(recording.sentences, embedder.sample_rate))
    vectors = np.asarray(embedder.embed(waveforms), np.float64)
    if vectors.ndim != 2 or len(vectors) != len(waveforms):
        raise ValueError(
            f"embedder {type(embedder).__name__} gave vectors {list(vectors.shape)} for "
            f"{len(waveforms)} waveforms, expected [{len(waveforms)}, D]"
        )
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise ValueError(f"{recording.where}: {recording} has a silent sentence")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def format_scores(scores: dict[str, Score], min_similarity: float) -> str:
    """Return a table with a line for each voice."""
    lines = [("voice", "similarity", "pairs", "")]
    for voice, score in scores.items():
        kept = "" if score.similarity >= min_similarity else "left out"
        lines.append((voice, f"{score.similarity:.3f}", str(score.num_pairs), kept))
    return format_table(lines)
