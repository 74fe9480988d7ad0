"""Texts divided by their keys: always alike, all languages together, by the shares."""

import json
from pathlib import Path

import pytest

from tresse.data.prepare import main
from tresse.data.texts.splits import SplitSettings, choose_part
from tresse.data.texts.texts import read_texts

SETTINGS = SplitSettings(valid=0.1, eval=0.2)


def test_parts_have_their_shares_whatever_the_keys_look_like() -> None:
    for keys in (range(20_000), (f"TinyStories/{i:09d}" for i in range(20_000))):
        parts = [choose_part(str(key), SETTINGS) for key in keys]
        assert abs(parts.count("valid") / 20_000 - 0.1) < 0.01
        assert abs(parts.count("eval") / 20_000 - 0.2) < 0.01


def test_the_part_of_a_key_never_changes() -> None:
    """These are on record: another hash would let training texts into old validation sets."""
    parts = [choose_part(str(i), SETTINGS) for i in range(40)]
    assert [i for i, part in enumerate(parts) if part == "valid"] == [19, 29, 38]
    held_out = [i for i, part in enumerate(parts) if part == "eval"]
    assert held_out == [0, 1, 10, 11, 13, 16, 24, 25, 36, 39]
    other = SplitSettings(valid=0.1, eval=0.2, seed=1)
    assert parts != [choose_part(str(i), other) for i in range(40)]


def test_all_languages_of_a_key_are_in_one_part(tmp_path: Path) -> None:
    for language in ("en", "fr"):
        with (tmp_path / f"{language}.jsonl").open("w") as file:
            for i in range(60):
                record = {"key": str(i), "lang": language, "sentences": [f"{language} {i}."]}
                print(json.dumps(record), file=file)
    files = [str(tmp_path / f"{language}.jsonl") for language in ("en", "fr")]
    out = tmp_path / "out"
    assert main(["split", *files, "--out", str(out), "--valid", "0.1", "--eval", "0.2"]) == 0
    assert {path.name for path in out.iterdir()} == {"train.jsonl", "valid.jsonl", "eval.jsonl"}
    parts = {path.stem: read_texts([path]) for path in out.iterdir()}
    assert sum(map(len, parts.values())) == 120
    for part, texts in parts.items():
        assert {choose_part(text.key, SETTINGS) for text in texts} == {part}
        keys = [text.key for text in texts]
        assert keys[: len(keys) // 2] == keys[len(keys) // 2 :]


def test_parts_without_a_share_are_not_written(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("One. Two.<|endoftext|>...<|endoftext|>")
    out = tmp_path / "out"
    command = ["split", str(tmp_path / "s.txt"), "--lang", "en", "--out", str(out)]
    assert main([*command, "--valid", "0"]) == 0
    assert {path.name for path in out.iterdir()} == {"train.jsonl", "skipped.jsonl"}
    assert json.loads((out / "skipped.jsonl").read_text())["where"].endswith("s.txt:1")


@pytest.mark.parametrize(("valid", "eval_"), [(-0.1, 0.0), (0.0, 1.0), (0.6, 0.4)])
def test_shares_that_leave_nothing_to_train_on_are_refused(valid: float, eval_: float) -> None:
    with pytest.raises(ValueError, match="expected shares from 0 whose sum is below 1"):
        SplitSettings(valid=valid, eval=eval_)
