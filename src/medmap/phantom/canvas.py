"""Painting many small shapes on a large grid: each touches only the voxels around it.

Everything is drawn from back to front. An ellipsoid and a tapered tube share the voxels of their edge by the distance
to it; a small ellipsoid is sampled inside each voxel, so that its partial volume is that of the shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Geometry
from medmap.phantom.anatomy import Ellipsoid, Point

Floats = NDArray[np.float64]
Values = NDArray[np.float32]
Window = tuple[slice, slice, slice]

SAMPLES = 4  # a voxel's edge is cut into so many parts where partial volume has to be right


class Canvas:
    """A volume that shapes are painted on.

    Args:
        geometry: Its grid, three axes of a patient.
        background: The value where nothing is.
    """

    def __init__(self, geometry: Geometry, background: float) -> None:
        self.geometry = geometry
        self.values: Values = np.full(geometry.shape, background, np.float32)
        self._matrix: Floats = geometry.affine_lps_mm[:3, :3]
        self._origin: Floats = geometry.affine_lps_mm[:3, 3]
        self._inverse: Floats = np.asarray(np.linalg.inv(self._matrix), np.float64)
        self._width_mm = float(np.mean(geometry.spacing_mm))

    def ellipsoid(self, shape: Ellipsoid, value: float) -> None:
        """An organ: its edge is as wide as a voxel."""
        matrix, offset = self._unit_ball(shape)
        window = self._window_of(matrix, offset, margin=2)
        if window is None:
            return
        radius = np.sqrt(self._squares(matrix, offset, self._axes(window)))
        share = np.clip(0.5 - (radius - 1) * np.float32(min(shape.semi_axes_mm) / self._width_mm), 0, 1)
        self._blend(window, share, value)

    def small_ellipsoid(self, shape: Ellipsoid, value: float) -> None:
        """A lesion: each voxel takes the share of it that the shape fills, by 4 × 4 × 4 samples."""
        matrix, offset = self._unit_ball(shape)
        window = self._window_of(matrix, offset, margin=1)
        if window is None:
            return
        inside = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
        fine = [(axis[:, None] + inside).ravel().astype(np.float32) for axis in self._axes(window)]
        filled = self._squares(matrix, offset, fine) <= 1
        counts = [part for axis in self._axes(window) for part in (len(axis), SAMPLES)]
        share = filled.reshape(counts).mean(axis=(1, 3, 5), dtype=np.float32)
        self._blend(window, share, value)

    def tube(self, ends_mm: tuple[Point, Point], radii_mm: tuple[float, float], value: float) -> None:
        """A piece of a vessel whose radius changes evenly from one end to the other."""
        start, end = (self._inverse @ (np.asarray(p) - self._origin) for p in ends_mm)
        reach = np.linalg.norm(self._inverse, axis=1) * max(radii_mm) + 2
        low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
        window = self._window(low, high)
        if window is None:
            return
        along = np.asarray(ends_mm[1]) - np.asarray(ends_mm[0])
        away = [self._linear(self._matrix[k], -self._matrix[k] @ start, self._axes(window)) for k in range(3)]
        squared = max(float(along @ along), 1e-9)
        t = np.clip(sum(a * np.float32(v) for a, v in zip(away, along, strict=True)) / np.float32(squared), 0, 1)
        distance = np.sqrt(sum((a - t * np.float32(v)) ** 2 for a, v in zip(away, along, strict=True)))
        radius = radii_mm[0] + t * np.float32(radii_mm[1] - radii_mm[0])
        self._blend(window, np.clip(0.5 - (distance - radius) / np.float32(self._width_mm), 0, 1), value)

    # -- the inside of the shapes in index coordinates ------------------------------------------------------------

    def _unit_ball(self, shape: Ellipsoid) -> tuple[Floats, Floats]:
        """(matrix, offset) that take an index to where the shape is the unit ball."""
        angle = np.radians(shape.angle_deg)
        turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        scaled = turn / np.asarray(shape.semi_axes_mm)[:, None]
        return scaled @ self._matrix, scaled @ (self._origin - np.asarray(shape.centre_mm))

    def _window_of(self, matrix: Floats, offset: Floats, margin: float) -> Window | None:
        back = np.linalg.inv(matrix)
        centre, reach = -back @ offset, np.linalg.norm(back, axis=1) + margin
        return self._window(centre - reach, centre + reach)

    def _window(self, low: Floats, high: Floats) -> Window | None:
        """The voxels between two corners; None when there are none."""
        shape = self.geometry.shape
        starts = [max(0, int(np.floor(v))) for v in low]
        stops = [min(n, int(np.ceil(v)) + 1) for v, n in zip(high, shape, strict=True)]
        if any(a >= b for a, b in zip(starts, stops, strict=True)):
            return None
        return slice(starts[0], stops[0]), slice(starts[1], stops[1]), slice(starts[2], stops[2])

    @staticmethod
    def _axes(window: Window) -> list[Values]:
        return [np.arange(part.start, part.stop, dtype=np.float32) for part in window]

    @staticmethod
    def _linear(weights: Floats, offset: float, axes: list[Values]) -> Values:
        i, j, k = (axis * np.float32(w) for axis, w in zip(axes, weights, strict=True))
        result: Values = (i[:, None] + j)[:, :, None] + (k + np.float32(offset))
        return result

    def _squares(self, matrix: Floats, offset: Floats, axes: list[Values]) -> Values:
        parts = [self._linear(matrix[k], float(offset[k]), axes) for k in range(3)]
        total = np.square(parts[0], out=parts[0])
        for part in parts[1:]:
            total += np.square(part, out=part)
        return total

    def _blend(self, window: Window, share: Values, value: float) -> None:
        there = self.values[window]
        there += share * (np.float32(value) - there)
