"""Losses by position and given a translation, against plain definitions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.corpora.tiny import UNITS
from tests.support.corpora.vocabularies import vocabulary_of
from tresse.data.packing.settings import Packing
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.engine.run.ranks import Ranks
from tresse.engine.scoring.perplexity import measure_positions, measure_translations

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
HOW: dict[str, Any] = {"batch_tokens": 64, "ranks": ALONE}


class Copycat(nn.Module):
    """A model to which a unit costs nothing if it came before in its row, and 1 nat otherwise."""

    def forward(
        self, tokens: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = torch.zeros(labels.shape)
        for row in range(len(labels)):
            for place in range(labels.shape[1]):
                seen = set(tokens[row, : place + 1].tolist())
                if int(labels[row, place]) not in {-100, *seen}:
                    losses[row, place] = 1.0
        return losses.sum(), losses


def stories(folder: Path, num_units: int) -> Corpus:
    """Six stories whose translation has the same units in another order; no two share any."""
    documents = []
    for index in range(6):
        units = list(range(100 * index, 100 * index + num_units))
        documents.append(
            Document(str(index), "en", [units[: num_units // 2], units[num_units // 2 :]])
        )
        documents.append(Document(str(index), "fr", [units[::-1][:1], units[::-1][1:]]))
    return write_corpus(folder, documents, UNITS)


@pytest.mark.parametrize(
    "packing",
    [
        Packing(row_length=32),
        Packing(row_length=32, separators="eos"),
        Packing(row_length=32, separators="bos_eos", language_switch=True),
    ],
)
def test_a_translation_is_cheap_after_its_original_alone(packing: Packing, tmp_path: Path) -> None:
    corpus = stories(tmp_path / "c", 10)
    vocabulary = vocabulary_of(UNITS, packing.uses_specials)
    found = measure_translations(Copycat(), corpus, packing, vocabulary, **HOW)
    assert list(found) == ["en->fr", "fr->en"]
    for given in found.values():
        assert (given.alone, given.original, given.unrelated) == (1.0, 0.0, 1.0)
        assert given.num_documents == 6


def test_documents_that_do_not_fit_a_row_twice_are_left_out(tmp_path: Path) -> None:
    packing = Packing(row_length=18)
    corpus = stories(tmp_path / "c", 10)
    assert measure_translations(Copycat(), corpus, packing, vocabulary_of(2048), **HOW) == {}
    wide = Packing(row_length=19)
    assert measure_translations(Copycat(), corpus, wide, vocabulary_of(2048), **HOW)


class Position(nn.Module):
    """A model in which the loss of a token is its position in the row."""

    def forward(
        self, tokens: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = torch.arange(1.0, tokens.shape[1] + 1).expand(labels.shape)
        return losses.sum(), torch.where(labels == -100, 0.0, losses)


@pytest.mark.parametrize(("separators", "first"), [("none", 1), ("eos", 2)])
def test_positions_are_averaged_in_ranges_that_double(
    separators: Any, first: int, tmp_path: Path
) -> None:
    packing = Packing(row_length=32, separators=separators)
    vocabulary = vocabulary_of(UNITS, packing.uses_specials)
    found = measure_positions(Position(), stories(tmp_path / "c", 10), packing, vocabulary, **HOW)
    assert list(found) == ["en", "fr"]
    losses = np.arange(first, first + 9, dtype=float)  # of the second to the tenth unit
    assert found["en"].ends == [1, 2, 4, 8, 9]
    ranges = np.split(losses, [1, 2, 4, 8])
    assert found["en"].losses == pytest.approx([part.mean() for part in ranges])
    assert found["en"].num_documents == 6
