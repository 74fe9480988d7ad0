"""Charts: lines that differ without colour, colours of the page, text that stays text."""

import re
from xml.etree import ElementTree

import pytest

from tresse.engine.reporting.blocks import Chart, Level, Line, Style
from tresse.engine.reporting.figures import COLOURS, DASHES, MARKERS, draw, look
from tresse.engine.reporting.svg import describe, inline, save

LINES = [
    Line(name=f"setup {i}", xs=[0, 1, 2], ys=[i, i + 1, i + 2.5], style=Style(i, i))
    for i in range(len(COLOURS))
]
CHART = Chart(
    name="test",
    title="A <title>",
    x_label="layer",
    y_label="loss",
    lines=LINES,
    levels=[Level(value=1.5, name="chance")],
)


def test_every_setup_has_a_look_of_its_own_with_and_without_colour() -> None:
    for count, key in ((len(COLOURS), "color"), (len(MARKERS), "marker")):
        assert len({look(Style(i, i))[key] for i in range(count)}) == count
    shapes = [(look(Style(0, i))["marker"], look(Style(0, i))["linestyle"]) for i in range(8)]
    assert len(set(shapes)) == 8
    assert len({shape[1] for shape in shapes[:4]}) == len(DASHES)


def luminance(colour: str) -> float:
    """Relative luminance of a colour, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_are_those_that_the_colour_blind_can_tell_apart() -> None:
    okabe_ito = {"#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"}
    assert set(COLOURS) == okabe_ito
    for colour in COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) > 2, "it is lost on white"


def test_a_chart_in_a_page_takes_the_pages_colours_and_keeps_its_text() -> None:
    root = ElementTree.fromstring(inline(save(draw(CHART), "svg", CHART), CHART))
    texts = [element.text for element in root.iter("text")]
    assert {"layer", "loss", "chance", "setup 0"} <= set(texts)
    written = ElementTree.tostring(root, encoding="unicode")
    assert not re.search("|".join(COLOURS), written, re.IGNORECASE)
    assert "#ffffff" not in written
    for number in range(len(COLOURS)):
        assert f"var(--s{number})" in written
    assert "currentColor" in written
    assert "DejaVu" not in written
    titles = [element.text for element in root.iter("title")]
    assert titles == ["A <title>", *(line.name for line in LINES)]


def test_a_file_of_a_chart_has_its_own_colours() -> None:
    written = save(draw(CHART), "svg", CHART).decode()
    assert COLOURS[0].lower() in written
    assert "var(" not in written
    assert written == save(draw(CHART), "svg", CHART).decode(), "not the same twice"


def test_the_description_has_the_last_values() -> None:
    assert describe(CHART).startswith("loss by layer. setup 0: last 2.5. setup 1: last 3.5.")


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1.1, 1.4), {"1.2"}), ((1.1, 13.0), {"2", "5", "10"}), ((1100.0, 90_000.0), {"50,000"})],
)
def test_logarithmic_axes_have_plain_numbers(
    values: tuple[float, float], expected: set[str]
) -> None:
    line = Line(name="a", xs=[1.5, 2.5], ys=values, style=Style(0, 0))
    chart = Chart(name="log", title="", x_label="", y_label="", lines=[line], log_y=True)
    root = ElementTree.fromstring(inline(save(draw(chart), "svg", chart), chart))
    texts = [element.text or "" for element in root.iter("text")]
    assert expected <= set(texts)
    assert len(texts) < 16
    assert not any("$" in text or "e" in text for text in texts)
