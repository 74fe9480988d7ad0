"""The rates that a forecast needs, measured: matrix products, a copy, attention, collectives.

    python bench/gemms.py --rates rates.json
    torchrun --nproc-per-node 4 bench/gemms.py --rates rates.json
    tresse plan 1b-interleave --rates rates.json

For each recipe's model it times the 12 matrix products of a layer at the sizes of a micro-batch and
with the layouts of a step: y = x w^T, dx = dy w and dw = dy^T x of the projections qkv, o, gate and
up, down; then the addition of dw to the summed gradient. Each is shown as a share of the fastest
square product, or copy, of the same run. Two numbers
are fitted to them: t = FLOPs / rate + share * bytes / copy. Among several ranks it times the
collectives of a step, as bus bandwidth (nccl-tests).
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch import Tensor

from tresse.bench.kernels.timing import Call, ceiling_calls, measure
from tresse.bench.records import quantiles, write_records
from tresse.data import processes
from tresse.data.durable import write_text
from tresse.data.text_table import format_table
from tresse.engine.attention import choose_attention
from tresse.engine.device import device_name, wait
from tresse.engine.forecast.communication import Collective, Kind
from tresse.engine.forecast.step_time import ATTENTION_PASSES, attention_flops, projections
from tresse.engine.run.config import RunConfig
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.run.recipes import RECIPES

NAMES = ("qkv", "o", "gate_up", "down")
BUDGET_MS = 200.0  # of one product
KINDS: tuple[Kind, ...] = ("reduce", "all_reduce", "all_gather", "reduce_scatter")
NUM_CALLS = 10  # of a collective
ON_GPU = torch.cuda.is_available()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure matrix products, a copy, attention and collectives."""

    recipes: tuple[str, ...] = ("360m-interleave", "1b-interleave")
    """Recipes whose models are measured."""
    tokens: int = 25 * 2048 if ON_GPU else 512
    """Tokens of a micro-batch."""
    megabytes: float = 512.0 if ON_GPU else 8.0
    """Size of the tensor that a collective works on."""
    json: str = ""
    """File for the results; empty: none."""
    rates: str = ""
    """File of rates for `tresse plan --rates`; empty: none."""


def main(options: Options) -> None:
    """Measure, print tables, write the files."""
    ranks = join()
    records = [*ceilings(ranks.device)]
    best = {record["name"]: record["rate"] for record in records}
    for recipe in options.recipes:
        records += layer_products(RECIPES[recipe](), options, ranks, best)
    if ranks.world_size > 1:
        records += collectives(options, ranks)
    if ranks.is_first:
        rates = fitted(records, best) | link_rates(records, ranks)
        print(f"{table(records)}\n\n{json.dumps(rates, indent=2)}")
        if options.json:
            write_records(options.json, records)
        if options.rates:
            write_text(Path(options.rates), json.dumps(rates, indent=2) + "\n")
            print(f"wrote {options.rates}, for tresse plan --rates")
    leave()


def ceilings(device: torch.device) -> Iterator[dict[str, Any]]:
    """Time a large copy and a large square product."""
    calls, work = ceiling_calls(device)
    for name, times in measure(calls, device, BUDGET_MS).items():
        yield record(name, times, work[name], 1.0)


