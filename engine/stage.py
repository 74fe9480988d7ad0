"""A stage of a run: its plan, its initial weights, its counters and its checkpoints."""

import gc
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tresse.data.packing.loader import Loader, count_steps, micro_batches
from tresse.data.packing.packer import Plan, plan_mixed_rows
from tresse.data.packing.sources import Sources
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.corpus import check_tokenizers
from tresse.engine.batches import pinned
from tresse.engine.checkpoint.checkpoint import (
    Checkpoint,
    has_checkpoints,
    newest,
    open_finished,
    readable_states,
)
from tresse.engine.checkpoint.state import State
from tresse.engine.checkpoint.writer import Writer
from tresse.engine.forecast.memory import choose_micro_rows, keeps_h
from tresse.engine.fp8 import use_fp8
from tresse.engine.model import Transformer, parameter_sizes
from tresse.engine.pretrained import check_shape, load_pretrained
from tresse.engine.run.config import RunConfig, StageConfig
from tresse.engine.run.corpora import Corpora
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.run_folder import Difference, check_corpus_id, check_trained
from tresse.engine.sharding.full_state import set_full_state
from tresse.engine.sharding.shard import Engine, release, shard
from tresse.engine.step import NUM_NORMS, StepResult, high_norm
from tresse.kernels.attention import Attend
from tresse.kernels.mlp_backends import Mlp

# A block compiles to several graphs: for the first layer and the others, with and without a
# gradient, and for every length of cu_seqlens. Beyond dynamo's own limit of 8 it runs uncompiled.
MAX_GRAPHS = 64


@dataclass
class Stage:
    """A stage in training: the same on every rank."""

    config: RunConfig
    name: str
    plan: Plan
    last_step: int
    """Number of steps of the stage."""
    engine: Engine
    ranks: Ranks
    sources: Sources
    micro_rows: int
    """Largest number of rows of a micro-batch."""
    keeps_h: bool
    """True if SwiGLU's product is kept for the backward pass."""
    step: int
    """Number of optimizer steps taken in this stage, the one under way included."""
    num_updates: int
    """Number of these steps that changed the weights."""
    recent_norms: deque[float]
    """Gradient norms of the last steps."""
    tokens: dict[str, int]
    """Targets per language since the weights were new: those of earlier stages count too."""
    load_s: float
    """Seconds that it took to build the engine and fill it."""

    def __post_init__(self) -> None:
        folder = Path(self.config.run_dir) / self.name
        timeout_s = self.config.timeouts.save_s
        self.writer = Writer(folder, self.config.checkpoint, self.ranks, timeout_s)

    @property
    def num_steps(self) -> int:
        """Number of steps over which the learning rate falls to zero."""
        return count_steps(self.plan.num_rows, self.config.rows_per_step)

    @property
    def is_done(self) -> bool:
        """True if all steps are taken."""
        return self.step == self.last_step

    def is_due(self, every: int) -> bool:
        """Return whether this step ends the stage or is a multiple of `every`."""
        return self.is_done or self.step % every == 0

    @property
    def save_is_due(self) -> bool:
        """True if a checkpoint follows this step."""
        checkpoint = self.config.checkpoint
        return self.is_due(checkpoint.every) or self.step in checkpoint.at

    @property
    def place(self) -> str:
        """The stage and the step that comes next."""
        return f"stage {self.name}, step {self.step + 1}"

    def loader(self, on_device: bool) -> Loader:
        """Return a loader of the steps that are left; on_device: the device packs the rows."""
        return Loader(
            self.plan.copies if on_device else self.plan.fill,
            min(self.plan.num_rows, self.last_step * self.config.rows_per_step),
            rows_per_step=self.config.rows_per_step,
            micro_rows=self.micro_rows,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            first_step=self.step,
            threads=self.config.data.threads,
            allocate=pinned if self.ranks.device.type == "cuda" else np.empty,
        )

    def count(self, result: StepResult) -> None:
        """Count the targets of a step, if it changed the weights, and keep its norm."""
        if math.isfinite(result.grad_norm):
            self.recent_norms.append(result.grad_norm)
        if result.updated:
            self.num_updates += 1
            for language, count in zip(self.plan.languages, result.targets, strict=True):
                self.tokens[language] = self.tokens.get(language, 0) + count

    @property
    def norm_limit(self) -> float:
        """Largest gradient norm of the next step that is no spike; infinite if none is sought."""
        spikes = self.config.spikes
        if spikes.policy == "stop":  # only at a norm that is not finite
            return math.inf
        return min(high_norm(self.recent_norms, spikes.deviations), sys.float_info.max)

    @property
    def steps_ahead(self) -> int:
        """Number of steps that the device is given before the results of one are read.

        A limit on the norm comes from the steps before, so there the host waits for each.
        """
        on_gpu = self.ranks.device.type == "cuda"
        return int(on_gpu and self.config.spikes.policy == "stop")

    def describe(self, step: int, result: StepResult, limit: float) -> str:
        """Return the place and the numbers of a step, counted from 1, and its rows."""
        first = (step - 1) * self.config.rows_per_step
        last = min(first + self.config.rows_per_step, self.plan.num_rows) - 1
        return (
            f"stage {self.name}, step {step}: loss {result.loss:.4g}, gradient norm "
            f"{result.grad_norm:.4g}, expected at most {limit:.4g}; rows {first:,} to "
            f"{last:,} of the stage"
        )

    def save(self) -> None:
        """Begin to write a checkpoint; a collective."""
        state = State(
            stage=self.name,
            step=self.step,
            finished=self.is_done,
            num_updates=self.num_updates,
            recent_norms=tuple(self.recent_norms),
            tokens=dict(self.tokens),
            corpus=self.sources.id,
            tokenizers=check_tokenizers(self.sources.corpora),
            vocabulary=self.plan.vocabulary,
            config=self.config,
        )
        self.writer.save(self.engine, state)

    def close(self) -> None:
        """Free the engine's memory; the stage takes no more steps."""
        gc.unfreeze()
        release(self.engine)


