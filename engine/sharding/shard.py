"""DeepSpeed ZeRO around the model: its configuration and its optimizer."""

import gc
import io
from contextlib import redirect_stdout
from typing import Any

import deepspeed
import torch
from torch import nn

from tresse.engine.run.config import OptimConfig, ShardingConfig
from tresse.engine.run.ranks import Ranks
from tresse.engine.sharding.guard import Guard
from tresse.engine.sharding.lean import lean_step
from tresse.engine.sharding.parameter_groups import parameter_groups
from tresse.engine.sharding.sizes import LIVE, bucket_numel
from tresse.kernels.adamw import AdamW

# deepspeed.DeepSpeedEngine, whose own annotations are too loose to be checked against.
Engine = Any

# DeepSpeed warns of an unknown optimizer even where `zero_allow_untested_optimizer` allows it.
deepspeed.utils.logger.addFilter(lambda record: "untested optimizer" not in record.getMessage())


def deepspeed_config(
    sharding: ShardingConfig, clip: float, micro_rows: int, num_micro_batches: int, bucket: int
) -> dict[str, Any]:
    """Return DeepSpeed's configuration, with every key whose default has changed in a release.

    bucket: number of gradients that levels 2 and 3 reduce at once. The forecast of memory counts
    it, and the weights that level 3 may hold in full.
    """
    offload = {"device": "cpu", "pin_memory": True} if sharding.offload_optimizer else None
    return {
        "train_micro_batch_size_per_gpu": micro_rows,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": clip,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {
            "enabled": sharding.precision == "bf16",
            "check_grad_overflow": False,  # Guard leaves such a step out
            "immediate_grad_update": True,
        },
        "zero_optimization": {
            "stage": sharding.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": bucket,
            "stage3_max_live_parameters": LIVE,
            "stage3_max_reuse_distance": LIVE,
            "round_robin_gradients": False,
            "offload_optimizer": offload,
            # True would replace torch.nn.functional.linear in the whole process.
            "memory_efficient_linear": False,
        },
        "zero_allow_untested_optimizer": True,  # ours is tested by tests/kernels/test_adamw.py
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it synchronises the device
        "steps_per_print": 10**9,
    }


def make_optimizer(
    model: nn.Module, sharding: ShardingConfig, optim: OptimConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW: our kernel for masters on a GPU, torch's for masters in host memory."""
    groups = parameter_groups(model, optim.weight_decay)
    if device.type == "cuda" and not sharding.offload_optimizer:
        return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def shard(
    model: nn.Module,
    sharding: ShardingConfig,
    optim: OptimConfig,
    ranks: Ranks,
    *,
    micro_rows: int,
    num_micro_batches: int,
    lean: bool = True,
) -> Engine:
    """Give the model, with fp32 weights, to DeepSpeed; AdamW is the optimizer.

    lean: take the lean step where there is one. The engine's masters start as the weights rounded
    to the compute dtype; `set_full_state` sets their fp32 values.
    """
    optimizer = make_optimizer(model, sharding, optim, ranks.device)
    bucket = bucket_numel([parameter.numel() for parameter in model.parameters()])
    config = deepspeed_config(sharding, optim.clip, micro_rows, num_micro_batches, bucket)
    with redirect_stdout(io.StringIO()):  # BF16_Optimizer prints memory tables at any log level
        engine: Engine
        engine, *_ = deepspeed.initialize(
            model=model.to(ranks.device),
            optimizer=optimizer,
            config=config,
            dist_init_required=False,
        )
    # DeepSpeed's own step is guarded; the lean step takes its place where there is one.
    engine.lean = lean_step(engine, optim.clip, ranks) if lean else None
    if not engine.lean:
        engine.guard = Guard(engine.optimizer, inner_optimizer(engine))
    return engine


def release(engine: Engine) -> None:
    """Free an engine's tensors; DeepSpeed's hooks keep the engine itself alive.

    Otherwise a run of three stages would hold three sets of weights, gradients and moments.
    """
    optimizer = engine.optimizer
    inner = inner_optimizer(engine)
    flat = [p for group in inner.param_groups for p in group["params"]]
    flat += getattr(optimizer, "fp32_partitioned_groups_flat", [])
    parameters = list(engine.module.parameters())
    parameters += [p.ds_tensor for p in parameters if hasattr(p, "ds_tensor")]
    if engine.lean:
        engine.lean.close()
    engine.destroy()
    inner.state.clear()
    for tensor in flat + parameters:
        tensor.grad = None
        tensor.data = tensor.data.new_empty(0)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def inner_optimizer(engine: Engine) -> torch.optim.Optimizer:
    """Return the optimizer within DeepSpeed's; at level 0 there is none around it."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)
