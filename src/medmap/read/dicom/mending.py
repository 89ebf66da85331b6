"""What mends a series, and only when asked: slices filled in, uneven or tilted stacks resampled."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Floats, Geometry
from medmap.read.dicom.lattice import Lattice


def _mixed(low: NDArray[Any], high: NDArray[Any], share: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    mixed = low.astype(np.float64) * (1 - share) + high.astype(np.float64) * share
    return (np.rint(mixed) if dtype.kind in "iu" else mixed).astype(dtype)


def filled(array: NDArray[Any], grid: Lattice) -> NDArray[Any]:
    """Slices that no frame gave, by linear interpolation between the neighbours that are there.

    Args:
        array: (rows, columns, slices[, channels]).
        grid: Says which slices are there; the first and the last always are.
    """
    there = sorted(set(grid.places))
    for low, high in pairwise(there):
        for place in range(low + 1, high):
            share = (place - low) / (high - low)
            array[:, :, place] = _mixed(array[:, :, low], array[:, :, high], share, array.dtype)
    return array


def evened(array: NDArray[Any], geometry: Geometry, distances_mm: Floats) -> tuple[NDArray[Any], Geometry]:
    """Slices at uneven distances, resampled linearly to the median distance between the first and the last."""
    total = float(distances_mm[-1])
    step = float(np.median(np.diff(distances_mm)))
    count = int(np.floor(total / step + 1e-6)) + 1
    out = np.empty((*array.shape[:2], count, *array.shape[3:]), array.dtype)
    for number in range(count):
        at = min(number * step, total)
        high = min(max(int(np.searchsorted(distances_mm, at)), 1), len(distances_mm) - 1)
        low = high - 1
        share = (at - distances_mm[low]) / (distances_mm[high] - distances_mm[low])
        out[:, :, number] = _mixed(array[:, :, low], array[:, :, high], float(share), array.dtype)
    affine = np.array(geometry.affine_lps_mm)
    whole = affine[:3, 2] * (geometry.shape[2] - 1)  # from the first to the last slice
    affine[:3, 2] = whole * step / total
    return out, replace(geometry, shape=out.shape[:3], affine_lps_mm=affine)


def straightened(
    array: NDArray[Any], geometry: Geometry, outside: float | None = None
) -> tuple[NDArray[Any], Geometry]:
    """A sheared stack on an upright grid: each slice is shifted within its plane, linearly interpolated.

    What lies beyond the field of view becomes ``outside``: without it, the smallest value of the volume (air in CT).
    """
    from scipy.ndimage import shift

    affine = np.array(geometry.affine_lps_mm)
    plane, step = affine[:3, :2], affine[:3, 2]
    normal = np.cross(plane[:, 0], plane[:, 1])
    normal /= np.linalg.norm(normal)
    upright = normal * float(step @ normal)
    drift = np.linalg.lstsq(plane, step - upright, rcond=None)[0]  # voxels a slice, by which content runs away
    drift[np.abs(drift) < 1e-9] = 0  # a trace of rounding would count the last column as outside
    low = float(array.min()) if outside is None else outside
    out = np.empty(array.shape, np.float32 if array.dtype.itemsize <= 2 else np.float64)
    for number in range(array.shape[2]):
        move = (*(drift * number), *(0.0,) * (array.ndim - 3))
        out[:, :, number] = shift(array[:, :, number].astype(out.dtype), move, order=1, mode="grid-constant", cval=low)
    if array.dtype.kind in "iu":
        out = np.rint(out).astype(array.dtype)
    affine[:3, 2] = upright
    return out.astype(array.dtype, copy=False), replace(geometry, affine_lps_mm=affine)
