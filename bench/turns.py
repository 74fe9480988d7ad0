"""Tokens before the first sound: answers in turns of text and speech beside a full chain.

    python bench/turns.py runs/demo-text/cpt-sft --prompt runs/demo-text/story-world-*/dialogues

A model answers questions greedily, one at a time. In turns, the sound can begin when the first turn
of units is complete. In a full chain all text comes first, as in SpeechGPT: then the same units
come after the whole text and one switch token. A step takes the same time whatever it says, so the
speed-up is the ratio of tokens; `ms_per_token` is measured. CSLM reports 2.9 for its own answers.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from tresse.bench.records import quantiles, write_records
from tresse.data.text_table import format_table
from tresse.engine.checkpoint.checkpoint import load_model, open_checkpoint
from tresse.engine.generation.continuing import Continuer
from tresse.engine.generation.layout import layouts_of, prompt_tokens, tags_of
from tresse.engine.generation.prompts import PromptSettings, load_text, read_prompts
from tresse.engine.generation.sampling import Sampling
from tresse.engine.generation.sounds import SoundSettings
from tresse.engine.generation.turns import Turn, split_turns

COLUMNS = ("answers", "text_tokens", "in_turns", "full_chain", "speed_up", "ms_per_token")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked."""

    prompt: tuple[Path, ...]
    """Corpora or manifests of questions."""
    lang: str = "en-question-text"
    """Language of the questions."""
    to: str = "en-answer-text"
    """Language in which answers begin."""
    limit: int = 50
    """Number of questions."""
    max_tokens: int = 200
    """Longest answer."""
    json: str = ""
    """File that the results are written to."""


def before_first_sound(turns: list[Turn]) -> tuple[int, int] | None:
    """Return the tokens until the first units are complete, in turns and in a full chain.

    None for an answer without units.
    """
    first = next((i for i, turn in enumerate(turns) if turn.kind == "units"), None)
    if first is None:
        return None
    in_turns = sum(len(turn.ids) for turn in turns[: first + 1])
    text = sum(len(turn.ids) for turn in turns if turn.kind == "text")
    return in_turns, text + 1 + len(turns[first].ids)


def main(stage: tyro.conf.Positional[Path], /, options: Options) -> None:
    """Measure and print."""
    checkpoint = open_checkpoint(stage)
    state = checkpoint.state
    settings = PromptSettings(
        prompt=options.prompt, lang=(options.lang,), to=options.to, limit=options.limit
    )
    text = load_text(checkpoint)
    prompts = read_prompts(settings, SoundSettings(), checkpoint, text)
    layout = layouts_of(state, [options.lang], options.to, text)
    continuer = Continuer(
        load_model(checkpoint, torch.float32, torch.device("cpu")),
        state.vocabulary,
        state.config.data.packing,
        Sampling(temperature=0),
        options.max_tokens,
        tags=tags_of(state),
    )
    found, texts, times = [], [], []
    for prompt in tqdm(prompts):
        laid = prompt_tokens(prompt, layout[options.lang], state)
        start = time.perf_counter()
        tokens = continuer.run([laid], [(0, 0)]).continuations[0].tokens
        times.append((time.perf_counter() - start) / max(len(tokens), 1))
        turns = split_turns(tokens, state.vocabulary)
        if (counts := before_first_sound(turns)) is not None:
            found.append(counts)
            texts.append(sum(len(turn.ids) for turn in turns if turn.kind == "text"))
    if not found:
        raise SystemExit("no answer has units")
    in_turns, chain = np.mean(found, axis=0)
    record = {
        "bench": "turns",
        "answers": len(found),
        "questions": len(prompts),
        "text_tokens": float(np.mean(texts)),
        "in_turns": float(in_turns),
        "full_chain": float(chain),
        "speed_up": float(chain / in_turns),
        "ms_per_token": 1e3 * quantiles(times)[0],
    }
    values = [f"{record[name]:,.2f}".removesuffix(".00") for name in COLUMNS]
    print(format_table([list(COLUMNS), values]))
    if options.json:
        write_records(options.json, [record])


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))
