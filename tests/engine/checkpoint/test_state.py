"""What a checkpoint says of itself: whatever is changed in it is found and named."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpora.vocabularies import vocabulary_of
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.checkpoint.checkpoint import newest
from tresse.engine.checkpoint.state import State, TensorFile, read_state, write_state
from tresse.engine.run.recipes import tiny
from tresse.engine.run.sealed import write_sealed

KMEANS = Tokenizer("kmeans", "8b1a9953c4611296", "25/2", 50)
STATE = State(
    stage="en",
    step=14,
    finished=False,
    num_updates=13,
    recent_norms=(0.5, 1.25),
    tokens={"en": 10_752, "fr": 0},
    corpus="9f86d081884c7d65",
    tokenizers=dict.fromkeys(("en", "fr"), KMEANS),
    vocabulary=vocabulary_of(KMEANS, True),
    config=tiny(),
    files={},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stage with the checkpoints of two steps."""
    for step in (7, 14):
        path = tmp_path / f"step-{step:08d}"
        path.mkdir()
        write_state(path, dataclasses.replace(STATE, step=step, num_updates=step - 1))
    return tmp_path


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value that holds no other."""
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def changed(value: Any) -> Any:
    """Return another value of the same type, such as a slip of an editor leaves."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 5
    return {str: "x", type(None): "x"}.get(type(value), ["x"])


def test_a_state_comes_back(folder: Path) -> None:
    assert read_state(folder / "step-00000014") == STATE
    assert newest(folder, "en") == folder / "step-00000014"


def test_every_changed_value_is_found_and_the_checkpoint_before_is_used(folder: Path) -> None:
    path = folder / "step-00000014" / "state.json"
    original = json.loads(path.read_text())
    paths = list(leaves(original))
    assert ("state", "step") in paths
    assert ("state", "config", "optim", "lr") in paths
    for place in paths:
        values = json.loads(path.read_text())
        inner = values
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = changed(inner[place[-1]])
        path.write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"state\.json was changed"):
            read_state(path.parent)
        assert newest(folder, "en") == folder / "step-00000007", place
        path.write_text(json.dumps(original))
    assert newest(folder, "en") == folder / "step-00000014"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"{}", b"\xff", b"[" * 100_000, b"\0" * 99]
)
def test_whatever_else_is_in_the_file_the_checkpoint_before_is_used(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "step-00000014" / "state.json"
    path.write_bytes(content)
    assert newest(folder) == folder / "step-00000007"
    assert "step-00000014: state.json" in caplog.text


def test_a_file_that_cannot_be_read_is_no_end_either(folder: Path) -> None:
    path = folder / "step-00000014" / "state.json"
    path.unlink()
    path.mkdir()
    assert newest(folder) == folder / "step-00000007"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stp": 3}, "no field stp; did you mean step"),
        ({"step": "14"}, "step: expected a valid integer, found '14'"),
        ({"step": -1}, "step: expected greater than or equal to 0, found -1"),
        ({"finished": 1}, "finished: expected a valid boolean, found 1"),
        ({"num_updates": 15}, "num_updates=15 is above step=14"),
        ({"files": {"../x": {"bytes": 1, "xxh3": "0"}}}, "'../x' is not the name of a file"),
        ({"step": 19, "num_updates": 19}, "is of step 19, expected the one of the folder's name"),
    ],
)
def test_a_wrong_value_under_a_right_hash_is_named(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    path = folder / "step-00000014"
    values = json.loads((path / "state.json").read_text())
    del values["xxh3"]
    values["state"] |= change
    write_sealed(path / "state.json", values)
    with pytest.raises(ValueError, match=message):
        read_state(path)


def test_a_checkpoint_of_another_stage_or_with_a_missing_file_is_not_used(folder: Path) -> None:
    assert newest(folder, "fr") is None
    files = {"model.safetensors": TensorFile(bytes=8, xxh3="0" * 16)}
    write_state(folder / "step-00000014", dataclasses.replace(STATE, files=files))
    assert newest(folder, "en") == folder / "step-00000007"


def test_the_digest_is_of_every_value() -> None:
    assert STATE.digest != dataclasses.replace(STATE, finished=True).digest
