"""Evaluation sets in the layouts of their makers, and every fault that a file can have."""

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.evaluation_trees import (
    LEXICAL,
    STORIES,
    SYNTACTIC,
    TRIPLE,
    VOICES,
    Lines,
    lexical_lines,
    syntactic_lines,
    write_gold,
    write_lines,
    write_tree,
)
from tests.support.processes import ROOT, torchrun
from tests.support.workers.slow_tokenizer import Loudness
from tresse.data.audio.sources import File, Span
from tresse.data.audio.waveforms import read_spans
from tresse.data.prepare import main
from tresse.data.store.cloze import Item, read_items
from tresse.data.store.corpus import Corpus, verify_corpus
from tresse.data.store.corpus_writer import merge_corpora

SLOW = "tests.support.workers.slow_tokenizer:build"


def prepare(kind: str, *words: str | Path, out: Path) -> int:
    """Run the command and return the exit status."""
    return main(["eval", kind, *map(str, words), "--tokenizer", SLOW, "--out", str(out)])


def prepared(kind: str, *words: str | Path, out: Path) -> tuple[Corpus, list[Item]]:
    """Run a command that must succeed; return the corpus and its items."""
    assert prepare(kind, *words, out=out) == 0
    return verify_corpus(out), list(read_items(out / "items.jsonl"))


def fails(capsys: pytest.CaptureFixture[str], status: int) -> str:
    """Return the message of a command that must fail."""
    assert status == 1
    return capsys.readouterr().err


def assert_units(corpus: Corpus, language: str, key: str, path: Path) -> None:
    """Check that a document holds the units of a file."""
    (waveform,) = read_spans([Span(File(str(path)))], Loudness.sample_rate)
    (found,) = corpus.document(language, corpus.find(language, key))
    np.testing.assert_array_equal(found, Loudness().encode([waveform])[0])


def test_swuggy_pairs_words_by_voice_and_id_whatever_the_order(tmp_path: Path) -> None:
    folder = write_gold(tmp_path / "lexical" / "dev", LEXICAL, lexical_lines())
    corpus, items = prepared("zerospeech", folder, "--lang", "en", out=tmp_path / "c")
    found = {item.id: item for item in items}
    assert set(found) == {"7/A", "7/C", "8/A", "8/C"}
    for id_, voice in itertools.product("78", VOICES):
        assert found[f"{id_}/{voice}"] == Item(
            task="sWUGGY-dev",
            id=f"{id_}/{voice}",
            prompt=None,
            correct=f"sWUGGY-dev/w{id_}{voice}",
            incorrect=f"sWUGGY-dev/n{id_}{voice}",
            languages=("en",),
            group=id_,
            labels={"frequency": 12 if id_ == "7" else 0, "length": 3, "voice": voice},
        )
    assert corpus.num_documents("en") == 8
    for name in ("w7A", "n8C"):
        assert_units(corpus, "en", f"sWUGGY-dev/{name}", folder / f"{name}.wav")


def test_sblimp_pairs_sentences_by_the_order_of_their_lines(tmp_path: Path) -> None:
    folder = write_gold(tmp_path / "syntactic" / "test", SYNTACTIC, syntactic_lines())
    _, items = prepared("zerospeech", folder, "--lang", "en", out=tmp_path / "c")
    assert [(item.correct, item.incorrect) for item in items] == [
        (f"sBLIMP-test/s{id_}{voice}", f"sBLIMP-test/x{id_}{voice}")
        for id_, voice in itertools.product("12", VOICES)
    ]
    assert items[3].id == "island/wh, which/2/C"
    assert items[3].group == items[2].group == "island/wh, which/2"
    assert items[3].labels == {"type": "island", "subtype": "wh, which", "voice": "C"}


def test_both_sets_of_zerospeech_share_a_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = write_gold(tmp_path / "lexical" / "dev", LEXICAL, lexical_lines())
    sentences = write_gold(tmp_path / "syntactic" / "mine", SYNTACTIC, syntactic_lines())
    corpus, items = prepared("zerospeech", words, sentences, "--lang", "en", out=tmp_path / "c")
    assert corpus.num_documents("en") == 16
    assert len(items) == 8
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["sWUGGY-dev", "en", "4"] in printed
    assert ["sBLIMP", "en", "4"] in printed


