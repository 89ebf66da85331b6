"""NIfTI-1 and NIfTI-2 in one file (``.nii``, ``.nii.gz``) or as a pair (``.hdr`` with ``.img`` beside it).

The header is 348 or 540 bytes of fixed fields (nifti1.h, nifti2.h of the NIfTI Data Format Working Group). Its world
is RAS; here, at the door, it becomes LPS.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.geometry import Floats, Geometry
from medmap.image import Quantity, Source
from medmap.read.opened import RGB, Opened, bytes_of
from medmap.read.rescale import rescaled_type
from medmap.read.voxels import (
    Packing,
    beside,
    channel_names,
    load_voxels,
    placed,
    require_complete,
    require_frames,
    rows_first,
    scaled,
)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
CONFLICT_VOXELS = 0.1  # sform and qform that differ by more at a corner are reported
MAX_HEADER_BYTES = 64 * 2**20  # extensions between header and voxels

# datatype code → (numpy type, samples a voxel)
_TYPES: dict[int, tuple[str, int]] = {
    2: ("u1", 1), 4: ("i2", 1), 8: ("i4", 1), 16: ("f4", 1), 64: ("f8", 1), 128: ("u1", 3), 256: ("i1", 1),
    512: ("u2", 1), 768: ("u4", 1), 1024: ("i8", 1), 1280: ("u8", 1), 2304: ("u1", 4),
}  # fmt: skip
_REFUSED = {1: "single bits", 32: "complex numbers", 1536: "128-bit floats", 1792: "complex numbers",
            2048: "complex numbers"}  # fmt: skip
_SPACE_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_TIME_S = {8: 1.0, 16: 1e-3, 24: 1e-6}
_INTENT_LABEL = 1002


@dataclass(frozen=True)
class _Header:
    dim: tuple[int, ...]
    pixdim: tuple[float, ...]
    datatype: int
    offset: int
    slope: float
    intercept: float
    time_offset: float
    units: int
    intent: int
    qform_code: int
    sform_code: int
    quaternion: tuple[float, float, float]
    q_offset: tuple[float, float, float]
    srow: Floats
    order: str
    size: int
    paired: bool


def is_nifti(head: bytes) -> bool:
    """Whether bytes begin a NIfTI file.

    Example:
        >>> is_nifti(bytes(344) + b"n+1" + bytes(1))
        True
    """
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def gunzipped_head(head: bytes, count: int = 540) -> bytes:
    """The first bytes inside a gzip stream, as far as they are there.

    Raises:
        zlib.error: No gzip stream.
    """
    return zlib.decompressobj(31).decompress(head, count)


def open_nifti(path: Path, member: str | None) -> Opened:
    """A NIfTI image; a fourth axis is time where the header gives its unit and step, else channels.

    ``sform`` is used before ``qform``, as nibabel does; a conflict of the two, and neither, are warned about.

    Raises:
        ReadError: Damaged, truncated, complex-valued, or a header (``.hdr``) without its voxels (``.img``).
        LimitError: A declared size that no image has.
        GeometryError: NaN or zero spacing.
    """
    head, packing = _head(path)
    h = _parsed(path, head)
    voxels = path
    if h.paired:
        voxels = _partner(path)
        packing = "gzip" if voxels.suffix.lower() == ".gz" else "raw"
    shape, extra = _axes(path, h)
    stored_type, samples = _TYPES[h.datatype]
    stored = np.dtype(f"{h.order}{stored_type}")
    need = bytes_of((*shape, *extra, samples), stored)
    require_complete(voxels, voxels.stat().st_size - (h.offset if packing == "raw" else 0), need, packing)
    require_frames(path, math.prod(extra))
    notes: list[str] = []
    with np.errstate(all="ignore"):  # numbers that are none are refused by Geometry, in a sentence
        geometry = _geometry(h, shape, notes)
    slope, intercept = _scaling(h, samples, notes)
    dtype = rescaled_type(stored.newbyteorder("="), slope, intercept)
    channels, time_s = _meaning(path, h, extra, samples)

    def pixels(notes: list[str]) -> NDArray[Any]:
        full = ((samples,) if samples > 1 else ()) + (*shape, *extra)
        offset, skip = (h.offset, 0) if packing == "raw" else (0, h.offset)
        array = load_voxels(voxels, offset, full, stored, packing, skip)
        array = scaled(array, slope, intercept, dtype)
        last = samples if samples > 1 else math.prod(extra)
        array = np.moveaxis(array, 0, -1) if samples > 1 else array
        array = array.reshape((*shape, last) if last > 1 else shape, order="F")
        return rows_first(array, len(shape))

    quantity: Quantity = "label" if h.intent == _INTENT_LABEL else "colour" if samples > 1 else "unknown"
    return Opened(
        geometry=geometry,
        dtype=dtype,
        pixels=pixels,
        quantity=quantity,
        channels=channels,
        time_s=time_s,
        source=Source(
            path=str(path),
            format="nifti",
            rescale=(slope, intercept) if (slope, intercept) != (1, 0) else None,
            bits_stored=8 * stored.itemsize,
            warnings=tuple(notes),
        ),
        working_bytes=need if dtype.itemsize != stored.itemsize else 0,
    )


def _head(path: Path) -> tuple[bytes, Packing]:
    """The header's bytes and how the file is packed."""
    with path.open("rb") as file:
        head = file.read(4096)
    return (gunzipped_head(head), "gzip") if head[:2] == b"\x1f\x8b" else (head, "raw")


