"""The main job: train the stages of a recipe, score each of them, print the table.

python engine/train.py                                       the demo: no GPU, no download
torchrun --nproc-per-node 4 engine/train.py 360m-interleave --data.corpus CORPUS
torchrun --nproc-per-node 4 engine/train.py --run-dir DIR    resumes an interrupted run
"""

import gc
import logging
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import torch
from torch import Tensor

from tresse.data import processes
from tresse.data.interrupt import INTERRUPTED, STOPPED, Interrupt
from tresse.data.packing.loader import micro_batches
from tresse.data.packing.packer import Batch, Copies, Plan
from tresse.data.store.text_tokenizer import keep_text_tokenizer
from tresse.engine.attention import choose_attention
from tresse.engine.batches import to_device, upload_pool
from tresse.engine.checkpoint.checkpoint import Checkpoint, export_stage, is_export_of, remove
from tresse.engine.fp8 import check_fp8
from tresse.engine.heldout import heldout_losses, plan_heldout
from tresse.engine.metrics import Meter, Progress
from tresse.engine.model import DTYPES
from tresse.engine.run.banner import print_banner
from tresse.engine.run.command_line import leave_status, parse_config, resume_command
from tresse.engine.run.config import RunConfig, StageConfig
from tresse.engine.run.corpora import Corpora, open_corpora, text_tokenizer
from tresse.engine.run.logbook import Logbook, check_log, curve_name
from tresse.engine.run.provenance import write_start
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.run.run_folder import (
    check_same_corpus,
    discard_if_new,
    find_changes,
    has_run,
    lock_run,
    write_changes,
    write_config,
    write_corpora,
)
from tresse.engine.run.typed_json import to_json
from tresse.engine.run.watch import Watch
from tresse.engine.scoring.questions import Questions, read_questions
from tresse.engine.scoring.report import print_table
from tresse.engine.scoring.score import score_stage
from tresse.engine.scoring.subset import score_subset
from tresse.engine.stage import (
    Stage,
    build_stage,
    check_continued,
    check_sources,
    find_checkpoint,
    last_step,
    plan_stages,
)
from tresse.engine.step import RunningStep, StepResult, learning_rate, train_step
from tresse.engine.unit_tokenizer import check_names
from tresse.kernels.attention import Attend
from tresse.kernels.mlp_backends import Mlp, choose_mlp

WAIT_FOR_FIRST_S = 5.0
End = Literal["finished", "stopped", "spike"]
"""How the training of a stage ended."""

EXPORTED = "exported"
"""Folder of a stage for transformers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is ready to train: its configuration and its data fit together."""

    config: RunConfig
    attend: Attend
    mlp: Mlp | None
    corpora: Corpora
    plans: dict[str, Plan]
    """Rows of each stage, by its name."""
    heldout: dict[str, Plan]
    """Rows of the held-out corpus, by language; empty without one."""
    questions: Questions | None
    subset: Questions | None
    """Questions that are also asked while a stage trains."""
    pool: Tensor | None
    """Tokens of the training corpus in device memory, if rows are packed there."""

    def heldout_is_due(self, stage: Stage) -> bool:
        """Return whether the held-out loss is measured after this step of a stage."""
        return bool(self.heldout) and stage.is_due(self.config.valid_every)

    def scoring_is_due(self, stage: Stage) -> bool:
        """Return whether a subset of the questions is asked after this step of a stage."""
        return bool(self.subset) and not stage.is_done and stage.is_due(self.config.score_every)