def test_storycloze_of_twist_is_pairs_of_whole_stories(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "sSC", *STORIES)
    (folder / "0_s_correct.txt").write_text("A story.")
    (folder / "._0_s_correct.wav").write_bytes(b"macOS")
    corpus, items = prepared("storycloze", folder, "--lang", "en", out=tmp_path / "c")
    assert items == [
        Item(
            task="sSC",
            id=id_,
            prompt=None,
            correct=f"sSC/{id_}_correct",
            incorrect=f"sSC/{other}_incorrect",
            languages=("en",),
        )
        for id_, other in (("0_s", "1_s"), ("2_t", "3_t"))
    ]
    assert_units(corpus, "en", "sSC/3_t_incorrect", folder / "3_t_incorrect.wav")


def test_pairs_of_slamkit_are_numbered_in_each_folder(tmp_path: Path) -> None:
    folder = write_tree(
        tmp_path / "v=2" / "set", "b/10+x.wav", "b/11+y.flac", "a/2+z", "a/3+", "b/0+", "b/1+"
    )
    _, items = prepared("pairs", f"sBLIMP={folder}", "--lang", "en", out=tmp_path / "c")
    assert [(item.correct, item.incorrect) for item in items] == [
        ("sBLIMP/a/2+z", "sBLIMP/a/3+"),
        ("sBLIMP/b/0+", "sBLIMP/b/1+"),
        ("sBLIMP/b/10+x", "sBLIMP/b/11+y"),
    ]
    assert items[0].task == "sBLIMP"


def test_triples_are_a_prompt_and_two_endings(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "sSC", *TRIPLE)
    _, items = prepared("triples", folder, "--lang", "fr", out=tmp_path / "c")
    assert [item.id for item in items] == ["s", "t_1"]
    assert items[1] == Item(
        task="sSC",
        id="t_1",
        prompt="sSC/t_1_mutual",
        correct="sSC/t_1_correct",
        incorrect="sSC/t_1_incorrect",
        languages=("fr",),
    )


def test_a_cloze_set_has_a_folder_per_language(tmp_path: Path) -> None:
    tmp_path = tmp_path / "v=2"
    for seed, folder in enumerate(itertools.product(("sSC", "sTC"), ("en", "fr"))):
        write_tree(tmp_path.joinpath(*folder), *TRIPLE, seed=10 * seed)
    out = tmp_path / "c"
    corpus, items = prepared("cloze", tmp_path / "sSC", tmp_path / "sTC", out=out)
    assert corpus.languages == ("en", "fr")
    assert len(corpus.aligned(("en", "fr"))) == 12
    assert [(item.task, item.id, item.languages) for item in items] == [
        (task, id_, ("en", "fr")) for task in ("sSC", "sTC") for id_ in ("s", "t_1")
    ]
    assert_units(corpus, "fr", "sTC/s_mutual", tmp_path / "sTC" / "fr" / "s_mutual.wav")


def damage(name: str) -> Callable[[Path], object]:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def move(name: str, new: str) -> Callable[[Path], object]:
    """Rename a file."""
    return lambda folder: (folder / name).rename(folder / new)


def copy(name: str, new: str) -> Callable[[Path], object]:
    """Give a file a second name."""

    def apply(folder: Path) -> None:
        (folder / new).parent.mkdir(exist_ok=True)
        shutil.copy(folder / name, folder / new)

    return apply


def swap(first: str, second: str) -> Callable[[Path], object]:
    """Exchange the names of two files."""

    def apply(folder: Path) -> None:
        (folder / first).rename(folder / "x")
        (folder / second).rename(folder / first)
        (folder / "x").rename(folder / second)

    return apply


