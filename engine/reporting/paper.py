"""Table 3 of the paper, to stand beside results on the same questions.

Source: Moumen, Sun and Woodland, "Cross-Lingual Interleaving for Speech Language Models", 2025,
arXiv 2512.01865: Table 3 (accuracies in percent, token budgets in billions) and section 6.2
(cosine). The paper trains on Mimi's units of LibriHeavy and of its own sTinyStories, so its figures
are its own: other units, data or stories give other ones.
"""

from dataclasses import dataclass

TITLE = "Table 3 of the paper (arXiv 2512.01865)"
NUM_ITEMS = {"sSC": 1871, "sTC": 1871}
"""Items of its StoryCloze and TopicCloze, by the durations in its Table 2: a total of 15.68 h of
stories of 15.09 s, two to an item. It does not say which split of sBLIMP and sWUGGY it takes."""

CELLS = (
    ("sSC", "en"), ("sSC", "fr"), ("sSC", "en->fr"), ("sSC", "fr->en"),
    ("sTC", "en"), ("sTC", "fr"), ("sTC", "en->fr"), ("sTC", "fr->en"),
    ("sBLIMP", "en"), ("sWUGGY", "en"),
)  # fmt: skip
"""Task and languages of each value of a line."""


@dataclass(frozen=True, slots=True)
class PaperLine:
    """A line of Table 3."""

    setup: str
    size: str
    billions: tuple[float, float]
    """Tokens in EN and FR."""
    values: tuple[float | None, ...]
    """Accuracies in percent, in the order of CELLS."""


TABLE_3 = (
    PaperLine("EN", "1B", (46.08, 0),
              (56.06, None, None, None, 66.43, None, None, None, 61.96, 69.92)),
    PaperLine("EN", "360M", (46.08, 0),
              (56.38, None, None, None, 65.20, None, None, None, 61.62, 69.32)),
    PaperLine("FR", "1B", (0, 15.36),
              (None, 55.31, None, None, None, 67.07, None, None, None, None)),
    PaperLine("FR", "360M", (0, 15.36),
              (None, 56.44, None, None, None, 69.85, None, None, None, None)),
    PaperLine("EN+FR", "1B", (61.44, 15.36),
              (55.79, 57.83, 52.32, 50.77, 66.86, 71.24, 57.93, 58.36, 62.29, 62.24)),
    PaperLine("EN+FR", "360M", (61.44, 15.36),
              (55.26, 57.93, 50.56, 51.25, 66.00, 69.48, 55.58, 57.34, 61.17, 67.71)),
    PaperLine("interleaving", "1B", (52.22, 6.14),
              (54.40, 55.47, 54.56, 52.64, 62.26, 63.17, 63.28, 63.44, 52.73, 56.74)),
    PaperLine("interleaving", "360M", (52.22, 6.14),
              (55.90, 57.08, 56.44, 55.37, 64.00, 68.67, 65.20, 65.84, 55.35, 59.56)),
    PaperLine("interleaving, then EN+FR", "1B", (61.44, 15.36),
              (55.63, 58.31, 55.21, 55.05, 67.45, 70.39, 62.90, 63.35, 61.75, 69.15)),
    PaperLine("interleaving, then EN+FR", "360M", (61.44, 15.36),
              (55.74, 57.50, 55.10, 53.92, 67.07, 70.55, 59.86, 62.28, 61.08, 68.62)),
)  # fmt: skip

COSINES_1B = {"EN+FR": 0.73, "interleaving": 0.75, "interleaving, then EN+FR": 0.76}
"""Mean over the layers of the cosine of 1,000 translated sentences."""
