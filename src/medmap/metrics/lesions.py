"""Lesions one by one: which were found, and which of those called are there.

A lesion is a connected component of a structure's mask. Sources: Maier-Hein et al., Nat. Methods 21:195–212 (2024);
Carass et al., NeuroImage 148:77–102 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medmap.errors import UsageError

Connectivity = Literal["corners", "faces"]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class LesionCounts:
    """How many lesions there are, and how many of them meet one of the other mask.

    Args:
        truth: Lesions of the truth.
        prediction: Lesions of the prediction.
        found: Lesions of the truth that the prediction meets.
        confirmed: Lesions of the prediction that the truth meets.

    Raises:
        UsageError: More found than there are.
    """

    truth: int
    prediction: int
    found: int
    confirmed: int

    def __post_init__(self) -> None:
        if not (0 <= self.found <= self.truth and 0 <= self.confirmed <= self.prediction):
            got = f"{self.found} found of {self.truth}, {self.confirmed} confirmed of {self.prediction}"
            raise UsageError("counts of lesions contradict each other", got=got)

    @property
    def sensitivity(self) -> float | None:
        """Share of the truth's lesions that were found; None where there is none to find."""
        return self.found / self.truth if self.truth else None

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are there; None where none was predicted."""
        return self.confirmed / self.prediction if self.prediction else None

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; 1 where neither mask has a lesion, 0 where only one has."""
        if not (self.truth or self.prediction):
            return 1.0
        if not (self.found and self.confirmed and self.truth and self.prediction):
            return 0.0
        return 2 / (self.truth / self.found + self.prediction / self.confirmed)


def lesion_counts(
    truth: Bools, prediction: Bools, *, overlap: float = 0.0, connectivity: Connectivity = "corners"
) -> LesionCounts:
    """Count lesions and match them.

    A lesion of either mask is met when more than ``overlap`` of its voxels lie in the other mask; with 0, one common
    voxel is enough. Several lesions may be met by one: a prediction that covers everything finds every lesion, so read
    this beside Dice and surface distances, never alone.

    Args:
        truth: (*shape) bool, two or three axes.
        prediction: (*shape) bool.
        overlap: Share in [0, 1).
        connectivity: ``corners``: voxels that touch belong together (26 neighbours, 8 in a plane); ``faces``: only
            those that share a face (6, 4).

    Raises:
        UsageError: Shapes that differ, a share outside [0, 1), another connectivity.

    Example:
        >>> truth = np.array([[1, 1, 0, 0, 1, 0, 1]], bool)
        >>> counts = lesion_counts(truth, np.array([[0, 1, 1, 0, 0, 0, 1]], bool))
        >>> counts.found, counts.truth, counts.confirmed, counts.prediction, round(counts.f1, 2)
        (2, 3, 2, 2, 0.8)
    """
    from scipy import ndimage

    if truth.shape != prediction.shape:
        raise UsageError("truth and prediction have different shapes", got=prediction.shape, expected=truth.shape)
    checked_matching(overlap, connectivity)
    structure = ndimage.generate_binary_structure(truth.ndim, truth.ndim if connectivity == "corners" else 1)

    def met(mask: Bools, other: Bools) -> tuple[int, int]:
        parts, count = ndimage.label(mask, structure)
        if not count:
            return 0, 0
        common = np.bincount(parts[other & mask], minlength=count + 1)[1:]
        if overlap == 0:
            return count, int(np.count_nonzero(common))
        sizes = np.bincount(parts[mask], minlength=count + 1)[1:]
        return count, int(np.count_nonzero(common > overlap * sizes))

    (there, found), (called, confirmed) = met(truth, prediction), met(prediction, truth)
    return LesionCounts(there, called, found, confirmed)


def checked_matching(overlap: float, connectivity: str) -> None:
    """Refuse a rule of matching that is none.

    Raises:
        UsageError: A share outside [0, 1), another connectivity.
    """
    if not 0 <= overlap < 1:
        raise UsageError("the overlap that finds a lesion is a share", got=overlap, expected="0 ≤ overlap < 1")
    if connectivity not in ("corners", "faces"):
        raise UsageError("unknown connectivity", got=connectivity, expected="corners | faces")