def plan_stages(config: RunConfig, corpora: Corpora, ranks: Ranks) -> dict[str, Plan]:
    """Plan every stage, and print the plans on the first rank."""
    plans = {}
    for index, stage in enumerate(config.stages):
        plan = plan_mixed_rows(
            corpora.train,
            stage.streams,
            config.data.packing,
            tokens=stage.tokens,
            seed=config.seed,
            stage=index,
        )
        plans[stage.name] = plan
        if ranks.is_first:
            print(f"stage {stage.name}: {_describe_steps(config, stage, plan)}")
            print(plan.summary())
    read = {stream.corpus for plan in plans.values() for stream in plan.streams}
    for corpus in corpora.train.corpora:
        if corpora.train.label(corpus) not in read:
            raise ValueError(f"{corpus.path}: no stage reads this corpus; leave it out")
    return plans


def last_step(config: RunConfig, stage: StageConfig, plan: Plan) -> int:
    """Return the step that a stage ends with."""
    return stage.last_step(count_steps(plan.num_rows, config.rows_per_step))


def _describe_steps(config: RunConfig, stage: StageConfig, plan: Plan) -> str:
    num_steps, last = (
        count_steps(plan.num_rows, config.rows_per_step),
        last_step(config, stage, plan),
    )
    steps = "1 step" if num_steps == 1 else f"{num_steps:,} steps"
    first = f"the first {last:,} of " if last < num_steps else ""
    return f"{first}{steps} of {config.rows_per_step} rows"


def check_sources(config: RunConfig) -> None:
    """Raise ValueError if the initial weights of a new run cannot be used."""
    if has_checkpoints(Path(config.run_dir) / config.stages[0].name):
        return
    if config.init:
        open_finished(Path(config.init))
    if config.model.pretrained:
        check_shape(config.model)


def check_continued(config: RunConfig, corpora: Corpora, changes: Sequence[Difference]) -> None:
    """Raise ValueError if the checkpoints of a run do not allow it to go on.

    They were trained with other settings or data, or `changes` makes a stage longer from whose
    weights another one has begun.
    """
    for change in changes:
        if change.longer_stage is not None:
            _check_not_used(config, change.longer_stage)
    for stage in config.stages:
        for path, state in readable_states(Path(config.run_dir) / stage.name):
            check_trained(config, path, state.config)
            check_corpus_id(corpora, state.corpus, path)


def _check_not_used(config: RunConfig, position: int) -> None:
    longer = config.stages[position].name
    for number, stage in enumerate(config.stages[position + 1 :], position + 1):
        follows = stage.init == "previous" and number == position + 1
        if (follows or stage.init == longer) and has_checkpoints(Path(config.run_dir) / stage.name):
            raise ValueError(
                f"{config.run_dir}: stage {stage.name} has begun from the weights of stage "
                f"{longer}, which can no longer have more tokens; add a stage, or start another "
                f"run with --init {Path(config.run_dir) / longer}"
            )


def find_checkpoint(config: RunConfig, stage: str, ranks: Ranks) -> Checkpoint | None:
    """Return the checkpoint that a stage resumes from, on every rank; None for a new stage."""
    folder = Path(config.run_dir) / stage
    return _open_on_all(newest(folder, stage) if ranks.is_first else None, ranks)


