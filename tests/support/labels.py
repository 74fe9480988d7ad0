"""The definition of the labels of a batch that count."""

import numpy as np

from tresse.data.packing.packer import Batch


def counted_labels(batch: Batch, mask_documents: bool) -> np.ndarray:
    """Return bool [B, T]: True for labels that count.

    That follows from `num_valid`, starts of documents, and spans that do not count.
    """
    T = batch.tokens.shape[1] - 1
    counted = (np.arange(T) < batch.num_valid[:, None]) & batch.counted()[:, 1:]
    if mask_documents:
        cuts = batch.cu_seqlens[batch.cu_seqlens % T != 0]
        counted.reshape(-1)[cuts - 1] = False
    return counted
