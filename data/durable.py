"""Writes files and folders that are whole or absent.

Each is written under a temporary name, synced and renamed; then its folder is synced.
"""

import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)


@contextmanager
def staged_folder(out: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` at the end; on an error it is removed.

    ValueError when `out` holds anything. A killed run leaves its folder `{out}.{random}.tmp`, which
    the next one removes: only a living process holds the lock of such a folder.
    """
    out = Path(out).resolve()
    check_vacant(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in sorted(out.parent.iterdir()):
        if left.name.startswith(f"{out.name}.") and left.suffix == ".tmp" and left.is_dir():
            _remove_if_dead(left)
    folder = out.parent / f"{out.name}.{secrets.token_hex(4)}.tmp"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
        sync_path(folder)
        commit(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def staged_file(out: str | Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file that becomes `out` at the end; on an error it is removed.

    ValueError when `out` exists.
    """
    out = Path(out).resolve()
    if out.exists():
        raise ValueError(f"{out} exists; choose another file or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(out) as file:
        yield file


@contextmanager
def replaced_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file that replaces `path` at the end; on an error `path` is untouched.

    Several processes may replace one path at once: the file of the last one stays.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with synced_file(temporary) as file:
            yield file
        commit(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def synced_file(temporary: Path) -> Iterator[IO[bytes]]:
    """Yield a new file, which is on the disk at the end; `commit` then gives it its final name."""
    with naming(temporary), temporary.open("wb") as file:
        yield file
        file.flush()
        sync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; it replaces a file of that name."""
    with replaced_file(path) as file:
        file.write(text.encode())


def check_vacant(out: Path) -> None:
    """Raise ValueError when `out` is a file or a folder that is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another or remove it")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system does not allow a link.

    ValueError names the file that could be neither linked nor copied.
    """
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
            sync_path(target)
        except OSError as error:
            raise ValueError(
                f"{source}: cannot be copied to {target} ({error.strerror or error}); make "
                "room there, or choose another folder"
            ) from error


def give_default_permissions(path: Path) -> None:
    """Give a file the permissions of any new file: safetensors creates it for its owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError that does not, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise


def sync(descriptor: int) -> None:
    """Wait until everything written to an open file or folder is on the disk."""
    os.fsync(descriptor)


def commit(temporary: Path, path: Path) -> None:
    """Rename a synced file or folder to its final name, and sync the folder that holds the name."""
    temporary.replace(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

    Some file systems refuse to sync a folder; they keep names in their own way.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove_if_dead(left: Path) -> None:
    """Remove a temporary folder unless the process that writes it is alive."""
    descriptor = os.open(left, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("%s: another process is writing the same now", left)
    except OSError:  # no locks here: only the user can tell
        logger.warning("%s is left over, unless a process writes it now; then remove it", left)
    else:
        shutil.rmtree(left)
        logger.warning("%s was left over from a run that died; removed", left)
    finally:
        os.close(descriptor)