def _partner(path: Path) -> Path:
    """The ``.img`` of a ``.hdr``: the file of the same name beside it."""
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    stem = name[:-4] if name.lower().endswith(".hdr") else name
    names = [f"{stem}{suffix}" for suffix in (".img", ".img.gz", ".IMG")]
    there = next((n for n in names if os.path.lexists(path.with_name(n))), None)
    if there is None:
        raise ReadError(
            f"{path} is a NIfTI header whose voxels are in another file, which is not there",
            expected=names[0],
            remedy="put both files into one folder",
        )
    return beside(path, there)


def _parsed(path: Path, head: bytes) -> _Header:
    size = next(
        (order for order in "<>" if len(head) >= 4 and struct.unpack(f"{order}i", head[:4])[0] in (348, 540)), ""
    )
    first = len(head) >= 348 and head[344:347] in (b"n+1", b"ni1")
    if not size or len(head) < (348 if first else 540):
        raise ReadError(f"{path} is truncated in its header or damaged", expected="a NIfTI header of 348 or 540 bytes")
    return _first(head, size) if first else _second(head, size)


def _first(head: bytes, o: str) -> _Header:
    def f(at: int, kind: str) -> tuple[Any, ...]:
        return struct.unpack_from(o + kind, head, at)

    return _Header(
        dim=f(40, "8h"), pixdim=f(76, "8f"), datatype=f(70, "h")[0], offset=_whole(f(108, "f")[0]),
        slope=f(112, "f")[0], intercept=f(116, "f")[0], time_offset=f(136, "f")[0], units=f(123, "B")[0],
        intent=f(68, "h")[0], qform_code=f(252, "h")[0], sform_code=f(254, "h")[0], quaternion=f(256, "3f"),
        q_offset=f(268, "3f"), srow=np.array(f(280, "12f")).reshape(3, 4), order=o,
        size=348, paired=head[344:346] == b"ni",
    )  # fmt: skip


def _second(head: bytes, o: str) -> _Header:
    def f(at: int, kind: str) -> tuple[Any, ...]:
        return struct.unpack_from(o + kind, head, at)

    return _Header(
        dim=f(16, "8q"), pixdim=f(104, "8d"), datatype=f(12, "h")[0], offset=f(168, "q")[0], slope=f(176, "d")[0],
        intercept=f(184, "d")[0], time_offset=f(216, "d")[0], units=f(500, "i")[0], intent=f(504, "i")[0],
        qform_code=f(344, "i")[0], sform_code=f(348, "i")[0], quaternion=f(352, "3d"), q_offset=f(376, "3d"),
        srow=np.array(f(400, "12d")).reshape(3, 4), order=o,
        size=540, paired=head[4:6] == b"ni",
    )  # fmt: skip


def _whole(value: float) -> int:
    return int(value) if math.isfinite(value) else -1


