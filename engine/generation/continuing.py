"""Prompts continued unit by unit, in batches.

Prompts of unequal length share a batch, and several continuations of a prompt share one reading of
it. A continuation ends after a number of units, where the model ends the document, if its training
separated documents, or where prompt and continuation fill a row of the training. Ids that training
never inserts are never drawn.

At the end of each sentence of a prompt, and on average over the positions of a continuation, the
model's own probability of each special token is kept (its softmax, before temperature, top-k and
top-p): of `eos`, that the document ends there; of `switch`, that the language changes there. Units
of all languages share one vocabulary, so without a switch token no probability says in which
language the next unit is, and none is given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.engine.generation.cache import CachedModel
from tresse.engine.generation.layout import PromptTokens
from tresse.engine.generation.sampling import Sampling, choose, draw_uniforms
from tresse.engine.model import Transformer

CHECK_EVERY = 16
"""Units between two looks at the rows that have ended: a look waits for the device."""

Row = tuple[int, int]
"""The prompt of a row, and the number of its continuation."""
Probabilities = dict[str, list[float]]
"""Probabilities of each special token by its name."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model has said after a prompt."""

    tokens: list[int]
    """Ids of the vocabulary; the eos that ended them is not one of them."""
    ended: Literal["eos", "length", "row"]
    """What ended it: the model, the number of units asked for, or the length of a row."""
    probabilities: dict[str, float] = field(default_factory=dict)
    """Mean probability of each special token over the positions of the tokens and of the eos."""


@dataclass(frozen=True, slots=True)
class Continued:
    """The results of a batch."""

    continuations: list[Continuation]
    """One for each row."""
    after_sentences: list[Probabilities]
    """For each prompt, the probabilities after each of its sentences."""


