"""A picture of bench/results/kernels.csv: each provider's share of what the machine reaches.

python bench/kernels/plot.py bench/results/kernels.csv bench/results/kernels.png
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tresse.bench.rows import read_csv

BAR = 0.16  # inches


def draw(rows: Sequence[Mapping[str, str]], path: str | Path) -> None:
    """Draw a bar for each provider, grouped by kernel, shape and direction, into an image file.

    Needs matplotlib (the extras `plot` and `bench`).
    """
    from matplotlib.figure import Figure  # an extra: the numbers can be had without it
    from matplotlib.patches import Patch

    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        if row["ms"] and row["direction"]:
            label = f"{row['kernel']}  {row['shape']}  {row['direction']}"
            groups.setdefault(label, []).append(row)
    providers = list(dict.fromkeys(row["provider"] for group in groups.values() for row in group))
    num_lines = sum(len(group) + 1 for group in groups.values())
    figure = Figure(figsize=(11, 1.5 + BAR * num_lines), layout="constrained")
    axes = figure.add_subplot()
    line, ticks = 0, {}
    for label, group in groups.items():
        ticks[line + (len(group) - 1) / 2] = label
        for row in group:
            share = 100 * float(row["share"])
            axes.barh(line, share, color=f"C{providers.index(row['provider'])}")
            axes.text(share, line, f" {float(row['ms']):.3g} ms", va="center", fontsize=6)
            line += 1
        line += 1
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7)
    axes.set_ylim(line - 0.5, -1)
    axes.set_xlabel("percent of this machine's copy or matrix product, measured in the same run")
    axes.set_title("; ".join(dict.fromkeys(row["gpu"] for row in rows)))
    handles = [Patch(color=f"C{i}", label=name) for i, name in enumerate(providers)]
    axes.legend(handles=handles, loc="lower right")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(read_csv(sys.argv[1]), sys.argv[2])
