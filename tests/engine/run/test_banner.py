"""What a run says at its start, and what it warns of."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tresse.engine.run.banner import print_banner
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.recipes import RECIPES

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def plans(epochs: float) -> dict[str, Any]:
    """A stage with so many passes over its documents."""
    plan = SimpleNamespace(
        vocabulary=SimpleNamespace(width=64), streams=[SimpleNamespace(epochs=epochs)]
    )
    return {"en": plan}


def test_the_size_the_source_and_the_precision_are_said(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    print_banner(RECIPES["tiny"](), plans(100.0), ALONE)
    shown = capsys.readouterr().out
    # 64 x 128 of embeddings; per layer QKV 128 x 256, 128 x 128, SwiGLU 3 x 128 x 352, two norms.
    count = 64 * 128 + 4 * (128 * 256 + 128 * 128 + 3 * 128 * 352 + 2 * 128) + 128
    assert f"model: {count:,} parameters, random weights; a checkpoint takes 9.0 MB" in shown
    assert "fp32, ZeRO level 1" in shown
    assert not caplog.records


def test_many_epochs_and_a_large_model_on_a_cpu_are_warned_of(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = dataclasses.replace(RECIPES["360m-interleave"](), init="runs/a/en")
    print_banner(config, plans(101.0), ALONE)
    assert "weights of runs/a/en" in capsys.readouterr().out
    assert "stage en repeats its documents 101 times" in caplog.text
    assert "this model is large for a CPU: it will take 6." in caplog.text
