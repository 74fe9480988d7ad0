"""Prompts laid out as training lays out documents: with separators, switch tokens and templates.

    speech, to its text     <eos> [speech] <asr>
    a question, to answers  <eos> [question] <switch>

Where a model was trained on streams with given languages, `to` names the language that comes next:
of speech, its text is recognition; of text, its speech is synthesis.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tresse.data.packing.settings import Stream
from tresse.data.packing.templates import template_ids
from tresse.data.store.documents import Document
from tresse.engine.checkpoint.state import State


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the model reads it."""

    tokens: np.ndarray
    """int64, with the tokens that stand before and after its document in training."""
    ends: list[int]
    """Position of the last token of each sentence; the last one is the end of the prompt."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands around the prompts in one language."""

    before: list[int]
    after: list[int]
    one_sentence: bool = False
    """True where another language follows each sentence, so that a prompt has only one."""


def tokens_of(
    sentences: Sequence[np.ndarray], before: Sequence[int] = (), after: Sequence[int] = ()
) -> PromptTokens:
    """Lay out a prompt's sentences, between the ids that stand before and after them."""
    ends = np.cumsum([len(sentence) for sentence in sentences]) + len(before)
    parts = [np.asarray(part, np.int64) for part in (before, *sentences, after)]
    return PromptTokens(np.concatenate(parts), [*(ends[:-1] - 1), int(ends[-1]) + len(after) - 1])


def prompt_tokens(prompt: Document, layout: Layout, state: State) -> PromptTokens:
    """Lay out a prompt by the ids of the model's vocabulary; ValueError names a prompt too many."""
    if layout.one_sentence and len(prompt.sentences) > 1:
        raise ValueError(
            f"{prompt.where}: {len(prompt.sentences)} sentences, but in training the languages "
            "take turns after each: give the first one, --sentences 1"
        )
    first = state.vocabulary.first_id(state.tokenizers[prompt.language])
    sentences = [np.asarray(sentence, np.int64) + first for sentence in prompt.sentences]
    return tokens_of(sentences, layout.before, layout.after)


def layouts_of(state: State, languages: Iterable[str], to: str, text: Any) -> dict[str, Layout]:
    """Return what stands around prompts in each language, as in the streams of the state's stage.

    to: the language of the continuation; empty: the prompt's own document goes on. text: the
    `tokenizers.Tokenizer` of the model's texts, which templates may have; None without text.
    ValueError if no stream has `to` after a language, or if streams differ in what stands between.
    """
    return {name: _layout(state, name, to, text) for name in languages}


def _layout(state: State, language: str, to: str, text: Any) -> Layout:
    packing = state.config.data.packing
    specials = state.vocabulary.specials(packing)
    start = [] if specials.before_document is None else [specials.before_document]
    switch = [] if specials.switch is None else [specials.switch]
    found = []
    for stream in _find_streams(state, language, to):
        fixed = template_ids(stream, state.vocabulary, lambda: text)
        around = dict(zip(stream.all_languages, fixed, strict=True)) if fixed else {}
        before, after = around.get(language, ([], []))
        after = [*after, *switch, *around.get(to, ([], []))[0]] if to else []
        braids = stream.mode == "alternate" and stream.unit != "document"
        found.append(Layout(start + before, after, braids and bool(to) and not stream.given))
    if any(other != found[0] for other in found):
        raise ValueError(
            f"streams of stage {state.stage} lay out {language}{f' to {to}' if to else ''} in "
            "different ways; leave all but one out of the stage"
        )
    return found[0] if found else Layout(start, [])


def _find_streams(state: State, language: str, to: str) -> list[Stream]:
    """Return the streams that prompts are laid out by; those with given languages go first."""
    streams = _streams(state)
    if not to:
        return [s for s in streams if language in s.languages and not s.given][:1]
    found = [stream for stream in streams if (language, to) in _pairs(stream)]
    if not found:
        pairs = dict.fromkeys(f"{a} to {b}" for stream in streams for a, b in _pairs(stream))
        raise ValueError(
            f"--to {to}: no stream of stage {state.stage} has {to} after {language}; it has "
            f"{', '.join(pairs) or 'none'}"
        )
    return [stream for stream in found if stream.given] or found


def _pairs(stream: Stream) -> list[tuple[str, str]]:
    """Return the languages of which the second can follow a prompt in the first."""
    is_fixed = stream.mode == "alternate" and stream.language_order == "fixed"
    if len(stream.given) == 1:
        following = stream.languages[:1] if is_fixed else stream.languages
        return [(stream.given[0], to) for to in following]
    if stream.given or (stream.mode == "sample" and stream.unit == "document"):
        return []
    if is_fixed:
        return [(stream.languages[0], stream.languages[1])]
    return [(a, b) for a in stream.languages for b in stream.languages if a != b]


def _streams(state: State) -> tuple[Stream, ...]:
    return next(stage.streams for stage in state.config.stages if stage.name == state.stage)


def tags_of(state: State) -> list[int]:
    """Return the ids of the tags that the templates of a state's stage insert."""
    texts = [t.before + t.after for stream in _streams(state) for t in stream.templates]
    vocabulary = state.vocabulary
    return [vocabulary.tag(tag) for tag in vocabulary.tags if any(tag in each for each in texts)]
