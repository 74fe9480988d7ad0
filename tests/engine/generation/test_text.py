"""Models with text: what comes after a prompt, and continuations in turns of text and units."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Tokenizers
from tokenizers.decoders import Metaspace
from tokenizers.models import WordLevel

from tests.support.families import LLAMA, UNITS, finished_state, write_stage
from tests.support.foreign.text_models import write_bpe_tokenizer, write_turns_stage
from tresse.data.packing.settings import Packing, Stream, Template
from tresse.data.packing.vocabulary import Vocabulary
from tresse.data.store.corpus_writer import write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.text_tokenizer import identify_text_tokenizer, load_text_tokenizer
from tresse.engine.checkpoint.checkpoint import export_stage
from tresse.engine.checkpoint.state import State, read_state
from tresse.engine.generation.command import main as generate
from tresse.engine.generation.continuing import Continuation
from tresse.engine.generation.layout import layouts_of, prompt_tokens
from tresse.engine.generation.output import Said, Writing
from tresse.engine.generation.stream import Stream as PrintedTurns
from tresse.engine.generation.turns import Teller, Turn, split_turns
from tresse.engine.model import Transformer
from tresse.engine.run.recipes import recognition

TEXT = "the old cat"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage that was trained on recognition, synthesis, and answers in turns."""
    return write_turns_stage(tmp_path_factory.mktemp("text") / "run")


@pytest.fixture(scope="module")
def state(stage: Path) -> State:
    return read_state(next(stage.glob("step-*")))


def lines(path: Path) -> Iterator[dict]:
    return map(json.loads, path.read_text().splitlines())


@pytest.mark.parametrize(
    ("language", "to", "before", "after"),
    [
        ("en", "", ["<eos>"], []),
        ("en", "en-text", ["<eos>"], ["<switch>", "<asr>"]),
        ("en-text", "en", ["<eos>"], ["<switch>", "<tts>"]),
        ("en-text", "en-answer-text", ["<eos>", "a cat "], ["<switch>"]),
        ("en-answer", "", ["<eos>"], []),
    ],
)
def test_prompts_are_laid_out_as_in_the_streams_of_the_stage(
    language: str, to: str, before: list[str], after: list[str], state: State, stage: Path
) -> None:
    vocabulary, file = state.vocabulary, stage.parent / "tokenizer.json"
    text = load_text_tokenizer(file)
    layout = layouts_of(state, [language], to, text)[language]
    first = UNITS.vocab_size

    def ids(names: list[str]) -> list[int]:
        known = {n: vocabulary.num_tokens + i for i, n in enumerate(vocabulary.special_names)}
        encoded = [
            [known[n]] if n in known else [first + i for i in text.encode(n).ids] for n in names
        ]
        return [i for each in encoded for i in each]

    assert (layout.before, layout.after) == (ids(before), ids(after))
    laid = prompt_tokens(Document("a", language, [[5, 6], [7]]), layout, state)
    own = np.array([5, 6, 7]) + (first if language.endswith("text") else 0)
    assert laid.tokens.tolist() == [*layout.before, *own, *layout.after]
    assert laid.ends == [len(layout.before) + 1, len(laid.tokens) - 1]


def test_turns_are_stretches_of_one_kind(state: State) -> None:
    vocabulary, text = state.vocabulary, UNITS.vocab_size
    tokens = [text + 3, text, vocabulary.switch, 0, 33, text + 1, vocabulary.tag("<tts>"), 8]
    assert split_turns(tokens, vocabulary) == [
        Turn("text", [3, 0]),
        Turn("token", [2]),
        Turn("units", [0, 33]),
        Turn("text", [1]),
        Turn("token", [4]),
        Turn("units", [8]),
    ]


