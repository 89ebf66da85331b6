"""A zip of images, looked into or unpacked without trusting it."""

from __future__ import annotations

import shutil
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from medmap.errors import LimitError, ReadError

MAX_BYTES = 8 * 2**30
MAX_MEMBERS = 1_000_000
# Deflate reaches 1032:1; real images seldom 100:1. What is small anyway may be of any ratio.
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 * 2**20
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unpacked(path: Path, folder: Path) -> list[tuple[str, Path]]:
    """Unpack a zip into a new folder.

    Args:
        path: The zip.
        folder: Made here; everything lands below it.

    Returns:
        Each file's name in the zip and where it lies now, by name.

    Raises:
        ReadError: No whole zip; a member that is a link, encrypted, or named outside the folder; two of one name.
        LimitError: More bytes or members than are unpacked, or a compression that no image has.
    """
    with opened(path) as (archive, members):
        folder.mkdir(parents=True)
        return [(name, _extract(archive, members[name], folder / name)) for name in sorted(members)]


@contextmanager
def opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """A zip and its files by name, after every refusal that its table of contents can give cause to.

    Raises:
        ReadError, LimitError: As ``unpacked``.
    """
    with _whole(path), zipfile.ZipFile(path) as archive:
        yield archive, _members(archive, path)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, ValueError) as error:
        found = " ".join(str(error).split())[:200]
        raise ReadError(f"{path} is not a whole zip file", got=found, remedy="copy or pack it again") from error


# zips that are held open just now: how often, the context that closes them, and what is in them
_HELD: dict[Path, tuple[int, ExitStack, tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]] = {}
_HELD_LOCK = threading.RLock()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Meanwhile ``member_bytes`` does not open the zip again for each of its files.

    Raises:
        ReadError, LimitError: As ``unpacked``.
    """
    with _HELD_LOCK:
        count, stack, content = _HELD.get(path) or (0, closing := ExitStack(), closing.enter_context(opened(path)))
        _HELD[path] = count + 1, stack, content
    try:
        yield
    finally:
        with _HELD_LOCK:
            count, stack, content = _HELD.pop(path)
            if count > 1:
                _HELD[path] = count - 1, stack, content
            else:
                stack.close()


def member_bytes(path: Path, name: str) -> bytes:
    """One file of a zip, whole; its checksum is compared.

    Raises:
        ReadError: No such file in it, or damaged.
        LimitError: As ``unpacked``.
    """
    with held(path):
        with _HELD_LOCK:
            archive, members = _HELD[path][2]
        if name not in members:
            raise ReadError(f"{path} holds no such file", got=repr(name[:200]))
        with _whole(path):
            return archive.read(members[name])


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files by their names; every refusal happens here, before a byte is written."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise LimitError(f"{path} holds too many files", got=len(infos), expected=f"at most {MAX_MEMBERS}")
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise LimitError(f"{path} is too large when unpacked", got=f"{total} bytes", expected=f"at most {MAX_BYTES}")
    packed = path.stat().st_size
    if total > RATIO_FREE_BYTES and total > MAX_RATIO * packed:
        got = f"{total} bytes out of {packed}"
        raise LimitError(f"{path} unpacks to far more than images do", got=got, expected=f"at most {MAX_RATIO} to 1")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = _plain_name(info, path)
        if info.is_dir() or name.startswith("__MACOSX/"):
            continue
        if name in members:
            raise ReadError(f"{path} holds two files of one name", got=repr(name))
        members[name] = info
    for name in members:
        if any(str(parent) in members for parent in PurePosixPath(name).parents):
            raise ReadError(f"{path} holds a file inside a file", got=repr(name))
    return members


def _plain_name(info: zipfile.ZipInfo, path: Path) -> str:
    """The member's name with forward slashes, below the folder whatever it says."""
    said = info.orig_filename.replace("\\", "/")
    parts = said.split("/")
    if "\0" in said or said.startswith("/") or ".." in parts or ":" in parts[0] or not said.strip("/. "):
        raise ReadError(f"{path} names a file outside itself", got=repr(info.orig_filename[:200]))
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ReadError(f"{path} holds a link or a device", got=repr(said[:200]), remedy="pack the files themselves")
    if info.flag_bits & 1:
        raise ReadError(f"{path} is encrypted", got=repr(said[:200]), remedy="unpack it yourself and give the folder")
    if info.compress_type not in PLAIN:
        raise ReadError(f"{path} is packed in an unusual way", got=repr(said[:200]), remedy="pack it with deflate")
    return str(PurePosixPath(said))


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile reads no more than the declared size, which was counted, and compares the checksum
    with archive.open(info) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 2**20)
    return target
