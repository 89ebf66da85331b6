"""Average precision of boxes as COCO has it, with intervals over patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.metrics.boxes import BoxMatches
from medmap.metrics.inputs import Bools, Floats, Ints, Patients
from medmap.metrics.intervals import Bootstrap

RECALLS = np.linspace(0, 1, 101)
_TINY = np.spacing(1)
_CHUNK_CELLS = 400_000  # weighed boxes held at once: they stay near the processor


class RankedBoxes:
    """Found boxes of one class in the order of their scores, ready to be weighed again and again.

    Args:
        hit: (k,) whether each is right; in falling order of scores, without those that are neither right nor wrong.
        codes: (k,) whose weight each box takes.
        true_codes: (n,) whose weight each true box takes.
        count: How many weights there are.
    """

    def __init__(self, hit: Bools, codes: Ints, true_codes: Ints, count: int) -> None:
        last = int(np.flatnonzero(hit)[-1]) + 1 if hit.any() else 0
        hit, codes = hit[:last], codes[:last]  # what comes after the last right one changes nothing
        self.right, self.wrong = codes[hit], codes[~hit]
        self._wrong_above = np.searchsorted(np.flatnonzero(~hit), np.flatnonzero(hit))
        self._true = np.bincount(true_codes, minlength=count).astype(np.float64)

    @property
    def cells(self) -> int:
        """Numbers that one set of weights is spread over."""
        return len(self.right) + len(self.wrong)

    def value(self) -> float:
        """Average precision of the boxes as they are; NaN where there is nothing to find."""
        return float(self.weighted(np.ones((1, len(self._true))))[0])

    def curve(self) -> tuple[Floats, Floats]:
        """Recall and precision at every right box."""
        recall, precision = self._points(np.ones((1, len(self._true))))
        return recall[0], precision[0]

    def _points(self, weights: NDArray[np.floating]) -> tuple[Floats, Floats]:
        rights = np.cumsum(weights[:, self.right], axis=1, dtype=np.float64)
        wrongs = np.zeros((len(weights), len(self.wrong) + 1))
        np.cumsum(weights[:, self.wrong], axis=1, dtype=np.float64, out=wrongs[:, 1:])
        total = weights @ self._true
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = rights / total[:, None]
        return recall, rights / (rights + wrongs[:, self._wrong_above] + _TINY)

    def weighted(self, weights: NDArray[np.floating]) -> Floats:
        """(draws,) average precision of each draw; NaN where it holds nothing to find.

        Args:
            weights: (draws, count).
        """
        found = []
        rows = max(1, _CHUNK_CELLS // max(self.cells, 1))
        for start in range(0, len(weights), rows):
            recall, precision = self._points(weights[start : start + rows])
            best = np.zeros((len(recall), recall.shape[1] + 1))  # a recall that is never reached has precision 0
            best[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for reached, of in zip(recall, best, strict=True):
                found.append(float(of[np.searchsorted(reached, RECALLS, side="left")].mean()))
        values = np.array(found)
        values[(weights @ self._true) == 0] = np.nan
        return values


def ranked(matches: BoxMatches, threshold: int, label: int, who: Patients) -> RankedBoxes:
    """The boxes of a class at one of the thresholds.

    Args:
        matches: Boxes matched.
        threshold: Number of the threshold.
        label: The class.
        who: Patient of each case.
    """
    rows = np.flatnonzero((matches.found.labels == label) & ~matches.ignored[threshold])
    rows = rows[np.argsort(-matches.found.scores[rows], kind="stable")]
    true = matches.true.cases[(matches.true.labels == label) & matches.counted]
    hit = matches.truth[threshold, rows] >= 0
    return RankedBoxes(hit, who.codes[matches.found.cases[rows]], who.codes[true], who.count)


@dataclass(frozen=True, eq=False)
class AveragePrecisions:
    """Average precision of each class at each threshold, and of every draw of patients.

    Args:
        thresholds: (t,) intersection over union.
        values: (t, classes), NaN for a class that is nowhere to be found.
        draws: (t, classes, replicates); None where none was asked for.
    """

    thresholds: tuple[float, ...]
    values: Floats
    draws: Floats | None = None


def average_precisions(
    matches: BoxMatches, classes: int, patients: Patients, bootstrap: Bootstrap | None = None
) -> AveragePrecisions:
    """Average precision of boxes: the mean of the interpolated precision at 101 recalls.

    Args:
        matches: Boxes held against the true ones (``match_boxes``).
        classes: Number of classes.
        patients: Patient of each case.
        bootstrap: Draws of patients, for intervals; None: the values alone.

    Source: Lin et al., Microsoft COCO, ECCV (2014); equal to pycocotools.

    Example:
        >>> from medmap.metrics import BoxList, match_boxes
        >>> true = BoxList([0, 1], [[0, 0, 9, 9], [5, 5, 14, 14]], [0, 0])
        >>> found = BoxList([0, 1], [[0, 0, 9, 9], [40, 40, 49, 49]], [0, 0], [0.9, 0.8])
        >>> matches = match_boxes(found, true, [0.5])
        >>> average_precisions(matches, 1, Patients.of(None, 2)).values.round(3).tolist()
        [[0.505]]
    """
    shape = (len(matches.thresholds), classes)
    values = np.full(shape, np.nan)
    each = {(t, c): ranked(matches, t, c, patients) for t in range(shape[0]) for c in range(classes)}
    for (t, c), boxes in each.items():
        values[t, c] = boxes.value()
    if bootstrap is None:
        return AveragePrecisions(matches.thresholds, values)
    parts = []
    for weights in bootstrap.affordable(sum(boxes.cells for boxes in each.values())).weights(patients.count):
        parts.append(np.array([[each[t, c].weighted(weights) for c in range(classes)] for t in range(shape[0])]))
    return AveragePrecisions(matches.thresholds, values, np.concatenate(parts, axis=2))
