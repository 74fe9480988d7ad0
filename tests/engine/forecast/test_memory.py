"""The memory of a step, computed, against what an H200 has measured and what autograd keeps."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from tresse.engine.forecast.memory import (
    activation_bytes,
    choose_micro_rows,
    keeps_h,
    largest_micro_rows,
    state_memory,
    step_memory,
)
from tresse.engine.model import Transformer, parameter_shapes, parameter_sizes
from tresse.engine.run.config import RunConfig, ShardingConfig
from tresse.engine.run.recipes import LLAMA_1B, RECIPES, TINY
from tresse.kernels import linear_cross_entropy

CONFIG = dataclasses.replace(RECIPES["1b-interleave"](), rows_per_step=75)
SIZES = [shape.numel() for shape in parameter_shapes(LLAMA_1B, 2176).values()]
# Peaks of bench/results/step.json, FlashAttention 4, lean step, one GPU.
MEASURED = {False: 64.45 * 2**30, True: 76.14 * 2**30}


@pytest.mark.parametrize("keep_h", [False, True])
def test_the_peak_is_the_one_that_was_measured(keep_h: bool) -> None:
    computed = step_memory(CONFIG, SIZES, 1, 25, keep_h=keep_h).device
    assert computed == pytest.approx(MEASURED[keep_h], rel=0.015)


def test_the_product_of_swiglu_is_one_width_per_token_and_layer() -> None:
    kept, again = (activation_bytes(LLAMA_1B, 1000, 2, keep_h=keep) for keep in (True, False))
    assert kept - again == LLAMA_1B.num_layers * 1000 * LLAMA_1B.intermediate_size * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_head_needs_what_its_operators_allocate(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted with tensors that have no memory, at CSLM's size: 128,256 tokens and 2,048 units."""
    N, D, V = 1024, 4096, 130_432
    monkeypatch.setattr(linear_cross_entropy, "cross_entropy_", lambda *_: None)  # in place
    with FakeTensorMode(), MemTracker() as tracker:
        hidden, weight = torch.empty(N, D, dtype=dtype), torch.empty(V, D, dtype=dtype)
        tracker.track_external(hidden, weight)
        labels, scale = torch.empty(N, dtype=torch.int64), torch.ones(())
        kept = linear_cross_entropy._losses_and_gradients(hidden, weight, labels, V, scale)
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert len(kept) == 4
    inputs = sum(tensor.nbytes for tensor in (hidden, weight))
    computed = linear_cross_entropy.working_bytes(N, D, V, dtype.itemsize)
    assert computed == pytest.approx(peak - inputs, rel=1e-3)
    if dtype == torch.bfloat16:
        cslm = RECIPES["cslm-cpt"]()
        memory = step_memory(cslm, parameter_sizes(cslm.model, V), 8, 1, keep_h=False)
        assert memory.working == computed, "more than a layer needs"


def test_a_recomputed_layer_keeps_what_autograd_keeps_of_it() -> None:
    """One more layer, recomputed, adds its inputs to what autograd saves, and nothing else."""
    saved = [saved_bytes(num_layers) for num_layers in (2, 3)]
    predicted = [
        activation_bytes(with_layers(n), 64, 4, keep_h=False, num_recomputed=n) for n in (2, 3)
    ]
    assert saved[1] - saved[0] == predicted[1] - predicted[0] == 2 * 64 * TINY.hidden_size * 4


def with_layers(num_layers: int) -> Any:
    """A small model with so many layers."""
    return dataclasses.replace(TINY, num_layers=num_layers)