def main() -> None:
    """Run the job that the command line describes."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # while there is nothing to save
    config = parse_on_all(sys.argv[1:])
    try:
        with Watch(Path(config.run_dir), config.timeouts) as watch:
            finished = prepare_and_run(config, join(watch))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ValueError, OSError, FloatingPointError) as error:
        say_mistake(config, error)
    if processes.rank() == 0 and finished:
        print_table(config)
    elif processes.rank() == 0:
        print(f"Stopped and saved. To resume: {resume_command(config)}")
    if not finished:
        leave_status(INTERRUPTED if watch.interrupt.requested else STOPPED)
    leave()


def parse_on_all(arguments: Sequence[str]) -> RunConfig:
    """Parse the command line on every rank, and let the first one speak of its mistakes."""
    if processes.rank() == 0:
        return parse_config(arguments)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return parse_config(arguments)


def prepare_and_run(config: RunConfig, ranks: Ranks) -> bool:
    """Prepare the job and run it; return False if a signal stopped it."""
    job = prepare(config, ranks)
    with Interrupt() as interrupt:
        ranks.watch.interrupt = interrupt
        return run(job, ranks, interrupt)


def say_mistake(config: RunConfig, error: Exception) -> NoReturn:
    """Print an error, once if all ranks have it, and exit."""
    if processes.rank() == 0:
        discard_if_new(config)
    else:
        # torchrun ends this rank if the first one, of the run or of its node, has said it
        time.sleep(WAIT_FOR_FIRST_S * (2 if processes.local_rank() else 1))
    where = f"error on rank {processes.rank()}" if processes.rank() else "error"
    kept = "; the checkpoints before it are kept" if isinstance(error, OSError) else ""
    how = f". To resume: {resume_command(config)}" if kept and has_run(Path(config.run_dir)) else ""
    sys.exit(f"{where}: {error}{kept if how else ''}{how}")


def prepare(config: RunConfig, ranks: Ranks) -> Job:
    """Open the corpora and plan every stage; ValueError if they do not fit the settings."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses without it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    changes = find_changes(config)
    check_log(config)
    micro_batches(config.rows_per_step, 1, ranks.world_size)  # or an error
    attend = choose_attention(config, ranks)
    if config.sharding.fp8:
        check_fp8(ranks.device)
    mlp = choose_mlp(config.kernels.mlp, ranks.device, DTYPES[config.sharding.precision])
    if ranks.is_first:
        print(f"MLP: {config.kernels.mlp} (as kernels.mlp says)")
    if ranks.is_first:
        lock_run(config)
        check_sources(config)
    corpora = open_corpora(config, ranks)
    check_same_corpus(config, corpora)
    check_continued(config, corpora, changes)
    plans = plan_stages(config, corpora, ranks)
    packing, vocabulary = config.data.packing, plans[config.stages[0].name].vocabulary
    text = text_tokenizer(corpora) if ranks.is_first else None
    if text is not None:
        check_names(vocabulary, text)
    heldout = plan_heldout(corpora.valid, packing, vocabulary) if corpora.valid else {}
    questions = corpora.cloze and read_questions(
        corpora.cloze, packing, vocabulary, config.truncate_prompt
    )
    subset = None
    if questions and config.score_every:
        subset = questions.subset(config.score_items)
    pool = None
    if config.data.pack_on == "device":
        pool = upload_pool(corpora.train, ranks.device, show_progress=ranks.is_first)
    ranks.barrier()  # all ranks have read what the first one now writes
    if ranks.is_first:
        print_banner(config, plans, ranks)
        write_changes(config, changes)
        write_config(config)
        write_corpora(config, corpora)
        if text is not None:  # exports need it
            keep_text_tokenizer(Path(config.run_dir), text, vocabulary.tokenizers)
        write_start(Path(config.run_dir), plans, ranks.world_size)
    return Job(config, attend, mlp, corpora, plans, heldout, questions, subset, pool)


def run(job: Job, ranks: Ranks, interrupt: Interrupt) -> bool:
    """Train and score the stages that are not finished; return False if a signal stopped it."""
    for stage in job.config.stages:
        own = find_checkpoint(job.config, stage.name, ranks)
        last = last_step(job.config, stage, job.plans[stage.name])
        is_finished = own is not None and own.state.step >= last
        if own and is_finished and ranks.is_first:
            print(f"stage {stage.name}: finished before, at step {own.state.step}")
        if not is_finished and not run_stage(job, stage, own, ranks, interrupt):
            return False
        folder = Path(job.config.run_dir) / stage.name
        if ranks.is_first:
            export_finished(folder, job.config, ranks)
        if job.questions:
            score_stage(folder, job.questions, job.corpora.valid, ranks, job.attend)
        if ranks.any(asks_to_stop(interrupt, job.config)):
            return False
    return True


