"""What is trained to test the paper's claim: its own setups, and one change at a time.

All budgets are those of the demo. A change that can start from the paper's first stage does.
"""

from dataclasses import dataclass, field
from typing import Any

EN, INTERLEAVE, EN_FR = 1_000_000, 700_000, 500_000
"""Targets of the three stages, which are in the relation of Table 3."""
FR = (INTERLEAVE + EN_FR) // 2
"""Targets of French in all of them, and so in the baselines."""

Streams = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Setup:
    """A run: its stages, and what it changes in the demo's settings."""

    name: str
    question: str
    """What it changes, for the table."""
    stages: list[dict[str, Any]]
    packing: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ("en", "fr")
    """Languages of the world; worlds of other languages have other stories."""
    from_first: bool = False
    """True if it starts from the first stage of the paper's run."""


def mono(*languages: str, weight: float = 1.0) -> Streams:
    """Return a stream for each language."""
    return [{"languages": [name], "weight": weight} for name in languages]


def braid(*languages: str, **fields: Any) -> Streams:
    """Return a stream that interleaves languages by sentence."""
    return [{"languages": list(languages), "mode": "sample"} | fields]


def stage(name: str, streams: Streams, tokens: int, init: str = "previous") -> dict[str, Any]:
    """Return a stage of a recipe file."""
    return {"name": name, "streams": streams, "tokens": tokens, "init": init}


def second_and_third(streams: Streams, *languages: str) -> list[dict[str, Any]]:
    """Return the second stage with some streams, and the third."""
    last = mono(*(languages or ("en", "fr")))
    return [stage("interleave", streams, INTERLEAVE), stage("en-fr", last, EN_FR)]


FIRST = stage("en", mono("en"), EN)
THREE = [FIRST, *second_and_third(braid("en", "fr"))]
PAPER = Setup(
    "paper",
    "the paper's setups",
    [
        *THREE,
        stage("baseline-en-fr", mono("en", "fr"), INTERLEAVE + EN_FR, init="en"),
        stage("baseline-fr", mono("fr"), FR, init="scratch"),
    ],
)
FOUR = ("en", "fr", "de", "es")


def changes() -> list[Setup]:
    """Return the setups that each change one thing in the paper's second stage, or in all rows."""
    second: dict[str, tuple[str, Streams]] = {
        "fr-0.1": ("10 % of the sentences in French", braid("en", "fr", probabilities=[0.9, 0.1])),
        "fr-0.25": (
            "25 % of the sentences in French",
            braid("en", "fr", probabilities=[0.75, 0.25]),
        ),
        "alternate": ("each sentence in both languages", braid("en", "fr", mode="alternate")),
        "mono-0.25": (
            "a quarter of the rows in one language",
            [*braid("en", "fr", weight=3.0), *mono("en", "fr", weight=0.5)],
        ),
        "mono-0.5": (
            "half of the rows in one language",
            [*braid("en", "fr", weight=1.0), *mono("en", "fr", weight=0.5)],
        ),
    }
    rows: dict[str, tuple[str, dict[str, Any]]] = {
        "masked": ("attention within a document only", {"mask_documents": True}),
        "no-separators": ("nothing between documents", {"separators": "none"}),
        "bos-eos": ("a token on each side of a document", {"separators": "bos_eos"}),
        "switch": ("a token at each change of language", {"language_switch": True}),
    }
    worlds = {
        "two-of-four": ("a world of four languages, two trained", ("en", "fr")),
        "four": ("a world of four languages, all trained", FOUR),
    }
    return [
        *(
            Setup(name, question, second_and_third(streams), from_first=True)
            for name, (question, streams) in second.items()
        ),
        *(Setup(name, question, THREE, packing) for name, (question, packing) in rows.items()),
        *(
            Setup(
                name,
                question,
                [FIRST, *second_and_third(braid(*trained), *trained)],
                languages=FOUR,
            )
            for name, (question, trained) in worlds.items()
        ),
    ]
