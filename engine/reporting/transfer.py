"""What the languages share: likeness of translations by layer, and what a context is worth."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from tresse.engine.reporting.blocks import Chart, Level, Line, Note, Section, Style, Table
from tresse.engine.reporting.facts import RunFacts, StageFacts
from tresse.engine.reporting.paper import COSINES_1B
from tresse.engine.reporting.setups import all_stages, arrow, below_chance, number, slug, styles

NONE = "No stage has been scored with a held-out corpus."
PAPER = ", ".join(f"{setup} {cosine:.2f}" for setup, cosine in COSINES_1B.items())


def alignment(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of the likeness of translated sentences by layer."""
    stages = [stage for stage in all_stages(runs) if stage.scores.get("alignment")]
    looks, blocks = styles(runs), []
    for pair in dict.fromkeys(pair for s in stages for pair in s.scores["alignment"]):
        own = [stage for stage in stages if pair in stage.scores["alignment"]]
        title = f"{pair} ({_kind(own[0], pair)})"
        blocks += [_cosines(pair, title, own, looks), _retrieval(pair, title, own, looks)]
    if not blocks:
        return Section("Alignment", [Note(NONE)])
    return Section("Alignment", [*blocks, _summary(stages)])


def _kind(stage: StageFacts, pair: str) -> str:
    """Return what a pair of languages compares: speech with text, or two languages."""
    found = stage.scores["alignment"][pair]
    is_cross_modal = found.get("is_cross_modal", pair in _cross_modal_pairs(stage))
    return "cross-modal" if is_cross_modal else "cross-lingual"


def _cross_modal_pairs(stage: StageFacts) -> list[str]:
    """Return the pairs of speech and text among the languages of training.

    Scores of earlier versions do not say which pairs these are.
    """
    known = stage.state.tokenizers if stage.state else {}
    return [f"{a}-{b}" for a, b in permutations(known, 2) if known[a].is_text != known[b].is_text]


def _cosines(pair: str, title: str, stages: Sequence[StageFacts], looks: dict[str, Style]) -> Chart:
    lines = []
    for name, is_control in (("aligned", False), ("random", True)):
        for stage in stages:
            values = stage.scores["alignment"][pair][name]
            label = f"{stage.setup}, unrelated sentences" if is_control else stage.setup
            lines.append(_by_layer(label, values, looks[stage.setup], is_control))
    return Chart(
        name=f"cosine-{slug(pair)}",
        title=f"Cosine of translations by layer, {title}",
        x_label="layer (0: embeddings)",
        y_label="mean cosine",
        lines=lines,
        caption="Thin dots: unrelated sentences, the chance level of each setup.",
    )


def _retrieval(
    pair: str, title: str, stages: Sequence[StageFacts], looks: dict[str, Style]
) -> Chart:
    found = [(stage, stage.scores["alignment"][pair]) for stage in stages]
    counts = sorted({alignment["num_sentences"] for _, alignment in found})
    return Chart(
        name=f"retrieval-{slug(pair)}",
        title=f"Translations found by layer, {title}",
        x_label="layer (0: embeddings)",
        y_label="found (%)",
        lines=[
            _by_layer(
                stage.setup,
                [100 * share for share in alignment["retrieval"]],
                looks[stage.setup],
                False,
            )
            for stage, alignment in found
        ],
        levels=[Level(value=100 / counts[-1], name=f"chance, 1 of {counts[-1]:,}")],
    )


def _by_layer(name: str, ys: Sequence[float], style: Style, is_control: bool) -> Line:
    return Line(name=name, xs=range(len(ys)), ys=ys, style=style, is_control=is_control)


def _summary(stages: Sequence[StageFacts]) -> Table:
    lines = []
    for stage in stages:
        for pair, found in stage.scores["alignment"].items():
            aligned, random = (float(np.mean(found[name][1:])) for name in ("aligned", "random"))
            best = int(np.argmax(found["retrieval"]))
            share = f"{100 * found['retrieval'][best]:.1f} in layer {best}"
            lines.append(
                [
                    stage.setup,
                    pair,
                    _kind(stage, pair),
                    number(aligned),
                    number(random),
                    number(aligned - random),
                    share,
                ]
            )
    return Table(
        header=[
            "setup",
            "languages",
            "likeness",
            "translations",
            "unrelated",
            "difference",
            "found, best (%)",
        ],
        lines=lines,
        num_left=3,
        caption=(
            "Mean cosines over the layers, without the embeddings; a text counts as a translation "
            "of its speech. The paper's cross-lingual figures for its 1B models, of other data: "
            f"{PAPER}."
        ),
    )


def context(runs: Sequence[RunFacts]) -> Section:
    """Return the chapter of losses by position, and given a translation."""
    stages = [stage for stage in all_stages(runs) if stage.scores.get("perplexity")]
    looks, blocks = styles(runs), []
    names = dict.fromkeys(n for s in stages for n in s.scores["perplexity"]["positions"])
    blocks += [_positions(name, stages, looks) for name in names]
    if table := _given(stages):
        blocks.append(table)
    return Section("Context", blocks or [Note(NONE)])


def _positions(language: str, stages: Sequence[StageFacts], looks: dict[str, Style]) -> Chart:
    lines = []
    for stage in stages:
        if found := stage.scores["perplexity"]["positions"].get(language):
            style = looks[stage.setup]
            lines.append(Line(name=stage.setup, xs=found["ends"], ys=found["losses"], style=style))
    lines, caption = below_chance(lines, stages)
    values = [y for line in lines for y in line.ys]
    return Chart(
        name=f"position-{slug(language)}",
        title=f"Held-out loss by position, {language}",
        x_label="position in the document, up to",
        y_label="nats per unit",
        lines=lines,
        caption=caption,
        log_x=True,
        log_y=max(values, default=1) > 2 * min(values, default=1),
    )


def _given(stages: Sequence[StageFacts]) -> Table | None:
    lines = []
    for stage in stages:
        for pair, found in stage.scores["perplexity"]["translations"].items():
            values = [found[name] for name in ("alone", "original", "unrelated")]
            gain = found["unrelated"] - found["original"]
            lines.append([stage.setup, arrow(pair), *map(number, values), number(gain, "+.3f")])
    caption = (
        "Held-out loss of the same documents after nothing, after their original in the other "
        "language, and after another document there, in nats per unit. The gain is what the "
        "original is worth over another one."
    )
    header = ["setup", "pair", "alone", "after its original", "after another", "gain"]
    return Table(header=header, lines=lines, num_left=2, caption=caption) if lines else None
