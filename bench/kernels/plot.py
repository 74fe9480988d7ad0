"""Draw bench/results/kernels.csv: each provider's share of what the machine reaches.

python bench/kernels/plot.py bench/results/kernels.csv bench/results/kernels.png
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tresse.bench.records import read_csv

BAR = 0.16  # inches


def draw(lines: Sequence[Mapping[str, str]], path: str | Path) -> None:
    """Draw a bar for each provider, grouped by kernel, shape and direction, into an image file.

    Needs matplotlib (the extras `plot` and `bench`).
    """
    from matplotlib.figure import Figure  # an extra: the table does not need it
    from matplotlib.patches import Patch

    groups: dict[str, list[Mapping[str, str]]] = {}
    for line in lines:
        if line["ms"] and line["direction"]:
            label = f"{line['kernel']}  {line['shape']}  {line['direction']}"
            groups.setdefault(label, []).append(line)
    providers = list(dict.fromkeys(x["provider"] for group in groups.values() for x in group))
    num_bars = sum(len(group) + 1 for group in groups.values())
    figure = Figure(figsize=(11, 1.5 + BAR * num_bars), layout="constrained")
    axes = figure.add_subplot()
    y, ticks = 0, {}
    for label, group in groups.items():
        ticks[y + (len(group) - 1) / 2] = label
        for line in group:
            share = 100 * float(line["share"])
            axes.barh(y, share, color=f"C{providers.index(line['provider'])}")
            axes.text(share, y, f" {float(line['ms']):.3g} ms", va="center", fontsize=6)
            y += 1
        y += 1
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7)
    axes.set_ylim(y - 0.5, -1)
    axes.set_xlabel("percent of this machine's copy or matrix product, measured in the same run")
    axes.set_title("; ".join(dict.fromkeys(line["gpu"] for line in lines)))
    handles = [Patch(color=f"C{i}", label=name) for i, name in enumerate(providers)]
    axes.legend(handles=handles, loc="lower right")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(read_csv(sys.argv[1]), sys.argv[2])
