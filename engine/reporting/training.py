"""How the runs trained: budgets, losses on the way, and speed."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tresse.engine.reporting.blocks import Block, Chart, Level, Line, Note, Section, Table
from tresse.engine.reporting.facts import RunFacts, StageFacts
from tresse.engine.reporting.setups import (
    all_stages,
    arrow,
    below_chance,
    languages,
    number,
    slug,
    styles,
)
from tresse.engine.run.typed_json import Record

MAX_POINTS = 120
SCALES = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
Points = tuple[Sequence[float], Sequence[float]]


def budgets(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of what the stages were planned to read."""
    lines = []
    for run in runs:
        for stage in run.stages:
            lines += list(_budget(run, stage))
    header = ["setup", "from", "stream", "steps", "targets", "by language", "epochs", "documents"]
    caption = (
        "A target is a token that the model is trained to predict; planned numbers, in expectation "
        "where languages are drawn. Translations count as one document."
    )
    return Section("Budgets", [Table(header=header, lines=lines, num_left=3, caption=caption)])


def _budget(run: RunFacts, stage: StageFacts) -> Iterator[list[str]]:
    """Yield a line for each stream of a stage."""
    steps = stage.measured.steps[-1] if stage.measured.steps else 0
    last = stage.last_step(run.config.rows_per_step)
    start = [
        stage.setup,
        _source(run, stage),
    ]
    done = f"{steps:,}" if last in (None, steps) else f"{steps:,} of {last:,}"
    if not stage.streams:
        for stream in stage.config.streams:
            name = f"{'+'.join(stream.languages)} {stream.mode}"
            yield [*start, name, done, f"{stage.config.tokens:,}", "", number(None), number(None)]
    for planned in stage.streams:
        targets = planned["targets"]
        name = f"{'+'.join(planned['languages'])} {planned['mode']}"
        yield [
            *start,
            f"{name} of {planned['corpus']}" if planned["corpus"] else name,
            done,
            f"{sum(targets.values()):,.0f}",
            ", ".join(f"{name} {count:,.0f}" for name, count in targets.items()),
            number(planned["epochs"], ",.2f"),
            number(planned["documents"], ","),
        ]


def _source(run: RunFacts, stage: StageFacts) -> str:
    """Return where the first weights of a stage come from."""
    names = [each.name for each in run.config.stages]
    position = names.index(stage.config.name)
    if stage.config.init == "previous":
        if position:
            return names[position - 1]
        return run.config.init or run.config.model.pretrained or "scratch"
    return stage.config.init


