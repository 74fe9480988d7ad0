"""SALMon as its archive and as its mirror have it; ZeroSpeech's form with audio in tars."""

import io
import itertools
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.support.evaluation_trees import LEXICAL, lexical_lines, write_gold, write_tree
from tests.support.foreign.audio_tables import dataset, sound, to_parquet
from tresse.data.prepare import main
from tresse.data.store.cloze import Item, read_items
from tresse.data.store.corpus import verify_corpus

LOUDNESS = "tests.support.workers.slow_tokenizer:build"
SAMPLES = ("sample_0_0", "sample_0_1", "sample_10_0", "sample_10_2", "sample_9_0", "sample_9_1")


def prepare(kind: str, *words: str | Path, out: Path) -> list[Item]:
    """Run `eval`, which must succeed, and return its items."""
    command = ["eval", kind, *map(str, words), "--lang", "en"]
    assert main([*command, "--tokenizer", LOUDNESS, "--out", str(out)]) == 0
    verify_corpus(out)
    return list(read_items(out / "items.jsonl"))


def pair(task: str, id_: str, correct: str, incorrect: str) -> Item:
    """Return an item of two whole recordings."""
    return Item(
        task=task,
        id=id_,
        prompt=None,
        correct=f"{task}/{correct}",
        incorrect=f"{task}/{incorrect}",
        languages=("en",),
    )


def test_each_part_of_salmon_is_a_task(tmp_path: Path) -> None:
    folder = tmp_path / "salmon_benchmark"
    write_tree(folder / "rir_consistency", *SAMPLES)
    write_tree(folder / "speaker_consistency", *SAMPLES[:2])
    write_tree(folder / "__MACOSX", "sample_0_0")
    (folder / "rir_consistency" / "metadata.json").write_text("{}")
    items = prepare("salmon", folder, out=tmp_path / "c")
    rir = "SALMon-rir_consistency"
    assert items == [
        pair(rir, "0", "sample_0_0", "sample_0_1"),
        pair(rir, "9", "sample_9_0", "sample_9_1"),
        pair(rir, "10", "sample_10_0", "sample_10_2"),
        pair("SALMon-speaker_consistency", "0", "sample_0_0", "sample_0_1"),
    ]
    (item,) = prepare("salmon", folder / "speaker_consistency", out=tmp_path / "part")
    assert item == items[3]
    (item,) = prepare("salmon", f"voice={folder}/speaker_consistency", out=tmp_path / "named")
    assert item.task == "voice"


def test_the_mirror_of_salmon_is_read_from_parquet(tmp_path: Path) -> None:
    names = ("positive_audio", "negative_audio")
    for part in ("bg_alignment", "gender_consistency"):
        lines = [{"ind": i, **{name: sound(None, i) for name in names}} for i in range(2)]
        path = tmp_path / "SALMon" / part / "train-00000-of-00001.parquet"
        to_parquet(path, dataset(lines, names))
    items = prepare("salmon", tmp_path / "SALMon", out=tmp_path / "c")
    assert items == [
        pair(task, str(i), f"{i}/positive", f"{i}/negative")
        for task in ("SALMon-bg_alignment", "SALMon-gender_consistency")
        for i in range(2)
    ]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("sample_0_0",), "part/sample_0_0.wav: its sample has 1 recordings, expected 2"),
        (("sample_0_0", "sample_0_1", "sample_0_2"), "has 3 recordings, expected 2"),
        (("sample_0_0", "sample_00_0"), "sample_00_0.wav has the same numbers"),
        (("sample_0_0", "other"), "part/other.wav: expected a name like sample_12_0"),
    ],
)
def test_samples_that_are_no_pairs_are_errors(
    names: tuple[str, ...], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "part", *names)
    command = ["eval", "salmon", str(tmp_path / "part"), "--lang", "en", "--tokenizer", LOUDNESS]
    assert main([*command, "--out", str(tmp_path / "c")]) == 1
    assert fault in capsys.readouterr().err


def test_a_folder_without_salmon_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "x").mkdir(parents=True)
    command = ["eval", "salmon", str(tmp_path / "empty"), "--lang", "en", "--tokenizer", LOUDNESS]
    assert main([*command, "--out", str(tmp_path / "c")]) == 1
    assert "expected SALMon's folders in it, such as" in capsys.readouterr().err


def test_words_may_be_in_tars_and_lack_frequencies(tmp_path: Path) -> None:
    """The layout of coml/sWuggy: gold.csv, and audio/testset_N-*.tar."""
    columns = tuple(column for column in LEXICAL if column != "frequency")
    lines = [{k: v for k, v in line.items() if k in columns} for line in lexical_lines()]
    folder = write_gold(tmp_path / "inftrain" / "fr", columns, lines)
    sounds = sorted(folder.glob("*.wav"))
    (folder / "audio").mkdir()
    for number, own in enumerate((sounds[:3], sounds[3:])):
        with tarfile.open(folder / "audio" / f"testset_{number}-0.tar", "w") as tar:
            for path in own:
                content = path.read_bytes()
                member = tarfile.TarInfo(path.name.replace(".wav", ".ogg"))
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    plain = shutil.copytree(folder, tmp_path / "plain" / "fr")
    shutil.rmtree(plain / "audio")
    for path in sounds:
        path.unlink()
    items = prepare("zerospeech", folder, out=tmp_path / "c")
    assert {item.id for item in items} == {"7/A", "7/C", "8/A", "8/C"}
    assert items[0].task == "sWUGGY"
    assert items[0].labels == {"length": 3, "voice": items[0].labels["voice"]}
    assert items == prepare("zerospeech", plain, out=tmp_path / "p")
    tars, files = (verify_corpus(tmp_path / name) for name in ("c", "p"))
    for item, key in itertools.product(items, ("correct", "incorrect")):
        name = getattr(item, key)
        found, expected = (each.document("en", each.find("en", name)) for each in (tars, files))
        assert [sentence.tolist() for sentence in found] == [each.tolist() for each in expected]
