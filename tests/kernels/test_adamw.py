"""The kernels' AdamW in the engine: where it is used, and as DeepSpeed's client."""

import pytest
import torch

from tests.support.processes import torchrun
from tests.support.workers.step import OPTIM, make_model
from tresse.engine.run.config import ShardingConfig
from tresse.engine.sharding.shard import make_optimizer
from tresse.kernels.adamw import AdamW, clip_coefficient, sum_of_squares


@pytest.mark.parametrize(
    ("device", "offload", "kind"),
    [("cuda", False, AdamW), ("cuda", True, torch.optim.AdamW), ("cpu", False, torch.optim.AdamW)],
)
def test_masters_on_a_gpu_are_updated_by_the_kernel(device: str, offload: bool, kind: type):
    sharding = ShardingConfig(offload_optimizer=offload)
    optimizer = make_optimizer(make_model(), sharding, OPTIM, torch.device(device))
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [OPTIM.weight_decay, 0.0]
    assert all(group["betas"] == OPTIM.betas for group in optimizer.param_groups)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_step_under_deepspeed_equals_one_with_torchs_optimizer(
    processes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    torchrun(processes, "tests/support/workers/adamw.py")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("numel", [17, 1_000_003])
def test_a_step_in_full_agrees_with_torch_on_a_gpu(numel: int):
    generator = torch.Generator("cuda").manual_seed(0)
    master = torch.nn.Parameter(torch.randn(numel, device="cuda", generator=generator))
    twin = torch.nn.Parameter(master.detach().clone())
    weight = master.detach().bfloat16()
    options = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}
    ours, torchs = AdamW([master], **options), torch.optim.AdamW([twin], **options)
    for _ in range(3):
        weight.grad = torch.randn(numel, device="cuda", generator=generator).bfloat16()
        twin.grad = weight.grad.float()
        norm, coefficient = clip_coefficient(sum_of_squares([weight.grad]), 1.0)
        torchs_norm = torch.nn.utils.clip_grad_norm_(twin, 1.0)
        torch.testing.assert_close(norm, torchs_norm, rtol=1e-6, atol=0)
        ours.step(coefficient, [weight])
        torchs.step()
    torch.testing.assert_close(master, twin, rtol=1e-6, atol=1e-6)
    assert torch.equal(weight, master.detach().bfloat16())
