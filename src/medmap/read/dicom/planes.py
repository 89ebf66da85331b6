"""Frames of a derived object (segmentation, parametric map) on one grid: by their places, in whatever order they stand.

Such an object holds the planes on which something was marked, often several frames a plane and seldom all planes of
its source. The grid's slices run along the cross product of a row's and a column's direction, as a series is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError, ReadError
from medmap.geometry import Floats, Geometry
from medmap.read.dicom.codecs import RLE, PixelSpec, decode_frame
from medmap.read.dicom.place import floats, groups, per_frame, place_of, within

UNEVEN = 0.05  # of the distance of planes: how far one may lie off its place
SAME_MM = 1e-3  # positions nearer than this are one plane
MOST_TILES = 2**24
BIG_ENDIAN = "1.2.840.10008.1.2.2"
# uncompressed pixels (PS3.5 annex A); no UID: a file without its meta information
NATIVE = frozenset({"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", BIG_ENDIAN})


@dataclass(frozen=True, eq=False)
class Stacked:
    """Frames on a grid.

    Args:
        geometry: (rows, columns) or (rows, columns, slices).
        slices: (frames,) slice of each frame; zeros when the grid is flat.
        corners: (frames, 2) row and column of each frame's first pixel: zeros but for tiles of a slide.
    """

    geometry: Geometry
    slices: NDArray[np.int64]
    corners: NDArray[np.int64]


def stacked(path: Path, header: Any, count: int, notes: list[str]) -> Stacked:
    """The grid of an object of ``count`` frames, and where each frame stands in it.

    Raises:
        ReadError: Planes of different orientation, or at uneven distances.
        GeometryError: Places that describe no grid.
    """
    size = (int(header.Rows), int(header.Columns))
    if header.get("TotalPixelMatrixRows"):
        return _tiled(path, header, count, size)
    positions = [floats(within(header, f, "PlanePositionSequence", "ImagePositionPatient"), 3) for f in range(count)]
    plane = _plane(path, header, count)
    if plane is None or any(p is None for p in positions):
        geometry, _ = place_of(path, header, size, range(1), notes)
        return Stacked(geometry, np.zeros(count, np.int64), np.zeros((count, 2), np.int64))
    affine, slices, planes = _along(path, header, (plane, np.array(positions)), notes)
    flat = planes == 1 and not _of_a_volume(header)
    geometry = Geometry(
        size if flat else (*size, planes), affine, "patient", str(header.get("FrameOfReferenceUID", "") or "") or None
    )
    return Stacked(geometry, slices, np.zeros((count, 2), np.int64))


def _plane(path: Path, header: Any, count: int) -> Floats | None:
    """(3, 3): steps to the next row and the next column in mm, and the unit normal; None when there is no place."""
    found: Floats | None = None
    # where neither stands in a frame's own group, one look is enough
    varies = any("PlaneOrientationSequence" in g or "PixelMeasuresSequence" in g for g in per_frame(header))
    for frame in range(count if varies else 1):
        cosines = floats(within(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        spacing = floats(within(header, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
        if cosines is None or spacing is None:
            return None
        normal = np.cross(cosines[:3], cosines[3:])
        length = float(np.linalg.norm(normal))
        if spacing.min() <= 0 or abs(length - 1) > 0.01:
            raise GeometryError(f"{path} states an orientation or spacing that is none", got=[*cosines, *spacing])
        plane = np.stack([cosines[3:] * spacing[0], cosines[:3] * spacing[1], normal / length], axis=1)
        if found is not None and not np.allclose(found, plane, atol=1e-4):
            raise ReadError(f"{path} holds frames of different orientation", remedy=f"read one: {path.name}#0")
        found = plane
    return found


def _along(
    path: Path, header: Any, place: tuple[Floats, Floats], notes: list[str]
) -> tuple[Floats, NDArray[np.int64], int]:
    """The affine, each frame's slice, and the number of slices."""
    plane, positions = place
    distances = positions @ plane[:, 2]
    order = np.argsort(distances, kind="stable")
    new = np.concatenate([[True], np.diff(distances[order]) > SAME_MM])
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    first = positions[order[new]]  # one position a plane, in order
    step = _step(path, header, first @ plane[:, 2], notes)
    numbers = np.rint((first @ plane[:, 2] - first[0] @ plane[:, 2]) / step).astype(np.int64)
    last = int(numbers[-1])
    # the mean step keeps a shear (gantry tilt) that planes along the normal would lose
    vector = (first[-1] - first[0]) / last if last else plane[:, 2] * step
    off = np.abs(first - first[0] - numbers[:, None] * vector).max()
    if off > UNEVEN * step or (np.diff(numbers) < 1).any():
        raise ReadError(
            f"{path} holds planes at uneven distances", got=f"one is {off:.3g} mm off its place",
            expected=f"at most {UNEVEN * step:.3g} mm",
        )  # fmt: skip
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 2], affine[:3, 3] = plane[:, :2], vector, first[0]
    return affine, numbers[group], last + 1


