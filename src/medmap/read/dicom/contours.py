"""Contours filled on a grid: a voxel belongs to a region when its centre lies inside, by the even-odd rule.

With several closed contours of one region on one slice, a centre enclosed an odd number of times is inside. So holes
drawn as contours of their own (``CLOSEDPLANAR_XOR``, and what planning systems write as ``CLOSED_PLANAR``) and holes
joined to their outline by a keyhole (PS3.3 C.8.8.6.3) come out alike: a keyhole's two coinciding lines cancel.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError, QualityWarning, ReadError
from medmap.geometry import Floats, Geometry
from medmap.read.dicom.structures import Roi, StructureSet
from medmap.results import Label, Mask

OffSlice = Literal["refuse", "nearest", "leave out"]
# A contour lies on a slice when no point of it is farther from the slice than this part of the slices' distance.
SLICE_TOLERANCE = 0.1
# Coordinates are rounded to this part of a voxel, so that a line drawn through voxel centres decides alike everywhere.
GRAIN_VOXELS = 1e-6
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class _Slicing:
    """How a grid is cut: along which index axis, and how the contours' distance from slices is judged."""

    axis: int
    count: int
    tolerance: float
    off_slice: OffSlice


def rasterised(
    structures: StructureSet,
    geometry: Geometry,
    values: Mapping[int, int] | None = None,
    *,
    off_slice: OffSlice = "refuse",
    tolerance_slices: float = SLICE_TOLERANCE,
) -> Mask:
    """The regions of a structure set as voxels of a grid.

    Args:
        structures: What ``read_structures`` gave.
        geometry: The grid, usually that of the series the contours were drawn on; any orientation and order of axes
            as long as the contours lie in its planes.
        values: ROI number → label value (1 to 65535), several numbers may share one; None: every region that encloses
            an area, under its own number.
        off_slice: What becomes of a contour that lies on no slice: ``refuse``, ``nearest`` (the next slice takes it)
            or ``leave out``; the last two warn and name them.
        tolerance_slices: How far off a slice a contour may lie, as a part of the distance of slices.

    Returns:
        Unsigned integers; where regions of different values overlap, booleans with a channel for each value.

    Raises:
        ReadError: An unknown ROI number, or a region that encloses no area.
        GeometryError: Another frame of reference, contours in no plane of the grid, or on no slice.
    """
    geometry.require_size("filling contours")
    chosen = _chosen(structures, values)
    for roi in chosen:
        require_same_frame(roi.frame_of_reference, geometry.frame_of_reference, f"region {roi.number} ({roi.name})")
    grid = _with_depth(geometry)
    axis = _slice_axis(list(chosen), grid)
    slicing = _Slicing(axis, grid.shape[axis], tolerance_slices, off_slice)
    filled: dict[int, Bools] = {}
    labels: dict[int, Label] = {}
    for roi, value in chosen.items():
        region = _filled(roi, grid, slicing).reshape(geometry.shape)
        filled[value] = filled[value] | region if value in filled else region
        labels.setdefault(value, roi.label)
    return _mask(filled, labels, geometry)


def require_same_frame(ours: str | None, theirs: str | None, what: str) -> None:
    """Refuse what lies in another space than the grid; unknown on either side is not compared.

    Raises:
        GeometryError: Both frames of reference are known and differ.
    """
    if ours and theirs and ours != theirs:
        raise GeometryError(
            f"{what} lies in another frame of reference than the image", got=ours, expected=theirs,
            remedy="use the series that it was drawn on, or register the two",
        )  # fmt: skip


def _chosen(structures: StructureSet, values: Mapping[int, int] | None) -> dict[Roi, int]:
    if values is None:
        chosen = {roi: roi.number for roi in structures.rois if roi.closed}
        if not chosen:
            raise ReadError(
                "no region of the structure set encloses an area",
                got=", ".join(f"{roi.number} ({roi.name})" for roi in structures.rois),
            )
    else:
        chosen = {structures.roi(number): value for number, value in values.items()}
        for roi in chosen:
            if not roi.closed:
                raise ReadError(f"region {roi.number} ({roi.name}) encloses no area and has no voxels")
    if not all(0 < value <= 65535 for value in chosen.values()):
        raise ReadError(
            "a label value lies outside its range", got=sorted(chosen.values()), expected="1 to 65535",
            remedy="name the regions and their values: 1>2",
        )  # fmt: skip
    for roi in chosen:
        opened = sum(c.kind.startswith("OPEN") for c in roi.contours)
        if opened:
            warnings.warn(
                f"region {roi.number} ({roi.name}) holds {opened} open contours, which enclose nothing",
                QualityWarning, stacklevel=3,
            )  # fmt: skip
    return chosen


