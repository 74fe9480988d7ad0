"""What a checkpoint says of itself: state.json, checked whole before any of it is believed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt

from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.tokenizer import Tokenizer
from tresse.engine.run.config import RunConfig
from tresse.engine.run.sealed import digest, read_sealed, write_sealed
from tresse.engine.run.typed_json import from_json, to_json

FILE, FORMAT, VERSION = "state.json", "tresse.checkpoint", 3
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments, which a checkpoint holds of every parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFile:
    """A file of tensors in a checkpoint."""

    bytes: NonNegativeInt
    """Size of the file."""
    xxh3: str
    """xxh3_64 of its content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The counters of a stage after a step, and what its weights were trained with."""

    stage: str
    step: NonNegativeInt
    """Number of steps taken in this stage."""
    finished: bool
    """True if this was the last step of the stage."""
    num_updates: NonNegativeInt
    """Number of these steps that changed the weights: those of a spike may not have."""
    recent_norms: tuple[float, ...] = ()
    """Gradient norms of the last steps, by which a spike is recognised."""
    tokens: dict[str, NonNegativeInt]
    """Targets per language since the weights were new: those of earlier stages count too."""
    corpus: str
    """Id of the training corpus; of several, joined with a plus sign."""
    tokenizers: dict[str, Tokenizer]
    """Tokenizer of each language of the training corpus."""
    vocabulary: Vocabulary
    config: RunConfig
    order: Literal["run", "text-first"] = "run"
    """Order of the rows of embedding and head. `run`: that of the ids of the run.
    `text-first`: that of an export, in which the text keeps the ids of its own tokenizer."""
    files: dict[str, TensorFile] = field(default_factory=dict)
    """Files of tensors by name."""

    def __post_init__(self) -> None:
        if self.num_updates > self.step:
            raise ValueError(f"num_updates={self.num_updates} is above step={self.step}")
        for name in self.files:
            if Path(name).name != name:
                raise ValueError(f"files: {name!r} is not the name of a file in this folder")

    @property
    def digest(self) -> str:
        """Hash of the state, and so of the weights, as the hashes of their files are in it."""
        return digest(to_json(self))


def write_state(folder: Path, state: State) -> None:
    """Write state.json into the folder of a checkpoint."""
    write_sealed(folder / FILE, {"format": FORMAT, "version": VERSION, "state": to_json(state)})


def read_state(folder: Path) -> State:
    """Read the state.json of a checkpoint.

    ValueError says what is wrong with it: another format, a changed value, a wrong field, a step
    that is not that of the folder's name, if that is step-N. OSError when it cannot be read.
    """
    values = read_sealed(folder / FILE)
    if (values.get("format"), values.get("version")) == (FORMAT, 2):
        values = {"format": FORMAT, "version": VERSION, "state": _upgraded(values.get("state"))}
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"{FILE} is {values.get('format')} {values.get('version')}, expected {FORMAT} {VERSION}"
        )
    try:
        state = from_json(State, values.get("state"))
    except ValueError as error:
        raise ValueError(f"{FILE}: {error}") from None
    if folder.name.startswith("step-") and folder.name != folder_name(state.step):
        raise ValueError(f"{FILE} is of step {state.step}, expected the one of the folder's name")
    return state


def _upgraded(state: Any) -> Any:
    """Return the state of version 2, of one tokenizer of units, as one of version 3."""
    try:
        tokenizer, ids = state["tokenizer"], state["vocabulary"]
        tokenizers = dict.fromkeys(state["tokens"], tokenizer)
        vocabulary = {"tokenizers": [tokenizer], "has_specials": ids["has_specials"]}
        rest = {name: value for name, value in state.items() if name != "tokenizer"}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{FILE} lacks a field of version 2") from None
    return rest | {"tokenizers": tokenizers, "vocabulary": vocabulary}


def folder_name(step: int) -> str:
    """Return the name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"
