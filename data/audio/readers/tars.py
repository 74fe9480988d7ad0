"""Members of uncompressed tars, to the end of the file: joined tars have several ends."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from tresse.data.left_out import LeftOut

BLOCK = tarfile.BLOCKSIZE
TYPE = 156  # where a header has its type


def read_members(path: Path, left_out: LeftOut, bar: tqdm) -> Iterator[tarfile.TarInfo]:
    """Yield the plain files in a tar, but for hidden ones such as the `._*` of macOS.

    ValueError or `left_out` names a member that is no plain file, and a place where the tar is
    damaged or cut. ValueError for a file that is no uncompressed tar.
    """
    before, end = bar.n, 0
    with path.open("rb") as file:
        size = file.seek(0, 2)
        try:
            # Python would take an empty block for the end, and skip damaged headers.
            with tarfile.open(path, "r:", ignore_zeros=True) as tar:
                for member in tar:
                    if not _is_empty(file, end, member.offset):
                        left_out.add(f"{path}: byte {end}", "damaged up to the next member")
                    end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                    bar.update(before + min(end, size) - bar.n)
                    if member.offset_data + member.size > size:
                        break  # below it is called cut
                    if fault := _find_fault(member):
                        left_out.add(f"{path}: member {member.name!r}", fault)
                    elif member.isreg() and not PurePosixPath(member.name).name.startswith("."):
                        yield member
        except (OSError, tarfile.TarError) as error:
            raise ValueError(f"{path}: cannot be read as an uncompressed tar ({error})") from error
        if not end:
            raise ValueError(f"{path}: cannot be read as an uncompressed tar; it has no members")
        if end + 2 * BLOCK > size:
            left_out.add(f"{path}: byte {size}", "the tar is cut; its end mark is missing")
        elif not _is_empty(file, end, size):
            left_out.add(f"{path}: byte {end}", "damaged up to the end of the file")


def _is_empty(file: BinaryIO, start: int, end: int) -> bool:
    """Return whether a stretch of a file holds zeros alone, or a header for all members."""
    file.seek(start)
    if file.read(BLOCK)[TYPE : TYPE + 1] == tarfile.XGLTYPE:
        return True
    file.seek(start)
    return not any(any(file.read(min(BLOCK, end - at))) for at in range(start, end, BLOCK))


def _find_fault(member: tarfile.TarInfo) -> str:
    """Return why a member cannot be used, though nothing is unpacked; "" if it can."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        return "it leaves the folder; write the tar again"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "it is a link, a device or sparse; expected plain files"
    return ""
