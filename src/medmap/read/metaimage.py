"""MetaImage (``.mha``, and ``.mhd`` with its voxels beside it), as ITK writes it; its world is LPS."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError, ReadError
from medmap.geometry import Geometry
from medmap.image import Source
from medmap.read.opened import Opened, bytes_of
from medmap.read.voxels import (
    Packing,
    beside,
    channel_names,
    load_voxels,
    placed,
    require_complete,
    rows_first,
)

MAX_HEADER_BYTES = 2**18
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


def is_metaimage(head: bytes) -> bool:
    """Whether bytes begin a MetaImage header (it has no magic number, but its first keys are known).

    Example:
        >>> is_metaimage(b"ObjectType = Image\\nNDims = 3\\n")
        True
    """
    start = head[:256].replace(b" ", b"").replace(b"\r", b"")
    return start.startswith((b"ObjectType=Image", b"NDims=", b"Comment=")) and b"NDims=" in start


def open_metaimage(path: Path, member: str | None) -> Opened:
    """A MetaImage of two or three dimensions; a fourth one is channels, for it states no unit of time.

    Raises:
        ReadError: Damaged, truncated, or its voxels lie outside the header's folder.
        LimitError: A declared size that no image has.
        GeometryError: NaN or zero spacing.
    """
    keys, data_at = _keys(path)
    shape, samples = _sizes(path, keys)
    stored = _type(path, keys)
    packing: Packing = "zlib" if _true(keys, "CompressedData") else "raw"
    name = keys["ElementDataFile"]
    voxels, offset = (path, data_at) if name.lower() == "local" else (beside(path, name), 0)
    need = bytes_of((samples, *shape), stored)
    skip = _whole(path, _numbers(path, keys, ("HeaderSize",), 1, [0.0])[0])
    offset = voxels.stat().st_size - need if skip == -1 and packing == "raw" else offset + max(skip, 0)
    if offset < 0:
        raise ReadError(f"{path} is truncated", expected=f"{need} bytes of voxels")
    require_complete(path, voxels.stat().st_size - offset, need, packing)
    notes: list[str] = []
    with np.errstate(all="ignore"):  # numbers that are none are refused by Geometry, in a sentence
        geometry = _geometry(path, keys, shape, notes)

    def pixels(notes: list[str]) -> NDArray[Any]:
        full = ((samples,) if samples > 1 else ()) + tuple(shape)
        array = load_voxels(voxels, offset, full, stored, packing)
        array = np.moveaxis(array, 0, -1) if samples > 1 else array
        array = array[..., 0] if len(shape) == 4 and shape[3] == 1 else array
        return rows_first(array, geometry.ndim)

    return Opened(
        geometry=geometry,
        dtype=stored.newbyteorder("="),
        pixels=pixels,
        channels=channel_names(path, samples * math.prod(shape[3:])),
        source=Source(path=str(path), format="mha", bits_stored=8 * stored.itemsize, warnings=tuple(notes)),
    )


def _sizes(path: Path, keys: dict[str, str]) -> tuple[list[int], int]:
    """Voxels along each axis, and the interleaved samples of each voxel."""
    (ndim,) = _numbers(path, keys, ("NDims",), 1)
    if ndim not in (2, 3, 4):
        raise ReadError(f"{path} has {ndim:g} dimensions", expected="2, 3 or 4")
    shape = [_whole(path, v) for v in _numbers(path, keys, ("DimSize",), int(ndim))]
    samples = _whole(path, _numbers(path, keys, ("ElementNumberOfChannels",), 1, [1.0])[0])
    if min(*shape, samples) < 1:
        raise ReadError(f"{path} declares a size of zero or less", got=[*shape, samples])
    if samples > 1 and math.prod(shape[3:]) > 1:
        raise ReadError(
            f"{path} has more axes than space and channels together", got=shape, remedy="split it into several files"
        )
    return shape, samples


def _geometry(path: Path, keys: dict[str, str], shape: list[int], notes: list[str]) -> Geometry:
    n, space = len(shape), min(len(shape), 3)
    spacing = np.array(_numbers(path, keys, ("ElementSpacing", "ElementSize"), n, [1.0] * n))
    origin = _numbers(path, keys, ("Offset", "Position", "Origin"), n, [0.0] * n)
    flat = np.eye(n).ravel().tolist()
    # one direction an axis, one after the other (MetaIO's TransformMatrix is the transpose of ITK's direction)
    matrix = np.reshape(_numbers(path, keys, ("TransformMatrix", "Rotation", "Orientation"), n * n, flat), (n, n)).T
    if n == 4 and (matrix[3, :3].any() or matrix[:3, 3].any()):
        raise GeometryError(f"{path} turns its axes of space into its fourth one", got=matrix.tolist())
    steps = np.zeros((3, space))
    steps[:space] = (matrix * spacing)[:space, :space]
    if "ElementSpacing" not in keys and "ElementSize" not in keys:
        notes.append("the file states no spacing; 1 mm was taken")
    origin_mm = [*origin[:space], *([0.0] * (3 - space))]
    return placed(shape[:space], steps, origin_mm, "patient" if space == 3 else "detector")


def _keys(path: Path) -> tuple[dict[str, str], int]:
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    keys: dict[str, str] = {}
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        if end < 0:
            break
        name, equals, value = head[at:end].decode("utf-8", "replace").partition("=")
        at = end + 1
        if not equals:
            raise ReadError(f"{path} is damaged: a line of its header has no =", got=repr(name[:60]))
        keys[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return keys, at
    raise ReadError(f"{path} is truncated in its header or damaged", expected="a line ElementDataFile")


def _numbers(
    path: Path, keys: dict[str, str], names: tuple[str, ...], count: int, default: list[float] | None = None
) -> list[float]:
    text = next((keys[name] for name in names if name in keys), None)
    if text is None and default is not None:
        return default
    try:
        values = [float(part) for part in (text or "").split()]
    except ValueError:
        values = []
    if len(values) != count:
        raise ReadError(
            f"{path} is damaged: its header has no usable {names[0]}", got=repr(text), expected=f"{count} numbers"
        )
    return values


def _whole(path: Path, value: float) -> int:
    if not math.isfinite(value) or value != int(value):
        raise ReadError(f"{path} is damaged: a size is no whole number", got=value)
    return int(value)


def _true(keys: dict[str, str], name: str) -> bool:
    return keys.get(name, "False").lower() in ("true", "1")


def _type(path: Path, keys: dict[str, str]) -> np.dtype[Any]:
    name = keys.get("ElementType", "").upper()
    if name not in _TYPES:
        raise ReadError(f"{path} holds a type that is not read", got=name or "none", expected="whole numbers or floats")
    if keys.get("BinaryData", "True").lower() in ("false", "0"):
        raise ReadError(f"{path} holds voxels as text, which medmap does not read", remedy="save it as binary")
    big = _true(keys, "BinaryDataByteOrderMSB") or _true(keys, "ElementByteOrderMSB")
    return np.dtype((">" if big else "<") + _TYPES[name])
