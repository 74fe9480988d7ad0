"""Rows on the device: labels are the next tokens, masked where they do not count."""

from dataclasses import replace

import numpy as np
import torch

from tests.support.labels import counted_labels
from tresse.data.packing.packer import Batch
from tresse.engine.batches import to_device
from tresse.kernels.cross_entropy import IGNORE_INDEX

CPU = torch.device("cpu")


def make_batch() -> Batch:
    """Two rows of five inputs: documents start at 0:0, 0:3, 1:0 (by the row's cut) and 1:2."""
    return Batch(
        tokens=np.array([[1, 2, 3, 4, 5, 6], [6, 7, 65535, 9, 0, 0]], np.uint16),
        num_valid=np.array([5, 3], np.int32),
        cu_seqlens=np.array([0, 3, 5, 7, 9, 10], np.int32),
        span_starts=np.array([0, 3, 6, 12], np.int32),
        span_languages=np.array([0, 1, 1], np.uint8),
        span_counted=np.array([1, 1, 1], np.uint8),
    )


def test_labels_are_the_next_tokens_and_end_with_the_valid_ones() -> None:
    batch = to_device(make_batch(), CPU, mask_documents=False)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 7, 65535, 9, 0]]
    assert batch.labels.tolist() == [[2, 3, 4, 5, 6], [7, 65535, 9, IGNORE_INDEX, IGNORE_INDEX]]
    assert batch.cu_seqlens is None


def test_with_documents_masked_a_label_that_starts_one_does_not_count() -> None:
    packed = make_batch()
    batch = to_device(packed, CPU, mask_documents=True)
    masked = IGNORE_INDEX
    assert batch.labels.tolist() == [[2, 3, masked, 5, 6], [7, masked, 9, masked, masked]]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens[:6].tolist() == packed.cu_seqlens.tolist()
    assert batch.cu_seqlens.shape == (256,)
    assert set(batch.cu_seqlens[6:].tolist()) == {10}, "documents of length zero"
    counted = counted_labels(packed, True)
    assert (batch.labels != masked).tolist() == counted.tolist()


def test_the_language_of_a_label_is_that_of_the_token_it_names() -> None:
    batch = to_device(make_batch(), CPU, mask_documents=False)
    assert batch.languages.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_labels_of_a_span_that_does_not_count_are_ignored() -> None:
    packed = replace(make_batch(), span_counted=np.array([1, 0, 1], np.uint8))
    batch = to_device(packed, CPU, mask_documents=False)
    ignored = IGNORE_INDEX
    assert batch.labels.tolist() == [
        [2, 3, ignored, ignored, ignored],
        [7, 65535, 9, *[ignored] * 2],
    ]
    assert (batch.labels != ignored).tolist() == counted_labels(packed, False).tolist()