def test_texts_and_units_are_answered_in_turns_that_are_printed_as_they_come(
    stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--lang en-text --to en-answer-text --max-units 50 --continuations 6 --stream --out"
    generate([str(stage), "--text", TEXT, *words.split(), str(tmp_path / "out")])
    found = list(lines(tmp_path / "out" / "continuations.jsonl"))
    details = list(lines(tmp_path / "out" / "details.jsonl"))
    assert [each["key"] for each in found] == [f"text-1#{i}" for i in range(6)]
    assert all(each["prompt"] == [{"text": TEXT}] for each in found)
    kinds = {kind for each in found for turn in each["turns"] for kind in turn}
    assert kinds == {"text", "units", "token"}
    for each, own in zip(found, details, strict=True):
        units = sum(len(turn.get("units", [])) for turn in each["turns"])
        specials = sum("token" in turn for turn in each["turns"])
        assert own["units"] == units
        if own["ended"] == "length":
            assert own["units"] + own["text_tokens"] + specials == 50
        switches = [turn for turn in each["turns"] if turn == {"token": "<switch>"}]
        assert len(own["switches"]) == len(switches)
    printed: dict[str, list] = {each["key"]: [] for each in found}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            assert record.pop("lang") == "en-text"
            printed[record.pop("key")].append(record)
    expected = {
        each["key"]: [*each["turns"], {"ended": own["ended"]}]
        for each, own in zip(found, details, strict=True)
    }
    assert printed == expected


def test_turns_of_text_join_to_what_their_tokens_say(state: State) -> None:
    """A decoder that strips the first space, as those of SentencePiece do."""
    words = Tokenizers(WordLevel({"▁the": 0, "▁cat": 1, "▁sat": 2}))
    words.decoder = Metaspace()
    turns = [Turn("text", [0, 1]), Turn("units", [4]), Turn("text", [2])]
    assert list(map(Teller(state.vocabulary, words), turns)) == [
        {"text": "the cat"},
        {"units": [4]},
        {"text": " sat"},
    ]


def test_what_is_printed_is_what_is_written(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a decoder for which a first word has no space, and another one has."""
    words = Tokenizers(WordLevel({"▁the": 0, "▁cat": 1, "▁sat": 2}))
    words.decoder = Metaspace()
    writing = Writing(vocabulary=state.vocabulary, tokenizers=state.tokenizers, text=words)
    prompt, first = Document("a", "en-text", [[0]]), UNITS.vocab_size
    tokens = [first + 1, 7, first + 2]
    said = Said(prompt, 3, Continuation(tokens, "length"), {})
    stream = PrintedTurns(writing, state.vocabulary.eos)
    stream.begin([(prompt, 3)], [9])
    for end in range(1, 4):
        stream.show(torch.tensor([tokens[:end]]))
    stream.end([said.continuation])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all((each.pop("key"), each.pop("lang")) == ("a#3", "en-text") for each in printed)
    assert printed.pop() == {"ended": "length"}
    assert printed == said.record(writing)["turns"]
    assert printed == [{"text": " cat"}, {"units": [7]}, {"text": " sat"}]


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_what_comes_after_the_end_of_a_row_is_not_printed(
    step: int, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first row ends with an eos, the second one at its limit, both before the batch."""
    eos, first = state.vocabulary.eos, UNITS.vocab_size
    tokens = torch.tensor([[7, 8, eos, 9, first, 9, 9], [7, 8, 5, 9, first, 9, 9]])
    said = [Continuation([7, 8], "eos"), Continuation([7, 8, 5, 9], "row")]
    writing = Writing(vocabulary=state.vocabulary, tokenizers=state.tokenizers)
    stream = PrintedTurns(writing, eos)
    stream.begin([(Document(key, "en", [[0]]), 0) for key in "ab"], [7, 4])
    for end in range(step, 8, step):
        stream.show(tokens[:, :end])
    stream.end(said)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {key: [each for each in printed if each["key"] == f"{key}#0"] for key in "ab"}
    assert [each.get("units", each.get("ended")) for each in told["a"]] == [[7, 8], "eos"]
    assert [each.get("units", each.get("ended")) for each in told["b"]] == [[7, 8, 5, 9], "row"]


def with_streams(state: State, *streams: Stream) -> State:
    (stage,) = state.config.stages
    stages = (replace(stage, streams=streams),)
    return replace(state, config=replace(state.config, stages=stages))


def test_given_languages_go_before_those_that_take_turns(state: State) -> None:
    drawn = Stream(languages=("en", "en-text"), mode="sample")
    both = with_streams(state, drawn, recognition("en"))
    alone = with_streams(state, recognition("en"))
    layouts = [layouts_of(each, ["en"], "en-text", None) for each in (both, alone)]
    assert layouts[0] == layouts[1]
    other = replace(recognition("en"), templates=(Template(language="en-text", before="<tts>"),))
    with pytest.raises(ValueError, match="lay out en to en-text in different ways"):
        layouts_of(with_streams(state, recognition("en"), other), ["en"], "en-text", None)


def test_languages_that_take_turns_by_sentence_follow_one(state: State) -> None:
    turns = Stream(languages=("en", "en-text"), mode="alternate", language_order="fixed")
    own = with_streams(state, turns)
    layout = layouts_of(own, ["en"], "en-text", None)["en"]
    assert prompt_tokens(Document("a", "en", [[5]]), layout, own).tokens.tolist()[1] == 5
    with pytest.raises(ValueError, match=r"2 sentences, but in training .* --sentences 1"):
        prompt_tokens(Document("a", "en", [[5], [6]]), layout, own)
    with pytest.raises(ValueError, match="it has en to en-text"):
        layouts_of(own, ["en-text"], "en", None)


def test_a_language_of_other_tokens_than_in_training_is_refused(
    stage: Path, tmp_path: Path
) -> None:
    text = stage.parent / "tokenizer.json"
    documents = [Document("a", "en", [[1, 2]])]
    write_corpus(tmp_path / "c", documents, identify_text_tokenizer(text), text_tokenizer=text)
    flags = ["--prompt", str(tmp_path / "c"), "--lang", "en", "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"en has tokens of bpe .*; in training it had those of"):
        generate([str(stage), *flags])


def test_a_model_of_text_alone_needs_the_number_of_tokens(tmp_path: Path) -> None:
    write_bpe_tokenizer(tmp_path / "tokenizer.json")
    text = identify_text_tokenizer(tmp_path / "tokenizer.json")
    packing = Packing(row_length=96)
    vocabulary = Vocabulary.of([text], packing)
    model = Transformer(LLAMA, vocabulary.width, vocabulary.num_used)
    model.init_weights(seed=1)
    own = finished_state(LLAMA, packing, vocabulary, {"en-text": text})
    folder = write_stage(tmp_path, model, own)
    flags = [str(folder), "--text", TEXT, "--lang", "en-text", "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="no units, which --max-seconds counts; give --max-units"):
        generate(flags)
    assert not list(tmp_path.glob("out*"))
    generate([*flags, "--max-units", "5"])
    (found,) = lines(tmp_path / "out" / "continuations.jsonl")
    assert [list(turn) for turn in found["turns"]] == [["text"]]


def test_an_exported_model_says_the_same(stage: Path, tmp_path: Path) -> None:
    export_stage(stage, tmp_path / "exported", "fp32")
    flags = ["--text", TEXT, "--lang", "en-text", "--to", "en", "--temperature", "0"]
    for name, folder in (("own", stage), ("other", tmp_path / "exported")):
        generate([str(folder), *flags, "--max-units", "30", "--out", str(tmp_path / name)])
    own, other = (tmp_path / name / "continuations.jsonl" for name in ("own", "other"))
    assert own.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text", "a", "--lang", "en"], r"'en' is no language of text .* it has en-text, en-ans"),
        (["--text", "", "--lang", "en-text"], r"--text: the tokenizer makes no tokens of ''"),
        (
            ["--text", "a?", "--lang", "en-text"],
            r"the tokenizer loses characters of 'a\?', near '\?'",
        ),
        (
            ["--text", "a", "--lang", "en-text", "--to", "en-answer"],
            r"has en-answer after en-text; it has en-text to en-answer-text, en to en-text, en-t",
        ),
    ],
)
def test_mistakes_are_named(flags: list[str], message: str, stage: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        generate([str(stage), *flags, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no prompts; give --prompt FILES or --text TEXT"),
        (["--text", "a"], "--text: --lang must name the language of the texts"),
    ],
)
def test_flags_that_lack_others_are_named(
    flags: list[str], message: str, stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        generate([str(stage), *flags, "--out", "unused"])
    assert message in capsys.readouterr().err
