"""From the network's grid back to the source grid, axis by axis.

Every step of a trace (permute, flip, crop, pad, resample) acts on each axis by itself, so where a voxel of the source
lies on the network's grid is three lists of coordinates, however large the volume is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError
from medmap.geometry import Crop, Flip, Pad, Permute, Resample, Trace

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """Which voxels of the source lie between which voxels of the network's grid, along one axis.

    Args:
        source_axis: The axis of the source grid.
        view: The slice of that axis that has answers, turned so that it runs as the network's axis does.
        low, high: (cells,) the network's voxels on both sides; equal where only one counts.
        start, stop: (cells,) the voxels of ``view`` in each cell.
        part: (voxels of ``view``,) the weight of ``high`` for each, 0…1.
    """

    source_axis: int
    view: slice
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    part: Numbers

    @property
    def for_kernel(self) -> tuple[NDArray[Any], ...]:
        """The tables as the kernels take them."""
        return self.low, self.high, self.start, self.stop, self.part


def cells_of(trace: Trace, region: tuple[tuple[int, int], ...]) -> tuple[Cells, ...]:
    """The cells along each axis of the network's grid.

    Args:
        trace: How the source became the network's grid.
        region: (first, after last) voxel along each axis of the part of the network's grid that has scores; cells
            count from its first voxel.

    Raises:
        GeometryError: No voxel of the source lies in the region.

    Example:
        >>> from medmap.geometry import Geometry
        >>> (cells,) = cells_of(Trace(Geometry.from_spacing((4, 1), (1, 1)), (Resample((2, 1)),)), ((0, 2), (0, 1)))[:1]
        >>> cells.low.tolist(), cells.high.tolist(), cells.part.tolist()
        ([0, 1], [1, 1], [0.0, 0.25, 0.75, 0.0])
    """
    axes = [
        (axis, np.arange(size, dtype=np.float64), np.ones(size, bool)) for axis, size in enumerate(trace.source.shape)
    ]
    for step, before in zip(trace.steps, trace.geometries, strict=False):
        match step:
            case Permute():
                axes = [axes[old] for old in step.order]
            case Flip():
                axes = [
                    (s, before.shape[a] - 1 - at if a in step.axes else at, ok) for a, (s, at, ok) in enumerate(axes)
                ]
            case Crop():
                axes = [
                    _cropped(*axis, first, size) for axis, first, size in zip(axes, step.start, step.shape, strict=True)
                ]
            case Pad():
                axes = [(s, at + first, ok) for (s, at, ok), first in zip(axes, step.before, strict=True)]
            case Resample():
                axes = [
                    _resampled(*axis, old, new) for axis, old, new in zip(axes, before.shape, step.shape, strict=True)
                ]
    axes = [_cropped(*axis, first, last - first) for axis, (first, last) in zip(axes, region, strict=True)]
    return tuple(_cells(*axis) for axis in axes)


def _cropped(
    source: int, at: Numbers, ok: NDArray[np.bool_], first: int, size: int
) -> tuple[int, Numbers, NDArray[np.bool_]]:
    """What was cropped away has no score; up to a voxel beyond the last one, that one still counts.

    That is what interpolation between a score and nothing gives: less of each class, and the same order of them.
    """
    moved = at - first
    return source, np.clip(moved, 0, size - 1), ok & (moved > -1) & (moved < size)


def _resampled(
    source: int, at: Numbers, ok: NDArray[np.bool_], old: int, new: int
) -> tuple[int, Numbers, NDArray[np.bool_]]:
    """``Resample``: outer edges stay, and scores at the edge extend beyond the last centre."""
    scale = new / old
    return source, np.clip(at * scale + (scale - 1) / 2, 0, new - 1), ok


def _cells(source: int, at: Numbers, ok: NDArray[np.bool_]) -> Cells:
    (has_score,) = np.nonzero(ok)
    if not len(has_score):
        raise GeometryError("no voxel of the source lies in the part that was predicted", got=f"axis {source}")
    first, stop = int(has_score[0]), int(has_score[-1]) + 1
    at, view = at[first:stop], slice(first, stop)
    if at[0] > at[-1]:
        at, view = at[::-1], slice(stop - 1, first - 1 if first else None, -1)
    below = np.floor(at).astype(np.int64)
    starts = np.flatnonzero(np.diff(below, prepend=-1))
    stops = np.append(starts[1:], len(at))
    part = at - below
    between = np.logical_or.reduceat(part > 0, starts)
    return Cells(source, view, below[starts], below[starts] + between, starts, stops, part)
