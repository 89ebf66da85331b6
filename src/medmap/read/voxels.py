"""Voxels from bytes: the part that NIfTI, NRRD and MetaImage share.

The declared size is compared with the real one before anything is allocated, compressed streams are unpacked to the
declared size and no further, and their checksum is read to the end.
"""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import GeometryError, LimitError, ReadError
from medmap.geometry import Geometry, Kind
from medmap.read.opened import bytes_of

Packing = Literal["raw", "gzip", "zlib", "bzip2"]
DEFLATE_MAX_RATIO = 1032  # zlib's technical notes: no deflate stream expands further
BZIP2_MAX_RATIO = 50_000_000  # practically none
ABSURD_BYTES = 2**40  # no image; said as a limit rather than as a truncated file
_CHUNK = 2**20


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
            raw = _filled(path, file, need)
        elif packing == "zlib":
            raw = _zlib(path, file, skip, need)
        else:
            opener = gzip.GzipFile(fileobj=file) if packing == "gzip" else bz2.BZ2File(file)
            with opener as stream:
                if len(_taken(stream, skip)) < skip:
                    raise ReadError(f"{path} is truncated before its first voxel")
                raw = _filled(path, stream, need)
                _require_end(path, stream)  # the checksum stands at the end
    array = raw.view(dtype).reshape(tuple(shape), order="F")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _taken(stream: IO[bytes] | gzip.GzipFile | bz2.BZ2File, count: int) -> bytes:
    return stream.read(count) if count else b""


def _filled(path: Path, stream: IO[bytes] | gzip.GzipFile | bz2.BZ2File, need: int) -> NDArray[np.uint8]:
    buffer = np.empty(need, np.uint8)
    view = memoryview(buffer.data)
    done = 0
    while done < need:
        got = stream.readinto(view[done:])  # type: ignore[union-attr]
        if not got:
            raise ReadError(
                f"{path} is truncated", got=f"{done} bytes of voxels", expected=need, remedy="copy the original again"
            )
        done += got
    return buffer


def _require_end(path: Path, stream: IO[bytes] | gzip.GzipFile | bz2.BZ2File) -> None:
    """Read to the end (which verifies the checksum); a little padding is allowed, a bomb is not."""
    extra = 0
    while chunk := stream.read(_CHUNK):
        extra += len(chunk)
        if extra > 16 * _CHUNK:
            raise LimitError(f"{path} unpacks to far more than its header declares", remedy="do not trust this file")


def _zlib(path: Path, file: IO[bytes], skip: int, need: int) -> NDArray[np.uint8]:
    unpack = zlib.decompressobj(47)  # 15 bits of window, zlib or gzip header
    buffer = np.empty(skip + need, np.uint8)
    done = 0
    pending = b""
    while not unpack.eof:
        pending = unpack.unconsumed_tail or file.read(_CHUNK)
        if not pending:
            raise ReadError(f"{path} is truncated", got=f"{done} bytes unpacked", expected=need)
        chunk = unpack.decompress(pending, _CHUNK)
        if done + len(chunk) > skip + need:
            raise ReadError(f"{path} unpacks to more bytes than its header declares", expected=f"{need} bytes")
        buffer[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    if done < skip + need:
        raise ReadError(f"{path} is truncated", got=f"{done} bytes unpacked", expected=need)
    return buffer[skip:]


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
