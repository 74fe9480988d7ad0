"""Cross-entropy per token over the used columns of padded logits.

    loss[n] = logsumexp(logits[n, :num_classes]) - logits[n, labels[n]]

logits are (..., V) with V >= num_classes: the vocabulary's width is padded for the sake of matmul
and loads, and the columns from num_classes on take no part, so their gradient is exactly zero.
Computed in fp32.
"""

import torch
import torch.nn.functional as F

IGNORE_INDEX = -100


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Loss of each token in nats, (...) fp32; where a label is IGNORE_INDEX, 0 with gradient 0.

    logits: (..., V); labels: (...) int64, each in [0, num_classes) or IGNORE_INDEX.
    """
    used = logits[..., :num_classes].flatten(0, -2)
    used = used.to(torch.promote_types(used.dtype, torch.float32))
    losses = F.cross_entropy(used, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return losses.view(labels.shape)
