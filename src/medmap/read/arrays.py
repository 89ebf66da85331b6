"""NumPy files: ``.npy``, and ``.npz`` with members such as ``train_images/12`` (never pickled objects).

A row of a MedMNIST file is read many thousand times, so the file stays open: members that are stored as they are
become memory maps, compressed ones are unpacked once (very large ones into a temporary file that vanishes with the
process). One file is kept, recognised by its path, time of change and size.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, ReadError
from medmap.geometry import Geometry
from medmap.image import Quantity, Source
from medmap.read.opened import RGB, Opened, at_the_door, bytes_of, require_room

SPILL_BYTES = 2**30  # unpacked members above this size go to a temporary file
MEMBER_LIMIT_BYTES = 64 * 2**30  # no array of an npz is unpacked beyond this size
MAX_CHANNELS = 4  # a longer last axis is a spatial one
_CHUNK = 16 * 2**20


@dataclass(frozen=True)
class Member:
    """One array of a file: what its header says and how to come at it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], NDArray[Any]]


@dataclass
class Arrays:
    """The arrays of a ``.npy`` or ``.npz`` file by name; each is mapped or unpacked when first asked for.

    Args:
        path: The file.
        members: By name; the array of a ``.npy`` is named ``""``.
    """

    path: Path
    members: dict[str, Member]
    _loaded: dict[str, NDArray[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def member(self, name: str) -> Member:
        """What the header says of one array.

        Raises:
            ReadError: There is no such array.
        """
        try:
            return self.members[name]
        except KeyError:
            raise ReadError(
                f"{self.path} has no array {name!r}", expected=", ".join(map(repr, sorted(self.members))) or "an array"
            ) from None

    def array(self, name: str) -> NDArray[Any]:
        """The read-only array.

        Raises:
            ReadError: No such array, or damaged bytes.
        """
        found = self._loaded.get(name)
        if found is None:
            with self._lock, at_the_door(self.path, "NumPy file"):
                found = self._loaded.get(name)
                if found is None:
                    found = self.member(name).load()
                    found.setflags(write=False)
                    self._loaded[name] = found
        return found


_kept: tuple[tuple[str, int, int], Arrays] | None = None


def open_arrays(path: str | Path) -> Arrays:
    """The arrays of a NumPy file without reading their values; the file opened last is remembered.

    Raises:
        ReadError: Absent, unreadable, damaged, or holding pickled objects.
        LimitError: An array that no machine should unpack.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", train_images=np.zeros((5, 28, 28), np.uint8))
        ...     open_arrays(f"{folder}/a.npz").member("train_images").shape
        (5, 28, 28)
    """
    global _kept  # noqa: PLW0603  (the one file that stays open)
    path = Path(path)
    with at_the_door(path, "NumPy file"):
        stat = path.stat()
        key = (os.path.realpath(path), stat.st_mtime_ns, stat.st_size)
        kept = _kept
        if kept is not None and kept[0] == key:
            return kept[1]
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            arrays = Arrays(path, {"": _npy(path, file)} if head[:6] == b"\x93NUMPY" else _npz(path, file))
        _kept = (key, arrays)
    return arrays


def forget_arrays() -> None:
    """Close the file that is kept open (before it is moved or replaced)."""
    global _kept  # noqa: PLW0603
    _kept = None


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    if dtype.hasobject:
        raise ReadError(
            f"{where} holds pickled Python objects, which could run code and are never loaded",
            expected="an array of numbers",
        )
    if any(n < 0 for n in shape):
        raise ReadError(f"{where} declares a negative size", got=shape)
    return tuple(int(n) for n in shape), bool(fortran), dtype


def _npy(path: Path, file: IO[bytes]) -> Member:
    shape, fortran, dtype = _header(file, str(path))
    offset = file.tell()
    _require_bytes(path, "", path.stat().st_size - offset, shape, dtype)

    def load() -> NDArray[Any]:
        return _mapped(path, offset, shape, dtype, fortran)

    return Member(shape, dtype, load)


def _require_bytes(path: Path, name: str, have: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    need = bytes_of(shape, dtype)
    if have != need:
        where = f"{path}#{name}" if name else str(path)
        raise ReadError(
            f"{where} holds {'fewer' if have < need else 'more'} bytes than its header declares",
            got=f"{have} bytes",
            expected=f"{need} bytes for shape {shape} {dtype}",
        )


def _mapped(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> NDArray[Any]:
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    order: Any = "F" if fortran else "C"
    return np.asarray(np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order=order))


def _npz(path: Path, file: IO[bytes]) -> dict[str, Member]:
    members: dict[str, Member] = {}
    with zipfile.ZipFile(file) as archive:
        for item in archive.infolist():
            if not item.filename.endswith(".npy") or item.is_dir():
                continue
            name = item.filename[: -len(".npy")]
            if name in members:
                raise ReadError(f"{path} holds two arrays of one name", got=repr(name))
            members[name] = _npz_member(path, file, archive, item)
    if not members:
        raise ReadError(f"{path} is a zip file without NumPy arrays")
    return members


def _npz_member(path: Path, file: IO[bytes], archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> Member:
    name = item.filename[: -len(".npy")]
    with archive.open(item) as member:
        shape, fortran, dtype = _header(member, f"{path}#{name}")
        header_bytes = member.tell()
    _require_bytes(path, name, item.file_size - header_bytes, shape, dtype)
    if item.compress_type == zipfile.ZIP_STORED and not item.flag_bits & 0x1:
        offset = _data_offset(file, item) + header_bytes
        if offset + bytes_of(shape, dtype) > path.stat().st_size:
            raise ReadError(f"{path}#{name} is truncated")
        return Member(shape, dtype, lambda: _mapped(path, offset, shape, dtype, fortran))
    require_room(item.file_size, MEMBER_LIMIT_BYTES, f"{path}#{name}")
    return Member(shape, dtype, lambda: _unpacked(path, item.filename, header_bytes, shape, dtype, fortran))


def _data_offset(file: IO[bytes], item: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin (PKWARE APPNOTE 4.3.7: local file header)."""
    file.seek(item.header_offset)
    local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise ReadError("a member of the zip file has no header", got=item.filename)
    names, extra = struct.unpack("<HH", local[26:30])
    return item.header_offset + 30 + int(names) + int(extra)


def _unpacked(
    path: Path, filename: str, skip: int, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool
) -> NDArray[Any]:
    need = bytes_of(shape, dtype)
    with path.open("rb") as file, zipfile.ZipFile(file) as archive, archive.open(filename) as member:
        member.read(skip)
        buffer = _room(path, need)
        done = 0
        while chunk := member.read(min(_CHUNK, need - done + 1)):
            if done + len(chunk) > need:
                raise ReadError(f"{path}#{filename} unpacks to more bytes than its header declares")
            buffer[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            done += len(chunk)
    if done != need:
        raise ReadError(f"{path}#{filename} is truncated", got=f"{done} bytes", expected=f"{need} bytes")
    return buffer.view(dtype).reshape(shape, order="F" if fortran else "C")


def _room(path: Path, need: int) -> NDArray[np.uint8]:
    """Memory for an unpacked member, or a map of a temporary file that has no name any more."""
    if need <= SPILL_BYTES:
        return np.empty(need, np.uint8)
    try:
        with tempfile.TemporaryFile(prefix="medmap-") as spill:
            os.posix_fallocate(spill.fileno(), 0, need) if hasattr(os, "posix_fallocate") else spill.truncate(need)
            return np.frombuffer(mmap.mmap(spill.fileno(), need), np.uint8)
    except OSError as error:
        raise LimitError(
            f"{path} holds an array that fits neither in memory nor in the temporary folder",
            got=f"{need / 2**30:.1f} GiB",
            remedy="set TMPDIR to a folder with room, or save the file uncompressed with numpy.savez",
        ) from error


# -- as images -------------------------------------------------------------------------------------------------------


def open_array(path: Path, member: str | None) -> Opened:
    """A NumPy array, or one row of it, as an image without physical size.

    ``member`` is ``name`` or ``name/row`` for a ``.npz``, ``row`` for a ``.npy``; rows count from 0. Two axes are a
    grey image, three a volume, except a last axis of 3 (uint8 or uint16) or an explicit row of such: colour; a fourth
    axis holds channels.

    Raises:
        ReadError: No such array or row, or a shape that is no image.
    """
    arrays = open_arrays(path)
    name, row = _split_member(arrays, member)
    entry = arrays.member(name)
    shape = entry.shape
    if row is not None:
        if not shape or not 0 <= row < shape[0]:
            raise ReadError(
                f"{path} has no row {member!r}", expected=f"0 to {shape[0] - 1}" if shape and shape[0] else "rows"
            )
        shape = shape[1:]
    spatial, channels = _axes(path, shape, entry.dtype)

    def pixels(notes: list[str]) -> NDArray[Any]:
        array = arrays.array(name)
        picked = array if row is None else array[row]
        picked = picked[..., 0] if picked.ndim > len(spatial) and len(channels) == 1 else picked
        # a memory map stays a map for a whole array; a row is copied, so that it outlives the file
        return np.array(picked, dtype=dtype) if row is not None else picked.astype(dtype, copy=False)

    dtype = entry.dtype.newbyteorder("=")
    quantity: Quantity = "colour" if channels == RGB else "label" if dtype.kind == "b" else "arbitrary"
    where = str(path) if member is None else f"{path}#{member}"
    return Opened(
        geometry=Geometry.without_size(spatial),
        dtype=dtype,
        pixels=pixels,
        quantity=quantity,
        channels=channels,
        source=Source(path=where, format="npz" if name else "npy", bits_stored=8 * dtype.itemsize),
    )


def _split_member(arrays: Arrays, member: str | None) -> tuple[str, int | None]:
    if "" in arrays.members:  # a .npy
        if member is None:
            return "", None
        return "", _row_number(arrays, member)
    if member is None:
        if len(arrays.members) == 1:
            return next(iter(arrays.members)), None
        raise ReadError(
            f"{arrays.path} holds several arrays",
            got=", ".join(f"{n} {m.shape}" for n, m in arrays.members.items()),
            remedy="name one, or one row of one: file.npz#train_images/12",
        )
    if member in arrays.members:
        return member, None
    name, _, row = member.rpartition("/")
    if not name:
        arrays.member(member)  # raises: no such array
    return name, _row_number(arrays, row)


def _row_number(arrays: Arrays, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ReadError(f"{arrays.path}: a row is named by its number", got=repr(text), expected="0, 1, 2 …")
    return int(text)


def _axes(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    if dtype.kind not in "biuf":
        raise ReadError(f"{path} holds no numbers that make an image", got=str(dtype), expected="integers or floats")
    if any(n == 0 for n in shape):
        raise ReadError(f"{path} holds an empty array", got=shape, expected="at least one voxel along each axis")
    colour = len(shape) == 3 and shape[2] == 3 and dtype in (np.uint8, np.uint16) and min(shape[:2]) > MAX_CHANNELS
    if colour or (len(shape) == 4 and shape[3] == 3 and dtype in (np.uint8, np.uint16)):
        return shape[:-1], RGB
    if len(shape) in (2, 3):
        return shape, ("image",)
    if len(shape) == 4:
        return shape[:3], ("image",) if shape[3] == 1 else tuple(f"channel_{i}" for i in range(shape[3]))
    raise ReadError(
        f"{path} has no shape of an image",
        got=shape,
        expected="2 or 3 axes, and one of channels",
        remedy="name a row of it: file.npz#train_images/12",
    )
