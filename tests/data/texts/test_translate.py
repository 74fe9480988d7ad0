"""The job that translates: whole stories, shared among ranks, stopped, resumed, with faults."""

import json
import re
from pathlib import Path

import pytest

from tests.support import own_translator
from tresse.data.prepare import main
from tresse.data.texts.texts import Text, read_texts

OWN = "tests.support.own_translator"
STORIES = [f"Story {i} begins. It goes on. The end." for i in range(40)]


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    """40 stories, which are two groups, each as one string."""
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(STORIES))
    own_translator.calls.clear()
    return path


def translate(path: Path, *flags: str, function: str = "translate") -> int:
    """Run the command with a function of the user's and return the exit status."""
    languages = ["--from", "en", "--to", "fr", "--translator", f"{OWN}:{function}"]
    return main(["translate", str(path), *languages, "--out", str(path.parent / "out"), *flags])


def texts(path: Path, language: str) -> list[Text]:
    """Read a manifest that the command wrote."""
    return read_texts([path.parent / "out" / f"{language}.jsonl"])


def test_translations_have_the_keys_and_sentences_of_their_stories(
    stories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate(stories) == 0
    assert "40 translations" in capsys.readouterr().out
    english, french = texts(stories, "en"), texts(stories, "fr")
    assert [text.key for text in english] == [text.key for text in french]
    assert english[7].sentences == ("Story 7 begins.", "It goes on.", "The end.")
    assert french[7].sentences == (
        "en>fr 0/3: Story 7 begins.",
        "en>fr 1/3: It goes on.",
        "en>fr 2/3: The end.",
    )
    out = stories.parent / "out"
    assert {path.name for path in out.iterdir()} == {"en.jsonl", "fr.jsonl", "prepared.json"}
    assert not out.with_name("out.parts").exists()


def test_several_threads_translate_in_order(stories: Path) -> None:
    assert translate(stories, "--workers", "8") == 0
    assert len(own_translator.calls) == 40
    assert [text.sentences[0] for text in texts(stories, "fr")] == [
        f"en>fr 0/3: Story {i} begins." for i in range(40)
    ]


def test_a_finished_job_is_found_and_not_done_again(
    stories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate(stories) == translate(stories) == 0
    assert len(own_translator.calls) == 40
    assert translate(stories, "--ratio", "0.1", "9") == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_ctrl_c_keeps_the_group_and_the_same_command_resumes(
    stories: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_translator, "ctrl_c", True)
    assert translate(stories) == 130
    assert "the same command resumes from there" in capsys.readouterr().err
    assert len(own_translator.calls) == 32
    assert not (stories.parent / "out").exists()
    monkeypatch.setattr(own_translator, "ctrl_c", False)
    assert translate(stories, function="faulty") == 1
    assert f"translator was {OWN}:translate" in capsys.readouterr().err
    assert translate(stories) == 0
    assert len(own_translator.calls) == 40
    assert [text.sentences[0][11:] for text in texts(stories, "fr")] == [
        f"Story {i} begins." for i in range(40)
    ]


def test_ranks_share_the_stories(
    stories: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert translate(stories) == 0
    assert "other ranks have not finished 1 of 2 groups" in capsys.readouterr().out
    assert len(own_translator.calls) == 8
    monkeypatch.setenv("RANK", "0")
    assert translate(stories) == 0
    assert len(own_translator.calls) == 40
    assert len(texts(stories, "fr")) == 40


def test_a_translation_with_a_fault_is_left_out_and_listed(
    stories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stories.write_text("\n<|endoftext|>\n".join(["A short story. It ends.", *STORIES[:2], "..."]))
    assert translate(stories, function="faulty") == 0
    assert "2 translations, 2 records left out" in capsys.readouterr().out
    assert len(texts(stories, "en")) == 3
    assert len(texts(stories, "fr")) == 2
    lines = (stories.parent / "out" / "skipped.jsonl").read_text().splitlines()
    unread, short = map(json.loads, lines)
    assert unread["reason"].endswith("expected words")
    assert short["lang"] == "fr"
    assert short["key"] == texts(stories, "en")[0].key
    assert short["where"] == f"{stories}:1"
    assert short["reason"] == "1 sentences for 2 of the source"


def test_on_fault_stop_ends_at_the_first_one(
    stories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stories.write_text("A short story. It ends.")
    assert translate(stories, "--on-fault", "stop", function="faulty") == 1
    assert "stories.txt:1: en/" in (error := capsys.readouterr().err)
    assert "1 sentences for 2" in error
    assert translate(stories, function="faulty") == 1
    assert "no translation can be used, the first: 1 sentences" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "flags", "fault"),
    [
        ("broken", (), "own_translator:broken gave 'en>fr 0/3: Story .*expected a list of texts"),
        ("numbers", (), r"own_translator:numbers gave \[\d+, .*expected a list of texts"),
        ("missing", (), "--translator tests.support.own_translator:missing: module"),
        ("translate", ("--greedy",), "--greedy has no effect: .* is a function"),
        ("translate", ("--to", "en"), "--from and --to are both en"),
        (
            "translate",
            ("--out", "fr.jsonl"),
            "fr.jsonl would be a folder; expected a name without an ending",
        ),
        (
            "translate",
            ("--from", "de", "--to", "fr"),
            r"stories.jsonl:1: en/1 is not in de, the language --from",
        ),
    ],
)
def test_a_command_that_makes_no_sense_is_an_error(
    function: str,
    flags: tuple[str, ...],
    fault: str,
    stories: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = {"key": "1", "lang": "en", "sentences": ["Story one."]}
    if "de" in flags:
        stories = stories.with_name("stories.jsonl")
        stories.write_text(json.dumps(record))
    assert translate(stories, *flags, function=function) == 1
    assert re.search(fault, capsys.readouterr().err)
