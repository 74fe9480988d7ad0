"""Hugging Face's Trainer, used as SlamKit does (slp-rl/slamkit, commit f563e56).

What is SlamKit's: the wrapper with its own loss in fp32 (slamkit/model/unit_lm.py), the trainer
that counts tokens after every micro-batch (slamkit/trainer/slam_trainer.py), the collator, four
workers of the loader, and the other arguments (config/training_args/default.yaml). What is ours:
the model, AdamW's settings, the clip, no evaluation, no checkpoint. It logs every 500 steps.
"""

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tresse.bench.peers.transformers_loop import build_model
from tresse.bench.peers.workload import Clock, Workload, count, random_rows
from tresse.data import processes
from tresse.data.worlds.random_units import NUM_UNITS

WORKERS = 4
PAD = NUM_UNITS  # never in a row


class UnitLM(nn.Module):
    """A causal language model with SlamKit's loss."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Return the sum of the losses over the step's number of targets, or their mean."""
        logits = self.lm(input_ids=input_ids, attention_mask=attention_mask).logits
        assert labels is not None
        predicted = logits.float()[..., :-1, :].contiguous()
        targets = labels[..., 1:].contiguous()
        by_mean = num_items_in_batch is None
        loss = F.cross_entropy(
            predicted.view(-1, logits.size(-1)),
            targets.view(-1),
            reduction="mean" if by_mean else "sum",
        )
        return {"loss": loss if by_mean else loss / num_items_in_batch, "logits": logits}


def train(workload: Workload, clock: Clock) -> dict[str, Any]:
    """Train for all steps; returns the number of parameters and the mean loss."""
    model = UnitLM(build_model(workload, clock.device))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, workload, clock, folder)
        loss = trainer.train().training_loss
    return {"parameters": count(model), "loss": loss}


def make_trainer(model: nn.Module, workload: Workload, clock: Clock, folder: str) -> Any:
    """Return a Trainer that marks the end of every step, and counts tokens as SlamKit's does."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback

    class MarkSteps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark()

    class CountingTrainer(Trainer):
        def training_step(
            self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
        ) -> Tensor:
            seen: Any = self.accelerator.gather((inputs["labels"] != -100).sum())
            self.state.num_input_tokens_seen += seen.sum().item()
            return super().training_step(model, inputs, num_items_in_batch)

    return CountingTrainer(
        model=model,
        args=arguments(workload, folder),
        data_collator=DataCollatorForLanguageModeling(tokenizer(), mlm=False),
        train_dataset=Rows(random_rows(workload)),
        callbacks=[MarkSteps()],
    )


def arguments(workload: Workload, folder: str) -> Any:
    """Return the arguments of the Trainer."""
    from transformers import TrainingArguments

    optim, on_cpu = workload.config.optim, not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=folder,
        max_steps=workload.total_steps,
        per_device_train_batch_size=workload.micro_rows,
        gradient_accumulation_steps=workload.accumulation,
        optim="adamw_torch_fused",
        learning_rate=optim.lr,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_epsilon=optim.eps,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.clip,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": optim.lr / 20},
        warmup_steps=100,
        bf16=workload.precision == "bf16",
        dataloader_num_workers=min(WORKERS, processes.share_of_cores() // 2),
        ddp_find_unused_parameters=False,
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=processes.rank() > 0,
        use_cpu=on_cpu,
    )


def tokenizer() -> Any:
    """Return a tokenizer that pads, which is all that the collator asks of it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"<Un{unit}>": unit for unit in range(NUM_UNITS)} | {"<PAD>": PAD}
    model = Tokenizer(WordLevel(words, unk_token="<UNK>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<PAD>")


class Rows(torch.utils.data.Dataset[Mapping[str, list[int]]]):
    """Rows as lists of ids with a mask, as the package datasets gives them; every rank's rows."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows[:, :-1]

    def __len__(self) -> int:
        """Return the number of rows: the Trainer gives each rank its share."""
        return len(self.rows) * processes.world_size()

    def __getitem__(self, index: int) -> Mapping[str, list[int]]:
        """Return a row."""
        ids = self.rows[index % len(self.rows)].tolist()
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}
