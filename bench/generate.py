"""Units per second of `tresse generate` beside transformers' `generate` on the exported model.

    OMP_NUM_THREADS=1 taskset -c 0 python bench/generate.py --json bench/results/generate.json

A model with random weights is exported and loaded by both. Both continue the same prompts, of one
length, in one batch, greedily, by the same number of units, and must say the same ones. They take
turns; rates count the reading of the prompts too. `ratio` is the rate over that of transformers;
`cpu_ratio` compares CPU time, which other work on the machine disturbs less. On a GPU both run in
bf16, where rounding may part them, so equality is recorded there and not demanded.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from tresse.bench.records import quantiles, write_records
from tresse.data.packing.settings import Packing
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.processes import device
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.device import wait
from tresse.engine.generation.continuing import Continuer
from tresse.engine.generation.layout import PromptTokens, tokens_of
from tresse.engine.generation.packed import pack_weights
from tresse.engine.generation.sampling import Sampling
from tresse.engine.hugging_face import export
from tresse.engine.model import Transformer
from tresse.engine.run.recipes import RECIPES

UNITS = Vocabulary((Tokenizer("units", "", "25/2", 2048),))
PACKING = Packing()
COLUMNS = ("shape", "batch", "way", "units_per_s", "ratio", "cpu_ms_per_step", "cpu_ratio")

Way = Callable[[int], list[list[int]]]
"""Continues the prompts by a number of units, and returns them."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes of the benchmark."""

    shapes: tuple[str, ...] = ("tiny", "360m-interleave")
    """Recipes whose models are measured."""
    batches: tuple[int, ...] = (1, 8)
    """Numbers of prompts that are continued at once."""
    prompt: int = 50
    """Units of a prompt: 4 s."""
    units: int = 125
    """Units of a continuation: 10 s."""
    rounds: int = 5
    """Number of measurements of each way."""
    json: str = ""
    """File for the results; empty: none."""


def main(options: Options) -> None:
    """Measure every shape and batch, print a table, and write the results."""
    records = []
    print("  ".join(COLUMNS))
    for shape in options.shapes:
        for batch in options.batches:
            for record in measure(shape, batch, options):
                records.append(record)
                print("  ".join(_format(record[column]) for column in COLUMNS), flush=True)
    if options.json:
        write_records(options.json, records)
        print(f"wrote {options.json}")


def measure(shape: str, batch: int, options: Options) -> list[dict[str, Any]]:
    """Time both ways in turns; ValueError on a CPU if they say other units."""
    prompts = np.random.default_rng(0).integers(0, UNITS.num_tokens, (batch, options.prompt))
    ways = build_ways(shape, prompts)
    said = {name: way(options.units) for name, way in ways.items()}
    ours, theirs = said.values()
    if ours != theirs and device() == "cpu":
        raise ValueError(f"{shape}, {batch} prompts: transformers and tresse say other units")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in tqdm(range(options.rounds), desc=f"{shape}, {batch}", disable=None, leave=False):
        for name, way in ways.items():
            times[name].append(clock(way, options.units))
    records = {name: describe(shape, batch, name, times[name], options) for name in ways}
    peer = records["transformers"]
    for record in records.values():
        record["ratio"] = record["units_per_s"] / peer["units_per_s"]
        record["cpu_ratio"] = peer["cpu_ms_per_step"] / record["cpu_ms_per_step"]
        record["equal"] = ours == theirs
    return list(records.values())


def describe(
    shape: str, batch: int, way: str, times: list[tuple[float, float]], options: Options
) -> dict[str, Any]:
    """Return the record of a way, with its spread."""
    median, low, high = quantiles([wall for wall, _ in times])
    cpu = quantiles([cpu for _, cpu in times])[0]
    total = batch * options.units
    return {
        "bench": "generate",
        "shape": shape,
        "way": way,
        "batch": batch,
        "prompt": options.prompt,
        "units": options.units,
        "precision": precision(),
        "threads": torch.get_num_threads(),
        "units_per_s": total / median,
        "units_per_s_p20_p80": [total / high, total / low],
        "cpu_ms_per_step": 1e3 * cpu / options.units,
    }


def build_ways(shape: str, prompts: np.ndarray) -> dict[str, Way]:
    """Load one export in both."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = Transformer(RECIPES[shape]().model, UNITS.width, UNITS.num_used)
    model.init_weights(0)
    dtype = torch.float32 if precision() == "fp32" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
        export(
            tensors,
            model.config,
            Path(folder, "out"),
            dtype,
            vocab_used=UNITS.num_used,
            max_positions=PACKING.row_length,
        )
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        peer = load(Path(folder, "out"), dtype=dtype).to(device())
    model = model.to(device(), dtype).eval()
    pack_weights(model, len(prompts))
    return {"tresse": ours(model, prompts), "transformers": theirs(peer, prompts)}


def ours(model: Transformer, prompts: np.ndarray) -> Way:
    """Continue as `tresse generate --temperature 0` does."""
    laid: list[PromptTokens] = [tokens_of([prompt]) for prompt in prompts]
    rows = [(place, 0) for place in range(len(laid))]

    def run(num_units: int) -> list[list[int]]:
        greedy = Continuer(model, UNITS, PACKING, Sampling(temperature=0), num_units)
        return [each.tokens for each in greedy.run(laid, rows).continuations]

    return run


def theirs(model: Any, prompts: np.ndarray) -> Way:
    """Continue as transformers' documentation does."""
    tokens = torch.from_numpy(prompts).to(device())

    def run(num_units: int) -> list[list[int]]:
        found = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=num_units,
            pad_token_id=0,
        )
        return found[:, tokens.shape[1] :].tolist()

    return run


def clock(way: Way, num_units: int) -> tuple[float, float]:
    """Return the seconds of a call, and its seconds of CPU time."""
    began, cpu = time.perf_counter(), time.process_time()
    way(num_units)
    wait(torch.device(device()))
    return time.perf_counter() - began, time.process_time() - cpu


def precision() -> str:
    """Return the dtype of both: fp32 on a CPU, bf16 on a GPU."""
    return "fp32" if device() == "cpu" else "bf16"


def _format(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
