"""A case, one function on inputs of one shape; its providers, all that compute it; their check."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tresse.bench.kernels.peers import is_installed
from tresse.bench.kernels.timing import Call

FORWARD, BACKWARD, BOTH = "forward", "backward", "forward+backward"
DIRECTIONS = (FORWARD, BACKWARD, BOTH)
MAX_NORM_ERROR = 2e-2  # bf16 operands leave 1e-3 to 1e-2; a wrong formula is off by 1e-1 and more
MAX_ERROR = 1e-1  # of one element, relative to the largest: one wrong row hides in a norm

Function = Callable[..., Any]


@dataclass(frozen=True)
class Provider:
    """One way to compute a case."""

    calls: Mapping[str, Call]
    """The calls that are timed, by direction."""
    results: Callable[[], list[Tensor]]
    """Computes outputs and gradients on fresh inputs, in the order of the case's names."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One function on inputs of one shape, and all that compute it."""

    kernel: str
    shape: str
    names: Sequence[str]
    """Names of the results."""
    want: Callable[[], list[Tensor]]
    """Computes the results in fp32."""
    providers: Mapping[str, Callable[[], Provider]]
    """Providers by name, made when their turn comes. The first is ours."""
    num_bytes: Mapping[str, float]
    """Bytes that must be moved, by direction: each input read once, each output written once."""
    flops: Mapping[str, float]
    """Floating-point operations of matrix products, by direction; empty where there are none."""


def differentiable(
    function: Function,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    directions: Sequence[str] = DIRECTIONS,
    overwrites: bool = False,
    arrange: Callable[[list[Tensor]], list[Tensor]] = list,
) -> Provider:
    """Provide a function of tensors, with its gradient by autograd.

    overwrites: the function writes over its inputs or cotangents, so it gets copies, which are
    restored before each call. arrange: turns its results into those of the case.
    """
    inputs = [*leaves, *cotangents]
    if overwrites:
        inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    own_leaves, own_cotangents = inputs[: len(leaves)], inputs[len(leaves) :]

    def restore() -> None:
        for own, original in zip(inputs, (*leaves, *cotangents), strict=True):
            own.data.copy_(original.detach())  # .data: saved tensors do not notice

    def forward() -> tuple[Tensor, ...]:
        return as_tuple(function(*own_leaves))

    def gradients(outputs: tuple[Tensor, ...], **options: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, own_leaves, own_cotangents, **options)

    @functools.cache
    def kept() -> tuple[Tensor, ...]:
        return forward()

    runs = {
        FORWARD: forward,
        BACKWARD: lambda: gradients(kept(), retain_graph=True),
        BOTH: lambda: gradients(forward()),
    }
    before = restore if overwrites else None

    def results() -> list[Tensor]:
        if before:
            before()
        outputs = forward()
        copies = [y.detach().clone() for y in outputs]
        return arrange([*copies, *gradients(outputs)])

    return Provider({name: Call(runs[name], before) for name in directions}, results)


def differentiated(
    function: Function, leaves: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor]:
    """Compute outputs and gradients of a function in fp32, on widened inputs."""
    wide = [x.detach().float().requires_grad_() for x in leaves]
    outputs = as_tuple(function(*wide))
    grads = torch.autograd.grad(outputs, wide, [grad.float() for grad in cotangents])
    return [x.detach() for x in (*outputs, *grads)]


def compiled(function: Function, device: torch.device) -> Function:
    """Compile the function; on a CPU without Inductor, as a check that it can be traced."""
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    """Put one tensor, or several, into a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def case_with_peers(
    ours: Function,
    formula: Function,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    kernel: str,
    shape: str,
    names: Sequence[str],
    num_bytes: Mapping[str, float],
    flops: Mapping[str, float] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    others: Mapping[str, Function] | None = None,
    makers: Mapping[str, Callable[[], Provider]] | None = None,
) -> Case:
    """Make a case of a differentiable function: ours, the formula, the same compiled, and peers.

    others: functions by the name of their library; makers: the providers of libraries whose
    functions take other inputs. Peers are called on a GPU where they are installed.
    """
    device = leaves[0].device
    functions = {"tresse": ours, "eager": formula, "compile": compiled(formula, device)}
    options: dict[str, Any] = {"cotangents": cotangents, "directions": directions}

    def by(functions: Mapping[str, Function]) -> dict[str, Callable[[], Provider]]:
        return {
            name: functools.partial(differentiable, function, leaves, **options)
            for name, function in functions.items()
        }

    libraries = {**by(others or {}), **(makers or {})} if device.type == "cuda" else {}
    installed = {name: make for name, make in libraries.items() if is_installed(name)}
    return Case(
        kernel=kernel,
        shape=shape,
        names=names,
        want=lambda: differentiated(formula, leaves, cotangents),
        providers=by(functions) | installed,
        num_bytes=num_bytes,
        flops=flops or {},
    )


def both_ways(forward: float, backward: float) -> dict[str, float]:
    """Bytes or operations of both directions, and of one after the other."""
    return {FORWARD: forward, BACKWARD: backward, BOTH: forward + backward}


def product_flops(N: int, D: int, width: int) -> dict[str, float]:
    """Operations of y = x @ w.T: one product forward, two backward."""
    product = 2.0 * N * D * width
    return both_ways(product, 2 * product)


def compare(
    names: Sequence[str], found: Sequence[Tensor], want: Sequence[Tensor]
) -> tuple[float, str]:
    """Return the largest relative error in the norm, and what is wrong: empty where nothing is."""
    worst, complaints = 0.0, []
    for name, x, y in zip(names, found, want, strict=True):
        if x.shape != y.shape:
            complaints.append(f"{name} is {tuple(x.shape)}, expected {tuple(y.shape)}")
            continue
        difference = x.float() - y
        norm = (difference.norm() / y.norm()).item()
        largest = (difference.abs().max() / y.abs().max()).item()
        worst = max(worst, norm)
        if not (norm <= MAX_NORM_ERROR and largest <= MAX_ERROR):  # NaN is no less
            complaints.append(f"{name} is off by {norm:.1e} in the norm, {largest:.1e} at most")
    return worst, "; ".join(complaints)


def poison(device: torch.device, results: Sequence[Tensor]) -> None:
    """Leave NaN in freed memory, where a provider's outputs are likely to be put."""
    size = 2 * sum(x.nbytes for x in results)
    torch.full((size // 4 + 1,), float("nan"), device=device)
