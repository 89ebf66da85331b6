"""Frames of a derived object (segmentation, parametric map) on one grid: by their places, in whatever order they stand.

Such an object holds the planes on which something was marked, often several frames a plane and seldom all planes of
its source. The grid's slices run along the cross product of a row's and a column's direction, as a series is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError, ReadError
from medmap.geometry import Floats, Geometry
from medmap.read.dicom.codecs import decode_frame
from medmap.read.dicom.frames import Frames
from medmap.read.dicom.header import header_of, named, spec_of, understood
from medmap.read.dicom.place import floats, groups, per_frame, place_of, within

UNEVEN = 0.05  # of the distance of planes: how far one may lie off its place
SAME_MM = 1e-3  # positions nearer than this are one plane
MOST_TILES = 2**24


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
    if per_frame(header) and str(header.get("DimensionOrganizationType") or "") != "TILED_FULL":
        corners = np.array([_corner(path, header, f) for f in range(count)], np.int64) - 1
    else:
        rows, columns = (-(-w // s) for w, s in zip(whole, size, strict=True))
        tile = np.arange(count) % (rows * columns)
        corners = np.stack([tile // columns * size[0], tile % columns * size[1]], axis=1)
    if corners.min(initial=0) < 0 or (corners >= whole).any():
        raise ReadError(f"{path} holds a tile beyond its picture", expected=f"within {whole[0]} × {whole[1]}")
    return Stacked(_slide(header, whole), np.zeros(count, np.int64), corners)


def slide(path: Path, header: Any, count: int, notes: list[str]) -> Stacked:
    """Where the tiles of a slide's picture lie, each place taken once; an absent tile is said.

    Raises:
        ReadError: Several tiles at one place: focal planes or optical paths.
    """
    size = (int(header.Rows), int(header.Columns))
    where = _tiled(path, header, count, size)
    whole = where.geometry.shape
    taken = len(np.unique(where.corners, axis=0))
    if taken < count:
        raise ReadError(
            f"{path} holds several tiles at one place of its slide: focal planes or optical paths",
            got=f"{count} tiles at {taken} places", remedy=f"read one of them: {path.name}#0",
        )  # fmt: skip
    absent = pixels_absent(where, size)
    if absent:
        notes.append(f"{absent / (whole[0] * whole[1]):.2%} of the slide's picture has no tile and is zero")
    return where


def pixels_absent(where: Stacked, size: tuple[int, int]) -> int:
    """How many pixels of a slide's picture lie in no tile of ``size``."""
    whole = where.geometry.shape
    if (where.corners % size).any():  # off the raster of tiles they may overlap
        absent = np.ones(whole, bool)
        for row, column in where.corners.tolist():
            absent[row : row + size[0], column : column + size[1]] = False
        return int(np.count_nonzero(absent))
    heights, widths = (np.minimum(size[i], whole[i] - where.corners[:, i]) for i in (0, 1))
    return whole[0] * whole[1] - int((heights * widths).sum())


def tile_of_slide(path: Path, header: Any, extent: tuple[int, int], notes: list[str]) -> Geometry:
    """The grid of one tile.

    Args:
        path, header: The file.
        extent: Number of tiles, and which is meant.
        notes: Gets what is odd.
    """
    size = (int(header.Rows), int(header.Columns))
    whole = _tiled(path, header, extent[0], size)
    if not whole.geometry.has_size:
        return place_of(path, header, size, range(1), notes)[0]
    affine = whole.geometry.affine_lps_mm.copy()
    affine[:3, 3] += affine[:3, :2] @ whole.corners[extent[1]]
    return Geometry(size, affine, "slide", whole.geometry.frame_of_reference)


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
        LimitError: More than such frames can need.
    """
    with understood(path, []):
        header, elements = header_of(path)
        if not elements.pixels:
            raise ReadError(f"{path} is truncated: its pixels are missing", remedy="copy the original file again")
        spec, _ = spec_of(path, header, elements, [])
        frames = Frames.of(elements, header, spec, count, [])
    for number in numbers:
        with named(path, number if count > 1 else None):
            data, skip = frames.stored(number)
            stored = decode_frame(data, frames.spec, skip)
        yield number, stored
