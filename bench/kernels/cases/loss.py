"""Cases of the cross-entropy: of given logits, and with the head that computes them."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tresse.bench.kernels import peers
from tresse.bench.kernels.inputs import Inputs, Shape, narrowed
from tresse.bench.kernels.providers import (
    BOTH,
    FORWARD,
    Case,
    Function,
    Provider,
    case_with_peers,
    differentiable,
    product_flops,
)
from tresse.bench.kernels.timing import Call
from tresse.kernels.cross_entropy import cross_entropy_
from tresse.kernels.linear_cross_entropy import linear_cross_entropy


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """PyTorch's cross-entropy in fp32, which bf16 logits need."""
    return F.cross_entropy(logits.float(), labels)


def cross_entropy_case(classes: int, columns: int, shape: Shape, device: torch.device) -> Case:
    """Mean loss of logits and its gradient; ours and Liger's replaces the logits."""
    N, V, inputs = narrowed(shape, columns).N, columns, Inputs(device)
    labels = inputs.labels(N, classes)
    leaves = [inputs.leaf(N, V, std=2.0)]
    cotangents = [torch.ones((), device=device)]

    def used(function: Function) -> Function:
        cut = classes < V  # a slice of all columns would still copy its gradient
        return lambda logits: function(logits[:, :classes] if cut else logits, labels)

    def liger() -> Provider:
        function = used(peers.liger_cross_entropy)
        return differentiable(function, leaves, cotangents, directions=(BOTH,), overwrites=True)

    case = case_with_peers(
        used(mean_loss),
        used(mean_loss),
        leaves,
        cotangents,
        kernel="cross_entropy",
        shape=f"N={N} V={V} C={classes}",
        names=("loss", "dlogits"),
        num_bytes={FORWARD: 2 * N * V, BOTH: 2 * 2 * N * V},  # logits; logits and dlogits
        directions=(FORWARD, BOTH),
        others={"quack": used(peers.quack_cross_entropy)},
        makers={"liger": liger},
    )
    if device.type == "cpu":
        return case
    by_kernel = partial(cross_entropy_by_kernel, leaves[0], labels, classes)
    return replace(case, providers={**case.providers, "tresse": by_kernel})


def cross_entropy_by_kernel(given: Tensor, labels: Tensor, classes: int) -> Provider:
    """Ours, which is no function of tensors: it writes over its logits."""
    logits, losses = given.detach().clone(), torch.empty_like(labels, dtype=torch.float32)
    scale = torch.tensor(1 / len(labels), device=given.device)

    def restore() -> None:
        logits.copy_(given.detach())

    def run() -> None:
        cross_entropy_(logits, labels, classes, losses, scale)

    def results() -> list[Tensor]:
        restore()
        run()
        return [losses.mean(), logits]

    alone = Call(lambda: cross_entropy_(logits, labels, classes, losses))
    return Provider({FORWARD: alone, BOTH: Call(run, restore)}, results)


def linear_cross_entropy_case(
    classes: int, columns: int, shape: Shape, device: torch.device
) -> Case:
    """The head and the mean loss, with both gradients, which most compute in the forward."""
    shape = narrowed(shape, columns)
    N, D, V, inputs = shape.N, shape.D, columns, Inputs(device)
    labels = inputs.labels(N, classes)
    scale = torch.tensor(1 / N, device=device)

    def ours(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, labels, classes, scale)[0]

    def formula(hidden: Tensor, weight: Tensor) -> Tensor:
        return mean_loss(F.linear(hidden, weight)[:, :classes], labels)

    def used(function: Function) -> Function:
        return lambda hidden, weight: function(
            hidden, weight[:classes] if classes < V else weight, labels
        )

    return case_with_peers(
        ours,
        formula,
        [inputs.leaf(N, D), inputs.leaf(V, D, std=0.02)],
        [torch.ones((), device=device)],
        kernel="linear_cross_entropy",
        shape=f"{shape.name} N={N} D={D} V={V} C={classes}",
        names=("loss", "dhidden", "dweight"),
        num_bytes={BOTH: 2 * 2 * (N * D + V * D)},
        flops={BOTH: product_flops(N, D, V)[BOTH]},
        directions=(BOTH,),
        others={
            "liger": used(peers.liger_linear_cross_entropy),
            "quack": used(peers.quack_linear_cross_entropy),
        },
    )
