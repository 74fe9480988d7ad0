"""What bench/throughput.py says of its rounds: records, a table, ratios, and a chart.

python bench/throughput_report.py bench/results/throughput-cpu.json bench/results/throughput-cpu.png
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tresse.bench.peers.workload import WIDTH
from tresse.bench.records import quantiles
from tresse.bench.throughput_ways import Job, Sample, environment
from tresse.data.text_table import format_table
from tresse.engine.forecast.flops import flops_per_token, peak_flops
from tresse.engine.model import parameter_sizes
from tresse.engine.run.provenance import machine

COLUMNS = ("recipe", "way", "ranks", "micro_rows", "compile", "tokens_per_s", "step_ms")
COLUMNS += ("step_ms_p20_p80", "mfu_causal", "mfu_full", "memory_gib", "tresse_over_way")
# Okabe and Ito's palette, which colour-blind people can tell apart.
COLOURS = {
    "tresse": "#0072B2",
    "tresse-compiled": "#BBBBBB",
    "ddp": "#56B4E9",
    "trainer": "#E69F00",
    "transformers": "#009E73",
    "liger": "#CC79A7",
    "nanochat": "#D55E00",
    "interleaved_lm": "#F0E442",
}
Samples = Mapping[str, Sequence[Sample]]
"""Every way's samples, one per round."""


def make_records(job: Job, samples: Samples) -> list[dict[str, Any]]:
    """Return a record for each way that has taken part in a round."""
    records = [make_record(way, job, rounds) for way, rounds in samples.items() if rounds]
    ours = next((record for record in records if record["way"] == "tresse"), None)
    for record in records:
        record["tresse_over_way"] = ours and ours["tokens_per_s"] / record["tokens_per_s"]
        record["flops_over_ours"] = record["flops_per_token"] / flops_of(job)["full"]
    return records


def make_record(way: str, job: Job, rounds: Sequence[Sample]) -> dict[str, Any]:
    """Return the median and the spread over the steps of all rounds, and each round's median."""
    config, last, on_gpu = job.config, rounds[-1], torch.cuda.is_available()
    median, low, high = quantiles([ms for sample in rounds for ms in sample["steps_ms"]])
    tokens_per_s = 1000 * job.ranks * job.rows * config.data.packing.row_length / median
    precision = config.sharding.precision
    peak = peak_flops(torch.cuda.get_device_name() if on_gpu else "cpu", precision)
    flops = flops_of(job)
    flops |= {name: last[f"flops_{name}"] for name in flops if f"flops_{name}" in last}
    mfu = {
        f"mfu_{name}": count and peak and count * tokens_per_s / (peak * job.ranks)
        for name, count in flops.items()
    }
    return {
        "recipe": job.recipe,
        "way": way,
        "ranks": job.ranks,
        "threads": int(environment(job)["OMP_NUM_THREADS"]),
        "rows_per_step": job.ranks * job.rows,
        "micro_rows": last["micro_rows"],
        "precision": precision,
        "compile": last["compile"],
        "parameters": last.get("parameters") or sum(parameter_sizes(config.model, WIDTH)),
        "shape": last.get("shape", "ours"),
        "peer_commit": last.get("peer_commit"),
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_per_gpu": tokens_per_s / job.ranks if on_gpu else None,
        "step_ms": median,
        "step_ms_p20_p80": [low, high],
        "num_steps": sum(len(sample["steps_ms"]) for sample in rounds),
        "rounds_ms": [quantiles(sample["steps_ms"])[0] for sample in rounds],
        "flops_per_token": flops["full"],
        **mfu,
        "peak_flops": peak,
        "memory_gib": max(sample["memory_gib"] for sample in rounds),
        "data_wait_ms": last.get("data_wait_ms"),
        "loss": last.get("loss"),
    }


def flops_of(job: Job) -> dict[str, float]:
    """Return the FLOPs per token of our model, with attention as computed and in full."""
    return flops_per_token(job.config.model, job.config.data.packing.row_length, WIDTH)._asdict()


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the records as a table."""
    return format_table(
        [COLUMNS, *([_format(r[name]) for name in COLUMNS] for r in records)], num_left=2
    )


def ratios(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each way that is not ours, with its FLOPs where its model is another."""
    lines = []
    for record in records:
        if record["way"] != "tresse" and record["tresse_over_way"]:
            line = f"{record['recipe']}: tresse / {record['way']} {record['tresse_over_way']:.3f}"
            lines.append(line + _other_flops(record))
    return lines


def draw(records: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw the tokens per second of each way as a bar, with p20 to p80, a panel per recipe.

    Needs matplotlib (the extras `plot` and `bench`).
    """
    from matplotlib.figure import Figure  # an extra: the table does not need it

    panels: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        ranks = f"{record['ranks']} ranks" if record["ranks"] > 1 else "1 rank"
        panels.setdefault(f"{record['recipe']}, {ranks}, {record['precision']}", []).append(record)
    height = 0.8 + sum(0.7 + 0.38 * len(panel) for panel in panels.values())
    figure = Figure(figsize=(8, height), layout="constrained")
    sizes = [1 + len(panel) for panel in panels.values()]
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for panel, (title, group) in zip(axes, panels.items(), strict=True):
        draw_panel(panel, title, group)
    found = records[0].get("machine", machine())
    figure.suptitle(f"Training steps on {found['gpu'] or found['cpu']}", fontsize=10)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_panel(axes: Any, title: str, group: Sequence[Mapping[str, Any]]) -> None:
    """Draw the bars of a recipe, ours first."""
    for y, record in enumerate(group):
        rate, low, high = (record["tokens_per_s"], *_rates(record))
        spread = [[rate - low], [high - rate]]
        colour = COLOURS.get(record["way"], "#999999")
        axes.barh(y, rate, color=colour, edgecolor="black", linewidth=0.5)
        axes.errorbar(rate, y, xerr=spread, color="black", capsize=3, linewidth=1)
        axes.text(high, y, f"  {rate:,.0f}", va="center", fontsize=8)
    names = [record["way"] + _other_flops(record).replace(" (", "\n(") for record in group]
    axes.set_yticks(range(len(group)), names, fontsize=8)
    axes.set_ylim(len(group) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(_rates(record)[1] for record in group))
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("tokens per second, all ranks; median, p20 to p80 of all steps", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _other_flops(record: Mapping[str, Any]) -> str:
    ratio = record["flops_over_ours"]
    return "" if ratio == 1 else f" ({ratio:.2f} x our FLOPs per token)"


def _rates(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return the tokens per second of the 80th and of the 20th percentile of the step's time."""
    fast_ms, slow_ms = record["step_ms_p20_p80"]
    tokens = record["tokens_per_s"] * record["step_ms"]
    return tokens / slow_ms, tokens / fast_ms


def _format(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_format(item) for item in value)
    return f"{value:,.4g}" if isinstance(value, float) else str(value or "-")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
