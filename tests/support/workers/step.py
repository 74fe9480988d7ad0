"""Under torchrun: take steps at every ZeRO level and micro-batch split, and write the results.

    torchrun --nproc-per-node N tests/support/workers/step.py OUT PRECISION ZERO_STAGE...

The first rank writes {case: (gradient of the first step by name, losses of all steps)} to OUT.
"""

import sys

import torch

from tresse.engine import step as step_module
from tresse.engine.batches import DeviceBatch
from tresse.engine.model import Transformer
from tresse.engine.run.config import ModelConfig, OptimConfig, ShardingConfig
from tresse.engine.run.ranks import Ranks, join, leave  # before deepspeed
from tresse.engine.sharding.full_state import set_full_state
from tresse.engine.sharding.lean import LeanStep
from tresse.engine.sharding.shard import Engine, shard
from tresse.engine.sharding.update import Update
from tresse.engine.step import learning_rate, train_step
from tresse.kernels.cross_entropy import IGNORE_INDEX

NUM_STEPS = 20
ROWS, T, VOCAB = 8, 24, 50
OPTIM = OptimConfig(lr=3e-3)
MODEL = ModelConfig(
    hidden_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    intermediate_size=80,
    qkv_bias=True,
)


def make_model() -> Transformer:
    """The same small model in every process, with a padded vocabulary."""
    model = Transformer(MODEL, vocab_width=64, vocab_used=VOCAB)
    model.init_weights(seed=0)
    return model


def make_rows(step: int) -> DeviceBatch:
    """All rows of a step: counting from anywhere, with very different numbers of targets."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCAB, (ROWS, 1), generator=generator)
    tokens = (start + torch.arange(T + 1)) % VOCAB
    labels = tokens[:, 1:].clone()
    for row in range(ROWS):
        labels[row, T - row * T // (ROWS - 1) :] = IGNORE_INDEX
    languages = torch.randint(0, 2, (ROWS, T), generator=generator).to(torch.uint8)
    return DeviceBatch(tokens[:, :-1].contiguous(), labels, languages, None)


def take(rows: DeviceBatch, start: int, stop: int) -> DeviceBatch:
    """Rows start to stop of a batch."""
    cut = slice(start, stop)
    return DeviceBatch(rows.tokens[cut], rows.labels[cut], rows.languages[cut], None)


def full_gradient(engine: Engine, parameter: torch.nn.Parameter) -> torch.Tensor:
    """A copy of the whole reduced gradient in fp32; each rank may keep only a part."""
    from deepspeed.utils import safe_get_full_grad

    if engine.lean:
        return _gathered(engine.lean)[parameter]
    gradient = safe_get_full_grad(parameter)
    assert gradient is not None
    return gradient.float().clone()


def _gathered(lean: LeanStep) -> dict[torch.nn.Parameter, torch.Tensor]:
    """The gradients in the slices of all ranks."""
    found = {}
    for parameters, group in zip(lean.optimizer.bf16_groups, lean._groups, strict=True):
        flat = group.gradient.new_empty(group.weights.numel())
        torch.distributed.all_gather_into_tensor(flat, group.gradient)
        sizes = [p.numel() for p in parameters]
        parts = flat[: sum(sizes)].split(sizes)
        found |= {p: x.view(p.shape).clone() for p, x in zip(parameters, parts, strict=True)}
    return found


def run_case(zero_stage: int, precision: str, num_micro: int, ranks: Ranks) -> tuple:
    """Train NUM_STEPS steps; return the first step's gradient and every step's loss."""
    micro_rows = ROWS // (num_micro * ranks.world_size)
    model = make_model()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    sharding = ShardingConfig(zero_stage=zero_stage, precision=precision)  # type: ignore[arg-type]
    engine = shard(
        model, sharding, OPTIM, ranks, micro_rows=micro_rows, num_micro_batches=num_micro
    )
    set_full_state(engine, lambda name: {"weight": weights[name]}, num_updates=0)
    gradients = []
    plain_update = step_module.apply_gradient

    def update_and_keep_gradient(engine: Engine, norm_limit: float) -> Update:
        named = engine.module.named_parameters()
        gradients.append({name: full_gradient(engine, p) for name, p in named})
        return plain_update(engine, norm_limit)

    step_module.apply_gradient = update_and_keep_gradient
    losses = []
    for step in range(NUM_STEPS):
        rows, first = make_rows(step), ranks.rank * ROWS // ranks.world_size
        micro = [
            take(rows, first + k * micro_rows, first + (k + 1) * micro_rows)
            for k in range(num_micro)
        ]
        lr = learning_rate(step, NUM_STEPS, OPTIM)
        is_last = step == NUM_STEPS - 1
        stop = is_last and ranks.rank == ranks.world_size - 1
        result = train_step(engine, micro, 2, lr, ranks, stop=stop).result()
        assert result.stop == is_last, "all ranks stop when one of them is asked to"
        losses.append(result.loss)
    step_module.apply_gradient = plain_update
    return gradients[0], losses


def main() -> None:
    """Run the cases that the arguments name."""
    out, precision, *zero_stages = sys.argv[1:]
    ranks = join()
    results = {}
    for zero_stage in map(int, zero_stages):
        for num_micro in (1, 2, 4):
            results[zero_stage, num_micro] = run_case(zero_stage, precision, num_micro, ranks)
    if ranks.is_first:
        torch.save(results, out)
    leave()


if __name__ == "__main__":
    main()
