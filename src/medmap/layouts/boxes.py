"""From edges to corners and back: the rule that all box layouts share; each layout's own numbers stay in its file.

In index coordinates voxel ``i`` reaches from ``i − 0.5`` to ``i + 0.5``. A box is stored by the centres of its corner
voxels (``medmap.results.Boxes``), so its corners lie half a voxel inside its edges.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medmap.errors import DatasetError, QualityWarning
from medmap.read import open_header

Corners = tuple[float, ...]
_AT_ONCE = 4
_EXACT = 9  # decimals of a voxel that are kept: far below what any layout writes


def corners_of_edges(low: Sequence[float], high: Sequence[float]) -> Corners:
    """Corner voxels of a box from its outer edges, in index coordinates; below one voxel it becomes that voxel.

    Example:
        >>> corners_of_edges((-0.5, 9.5), (3.5, 10.5))
        (0.0, 10.0, 3.0, 10.0)
    """
    starts: list[float] = []
    ends: list[float] = []
    for a, b in zip(low, high, strict=True):
        wide = b - a >= 1
        starts.append(round(a + 0.5 if wide else (a + b) / 2, _EXACT) + 0.0)
        ends.append(round(b - 0.5 if wide else (a + b) / 2, _EXACT) + 0.0)
    return (*starts, *ends)


def edges_of_corners(corners: Corners) -> tuple[Corners, Corners]:
    """The outer edges (low, high) of a box in index coordinates; the inverse of ``corners_of_edges``."""
    half = len(corners) // 2
    return tuple(v - 0.5 for v in corners[:half]), tuple(v + 0.5 for v in corners[half:])


class Fitting:
    """Boxes held against the size of their image: what sticks out is cut off and counted, what lies outside refused.

    Args:
        what: The layout's file, for the warning.
    """

    def __init__(self, what: str) -> None:
        self.what, self.cut, self.first = what, 0, ""

    def fit(self, corners: Corners, shape: Sequence[int], where: str) -> Corners:
        """The part of a box that lies in an image of ``shape``.

        Raises:
            DatasetError: Undefined, or wholly outside.
        """
        half = len(shape)
        if len(corners) == 2 * half:
            for a, b, n in zip(corners, corners[half:], shape, strict=False):
                if not 0 <= a <= b <= n - 1:
                    break
            else:
                return corners  # nearly every box lies inside
        if len(corners) != 2 * half or not all(math.isfinite(v) for v in corners):
            raise DatasetError(f"{where}: a box has undefined corners", got=corners)
        low, high = corners[:half], corners[half:]
        outside = any(a > n - 0.5 or b < -0.5 for a, b, n in zip(low, high, shape, strict=True))
        if outside:
            raise DatasetError(
                f"{where}: a box lies outside its image", got=_shown(corners), expected=f"inside {_shape(shape)}"
            )
        fitted = (
            *(min(max(a, 0.0), n - 1.0) for a, n in zip(low, shape, strict=True)),
            *(max(min(b, n - 1.0), 0.0) for b, n in zip(high, shape, strict=True)),
        )
        if max(abs(a - b) for a, b in zip(fitted, corners, strict=True)) > 1:
            self.cut += 1
            self.first = self.first or where
        return fitted

    def warn(self) -> None:
        """Say how many boxes were cut by more than a voxel."""
        if self.cut:
            warnings.warn(
                f"{self.what}: {self.cut} boxes reach beyond their image and were cut at its edge, first {self.first}",
                QualityWarning,
                stacklevel=4,
            )


def _shown(corners: Corners) -> str:
    return ", ".join(f"{v:g}" for v in corners)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(str(n) for n in shape)


def picture_shapes(files: Iterable[tuple[Path, str | None]]) -> list[tuple[int, ...]]:
    """Sizes of images, given as file and member, from their headers alone (pictures: rows, then columns).

    Raises:
        ReadError: A file that is no image.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda file: open_header(*file).geometry.shape, files))