def export_finished(folder: Path, config: RunConfig, ranks: Ranks) -> None:
    """Write a finished stage for transformers, if the configuration asks for it, once."""
    out, dtype = folder / EXPORTED, config.checkpoint.export
    if dtype != "no" and out.exists() and not is_export_of(out, folder):  # the stage has gone on
        remove(out)
    if dtype != "no" and not out.exists():
        ranks.watch.enter("save", f"stage {folder.name}, {EXPORTED}")
        export_stage(folder, out, dtype)
        print(f"wrote {out}, for transformers")


def asks_to_stop(interrupt: Interrupt, config: RunConfig) -> bool:
    """Return whether a signal asks this rank to stop."""
    stops = config.checkpoint.on_sigusr1 == "stop"
    return interrupt.requested or (interrupt.save_requested and stops)


def run_stage(
    job: Job, config: StageConfig, own: Checkpoint | None, ranks: Ranks, interrupt: Interrupt
) -> bool:
    """Train a stage to its end, from its checkpoint; return False if a signal stopped it."""
    plan, first_step = job.plans[config.name], 0
    while True:
        ranks.watch.enter("start", f"stage {config.name}")
        stage = build_stage(
            job.config, config, plan, job.corpora, ranks, job.attend, job.mlp, own, first_step
        )
        end = train(stage, job, interrupt)
        stage.close()
        if end != "spike":
            return end == "finished"
        own, first_step = find_checkpoint(job.config, config.name, ranks), stage.step


def train(stage: Stage, job: Job, interrupt: Interrupt) -> End:
    """Take the steps that are left of a stage, up to a signal, or a spike that it rewinds at.

    A GPU is given the next step before the results of the last one are read, so that it never waits
    for the host. Where something follows a step, such as a checkpoint, its results are read first.
    """
    config, progress = stage.config, Progress(stage)
    log = Logbook(
        Path(config.run_dir),
        stage.name,
        stage.step,
        stage.ranks,
        tokens=sum(stage.tokens.values()),
        curve=curve_name(config.stages, stage.name),
        wandb=to_json(config) if config.log == "wandb" else None,
    )
    freeze()
    with log, progress:
        chosen = {"micro_rows": stage.micro_rows, "keeps_swiglu": stage.keeps_h}
        log.write(stage.step, chosen | ({"load_s": stage.load_s} if stage.step else {}))
        try:
            end = take_steps(stage, job, interrupt, log, progress)
        except BaseException:
            stage.writer.hurry()
            raise
        stage.ranks.watch.enter("save", stage.place)
        stage.writer.close()
        write_saves(stage, log)
    return end