@pytest.mark.parametrize("kind", ["storycloze", "pairs"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage("1_s_incorrect.wav"), "0_s_correct.wav: file number 1 of its pair is missing"),
        (damage("2_t_correct.wav"), "3_t_incorrect.wav: file number 2 of its pair is missing"),
        (copy("0_s_correct.wav", "00_u_correct.wav"), "00_u_correct.wav has the same number"),
        (copy("0_s_correct.wav", "0_s_correct.flac"), "0_s_correct.flac has the same name"),
        (
            copy("0_s_correct.wav", "x/8_s_correct.wav"),
            "x/8_s_correct.wav: audio in a subfolder of",
        ),
        (copy("0_s_correct.wav", "s_correct.wav"), "set/s_correct.wav: expected a name"),
        (lambda folder: shutil.rmtree(folder), "set: no such folder"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "set: no audio in it"),
    ],
)
def test_a_pair_that_is_not_whole_is_named(
    kind: str,
    spoil: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_tree(tmp_path / "set", *STORIES)
    spoil(folder)
    assert message in fails(capsys, prepare(kind, folder, "--lang", "en", out=tmp_path / "c"))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (
                move("0_s_correct.wav", "0_s_incorrect.wav")(folder),
                move("1_s_incorrect.wav", "1_s_correct.wav")(folder),
            ),
            "set/0_s_incorrect.wav: its number means the correct ending",
        ),
        (
            move("3_t_incorrect.wav", "3_t_correct.wav"),
            "set/3_t_correct.wav: its number means the incorrect ending",
        ),
        (
            move("3_t_incorrect.wav", "3_s_incorrect.wav"),
            "set/3_s_incorrect.wav: its story is s, but its partner 2_t_correct has t",
        ),
        (move("3_t_incorrect.wav", "3_t_wrong.wav"), "set/3_t_wrong.wav: expected a name like"),
    ],
)
def test_a_story_in_the_wrong_place_is_named(
    spoil: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_tree(tmp_path / "set", *STORIES)
    spoil(folder)
    assert message in fails(
        capsys, prepare("storycloze", folder, "--lang", "en", out=tmp_path / "c")
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage("fr/s_mutual.wav"), "fr/s_correct.wav: s_mutual is missing beside it"),
        (damage("en/t_1_incorrect.wav"), "en/t_1_correct.wav: t_1_incorrect is missing beside it"),
        (move("en/s_mutual.wav", "en/s_prompt.wav"), "en/s_correct.wav: s_mutual is missing"),
        (copy("en/s_mutual.wav", "en/s_prompt.wav"), "en/s_prompt.wav: expected a name that ends"),
        (copy("en/s_mutual.wav", "en/_mutual.wav"), "en/_mutual.wav: expected a name that ends"),
        (
            lambda folder: [path.unlink() for path in (folder / "fr").glob("t_1*")],
            "en/t_1_mutual.wav: this story is in en, but not in fr",
        ),
        (
            lambda folder: [path.unlink() for path in (folder / "en").glob("s_*")],
            "fr/s_mutual.wav: this story is in fr, but not in en",
        ),
        (copy("en/s_mutual.wav", "s_mutual.wav"), "s_mutual.wav: expected folders of languages"),
        (
            lambda folder: (
                (folder / "sSC").mkdir(),
                move("en", "sSC/en")(folder),
                move("fr", "sSC/fr")(folder),
            ),
            "sSC: expected the audio of a language, found the folders en, fr",
        ),
        (move("fr", "fr fr"), "language 'fr fr': expected"),
        (move("fr", ".fr"), ""),
    ],
)
def test_a_triple_that_is_not_whole_in_every_language_is_named(
    spoil: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for language in ("en", "fr"):
        write_tree(tmp_path / "set" / language, *TRIPLE)
    spoil(tmp_path / "set")
    status = prepare("cloze", tmp_path / "set", out=tmp_path / "c")
    if not message:  # a hidden folder is no language
        assert status == 0
        assert Corpus.open(tmp_path / "c").languages == ("en",)
        return
    assert message in fails(capsys, status)


def change(line: int, **cells: object) -> Callable[[Lines], object]:
    """Change cells of a line; the recordings keep their names."""
    return lambda lines: lines[line].update(cells)


def refuse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    columns: Sequence[str],
    lines: Lines,
    spoil: Callable[[Lines], object],
) -> tuple[Path, str]:
    """Prepare a set whose gold.csv is spoiled; return its folder and the error."""
    folder = write_gold(tmp_path / "dev", columns, lines)
    spoil(lines)
    write_lines(folder, columns, lines)
    return folder, fails(capsys, prepare("zerospeech", folder, "--lang", "en", out=tmp_path / "c"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(0, filename="none"), "gold.csv:2: the recording none is missing"),
        (change(0, filename=""), "gold.csv:2: filename is empty"),
        (change(3, filename="w7A"), "gold.csv:5: w7A is there already (GOLD/gold.csv:2)"),
        (lambda lines: lines.pop(), "n7C.wav: no line of GOLD/gold.csv lists it"),
        (change(1, id="9"), "gold.csv:6: w8C has no partner of voice C and id 8"),
        (change(4, id="9"), "gold.csv:6: w8C has no partner of voice C and id 9"),
        (change(4, voice="A"), "gold.csv:8: A, 8 is there already (GOLD/gold.csv:6)"),
        (change(0, correct=2), "gold.csv:2: correct is 2, expected 0 or 1"),
        (change(0, correct="yes"), "gold.csv:2: correct is 'yes', expected a number"),
        (change(0, frequency=""), "gold.csv:2: frequency is '', expected a number"),
        (change(0, frequency="1.5"), "gold.csv:2: frequency is '1.5', expected a number"),
        (change(0, frequency="-1"), "gold.csv:2: frequency is '-1', expected a number"),
        (change(0, length="nan"), "gold.csv:2: length is 'nan', expected a number"),
        (lambda lines: lines.clear(), "gold.csv: no lines after the header"),
    ],
)
def test_a_word_that_gold_does_not_explain_is_named(
    spoil: Callable[[Lines], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, found = refuse(tmp_path, capsys, LEXICAL, lexical_lines(), spoil)
    assert message.replace("GOLD", str(folder)) in found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda lines: lines.insert(0, lines.pop(1)),
            "gold.csv:2: voice, type, subtype, id are C, agreement, anaphor, 1; by the order of "
            "lines its partner is GOLD/gold.csv:4, which has A, agreement, anaphor, 1",
        ),
        (
            change(0, subtype="other"),
            "gold.csv:2: voice, type, subtype, id are A, agreement, other",
        ),
        (change(0, correct=1), "gold.csv: 5 correct lines and 3 incorrect ones"),
        (
            lambda lines: [line.update(voice="A") for line in lines],
            "gold.csv:5: A, agreement, anaphor, 1 is there already (GOLD/gold.csv:4)",
        ),
    ],
)
def test_sentences_that_are_not_in_order_are_named(
    spoil: Callable[[Lines], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, found = refuse(tmp_path, capsys, SYNTACTIC, syntactic_lines(), spoil)
    assert message.replace("GOLD", str(folder)) in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "gold.csv: no such file; expected a folder like sLM21-dataset/lexical/dev"),
        (b"filename,id\n", "gold.csv: has the columns filename, id; expected filename, id, voice"),
        (b"", "gold.csv: has the columns ; expected"),
        (b"filename,id,voice,type,subtype,correct\na,1\n", "gold.csv:2: the number of cells"),
        (
            b"filename,id,voice,type,subtype,correct\na,1,A,t,s,1,1\n",
            "gold.csv:2: the number of cells differs",
        ),
        (b"filename,id,voice,type,subtype,correct\n\xff\n", "not CSV in UTF-8"),
    ],
)
def test_a_file_that_is_no_gold_file_is_named(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tree(tmp_path / "dev", "a")
    if content is not None:
        (folder / "gold.csv").write_bytes(content)
    found = fails(capsys, prepare("zerospeech", folder, "--lang", "en", out=tmp_path / "c"))
    assert message in found


def test_a_mistake_of_the_user_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_tree(tmp_path / "sSC", *STORIES), tmp_path / "c"
    other = write_tree(tmp_path / "other" / "sSC", *STORIES)
    cases = [
        (("pairs", folder), "pairs needs the language of its recordings, such as --lang en"),
        (("cloze", folder, "--lang", "en"), "--lang is not for cloze"),
        (("pairs", folder, "--lang", "e n"), "language 'e n': expected"),
        (
            ("pairs", folder, other, "--lang", "en"),
            "are both called sSC; give one a name by TASK=FOLDER",
        ),
        (("pairs", "--lang", "en"), "no folders"),
    ]
    for words, message in cases:
        found = fails(capsys, prepare(*map(str, words), out=out))
        assert message in found
        assert found.count("\n") == 1
    both = prepared("pairs", folder, f"sTC={other}", "--lang", "en", out=out)[1]
    assert [item.task for item in both] == ["sSC", "sSC", "sTC", "sTC"]


def test_a_recording_that_cannot_be_used_stops_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tree(tmp_path / "sSC", *STORIES)
    soundfile.write(folder / "1_s_incorrect.wav", np.zeros(8_000), 16_000)
    found = fails(capsys, prepare("pairs", folder, "--lang", "en", out=tmp_path / "c"))
    assert "1_s_incorrect.wav: a silent sentence" in found
    assert not (tmp_path / "c").exists()


def test_a_run_that_was_killed_before_the_items_writes_them(tmp_path: Path) -> None:
    words = ("storycloze", write_tree(tmp_path / "sSC", *STORIES), "--lang", "en")
    corpus, items = prepared(*words, out=tmp_path / "c")
    (tmp_path / "c" / "items.jsonl").unlink()
    again, same = prepared(*words, out=tmp_path / "c")
    assert (again.id, same) == (corpus.id, items)


@pytest.mark.slow
def test_torchrun_shares_the_work(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "sSC", *STORIES)
    corpus, items = prepared("storycloze", folder, "--lang", "en", out=tmp_path / "alone")
    words = ["eval", "storycloze", str(folder), "--lang", "en", "--batch-seconds", "0.1"]
    out = tmp_path / "shared"
    torchrun(2, str(ROOT / "data" / "prepare.py"), *words, "--tokenizer", SLOW, "--out", str(out))
    assert Corpus.open(out).id == corpus.id
    assert list(read_items(out / "items.jsonl")) == items


def test_units_in_a_corpus_need_only_the_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = write_gold(tmp_path / "dev", LEXICAL, lexical_lines())
    for language in ("en", "fr"):
        write_tree(tmp_path / "sSC" / language, *TRIPLE)
    cases = [
        ("zerospeech", gold, gold, ("--lang", "en")),
        ("cloze", tmp_path / "sSC", "sSC", ()),
        ("triples", f"sTC={tmp_path / 'sSC' / 'fr'}", "sTC", ("--lang", "fr")),
    ]
    for number, (kind, folder, named, lang) in enumerate(cases):
        corpus, items = prepared(kind, folder, *lang, out=tmp_path / str(number))
        (corpus.path / "items.jsonl").unlink()
        words = [kind, str(named), "--corpus", str(corpus.path), *lang]
        assert main(["eval-items", *words]) == 0
        assert list(read_items(corpus.path / "items.jsonl")) == items
        found = fails(capsys, main(["eval-items", *words]))
        assert "items.jsonl exists; remove it, or choose another corpus" in found


def test_names_that_no_document_has_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tree(tmp_path / "sTC", *TRIPLE)
    corpus, _ = prepared("triples", folder, "--lang", "fr", out=tmp_path / "c")
    (corpus.path / "items.jsonl").unlink()
    words = ["eval-items", "triples", "--corpus", str(corpus.path), "--lang"]
    assert "no keys that start with sT/ in fr" in fails(capsys, main([*words, "fr", "sT"]))
    assert "no language 'en'; it has fr" in fails(capsys, main([*words, "en", "sTC"]))
    assert not (corpus.path / "items.jsonl").exists()


def test_a_missing_document_of_units_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        f'{{"key": "sSC/{name}", "lang": "en", "sentences": [[1, 2]]}}\n' for name in STORIES[1:]
    ]
    (tmp_path / "units.jsonl").write_text("".join(lines))
    corpus = tmp_path / "c"
    assert main(["manifest", str(tmp_path / "units.jsonl"), "--out", str(corpus)]) == 0
    words = ["eval-items", "storycloze", "sSC", "--corpus", str(corpus), "--lang", "en"]
    found = fails(capsys, main(words))
    assert f"{corpus}, en: sSC/1_s_incorrect: file number 0 of its pair is missing" in found


