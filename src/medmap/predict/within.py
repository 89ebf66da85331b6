"""Where to look in a volume: the box of a coarse mask or of what is not background, on the grid a network sees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from medmap.geometry import Trace
from medmap.image import Image
from medmap.results import Mask
from medmap.runtime import Box, occupied

Ends = tuple[tuple[int, int], ...]
AIR_HU = -500.0  # half way from air to water: noise does not carry air so far, and a body's surface lies beyond
AROUND_BODY_MM = 15.0  # of air that a network still sees around a body


def box_of(mask: Mask) -> Ends | None:
    """(first, after last) voxel of all structures along each axis of the mask's grid; None where there is none."""
    there = mask.array if mask.array.dtype == np.bool_ else mask.array > 0
    return occupied(there, mask.geometry.ndim)


def foreground_of(image: Image, modality: str | None = None) -> Ends | None:
    """The part of a volume that is not background: outside of it nothing is to be found.

    Of Hounsfield units what is above −500 HU (a body, and what it lies on; the air inside it is within its box), else
    what differs from the corners, where all eight are alike (a skull-stripped or padded image). A structure that stands
    free in air beyond the body's box would be lost.

    Args:
        image: Three spatial axes; of several channels any counts.
        modality: What the bundle is for: the numbers of a CT whose file names no unit are taken for Hounsfield units
            (where they are not, nothing is below −500 and everything is looked at).

    Returns:
        (first, after last) voxel along each axis; None for a picture, or where everything or nothing is background.
    """
    if image.ndim != 3:
        return None
    array = np.asarray(image.array)
    corners = array[np.ix_(*((0, side - 1) for side in array.shape[:3]))].reshape(8, -1)
    hounsfield = image.quantity == "HU" or (modality == "CT" and image.quantity == "unknown")
    if not hounsfield and not (corners == corners[0]).all():
        return None
    used = [np.zeros(side, dtype=bool) for side in array.shape[:3]]
    for number, plane in enumerate(array):  # a plane at a time: no mask of the whole volume stands in memory
        there = plane > AIR_HU if hounsfield else plane != corners[0].reshape(plane.shape[2:])
        there = there.reshape(*there.shape[:2], -1).any(2)
        used[0][number] = there.any()
        used[1] |= there.any(1)
        used[2] |= there.any(0)
    if not used[0].any():
        return None
    ends = tuple((int(np.argmax(axis)), len(axis) - int(np.argmax(axis[::-1]))) for axis in used)
    return None if all(end == (0, side) for end, side in zip(ends, array.shape, strict=False)) else ends


def box_on_prepared(ends: Ends, trace: Trace, margin_mm: float) -> Box | None:
    """The part of the prepared image in which a box of the source lies, with a margin.

    Args:
        ends: (first, after last) voxel along each axis of the source's grid.
        trace: From the source to the prepared image.
        margin_mm: On every side; in voxels of the source where that states no size.

    Returns:
        (first, after last) voxel along each axis; None where nothing of the box is left on the prepared image.
    """
    source, n = trace.source, len(ends)
    around = [margin_mm / step if source.has_size else margin_mm for step in _steps(trace, n)]
    edges = [(first - 0.5 - more, after - 0.5 + more) for (first, after), more in zip(ends, around, strict=True)]
    corners = np.array(list(itertools.product(*edges)))
    way = np.asarray(trace.index_matrix)
    there = corners @ way[:n, :n].T + way[:n, n]
    low, high = there.min(0), there.max(0)
    box = tuple(
        (max(0, math.floor(a + 0.5)), min(side, math.ceil(b + 0.5)))
        for a, b, side in zip(low, high, trace.target.shape, strict=True)
    )
    return box if all(first < after for first, after in box) else None


def _steps(trace: Trace, count: int) -> Sequence[float]:
    return trace.source.spacing_mm if trace.source.has_size else (1.0,) * count
