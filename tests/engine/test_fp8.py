"""Products in fp8, emulated on a CPU: which ones, how far off, and a run that learns with them."""

import copy
from pathlib import Path

import pytest
import torch

from tests.support.small_run import TRAIN, arguments, step_records
from tests.support.warm import torchrun
from tresse.engine import fp8
from tresse.engine.fp8 import check_fp8, use_fp8
from tresse.engine.model import Transformer
from tresse.engine.run.config import ShardingConfig
from tresse.engine.run.recipes import TINY

CPU = torch.device("cpu")


def test_four_projections_of_a_layer_multiply_in_fp8_and_nothing_else() -> None:
    model = Transformer(TINY, 128, 50)
    names = list(dict(model.named_parameters()))
    use_fp8(model, CPU)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    converted = {name.split(".")[-1] for name, kind in kinds.items() if kind == "Float8Linear"}
    assert converted == {"qkv_proj", "o_proj", "gate_up_proj"}
    assert kinds["layers.0.down_proj"] == "SwiGLULinear"
    assert list(dict(model.named_parameters())) == names, "checkpoints have the same tensors"


def test_hidden_states_and_gradients_are_off_by_the_rounding_of_8_bits() -> None:
    model = Transformer(TINY, 128, 50)
    model.init_weights(seed=0)
    rounded = copy.deepcopy(model).bfloat16()
    in_fp8 = copy.deepcopy(rounded)
    use_fp8(in_fp8, CPU)
    tokens, labels = torch.randint(50, (2, 2, 64), generator=torch.Generator().manual_seed(0))
    exact, bf16, found = (results(each, tokens, labels) for each in (model, rounded, in_fp8))
    for name, x in exact.items():
        errors = [((y[name].float() - x).norm() / x.norm()).item() for y in (bf16, found)]
        assert errors[0] < 0.02, name
        assert 0.005 < errors[1] < 0.15, (name, errors)


def results(model: Transformer, tokens: torch.Tensor, labels: torch.Tensor) -> dict:
    """The last hidden states and the gradient of one projection of each kind."""
    model.zero_grad()
    hidden = model.hidden_states(tokens)[-1].detach()
    loss, _ = model(tokens, labels, None, torch.tensor(1 / labels.numel()))
    loss.backward()
    names = ("qkv_proj", "o_proj", "gate_up_proj")
    gradients = {name: model.get_parameter(f"layers.1.{name}.weight").grad for name in names}
    return {"hidden": hidden, **gradients}


@pytest.mark.slow
@pytest.mark.long
def test_a_run_in_fp8_learns_like_one_in_bf16(world: Path, tmp_path: Path) -> None:
    losses = []
    for flags in ([], ["--sharding.fp8"]):
        run_dir = tmp_path / f"run{len(flags)}"
        job = [*arguments(world, run_dir), "--sharding.precision", "bf16", *flags]
        torchrun(1, TRAIN, *job)
        losses.append([record["loss"] for record in step_records(run_dir)])
    bf16, found = losses
    assert found != bf16
    assert found == pytest.approx(bf16, abs=5e-2)
    assert found[-1] < found[0]


def test_what_cannot_use_fp8_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"needs sharding\.precision bf16"):
        ShardingConfig(fp8=True, precision="fp32")
    monkeypatch.setattr(fp8, "capability_of", lambda _: 80)
    with pytest.raises(ValueError, match=r"needs compute capability 8\.9, this is 8\.0"):
        check_fp8(torch.device("cuda"))
    monkeypatch.setattr(fp8.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install torchao"):
        check_fp8(CPU)