def layer_products(
    config: RunConfig, options: Options, ranks: Ranks, best: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Time the products of a layer, and its attention."""
    for name, (width, out) in zip(NAMES, projections(config.model), strict=True):
        flops = 2.0 * options.tokens * width * out
        moved = 2.0 * (options.tokens * (width + out) + width * out)
        calls = product_calls(options.tokens, width, out, ranks.device)
        for direction, times in measure(calls, ranks.device, BUDGET_MS).items():
            found = record(f"{config.recipe} {name} {direction}", times, flops, best["matmul"])
            yield found | {"flops": flops, "bytes": moved}
        call, num_bytes = accumulation(width, out, ranks.device)
        times = measure({"sum": call}, ranks.device, BUDGET_MS)["sum"]
        yield record(f"{config.recipe} {name} accumulation", times, num_bytes, best["copy"])
    call, flops = attention_call(config, options, ranks)
    times = measure({"attention": call}, ranks.device, BUDGET_MS)["attention"]
    yield record(f"{config.recipe} attention", times, flops, best["matmul"])


def product_calls(tokens: int, width: int, out: int, device: torch.device) -> dict[str, Call]:
    """Return the three products of a projection on random bf16 values."""
    x, w, dy = (
        torch.randn(shape, device=device).bfloat16()
        for shape in ((tokens, width), (out, width), (tokens, out))
    )
    return {
        "forward": Call(lambda: x @ w.T),
        "dx": Call(lambda: dy @ w),
        "dweight": Call(lambda: dy.T @ x),
    }


def accumulation(width: int, out: int, device: torch.device) -> tuple[Call, float]:
    """Return the addition of a bf16 gradient to the summed fp32 one, and the bytes it moves."""
    total = torch.zeros(out, width, device=device)
    gradient = torch.randn(out, width, device=device).bfloat16()
    return Call(lambda: total.add_(gradient)), 10.0 * total.numel()


def attention_call(config: RunConfig, options: Options, ranks: Ranks) -> tuple[Call, float]:
    """Return attention forward and backward, by the backend that a run takes, and its FLOPs."""
    model, T = config.model, min(config.data.packing.row_length, options.tokens)
    tokens, attend = options.tokens // T * T, choose_attention(config, ranks)
    q, k, v = (
        torch.randn(tokens, heads, model.head_dim, device=ranks.device).bfloat16().requires_grad_()
        for heads in (model.num_heads, model.num_kv_heads, model.num_kv_heads)
    )
    dy = torch.randn_like(q)

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(q, k, v, T, None), (q, k, v), dy)

    return Call(run), tokens * ATTENTION_PASSES * attention_flops(model, T)


def record(name: str, times_ms: list[float], work: float, best: float) -> dict[str, Any]:
    """Return a result; work: FLOPs or bytes of a call; best: the rate that it is a share of."""
    median, low, high = quantiles(times_ms)
    rate = work / median * 1000
    return {
        "name": name,
        "ms": median,
        "ms_p20_p80": [low, high],
        "rate": rate,
        "share": rate / best if best > 1 else 1.0,
    }


def collectives(options: Options, ranks: Ranks) -> Iterator[dict[str, Any]]:
    """Time each kind of collective; the rate is the bus bandwidth."""
    count = int(options.megabytes * 2**20 / 4 / ranks.world_size) * ranks.world_size
    whole = torch.zeros(count, device=ranks.device)
    part = whole.chunk(ranks.world_size)[ranks.rank]
    calls: dict[Kind, Callable[[], object]] = {
        "reduce": lambda: dist.reduce(whole, dst=0),
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
    }
    for kind in KINDS:
        times = [ranked_ms(calls[kind], ranks) for _ in range(NUM_CALLS)][1:]
        bus_bytes = Collective(kind, float(whole.nbytes), 1).bus_bytes(ranks.world_size)
        yield record(kind, times, bus_bytes, 1.0)


def ranked_ms(call: Callable[[], object], ranks: Ranks) -> float:
    """Return the milliseconds of a call that all ranks begin together."""
    ranks.barrier()
    start = time.perf_counter()
    call()
    wait(ranks.device)
    return 1000 * (time.perf_counter() - start)


def fitted(records: list[dict[str, Any]], best: dict[str, float]) -> dict[str, Any]:
    """Fit the rate of products and the share of the time to move them; least relative squares."""
    products = [found for found in records if "flops" in found]
    seconds = np.array([found["ms"] / 1000 for found in products])
    terms = np.array([[found["flops"], found["bytes"] / best["copy"]] for found in products])
    per_flop, share = np.linalg.lstsq(terms / seconds[:, None], np.ones(len(seconds)), rcond=None)[
        0
    ]
    if not 0 <= share <= 1:  # the products are all of one kind
        share = float(np.clip(share, 0, 1))
        per_flop = np.mean((seconds - share * terms[:, 1]) / terms[:, 0])
    attention = [found["rate"] for found in records if found["name"].endswith("attention")]
    memory = {"memory_bytes": float(torch.cuda.mem_get_info()[1])} if ON_GPU else {}
    return {
        "name": device_name(torch.device("cuda" if ON_GPU else "cpu")),
        **memory,
        "best_flops": best["matmul"],
        "matmul_flops": float(1 / per_flop),
        "matmul_move_share": float(share),
        "attention_flops": float(np.mean(attention)),
        "copy_bytes": best["copy"],
    }


def link_rates(records: list[dict[str, Any]], ranks: Ranks) -> dict[str, float]:
    """Return the slowest bus bandwidth of the collectives, if any were timed: within a node, or of
    a GPU's share of the network between nodes.
    """
    rates = [found["rate"] for found in records if found["name"] in KINDS]
    if not rates:
        return {}
    local = processes.local_world_size()
    if local == ranks.world_size:
        return {"bus_bytes": min(rates)}
    return {"network_bytes": min(rates) / local, "gpus_per_node": local}


def table(records: list[dict[str, Any]]) -> str:
    """Return a line per measurement: milliseconds, rate, share of the best product."""
    lines = [["", "ms", "TFLOP/s or TB/s", "of the best"]]
    for found in records:
        ms = f"{found['ms']:.3f}"
        rate = f"{found['rate'] / 1e12:.3f}"
        lines.append([found["name"], ms, rate, f"{found['share']:.0%}"])
    return format_table(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
