"""Files and folders are on the disk before they get their final name, and the name after that."""

import errno
import os
import resource
import shutil
import stat
from pathlib import Path

import pytest

from tresse.data import durable
from tresse.data.durable import link_or_copy, replaced_file, staged_file, staged_folder, write_text


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect syncs, with the size of the file, and renames, in their order."""
    found: list[str] = []
    rename = Path.replace

    def sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        is_folder = stat.S_ISDIR(status.st_mode)
        found.append("sync folder" if is_folder else f"sync {status.st_size} bytes")

    def replace(path: Path, target: Path) -> Path:
        found.append("rename")
        return rename(path, target)

    monkeypatch.setattr(durable, "sync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    return found


@pytest.mark.parametrize("write", [staged_file, replaced_file])
def test_a_file_is_synced_whole_then_renamed_then_its_name_synced(write, events, tmp_path) -> None:
    with write(tmp_path / "a") as file:
        file.write(b"four")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"four"
    assert events == ["sync 4 bytes", "rename", "sync folder"]


def test_a_folders_names_are_synced_before_its_own(events, tmp_path) -> None:
    with staged_folder(tmp_path / "out") as folder:
        write_text(folder / "a", "one")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    file = ["sync 3 bytes", "rename", "sync folder"]
    assert events == [*file, "sync folder", "rename", "sync folder"]


def test_a_copy_is_synced_where_there_are_no_links(events, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    (tmp_path / "a").write_bytes(b"three")
    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"three"
    assert events == ["sync 5 bytes"]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(error, tmp_path) -> None:
    def fail() -> None:
        with replaced_file(tmp_path / "a") as file:
            file.write(b"half")
            raise error

    write_text(tmp_path / "a", "old")
    with pytest.raises(type(error)):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_that_another_process_is_writing_is_left_alone(tmp_path, caplog) -> None:
    with staged_folder(tmp_path / "out") as mine:
        with staged_folder(tmp_path / "out") as other:
            pass
        assert mine.exists()
        assert not other.exists()
        assert f"{mine}: another process is writing the same now" in caplog.text
        (tmp_path / "out").rmdir()


def test_a_file_system_that_syncs_no_folders_is_no_fault(tmp_path, monkeypatch) -> None:
    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(durable, "sync", refuse)
    with staged_folder(tmp_path / "out") as folder:
        write_text(folder / "a", "one")
    assert (tmp_path / "out" / "a").read_text() == "one"


def test_a_full_disk_is_named_with_the_file(tmp_path) -> None:
    path = tmp_path / "a"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path}/a\..*\.tmp'"):
            write_text(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_file_that_can_be_neither_linked_nor_copied_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").write_bytes(b"four")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    message = rf"{tmp_path}/a: cannot be copied to {tmp_path}/b \(No space left on device\)"
    with pytest.raises(ValueError, match=message):
        link_or_copy(tmp_path / "a", tmp_path / "b")
