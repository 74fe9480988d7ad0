"""Groups and shares follow from the manifest and the sizes of its files."""

from itertools import chain
from pathlib import Path

from tresse.data.audio.groups import Group, form_groups, groups_of_rank
from tresse.data.audio.recordings import Recording
from tresse.data.audio.sources import File, Span


def recording(i: int, seconds: float, folder: Path = Path("/none")) -> Recording:
    """One whose length is known from its times."""
    return Recording(str(i), "en", (Span(File(str(folder / f"{i}.wav")), 0, seconds),))


def test_groups_are_runs_of_recordings_as_long_as_asked_for() -> None:
    grouping = form_groups([recording(i, s) for i, s in enumerate((3, 4, 5, 30, 1, 1))], 10)
    assert grouping.groups == [Group(0, 2, 7), Group(2, 3, 5), Group(3, 4, 30), Group(4, 6, 2)]
    assert form_groups([], 10).groups == []


def test_without_times_the_size_of_a_file_says_how_long_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x" * 96_000)
    (tmp_path / "b.mp3").write_bytes(b"x" * 96_000)
    spans = [(Span(File(str(tmp_path / name))),) for name in ("a.wav", "b.mp3", "none.wav")]
    grouping = form_groups([Recording(str(i), "en", own) for i, own in enumerate(spans)], 1e9)
    assert grouping.groups == [Group(0, 3, 2 + 12)]


def test_the_hash_covers_all_that_units_depend_on(tmp_path: Path) -> None:
    path = tmp_path / "0.wav"
    path.write_bytes(b"x")

    def hash_of(key: str = "k", language: str = "en", end: float = 1) -> str:
        spans = (Span(File(str(path)), 0, end),)
        return form_groups([Recording(key, language, spans, "anywhere:1")], 10).hash

    base = hash_of()
    others = {hash_of(key="l"), hash_of(language="fr"), hash_of(end=2)}
    assert hash_of() == base
    path.write_bytes(b"xy")
    others |= {hash_of()}
    path.unlink()
    others |= {hash_of()}
    assert len(others | {base}) == 6


def test_ranks_share_every_group_once_and_evenly() -> None:
    groups = [Group(i, i + 1, float(s)) for i, s in enumerate((5, 1, 9, 9, 2, 7, 3, 3, 8, 1))]
    for world_size in (1, 2, 3, 4, 20):
        shares = [groups_of_rank(groups, rank, world_size) for rank in range(world_size)]
        assert sorted(chain(*shares)) == list(range(10))
        seconds = [sum(groups[i].seconds for i in own) for own in shares]
        assert max(seconds) - min(seconds) <= 9
    assert groups_of_rank(groups, 0, 2)[0] == 2