def _with_depth(geometry: Geometry) -> Geometry:
    """A two-dimensional grid as one slice."""
    if geometry.ndim == 3:
        return geometry
    return Geometry((*geometry.shape, 1), geometry.affine_lps_mm, geometry.kind, geometry.frame_of_reference)


def _slice_axis(rois: list[Roi], grid: Geometry) -> int:
    """The index axis that all contours are perpendicular to.

    Raises:
        GeometryError: There is none: the contours are oblique to the grid.
    """
    spread = np.zeros(3)
    for roi in rois:
        for contour in roi.closed:
            spread = np.maximum(spread, np.ptp(grid.to_index(contour.points_mm), axis=0))
    axis = int(spread.argmin())
    if spread[axis] > 0.5:
        raise GeometryError(
            "the contours lie in no plane of the grid",
            got=f"contours that cross {spread[axis]:.2f} slices",
            remedy="use the series that they were drawn on",
        )
    return axis


def _filled(roi: Roi, grid: Geometry, slicing: _Slicing) -> Bools:
    """(grid's shape) where the region is."""
    axis = slicing.axis
    inside = np.zeros((*np.delete(grid.shape, axis).tolist(), slicing.count), dtype=np.bool_)
    off, crossing = [], 0
    shapes: dict[int, list[_Area]] = {}
    for contour in roi.closed:
        index = np.round(grid.to_index(contour.points_mm) / GRAIN_VOXELS) * GRAIN_VOXELS
        height = index[:, axis]
        place = round(float(np.median(height)))
        lies = 0 <= place < slicing.count
        if np.abs(height - place).max() > slicing.tolerance or not lies:
            off.append(_where(contour.points_mm, grid, axis))
            if slicing.off_slice != "nearest" or not lies:
                continue
        area = _area(np.delete(index, axis, axis=1), inside.shape[:2])
        crossing += sum(_cross(area, other) for other in shapes.get(place, ()))
        shapes.setdefault(place, []).append(area)
        inside[area.row : area.last_row, area.column : area.last_column, place] ^= area.inside
    if crossing:
        warnings.warn(
            f"region {roi.number} ({roi.name}) has contours that cross each other; what both enclose counts as outside",
            QualityWarning, stacklevel=4,
        )  # fmt: skip
    _tell(roi, off, slicing)
    return np.moveaxis(inside, 2, axis)


def _where(points_mm: Floats, grid: Geometry, axis: int) -> float:
    """Position of a contour along the slices' normal, in mm."""
    across = np.delete(grid.affine_lps_mm[:3, :3], axis, axis=1)
    normal = np.cross(across[:, 0], across[:, 1])
    normal *= np.sign(normal @ grid.affine_lps_mm[:3, axis]) / np.linalg.norm(normal)
    return float((points_mm @ normal).mean())


def _tell(roi: Roi, off: list[float], slicing: _Slicing) -> None:
    if not off:
        return
    shown = ", ".join(f"{v:.2f}" for v in sorted(off)[:8]) + (" …" if len(off) > 8 else "")
    what = f"region {roi.number} ({roi.name}) has {len(off)} contours on no slice of the grid, at {shown} mm"
    if slicing.off_slice == "refuse":
        raise GeometryError(
            what + " along the normal",
            expected=f"at most {slicing.tolerance:g} of the slices' distance off",
            remedy="use the series that they were drawn on, or take the nearest slice knowingly",
        )
    done = "were put on the nearest slice where there is one" if slicing.off_slice == "nearest" else "were left out"
    warnings.warn(f"{what}; they {done}", QualityWarning, stacklevel=5)


