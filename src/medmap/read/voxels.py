"""Voxels from bytes: the part that NIfTI, NRRD and MetaImage share.

The declared size is compared with the real one before anything is allocated, compressed streams are unpacked to the
declared size and no further, and their checksum is read to the end. The usual case, one deflate stream of just the
declared size, is unpacked by libdeflate in one go; whatever is not that (several gzip members, padding, damage) takes
the way of small pieces, which also finds the words for a refusal.
"""

from __future__ import annotations

import bz2
import io
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import GeometryError, LimitError, ReadError
from medmap.geometry import Geometry, Kind
from medmap.read.opened import bytes_of
from medmap.read.rescale import rescaled

Packing = Literal["raw", "gzip", "zlib", "bzip2"]
DEFLATE_MAX_RATIO = 1032  # zlib's technical notes: no deflate stream expands further
BZIP2_MAX_RATIO = 50_000_000  # practically none
ABSURD_BYTES = 2**40  # no image; said as a limit rather than as a truncated file
ONE_GO_BYTES = 2**28  # packed streams above this size are unpacked in pieces, so that they need not fit into memory
MAX_FRAMES = 100_000  # channels or times of one image; a header may declare billions of them
_CHUNK = 2**18  # stays in a core's cache


def require_complete(path: Path, have: int, need: int, packing: Packing = "raw") -> None:
    """Refuse a file whose bytes cannot hold the voxels it declares.

    Args:
        path: For the message.
        have: Bytes in the file from the first voxel on.
        need: Bytes that the header declares.
        packing: How they are packed.

    Raises:
        LimitError: The header declares more than any image has.
        ReadError: Truncated.
    """
    if need > ABSURD_BYTES:
        raise LimitError(
            f"{path} declares a size that no image has", got=f"{need:.3g} bytes", expected=f"at most {ABSURD_BYTES:.3g}"
        )
    ratio = {"raw": 1, "gzip": DEFLATE_MAX_RATIO, "zlib": DEFLATE_MAX_RATIO, "bzip2": BZIP2_MAX_RATIO}[packing]
    if have * ratio < need:
        raise ReadError(
            f"{path} is truncated",
            got=f"{max(have, 0)} bytes of voxels",
            expected=f"{need} bytes" if packing == "raw" else f"enough for {need} bytes unpacked",
            remedy="copy the original file again",
        )


def load_voxels(
    path: Path, offset: int, shape: Sequence[int], dtype: np.dtype[Any], packing: Packing, skip: int = 0
) -> NDArray[Any]:
    """Voxels with the first axis running fastest, in the machine's byte order.

    Args:
        path: The file.
        offset: Where the (packed) bytes begin.
        shape: Voxels along each axis, fastest first.
        dtype: As stored.
        packing: How the bytes are packed.
        skip: Unpacked bytes before the first voxel.

    Raises:
        ReadError: Truncated, damaged, or unpacking to more than declared.
    """
    need = bytes_of(tuple(shape), dtype)
    with path.open("rb") as file:
        file.seek(offset)
        if packing == "raw":
            file.seek(skip, 1)
            raw = _room(0, need)
            _fill(path, file, raw, need)
        else:
            raw = _unpacked(path, file, skip, need, packing)
    array = raw.view(dtype).reshape(tuple(shape), order="F")
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _room(skip: int, need: int) -> NDArray[np.uint8]:
    """Memory for skipped bytes and voxels; the first voxel stands where any type may stand."""
    whole = np.empty(skip + need + 64, np.uint8)
    first = -(whole.ctypes.data + skip) % 64
    return whole[first : first + skip + need]


