"""The pages of a report: well-formed, whole in themselves, the same numbers, names never run."""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest

from tests.engine.reporting.written_runs import config_of, write_run, write_steps
from tresse.engine.commands import report
from tresse.engine.reporting import pages
from tresse.engine.reporting.pages import CHAPTERS, write_report
from tresse.engine.reporting.training import speed
from tresse.engine.run.run_folder import write_config

EVIL = "<script>alert(1)</script>&amp;|`$x_1$*"
LINKS = ("href", "src", "srcset", "action", "data", "poster")
FILE_STARTS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
SVG = "{http://www.w3.org/2000/svg}"


def read_page(folder: Path) -> Element:
    """Parse index.html, strictly: anything that HTML 5 forbids is an error."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse((folder / "index.html").read_text(encoding="utf-8"))


def text_of(element: Element) -> str:
    return re.sub(r"\s+", " ", " ".join(element.itertext())).strip()


def tables(page: Element) -> list[list[list[str]]]:
    """Return the cells of all tables, headers first."""
    return [
        [["".join(cell.itertext()) for cell in line] for line in table.iter("tr")]
        for table in page.iter("table")
    ]


def table_with(page: Element, *header: str) -> list[list[str]]:
    """Return the lines of the first table that has these columns."""
    return next(table for table in tables(page) if set(header) <= set(table[0]))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one run."""
    folder = tmp_path_factory.mktemp("report")
    write_report([write_run(folder / "one")], folder / "out")
    return folder / "out"


def test_the_page_is_whole_in_itself(written: Path) -> None:
    page = read_page(written)
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    for element in page.iter():
        assert element.tag not in ("script", "link", "img", "iframe", "object", "image")
        for name, value in element.attrib.items():
            if name in LINKS:
                assert value[0] == "#"
                assert value[1:] in ids, f"{value} leads nowhere"
            for target in re.findall(r"url\(([^)]*)\)", value):
                assert target.strip("'\"")[1:] in ids
            assert not name.startswith("on")
    styles = "".join(style.text or "" for style in page.iter("style"))
    assert "url(" not in styles
    assert "@import" not in styles


def test_every_chart_says_what_it_shows(written: Path) -> None:
    page = read_page(written)
    by_id = {element.get("id"): element for element in page.iter() if element.get("id")}
    charts = list(page.iter(f"{SVG}svg"))
    figures = sorted(path.stem for path in (written / "figures").iterdir())
    assert len(charts) == len(figures) > 5
    for chart in charts:
        assert chart.get("role") == "img"
        title, description = (text_of(by_id[i]) for i in chart.attrib["aria-labelledby"].split())
        assert title
        assert "last" in description
        assert "viewBox" in chart.attrib
        assert "width" not in chart.attrib, "it would not fit a phone"
        assert [element for element in chart.iter(f"{SVG}text")], "text stays text"


def test_a_table_has_the_scores_of_every_stage(written: Path) -> None:
    header, *lines = table_with(read_page(written), "setup", "M en", "sSC en→fr")
    found = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert list(found) == ["en", "interleave", "en-fr"]
    assert found["en"]["sSC en"] == "50.0 ±2.9"
    assert found["interleave"]["sTC en"] == "70.0 ±2.7"
    assert found["en-fr"]["M en"] == "60.00"


def test_both_pages_have_the_same_tables(written: Path) -> None:
    page, text = read_page(written), (written / "report.md").read_text(encoding="utf-8")
    plain = re.sub(r"\\(.)", r"\1", text.replace("**", ""))
    for table in tables(page):
        for line in table:
            assert f"| {' | '.join(line)} |" in plain
    lines = [line for line in text.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert sum(len(table) + 1 for table in tables(page)) == len(lines)
    assert set(widths) == {len(table[0]) + 1 for table in tables(page)}
    for target in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text):
        assert (written / target).is_file()


def test_a_report_is_the_same_for_the_same_runs(written: Path) -> None:
    files = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    report((written.parent / "one",), out=written)
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == files


def test_names_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    run = tmp_path / EVIL.replace("/", "\u2215")
    write_run(run)
    write_config(config_of(tmp_path / "other"))
    write_report([run, tmp_path / "other"], tmp_path / "out")
    page = read_page(tmp_path / "out")
    assert not list(page.iter("script"))
    assert run.name in text_of(page)
    names = [text_of(each) for each in page.iter(f"{SVG}text")]
    assert f"{run.name}/en" in [name.replace("\u200b", "") for name in names], "no formulas"
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text.replace("\\<script", "")


def test_other_kinds_of_figures_are_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "CHAPTERS", (speed,))
    config = config_of(tmp_path / "new")
    write_config(config)
    write_steps(tmp_path / "new", config.stages[0], 0)
    written = write_report([tmp_path / "new"], tmp_path / "out", ("png", "pdf"))
    names = [str(path.relative_to(tmp_path / "out")) for path in written]
    assert names == ["index.html", "report.md", *(f"figures/speed.{k}" for k in FILE_STARTS)]
    for kind, start in FILE_STARTS.items():
        assert (tmp_path / "out" / f"figures/speed.{kind}").read_bytes().startswith(start)


@pytest.mark.parametrize("has_steps", [False, True])
def test_a_run_that_has_just_begun_has_a_page_that_says_so(tmp_path: Path, has_steps: bool) -> None:
    config = config_of(tmp_path / "new")
    write_config(config)
    if has_steps:
        write_steps(tmp_path / "new", config.stages[0], 0, num_steps=3)
    write_report([tmp_path / "new"], tmp_path / "out")
    text = text_of(read_page(tmp_path / "out"))
    place = "it is at step 3." if has_steps else "it has not begun."
    assert f"Stage en is not finished: {place}" in text
    assert "Stage interleave is not finished: it has not begun." in text
    assert "No stage has been scored." in text
    assert text.count("No step has been measured.") == (0 if has_steps else 2)


def test_each_chapter_is_there_and_linked(written: Path) -> None:
    page = read_page(written)
    titles = [text_of(title) for title in page.iter("h2")]
    assert len(titles) == len(CHAPTERS)
    assert [text_of(link) for link in page.iter("a")] == titles


@pytest.mark.parametrize("names", [("one", "one"), ("nothing",), ()])
def test_folders_that_cannot_be_reported_are_errors(tmp_path: Path, names: Sequence[str]) -> None:
    write_config(config_of(tmp_path / "one"))
    message = "twice|no such file; expected the folder of a run|name one or more runs"
    with pytest.raises(ValueError, match=message):
        write_report([tmp_path / name for name in names], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_report_of_a_real_run_has_its_table(finished_run: Path, tmp_path: Path) -> None:
    write_report([finished_run], tmp_path)
    page = read_page(tmp_path)
    lines = table_with(page, "setup", "sSC en→fr")[1:]
    assert [line[0] for line in lines] == ["en", "interleave", "en-fr"]
    assert len(list(page.iter(f"{SVG}svg"))) > 8
    assert "is not finished" not in text_of(page)
    budget = table_with(page, "epochs")
    assert budget[1][2:4] == ["en mono", "8"]
