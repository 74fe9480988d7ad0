"""Translators of a user's, for `--translator tests.support.own_translator:NAME`."""

import os
import signal

calls: list[str] = []
"""First sentence of each story that was translated, by any of these functions."""
ctrl_c = False
"""Press Ctrl-C with each story."""


def translate(sentences: list[str], source: str, target: str) -> list[str]:
    """Return sentences that pass all checks, numbered, with the languages."""
    if ctrl_c:
        os.kill(os.getpid(), signal.SIGINT)
    calls.append(sentences[0])
    count = len(sentences)
    return [f"{source}>{target} {number}/{count}: {each}" for number, each in enumerate(sentences)]


def faulty(sentences: list[str], source: str, target: str) -> list[str]:
    """Return translations with the fault that the story asks for."""
    found = translate(sentences, source, target)
    return found[:-1] if "short" in sentences[0] else found


def broken(sentences: list[str], source: str, target: str) -> str:
    """Return a text instead of a list of them."""
    return " ".join(translate(sentences, source, target))


def numbers(sentences: list[str], source: str, target: str) -> list[int]:
    """Return numbers instead of texts."""
    return [len(each) for each in translate(sentences, source, target)]
