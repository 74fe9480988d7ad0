"""Under torchrun and TRITON_INTERPRET=1: the kernels' AdamW as DeepSpeed's client, against torch's.

    torchrun --nproc-per-node N tests/support/workers/adamw.py

From one state in the middle of a training, an engine with each optimizer takes a step: gradients
are the same, so weights and moments may differ by fp32 rounding alone. Exits 0 when they do not
differ by more, at every ZeRO level and precision.
"""

import torch

from tests.support.workers.sharding import CASES, State, build, snapshot, steps
from tests.support.workers.step import OPTIM, make_model
from tresse.engine.run.config import ShardingConfig
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.sharding import shard as module
from tresse.engine.sharding.shard import Engine, release
from tresse.kernels.adamw import AdamW

MIDDLE = 3
TORCHS_OPTIMIZER = module.make_optimizer


def kernels_optimizer(model: torch.nn.Module, *_: object) -> torch.optim.Optimizer:
    """Our AdamW on a CPU, where it is interpreted."""
    groups = module.parameter_groups(model, OPTIM.weight_decay)
    return AdamW(groups, lr=OPTIM.lr, betas=OPTIM.betas, eps=OPTIM.eps)


def one_step(state: State, sharding: ShardingConfig, ranks: Ranks) -> tuple[State, Engine]:
    """The state after the next step, with the optimizer that is in place."""
    engine = build(state, MIDDLE, sharding, ranks)
    steps(engine, MIDDLE, MIDDLE + 1, ranks)
    return snapshot(engine), engine


def check(fresh: State, sharding: ShardingConfig, ranks: Ranks) -> None:
    """Take the same step with both optimizers, and compare all they hold."""
    module.make_optimizer = TORCHS_OPTIMIZER
    engine = build(fresh, 0, sharding, ranks)
    steps(engine, 0, MIDDLE, ranks)
    middle = snapshot(engine)
    release(engine)
    expected, engine = one_step(middle, sharding, ranks)
    release(engine)
    module.make_optimizer = kernels_optimizer
    found, engine = one_step(middle, sharding, ranks)
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    assert type(inner) is AdamW
    assert all(state["step"] == MIDDLE + 1 for state in inner.state.values())
    release(engine)
    for name, tensors in expected.items():
        assert not torch.equal(tensors["weight"], middle[name]["weight"])
        for key, tensor in tensors.items():
            rounding = 2 * torch.finfo(torch.float32).eps * tensor.abs().max().item()
            error = (found[name][key] - tensor).abs().max().item()
            assert error <= rounding, (sharding, name, key, error, rounding)


def main() -> None:
    """Check every case."""
    ranks = join()
    fresh = {name: {"weight": p.detach().clone()} for name, p in make_model().named_parameters()}
    for zero_stage, precision in CASES:
        check(fresh, ShardingConfig(zero_stage=zero_stage, precision=precision), ranks)  # type: ignore[arg-type]
    leave()


if __name__ == "__main__":
    main()