def losses(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of training and held-out losses by language."""
    stages = all_stages(runs)
    blocks: list[Block] = []
    for language in languages(stages):
        blocks += _charts(runs, language)
    if not blocks:
        return Section("Losses", [Note("No step has been measured.")])
    return Section("Losses", [*blocks, *_final(stages)])


def questions(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of accuracies on a subset of the questions, while stages trained."""
    names = dict.fromkeys(n for s in all_stages(runs) for _, own in s.measured.subset for n in own)
    charts = []
    for position, name in enumerate(names):
        lines, x_label = _over_tokens(runs, lambda stage, name=name: _subset(stage, name))
        charts.append(
            Chart(
                name=f"subset-{position}",
                title=arrow(name),
                x_label=x_label,
                y_label="accuracy (%)",
                lines=lines,
                levels=[Level(value=50, name="chance")],
            )
        )
    nothing = Note("No run asked questions while it trained (--score-every).")
    return Section("While training", charts or [nothing])


def _charts(runs: Sequence[RunFacts], language: str) -> Iterator[Chart]:
    training = _chart(runs, f"Training loss, {language}", f"loss-{slug(language)}",
                      lambda stage: _training(stage, language))  # fmt: skip
    heldout = _chart(runs, f"Held-out loss, {language}", f"heldout-{slug(language)}",
                     lambda stage: _heldout(stage, language))  # fmt: skip
    yield from filter(None, (training, heldout))


def _chart(
    runs: Sequence[RunFacts],
    title: str,
    name: str,
    points: Callable[[StageFacts], Points],
) -> Chart | None:
    """Return a chart of losses over tokens, with a line for each stage that has points."""
    lines, x_label = _over_tokens(runs, points)
    if not lines:
        return None
    lines, caption = below_chance(lines, all_stages(runs))
    values = [y for line in lines for y in line.ys]
    return Chart(
        name=name,
        title=title,
        x_label=x_label,
        y_label="nats per unit",
        lines=lines,
        caption=caption,
        log_y=max(values) > 2 * min(values) > 0,
    )


def _over_tokens(
    runs: Sequence[RunFacts], points: Callable[[StageFacts], Points]
) -> tuple[Sequence[Line], str]:
    """Return a line for each stage that has points, over its tokens, and the name of the axis."""
    looks = styles(runs)
    found = [(stage, *points(stage)) for stage in all_stages(runs)]
    largest = max((max(xs) for _, xs, _ in found if xs), default=0.0)
    scale, word = next((each for each in SCALES if largest >= each[0]), SCALES[-1])
    lines = [
        Line(name=stage.setup, xs=[x / scale for x in xs], ys=ys, style=looks[stage.setup])
        for stage, xs, ys in found
        if xs
    ]
    return lines, f"tokens ({word})"


def _training(stage: StageFacts, language: str) -> Points:
    ys = stage.measured.losses.get(language, [])
    return binned(stage.measured.tokens[: len(ys)], ys)


def _heldout(stage: StageFacts, language: str) -> Points:
    found = [(x, ys[language]) for x, ys in stage.measured.heldout if language in ys]
    return [x for x, _ in found], [y for _, y in found]


def _subset(stage: StageFacts, name: str) -> Points:
    found = [(x, 100 * ys[name]) for x, ys in stage.measured.subset if name in ys]
    return [x for x, _ in found], [y for _, y in found]


def binned(xs: Sequence[float], ys: Sequence[float], num: int = MAX_POINTS) -> Points:
    """Return the means of at most `num` neighbouring parts of a curve, without NaN."""
    points = np.array([xs, ys], dtype=np.float64)
    points = points[:, np.isfinite(points).all(0)]
    if not points.shape[1]:
        return [], []
    parts = np.array_split(points, min(num, points.shape[1]), axis=1)
    means = np.array([part.mean(1) for part in parts])
    return means[:, 0].tolist(), means[:, 1].tolist()


def _final(stages: Sequence[StageFacts]) -> list[Table]:
    """Return the last held-out loss of each stage."""
    names = list(dict.fromkeys(n for s in stages for _, ys in s.measured.heldout for n in ys))
    lines = [
        [stage.setup, *(number(stage.measured.heldout[-1][1].get(name)) for name in names)]
        for stage in stages
        if stage.measured.heldout
    ]
    caption = "Held-out loss after the last measurement of each stage, in nats per unit."
    return [Table(header=["setup", *names], lines=lines, caption=caption)] if lines else []


def speed(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of throughput, utilisation and memory."""
    measured = [stage for stage in all_stages(runs) if stage.measured.steps]
    if not measured:
        return Section("Speed", [Note("No step has been measured.")])
    header = ["setup", "ranks", "tokens/s", "s per step", "MFU", "MFU full", "waits for data",
              "waits for checkpoints", "memory GiB", "hours"]  # fmt: skip
    ranks = {run.name: _ranks(run.starts) for run in runs}
    lines = [[stage.setup, ranks[stage.run], *_speed(stage)] for stage in measured]
    table = Table(
        header=header,
        lines=lines,
        caption=(
            "Medians over steps. MFU: share of the GPUs' peak, with attention counted as a causal "
            "mask leaves it, and in full; no peak is known of a CPU. Hours are those of the steps."
        ),
    )
    lines, x_label = _over_tokens(runs, _throughput)
    chart = Chart(
        name="speed",
        title="Tokens per second",
        x_label=x_label,
        y_label="tokens/s",
        lines=lines,
        from_zero=True,
    )
    return Section("Speed", [table, chart])


def _ranks(starts: Sequence[Record]) -> str:
    """Return the numbers of ranks that a run has had, and its device."""
    if not starts:
        return number(None)
    numbers = dict.fromkeys(start["ranks"] for start in starts)
    return ", ".join(map(str, numbers))


def _speed(stage: StageFacts) -> list[str]:
    found = stage.measured
    total_s = found.total("step_s")
    return [
        number(found.median("tokens_per_s"), ",.0f"),
        number(found.median("step_s"), ",.3f"),
        number(found.median("mfu_causal"), ".1%"),
        number(found.median("mfu_full"), ".1%"),
        number(found.total("data_wait_s") / total_s if total_s else math.nan, ".1%"),
        number(found.stall_s / total_s if total_s else math.nan, ".1%"),
        number(max(found.numbers["memory_gib"], default=math.nan), ",.1f"),
        number(total_s / 3600, ",.2f"),
    ]


def _throughput(stage: StageFacts) -> Points:
    return binned(stage.measured.tokens, stage.measured.numbers["tokens_per_s"], 40)