def _fill(path: Path, stream: io.BufferedIOBase | IO[bytes], buffer: NDArray[np.uint8], piece: int) -> None:
    """Fill ``buffer`` from a stream, at most ``piece`` bytes at once (a stream that unpacks needs as many again)."""
    view = memoryview(buffer.data)
    done = 0
    while done < len(view):
        got = stream.readinto(view[done : done + piece])  # type: ignore[union-attr]
        if not got:
            raise ReadError(
                f"{path} is truncated",
                got=f"{done} bytes of voxels",
                expected=len(view),
                remedy="copy the original again",
            )
        done += got


def _unpacked(path: Path, file: IO[bytes], skip: int, need: int, packing: Packing) -> NDArray[np.uint8]:
    """The voxels' bytes out of a packed stream that begins where ``file`` stands."""
    buffer = _room(skip, need)
    start = file.tell()
    if packing in ("gzip", "zlib") and _in_one_go(path, file, buffer, packing):
        return buffer[skip:]
    file.seek(start)
    if packing == "zlib":
        _zlib(path, file, buffer)
    elif packing == "bzip2":
        with bz2.BZ2File(file) as stream:
            _fill(path, stream, buffer, _CHUNK)
            _require_end(path, stream)
    else:
        _gzip(path, file, buffer)
    return buffer[skip:]


def _in_one_go(path: Path, file: IO[bytes], buffer: NDArray[np.uint8], packing: Packing) -> bool:
    """Unpack one stream of just the size of ``buffer``; False when it is anything else.

    A gzip member ends with the length of what it holds (RFC 1952, ISIZE): where the file's last bytes say something
    else, several members or padding follow. libdeflate verifies the checksum of what it unpacks.
    """
    import imagecodecs

    if path.stat().st_size - file.tell() > ONE_GO_BYTES:
        return False
    packed = file.read()
    if packing == "gzip" and int.from_bytes(packed[-4:], "little") != buffer.size % 2**32:
        return False
    out: Any = buffer  # the library's stubs know no array here, its decoders do
    decode = imagecodecs.gzip_decode if packing == "gzip" else imagecodecs.deflate_decode
    try:
        return bool(len(decode(packed, out=out)) == buffer.size)
    except imagecodecs.DeflateError:
        return False


def _gzip(path: Path, file: IO[bytes], buffer: NDArray[np.uint8]) -> None:
    """All members of a gzip stream in pieces; their checksums are verified, zeros may follow."""
    import isal.igzip
    import isal.igzip_lib

    module: Any = isal.igzip  # without types
    damage: Any = isal.igzip_lib.error  # an exception class, which its stub calls an instance
    try:
        with module.IGzipFile(fileobj=file) as stream:
            _fill(path, stream, buffer, _CHUNK)
            _require_end(path, stream)
    except damage as error:
        raise ReadError(f"{path} is damaged: its compressed bytes make no sense", got=error) from error


def _require_end(path: Path, stream: io.BufferedIOBase | bz2.BZ2File) -> None:
    """Read to the end (which verifies the checksum); a little padding is allowed, a bomb is not."""
    extra = 0
    while chunk := stream.read(_CHUNK):
        extra += len(chunk)
        if extra > 2**24:
            raise LimitError(f"{path} unpacks to far more than its header declares", remedy="do not trust this file")


