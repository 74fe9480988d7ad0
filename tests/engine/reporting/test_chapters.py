"""What the chapters of a report say, against the files of runs that are written for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.reporting.written_runs import config_of, write_checkpoint, write_run, write_scores
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.reporting.blocks import Block, Chart, Fold, Note, Section, Table
from tresse.engine.reporting.differences import differences, pairs_of
from tresse.engine.reporting.facts import read_runs
from tresse.engine.reporting.paper import CELLS, COSINES_1B, TABLE_3
from tresse.engine.reporting.results import results
from tresse.engine.reporting.settings import origins, overview, settings
from tresse.engine.reporting.training import binned, budgets, losses, questions, speed
from tresse.engine.reporting.transfer import alignment, context
from tresse.engine.run.run_folder import read_config, write_config
from tresse.engine.scoring.compare import compare, holm


def table(section: Section, *header: str) -> dict[str, dict[str, str]]:
    """Return the lines of a chapter's table by their first cell."""
    found = next(
        block
        for block in section.blocks
        if isinstance(block, Table) and set(header) <= set(block.header)
    )
    return {line[0]: dict(zip(found.header, line, strict=True)) for line in found.lines}


def chart(section: Section, name: str) -> Chart:
    return next(b for b in section.blocks if isinstance(b, Chart) and b.name == name)


def notes(section: Section) -> str:
    return "\n".join(block.text for block in section.blocks if isinstance(block, Note))


