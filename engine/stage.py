"""One stage of a run: where its weights come from, its counters, its checkpoints."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tresse.data.packing.packer import Plan, plan_rows
from tresse.data.store.corpus import Corpus
from tresse.engine.checkpoint import Checkpoint, has_checkpoints, newest, save
from tresse.engine.finished import open_finished
from tresse.engine.hugging_face import check_config, load_pretrained
from tresse.engine.model import Transformer
from tresse.engine.run.config import RunConfig, StageConfig
from tresse.engine.run.corpora import Corpora
from tresse.engine.run.ranks import Ranks
from tresse.engine.run.run_folder import to_json
from tresse.engine.sharding import Engine, release, set_full_state, shard
from tresse.engine.step import StepResult
from tresse.kernels.attention import Attend

# Graphs of a block: the first layer's and the others', with and without a gradient, and each once
# for every length of cu_seqlens. Past dynamo's own limit of 8 a block would run uncompiled.
MAX_GRAPHS = 64


@dataclass
class Stage:
    """A stage under way: the same on every rank."""

    run: RunConfig
    name: str
    plan: Plan
    engine: Engine
    ranks: Ranks
    corpus: Corpus
    step: int
    """Optimizer steps taken in this stage."""
    tokens: dict[str, int]
    """Targets of each language trained on since the weights were new, earlier stages included."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole stage; the last one may have fewer rows."""
        return num_steps(self.plan, self.run)

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step == self.num_steps

    def advance(self, result: StepResult) -> None:
        """Count a step."""
        self.step += 1
        for language, count in zip(self.plan.languages, result.targets, strict=True):
            self.tokens[language] = self.tokens.get(language, 0) + count

    def close(self) -> None:
        """Free the engine's memory; the stage takes no more steps."""
        release(self.engine)

    def save(self) -> Path:
        """Write a checkpoint; a collective. Returns its folder."""
        state = {
            "stage": self.name,
            "step": self.step,
            "finished": self.is_done,
            "tokens": self.tokens,
            "corpus": self.corpus.id,
            "tokenizer": asdict(self.corpus.tokenizer),
            "vocabulary": asdict(self.plan.vocabulary),
            "config": to_json(self.run),
        }
        folder = Path(self.run.run_dir) / self.name
        return save(folder, self.engine, state, self.run.checkpoint.keep, self.ranks)


def num_steps(plan: Plan, run: RunConfig) -> int:
    """Steps that the rows of a plan make."""
    return -(-plan.num_rows // run.rows_per_step)


def check_rows(run: RunConfig, ranks: Ranks) -> None:
    """Raise ValueError if the rows of a step are not a whole number of micro-batches per rank."""
    if run.rows_per_step % (run.micro_rows * ranks.world_size):
        raise ValueError(
            f"rows_per_step={run.rows_per_step} is not a multiple of micro_rows={run.micro_rows} "
            f"times {ranks.world_size} ranks; change --micro-rows or the number of ranks"
        )


def plan_stages(run: RunConfig, corpora: Corpora, ranks: Ranks) -> dict[str, Plan]:
    """Plan every stage, and say on the first rank what it takes."""
    plans = {}
    for index, stage in enumerate(run.stages):
        plan = plan_rows(
            corpora.train,
            stage.streams,
            run.data.packing,
            tokens=stage.tokens,
            seed=run.seed,
            stage=index,
        )
        plans[stage.name] = plan
        if ranks.is_first:
            print(f"{stage.name}: {num_steps(plan, run):,} steps of {run.rows_per_step} rows")
            print(plan.summary())
    return plans


def check_sources(run: RunConfig) -> None:
    """Raise ValueError if the weights that a new run starts from cannot be had."""
    if has_checkpoints(Path(run.run_dir) / run.stages[0].name):
        return
    if run.init:
        open_finished(Path(run.init))
    if run.model.pretrained:
        check_config(Path(run.model.pretrained), run.model)


def find_checkpoint(run: RunConfig, stage: str, ranks: Ranks) -> Checkpoint | None:
    """Return what a stage goes on from, if it has been begun: the same on every rank."""
    return _open_on_all(newest(Path(run.run_dir) / stage) if ranks.is_first else None, ranks)


def build_stage(
    run: RunConfig,
    stage: StageConfig,
    plan: Plan,
    corpora: Corpora,
    ranks: Ranks,
    attend: Attend,
    own: Checkpoint | None,
) -> Stage:
    """Build the engine with the weights, moments and counters of the stage's own checkpoint.

    Without one the stage begins with the weights that it starts from.
    """
    source = own or _open_on_all(_initial(run, stage) if ranks.is_first else None, ranks)
    model = Transformer(run.model, plan.vocabulary.width, plan.vocabulary.num_used, attend)
    if source:
        source.check_tokenizer(corpora.train)
        source.load_into(model)
    else:
        _fill_anew(model, run)
    # Masters start from bf16 weights: they get their fp32 values from the checkpoint or from here.
    new = {} if source else {name: p.detach().clone() for name, p in model.named_parameters()}

    def read(name: str) -> dict[str, Tensor]:
        if own:
            return own.training_state(name, model)
        return {"weight": source.weight(name, model) if source else new[name]}

    if own and ranks.is_first:
        print(f"{stage.name}: going on from {own.path}")
    engine = _build_engine(model, run, ranks)
    set_full_state(engine, read, num_updates=own.state["step"] if own else 0)
    return Stage(
        run=run,
        name=stage.name,
        plan=plan,
        engine=engine,
        ranks=ranks,
        corpus=corpora.train,
        step=own.state["step"] if own else 0,
        tokens=dict(source.state["tokens"]) if source else {},
    )


def _initial(run: RunConfig, stage: StageConfig) -> Path | None:
    """Find the checkpoint whose weights a new stage starts from; None for new weights."""
    names = [s.name for s in run.stages]
    position = names.index(stage.name)
    if stage.init == "scratch" or (stage.init == "previous" and position == 0 and not run.init):
        return None
    if stage.init == "previous" and position == 0:
        folder = Path(run.init)
    else:
        folder = Path(run.run_dir) / (
            names[position - 1] if stage.init == "previous" else stage.init
        )
    return open_finished(folder).path


def _open_on_all(path: Path | None, ranks: Ranks) -> Checkpoint | None:
    path = ranks.from_first(path)
    return Checkpoint(path) if path else None


def _fill_anew(model: Transformer, run: RunConfig) -> None:
    """Draw the weights, then take those of a pretrained checkpoint where one is named."""
    model.init_weights(run.seed)
    if run.model.pretrained:
        with torch.no_grad():
            for name, tensor in load_pretrained(run.model.pretrained, run.model).items():
                model.get_parameter(name).copy_(tensor)


def _build_engine(model: Transformer, run: RunConfig, ranks: Ranks) -> Engine:
    if run.compile:
        if run.sharding.zero_stage < 3:  # whose hooks dynamo would compile as often, to no end
            torch._dynamo.config.recompile_limit = MAX_GRAPHS
        for layer in model.layers:
            layer.compile(dynamic=False)
    return shard(
        model,
        run.sharding,
        run.optim,
        ranks,
        micro_rows=run.micro_rows,
        num_micro_batches=run.rows_per_step // (run.micro_rows * ranks.world_size),
    )