def take_steps(
    stage: Stage, job: Job, interrupt: Interrupt, log: Logbook, progress: Progress
) -> End:
    """Take steps until the stage ends, or a step asks for another end."""
    config, watch, meter = stage.config, stage.ranks.watch, Meter(stage)
    launched: deque[Launched] = deque()
    for packed in meter.waited(stage.loader(job.pool is not None)):
        launched.append(launch(stage, packed, job.pool, interrupt, meter.wait_s))
        saves, measures = stage.save_is_due, job.heldout_is_due(stage)
        scores = job.scoring_is_due(stage)
        ahead = 0 if saves or measures or scores else stage.steps_ahead
        results = finish(stage, launched, ahead, log, meter)
        if any(result.stop or result.save for result in results):
            results += finish(stage, launched, 0, log, meter)
            saves = True
        stops = any(result.stop for result in results)
        rewinds = config.spikes.policy == "rewind" and not all(each.updated for each in results)
        saves = stops or (saves and not rewinds)
        if measures:
            write_heldout_losses(stage, job, log, progress)
        if scores and job.subset:
            write_scores(stage, job.subset, log, progress)
        if saves:
            watch.enter("save", stage.place)
            log.sync()
            stage.save()
        write_saves(stage, log)
        if results:
            progress.step(meter.summary, stage.step - len(launched))
        if measures or scores or saves:
            meter.restart()
        watch.enter("rows", stage.place)
        if stops:
            return "stopped"
        if rewinds:
            return "spike"
    return "finished"


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that the device has been given."""

    step: int
    """Its number in the stage, from 1."""
    lr: float
    wait_s: float
    """Seconds that its rows were waited for."""
    norm_limit: float
    running: RunningStep


def launch(
    stage: Stage,
    packed: list[Batch | Copies],
    pool: Tensor | None,
    interrupt: Interrupt,
    wait_s: float,
) -> Launched:
    """Give the device the next step of a stage."""
    config, ranks = stage.config, stage.ranks
    ranks.watch.enter("step", stage.place)
    lr = learning_rate(stage.step, stage.num_steps, config.optim)
    masked = config.data.packing.mask_documents
    batches = [to_device(each, ranks.device, masked, pool) for each in packed]
    num_languages, limit = len(stage.plan.languages), stage.norm_limit
    stop = asks_to_stop(interrupt, config)
    save, interrupt.save_requested = interrupt.save_requested, False
    running = train_step(
        stage.engine,
        batches,
        num_languages,
        lr,
        ranks,
        norm_limit=limit,
        stop=stop,
        save=save,
        failed=stage.writer.has_failed,
    )
    stage.step += 1
    return Launched(stage.step, lr, wait_s, limit, running)


def finish(
    stage: Stage, launched: deque[Launched], ahead: int, log: Logbook, meter: Meter
) -> list[StepResult]:
    """Wait for all but the last `ahead` steps, and count and write what they gave."""
    results = []
    while len(launched) > ahead:
        step = launched.popleft()
        result = step.running.result()
        if result.failed:
            stage.writer.raise_failure()
        check_spike(stage, step, result)
        stage.count(result)
        log.write(step.step, meter.record(step.step, result, step.lr, step.wait_s))
        results.append(result)
    return results


def write_saves(stage: Stage, log: Logbook) -> None:
    """Write how long the checkpoints took that were completed since the last call."""
    for saved in stage.writer.completed():
        log.write(saved.step, {"save_s": saved.save_s, "stall_s": saved.stall_s})


def write_heldout_losses(stage: Stage, job: Job, log: Logbook, progress: Progress) -> None:
    """Measure the held-out loss of each language."""
    losses = heldout_losses(stage.engine, job.heldout, stage.micro_rows, stage.ranks)
    log.write(stage.step, {"heldout_loss": losses})
    rounded = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    progress.say(f"stage {stage.name}, step {stage.step}: held-out loss: {rounded}")


def write_scores(stage: Stage, subset: Questions, log: Logbook, progress: Progress) -> None:
    """Measure the accuracies on a subset of the cloze set."""
    scores = score_subset(stage.engine, subset, stage.config.score_by, stage.ranks)
    log.write(stage.step, {"cloze": scores})
    rounded = ", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items())
    progress.say(f"stage {stage.name}, step {stage.step}: subset of the cloze set: {rounded}")


def check_spike(stage: Stage, launched: Launched, result: StepResult) -> None:
    """Say that a step is a spike; FloatingPointError if the run stops there."""
    if result.updated and math.isfinite(result.loss):
        return
    policy, first = stage.config.spikes.policy, stage.ranks.is_first
    spike = stage.describe(launched.step, result, launched.norm_limit)
    if policy == "stop" or result.updated:
        raise FloatingPointError(
            f"{spike}. The checkpoint before it is good: go on from there with "
            "--spikes.policy skip or rewind, or with a lower --optim.lr"
        )
    answer = {"skip": "leaving out this step", "rewind": "going back to the newest checkpoint"}
    if first:
        logger.warning("%s; %s", spike, answer[policy])


def freeze() -> None:
    """Keep what exists out of the garbage collector's passes, which would delay launches."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
