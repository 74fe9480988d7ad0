"""The step equals that of plain PyTorch for any micro-batches, ranks and ZeRO level."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.support.warm import torchrun
from tests.support.workers.step import MODEL, NUM_STEPS, OPTIM, VOCAB, make_model, make_rows
from tresse.engine.run.config import OptimConfig, ShardingConfig
from tresse.engine.sharding.parameter_groups import parameter_groups
from tresse.engine.step import learning_rate
from tresse.kernels.cross_entropy import IGNORE_INDEX

WORKER = "tests/support/workers/step.py"


def train_plain() -> tuple[dict[str, torch.Tensor], list[float]]:
    """The reference: one process, all rows at once, torch's AdamW and clip; no DeepSpeed."""
    model = make_model()
    groups = parameter_groups(model, OPTIM.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=OPTIM.betas, eps=OPTIM.eps)
    gradient, losses = {}, []
    for step in range(NUM_STEPS):
        rows = make_rows(step)
        logits = model(rows.tokens).flatten(0, 1)
        loss = F.cross_entropy(logits, rows.labels.flatten(), ignore_index=IGNORE_INDEX)
        optimizer.zero_grad()
        loss.backward()
        if not gradient:
            named = model.named_parameters()
            gradient = {name: p.grad.clone() for name, p in named if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, NUM_STEPS, OPTIM)
        optimizer.step()
        losses.append(loss.item())
    return gradient, losses


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, all parameters as one vector."""
    assert found.keys() == expected.keys()
    squares = [((found[n] - expected[n]).double() ** 2).sum() for n in expected]
    norms = [(expected[n].double() ** 2).sum() for n in expected]
    return math.sqrt(sum(squares) / sum(norms))


@pytest.fixture(scope="module")
def plain() -> tuple[dict[str, torch.Tensor], list[float]]:
    """The reference run."""
    return train_plain()


def run_cases(tmp_path: Path, processes: int, *arguments: str) -> dict[Any, Any]:
    """Run the worker and read the file of its first rank."""
    out = tmp_path / "results.pt"
    torchrun(processes, WORKER, str(out), *arguments)
    return torch.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.long), 2])
def test_in_fp32_every_split_rank_count_and_zero_stage_takes_the_plain_step(
    tmp_path: Path, plain: tuple[dict[str, torch.Tensor], list[float]], processes: int
) -> None:
    for case, (gradient, losses) in run_cases(
        tmp_path, processes, "fp32", "0", "1", "2", "3"
    ).items():
        assert relative_error(gradient, plain[0]) < 1e-6, case
        assert max(abs(a - b) for a, b in zip(losses, plain[1], strict=True)) < 1e-4, case


# bf16 has 8 bits: operands are rounded by up to 2^-9, and about 20 roundings in a row make 2 %.
@pytest.fixture(scope="module")
def in_bf16(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Gradients and losses in bf16 on 2 ranks, by ZeRO level and number of micro-batches."""
    return run_cases(tmp_path_factory.mktemp("bf16"), 2, "bf16", "1", "2", "3")


@pytest.mark.slow
def test_tied_weights_at_level_2_in_bf16_on_several_ranks_have_their_whole_gradient(
    in_bf16: dict[Any, Any], plain: tuple[dict[str, torch.Tensor], list[float]]
) -> None:
    """DeepSpeed #8224: in some releases the gradient of what is used twice is wrong there."""
    assert MODEL.tie_embeddings
    for num_micro in (1, 2, 4):
        found = in_bf16[2, num_micro][0]["embedding.weight"]
        expected = plain[0]["embedding.weight"]
        assert (found - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.slow
def test_in_bf16_zero_stages_1_to_3_stay_within_rounding_of_fp32(
    in_bf16: dict[Any, Any], plain: tuple[dict[str, torch.Tensor], list[float]]
) -> None:
    for case, (gradient, losses) in in_bf16.items():
        assert relative_error(gradient, plain[0]) < 2e-2, case
        assert max(abs(a - b) for a, b in zip(losses, plain[1], strict=True)) < 2e-2, case


def test_the_learning_rate_warms_up_to_its_peak_and_decays_to_zero() -> None:
    optim = OptimConfig(lr=2.0, warmup=0.25)
    rates = [learning_rate(step, 8, optim) for step in range(8)]
    assert rates == pytest.approx([1.0, 2.0, 2.0, 10 / 6, 8 / 6, 1.0, 4 / 6, 2 / 6])


def test_a_stage_of_one_step_takes_it_at_the_peak_whatever_the_warm_up() -> None:
    assert learning_rate(0, 1, OptimConfig(lr=2.0)) == 2.0
    assert learning_rate(0, 1, OptimConfig(lr=2.0, warmup=0.9)) == 2.0


def test_bf16_at_stage_0_is_refused_naming_stage_1() -> None:
    with pytest.raises(ValueError, match="zero-stage 1"):
        ShardingConfig(zero_stage=0, precision="bf16")


def test_the_model_of_these_tests_has_padded_columns_and_a_bias() -> None:
    assert make_model().vocab_width > VOCAB
    assert MODEL.qkv_bias
