"""Under torchrun: copy the state of one engine into a new one, and train both further.

    torchrun --nproc-per-node N tests/support/workers/sharding.py

Prints nothing and exits 0 when both stay equal, bit for bit, at every ZeRO level and precision.
"""

import math

import torch

from tests.support.workers.step import OPTIM, ROWS, full_gradient, make_model, make_rows, take
from tresse.engine.run.config import ShardingConfig
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.sharding.full_state import full_state, set_full_state
from tresse.engine.sharding.shard import Engine, release, shard
from tresse.engine.sharding.update import backward, forward, loss_factor
from tresse.engine.step import train_step

CASES = [(0, "fp32"), *((z, p) for z in (1, 2, 3) for p in ("fp32", "bf16"))]
State = dict[str, dict[str, torch.Tensor]]


def build(
    state: State, num_updates: int, sharding: ShardingConfig, ranks: Ranks, *, lean: bool = True
) -> Engine:
    """Make an engine with the given state, its compute weights included."""
    model = make_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name]["weight"])
    micro_rows = ROWS // (2 * ranks.world_size)
    engine = shard(
        model, sharding, OPTIM, ranks, micro_rows=micro_rows, num_micro_batches=2, lean=lean
    )
    set_full_state(engine, lambda name: state[name], num_updates)
    return engine


def steps(engine: Engine, first: int, last: int, ranks: Ranks) -> list[float]:
    """Train on steps first to last; return the losses."""
    share = ROWS // ranks.world_size
    begin, half = ranks.rank * share, share // 2
    losses = []
    for step in range(first, last):
        rows = make_rows(step)
        micro = [take(rows, begin + k * half, begin + (k + 1) * half) for k in (0, 1)]
        losses.append(train_step(engine, micro, 2, OPTIM.lr, ranks).result().loss)
    return losses


def snapshot(engine: Engine) -> State:
    """A copy of the whole state."""
    return {
        name: {key: tensor.detach().clone() for key, tensor in tensors.items()}
        for name, tensors in full_state(engine)
    }


def check(fresh: State, sharding: ShardingConfig, ranks: Ranks) -> None:
    """Train an engine, copy its state into another, train both, and compare all they hold."""
    first = build(fresh, 0, sharding, ranks)
    for name, tensors in snapshot(first).items():
        assert torch.equal(tensors["weight"], fresh[name]["weight"]), "masters are not rounded"
    steps(first, 0, 4, ranks)
    before = snapshot(first)
    skip(first, ranks)
    equal(snapshot(first), before, sharding)
    second = build(snapshot(first), 4, sharding, ranks)
    assert steps(first, 4, 8, ranks) == steps(second, 4, 8, ranks), sharding
    equal(snapshot(second), snapshot(first), sharding)


def skip(engine: Engine, ranks: Ranks) -> None:
    """Take two steps that leave no trace: of a norm above the limit, and of one that is NaN."""
    share = ROWS // ranks.world_size
    half = share // 2
    for limit, factor in ((1e-9, 1.0), (math.inf, math.nan)):
        rows = make_rows(99)
        begin = ranks.rank * share
        micro = [take(rows, begin + k * half, begin + (k + 1) * half) for k in (0, 1)]
        spoiled = engine.module.register_forward_hook(
            lambda _module, _inputs, output, scale=factor: (output[0] * scale, output[1])
        )
        result = train_step(engine, micro, 2, OPTIM.lr, ranks, norm_limit=limit).result()
        spoiled.remove()
        assert not result.updated
        assert math.isfinite(result.grad_norm) == math.isfinite(factor)


def equal(found: State, expected: State, sharding: ShardingConfig) -> None:
    """Compare two states bit for bit."""
    for name, tensors in expected.items():
        for key, tensor in tensors.items():
            assert torch.equal(found[name][key], tensor), (sharding, name, key)


class Line(torch.nn.Module):
    """Its gradient is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, summed."""
        return (self.weight * x).sum()


def check_fp32_sums(zero_stage: int, ranks: Ranks) -> None:
    """Add 1 and 2^-10, which bf16 cannot, over two micro-batches on each of the ranks."""
    sharding = ShardingConfig(zero_stage=zero_stage, precision="bf16")  # type: ignore[arg-type]
    model = Line()
    engine = shard(model, sharding, OPTIM, ranks, micro_rows=1, num_micro_batches=2)
    set_full_state(engine, lambda _: {"weight": torch.zeros(4, 4)}, 0)
    # The first rank has the large gradient, so that reduction is put to the test as well.
    for value in (1.0, 2**-10) if ranks.is_first else (2**-11, 2**-12):
        loss = forward(engine, torch.full((4, 4), value, dtype=torch.bfloat16))
        factor = loss_factor(engine, ranks.world_size)
        backward(engine, loss * factor, last=value not in (1.0, 2**-11))
    expected = 1 + 2**-10 + (2**-11 + 2**-12 if ranks.world_size > 1 else 0)
    assert torch.equal(full_gradient(engine, model.weight), torch.full((4, 4), expected)), (
        zero_stage
    )


def check_released(fresh: State, sharding: ShardingConfig, ranks: Ranks) -> None:
    """After an engine is released, none of the tensors that it made hold memory."""
    engine = build(fresh, 0, sharding, ranks)
    steps(engine, 0, 1, ranks)
    parameters = list(engine.module.parameters())
    release(engine)
    assert sum(p.untyped_storage().nbytes() for p in parameters) == 0, sharding


def main() -> None:
    """Check every case."""
    ranks = join()
    fresh = {name: {"weight": p.detach().clone()} for name, p in make_model().named_parameters()}
    for zero_stage, precision in CASES:
        sharding = ShardingConfig(zero_stage=zero_stage, precision=precision)  # type: ignore[arg-type]
        check(fresh, sharding, ranks)
        check_released(fresh, sharding, ranks)
    for zero_stage in (1, 2, 3):
        check_fp32_sums(zero_stage, ranks)
        offloaded = ShardingConfig(zero_stage=zero_stage, offload_optimizer=True)  # type: ignore[arg-type]
        check(fresh, offloaded, ranks)
    leave()


if __name__ == "__main__":
    main()
