"""Training steps are measured in every way in turn; the peers train the same model on as much."""

import json
import shlex
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.processes import ROOT, run
from tresse.bench import throughput, throughput_ways
from tresse.bench.peers import nanochat_loop, transformers_loop
from tresse.bench.peers.workload import WIDTH, Workload, count
from tresse.bench.throughput import Options
from tresse.bench.throughput_report import draw, make_records
from tresse.bench.throughput_ways import Job, Sample, WayFailedError
from tresse.engine.hugging_face import to_hf
from tresse.engine.model import Transformer, parameter_shapes
from tresse.engine.run.recipes import RECIPES

SCRIPT = str(ROOT / "bench" / "throughput.py")
MODELS = ("tiny", "360m-interleave", "1b-interleave")

NANOCHAT = '''
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

COMPUTE_DTYPE = torch.float32


@dataclass
class GPTConfig:
    sequence_len: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768


class GPT(nn.Module):
    """What bench/peers/nanochat_loop.py asks of nanochat's model, with layers of one matrix."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        layers = [nn.Linear(config.n_embd, config.n_embd) for _ in range(config.n_layer)]
        self.layers = nn.Sequential(*layers)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def init_weights(self):
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def estimate_flops(self):
        config = self.config
        attention = 12 * config.n_layer * config.n_embd * config.sequence_len
        return 6 * (count(self) - self.wte.weight.numel()) + attention

    def forward(self, tokens, targets):
        logits = self.lm_head(self.layers(self.wte(tokens)))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())
'''


def checkout(folder: Path) -> Path:
    """A folder with a small stand-in for nanochat's model."""
    (folder / "nanochat").mkdir(parents=True)
    (folder / "nanochat" / "gpt.py").write_text(NANOCHAT)
    return folder


def job(**changed: object) -> Job:
    """What a round does, small."""
    fields = {
        "recipe": "tiny",
        "ranks": 1,
        "rows": 15,
        "micro_rows": 6,
        "steps": 2,
        "warmup": 1,
        "compile": False,
        "peer_compile": "none",
        "peer_attention": "sdpa",
        "folders": {},
    }
    return Job(**fields | changed)  # type: ignore[arg-type]


def sample(*steps_ms: float) -> Sample:
    """A round's measurement."""
    return {"steps_ms": list(steps_ms), "memory_gib": 1.0, "micro_rows": 4, "compile": "none"}


@pytest.mark.long
@pytest.mark.slow
def test_every_way_takes_its_turn_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    out, picture = tmp_path / "records.json", tmp_path / "plots" / "bars.png"
    size = "--rows 2 --micro-rows 1 --steps 2 --rounds 1 --warmup 1 --peer-compile none"
    files = ["--json", str(out), "--plot", str(picture)]
    peer = ["--peer-dir", str(checkout(tmp_path / "checkout"))]
    named = ["--ways", "tresse", "liger", "trainer", "transformers"]
    done = run(sys.executable, SCRIPT, *shlex.split(size), *named, *files, *peer)
    assert "liger is left out: Liger's kernels need a GPU" in done.stdout
    records = json.loads(out.read_text())
    ways = ["tresse", "trainer", "transformers", "nanochat"]
    assert [record["way"] for record in records] == ways
    assert picture.read_bytes().startswith(b"\x89PNG")
    for record in records:
        assert record["tokens_per_s"] == pytest.approx(1000 * 2 * 256 / record["step_ms"])
        assert len(record["rounds_ms"]) == 1
        assert record["num_steps"] == 2
        assert record["machine"]["cores"] >= 1
        assert {"tresse", "transformers", "accelerate"} <= record["versions"].keys()
        assert record["mfu_causal"] is None, "no peak is known of a CPU"
        ratio = records[0]["tokens_per_s"] / record["tokens_per_s"]
        assert record["tresse_over_way"] == pytest.approx(ratio)
        if record["way"] != "tresse":
            assert f"tiny: tresse / {record['way']} {ratio:.3f}" in done.stdout
    losses = [record["loss"] for record in records]
    assert losses == pytest.approx([7.63] * 4, abs=0.2), "the logarithm of the number of units"
    assert len({record["parameters"] for record in records[:3]}) == 1


@pytest.mark.slow
def test_a_folder_of_another_project_is_an_error_that_says_what_is_expected(tmp_path: Path) -> None:
    done = run(sys.executable, SCRIPT, "--peer-dir", str(tmp_path), check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"--peer-dir {tmp_path}: expected a checkout of nanochat (with nanochat/gpt.py) or "
        "interleaved_lm (with src/interleaved_lm/model.py)"
    )