def saved_bytes(num_layers: int) -> int:
    """Bytes that autograd saves for 64 tokens, weights apart, with all layers recomputed."""
    model = Transformer(with_layers(num_layers), 128, 100, num_recomputed=num_layers)
    model.init_weights(0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = torch.randint(100, (1, 65))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = model(rows[:, :-1], rows[:, 1:])  # type: ignore[misc]
    loss.backward()
    return sum(saved.values())


@pytest.mark.parametrize(
    ("sharding", "world_size", "per_parameter", "on_host"),
    [
        (ShardingConfig(), 1, 18, 0),
        (ShardingConfig(), 4, 2 + 4 + 3, 0),
        (ShardingConfig(zero_stage=2), 4, 2 + 1 + 3 + 4, 0),
        (ShardingConfig(zero_stage=3), 2, 1 + 2 + 2 + 6 + 4, 0),
        (ShardingConfig(zero_stage=0, precision="fp32"), 4, 16, 0),
        (ShardingConfig(offload_optimizer=True), 4, 2 + 4 + 4, 3 + 2 + 0.5),
        (ShardingConfig(offload_optimizer=True, zero_stage=2), 4, 2 + 4, 3 + 2 + 0.5),
    ],
)
def test_the_state_is_divided_as_the_level_says(
    sharding: ShardingConfig, world_size: int, per_parameter: int, on_host: float
) -> None:
    config = dataclasses.replace(CONFIG, sharding=sharding)
    memory = state_memory(config, [400, 600], world_size)
    assert memory.device == 1000 * per_parameter
    assert memory.host == 1000 * on_host


@pytest.mark.parametrize(
    ("choice", "gigabytes", "world_size", "kept"),
    [
        ("auto", 85, 1, False),
        ("auto", 85, 4, True),
        ("auto", 150, 1, True),
        ("yes", 10, 1, True),
        ("no", 150, 1, False),
    ],
)
def test_the_product_is_kept_where_it_fits_or_as_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choice: Any,
    gigabytes: int,
    world_size: int,
    kept: bool,
) -> None:
    ranks = on_gpus(monkeypatch, gigabytes, world_size)
    assert keeps_h(with_choice(choice), SIZES, ranks, 25) == kept
    printed = capsys.readouterr().out
    assert (f"of {gigabytes}.0 GB" in printed) == (choice == "auto")


@pytest.mark.parametrize(("gigabytes", "rows"), [(85, 25), (110, 38), (200, 75), (25, 2), (19, 0)])
def test_as_many_rows_fit_as_memory_allows_shared_evenly(gigabytes: int, rows: int) -> None:
    assert largest_micro_rows(CONFIG, SIZES, 1, 0.95 * gigabytes * 1e9) == rows


def test_rows_that_fit_leave_room_for_the_product_that_is_kept() -> None:
    kept = with_choice("yes")
    memory = 0.95 * 110e9
    rows = largest_micro_rows(kept, SIZES, 1, memory)
    assert step_memory(kept, SIZES, 1, rows, keep_h=True).device <= memory
    assert rows < largest_micro_rows(CONFIG, SIZES, 1, memory)


def test_auto_takes_the_rows_that_fit_every_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, micro_rows="auto")
    assert choose_micro_rows(config, SIZES, on_gpus(monkeypatch, 110, 1)) == 38
    assert "micro-batches: 38 rows" in capsys.readouterr().out
    assert choose_micro_rows(CONFIG, SIZES, on_gpus(monkeypatch, 110, 1)) == 25
    few = dataclasses.replace(CONFIG, rows_per_step=30)
    assert choose_micro_rows(few, SIZES, on_gpus(monkeypatch, 110, 1)) == 15
    with pytest.raises(ValueError, match=r"19\.\d GB with a single row, a rank has 18\.0 GB"):
        choose_micro_rows(config, SIZES, on_gpus(monkeypatch, 18, 1))


def on_gpus(monkeypatch: pytest.MonkeyPatch, gigabytes: int, world_size: int) -> Any:
    """Ranks on GPUs of so much memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gigabytes * 10**9, 10**15))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    return SimpleNamespace(
        device=torch.device("cuda"),
        world_size=world_size,
        is_first=True,
        any=bool,
        gather=lambda value: [value + 10**9, value],
    )


def with_choice(choice: Any) -> RunConfig:
    """The configuration with a choice of kernels.keep_swiglu."""
    kernels = dataclasses.replace(CONFIG.kernels, keep_swiglu=choice)
    return dataclasses.replace(CONFIG, kernels=kernels)
