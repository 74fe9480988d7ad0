"""Figures as SVG for a page: its colours and fonts, a title and a description, ids of their own.

Text stays text. Colours become CSS variables, so that the page's dark mode changes them.
"""

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tresse.engine.reporting.blocks import Chart
from tresse.engine.reporting.figures import COLOURS, GRID, RC, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
GROUND = "#ffffff"
NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}
FAMILY = re.compile(r"font-family: [^;]*;? *")
SHORTHAND = re.compile(r"font: ([\d.]+px) [^;]*")
"""Size and family in one, as older versions of matplotlib write them."""


def save(figure: "Figure", kind: str, chart: Chart) -> bytes:
    """Return a figure as a file of a kind, such as "svg" or "png"."""
    import matplotlib as mpl

    file, metadata = io.BytesIO(), NO_METADATA if kind == "svg" else None
    with mpl.rc_context({**RC, "svg.hashsalt": chart.name}):
        figure.savefig(file, format=kind, metadata=metadata, dpi=200)
    return file.getvalue()


def inline(svg: bytes, chart: Chart) -> str:
    """Return a file of `save` as an element `svg` in the colours of the page around it."""
    root = ElementTree.fromstring(svg)
    _strip(root)
    for element in root.iter():
        _adopt(element, chart.name)
    _describe(root, chart)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: ElementTree.Element) -> None:
    """Remove what only a file of its own needs; leave names without their namespace."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)


def _adopt(element: ElementTree.Element, name: str) -> None:
    """Give an element the page's colours and font, and ids that no other chart has."""
    if XLINK in element.attrib:
        element.set("href", element.attrib.pop(XLINK))
    for key, value in element.attrib.items():
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href":
            value = f"#{name}-{value.removeprefix('#')}"
        else:
            value = value.replace("url(#", f"url(#{name}-")
        element.set(key, _coloured(FAMILY.sub("", SHORTHAND.sub(r"font-size: \1", value))))


def _coloured(style: str) -> str:
    for number, colour in enumerate(COLOURS):
        style = style.replace(colour.lower(), f"var(--s{number})")
    for colour, name in ((TEXT, "currentColor"), (GRID, "var(--grid)"), (GROUND, "none")):
        style = style.replace(colour.lower(), name)
    return style


def _describe(root: ElementTree.Element, chart: Chart) -> None:
    """Name the chart and its lines for readers who do not see them, or point at them."""
    root.set("role", "img")
    root.set("class", "chart")
    root.set("aria-labelledby", f"{chart.name}-title {chart.name}-desc")
    for number, (tag, text) in enumerate((("title", chart.title), ("desc", describe(chart)))):
        element = ElementTree.Element(tag, id=f"{chart.name}-{tag}")
        element.text = text
        root.insert(number, element)
    for number, line in enumerate(chart.lines):
        for group in root.iter("g"):
            if group.get("id") == f"{chart.name}-line{number}":
                title = ElementTree.Element("title")
                title.text = line.name
                group.insert(0, title)


def describe(chart: Chart) -> str:
    """Return the chart in words: its axes, and the last value of each line."""
    parts = [f"{chart.y_label} by {chart.x_label}." if chart.y_label else f"{chart.x_label}."]
    for line in chart.lines:
        if len(line.xs) and not line.is_control:
            value = line.xs[-1] if chart.categories else line.ys[-1]
            parts.append(f"{line.name}: last {value:.4g}.")
    return " ".join(parts)
