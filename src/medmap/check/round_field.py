"""The round field of a picture taken through an optic (fundus, endoscope, microscope): a disc on a dark ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIDE = 256  # pixels of the longer side on which the disc is looked for
DARK = 0.06  # of the range: the ground around the field is no brighter, but for what is written on it
DARK_CORNERS = 0.9  # part of each corner that must be dark
CORNER = 0.04  # of the shorter side: a disc that fills a square leaves seven hundredths of it dark
ROUND = 0.02  # of the radius: how far the field's border may lie off the circle, on most of it
MOST = 0.85  # of the border
LEAST_FIELD = 0.2  # of the picture that the field fills
LEAST_RADIUS = 0.3  # of the shorter side
LEAST_POINTS = 36  # of the border


@dataclass(frozen=True)
class RoundField:
    """A disc in a picture.

    Args:
        row, column: Its centre in pixels.
        radius: In pixels.
    """

    row: float
    column: float
    radius: float

    def holds(self, row: float, column: float) -> bool:
        """Whether a point lies in it."""
        return (row - self.row) ** 2 + (column - self.column) ** 2 <= self.radius**2


def round_field(picture: NDArray[Any]) -> RoundField | None:
    """The round field of a picture; None where it has none.

    The corners are dark, and what is not dark is a disc, whole or cut by the picture's edges: on each row its ends lie
    on one circle.

    Args:
        picture: (rows, columns) or (rows, columns, colours).
    """
    grey = picture.max(axis=2) if picture.ndim == 3 else picture
    step = max(1, -(-max(grey.shape) // SIDE))
    small = grey[::step, ::step].astype(np.float64)
    low, high = (float(v) for v in np.percentile(small, (0.5, 99.5)))
    lit = small > low + DARK * (high - low)
    if not high > low or lit.mean() < LEAST_FIELD or not _dark_corners(lit):
        return None
    found = _circle(_ends(lit))
    if found is None or found[2] < LEAST_RADIUS * min(small.shape):
        return None
    row, column, radius = (float(v) for v in found)
    return RoundField(row * step, column * step, (radius + 1) * step)


def _dark_corners(lit: NDArray[np.bool_]) -> bool:
    """Whether at least three corners are dark: something may be written in the fourth."""
    n = max(2, round(CORNER * min(lit.shape)))
    corners = (lit[:n, :n], lit[:n, -n:], lit[-n:, :n], lit[-n:, -n:])
    return sum(float((~corner).mean()) >= DARK_CORNERS for corner in corners) >= 3


def _ends(lit: NDArray[np.bool_]) -> Floats:
    """(n, 2) where the largest lit part begins and ends on each row and column, but for the picture's edges."""
    from scipy import ndimage

    labels, count = ndimage.label(lit)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel(), minlength=count + 1)[1:]))
    found = []
    for along, part in enumerate((largest, largest.T)):
        at = np.flatnonzero(part.any(axis=1))
        for ends, edge in (
            (part.argmax(axis=1), 0),
            (part.shape[1] - 1 - part[:, ::-1].argmax(axis=1), part.shape[1] - 1),
        ):
            kept = at[ends[at] != edge]
            points = np.column_stack([kept, ends[kept]])
            found.append(points if along == 0 else points[:, ::-1])
    return np.concatenate(found).astype(np.float64)


def _circle(points: Floats) -> Floats | None:
    """(row, column, radius) of a circle, fitted to the points nearest to it (Kåsa 1976); None where many lie off it."""
    kept = points
    for _ in range(3):
        if len(kept) < LEAST_POINTS:
            return None
        design = np.column_stack([2 * kept, np.ones(len(kept))])
        (row, column, rest), *_ = np.linalg.lstsq(design, (kept**2).sum(axis=1), rcond=None)
        square = rest + row**2 + column**2
        if not square > 0:
            return None
        radius = float(np.sqrt(square))
        off = np.abs(np.hypot(points[:, 0] - row, points[:, 1] - column) - radius)
        kept = points[off <= np.quantile(off, MOST)]
    near = off <= max(ROUND * radius, 1.5)
    return np.array([row, column, radius]) if near.mean() >= MOST else None
