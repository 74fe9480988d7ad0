"""The main job: train the stages of a recipe, score each of them, print the table.

python engine/train.py                    the demo: no GPU, no download
torchrun --nproc-per-node 4 engine/train.py 360m-interleave --data.corpus CORPUS
torchrun --nproc-per-node 4 engine/train.py --run-dir DIR    goes on with an interrupted run
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tresse.data.interrupt import Interrupt
from tresse.data.packing.loader import Loader
from tresse.data.packing.packer import Plan
from tresse.engine.attention import choose_attention
from tresse.engine.batches import pinned, to_device, upload_pool
from tresse.engine.heldout import Plans, heldout_losses, plan_heldout
from tresse.engine.metrics import Meter
from tresse.engine.run.command_line import parse_run
from tresse.engine.run.config import RunConfig
from tresse.engine.run.corpora import Corpora, check_same_corpus, open_corpora, write_corpora
from tresse.engine.run.ranks import Ranks, join, leave
from tresse.engine.run.run_folder import Logbook, check_same_run, lock_run, write_config
from tresse.engine.scoring.questions import Questions
from tresse.engine.scoring.report import print_table
from tresse.engine.scoring.score import read_questions, score_stage
from tresse.engine.stage import (
    Stage,
    build_stage,
    check_rows,
    check_sources,
    find_checkpoint,
    plan_stages,
)
from tresse.engine.step import learning_rate, train_step
from tresse.kernels.attention import Attend

INTERRUPTED = 130  # the shell's status for Ctrl-C
LOG_FILE_INTERVAL_S = 10.0  # between two updates of the progress where no terminal shows them


@dataclass(frozen=True, slots=True)
class Job:
    """A run whose settings and data fit together."""

    config: RunConfig
    attend: Attend
    corpora: Corpora
    plans: dict[str, Plan]
    heldout: Plans
    questions: Questions | None
    pool: Tensor | None
    """The training corpus' tokens on the device, if rows are put together there."""


def main() -> None:
    """Run the job that the command line describes."""
    config = parse_run(sys.argv[1:])
    ranks = join()
    try:
        job = prepare(config, ranks)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ValueError as error:  # a user's mistake, said before the first step
        sys.exit(f"error: {error}" if ranks.is_first else f"error on rank {ranks.rank}: {error}")
    with Interrupt() as interrupt:
        finished = run(job, ranks, interrupt)
    if ranks.is_first and finished:
        print_table(config)
    elif ranks.is_first:
        print(f"Stopped and saved. To go on: {launcher()} {sys.argv[0]} --run-dir {config.run_dir}")
    leave()


def launcher() -> str:
    """What this process was started by."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return "python"
    return f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}"


def prepare(config: RunConfig, ranks: Ranks) -> Job:
    """Open the corpora and plan every stage, so that what cannot be met is said now."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses without it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    check_same_run(config)
    check_rows(config, ranks)
    attend = choose_attention(config, ranks)
    if ranks.is_first:
        lock_run(config)
        check_sources(config)
    corpora = open_corpora(config, ranks)
    check_same_corpus(config, corpora)
    plans = plan_stages(config, corpora, ranks)
    packing, vocabulary = config.data.packing, plans[config.stages[0].name].vocabulary
    heldout = plan_heldout(corpora.valid, packing) if corpora.valid else {}
    questions = corpora.cloze and read_questions(corpora.cloze, packing, vocabulary)
    pool = _upload(config, corpora, ranks)
    ranks.barrier()  # all have read what the first one is about to write
    if ranks.is_first:
        write_config(config)
        write_corpora(config, corpora)
    return Job(config, attend, corpora, plans, heldout, questions, pool)


def _upload(config: RunConfig, corpora: Corpora, ranks: Ranks) -> Tensor | None:
    if config.data.pack_on == "host":
        return None
    return upload_pool(corpora.train, ranks.device, show_progress=ranks.is_first)


def run(job: Job, ranks: Ranks, interrupt: Interrupt) -> bool:
    """Train and score the stages that are not finished; return False if a signal stopped it."""
    for stage in job.config.stages:
        own = find_checkpoint(job.config, stage.name, ranks)
        if own is None or not own.state["finished"]:
            plan = job.plans[stage.name]
            under_way = build_stage(job.config, stage, plan, job.corpora, ranks, job.attend, own)
            stopped = not train(under_way, job.heldout, job.pool, interrupt)
            under_way.close()
            if stopped:
                return False
        if job.questions:
            folder = Path(job.config.run_dir) / stage.name
            score_stage(folder, job.questions, job.corpora.valid, ranks, job.attend)
        if ranks.any(interrupt.requested):
            return False
    return True


def train(stage: Stage, heldout: Plans, pool: Tensor | None, interrupt: Interrupt) -> bool:
    """Take the steps that are left of a stage; return False if a signal stopped it."""
    config, plan, ranks = stage.run, stage.plan, stage.ranks
    packing, num_languages = config.data.packing, len(plan.languages)
    loader = Loader(
        plan.fill if pool is None else plan.copies,
        plan.num_rows,
        rows_per_step=config.rows_per_step,
        micro_rows=config.micro_rows,
        rank=ranks.rank,
        world_size=ranks.world_size,
        first_step=stage.step,
        threads=config.data.threads,
        allocate=pinned if ranks.device.type == "cuda" else np.empty,
    )
    meter = Meter(stage)
    log = Logbook(Path(config.run_dir), stage.name, stage.step, ranks)
    bar = tqdm(
        desc=stage.name,
        total=stage.num_steps,
        initial=stage.step,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else LOG_FILE_INTERVAL_S,
        disable=not ranks.is_first,
    )
    with log, bar:
        for rows in meter.waited(loader):
            lr = learning_rate(stage.step, stage.num_steps, config.optim)
            batches = [to_device(row, ranks.device, packing.mask_documents, pool) for row in rows]
            result = train_step(
                stage.engine, batches, num_languages, lr, ranks, stop=interrupt.requested
            )
            stage.advance(result)
            log.write(stage.step, meter.row(result, lr))
            if heldout and (stage.step % config.valid_every == 0 or stage.is_done):
                losses = heldout_losses(stage.engine, heldout, packing, config.micro_rows, ranks)
                log.write(stage.step, {"heldout_loss": losses})
                rounded = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
                if ranks.is_first:
                    bar.write(f"{stage.name} step {stage.step}: held-out loss {rounded}")
            if result.stop or stage.is_done or stage.step % config.checkpoint.every == 0:
                stage.save()
            bar.set_postfix_str(meter.summary, refresh=False)
            bar.update()
            if result.stop:
                return False
    return True


if __name__ == "__main__":
    main()
