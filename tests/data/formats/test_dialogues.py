"""CSLM's conversations become prompts and responses of text and units, mixed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tresse.data import prepare
from tresse.data.formats.export import export_manifest
from tresse.data.packing.packer import plan_rows
from tresse.data.packing.settings import Packing, Stream
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.corpus_writer import merge_corpora, write_corpus
from tresse.data.store.documents import Document
from tresse.data.store.text_tokenizer import identify_text_tokenizer, load_text_tokenizer
from tresse.data.store.tokenizer import Tokenizer, mixed
from tresse.data.texts.text_tokens import train_tokenizer
from tresse.data.texts.texts import Text

SINGLE = {
    "prompt": "the cat: <sosp><12><3> <7><eosp>.",
    "response": "a red <sosp><0><5><eosp> cat<sosp><6><eosp>",
}
MULTI = {"key": "two", "prompt": ["the sun", "a cat"], "response": ["<sosp><9><eosp>", "the mat"]}
UNITS = Tokenizer("units", "", "25/2", 2048)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    train_tokenizer([Text("a", "en", (str(MULTI), str(SINGLE)))], path, 300)
    return path


@pytest.fixture
def written(tmp_path: Path, text: Path) -> Callable[..., Corpus]:
    """Write conversations as a corpus."""

    def write(*conversations: Any, flags: tuple[str, ...] = ()) -> Corpus:
        lines = "".join(json.dumps(each) + "\n" for each in conversations)
        (tmp_path / "chats.jsonl").write_text(lines)
        out = str(tmp_path / "corpus")
        given = [str(tmp_path / "chats.jsonl"), "--lang", "en", "--text-tokenizer", str(text)]
        assert prepare.main(["dialogues", *given, *flags, "--out", out]) == 0
        return verify_corpus(Path(out))

    return write


def ids(corpus: Corpus, language: str, key: str) -> list[list[int]]:
    return [each.tolist() for each in corpus.document(language, corpus.find(language, key))]


def read(corpus: Corpus, language: str, key: str) -> list[str]:
    """Return each sentence as a user would write it, with `[12]` for unit 12."""
    tokenizer = load_text_tokenizer(corpus.path / "tokenizer.json")
    first = UNITS.vocab_size
    return [
        "".join(f"[{i}]" if i < first else tokenizer.id_to_token(i - first) for i in own)
        for own in ids(corpus, language, key)
    ]


def test_text_and_units_keep_their_order(written: Callable[..., Corpus], text: Path) -> None:
    corpus = written(SINGLE, MULTI)
    assert corpus.languages == ("en-prompt", "en-response")
    assert corpus.tokenizers == (UNITS, identify_text_tokenizer(text))
    assert corpus.tokenizer("en-prompt") == mixed(*corpus.tokenizers)
    key = f"{corpus.path.parent.name}/chats/1"
    assert read(corpus, "en-prompt", key) == ["theĠcat:Ġ<sosp>[12][3][7]<eosp>."]
    response = "aĠredĠ<sosp>[0][5]<eosp>Ġcat<sosp>[6]<eosp>"
    assert read(corpus, "en-response", key) == [response]
    assert read(corpus, "en-prompt", "two") == ["theĠsun", "aĠcat"]
    assert read(corpus, "en-response", "two") == ["<sosp>[9]<eosp>", "theĠmat"]


def test_prompts_responses_and_units_are_wrapped_as_told(written: Callable[..., Corpus]) -> None:
    flags = ("--before-prompt", "old ", "--after-prompt", "!", "--after-response", "!")
    flags += ("--before-units", "!", "--after-units", "")
    corpus = written(SINGLE, MULTI, flags=flags)
    assert read(corpus, "en-prompt", "two") == ["oldĠtheĠsun!", "oldĠaĠcat!"]
    assert read(corpus, "en-response", "two") == ["![9]!", "theĠmat!"]


def test_a_stream_learns_the_responses_beside_speech(
    written: Callable[..., Corpus], tmp_path: Path
) -> None:
    speech = write_corpus(tmp_path / "s", [Document("s", "en", [[9, 9, 9]])], UNITS)
    merged = merge_corpora([written(MULTI).path, speech.path], tmp_path / "merged")
    stream = Stream(
        languages=("en-prompt", "en-response"),
        mode="alternate",
        language_order="fixed",
        loss_on=("en-response",),
    )
    packing = Packing(row_length=40, separators="eos")
    plan = plan_rows(merged, [stream], packing, tokens=40, seed=0, stage=0)
    batch = plan.fill(0, 1)
    expected: list[int] = []
    learned: list[bool] = []
    sides = [ids(merged, language, "two") for language in stream.languages]
    for prompt, response in zip(*sides, strict=True):
        expected += prompt + response
        learned += [False] * len(prompt) + [True] * len(response)
    size = len(expected) + 1
    assert batch.tokens[0, :size].tolist() == [*expected, plan.vocabulary.eos]
    assert np.array_equal(batch.counted()[0, :size], [*learned, True])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a"}, "no field 'response'; expected 'prompt' and 'response'"),
        ({"prompt": ["a"], "response": ["a", "b"]}, "1 prompts and 2 responses"),
        ({"prompt": "a", "response": []}, "response is [], expected a string or a list"),
        ({"prompt": "a", "response": " "}, "response has an empty string"),
        ({"prompt": "a", "response": "<sosp><1>"}, "<sosp> without its pair"),
        ({"prompt": "a <eosp>", "response": "b"}, "<eosp> without its pair"),
        ({"prompt": "a", "response": "<sosp>1 2<eosp>"}, "'1 2' between <sosp> and <eosp>"),
        ({"prompt": "a", "response": "<sosp><eosp>"}, "'' between <sosp> and <eosp>"),
        ({"prompt": "a", "response": "<sosp><2048><eosp>"}, "unit 2048, outside the vocabulary"),
        ({"prompt": "a <5>", "response": "b"}, "units outside of <sosp> and <eosp>: 'a <5>'"),
        ({"key": 3.5, "prompt": "a", "response": "b"}, "key is 3.5, expected a string"),
    ],
)
def test_what_cannot_be_used_is_named_or_left_out(
    record: Any, message: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chats.jsonl").write_text(f"{json.dumps(MULTI)}\n\n{json.dumps(record)}\n")
    words = ["dialogues", str(tmp_path / "chats.jsonl"), "--lang", "en"]
    words += ["--text-tokenizer", str(text), "--out", str(tmp_path / "corpus")]
    assert prepare.main(words) == 1
    error = capsys.readouterr().err
    assert "chats.jsonl:3" in error
    assert message in error
    assert prepare.main([*words, "--on-fault", "skip"]) == 0
    assert Corpus.open(tmp_path / "corpus").num_documents("en-prompt") == 1
    assert message in json.loads((tmp_path / "corpus" / "skipped.jsonl").read_text())["reason"]


def test_a_file_holds_tokens_of_one_tokenizer(
    written: Callable[..., Corpus], tmp_path: Path
) -> None:
    speech = write_corpus(tmp_path / "s", [Document("s", "en", [[9, 9, 9]])], UNITS)
    merged = merge_corpora([written(MULTI).path, speech.path], tmp_path / "merged")
    with pytest.raises(ValueError, match=r"apart, --lang en and --lang en-prompt en-response"):
        export_manifest(merged, tmp_path / "out.jsonl")
    export_manifest(merged, tmp_path / "out.jsonl", ("en-prompt",))
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line["sentences"] == ids(merged, "en-prompt", "two")


def test_a_mixed_tokenizer_names_its_parts() -> None:
    text = Tokenizer("bpe", "1", "", 100)
    both = mixed(UNITS, text)
    assert both.parts == (UNITS, text)
    assert (both.vocab_size, both.first_text) == (2148, 2048)
    with pytest.raises(ValueError, match="not the sum of its parts"):
        Tokenizer("speech+text", both.hash, "", 2147)
    with pytest.raises(ValueError, match=r"speech\+text of 'x'"):
        Tokenizer("speech+text", "x", "", 5)
    with pytest.raises(ValueError, match="expected units, then text"):
        mixed(text, UNITS)
