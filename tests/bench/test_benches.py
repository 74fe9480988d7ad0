"""The benchmarks run at a small size and write records with their machine and commit."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.processes import ROOT, run, torchrun
from tests.support.synthetic_audio import write_buzz
from tresse.bench.dataset_peers import CONTENDERS, write
from tresse.data.store.corpus import Corpus
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.forecast.gpus import H100, read_rates

pytestmark = pytest.mark.slow

OURS = ("tresse", "tresse, int64", "plain Python")  # what needs no other package
MODES = ["mono", "alternate", "sample"]


def bench(name: str, size: str, out: Path) -> None:
    """Run a benchmark with flags that make it small."""
    script = str(ROOT / "bench" / f"{name}.py")
    run(sys.executable, script, *shlex.split(size), "--json", str(out))


def records_of(path: Path) -> list[dict]:
    """Rows of a result file, each with its machine, commit and versions."""
    records = json.loads(path.read_text())
    for record in records:
        assert record["machine"]["cores"] >= 1
        assert record["versions"]["tresse"]
        assert record["date"]
    return records


def test_a_step_is_measured_in_every_way(tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    size = "--recipes tiny --rows 3 --micro-rows 2 --steps 2 --warmup 1"
    bench("step", size, out)
    records = records_of(out)
    assert [record["way"] for record in records] == ["engine", "deepspeed", "ddp"]
    assert all(record["step_ms"] > 0 for record in records)


def test_products_are_measured_and_their_rates_serve_a_forecast(tmp_path: Path) -> None:
    out, rates = tmp_path / "records.json", tmp_path / "rates.json"
    size = f"--recipes tiny --tokens 64 --megabytes 0.1 --rates {rates} --json {out}"
    torchrun(2, "bench/gemms.py", *shlex.split(size))
    names = [record["name"] for record in records_of(out)]
    assert len([name for name in names if name.endswith(("forward", "dx", "dweight"))]) == 12
    assert {"matmul", "copy", "all_reduce", "reduce_scatter"} <= set(names)
    gpu = read_rates(rates, H100)
    assert gpu.matmul_flops > 0
    assert 0 <= gpu.matmul_move_share <= 1
    assert 0 < gpu.bus_bytes < H100.bus_bytes


def test_the_packer_is_measured_in_every_mode(tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    bench("packer", "--tokens 1000000 --passes 2 --batches 2", out)
    rates = [
        value
        for record in records_of(out)
        for name, value in record.items()
        if "tokens_per_s" in name
    ]
    assert rates
    assert all(rate > 0 for rate in rates)


def test_audio_is_measured_with_the_share_of_decoding(tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    bench("audio", "--tokenizers decode kmeans --kinds flac --hours 0.12 --units 50", out)
    for record in records_of(out):
        assert record["hours"] >= 0.12
        assert 0 <= record["wait_share"] <= 1
        assert record["hours_per_s"] > 0


def test_datasets_are_measured_and_missing_peers_are_named(tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    bench("dataset", "--tokens 1000000 --documents 100000 --passes 2 --seconds 0.02", out)
    records = records_of(out)
    assert {record["contender"] for record in records} >= {
        *OURS,
        "Megatron-Core",
        "Mosaic streaming",
    }
    rates = [
        record for record in records if record["measured"] == "rate" and "cannot" not in record
    ]
    for name in OURS:
        assert [record["mode"] for record in rates if record["contender"] == name] == MODES
    assert all(record["tokens_per_s"] > 0 for record in rates)
    opened = [record for record in records if record["measured"] == "open"]
    assert {record["contender"] for record in opened} >= {"tresse", "plain Python"}
    for record in opened:
        parts = ("open_s", "first_batch_s", "any_step_s")
        assert all(record[f"{state}_{part}"] > 0 for state in ("cold", "warm") for part in parts)


@pytest.mark.long
def test_continuations_are_measured_beside_those_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "records.json"
    bench("generate", "--shapes tiny --batches 2 --prompt 5 --units 7 --rounds 2", out)
    ours, theirs = records_of(out)
    assert (ours["way"], theirs["way"]) == ("tresse", "transformers")
    assert ours["equal"]
    assert ours["ratio"] == pytest.approx(ours["units_per_s"] / theirs["units_per_s"])
    assert theirs["ratio"] == theirs["cpu_ratio"] == 1


@pytest.mark.long
def test_units_that_come_back_from_their_sound_are_measured(tmp_path: Path) -> None:
    out, paths = tmp_path / "records.json", [tmp_path / "train.jsonl", tmp_path / "valid.jsonl"]
    for seed, path in enumerate(paths):
        write_buzz(tmp_path / f"{seed}.flac", 8, seed=seed)
        path.write_text(json.dumps({"path": f"{seed}.flac", "key": "a", "lang": "en"}) + "\n")
    bench("vocoder", f"{paths[0]} --held-out {paths[1]} --units 4 8", out)
    records = records_of(out)
    assert [(record["units"], record["frames"]) for record in records] == [(4, 100), (8, 100)]
    assert all(record["chance"] < record["same"] <= 1 for record in records)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OURS)
def test_a_dataset_gives_whole_rows_of_each_document_once_and_seeks(
    name: str, mode: str, tmp_path: Path
) -> None:
    corpus = numbered_corpus(tmp_path / "corpus")
    write(name, corpus, tmp_path / "written")
    read = CONTENDERS[name](tmp_path / "written", mode, 2)
    batches = [read.batch().copy() for _ in range(3)]
    sought = CONTENDERS[name](tmp_path / "written", mode, 2)
    sought.seek(2)
    np.testing.assert_array_equal(sought.batch(), batches[2])
    rows = np.concatenate(batches)
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])
    stream = rows[:, :-1].reshape(-1)
    cuts = np.flatnonzero(np.diff(stream)) + 1
    assert np.all(np.diff(cuts, prepend=0) == 450)
    once = 2 if mode == "alternate" else 1
    found = stream[cuts - 1][: cuts.size // (2 * once) * 2 * once].reshape(-1, 2, once)
    languages, sentences = np.divmod(found, 2048)
    documents = sentences[:, 0, 0] // 2
    assert np.all(sentences == 2 * documents[:, None, None] + np.array([[0], [1]]))
    assert np.unique(documents).size == documents.size
    if mode == "sample":
        assert 0.4 < np.mean(languages) < 0.6
    else:
        assert np.all(np.sort(languages, axis=2) == np.arange(once))


def numbered_corpus(folder: Path) -> Corpus:
    """600 aligned documents of two sentences of 450 tokens, each of them the sentence's number."""
    documents = (
        Document(f"story {i}", language, [np.full(450, first + 2 * i + j) for j in range(2)])
        for i in range(600)
        for language, first in (("en", 0), ("fr", 2048))
    )
    return write_corpus(folder, documents, Tokenizer("synthetic", "", "25/2", 4096))
