"""The console script `tresse`: each verb calls one function of the engine or of data.

A verb imports its modules when it is called, so that `tresse --help` answers at once.
"""

import logging
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tresse.data.interrupt import INTERRUPTED
from tresse.data.pipe import end_of_pipe

Argument = tyro.conf.Positional
Measure = Literal["mean_full", "mean_continuation", "sum_full", "sum_continuation"]

app = tyro.extras.SubcommandApp()


def main() -> None:
    """Run the verb that the command line names."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    verb, arguments = sys.argv[1:2], sys.argv[2:]
    if verb == ["--version"]:
        print(f"tresse {version('tresse')}")
        return
    try:
        if verb == ["train"]:
            from tresse.engine.run.launch import train

            train(arguments)
        if verb == ["plan"]:
            from tresse.engine.forecast.command import plan

            plan(arguments)
            return
        if verb == ["profile"]:
            from tresse.engine.profiling.command import profile

            profile(arguments)
        if verb == ["generate"]:
            from tresse.engine.generation.command import main as generate

            generate(arguments)
            return
        if verb == ["prepare"]:
            from tresse.data.prepare import main as prepare

            sys.exit(prepare(arguments, prog="tresse prepare"))
        app.cli(prog="tresse", description="Train speech language models on braided languages.")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(end_of_pipe())
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


@app.command(name="train")
def _train() -> None:
    """Train the stages of a recipe: `tresse train [OPTION OF TORCHRUN ...] [RECIPE] [--field ...]`.

    `tresse train --help` says more.
    """


@app.command(name="plan")
def _plan() -> None:
    """Forecast a run: memory, days, price: `tresse plan [RECIPE] [--gpus 4 8] [--field ...]`."""


@app.command(name="profile")
def _profile() -> None:
    """Trace a few steps and say where their time goes: `tresse profile [RECIPE] [--field ...]`."""


@app.command(name="generate")
def _generate() -> None:
    """Continue prompts: `tresse generate RUN/STAGE --prompt FILE --out FOLDER`."""


@app.command(name="prepare")
def _prepare() -> None:
    """Write a corpus: `tresse prepare manifest FILES --out CORPUS`."""


@app.command
def inspect(
    corpus: Annotated[Path, Argument],
    /,
    *,
    document: str | None = None,
    plot: Path | None = None,
) -> None:
    """Describe a corpus: sizes, lengths, translations and the use of its units.

    Args:
        corpus: Folder of the corpus.
        document: Key of a document. Show only its sentences, side by side in all languages.
        plot: PNG file for plots of lengths and units; it must not exist. Needs matplotlib.
    """
    from tresse.data.store.corpus import Corpus
    from tresse.data.store.inspection import (
        count_units,
        describe,
        describe_usage,
        plot_corpus,
        show_document,
    )

    if document is not None and plot is not None:
        raise ValueError("--document shows one document, --plot draws all of them; give one flag")
    opened = Corpus.open(corpus)
    if document is not None:
        print(show_document(opened, document, shutil.get_terminal_size().columns))
        return
    print(describe(opened))
    counts = count_units(opened)
    print("\n" + describe_usage(counts))
    if plot is not None:
        plot_corpus(opened, counts, plot)
        print(f"\nwrote {plot}")


@app.command
def verify(corpus: Annotated[Path, Argument]) -> None:
    """Check every file and every token of a corpus against its hashes and bounds.

    Args:
        corpus: Folder of the corpus.
    """
    from tresse.data.store.corpus import verify_corpus

    print(f"{corpus}: undamaged, corpus id {verify_corpus(corpus).id}")


@app.command
def merge(
    corpora: Annotated[tuple[Path, ...], Argument],
    /,
    *,
    out: Path,
    skip_misaligned: bool = False,
) -> None:
    """Merge corpora into a new one that shares their shards' bytes on disk.

    Args:
        corpora: Folders of the corpora.
        out: Folder of the new corpus; it must not exist, or be empty.
        skip_misaligned: Leave out keys whose documents differ in their number of sentences.
            Shards that held them are rewritten. By default such a key is an error.
    """
    from tresse.data.store.corpus_writer import merge_corpora
    from tresse.data.store.inspection import describe

    print(describe(merge_corpora(corpora, out, skip_misaligned=skip_misaligned)))


@app.command(name="export-units")
def export_units(
    corpus: Annotated[Path, Argument],
    /,
    *,
    out: Path,
    format: Literal["jsonl", "slamkit"] = "jsonl",
    lang: tuple[str, ...] = (),
) -> None:
    """Write the units of a corpus as JSON lines, in our format or SlamKit's.

    Args:
        corpus: Folder of the corpus.
        out: File to write; it must not exist.
        format: `jsonl`: our manifest, for `tresse prepare manifest`.
            `slamkit`: SlamKit's tokens.jsonl.
        lang: Languages to write; all by default.
    """
    from tresse.data.formats.export import EXPORTS, read_back
    from tresse.data.store.corpus import Corpus

    opened = Corpus.open(corpus)
    EXPORTS[format](opened, out, lang)
    print(f"wrote {out}; {read_back(opened, out, format, lang)}")


@app.command
def score(
    stage: Annotated[Path, Argument],
    /,
    *,
    cloze: Path,
    out: Path,
    truncate_prompt: Literal["", "left"] = "",
) -> None:
    """Score weights on a cloze corpus; use torchrun for several GPUs.

    Args:
        stage: Folder RUN/STAGE of a finished stage, RUN/STAGE/step-N, or an exported folder.
        cloze: Folder of the corpus, with its items.jsonl.
        out: Folder for scores.json and answers.jsonl; it must not exist, or be empty.
        truncate_prompt: What to do at a prompt that is longer than a row of the training.
            It is an error, or `left` cuts off its start.
    """
    from tresse.data.durable import check_vacant
    from tresse.data.store.corpus import Corpus
    from tresse.engine.attention import choose_attention
    from tresse.engine.checkpoint.checkpoint import open_checkpoint
    from tresse.engine.run.config import KernelsConfig
    from tresse.engine.run.ranks import join, leave
    from tresse.engine.scoring.questions import read_questions
    from tresse.engine.scoring.report import format_by_labels, format_scores, read_scores
    from tresse.engine.scoring.score import score as score_checkpoint

    check_vacant(out)
    ranks, checkpoint, corpus = join(), open_checkpoint(stage), Corpus.open(cloze)
    checkpoint.check_tokenizers(corpus)
    config, vocabulary = checkpoint.state.config, checkpoint.state.vocabulary
    questions = read_questions(corpus, config.data.packing, vocabulary, truncate_prompt)
    attend = choose_attention(replace(config, kernels=KernelsConfig()), ranks)
    score_checkpoint(checkpoint, questions, None, out, ranks, attend)
    if ranks.is_first:
        print(format_scores([read_scores(stage.name, out, config.score_by)]))
        if tables := format_by_labels(out, config.score_by):
            print(f"\n{tables}\n")
        print(f"wrote {out}: scores.json, answers.jsonl")
    leave()


@app.command
def table(
    runs: Annotated[tuple[Path, ...], Argument],
    /,
    *,
    format: Literal["text", "markdown", "csv", "latex"] = "text",
) -> None:
    """Print the scores of several runs as one table, like the paper's Table 3.

    Args:
        runs: Folders of scored runs.
        format: How the table is written; `latex` needs the package booktabs.
    """
    from tresse.engine.scoring.tables import format_tables, read_tables

    if not runs:
        raise ValueError("name one or more runs")
    print(format_tables(read_tables(runs), format))


@app.command
def report(
    runs: Annotated[tuple[Path, ...], Argument],
    /,
    *,
    out: Path,
    figures: tuple[Literal["svg", "png", "pdf"], ...] = ("svg",),
) -> None:
    """Write a page about one or more runs, finished or not: results, differences, curves, speed.

    Args:
        runs: Folders of runs.
        out: Folder for index.html, which needs no other file and no network, report.md and
            figures/. Files of an earlier report there are replaced.
        figures: Kinds of files of the charts. `svg` is always among them, for report.md.
    """
    from tresse.engine.reporting.pages import PAGE, write_report

    write_report(runs, out, figures)
    print(f"wrote {out / PAGE}, report.md, figures/")


@app.command
def compare(
    first: Annotated[str, Argument],
    second: Annotated[str, Argument],
    /,
    *,
    measure: Measure = "mean_full",
) -> None:
    """Say which differences between two scored stages are real, by a paired bootstrap.

    Args:
        first: RUN/STAGE; a quoted pattern such as "runs/seed-*/en-fr" stands for several seeds.
        second: The stage or the seeds to compare it with.
        measure: Log-likelihood that decides an item, as in `score_by` of a run.
    """
    from tresse.engine.scoring.compare import compare as compare_setups
    from tresse.engine.scoring.compare import folders_of, format_differences

    found = compare_setups(folders_of(first), folders_of(second), measure)
    print(format_differences((first, second), found))


@app.command
def submission(
    scored: Annotated[Path, Argument],
    /,
    *,
    cloze: Path,
    out: Path,
    measure: Measure = "mean_full",
) -> None:
    """Write the scores of sWUGGY and sBLIMP as a ZeroSpeech 2021 submission, which `zrc` reads.

    Args:
        scored: Folder of a scored stage: RUN/STAGE, or what `tresse score` wrote.
        cloze: Folder of the corpus that was scored, with ZeroSpeech's sets.
        out: Folder of the submission; it must not exist, or be empty.
        measure: Log-likelihood that is written, as in `score_by` of a run.
    """
    from tresse.engine.scoring.submission import META_FILE, write_submission

    for name, count in write_submission(scored, cloze, out, measure).items():
        print(f"{out / name}: {count:,} recordings")
    print(f"{out / META_FILE}: fill in what is in <>, and what `zrc` should know besides")


@app.command
def export(
    stage: Annotated[Path, Argument], /, *, out: Path, dtype: Literal["bf16", "fp32"] = "bf16"
) -> None:
    """Write weights as a folder that transformers and vLLM load, with a tokenizer of units.

    Args:
        stage: Folder RUN/STAGE of a finished stage, or RUN/STAGE/step-N.
        out: Folder to write; it must not exist, or be empty.
        dtype: Precision of the weights in the file.
    """
    from tresse.engine.checkpoint.checkpoint import export_stage

    export_stage(stage, out, dtype)
    print(f"wrote {out}: model.safetensors, config.json, tokenizer.json, state.json")


if __name__ == "__main__":
    main()
