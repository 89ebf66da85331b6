"""Outlines of regions: lines that pass midway between the voxels inside and outside.

Midway, because then the centres decide: every voxel whose centre an outline encloses (even-odd rule) was in the region
and no other. The lines are drawn by contourpy (marching squares) at the level 0.5.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Floats

Bools = NDArray[np.bool_]


def outlined(plane: Bools) -> list[list[Floats]]:
    """The connected areas of one slice, each as its outer line and the lines around its holes.

    Args:
        plane: (rows, columns).

    Returns:
        For each area a list of (points, 2) row and column coordinates (integers at pixel centres); the first line is
        the outer one; none repeats its first point. An island within a hole is an area of its own.

    Example:
        >>> plane = np.zeros((4, 5), np.bool_)
        >>> plane[1:3, 1:4] = True
        >>> [[line.tolist() for line in area] for area in outlined(plane)][0][0][:3]
        [[1.0, 0.5], [0.5, 1.0], [0.5, 3.0]]
    """
    import contourpy

    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not rows.size:
        return []
    corner = np.array((rows[0] - 1, columns[0] - 1), dtype=np.float64)
    part = np.pad(plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float64)
    generator: Any = contourpy.contour_generator(z=part, name="serial", fill_type=contourpy.FillType.OuterOffset)
    polygons, offsets = generator.filled(0.5, 2.0)
    areas = []
    for points, bounds in zip(polygons, offsets, strict=True):
        lines = [points[a:b] for a, b in itertools.pairwise(bounds)]
        areas.append([_straightened(line[:-1, ::-1]) + corner for line in lines])
    return areas


def _straightened(line: Floats) -> Floats:
    """The line without points that lie on the straight way between their neighbours; coordinates are halves: exact."""
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    corners: Floats = line[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return corners


def keyholed(area: list[Floats]) -> Floats:
    """One closed line around an area with holes: each hole joined by a line there and back (PS3.3 C.8.8.6.3).

    Args:
        area: The outer line, then the holes, as ``outlined`` gives them.
    """
    outline = area[0]
    for hole in area[1:]:
        distance = ((outline[:, None, :] - hole[None, :, :]) ** 2).sum(axis=2)
        at, to = np.unravel_index(int(distance.argmin()), distance.shape)
        outline = np.concatenate((outline[: at + 1], hole[to:], hole[: to + 1], outline[at:]))
    return outline
