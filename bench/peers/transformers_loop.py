"""transformers' model in a loop of one's own, compiled, with or without Liger's kernels.

The model is the recipe's, built from a configuration: no network, no files.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from tresse.bench.peers.loop import train_steps
from tresse.bench.peers.workload import WIDTH, Clock, Workload, count
from tresse.engine.hugging_face import hf_config
from tresse.engine.run.config import ModelConfig


def train(workload: Workload, clock: Clock) -> dict[str, Any]:
    """Train for all steps; returns the number of parameters and the last loss."""
    if workload.way == "liger":
        apply_liger(workload.config.model)
    model = build_model(workload, clock.device).train()
    num_parameters = count(model)
    if workload.compile == "whole":
        model.compile(dynamic=False)
    elif workload.compile == "layers":
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    return {"parameters": num_parameters, "loss": train_steps(workload, model, loss_of, clock)}


def build_model(workload: Workload, device: torch.device) -> Any:
    """Return LlamaForCausalLM or Qwen2ForCausalLM with fresh fp32 weights on the device."""
    from transformers import AutoModelForCausalLM

    description = configuration(workload.config.model, workload.row_length)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(description, attn_implementation=workload.attention)


def configuration(config: ModelConfig, row_length: int) -> Any:
    """Return transformers' configuration of our model, its vocabulary padded like ours."""
    from transformers import AutoConfig

    fields = hf_config(config, WIDTH, row_length, None, None, torch.float32)
    del fields["torch_dtype"]  # deprecated; without it older versions take fp32 too
    return AutoConfig.for_model(fields.pop("model_type"), **fields | {"use_cache": False})


def apply_liger(config: ModelConfig) -> None:
    """Let transformers' models have Liger's kernels; call it before the model is built."""
    liger = import_module("liger_kernel.transformers")
    family = "qwen2" if config.qkv_bias else "llama"
    getattr(liger, f"apply_liger_kernel_to_{family}")()


def loss_of(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss; the labels are shifted already."""
    return model(input_ids=tokens, labels=labels, shift_labels=labels).loss
