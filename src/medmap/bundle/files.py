"""The folder of a bundle: written whole or not at all, read only when every byte is the one that was written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from medmap.errors import BundleError

SUMS = "SHA256SUMS"
REQUIRED = ("spec.json", "weights.safetensors", "CARD.md")
# Data only: what a bundle may hold. Nothing that a loader somewhere would execute.
SUFFIXES = frozenset(
    {".json", ".safetensors", ".onnx", ".xml", ".bin", ".md", ".npz", ".csv", ".yaml", ".txt", ".svg", ".png", ".html"}
)
MAX_FILES = 256
COARSE = "coarse"  # the one folder that a bundle may hold: a bundle itself, which says where to look
MAX_SUMS_BYTES = 2**20
AGAIN = "get the bundle again from where it was made"

_NAME = re.compile(rf"({COARSE}/)?[A-Za-z0-9][A-Za-z0-9._-]{{0,127}}")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def check_name(name: str, where: str) -> str:
    """The name of a file in a bundle: flat (or in the folder ``coarse``), plain, of a kind that is data.

    Raises:
        BundleError: A path, ``..``, an odd character, or a suffix that is not data.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise BundleError(
            f"{where} names a file that no bundle may have",
            got=repr(name[:200]),
            expected="a plain file name without folders",
            remedy=AGAIN,
        )
    if Path(name).suffix not in SUFFIXES and name != f"{COARSE}/{SUMS}":
        raise BundleError(
            f"{where} names a file that is not data",
            got=repr(name),
            expected=f"one of {', '.join(sorted(SUFFIXES))}",
            remedy="leave it out of the bundle",
        )
    return name


def sums_text(hashes: Mapping[str, str]) -> str:
    """The content of SHA256SUMS, as ``sha256sum -c`` reads it."""
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))


def parse_sums(text: str, where: str) -> dict[str, str]:
    """SHA256SUMS to name → hash.

    Raises:
        BundleError: A malformed line, a name twice, too many files, or a name no bundle may have.
    """
    hashes: dict[str, str] = {}
    if not text.endswith("\n"):
        raise BundleError(f"{where} is cut off", remedy=AGAIN)
    for line in text[:-1].split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            raise BundleError(f"{where} has a line that is no checksum", got=repr(line[:100]), remedy=AGAIN)
        name = check_name(match[2], where)
        if name in hashes or len(hashes) >= MAX_FILES:
            raise BundleError(f"{where} lists a file twice or too many files", got=name, remedy=AGAIN)
        hashes[name] = match[1]
    if sums_text(hashes) != text:
        raise BundleError(f"{where} is not in the order medmap writes", remedy=AGAIN)
    return hashes


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small(path: Path, limit_bytes: int) -> str:
    """A small text file of a bundle.

    Raises:
        BundleError: Absent, a link, unreadable, not UTF-8, or larger than ``limit_bytes``.
    """
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise BundleError(f"{path} is a link or no plain file", remedy=AGAIN)
        if info.st_size > limit_bytes:
            raise BundleError(f"{path} is too large", got=f"{info.st_size} bytes", expected=limit_bytes, remedy=AGAIN)
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing, so this is no complete bundle", remedy=AGAIN) from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not text", remedy=AGAIN) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read", got=error.strerror, remedy="check its permissions") from error


def verify_folder(folder: Path) -> tuple[dict[str, str], str]:
    """Check every file of a bundle's folder against SHA256SUMS.

    Returns:
        name → SHA-256, and the bundle's digest: ``sha256:`` over SHA256SUMS.

    Raises:
        BundleError: A missing, changed, extra or unreadable file, a folder or link inside, a malformed SHA256SUMS.
    """
    text = read_small(folder / SUMS, MAX_SUMS_BYTES)
    hashes = parse_sums(text, str(folder / SUMS))
    try:
        found = _entries(folder, hashes)
        for name, info in sorted(found.items()):
            if not stat.S_ISREG(info.st_mode):
                raise BundleError(f"{folder / name} is a link, a folder or no plain file", remedy=AGAIN)
        if extra := sorted(found.keys() - hashes.keys() - {SUMS}):
            raise BundleError(
                f"{folder / extra[0]} does not belong to the bundle", remedy="remove it; SHA256SUMS lists what belongs"
            )
        for name in (*REQUIRED, *hashes):
            if name not in found or name not in hashes:
                raise BundleError(f"{folder / name} is missing from the bundle", remedy=AGAIN)
        for name, expected in hashes.items():
            if sha256(folder / name) != expected:
                raise BundleError(f"{folder / name} was changed after the bundle was written", remedy=AGAIN)
    except OSError as error:
        raise BundleError(
            f"{error.filename or folder} cannot be read", got=error.strerror, remedy="check its permissions"
        ) from error
    return hashes, "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def _entries(folder: Path, hashes: Mapping[str, str]) -> dict[str, os.stat_result]:
    """What lies in a bundle's folder, by name; the folder ``coarse`` is looked into where files of it are listed."""
    found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(folder)}
    listed = any(name.startswith(f"{COARSE}/") for name in hashes)
    if listed and COARSE in found and stat.S_ISDIR(found[COARSE].st_mode):
        del found[COARSE]
        inner = os.scandir(folder / COARSE)
        found |= {f"{COARSE}/{entry.name}": entry.stat(follow_symlinks=False) for entry in inner}
    return found