def test_a_record_is_of_the_steps_of_all_rounds() -> None:
    samples = {
        "tresse": [sample(100, 110), sample(140, 120, 130)],
        "ddp": [sample(200, 300), sample(240, 240, 240)],
        "liger": [],
    }
    ours, ddp = make_records(job(), samples)
    assert ours["step_ms"] == 120
    assert ours["step_ms_p20_p80"] == pytest.approx([108, 132])
    assert ours["rounds_ms"] == [105, 130]
    assert ours["num_steps"] == 5
    assert ours["tokens_per_s"] == pytest.approx(15 * 256 / 0.120)
    assert (ours["tresse_over_way"], ddp["tresse_over_way"]) == (1, 2)
    assert ours["flops_over_ours"] == ddp["flops_over_ours"] == 1


def test_a_chart_has_a_panel_for_each_recipe(tmp_path: Path) -> None:
    samples = {"tresse": [sample(100, 110)], "ddp": [sample(200, 300)]}
    records = make_records(job(), samples) + make_records(job(recipe="demo"), samples)
    draw(records, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 10_000


def test_a_way_that_fails_takes_no_further_part(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    taken = []

    def measure(way: str, _: Job, __: Path) -> Sample:
        taken.append(way)
        if way == "ddp":
            raise WayFailedError("its last line")
        return sample(100)

    monkeypatch.setattr(throughput, "measure", measure)
    options = Options(recipes=("tiny",), ways=("tresse", "ddp"), steps=3, rounds=3)
    assert throughput.main(options) == 1
    assert taken == ["tresse", "ddp", "tresse", "tresse"]
    assert "ddp failed, and takes no further part:\nits last line" in capsys.readouterr().out


def test_no_round_begins_that_would_end_too_late(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def measure(_: str, __: Job, ___: Path) -> Sample:
        time.sleep(0.2)
        return sample(100)

    monkeypatch.setattr(throughput, "measure", measure)
    options = Options(recipes=("tiny",), ways=("tresse",), steps=8, rounds=4, minutes=0.5 / 60)
    assert throughput.main(options) == 0
    printed = capsys.readouterr().out
    assert "tiny: no time for more than 2 rounds" in printed
    assert printed.count("round 2 tresse: 100 ms") == 1


def test_a_peer_takes_fewer_rows_at_a_time_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = []

    def run_to_end(command: list[str], *_: object) -> None:
        value = {flag: command[command.index(flag) + 1] for flag in ("--micro_rows", "--out")}
        tried.append(int(value["--micro_rows"]))
        if tried[-1] > 1:
            Path(value["--out"]).write_text('{"out_of_memory": true}')
            raise WayFailedError("CUDA out of memory")
        Path(value["--out"]).write_text('{"steps_ms": [1.0, 2.0]}')

    monkeypatch.setattr(throughput_ways, "run_to_end", run_to_end)
    measured = throughput_ways.measure("transformers", job(), tmp_path)
    assert tried == [5, 3, 1], "divisors of 15: the peers cannot have unequal micro-batches"
    assert measured["micro_rows"] == 1


@pytest.mark.parametrize("recipe", MODELS)
def test_a_model_of_transformers_has_as_many_parameters_as_ours(recipe: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = RECIPES[recipe]()
    description = transformers_loop.configuration(config.model, config.data.packing.row_length)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(description)
    shapes = parameter_shapes(config.model, WIDTH).values()
    assert count(model) == sum(shape.numel() for shape in shapes)


@pytest.mark.parametrize("recipe", MODELS)
def test_nanochat_has_the_depth_whose_matrices_are_nearest_to_ours(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(checkout(tmp_path)))
    monkeypatch.delitem(sys.modules, "nanochat", raising=False)
    monkeypatch.delitem(sys.modules, "nanochat.gpt", raising=False)
    gpt = __import__("nanochat.gpt").gpt
    workload = Workload(way="nanochat", recipe=recipe, rows=1, micro_rows=1, steps=1)
    target = nanochat_loop.num_parameters(workload)
    model = nanochat_loop.nearest(gpt, target, workload.row_length)
    depth, off = model.config.n_layer, []
    with torch.device("meta"):
        for n in range(max(1, depth - 1), depth + 2):
            other = gpt.GPT(nanochat_loop.configuration(gpt, n, workload.row_length))
            off.append(abs(nanochat_loop.num_multiplied(other) / target - 1))
    assert min(off) == abs(nanochat_loop.num_multiplied(model) / target - 1)
    assert nanochat_loop.num_multiplied(model) == count(model) - model.wte.weight.numel()


def test_the_first_loss_of_transformers_is_ours_for_the_same_weights() -> None:
    pytest.importorskip("transformers")
    workload = Workload(way="transformers", recipe="tiny", rows=2, micro_rows=2, steps=1)
    config = workload.config.model
    ours = Transformer(config, WIDTH, WIDTH)
    ours.init_weights(0)
    theirs = transformers_loop.build_model(workload, torch.device("cpu"))
    renamed = to_hf(dict(ours.named_parameters()), config, WIDTH)
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), "the head is tied"
    rows = torch.randint(2048, (2, workload.row_length + 1))
    tokens, labels = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    loss = ours(tokens, labels, None, torch.tensor(1 / labels.numel()))[0]
    torch.testing.assert_close(transformers_loop.loss_of(theirs, tokens, labels), loss)