def _step(path: Path, header: Any, distances: Floats, notes: list[str]) -> float:
    """The distance of slices: stated, or the thickness where gaps are whole multiples of it, or the smallest gap."""
    gaps = np.diff(distances)
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = floats(within(header, 0, "PixelMeasuresSequence", name), 1)
        if value is None or value[0] <= 0:
            continue
        ratio = gaps / value[0]
        whole = np.rint(ratio)
        if (whole >= 1).all() and (np.abs(ratio - whole) <= np.minimum(UNEVEN * np.sqrt(whole), 0.25)).all():
            return float(value[0])
    if not len(gaps):
        return 1.0
    if len(gaps) < len(distances) or gaps.max() > 1.5 * gaps.min():
        notes.append(f"the distance of slices is not stated; the smallest gap, {gaps.min():.4g} mm, was taken")
    return float(gaps.min())


def _of_a_volume(header: Any) -> bool:
    """Whether the object refers to several images or frames, so that one marked plane is a slice of a volume."""
    for series in groups(header, "ReferencedSeriesSequence"):
        instances = series.get("ReferencedInstanceSequence") or []
        if len(instances) > 1:
            return True
    derived = [item for g in per_frame(header) for item in g.get("DerivationImageSequence") or []]
    sources = [s for item in derived for s in item.get("SourceImageSequence") or []]
    return any(s.get("ReferencedFrameNumber") for s in sources)


# -- tiles of a slide ------------------------------------------------------------------------------------------------


