"""A record that cannot be used stops the command, or is left out and listed: never in silence."""

import json
from pathlib import Path

import pytest

from tresse.data.left_out import ContradictionError, LeftOut
from tresse.data.prepare import main
from tresse.data.store.corpus import Corpus

GOOD = {"key": "a", "lang": "en", "sentences": [[1, 2], [3]]}
FAULTS = [
    ("{", "Expecting property name"),
    ("[1]", "not a JSON object"),
    ('"\udcff"', "utf-8"),
    (json.dumps(GOOD | {"key": "b", "sentences": [[1], []]}), "sentence 1 has 0 tokens"),
    (json.dumps(GOOD | {"key": "c", "sentences": [[2048]]}), "token 0 is 2048, outside"),
    (json.dumps(GOOD | {"key": "d", "lang": "../fr"}), "expected 1 to 32 letters"),
    (json.dumps(GOOD | {"key": "e", "x": 1}), "unknown field 'x'"),
]


def manifest(path: Path, *lines: str) -> Path:
    """Write lines after one that is good."""
    content = "".join(f"{line}\n" for line in (json.dumps(GOOD), *lines))
    path.write_bytes(content.encode(errors="surrogateescape"))
    return path


def prepare(path: Path, out: Path, *flags: str) -> int:
    return main(["manifest", str(path), "--out", str(out), *flags])


@pytest.mark.parametrize(("line", "reason"), FAULTS)
def test_the_first_fault_stops_with_its_place_and_writes_nothing(line, reason, tmp_path, capsys):
    path = manifest(tmp_path / "m.jsonl", line)
    assert prepare(path, tmp_path / "c") == 1
    error = capsys.readouterr().err
    assert f"error: {path}:2: " in error
    assert reason in error
    assert "leave such records out (--on-fault skip)" in error
    assert [each.name for each in tmp_path.iterdir()] == ["m.jsonl"]


def test_all_faults_are_left_out_listed_and_counted(tmp_path, capsys, caplog):
    path = manifest(tmp_path / "m.jsonl", "", *(line for line, _ in FAULTS))
    assert prepare(path, tmp_path / "c", "--on-fault", "skip") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert [corpus.key("en", i) for i in range(corpus.num_documents("en"))] == ["a"]
    listed = [json.loads(line) for line in (tmp_path / "c" / "skipped.jsonl").open()]
    listed.sort(key=lambda each: each["where"])
    assert [each["where"] for each in listed] == [f"{path}:{n}" for n in range(3, 10)]
    for each, (_, reason) in zip(listed, FAULTS, strict=True):
        assert reason in each["reason"]
        assert f"left out {each['where']}: {each['reason']}" in caplog.text
    assert [each["key"] for each in listed] == ["", "", "", "b", "c", "d", "e"]
    printed = capsys.readouterr().out
    assert "8 records read, 1 documents written, 7 records left out (why: " in printed


def test_nothing_left_out_leaves_no_list(tmp_path, capsys):
    assert prepare(manifest(tmp_path / "m.jsonl"), tmp_path / "c", "--on-fault", "skip") == 0
    assert not (tmp_path / "c" / "skipped.jsonl").exists()
    assert "1 records read, 1 documents written\n" in capsys.readouterr().out


def test_a_key_that_is_there_twice_stops_in_any_case(tmp_path, capsys):
    path = manifest(tmp_path / "m.jsonl", json.dumps(GOOD))
    assert prepare(path, tmp_path / "c", "--on-fault", "skip") == 1
    assert "m.jsonl:2: document 'a' (en): this key is taken" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_records_that_contradict_each_other_are_never_left_out():
    def contradict(_: object) -> None:
        raise ContradictionError("there are two")

    with pytest.raises(ContradictionError, match=r"^here: there are two$"):
        list(LeftOut("skip").parsed([("here", 1)], contradict))


def test_of_many_faults_the_first_are_shown(caplog):
    left_out = LeftOut("skip")
    for number in range(25):
        left_out.add(f"m:{number}", "bad")
    assert len(left_out.faults) == 25
    assert caplog.text.count("left out m:") == 10
    assert "further records that are left out are not shown" in caplog.text
