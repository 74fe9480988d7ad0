"""The choice of a next token from logits: the most likely one, or a seeded draw.

Logits are divided by the temperature. Of their softmax stay the `top_k` most likely tokens; then of
these, the fewest most likely ones whose probabilities sum to `top_p` or more. B rows, V ids, C
candidates. Probabilities and sums are fp64.

Random numbers are a function of the seed, the prompt, the number of the continuation and the number
of the token. They do not depend on the batch or the device. A draw goes through the candidates in
the order of their ids, not of their probabilities: then a logit that differs by rounding moves the
borders between tokens by as little.
"""

from dataclasses import dataclass

import numpy as np
import xxhash
from torch import Tensor

from tresse.engine.unit_tokenizer import TEMPERATURE, TOP_K


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The choice of each next unit."""

    temperature: float = TEMPERATURE
    """Divisor of the logits; below 1, likely units become more likely. 0: the most likely unit."""
    top_k: int = TOP_K
    """Number of most likely units to draw from; 0: all."""
    top_p: float = 1.0
    """Probability, in (0, 1], that the most likely units to draw from reach together."""
    seed: int = 0
    """Seed of the draws. A continuation depends on it and on its prompt, not on other prompts."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature is {self.temperature}, expected 0 or a number above")
        if self.top_k < 0:
            raise ValueError(f"--top-k is {self.top_k}, expected 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p is {self.top_p}, expected a number above 0, at most 1")


def choose(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """Return the next token of each row, (B,) int64.

    logits: (B, V), -inf for ids that cannot be; uniforms: (B,) fp64 in [0, 1).
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    ids, probabilities = candidates(logits, sampling)
    borders = probabilities.cumsum(-1)
    place = (borders <= uniforms[:, None] * borders[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(-1, place)[:, 0]


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the ids to draw from, (B, C) int64 in increasing order, and their probabilities.

    logits: (B, V). The probabilities, (B, C) fp64, are 0 where `top_p` leaves out a token; they do
    not sum to 1 then.
    """
    V = logits.shape[-1]
    largest, ids = logits.topk(min(sampling.top_k or V, V))  # from the largest down
    probabilities = (largest.double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    ids, order = ids.sort(-1)
    return ids, probabilities.gather(-1, order)


def draw_uniforms(seed: int, prompt: np.ndarray, continuation: int, count: int) -> np.ndarray:
    """Return the first random numbers of a continuation, fp64 [count], multiples of 2^-32 below 1.

    prompt: its tokens, int64; continuation: its number among those of the prompt.
    """
    key = xxhash.xxh3_128(f"{seed}/{continuation}/".encode())
    key.update(np.ascontiguousarray(prompt, "<i8").tobytes())
    words = np.random.Philox(key=key.intdigest()).random_raw(count)
    return (words >> np.uint64(32)) * 2.0**-32
