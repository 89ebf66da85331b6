"""Parametric maps (PS3.3 A.75) as images: real-world values on a grid, a channel each quantity.

Stored numbers, floating or whole, become values by the Real World Value Mapping of their frame (PS3.3 C.7.6.16.2.11).
A member (``map.dcm#3``) is one frame, counted from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.geometry import Geometry
from medmap.image import Source
from medmap.read.dicom.document import code_of
from medmap.read.dicom.place import groups, per_frame, place_of
from medmap.read.dicom.planes import Stacked, placed, stacked, stored_frames
from medmap.read.opened import Opened

PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
_FLOATS: Mapping[int, np.dtype[Any]] = MappingProxyType({32: np.dtype("f4"), 64: np.dtype("f8")})


def open_parametric(path: Path, member: str | None, header: Any, notes: list[str]) -> Opened:
    """A parametric map as an image of its values.

    Raises:
        ReadError: Frames that cannot be told apart, or a mapping by table.
        GeometryError: Places that describe no grid.
    """
    size, count = (int(header.Rows), int(header.Columns)), int(header.get("NumberOfFrames") or 1)
    bits = int(header.BitsAllocated)
    if min(*size, count) < 1 or bits not in (8, 16, 32, 64):
        raise ReadError(f"{path} declares an impossible size", got=f"{count} frames of {size}, {bits} bits")
    mappings = [_mapping(path, header, frame, notes) for frame in range(count)]
    if member is None:
        where = stacked(path, header, count, notes)
        channel, names = _channels(path, where, [m[2] for m in mappings])
        picked = list(range(count))
    else:
        where, channel, names, picked = _one(path, member, header, (size, count), notes)
    dtype: np.dtype[Any] = (
        _FLOATS[bits] if "PixelRepresentation" not in header else np.dtype("f8" if bits > 16 else "f4")
    )

    def pixels(notes: list[str]) -> NDArray[Any]:
        out = np.zeros((*where.geometry.shape, len(names)), dtype)
        for place, (frame, stored) in enumerate(stored_frames(path, count, picked)):
            slope, intercept, _ = mappings[frame]
            values = (stored.astype(np.float64) * slope + intercept).astype(dtype)
            placed([(place, values)], where, out[..., channel[place]])
        return out[..., 0] if len(names) == 1 else out

    meta = getattr(header, "file_meta", None) or {}
    return Opened(
        geometry=where.geometry,
        dtype=dtype,
        pixels=pixels,
        quantity="arbitrary",
        channels=names,
        source=Source(
            path=str(path) if member is None else f"{path}#{member}",
            format="dicom",
            transfer_syntax=str(meta.get("TransferSyntaxUID", "") or "") or None,
            rescale=mappings[0][:2] if len({m[:2] for m in mappings}) == 1 else None,
            photometric=str(header.get("PhotometricInterpretation", "")) or None,
            bits_stored=int(header.get("BitsStored") or bits),
            modality=str(header.get("Modality", "")) or None,
            warnings=tuple(dict.fromkeys(notes)),
        ),
        working_bytes=count * size[0] * size[1] * bits // 8,
    )


def _mapping(path: Path, header: Any, frame: int, notes: list[str]) -> tuple[float, float, str]:
    """(slope, intercept, name of the quantity) of a frame."""
    own = per_frame(header)
    places = [own[frame]] if frame < len(own) else []
    for place in (*places, *groups(header, "SharedFunctionalGroupsSequence")[:1], header):
        items = place.get("RealWorldValueMappingSequence") or []
        if not items:
            continue
        item = items[0]
        if len(items) > 1:
            notes.append(f"{len(items)} mappings to real-world values are given; the first was taken")
        name = str(item.get("LUTLabel") or item.get("LUTExplanation") or "")
        unit = (code_of(item, "MeasurementUnitsCodeSequence") or "").partition("|")[2]
        if unit:
            notes.append(f"{name or 'the map'} is in {unit}")
        slope, intercept = item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")
        if slope is None and item.get("RealWorldValueLUTData") is not None:
            raise ReadError(f"{path} gives its values by a table, which is not read")
        slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
        if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
            raise ReadError(f"{path} has a mapping to real-world values that is none", got=(slope, intercept))
        return slope, intercept, name
    return 1.0, 0.0, ""


def _channels(path: Path, where: Stacked, labels: list[str]) -> tuple[list[int], tuple[str, ...]]:
    """The channel of each frame, and the channels' names: quantities that share a place."""
    names = tuple(dict.fromkeys(labels))
    channel = [names.index(label) for label in labels]
    spots = {(int(s), int(r), int(c), k) for s, (r, c), k in zip(where.slices, where.corners, channel, strict=True)}
    if len(spots) < len(labels):
        raise ReadError(
            f"{path} holds several frames at one place that have no names of their own",
            got=f"{len(labels)} frames at {len(spots)} places", remedy=f"read one of them: {path.name}#0",
        )  # fmt: skip
    return channel, names if len(names) > 1 else ("image",)


def _one(
    path: Path, member: str, header: Any, extent: tuple[tuple[int, int], int], notes: list[str]
) -> tuple[Stacked, list[int], tuple[str, ...], list[int]]:
    size, count = extent
    if not (member.isascii() and member.isdigit() and len(member) < 10 and int(member) < count):
        raise ReadError(f"{path} has no frame {member!r}", expected=f"0 to {count - 1}")
    frame = int(member)
    geometry: Geometry = place_of(path, header, size, range(frame, frame + 1), notes)[0]
    return Stacked(geometry, np.zeros(1, np.int64), np.zeros((1, 2), np.int64)), [0], ("image",), [frame]