def _cross(one: _Area, other: _Area) -> bool:
    """Whether two areas overlap and neither lies within the other."""
    row, column = max(one.row, other.row), max(one.column, other.column)
    last_row, last_column = min(one.last_row, other.last_row), min(one.last_column, other.last_column)
    if row >= last_row or column >= last_column:
        return False
    both = one.window(row, last_row, column, last_column) & other.window(row, last_row, column, last_column)
    return 0 < int(np.count_nonzero(both)) < min(int(one.inside.sum()), int(other.inside.sum()))


@dataclass(frozen=True, eq=False)
class _Area:
    """The pixels inside one line, of the part of the slice that holds them."""

    row: int
    column: int
    inside: Bools

    @property
    def last_row(self) -> int:
        return self.row + len(self.inside)

    @property
    def last_column(self) -> int:
        return self.column + int(self.inside.shape[1])

    def window(self, row: int, last_row: int, column: int, last_column: int) -> Bools:
        return self.inside[row - self.row : last_row - self.row, column - self.column : last_column - self.column]


def enclosed(points: Floats, shape: tuple[int, ...]) -> Bools:
    """(rows, columns) of pixels whose centre lies inside one closed line, by the even-odd rule.

    Along each row of centres the crossings with the line are counted; an edge owns its lower end, not its upper one,
    and a centre exactly on a crossing is inside from there on: so areas that share an edge share no pixel and miss
    none. Edges are taken from their lower end whichever way they were drawn, so that an edge and its way back cancel.

    Args:
        points: (points, 2) row and column coordinates, integers at pixel centres; closed by itself.
        shape: Rows and columns.

    Example:
        >>> enclosed(np.array([(0.5, 0.5), (0.5, 2.5), (2.5, 2.5), (2.5, 0.5)]), (4, 4)).astype(int).tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    area = _area(points, shape)
    whole = np.zeros((int(shape[0]), int(shape[1])), dtype=np.bool_)
    whole[area.row : area.last_row, area.column : area.last_column] = area.inside
    return whole


def _area(points: Floats, shape: tuple[int, ...]) -> _Area:
    limits = np.array(shape[:2])
    start = np.clip(np.floor(points.min(axis=0)), 0, limits).astype(np.int64)
    stop = np.maximum(np.clip(np.ceil(points.max(axis=0)) + 1, 0, limits).astype(np.int64), start)
    rows, columns = (stop - start).tolist()
    first, second = points - start, np.roll(points, -1, axis=0) - start
    swap = (first[:, 0] > second[:, 0])[:, None]
    low, high = np.where(swap, second, first), np.where(swap, first, second)
    begin = np.clip(np.ceil(low[:, 0]), 0, rows).astype(np.int64)  # the first row of centres at or above the lower end
    end = np.clip(np.ceil(high[:, 0]), 0, rows).astype(np.int64)  # and the first not below the upper end
    count = end - begin
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + begin[edge]
    rise = high[edge, 0] - low[edge, 0]
    at = low[edge, 1] + (row - low[edge, 0]) / rise * (high[edge, 1] - low[edge, 1])
    column = np.clip(np.ceil(np.round(at / GRAIN_VOXELS) * GRAIN_VOXELS), 0, columns).astype(np.int64)
    flips = np.zeros((rows, columns + 1), dtype=np.int32)
    np.add.at(flips, (row, column), 1)
    inside: Bools = (np.cumsum(flips, axis=1)[:, :columns] & 1).astype(np.bool_)
    return _Area(int(start[0]), int(start[1]), inside)


def _mask(filled: Mapping[int, Bools], labels: Mapping[int, Label], geometry: Geometry) -> Mask:
    order = sorted(filled)
    claims = sum((filled[value].astype(np.uint16) for value in order), np.zeros(geometry.shape, np.uint16))
    named = {value: labels[value] for value in order}
    if claims.max() > 1:
        return Mask(np.stack([filled[value] for value in order], axis=-1), geometry, named)
    array: NDArray[Any] = np.zeros(geometry.shape, np.uint8 if order[-1] < 256 else np.uint16)
    for value in order:
        array[filled[value]] = value
    return Mask(array, geometry, named)
