"""A report of runs: index.html, which needs no other file, report.md, and a file for each chart."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from tqdm import tqdm

from tresse.data.durable import replaced_file, write_text
from tresse.engine.reporting import differences, results, settings, training, transfer
from tresse.engine.reporting.blocks import Chart, Section
from tresse.engine.reporting.facts import RunFacts, read_runs
from tresse.engine.reporting.figures import COLOURS, check_packages, draw
from tresse.engine.reporting.svg import inline, save

PAGE, MARKDOWN, FIGURES = "index.html", "report.md", "figures"
TEMPLATES = Path(__file__).parent / "templates"
CHAPTERS = (
    settings.overview,
    results.results,
    differences.differences,
    transfer.alignment,
    transfer.context,
    training.losses,
    training.questions,
    training.budgets,
    training.speed,
    settings.settings,
    settings.origins,
)
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#$~])")
"""Characters that Markdown takes for its own."""

FigureKind = Literal["svg", "png", "pdf"]


def write_report(
    folders: Sequence[Path], out: Path, figures: Sequence[FigureKind] = ("svg",)
) -> list[Path]:
    """Write the report of runs into a folder; return its files.

    figures: kinds of files of the charts; `svg` is always among them, for report.md. Files of an
    earlier report are replaced. ValueError for a folder without a run, or without matplotlib.
    """
    check_packages()
    runs = read_runs(folders)
    sections = [chapter(runs) for chapter in tqdm(CHAPTERS, "report", unit="chapter", disable=None)]
    kinds = dict.fromkeys(("svg", *figures))
    charts = [block for each in sections for block in each.blocks if isinstance(block, Chart)]
    drawn: dict[str, str] = {}
    written = []
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    for chart in charts:
        figure = draw(chart)
        for kind in kinds:
            saved = save(figure, kind, chart)
            written.append(out / FIGURES / f"{chart.name}.{kind}")
            with replaced_file(written[-1]) as file:
                file.write(saved)
            if kind == "svg":
                drawn[chart.name] = inline(saved, chart)
    pages = {PAGE: _html(runs, sections, drawn), MARKDOWN: _markdown(runs, sections)}
    for name, text in pages.items():
        write_text(out / name, text)
    return [out / name for name in pages] + written


def _html(runs: Sequence[RunFacts], sections: Sequence[Section], drawn: dict[str, str]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["breakable"] = lambda text: escape(text).replace("/", Markup("/<wbr>"))
    return environment.get_template("page.html.jinja").render(
        title=_title(runs),
        sections=sections,
        drawn={name: Markup(svg) for name, svg in drawn.items()},
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        colours=COLOURS,
    )


def _markdown(runs: Sequence[RunFacts], sections: Sequence[Section]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # `plain` escapes what Markdown takes for its own
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["plain"] = lambda text: SPECIAL.sub(r"\\\1", text)
    template = environment.get_template("page.md.jinja")
    return template.render(title=_title(runs), sections=sections, figures=FIGURES)


def _title(runs: Sequence[RunFacts]) -> str:
    return f"Tresse: {', '.join(run.name for run in runs)}"
