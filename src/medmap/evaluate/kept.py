"""The masks that went wrong, kept while a dataset is judged: no other mask is held in memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmap.geometry import Geometry
from medmap.metrics import MaskScores
from medmap.results import Label, Mask

MaskOf = Callable[[str], Mask | None]
MOST = 6


def badness(score: MaskScores) -> tuple[float, float]:
    """What masks are ordered by, worst first: the smallest Dice, then the largest HD95."""
    return score.dice, -(score.hd95_mm or 0.0)


@dataclass(frozen=True)
class _Packed:
    """A mask whose voxels are compressed: long runs of one label shrink a hundredfold."""

    voxels: bytes
    shape: tuple[int, ...]
    kind: np.dtype[Any]
    geometry: Geometry
    labels: Mapping[int, Label]
    calibrated: bool

    @classmethod
    def of(cls, mask: Mask) -> _Packed:
        array = np.ascontiguousarray(mask.array)
        voxels = zlib.compress(array.data, 1)
        return cls(voxels, array.shape, array.dtype, mask.geometry, mask.labels, mask.calibrated)

    def unpacked(self) -> Mask:
        array = np.frombuffer(zlib.decompress(self.voxels), self.kind).reshape(self.shape)
        return Mask(array, self.geometry, self.labels, self.calibrated)


class WorstKept:
    """From a case's identifier to its mask, for the worst cases among those judged so far; None for all others.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: dict[str, tuple[tuple[float, float], _Packed]] = {}

    def judged(self, case: str, mask: Mask, scores: Sequence[MaskScores]) -> None:
        """A case was judged; its mask is kept while no more than ``most`` others are as bad."""
        if not scores:
            return
        self._kept.pop(case, None)  # judged again
        bad = min(map(badness, scores))
        if len(self._kept) >= self._most:
            best = max(self._kept, key=lambda other: self._kept[other][0])
            if self._kept[best][0] <= bad:
                return
            del self._kept[best]
        self._kept[case] = bad, _Packed.of(mask)

    def __call__(self, case: str) -> Mask | None:
        """The mask of a case, or None where it was not kept."""
        found = self._kept.get(case)
        return None if found is None else found[1].unpacked()
