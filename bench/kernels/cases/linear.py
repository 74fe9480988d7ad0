"""Cases of the matrix products: a layer's projections and the head, in all three directions."""

from torch import Tensor, device

from tresse.bench.kernels.inputs import VOCABULARIES, Inputs, Shape
from tresse.bench.kernels.providers import Case, Provider
from tresse.bench.kernels.timing import Call


def projections(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return the input and output width of each projection."""
    D, F, heads = shape.D, shape.F, shape.H + 2 * shape.Hkv
    return {
        "qkv": (D, heads * shape.K),
        "o": (shape.H * shape.K, D),
        "gate_up": (D, 2 * F),
        "down": (F, D),
        "head": (D, VOCABULARIES[1][1]),
    }


def linear_case(shape: Shape, name: str, device: device) -> Case:
    """One projection: y = x w^T, and the gradients dx = dy w and dw = dy^T x, by cuBLAS."""
    (width, out), N, inputs = projections(shape)[name], shape.N, Inputs(device)
    x, w, dy = inputs.normal(N, width), inputs.normal(out, width), inputs.normal(N, out)
    calls = {
        "forward": lambda: x @ w.T,
        "dx": lambda: dy @ w,
        "dweight": lambda: dy.T @ x,
    }

    def want() -> list[Tensor]:
        wide_x, wide_w, wide_dy = x.float(), w.float(), dy.float()
        return [wide_x @ wide_w.T, wide_dy @ wide_w, wide_dy.T @ wide_x]

    provider = Provider(
        {direction: Call(run) for direction, run in calls.items()},
        lambda: [run() for run in calls.values()],
    )
    flops = dict.fromkeys(calls, 2.0 * N * width * out)
    tensors = (N * width, width * out, N * out)
    return Case(
        kernel="linear",
        shape=f"{shape.name} {name} N={N} {width}->{out}",
        names=("y", "dx", "dweight"),
        want=want,
        providers={"torch": lambda: provider},
        num_bytes=dict.fromkeys(calls, 2.0 * sum(tensors)),
        flops=flops,
    )