# ---------------------------------------------------------------------------------------------------------- writing


def _aside(folder: Path, what: str) -> Path:
    return folder.parent / f".{folder.name}.medmap-{what}"


def standing(folder: Path) -> Path:
    """Where a bundle stands: the folder, or its predecessor where a process was killed between the two renames."""
    previous = _aside(folder, "previous")
    return previous if not folder.exists() and previous.is_dir() else folder


def write_folder(folder: Path, contents: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write the files and their SHA256SUMS as one folder, or leave everything as it was.

    The folder is made beside its place, every file synced, SHA256SUMS last; then an existing bundle is renamed aside,
    the new one renamed in, and only then the old one deleted. ``standing`` finds the old one if
    the machine stops in between.

    Raises:
        BundleError: The place is taken by something else or ``overwrite`` is False; the disk is full or not writable.
    """
    for name in contents:
        check_name(name, "the bundle")
    if missing := [name for name in REQUIRED if name not in contents]:
        raise BundleError("a bundle lacks a file it must have", got=missing)
    if len(contents) > MAX_FILES:
        raise BundleError("a bundle holds too many files", got=len(contents), expected=MAX_FILES)
    _may_replace(folder, overwrite)
    new, previous = _aside(folder, "writing"), _aside(folder, "previous")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder, previous)
        _remove(new)
        try:
            new.mkdir()
            for name, data in contents.items():
                (new / name).parent.mkdir(exist_ok=True)
                _write(new / name, data)
            hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
            _write(new / SUMS, sums_text(hashes).encode("ascii"))
            for made in sorted({(new / name).parent for name in contents}, reverse=True):
                _sync_folder(made)
            _swap(new, folder, previous)
        except BaseException:
            _remove(new)
            raise
    except OSError as error:
        raise BundleError(
            f"the bundle {folder} could not be written",
            got=error.strerror or str(error),
            remedy="free space or choose another folder; what stood there before is untouched",
        ) from error
    with contextlib.suppress(OSError):  # the new bundle stands; the next write removes what is left of the old one
        _remove(previous)


def copy_folder(source: Path, digest: str, folder: Path, beside: Mapping[str, bytes]) -> None:
    """Copy a bundle, byte for byte, to ``folder/bundle`` and write files beside it, all of it or nothing.

    The copy is made beside its place, synced and verified, and only then renamed in.

    Args:
        source: The bundle's folder.
        digest: What the copy's digest must be.
        folder: Must not exist, or be empty.
        beside: Further files by plain name.

    Raises:
        BundleError: The place is taken, the bundle was changed meanwhile, the disk is full or not writable.
    """
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} exists already", remedy="choose another folder")
    new = _aside(folder, "writing")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove(new)
        try:
            _copy(source, new / "bundle")
            if verify_folder(new / "bundle")[1] != digest:
                raise BundleError(f"{source} was changed after it was opened", remedy="open it again")
            for name, data in beside.items():
                _write(new / name, data)
            _sync_folder(new)
            if folder.exists():
                folder.rmdir()  # it is empty
            new.rename(folder)
            _sync_folder(folder.parent)
        except BaseException:
            _remove(new)
            raise
    except OSError as error:
        raise BundleError(
            f"the bundle could not be copied to {folder}",
            got=error.strerror or str(error),
            remedy="free space or choose another folder",
        ) from error


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.name == COARSE and path.is_dir():
            _copy(path, target / COARSE)
            continue
        with path.open("rb") as old, (target / path.name).open("xb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())
    _sync_folder(target)


def _may_replace(folder: Path, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise BundleError(f"{folder} exists already", remedy="choose another folder or allow overwriting")
    empty = folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
    if folder.is_symlink() or not folder.is_dir() or not (empty or (folder / SUMS).is_file()):
        raise BundleError(f"{folder} is something else than a bundle", remedy="choose another folder; it is kept")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # elsewhere folders cannot be opened, and renames are durable by themselves
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _recover(folder: Path, previous: Path) -> None:
    """Put right what a process killed between or after the two renames left behind."""
    if previous.is_dir():
        if folder.exists():
            _remove(previous)
        else:
            previous.rename(folder)


def _swap(new: Path, folder: Path, previous: Path) -> None:
    if folder.exists():
        folder.rename(previous)
    try:
        new.rename(folder)
        _sync_folder(folder.parent)
    except BaseException:
        if previous.exists():
            _remove(folder)  # only ever the new one: the old one stands aside
            previous.rename(folder)
        raise


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
