"""Diameters of a region: the largest in space, and the long and short axis in one plane, as RECIST 1.1 takes them.

Ends lie midway between a voxel inside and its neighbour outside, so that a line of n voxels is n spacings long.
Sources: IBSI L0JK; Eisenhauer et al., Eur. J. Cancer 45:228–247 (2009).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Floats, Geometry

Bools = NDArray[np.bool_]
THICK = 1.5  # slices so much thicker than the pixels are wide are those that were acquired


def slice_axis_of(geometry: Geometry) -> int:
    """The index axis across the planes in which diameters are taken.

    The one whose spacing is at least 1.5 times each other's: the slices that were acquired; else the one that runs
    most from head to feet; without a place in a patient the third.
    """
    order = np.argsort(geometry.spacing_mm)
    if geometry.spacing_mm[order[2]] >= THICK * geometry.spacing_mm[order[1]]:
        return int(order[2])
    if geometry.kind != "patient":
        return 2
    columns = geometry.affine_lps_mm[:3, :3]
    return int(np.argmax(np.abs(columns[2]) / np.linalg.norm(columns, axis=0)))


def largest_diameter_mm(region: Bools, affine_lps_mm: Floats) -> float:
    """The largest distance between two points of the surface around a region (the corners of its convex hull).

    Args:
        region: (two or three axes), not empty.
        affine_lps_mm: (4, 4) of its grid.
    """
    points = _ends(region) @ affine_lps_mm[:3, : region.ndim].T
    return _farthest(_hull(points))[0]


def plane_axes_mm(region: Bools, affine_lps_mm: Floats, slice_axis: int | None) -> tuple[float, float]:
    """The longest diameter of a connected part in one plane, and the widest extent across it in that plane, in mm.

    Each plane's parts (diagonal neighbours belong together) are taken by themselves; the long axis is the largest of
    all. The short axis is the widest chord at a right angle to it through the part's convex outline.

    Args:
        region: (two or three axes), not empty.
        affine_lps_mm: (4, 4) of its grid.
        slice_axis: Across the planes; None for a region of two axes.
    """
    axes = [a for a in range(region.ndim) if a != slice_axis]
    steps = affine_lps_mm[:3, axes]
    planes = region[..., None] if slice_axis is None else np.moveaxis(region, slice_axis, -1)
    rows, columns = (np.asarray(planes.any(axis=axis)) for axis in (1, 0))
    bounds = _diagonals(rows, columns, steps)
    best, short = 0.0, 0.0
    for plane in np.argsort(-bounds):
        if bounds[plane] <= best:
            break
        for part in _parts(planes[..., plane], steps, best):
            long, across = _both_axes(_ends(part) @ steps.T)
            if long > best:
                best, short = long, across
    return best, short


def _diagonals(rows: Bools, columns: Bools, steps: Floats) -> Floats:
    """For each plane the diagonal of what it holds: no diameter is longer."""
    extents = []
    for used in (rows, columns):
        first = np.argmax(used, axis=0)
        extents.append(np.where(used.any(axis=0), len(used) - np.argmax(used[::-1], axis=0) - first, 0))
    u, v = (np.asarray(extent, np.float64)[:, None] * step for extent, step in zip(extents, steps.T, strict=True))
    return np.asarray(np.maximum(np.linalg.norm(u + v, axis=1), np.linalg.norm(u - v, axis=1)))


def _parts(plane: Bools, steps: Floats, best: float) -> list[Bools]:
    """The connected parts of a plane that may be longer than ``best``, the one with the largest diagonal first."""
    from scipy import ndimage

    labels, _ = ndimage.label(plane, np.ones((3, 3), int))
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        u, v = ((s.stop - s.start) * step for s, step in zip(box, steps.T, strict=True))
        diagonal = max(float(np.linalg.norm(u + v)), float(np.linalg.norm(u - v)))
        if diagonal > best:
            found.append((diagonal, number, box))
    found.sort(key=lambda one: (-one[0], one[1]))
    return [np.asarray(labels[box] == number) for _, number, box in found]


def _ends(region: Bools) -> Floats:
    """(points, axes) the first and the last end of the region along each line of voxels: all that is outermost."""
    found = []
    for axis in range(region.ndim):
        used = region.any(axis=axis)
        first = np.argmax(region, axis=axis)[used] - 0.5
        last = region.shape[axis] - 0.5 - np.argmax(np.flip(region, axis), axis=axis)[used]
        lines = np.argwhere(used).astype(np.float64)
        found += [np.insert(lines, axis, ends, axis=1) for ends in (first, last)]
    return np.concatenate(found)


def _hull(points: Floats) -> Floats:
    """The corners of the convex hull, in its order when the points lie in a plane's coordinates."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull: Floats = points[ConvexHull(points).vertices]
    except QhullError:  # all in one plane or on one line
        return points
    return hull


def _farthest(points: Floats) -> tuple[float, Floats]:
    """The largest distance, and the vector between the two."""
    best, vector = -1.0, np.zeros(points.shape[1])
    for start in range(0, len(points), 256):
        difference = points[start : start + 256, None, :] - points[None, :, :]
        squares = (difference**2).sum(axis=2)
        at: Any = np.unravel_index(int(squares.argmax()), squares.shape)
        if squares[at] > best:
            best, vector = float(squares[at]), difference[at]
    return best**0.5, vector


def _both_axes(points: Floats) -> tuple[float, float]:
    """Long and short axis of points in one plane of space."""
    basis = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][:2]
    hull = _hull(points @ basis.T)
    long, vector = _farthest(hull)
    along = vector / long
    u, v = hull @ along, hull @ np.array((-along[1], along[0]))
    # The chord's length is concave along u and straight between corners: it is longest at a corner.
    order = np.arange(len(hull))
    low, high = np.argmin(u), np.argmax(u)
    one = order[low : high + 1] if low < high else np.r_[order[low:], order[: high + 1]]
    other = np.r_[order[high:], order[: low + 1]] if low < high else order[high : low + 1]
    sides = [np.interp(u, u[side[np.argsort(u[side], kind="stable")]], v[side[np.argsort(u[side], kind="stable")]])
             for side in (one, other)]  # fmt: skip
    return long, float(np.abs(sides[0] - sides[1]).max())
