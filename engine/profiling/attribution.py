"""The time of a trace by part of the step.

On a GPU every kernel belongs to one part: by its own name, or else by the operator that launched
it. On a CPU every operator does, with the time that it spends itself. An operator belongs to the
part whose range it lies in; in the backward pass, to the part of its forward operator.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tresse.engine.profiling.labels import PREFIX

KERNELS = {
    "communication": r"nccl",
    "attention": r"flash|fmha|sdpa|_attention_|attn",
    "norm": r"_rmsnorm_",
    "swiglu": r"_swiglu_",
    "rope": r"_rope_",
    "loss": r"_cross_entropy_|_scale_kernel",
    "optimizer": r"_adamw_|_squares_kernel|_total_kernel|multi_tensor_apply",
    "packing": r"^_gather_kernel|memcpy.*htod",
    "matmul": r"gemm|nvjet|cutlass|cublas|xmma|splitk",
}
"""Names of kernels, in the order in which they are tried."""
OPERATORS = {
    "communication": r"c10d::|gloo:|nccl:|record_param_comms",
    "matmul": r"aten::(mm|addmm|addmm_|bmm|baddbmm|_scaled_mm)$",
    "optimizer": r"Optimizer\.step|AccumulateGrad",
    "embedding": r"aten::embedding|EmbeddingBackward",
}
"""Names of operators that decide before a range does; an attention's own products are its own."""
BACKWARD = "autograd::engine::evaluate_function"
MICROSECONDS = 1e-6

Links = dict[tuple[int, int], str]
"""Parts of operators by the thread that ran them and the number that autograd gave them there."""


@dataclass(frozen=True, slots=True)
class PartTimes:
    """Seconds of a trace."""

    parts: dict[str, float]
    """Of each part; what belongs to none is `other`. Of communication, what nothing hides."""
    hidden_communication: float
    """Of communication behind other kernels."""
    busy: float
    """Time in which the device, or the thread of a CPU, did anything."""

    def per_step(self, number: int) -> "PartTimes":
        """Return the means over a number of steps."""
        parts = {part: seconds / number for part, seconds in self.parts.items()}
        return PartTimes(parts, self.hidden_communication / number, self.busy / number)


def part_times(events: Iterable[Any]) -> PartTimes:
    """Sum up the events of torch.profiler by part."""
    events = list(events)
    # A range appears on the GPU too, as an annotation from its first kernel to its last.
    on_gpu = [event for event in events if event.device_type.name == "CUDA"]
    kernels = [event for event in on_gpu if not event.is_user_annotation]
    operators = [event for event in events if event.device_type.name == "CPU"]
    linked = _forward_parts(operators)
    if not kernels:
        times: defaultdict[str, float] = defaultdict(float)
        for event in operators:
            times[_operator_part(event, linked)] += event.self_cpu_time_total * MICROSECONDS
        return PartTimes(dict(times), 0.0, sum(times.values()))
    return _kernel_times(kernels, operators, linked)


def _kernel_times(kernels: list[Any], operators: list[Any], linked: Links) -> PartTimes:
    """Sum up kernels: each by its name, or by the operators that launched those of its name."""
    shares: dict[str, Counter[str]] = {}
    for event in operators:
        for kernel in event.kernels:
            part = _operator_part(event, linked)
            shares.setdefault(kernel.name, Counter())[part] += kernel.duration
    times: defaultdict[str, float] = defaultdict(float)
    for event in kernels:
        seconds = event.time_range.elapsed_us() * MICROSECONDS
        if part := _match(event.name, KERNELS):
            times[part] += seconds
            continue
        share = shares.get(event.name) or Counter(other=1)
        for part, weight in share.items():
            times[part] += seconds * weight / (sum(share.values()) or 1)
    busy = _covered(kernels)
    without = _covered([k for k in kernels if _match(k.name, KERNELS) != "communication"])
    hidden = max(0.0, times["communication"] - (busy - without))
    times["communication"] -= hidden
    return PartTimes(dict(times), hidden, busy)


def _covered(kernels: list[Any]) -> float:
    """Return the seconds in which at least one kernel runs."""
    total, end = 0.0, float("-inf")
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total * MICROSECONDS


def _forward_parts(operators: list[Any]) -> Links:
    """Return the part of each operator that autograd has numbered."""
    parts = {}
    for event in operators:
        if event.sequence_nr >= 0 and (part := _range(event)):
            parts[event.thread, event.sequence_nr] = part
    return parts


def _operator_part(event: Any, linked: Links) -> str:
    part = _range(event) or _backward_range(event, linked)
    if part == "attention":
        return part
    for each in _ancestors(event):
        if named := _match(each.name, OPERATORS):
            return named
    return part or "other"


def _range(event: Any) -> str | None:
    """Return the part of the innermost range around an operator."""
    for each in _ancestors(event):
        if each.name.startswith(PREFIX):
            return each.name.removeprefix(PREFIX)
    return None


def _backward_range(event: Any, linked: Links) -> str | None:
    for each in _ancestors(event):
        if each.name.startswith(BACKWARD):
            return linked.get((each.fwd_thread, each.sequence_nr))
    return None


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _match(name: str, patterns: dict[str, str]) -> str | None:
    return next((part for part, p in patterns.items() if re.search(p, name, re.IGNORECASE)), None)