def _axes(path: Path, h: _Header) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spatial shape and further axes."""
    if h.datatype not in _TYPES:
        kind = _REFUSED.get(h.datatype, f"data type {h.datatype}")
        raise ReadError(f"{path} holds {kind}, which medmap does not read", expected="whole numbers, floats or RGB")
    if not (0 if h.paired else h.size) <= h.offset <= MAX_HEADER_BYTES:
        raise ReadError(f"{path} is damaged: its voxels begin at an impossible place", got=h.offset)
    count = h.dim[0]
    if not 1 <= count <= 7:
        raise ReadError(f"{path} is damaged: it declares {count} dimensions", expected="1 to 7")
    dims = h.dim[1 : count + 1]
    if any(n < 1 for n in dims):
        raise ReadError(f"{path} declares a size of zero or less", got=dims, expected="at least one voxel on each axis")
    if count < 2:
        raise ReadError(f"{path} has one dimension and is no image", got=dims)
    extra = dims[3:]
    if sum(n > 1 for n in extra) > 1 or (_TYPES[h.datatype][1] > 1 and math.prod(extra) > 1):
        raise ReadError(
            f"{path} has more axes than space, time and channels together",
            got=dims,
            remedy="split it into several files",
        )
    return tuple(dims[:3]), tuple(extra)


def _scaling(h: _Header, samples: int, notes: list[str]) -> tuple[float, float]:
    if not math.isfinite(h.slope) or h.slope == 0 or samples > 1:  # nifti1.h: a slope of 0 means none
        return 1.0, 0.0
    if not math.isfinite(h.intercept):
        notes.append("the header's scl_inter is no number and was taken as 0")
        return float(h.slope), 0.0
    return float(h.slope), float(h.intercept)


def _meaning(
    path: Path, h: _Header, extra: tuple[int, ...], samples: int
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Names of channels and times of frames."""
    if samples > 1:
        return (RGB if samples == 3 else (*RGB, "alpha")), None
    count = math.prod(extra)
    if count == 1:
        return ("image",), None
    step = h.pixdim[4] * _TIME_S.get(h.units & 0x38, math.nan)
    if extra[0] == count and math.isfinite(step) and step > 0:
        start = h.time_offset * _TIME_S[h.units & 0x38]
        start = start if math.isfinite(start) else 0.0
        return ("image",), tuple(start + i * step for i in range(count))
    return channel_names(path, count), None


def _geometry(h: _Header, shape: tuple[int, ...], notes: list[str]) -> Geometry:
    scale = _SPACE_MM.get(h.units & 0x07)
    if scale is None:
        notes.append("the header's unit of length is unknown; it was taken as mm")
        scale = 1.0
    found = {}
    if h.sform_code > 0:
        found["sform"] = np.vstack([h.srow, [0, 0, 0, 1]])
    if h.qform_code > 0:
        found["qform"] = _qform(h)
    kind: Any = "patient"
    if found:
        affine = found.get("sform", found.get("qform"))
    else:
        kind = "detector"
        affine = RAS_TO_LPS @ np.diag([*(abs(v) for v in h.pixdim[1:4]), 1.0])  # nobody's left or right: no turning
        notes.append("the file states neither sform nor qform: its orientation (left, right) is unknown")
    affine = np.array(affine, dtype=np.float64)
    if len(shape) == 2 and not np.linalg.norm(affine[:3, 2]) > 0:
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    geometry = _placed(affine, scale, shape, kind)
    if len(found) == 2:
        other = _placed_or_none(found["qform"], scale, shape)
        moved = math.inf if other is None else _furthest(geometry, other)
        if moved > CONFLICT_VOXELS:
            notes.append(f"sform and qform disagree by up to {moved:.3g} voxels; sform was used")
    return geometry


def _placed(affine: Floats, scale: float, shape: tuple[int, ...], kind: Any) -> Geometry:
    scaled = np.array(affine)
    scaled[:3] *= scale
    lps = RAS_TO_LPS @ scaled
    return placed(shape, lps[:3, : len(shape)], lps[:3, 3], kind)


def _placed_or_none(affine: Floats, scale: float, shape: tuple[int, ...]) -> Geometry | None:
    usable = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0
    return _placed(affine, scale, shape, "patient") if usable else None


def _furthest(first: Geometry, second: Geometry) -> float:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in first.shape])).reshape(first.ndim, -1).T
    return float(np.abs(first.to_index(second.to_world(corners)) - corners).max())


def _qform(h: _Header) -> Floats:
    """The affine of the quaternion (nifti1.h, method 2)."""
    b, c, d = h.quaternion
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed = -1.0 if h.pixdim[0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * (np.array(h.pixdim[1:4]) * (1.0, 1.0, handed))
    affine[:3, 3] = h.q_offset
    return affine