class Continuer:
    """Continues batches of prompts by one model.

    num_tokens: largest number of new tokens. tags: ids of the tags that may be drawn. proceed:
    called every `check_every` tokens of a batch with those so far, (B, n) int64, of which the ones
    after an eos or a limit mean nothing; it may raise to stop.
    """

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        packing: Packing,
        sampling: Sampling,
        num_tokens: int,
        proceed: Callable[[Tensor], None] = lambda tokens: None,  # noqa: ARG005
        tags: Sequence[int] = (),
        check_every: int = CHECK_EVERY,
    ) -> None:
        self._model, self._sampling, self._num_tokens = model, sampling, num_tokens
        self._proceed, self._row_length = proceed, packing.row_length
        self._check_every = check_every
        self._device = model.embedding.weight.device
        specials = vocabulary.specials(packing)
        self._eos = specials.eos
        possible = {"eos": specials.eos, "switch": specials.switch}
        self._specials = {name: i for name, i in possible.items() if i is not None}
        ids = torch.arange(vocabulary.num_used, device=self._device)
        self._special_ids = ids[[*self._specials.values()]]
        drawn = torch.cat([self._special_ids, ids[[*tags]]])
        self._never = (ids >= vocabulary.num_tokens) & ~torch.isin(ids, drawn)

    @torch.no_grad()
    def run(self, prompts: Sequence[PromptTokens], rows: Sequence[Row]) -> Continued:
        """Continue a batch; rows: for each row the index in `prompts`, and its number.

        FloatingPointError if logits are not finite.
        """
        limits = [self.limit(prompts[prompt]) for prompt, _ in rows]
        sources, uniforms, most = self._to_device(
            np.array([prompt for prompt, _ in rows]),
            self._draw(prompts, rows, max(limits)),
            np.array(limits),
        )
        longest = max(len(prompt.tokens) for prompt in prompts)
        cached = CachedModel(self._model, sources, longest + max(limits))
        logits, lasts = self._read(cached, prompts)
        tokens, sums = self._generate(cached, logits[lasts[sources]], uniforms, most)
        found = zip(tokens.tolist(), sums.tolist(), limits, strict=True)
        continuations = [self._describe(*each) for each in found]
        return Continued(continuations, self._after_sentences(prompts, logits))

    def limit(self, prompt: PromptTokens) -> int:
        """Return the largest number of new tokens: the last one of a row is only a label."""
        return min(self._num_tokens, self._row_length + 1 - len(prompt.tokens))

    def _read(self, cached: CachedModel, prompts: Sequence[PromptTokens]) -> tuple[Tensor, Tensor]:
        """Return logits after every sentence of all prompts, and where the last of each stands."""
        lengths = [len(prompt.tokens) for prompt in prompts]
        padded = np.zeros((len(prompts), max(lengths)), np.int64)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt.tokens)] = prompt.tokens
        hidden = cached.read_prompts(*self._to_device(padded, np.array(lengths)))
        counts = [len(prompt.ends) for prompt in prompts]
        owners = np.repeat(np.arange(len(prompts)), counts)
        ends = np.concatenate([prompt.ends for prompt in prompts])
        owners, ends, lasts = self._to_device(owners, ends, np.cumsum(counts) - 1)
        logits = self._model.logits(hidden[owners, ends])
        if not logits.isfinite().all():
            raise FloatingPointError(
                "logits are not finite: the weights are damaged, or the model has diverged"
            )
        return logits, lasts

    def _draw(self, prompts: Sequence[PromptTokens], rows: Sequence[Row], count: int) -> np.ndarray:
        """Return the random numbers of each row, fp64 [count, B]."""
        seed = self._sampling.seed
        drawn = [draw_uniforms(seed, prompts[i].tokens, number, count) for i, number in rows]
        return np.stack(drawn, axis=1)

    def _generate(
        self, cached: CachedModel, logits: Tensor, uniforms: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens of each row, (B, count), and sums of probabilities, (B, n) fp64.

        logits: (B, V) after the prompts; uniforms: (count, B) fp64; limits: (B,) int64. Tokens
        after an eos or a limit mean nothing, and their probabilities are not in the sums.
        """
        tokens = torch.zeros(uniforms.T.shape, dtype=torch.int64, device=self._device)
        sums = torch.zeros(len(logits), len(self._specials), device=self._device).double()
        ended = torch.zeros(len(logits), dtype=torch.bool, device=self._device)
        with cached.generating() as step:
            for index in range(len(uniforms)):
                if index:
                    logits = step(tokens[:, index - 1])
                if self._specials:
                    sums += self._probabilities(logits).masked_fill(ended[:, None], 0.0)
                possible = logits.masked_fill(self._never, -torch.inf)
                tokens[:, index] = choose(possible, self._sampling, uniforms[index])
                if self._eos is not None:
                    ended |= tokens[:, index] == self._eos
                ended |= index + 1 >= limits
                if (index + 1) % self._check_every == 0:
                    self._proceed(tokens[:, : index + 1])
                    if ended.all():
                        break
        return tokens, sums

    def _describe(self, tokens: list[int], sums: list[float], limit: int) -> Continuation:
        kept, ended = tokens[:limit], "length" if limit == self._num_tokens else "row"
        if self._eos in kept:
            kept, ended = kept[: kept.index(self._eos)], "eos"
        num_positions = len(kept) + (ended == "eos")
        means = [total / num_positions for total in sums]
        return Continuation(kept, ended, dict(zip(self._specials, means, strict=True)))

    def _after_sentences(
        self, prompts: Sequence[PromptTokens], logits: Tensor
    ) -> list[Probabilities]:
        """Split the probabilities after all sentences by prompt."""
        counts = [len(prompt.ends) for prompt in prompts]
        own = self._probabilities(logits).cpu().split(counts)
        return [dict(zip(self._specials, part.T.tolist(), strict=True)) for part in own]

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Return those of the special tokens: (N, V) -> (N, n) fp64."""
        return logits.double().softmax(-1).index_select(-1, self._special_ids)

    def _to_device(self, *arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(array).to(self._device) for array in arrays]
