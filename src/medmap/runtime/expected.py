"""How well a mask is expected to agree with the truth, from the scores it was taken from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.runtime.machine import available_cores
from medmap.runtime.threads import side_by_side
from medmap.runtime.windows import Floats, Place

ABSENT_VOXELS = 0.5  # a structure of which less is expected, and nothing was found, is absent


@dataclass(frozen=True, eq=False)
class ExpectedOverlap:
    """Sums over an image, one a class.

    Args:
        found: (classes,) voxels of the mask.
        hits: (classes,) sum of the class's probability over them.
        expected: (classes,) sum of its probability over all voxels.
    """

    found: NDArray[np.float64]
    hits: NDArray[np.float64]
    expected: NDArray[np.float64]

    @property
    def dice(self) -> NDArray[np.float64]:
        """(classes,) Dice of the mask with a truth of which each voxel is as probable as it was scored.

        The ratio of the expectations, 2 Σ p over the mask / (voxels of the mask + Σ p): Dice with the probabilities
        themselves. NaN for a class that was neither found nor expected.
        """
        both = self.found + self.expected
        there = (self.found > 0) | (self.expected >= ABSENT_VOXELS)
        return np.where(there, 2 * self.hits / np.maximum(both, 1e-12), np.nan)


class ExpectedOverlapSink:
    """Gathers ``ExpectedOverlap`` on the network's grid, in the memory of a few numbers.

    Args:
        threads: None: as many as cores may be used.
        exclusive: Whether a voxel is of one class (softmax, the largest is the mask); else each class stands for
            itself (the logistic function, above one half is the mask).
    """

    def __init__(self, threads: int | None = None, exclusive: bool = True) -> None:
        self.threads, self.exclusive = threads or available_cores(), exclusive
        self._sums: NDArray[np.float64] | None = None

    def add(self, slab: Floats, where: Place) -> None:
        """Take (classes, *spatial) scores."""
        from medmap.runtime.kernels import compiled, expected_overlap, expected_regions

        planes = np.moveaxis(slab, 1 + where.axis, 0)
        if self._sums is None:
            self._sums = np.zeros((planes.shape[1], 3))
        found = np.zeros((len(planes), planes.shape[1], 3))
        gather = compiled(expected_overlap if self.exclusive else expected_regions)

        def one(z: int) -> None:
            gather(np.ascontiguousarray(planes[z]).reshape(planes.shape[1], -1), found[z])

        side_by_side(one, range(len(planes)), self.threads)
        self._sums += found.sum(0)

    def finish(self) -> ExpectedOverlap:
        """The sums; without any scores, of nothing."""
        sums = np.zeros((0, 3)) if self._sums is None else self._sums
        return ExpectedOverlap(sums[:, 0], sums[:, 1], sums[:, 2])

    def bytes_needed(self, classes: int, plane: int, planes: int) -> int:
        """Memory for an image with ``plane`` voxels in a plane."""
        return self.threads * (classes + 3) * plane * 4


def mean_dice(dice: NDArray[Any], structures: Sequence[int]) -> float | None:
    """Mean over those of some classes that are there; None where there is none."""
    some = np.asarray(dice)[list(structures)]
    return float(np.nanmean(some)) if np.isfinite(some).any() else None
