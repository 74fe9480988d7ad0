"""Charts drawn by matplotlib: colours, markers and dashes that tell setups apart without colour."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tresse.engine.reporting.blocks import Chart, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without yellow and black, which a white or a dark page hides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)))
TEXT, GRID = "#1B1B1A", "#D5D8DC"
"""Colours of text and of grid lines, which a page replaces by its own."""

WIDTH, HEIGHT, LEGEND_LINE, CATEGORY, POINT = 3.7, 2.3, 0.19, 0.32, 0.07  # inches
MAX_MARKED = 16
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "text.color": TEXT,
    "text.parse_math": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


def check_packages() -> None:
    """Raise ValueError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise ValueError("charts need matplotlib: pip install 'tresse[plot]'")


def draw(chart: Chart) -> "Figure":
    """Draw a chart, to be saved within the settings RC."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    named = [line for line in chart.lines if not line.is_control]
    columns = 2 if max((len(line.name) for line in named), default=0) <= 20 else 1
    rows = -(-(len(named) + len(chart.levels)) // columns)
    height = HEIGHT
    if chart.categories:
        height = 0.9 + len(chart.categories) * max(CATEGORY, POINT * len(chart.lines))
    with mpl.rc_context(RC):
        figure = Figure((WIDTH, height + LEGEND_LINE * rows), layout="constrained")
        axes = figure.subplots()
        _draw_lines(axes, chart)
        _scale(axes, chart)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False)
    return figure


def look(style: Style) -> dict[str, Any]:
    """Return the colour, marker and dashes of a style, as matplotlib names them."""
    return {
        "color": COLOURS[style.colour % len(COLOURS)],
        "marker": MARKERS[style.mark % len(MARKERS)],
        "linestyle": DASHES[style.mark % len(DASHES)],
        "markersize": 4.5,
        "linewidth": 1.5,
    }


def _draw_lines(axes: "Axes", chart: Chart) -> None:
    for number, line in enumerate(chart.lines):
        options: dict[str, Any] = look(line.style) | {"gid": f"line{number}"}
        if line.is_control:
            options |= {"marker": "", "linestyle": ":", "linewidth": 1.0}
        else:
            options["label"] = line.name.replace("_", "\u200b_", 1)  # "_" first would hide it
        if chart.categories:
            options["linestyle"] = ""
        if line.errors:
            axes.errorbar(
                line.xs, line.ys, xerr=line.errors, fmt="none", color=options["color"], linewidth=1
            )
        options["markevery"] = _marked(len(line.xs), number)
        axes.plot(line.xs, line.ys, **options)
    for level in chart.levels:
        draw_level = axes.axvline if chart.categories else axes.axhline
        draw_level(level.value, color=TEXT, linewidth=1, linestyle=(0, (3, 2)), label=level.name)


def _marked(number: int, offset: int) -> Any:
    """Return which points have a marker: all of a few, else some that other lines do not have."""
    if number <= MAX_MARKED:
        return None
    every = number // 8
    return (offset * every // 4 % every, every)


def _scale(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(axis="x" if chart.categories else "y")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    if chart.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30))
    elif all(isinstance(x, int) for line in chart.lines for x in line.xs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.log_y:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        places = (1, 1.2, 1.5, 2, 3, 5, 8) if high < 8 * low else (1, 2, 3, 5)
        axes.yaxis.set_major_locator(LogLocator(subs=places, numticks=30))
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}".replace("-", "−")))
    if chart.categories:
        axes.set_yticks(range(len(chart.categories)), chart.categories)
        axes.set_ylim(len(chart.categories) - 0.5, -0.5)