def tables(section: Section, kind: type[Block]) -> list[Block]:
    return [block for block in section.blocks if isinstance(block, kind)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run."""
    return write_run(tmp_path_factory.mktemp("runs") / "one")


def test_the_best_is_bold_and_chance_is_faint(folder: Path) -> None:
    (found,) = tables(results(read_runs([folder])), Table)
    assert isinstance(found, Table)
    column = list(found.header).index("sSC en")
    assert [found.kind(line, column) for line in range(3)] == ["faint", "", "best"]
    points = chart(results(read_runs([folder])), "accuracy")
    assert points.categories == ["sSC en", "sSC fr", "sSC en→fr", "sTC en"]
    assert [line.xs[0] for line in points.lines] == pytest.approx([50, 70, 80])
    assert points.levels[0].value == 50


def test_the_papers_table_is_open_only_if_the_sets_have_its_number_of_items(
    folder: Path, tmp_path: Path
) -> None:
    (fold,) = tables(results(read_runs([folder])), Fold)
    assert isinstance(fold, Fold)
    assert "other ones than the paper's" in fold.table.caption
    assert list(fold.table.header[-4:]) == ["sTC en", "sTC fr", "sTC en→fr", "sTC fr→en"]
    config = config_of(tmp_path)
    write_config(config)
    state = write_checkpoint(tmp_path, config, config.stages[0], 0)
    write_scores(tmp_path / "en", state, 0.6, num_items=1871)
    section = results(read_runs([tmp_path]))
    assert not tables(section, Fold)
    _, paper = tables(section, Table)
    assert isinstance(paper, Table)
    assert "sSC and sTC have as many items as the paper's" in paper.caption
    assert "the units here are mimi" in paper.caption
    assert paper.lines[-2][:4] == ["interleaving, then EN+FR", "1B", "61.44", "15.36"]


def test_the_papers_figures_give_what_its_text_says_of_them() -> None:
    """Section 6 of the paper: means and differences that it computes from Table 3."""

    def value(setup: str, size: str, *cell: str) -> float:
        line = next(each for each in TABLE_3 if (each.setup, each.size) == (setup, size))
        found = line.values[CELLS.index((cell[0], cell[1]))]
        assert found is not None
        return found

    own = [
        value(name, size, "sTC", name.lower()) for name in ("FR", "EN") for size in ("1B", "360M")
    ]
    assert sum(own[:2]) / 2 - sum(own[2:]) / 2 == pytest.approx(2.64, abs=0.01)
    for task, drop in (("sSC", 1.39), ("sTC", 4.45)):
        before, after = (
            sum(value(setup, "360M", task, pair) for pair in ("en->fr", "fr->en")) / 2
            for setup in ("interleaving", "interleaving, then EN+FR")
        )
        assert before - after == pytest.approx(drop, abs=0.01)
    assert value("interleaving", "1B", "sWUGGY", "en") == 56.74
    assert list(COSINES_1B.values()) == [0.73, 0.75, 0.76]


def test_differences_are_those_of_compare_corrected_over_the_table(folder: Path) -> None:
    section = differences(read_runs([folder]))
    found = table(section, "interleave vs. en-fr", "en vs. en-fr")
    own = {
        name: compare([folder / name], [folder / "en-fr"], "mean_full")
        for name in ("interleave", "en")
    }
    flat = [each for each_own in own.values() for each in each_own]
    corrected = iter(holm([each.p for each in flat]))
    stars = 0
    for name, each_own in own.items():
        for each in each_own:
            cell = found[" ".join(each.cell).replace("->", "→")][f"{name} vs. en-fr"]
            assert cell.startswith(f"{100 * each.difference:+.1f} (".replace("-", "−"))
            assert cell.endswith("*") == (next(corrected) < 0.05)
            stars += cell.endswith("*")
    assert stars > 0


def test_runs_that_differ_in_the_seed_are_one_setup_and_others_are_compared(
    folder: Path, tmp_path: Path
) -> None:
    seeds = [write_run(tmp_path / f"seed-{seed}", seed=seed) for seed in (0, 1)]
    runs = read_runs(seeds)
    (first, last), *_ = pairs_of(runs)
    assert (first.name, last.name) == ("seed-0/interleave (2 seeds)", "seed-0/en-fr (2 seeds)")
    assert list(last.folders) == [seed / "en-fr" for seed in seeds]
    assert "over training seeds is not in it" not in str(differences(runs).blocks[0])
    other = write_run(tmp_path / "other", right=(0.5, 0.5, 0.5))
    config = read_config(other)
    fields = json.loads((other / "config.json").read_text()) | {"rows_per_step": 12}
    (other / "config.json").write_text(json.dumps(fields))
    assert config.rows_per_step != 12
    pairs = pairs_of(read_runs([folder, other]))
    assert [(a.name, b.name) for a, b in pairs] == [
        (f"other/{name}", f"one/{name}") for name in ("en-fr", "interleave", "en")
    ]
    assert "rows_per_step" in table(settings(read_runs([folder, other])), "one", "other")


def test_losses_above_guessing_are_named_and_not_drawn(folder: Path) -> None:
    section = losses(read_runs([folder]))
    heldout = chart(section, "heldout-fr")
    assert [line.name for line in heldout.lines] == ["interleave", "en-fr"]
    assert heldout.caption == "Not drawn, as above the loss of guessing (7.6): en (last 12.0)."
    training = chart(section, "loss-en")
    assert [line.name for line in training.lines] == ["en", "interleave", "en-fr"]
    assert training.x_label == "tokens (millions)"
    assert list(training.lines[1].xs)[::19] == pytest.approx([21, 40])
    assert list(training.lines[1].ys)[::19] == pytest.approx([2.95, 2])
    assert table(section, "setup", "en", "fr")["en-fr"] == {
        "setup": "en-fr", "en": "1.900", "fr": "2.500"
    }  # fmt: skip


def test_accuracies_while_training_are_those_of_the_log(folder: Path, tmp_path: Path) -> None:
    found = chart(questions(read_runs([folder])), "subset-0")
    assert found.title == "sSC en→fr"
    assert [line.ys[0] for line in found.lines] == pytest.approx([50, 60, 70])
    assert [line.xs[0] for line in found.lines] == pytest.approx([20, 40, 60])
    write_config(config_of(tmp_path))
    assert "--score-every" in notes(questions(read_runs([tmp_path])))


def test_binning_keeps_means_and_leaves_out_what_is_not_a_number() -> None:
    xs, ys = binned(list(range(1000)), [float("nan"), *range(999)], num=9)
    assert len(xs) == 9
    assert sum(ys) / 9 == pytest.approx(499, abs=1)
    assert binned([1, 2], [float("nan")] * 2) == ([], [])
    assert binned([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_speed_has_medians_and_shares_of_time(folder: Path) -> None:
    found = table(speed(read_runs([folder])), "MFU")["interleave"]
    assert found["ranks"] == "4"
    assert found["tokens/s"] == "90,010"
    assert (found["MFU"], found["MFU full"]) == ("50.0%", "55.0%")
    assert (found["waits for data"], found["waits for checkpoints"]) == ("1.0%", "1.0%")
    assert found["hours"] == f"{10 / 3600:.2f}"


def test_budgets_are_the_planned_ones(folder: Path) -> None:
    found = table(budgets(read_runs([folder])), "epochs")
    assert found["interleave"]["from"] == "en"
    assert found["interleave"]["by language"] == "en 5,000,000, fr 5,000,000"
    assert (found["en"]["from"], found["en"]["steps"]) == ("scratch", "20")
    assert found["en-fr"]["epochs"] == "1.25"


def test_alignment_and_context_are_those_of_the_scores(folder: Path) -> None:
    runs = read_runs([folder])
    section = alignment(runs)
    cosines = chart(section, "cosine-en-fr")
    assert [line.is_control for line in cosines.lines] == [False] * 3 + [True] * 3
    assert list(cosines.lines[0].ys) == [0, 0.25, 0.5, 0.75, 1]
    retrieval = chart(section, "retrieval-en-fr")
    assert (retrieval.levels[0].value, retrieval.lines[2].ys[4]) == (0.2, 100)
    line = table(section, "translations", "unrelated")["en"]
    assert (line["translations"], line["difference"]) == ("0.625", "0.525")
    assert line["found, best (%)"] == "100.0 in layer 4"
    assert line["likeness"] == "cross-lingual"
    assert table(context(runs), "gain")["en"]["gain"] == "+0.300"
    assert list(chart(context(runs), "position-en").lines[0].xs) == [1, 2, 4, 8]


def test_a_pair_of_speech_and_text_is_cross_modal(folder: Path) -> None:
    (run,) = read_runs([folder])
    stage = run.stages[0]
    assert stage.state is not None
    text = Tokenizer("bpe", "", "", 300)
    tokenizers = stage.state.tokenizers | {"en-text": text, "fr-text": text}
    state = replace(stage.state, tokenizers=tokenizers)
    old = stage.scores["alignment"]["en-fr"]
    new = old | {"is_cross_modal": True}
    pairs = {"en-fr": old, "en-en-text": old, "en-text-fr-text": old, "de-en-text": new}
    stage = replace(stage, state=state, scores=stage.scores | {"alignment": pairs})
    section = alignment([replace(run, stages=[stage])])
    found = next(block for block in section.blocks if isinstance(block, Table))
    assert {line[1]: line[2] for line in found.lines} == {
        "en-fr": "cross-lingual",
        "en-en-text": "cross-modal",
        "en-text-fr-text": "cross-lingual",
        "de-en-text": "cross-modal",
    }
    title = chart(section, "cosine-en-en-text").title
    assert title == "Cosine of translations by layer, en-en-text (cross-modal)"


def test_origins_name_code_machine_and_corpora(folder: Path) -> None:
    section = origins(read_runs([folder]))
    start = table(section, "commit")["one"]
    assert start["commit"] == "0123456789ab+"
    assert start["device"] == "NVIDIA H100 80GB HBM3"
    assert "torch 2.13.0" in start["versions"]
    corpora = [
        line for block in section.blocks[1:] if isinstance(block, Table) for line in block.lines
    ]
    assert ["one", "train", "1a2b", "corpora/train"] in corpora


def test_damage_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    strange = json.dumps(json.loads(lines[2]) | {"loss_by_language": {"../x": 1.0}, "step_s": "?"})
    odd = json.dumps(json.loads(lines[3]) | {"loss_by_language": {"../../en": 3.0}})
    kept = [lines[0], "{damaged", strange, odd, *lines[4:]]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    (run / "en" / "scores.json").write_text("{}")
    (run / "starts.jsonl").write_text("[\n")
    (run / "corpora.json").unlink()
    config = read_config(run)
    other = write_checkpoint(tmp_path / "other", config, config.stages[2], 0)
    write_scores(run / "en-fr", other, 0.6)
    runs = read_runs([run])
    said = notes(overview(runs))
    assert "metrics.jsonl:2: " in said
    assert "metrics.jsonl:3: not a measurement of this version" in said
    assert chart(losses(runs), "loss-______en").title == "Training loss, ../../en"
    assert "scores.json has no hash of its own" in said
    assert "starts.jsonl:1: " in said
    assert "corpora.json" in said
    assert "Stage en is finished, but has no scores" in said
    assert "The scores of stage en-fr are of an earlier checkpoint." in said
    assert len(table(losses(runs), "setup", "en")) == 3
    assert set(table(results(runs), "setup")) == {"interleave", "en-fr"}
    assert table(budgets(runs), "epochs")["en"]["epochs"] == "–"


def test_a_run_without_questions_and_held_out_corpus_says_so(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    write_config(config)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["data"] |= {"valid": "", "cloze": ""}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    said = notes(overview(read_runs([tmp_path])))
    assert "no cloze set (--data.cloze)" in said
    assert "no held-out corpus (--data.valid)" in said


def test_what_resumed_runs_changed_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    change = {"field": "optim.lr", "old": 0.002, "new": 0.001}
    (run / "changes.jsonl").write_text(json.dumps(change) + "\n")
    assert table(settings(read_runs([run])), "was")["optim.lr"]["became"] == "0.001"