def test_a_story_that_is_not_whole_in_all_languages_may_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    names = [(language, name) for language in ("en", "fr") for name in TRIPLE]
    names.remove(("fr", "t_1_correct"))
    lines = [
        f'{{"key": "sSC/{name}", "lang": "{language}", "sentences": [[1, 2]]}}\n'
        for language, name in names
    ]
    (tmp_path / "units.jsonl").write_text("".join(lines))
    corpus = tmp_path / "c"
    assert main(["manifest", str(tmp_path / "units.jsonl"), "--out", str(corpus)]) == 0
    words = ["eval-items", "cloze", "sSC", "--corpus", str(corpus)]
    assert "t_1_correct is missing beside it" in fails(capsys, main(words))
    assert main([*words, "--on-fault", "skip"]) == 0
    assert "left out, as they are not whole in every language: t_1" in caplog.text
    assert [item.id for item in read_items(corpus / "items.jsonl")] == ["s"]
    words = ["eval-items", "pairs", "sSC", "--corpus", str(corpus), "--lang", "en"]
    found = fails(capsys, main([*words, "--on-fault", "skip"]))
    assert "--on-fault skip is for triples and cloze, the kind is pairs" in found


def test_merged_sets_are_asked_in_their_own_languages(tmp_path: Path) -> None:
    words = write_gold(tmp_path / "dev", LEXICAL, lexical_lines())
    for language in ("en", "fr"):
        write_tree(tmp_path / "sSC" / language, *TRIPLE)
    _, first = prepared("zerospeech", words, "--lang", "en", out=tmp_path / "a")
    _, second = prepared("cloze", tmp_path / "sSC", out=tmp_path / "b")
    path = tmp_path / "b" / "items.jsonl"
    path.write_text(path.read_text().replace(', "languages": ["en", "fr"]', ""))
    assert next(read_items(path)).languages == ()
    merge_corpora([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert list(read_items(tmp_path / "c" / "items.jsonl")) == first + second
    (tmp_path / "a" / "items.jsonl").unlink()
    path.unlink()
    merge_corpora([tmp_path / "a", tmp_path / "b"], tmp_path / "d")
    assert not (tmp_path / "d" / "items.jsonl").exists()
