"""Batches gathered on a GPU equal those of the packer, bit for bit."""

from pathlib import Path

import pytest
import torch

from tresse.data.packing.packer import plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.packing.sources import Sources
from tresse.data.store.corpus import Corpus
from tresse.engine.batches import to_device, upload_pool

CPU, GPU = torch.device("cpu"), torch.device("cuda")
STREAM = Stream(languages=("en", "fr"), mode="sample")
PACKINGS = [
    Packing(row_length=64),
    Packing(row_length=61, separators="eos", language_switch=True, mask_documents=True),
    Packing(row_length=128, mode="best_fit", separators="bos_eos"),
]


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: packing.mode)
def test_rows_gathered_on_a_gpu_are_those_of_the_packer(world: Path, packing: Packing):
    corpus = Corpus.open(world / "train")
    plan = plan_rows(corpus, [STREAM], packing, tokens=20_000, seed=1, stage=0)
    pool, mask = upload_pool(Sources((corpus,)), GPU), packing.mask_documents
    for first in range(0, plan.num_rows - 7, 7):
        gathered = to_device(plan.copies(first, 7), GPU, mask, pool)
        packed = to_device(plan.fill(first, 7), CPU, mask)
        for name in ("tokens", "labels", "languages", "cu_seqlens"):
            found, expected = getattr(gathered, name), getattr(packed, name)
            assert (found is None) == (expected is None)
            if expected is not None:
                assert found.dtype == expected.dtype
                assert torch.equal(found.cpu(), expected), (first, name)


def test_a_batch_of_the_packer_arrives_on_the_gpu_as_it_is(world: Path):
    packing = PACKINGS[1]
    corpus = Corpus.open(world / "train")
    plan = plan_rows(corpus, [STREAM], packing, tokens=20_000, seed=1, stage=0)
    batch = plan.fill(3, 5)
    moved, kept = (to_device(batch, device, packing.mask_documents) for device in (GPU, CPU))
    for name in ("tokens", "labels", "languages", "cu_seqlens"):
        assert torch.equal(getattr(moved, name).cpu(), getattr(kept, name))