def _zlib(path: Path, file: IO[bytes], buffer: NDArray[np.uint8]) -> None:
    unpack = zlib.decompressobj(47)  # 15 bits of window, zlib or gzip header
    done = 0
    while not unpack.eof:
        pending = unpack.unconsumed_tail or file.read(_CHUNK)
        if not pending:
            raise ReadError(f"{path} is truncated", got=f"{done} bytes unpacked", expected=buffer.size)
        chunk = unpack.decompress(pending, _CHUNK)
        if done + len(chunk) > buffer.size:
            raise ReadError(f"{path} unpacks to more bytes than its header declares", expected=f"{buffer.size} bytes")
        buffer[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    if done < buffer.size:
        raise ReadError(f"{path} is truncated", got=f"{done} bytes unpacked", expected=buffer.size)


def scaled(array: NDArray[Any], slope: float, intercept: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """``slope · array + intercept`` in ``dtype``, a piece at a time: no float64 copy of a whole volume is made.

    Args:
        array: Contiguous, first axis fastest, as ``load_voxels`` gives it; its memory is used again where
            ``dtype`` is as wide.
        slope: As the header says.
        intercept: As the header says.
        dtype: From ``rescaled_type``.
    """
    if slope == 1 and intercept == 0:
        return array
    flat = array.reshape(-1, order="F")
    out = flat.view(dtype) if dtype.itemsize == flat.dtype.itemsize else np.empty(flat.shape, dtype)
    for start in range(0, flat.size, _CHUNK):
        out[start : start + _CHUNK] = rescaled(flat[start : start + _CHUNK], slope, intercept, dtype)
    return out.reshape(array.shape, order="F")


def channel_names(path: Path, count: int) -> tuple[str, ...]:
    """Names of channels that a file only numbers.

    Raises:
        LimitError: More channels or times than any image has.
    """
    require_frames(path, count)
    return ("image",) if count == 1 else tuple(f"channel_{i}" for i in range(count))


def require_frames(path: Path, count: int) -> None:
    """Refuse more channels or times than any image has, before each gets a name.

    Raises:
        LimitError: More than ``MAX_FRAMES``.
    """
    if count > MAX_FRAMES:
        raise LimitError(
            f"{path} declares more channels or times than any image has", got=count, expected=f"at most {MAX_FRAMES}"
        )


def beside(path: Path, name: str) -> Path:
    """The file with the voxels that a detached header names; only one in the header's folder is opened.

    Raises:
        ReadError: A list or pattern of files, a path that leads elsewhere, or no such file.
    """
    if re.fullmatch(r"LIST(\s+\d+)?", name, re.IGNORECASE) or re.search(r"%\d*d", name):
        raise ReadError(f"{path} spreads its voxels over several files", got=name[:60], remedy="convert it to one file")
    there = (path.parent / name).resolve() if "\0" not in name else path
    if path.parent.resolve() not in there.parents or there == path.resolve():
        raise ReadError(
            f"{path} points to voxels outside its own folder, which is refused",
            got=name[:100],
            remedy="put the two files side by side and write only the file's name into the header",
        )
    if not there.is_file():
        raise ReadError(f"the file with the voxels of {path} does not exist", got=name[:100])
    return there


def placed(shape: Sequence[int], columns_lps_mm: ArrayLike, origin_lps_mm: ArrayLike, kind: Kind) -> Geometry:
    """The grid of an image whose axes are given fastest first, as files list them.

    Three axes keep their order. Of two, rows come first in medmap: the slower axis becomes the first one; the third
    column is the unit normal of the plane.

    Args:
        shape: Voxels along each axis, fastest first.
        columns_lps_mm: (3, axes): the step of one voxel along each axis.
        origin_lps_mm: (3,) centre of the first voxel.
        kind: Whose coordinates these are.

    Raises:
        GeometryError: Zero, NaN or coplanar steps.
    """
    columns = np.asarray(columns_lps_mm, dtype=np.float64)
    affine = np.eye(4)
    affine[:3, 3] = origin_lps_mm
    if len(shape) == 3:
        affine[:3, :3] = columns
        return Geometry(tuple(shape), affine, kind)
    normal = np.cross(columns[:, 0], columns[:, 1])
    length = float(np.linalg.norm(normal))
    if not (math.isfinite(length) and length > 0):
        raise GeometryError("the image's axes span no plane", got=columns.tolist(), expected="two steps in mm")
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = columns[:, 1], columns[:, 0], normal / length
    return Geometry((shape[1], shape[0]), affine, kind)


def rows_first(array: NDArray[Any], ndim: int) -> NDArray[Any]:
    """An array with its axes fastest first, in ``placed``'s order."""
    return array.swapaxes(0, 1) if ndim == 2 else array
