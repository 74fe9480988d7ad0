"""Accuracies of all setups, and the paper's beside them."""

from collections.abc import Sequence

from tresse.engine.reporting.blocks import (
    Block,
    Chart,
    Fold,
    Kind,
    Level,
    Line,
    Note,
    Section,
    Table,
)
from tresse.engine.reporting.facts import RunFacts, StageFacts
from tresse.engine.reporting.paper import CELLS, NUM_ITEMS, TABLE_3, TITLE
from tresse.engine.reporting.setups import all_stages, arrow, number, styles
from tresse.engine.run.typed_json import Record
from tresse.engine.scoring.report import (
    has_many_pairs,
    matrix_cells,
    read_scores,
    score_cells,
    token_cells,
)

CHANCE = 0.5
NO_SCORES = "No stage has been scored."


def results(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of accuracies: chart, table, and the paper's table."""
    scored = [stage for stage in all_stages(runs) if stage.scores.get("cloze")]
    if not scored:
        return Section("Results", [Note(NO_SCORES)])
    measure = runs[0].config.score_by
    lines = [read_scores(stage.setup, stage.folder, measure) for stage in scored]
    tables = _matrices(lines, measure) if has_many_pairs(lines) else [_table(lines, measure)]
    blocks: list[Block] = [*tables, _chart(lines, runs), *_paper(scored)]
    return Section("Results", blocks)


def _matrices(lines: list[Record], measure: str) -> list[Table]:
    """Return the tokens of all setups, and a table per task: prompts by line, endings by column."""
    tokens, *tables = [token_cells(lines), *matrix_cells(lines)]
    of_tokens = Table(
        header=tokens[0],
        lines=tokens[1:],
        caption="M: millions of tokens that the weights were trained on, earlier stages included.",
    )
    caption = (
        "Accuracies in percent ± standard error, of endings in the language of the column after "
        f"prompts in that of the line. Chance is 50. The measure is {measure}."
    )
    found = [
        Table(header=[arrow(name) for name in header], lines=cells, num_left=2, caption=caption)
        for header, *cells in tables
    ]
    return [of_tokens, *found]


def _table(lines: Sequence[Record], measure: str) -> Table:
    header, *cells = score_cells(list(lines))
    columns = _columns(lines)
    first = len(header) - len(columns)
    kinds: dict[tuple[int, int], Kind] = {}
    for column, (task, pair) in enumerate(columns, first):
        values = [line["scores"].get(task, {}).get(pair) for line in lines]
        best = max(value for value in values if value is not None)
        for row, value in enumerate(values):
            if value is not None and _is_chance(value, lines[row]["stderr"][task][pair]):
                kinds[row, column] = "faint"
            elif value == best:
                kinds[row, column] = "best"
    truncated = max(line["truncated"] for line in lines)
    cut = f" {truncated:,} sequences lost the start of their prompts." if truncated else ""
    return Table(
        header=[arrow(name) for name in header],
        lines=cells,
        kinds=kinds,
        caption=(
            "Accuracies in percent ± standard error. The best of each column is bold; values "
            "within two standard errors of chance (50) are faint. M: millions of tokens that the "
            "weights were trained on, earlier stages included. "
            f"The measure is {measure}.{cut}"
        ),
    )


def _columns(lines: Sequence[Record]) -> list[tuple[str, str]]:
    """Return task and pair of each column, in the order of `score_cells`."""
    return list(
        dict.fromkeys(
            (task, pair)
            for line in lines
            for task, pairs in line["scores"].items()
            for pair in pairs
        )
    )


def _is_chance(value: float, stderr: float | None) -> bool:
    return stderr is not None and abs(value - CHANCE) <= 2 * stderr


def _chart(lines: Sequence[Record], runs: Sequence[RunFacts]) -> Chart:
    columns, looks = _columns(lines), styles(runs)
    points = []
    for position, line in enumerate(lines):
        shift = 0.5 * ((position + 0.5) / len(lines) - 0.5)  # setups do not hide each other
        found = [
            (100 * value, row + shift, 100 * (line["stderr"][task][pair] or 0))
            for row, (task, pair) in enumerate(columns)
            if (value := line["scores"].get(task, {}).get(pair)) is not None
        ]
        xs, ys, errors = zip(*found, strict=True)
        points.append(
            Line(name=line["setup"], xs=xs, ys=ys, errors=errors, style=looks[line["setup"]])
        )
    return Chart(
        name="accuracy",
        title="Accuracy",
        x_label="accuracy (%)",
        y_label="",
        lines=points,
        levels=[Level(value=100 * CHANCE, name="chance")],
        categories=[arrow(f"{task} {pair}") for task, pair in columns],
        caption="Bars are standard errors.",
    )


def _paper(scored: Sequence[StageFacts]) -> list[Block]:
    """Return the paper's table: open if the questions may be the same ones, else folded."""
    counts = {cell["task"]: cell["num_items"] for s in scored for cell in s.scores["cloze"]}
    tasks = {task.split("-")[0] for task in counts}
    columns = [i for i, (task, _) in enumerate(CELLS) if task in tasks]
    if not columns:
        return []
    same = [task for task, count in NUM_ITEMS.items() if counts.get(task) == count]
    states = [stage.state for stage in scored if stage.state]
    units = sorted({each.name for state in states for each in state.vocabulary.tokenizers})
    table = Table(
        header=["setup", "size", "B en", "B fr", *(arrow(" ".join(CELLS[i])) for i in columns)],
        lines=[
            [line.setup, line.size, *(number(b or None, ".2f") for b in line.billions)]
            + [number(line.values[i], ".2f") for i in columns]
            for line in TABLE_3
        ],
        num_left=2,
        caption=f"{TITLE}: accuracies in percent, billions of tokens. {_comparable(same, units)}",
    )
    return [table] if same else [Fold(f"{TITLE}, for reference", table)]


def _comparable(same: Sequence[str], units: Sequence[str]) -> str:
    """Return how far the paper's figures may be compared with those of these runs."""
    questions = (
        f"Here {' and '.join(same)} {'have' if len(same) > 1 else 'has'} as many items as the "
        "paper's. "
        if same
        else "The questions here are other ones than the paper's. "
    )
    return (
        f"{questions}These are the paper's own figures, of models on Mimi's units of its own "
        f"corpora; the units here are {', '.join(units) or 'unknown'}. Other units, data or "
        "questions give other figures."
    )
