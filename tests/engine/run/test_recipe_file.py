"""Recipe files: the fields they change, the faults they refuse, a run in three languages."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, run
from tests.support.small_run import TRAIN
from tests.support.warm import torchrun
from tresse.engine.run.command_line import parse_config
from tresse.engine.run.logbook import read_metrics
from tresse.engine.run.recipe_file import read_recipe
from tresse.engine.run.recipes import RECIPES
from tresse.engine.run.run_folder import read_config, write_config
from tresse.engine.run.typed_json import to_json

STAGES = [
    {"name": "braid", "tokens": 1000, "streams": [
        {"languages": ["de", "en", "fr"], "mode": "sample", "weight": 3},
        {"languages": ["en", "fr"], "mode": "alternate"},
    ]},
    {"name": "de", "tokens": 500, "init": "scratch", "streams": [{"languages": ["de"]}]},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, **values: Any) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_a_file_changes_the_recipe_that_it_names(tmp_path: Path) -> None:
    optim = {"lr": 0.25}
    file = write(tmp_path / "mine.json", recipe="1b-interleave", optim=optim, stages=STAGES)
    config = parse_config([file, "--stages.0.streams.1.weight", "2"])
    base = to_json(RECIPES["1b-interleave"]())
    found = to_json(config)
    assert (config.recipe, config.run_dir) == ("1b-interleave", str(tmp_path / "runs" / "mine"))
    assert found["optim"] == base["optim"] | optim
    assert found["model"] == base["model"]
    assert [stage.name for stage in config.stages] == ["braid", "de"]
    braid = config.stages[0]
    assert [stream.languages for stream in braid.streams] == [("de", "en", "fr"), ("en", "fr")]
    assert [stream.weight for stream in braid.streams] == [3, 2]


def test_the_settings_of_a_run_are_a_recipe_of_another(tmp_path: Path) -> None:
    started = parse_config(["tiny", "--run-dir", "first", "--optim.lr", "0.25"])
    write_config(started)
    copied = tmp_path / "copy.json"
    copied.write_bytes((tmp_path / "first" / "config.json").read_bytes())
    again = parse_config([str(copied)])
    assert again.run_dir == str(tmp_path / "runs" / "copy")
    same = to_json(started) | {"run_dir": again.run_dir}
    assert to_json(again) == same


def test_an_optional_part_can_be_added_and_taken_away(tmp_path: Path) -> None:
    scaled = write(tmp_path / "a.json", recipe="tiny", model={"rope_scaling": {"factor": 8}})
    scaling = parse_config([scaled]).model.rope_scaling
    assert scaling is not None
    assert (scaling.factor, scaling.original_context) == (8, 8192)
    none = write(tmp_path / "b.json", recipe="1b-interleave", model={"rope_scaling": None})
    assert parse_config([none]).model.rope_scaling is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "field 'recipe' is one of"),
        ({"recipe": "tyni"}, "field 'recipe' is one of"),
        ({"recipe": "tiny", "optim": {"rl": 1}}, "there is no field optim.rl"),
        ({"recipe": "tiny", "stage": []}, "there is no field stage"),
        (
            {"recipe": "tiny", "stages": [{**STAGES[1], "streams": [{"langs": ["de"]}]}]},
            "there is no field stages.0.streams.0.langs",
        ),
        ({"recipe": "tiny", "stages": [{**STAGES[1], "x": 1}]}, "there is no field stages.0.x"),
        ({"recipe": "tiny", "stages": []}, "expected one or more stages with different names"),
        ({"recipe": "tiny", "optim": {"lr": -1}}, "optim.lr=-1"),
        ({"recipe": "tiny", "optim": {"lr": "fast"}}, "optim.lr: expected a valid number"),
        ({"recipe": "tiny", "model": 5}, "model: expected"),
        ({"recipe": ["tiny"]}, "field 'recipe' is one of"),
        ({"recipe": "tiny", "rows_per_step": True}, "rows_per_step: expected a valid int"),
        ({"recipe": "tiny", "rows_per_step": "64"}, "rows_per_step: expected a valid int"),
        ({"recipe": "tiny", "optim": {"lr": float("nan")}}, "optim.lr=nan"),
        ({"recipe": "tiny", "optim": {"weight_decay": float("inf")}}, "optim.weight_decay=inf"),
        ({"recipe": "tiny", "seed": -1}, "seed=-1; expected 0"),
    ],
)
def test_a_file_that_means_nothing_is_refused_by_name(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "mine.json", **values)
    with pytest.raises(SystemExit, match=f"mine.json: .*{re.escape(message)}"):
        parse_config([file])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"{", "not JSON"), (b"[]", "expected an object"),
     (b'{"recipe": "tiny", "recipe": "demo"}', "occurs twice")],
)  # fmt: skip
def test_a_file_that_is_no_object_is_refused_by_name(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(SystemExit, match=f"mine.json: .*{message}"):
        parse_config(["mine.json"])


def test_the_recipe_of_the_readme_is_one(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```\n(\{\n.*?\n\})\n```", readme, re.S)
    (tmp_path / "large.json").write_text(block)
    config = parse_config(["large.json"])
    assert config.model.num_layers == 28
    assert config.stages[0].streams[0].languages == ("de", "en", "fr")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optim": {"lr": 0.5}}, "optim.lr was 0.25, now 0.5"),
        ({}, "optim.lr was 0.25, now 0.002"),
        ({"recipe": "demo", "optim": {"lr": 0.25}}, "a run of the recipe tiny, not of demo"),
    ],
    ids=["another value", "a value taken away", "another recipe"],
)
def test_a_recipe_file_that_has_changed_does_not_resume_its_run(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "mine.json", recipe="tiny", optim={"lr": 0.25})
    started = parse_config([file, "--data.corpus", "c", "--micro-rows", "2"])
    write_config(started)
    assert parse_config([file]) == started
    write(tmp_path / "mine.json", **{"recipe": "tiny"} | changed)
    with pytest.raises(SystemExit, match=re.escape(message)):
        parse_config([file])
    assert parse_config(["--run-dir", "runs/mine"]) == started


@pytest.mark.parametrize(
    ("written", "corpora"), [("a", ("a",)), ("", ()), (["a", "b"], ("a", "b")), ([], ())]
)
def test_a_corpus_may_be_one_folder_or_a_list(
    written: object, corpora: tuple[str, ...], tmp_path: Path
) -> None:
    file = write(tmp_path / "mine.json", recipe="tiny", data={"corpus": written})
    assert read_recipe(Path(file)).data.corpus == corpora


def test_a_corpus_is_a_text(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.json", recipe="tiny", data={"corpus": [1]})
    with pytest.raises(ValueError, match=r"data\.corpus\.0: expected a valid string, found 1"):
        read_recipe(Path(file))


@pytest.mark.slow
def test_three_languages_train_from_a_file_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    stages = [
        {"name": "braid", "tokens": 3000, "streams": [
            {"languages": ["de", "en", "fr"], "mode": "sample", "weight": 3},
            {"languages": ["en", "de"], "mode": "alternate"},
        ]},
    ]  # fmt: skip
    world = {"languages": ["de", "en", "fr"], "aligned_documents": 60, "extra_documents": 0}
    world |= {"valid_documents": 10, "cloze_documents": 12}
    values = {
        "recipe": "demo",
        "data": {"story_world": world, "packing": {"row_length": 64}},
        "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1},
        "rows_per_step": 8,
        "micro_rows": 4,
    }
    file = write(tmp_path / "three.json", **values, stages=stages)
    done = torchrun(2, TRAIN, file, cwd=tmp_path)
    assert "de+en+fr sample" in done.stdout
    folder = tmp_path / "runs" / "three"
    copied = tmp_path / "copied.json"
    copied.write_bytes((folder / "config.json").read_bytes())
    assert parse_config([str(copied)]).stages == read_config(folder).stages
    last = [row for row in read_metrics(folder) if "loss" in row][-1]
    assert last["tokens"].keys() == {"de", "en", "fr"}
    assert sum(last["tokens"].values()) == 3000
    assert "en->de" in done.stdout
    again = torchrun(2, TRAIN, file, cwd=tmp_path)  # finished: prints the table
    assert "en->de" in again.stdout
    write(tmp_path / "three.json", **values | {"rows_per_step": 16}, stages=stages)
    refused = run(sys.executable, str(ROOT / TRAIN), file, cwd=tmp_path, check=False)
    assert refused.returncode == 1
    assert "rows_per_step was 8, now 16" in refused.stderr
