"""Under torchrun: the lean step and DeepSpeed's own from one state, then other levels from it.

    torchrun --nproc-per-node N tests/support/workers/lean.py

Exits 0 when masters, moments and weights are equal: bit for bit without a clip, and within the
rounding of the norm with one. On more than two ranks a sum has an order, and losses are compared.
"""

import dataclasses

import torch

from tests.support.workers import sharding as helpers
from tests.support.workers.sharding import State, build, snapshot, steps
from tests.support.workers.step import make_model
from tresse.engine.run.config import ShardingConfig
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.sharding import lean as lean_module
from tresse.engine.sharding.shard import release

LEVEL_1 = ShardingConfig(zero_stage=1, precision="bf16")
NUM_STEPS = 4
ROUNDING = 2e-6
CLIPS = {1e9: 0.0, 0.05: ROUNDING}
"""Clip, and how far a value may be off, relative to the largest of its tensor."""
TIMES_ROUNDING = {"weight": 1000, "in the model": 2000}
"""AdamW divides a small gradient by its own size; the model's weights are in bf16."""


def trained(
    state: State,
    first: int,
    sharding: ShardingConfig,
    lean: bool,
    ranks: Ranks,
    num_steps: int = NUM_STEPS,
) -> State:
    """The state after `num_steps` more steps; the weights of the model are in it as well."""
    engine = build(state, first, sharding, ranks, lean=lean)
    assert bool(engine.lean) == lean
    losses = steps(engine, first, first + num_steps, ranks)
    found = snapshot(engine)
    for name, parameter in engine.module.named_parameters():
        found[name]["in the model"] = parameter.detach().float().clone()
    found["losses"] = {"": torch.tensor(losses)}
    release(engine)
    return found


def compare(found: State, expected: State, bound: float, what: str) -> None:
    """Compare two states."""
    for name, tensors in expected.items():
        for key, tensor in tensors.items():
            error = (found[name][key] - tensor).abs().max() / tensor.abs().max()
            limit = bound * TIMES_ROUNDING.get(key, 1)
            assert error <= limit, (what, name, key, error)


def main() -> None:
    """Check each clip; then go on at another level."""
    ranks = join()
    fresh = {name: {"weight": p.detach().clone()} for name, p in make_model().named_parameters()}
    for clip, bound in CLIPS.items():
        helpers.OPTIM = dataclasses.replace(helpers.OPTIM, clip=clip)
        several = ranks.world_size > 2
        # After a clip a weight may round to another bf16, which changes all gradients after it.
        num_steps = NUM_STEPS if several or not bound else 1
        by_deepspeed = trained(fresh, 0, LEVEL_1, False, ranks, num_steps)
        lean = trained(fresh, 0, LEVEL_1, True, ranks, num_steps)
        if several:  # the order of the sum decides the sign of gradients like rounding
            lean_losses, expected = (x["losses"][""] for x in (lean, by_deepspeed))
            assert (lean_losses - expected).abs().max() <= 1e-4, clip
        else:
            compare(lean, by_deepspeed, bound, f"clip {clip}")
    lean = trained(fresh, 0, LEVEL_1, True, ranks)
    if ranks.world_size == 2:
        lean_module.MAX_SLICES = 1
        at_once = trained(fresh, 0, LEVEL_1, True, ranks)
        compare(at_once, lean, 0.0, "all slices at once")
        lean_module.MAX_SLICES = 64
    middle = {name: tensors for name, tensors in lean.items() if name != "losses"}
    further = trained(middle, NUM_STEPS, LEVEL_1, True, ranks)
    for level in (2, 3):
        sharding = ShardingConfig(zero_stage=level, precision="bf16")  # type: ignore[arg-type]
        at_level = trained(middle, NUM_STEPS, sharding, False, ranks)
        losses = {"losses": at_level["losses"]}
        compare(losses, {"losses": further["losses"]}, 2e-3, f"level {level}")
    leave()


if __name__ == "__main__":
    main()