def _tiled(path: Path, header: Any, count: int, size: tuple[int, int]) -> Stacked:
    """PS3.3 C.7.6.17.3 and C.8.12.14: tiles at rows and columns of one large picture, counted from 1."""
    whole = (int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns))
    if min(whole) < 1 or count > MOST_TILES:
        raise ReadError(f"{path} declares an impossible size", got=f"{count} tiles of {whole[0]} × {whole[1]}")
    if per_frame(header):
        corners = np.array([_corner(path, header, f) for f in range(count)], np.int64) - 1
    else:
        rows, columns = (-(-w // s) for w, s in zip(whole, size, strict=True))
        tile = np.arange(count) % (rows * columns)
        corners = np.stack([tile // columns * size[0], tile % columns * size[1]], axis=1)
    if corners.min(initial=0) < 0 or (corners >= whole).any():
        raise ReadError(f"{path} holds a tile beyond its picture", expected=f"within {whole[0]} × {whole[1]}")
    return Stacked(_slide(header, whole), np.zeros(count, np.int64), corners)


def _corner(path: Path, header: Any, frame: int) -> tuple[int, int]:
    row = within(header, frame, "PlanePositionSlideSequence", "RowPositionInTotalImagePixelMatrix")
    column = within(header, frame, "PlanePositionSlideSequence", "ColumnPositionInTotalImagePixelMatrix")
    if row is None or column is None:
        raise ReadError(f"{path} does not say where tile {frame} lies")
    return int(row), int(column)


def _slide(header: Any, whole: tuple[int, int]) -> Geometry:
    spacing = floats(within(header, 0, "PixelMeasuresSequence", "PixelSpacing"), 2)
    cosines = floats(header.get("ImageOrientationSlide"), 6)
    origin = (header.get("TotalPixelMatrixOriginSequence") or [None])[0]
    if spacing is None or spacing.min() <= 0 or cosines is None or origin is None:
        return Geometry.without_size(whole)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[3:] * spacing[0], cosines[:3] * spacing[1]
    affine[:3, 2] = np.cross(cosines[:3], cosines[3:])
    affine[:3, 3] = [float(origin.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in "XYZ"]
    return Geometry(whole, affine, "slide", str(header.get("FrameOfReferenceUID", "") or "") or None)


def placed(
    frames: Sequence[tuple[int, NDArray[Any]]], where: Stacked, into: NDArray[Any], combine: Any = None
) -> NDArray[Any]:
    """Frames written into an array on the grid.

    Args:
        frames: (number, (rows, columns)) pairs.
        where: The grid.
        into: (grid shape): changed in place.
        combine: (there, new) → what to store; None: what is new.
    """
    for number, frame in frames:
        row, column = (int(v) for v in where.corners[number])
        target = into if into.ndim == 2 else into[:, :, int(where.slices[number])]
        part = target[row : row + frame.shape[0], column : column + frame.shape[1]]
        inside = frame[: part.shape[0], : part.shape[1]]
        part[...] = inside if combine is None else combine(part, inside)
    return into


def stored_frames(path: Path, count: int, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(number, (rows, columns) stored values) of some frames of a file, decoded one after another.

    Raises:
        ReadError: Fewer pixels than the header declares, or frames that cannot be decoded.
    """
    import pydicom

    data = pydicom.dcmread(path, force=True)
    meta = getattr(data, "file_meta", None) or {}
    syntax = str(meta.get("TransferSyntaxUID", "") or "")
    element = next((k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if k in data), None)
    if element is None:
        raise ReadError(f"{path} is truncated: its pixels are missing", remedy="copy the original file again")
    if syntax not in NATIVE:
        yield from _decoded(data, syntax, count, frozenset(numbers))
        return
    content, bits = data[element].value, int(data.BitsAllocated)
    size = (int(data.Rows), int(data.Columns))
    each = size[0] * size[1] * bits
    if len(content) * 8 < count * each:
        raise ReadError(
            f"{path} is truncated", got=f"{len(content)} bytes of pixels", expected=f"{-(-count * each // 8)}"
        )
    kind = "f" if element != "PixelData" else "i" if data.get("PixelRepresentation") == 1 else "u"
    dtype = np.dtype(f"{'>' if syntax == BIG_ENDIAN else '<'}{kind}{max(1, bits // 8)}")
    for number in numbers:
        begin, end = number * each, (number + 1) * each
        part = np.frombuffer(content, np.uint8, -(-end // 8) - begin // 8, begin // 8)
        if bits == 1:  # frames of single bits follow each other without a gap (PS3.5, 8.1.1)
            yield number, np.unpackbits(part, bitorder="little")[begin % 8 : begin % 8 + each].reshape(size)
        else:
            yield number, part.view(dtype).reshape(size).astype(dtype.newbyteorder("="), copy=False)


def _decoded(data: Any, syntax: str, count: int, wanted: frozenset[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    from pydicom.encaps import generate_frames

    spec = PixelSpec.of(data, syntax)
    pixels = spec.rows * spec.columns
    # run lengths hold eight single bits to a byte (PS3.5, annex G and 8.1.1)
    packed = replace(spec, rows=1, columns=-(-pixels // 8), bits_allocated=8, bits_stored=8, high_bit=None)
    for number, stream in enumerate(generate_frames(data.PixelData, number_of_frames=count)):
        if number not in wanted:
            continue
        if spec.bits_allocated == 1 and syntax == RLE:
            bits = np.unpackbits(decode_frame(stream, packed), bitorder="little")
            yield number, bits[:pixels].reshape(spec.shape)
        else:
            yield number, decode_frame(stream, spec)