def build_stage(
    config: RunConfig,
    stage: StageConfig,
    plan: Plan,
    corpora: Corpora,
    ranks: Ranks,
    attend: Attend,
    mlp: Mlp | None,
    own: Checkpoint | None,
    first_step: int = 0,
) -> Stage:
    """Build the engine of a stage, with its initial weights or the state of its own checkpoint.

    first_step: step that it goes on with, if that is after the checkpoint's; the rows in between
    are left out.
    """
    start_s = time.perf_counter()
    source = own or _open_on_all(_initial(config, stage) if ranks.is_first else None, ranks)
    sizes = parameter_sizes(config.model, plan.vocabulary.width)
    micro_rows = choose_micro_rows(config, sizes, ranks)
    keep_h = keeps_h(config, sizes, ranks, micro_rows)
    model = _build_model(config, plan, ranks, attend, mlp, keep_h=keep_h)
    if source:
        check_vocabulary(source, plan.vocabulary)
        source.load_into(model)
    else:
        fill_new(model, config, plan.vocabulary)
    # DeepSpeed starts the masters from bf16 weights: their fp32 values come from `read`.
    # They wait in the host's memory: on the device they would be one copy too many.
    drawn = () if source else model.named_parameters()
    new = {name: parameter.detach().to("cpu", copy=True) for name, parameter in drawn}

    def read(name: str) -> dict[str, Tensor]:
        if own:
            return own.training_state(name, model)
        return {"weight": source.weight(name, model) if source else new[name]}

    if own and ranks.is_first:
        print(f"stage {stage.name}: resuming from {own.path}")
    engine = _build_engine(model, config, ranks, micro_rows)
    step, num_updates = (own.state.step, own.state.num_updates) if own else (0, 0)
    set_full_state(engine, read, num_updates)
    return Stage(
        config,
        stage.name,
        plan,
        last_step(config, stage, plan),
        engine,
        ranks,
        corpora.train,
        micro_rows,
        keep_h,
        step=max(step, first_step),
        num_updates=num_updates,
        recent_norms=deque(own.state.recent_norms if own else (), NUM_NORMS),
        tokens=dict(source.state.tokens) if source else {},
        load_s=time.perf_counter() - start_s,
    )


def check_vocabulary(source: Checkpoint, vocabulary: Vocabulary) -> None:
    """Raise ValueError if a checkpoint has other ids than a stage."""
    found = source.state.vocabulary
    if found.tokenizers != vocabulary.tokenizers:
        names = [" and ".join(map(str, each.tokenizers)) for each in (vocabulary, found)]
        raise ValueError(
            f"{source.path}: trained on tokens of {names[1]}, the corpora have {names[0]}; "
            "tokenise all alike"
        )
    pairs = zip(found.special_names, vocabulary.special_names, strict=False)
    if any(one != other for one, other in pairs):
        names = [", ".join(each.special_names) for each in (vocabulary, found)]
        raise ValueError(
            f"{source.path}: its special tokens and tags are {names[1]}, those of the stage "
            f"{names[0]}; ids would change their meaning: keep the order, and add tags at the end"
        )


def _build_model(
    config: RunConfig, plan: Plan, ranks: Ranks, attend: Attend, mlp: Mlp | None, *, keep_h: bool
) -> Transformer:
    """Build the model on the rank's device, with memory that nothing has been written to."""
    vocabulary = plan.vocabulary
    with torch.device("meta"):
        model = Transformer(
            config.model,
            vocabulary.width,
            vocabulary.num_used,
            attend,
            keep_h=keep_h,
            mlp=mlp,
            num_recomputed=config.recompute_layers,
        )
    if config.sharding.fp8:
        use_fp8(model, ranks.device)
    return model.to_empty(device=ranks.device)


def _initial(config: RunConfig, stage: StageConfig) -> Path | None:
    """Find the checkpoint with the initial weights of a new stage; None for new weights."""
    names = [s.name for s in config.stages]
    position = names.index(stage.name)
    if stage.init == "scratch" or (stage.init == "previous" and position == 0 and not config.init):
        return None
    if stage.init == "previous" and position == 0:
        folder = Path(config.init)
    else:
        earlier = names[position - 1] if stage.init == "previous" else stage.init
        folder = Path(config.run_dir) / earlier
    return open_finished(folder).path


def _open_on_all(path: Path | None, ranks: Ranks) -> Checkpoint | None:
    path = ranks.from_first(path)
    return Checkpoint(path) if path else None


def fill_new(model: Transformer, config: RunConfig, vocabulary: Vocabulary) -> None:
    """Draw the weights, then replace those that a pretrained checkpoint has, if one is named."""
    model.init_weights(config.seed)
    if config.model.pretrained:
        loaded = load_pretrained(config.model, vocabulary, config.seed)
        with torch.no_grad():
            for name, tensor in loaded.items():
                model.get_parameter(name)[: len(tensor)] = tensor


def _build_engine(model: Transformer, config: RunConfig, ranks: Ranks, micro_rows: int) -> Engine:
    if config.compile:
        # At level 3 dynamo would recompile the hooks without end, so its own limit stays.
        if config.sharding.zero_stage < 3:
            torch._dynamo.config.recompile_limit = MAX_GRAPHS
        for layer in model.layers:
            layer.compile(dynamic=False)
    return shard(
        model,
        config.sharding,
        config.optim,
        ranks,
        micro_rows=micro_rows,
        num_micro_batches=len(micro_batches(config.rows_per_step, micro_rows, ranks.world_size)),
    )
