"""Boxes beside the true ones: how far they overlap, and which box found which finding (COCO's rule).

A box is stored by the centres of its corner voxels, as ``medmap.results.Boxes`` has it: along an axis it is
``high − low + 1`` voxels long. Many cases are matched at once, without a loop over cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import UsageError
from medmap.metrics.inputs import Bools, Floats, Ints

MOST_DETECTIONS = 100  # boxes of a class in a case that are looked at: COCO's number, and LUNA16's
COCO_IOU = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_MOST_PAIRS = 2_000_000  # pairs of boxes held at once
_NEARLY = 1 - 1e-10  # a threshold of 1 asks for this, as COCO has it

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class BoxList:
    """Boxes of many cases in one block: found ones with scores, or true ones.

    Args:
        cases: (n,) number of the case that each box lies in, from 0.
        corners: (n, 2·ndim) low corner, then high corner, in index coordinates at voxel centres.
        labels: (n,) class of each, from 0.
        scores: (n,) larger for surer; 1 where absent, as for true boxes.
        ignored: (n,) whether a true box is neither to be found nor to be missed; False where absent.
        centres: (n, k) position of each, in mm; from the corners, in voxels, where absent.
        diameters: (n,) how large each is, in the same unit; from the corners, in voxels, where absent
            (``box_diameters``).

    Raises:
        UsageError: Lengths that differ, swapped or undefined corners, a negative number of a case or class.
    """

    cases: Ints
    corners: Floats
    labels: Ints
    scores: Floats = None  # type: ignore[assignment]
    ignored: Bools = None  # type: ignore[assignment]
    centres: Floats = None  # type: ignore[assignment]
    diameters: Floats = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        corners = np.asarray(self.corners, dtype=np.float64)
        if corners.ndim != 2 or corners.shape[1] % 2 or not corners.shape[1]:
            raise UsageError("boxes have two corners each", got=corners.shape, expected="(boxes, 2·ndim)")
        n, half = len(corners), corners.shape[1] // 2
        low, high = corners[:, :half], corners[:, half:]
        if not np.isfinite(corners).all() or (low > high).any():
            raise UsageError("a box has swapped or undefined corners", expected="low ≤ high along each axis")
        plain: dict[str, Any] = {
            "scores": (np.ones(n), np.float64),
            "ignored": (np.zeros(n), np.bool_),
            "centres": ((low + high) / 2, np.float64),
            "diameters": (box_diameters(high - low + 1), np.float64),
            "cases": (None, np.int64),
            "labels": (None, np.int64),
        }
        object.__setattr__(self, "corners", corners)
        for name, (absent, kind) in plain.items():
            given = getattr(self, name)
            value = np.asarray(absent if given is None else given, dtype=kind)
            if len(value) != n:
                raise UsageError(f"the boxes' {name} do not fit the boxes", got=len(value), expected=n)
            if kind is not np.bool_ and not np.isfinite(value).all():
                raise UsageError(f"the boxes' {name} are not all finite")
            object.__setattr__(self, name, value)
        if n and min(self.cases.min(), self.labels.min()) < 0:
            raise UsageError("cases and classes of boxes are numbered from 0")

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def ndim(self) -> int:
        """Axes of the boxes."""
        return int(self.corners.shape[1]) // 2

    def at(self, where: NDArray[Any]) -> BoxList:
        """Some of the boxes: a mask (n,) or row numbers."""
        names = ("cases", "corners", "labels", "scores", "ignored", "centres", "diameters")
        return replace(self, **{name: getattr(self, name)[where] for name in names})


def box_diameters(edges: Floats) -> Floats:
    """(n,) one size of each box: in a plane the root of its area (as COCO's sizes), else the median of its edges.

    The median is the diameter of a ball also where its box was cut at the image's border along one axis, or where one
    axis has voxels thicker than the ball.

    Args:
        edges: (n, ndim) edge lengths, in any unit.

    Example:
        >>> box_diameters(np.array([[4.0, 9.0]])).tolist(), box_diameters(np.array([[6.0, 6.1, 10.0]])).tolist()
        ([6.0], [6.1])
    """
    if edges.shape[1] == 2:
        return np.asarray(np.sqrt(edges.prod(axis=1)))
    return np.median(edges, axis=1) if len(edges) else np.zeros(0)


def box_iou(first: ArrayLike, second: ArrayLike) -> Floats:
    """Intersection over union of every box with every other, on any number of axes.

    Args:
        first: (a, 2·ndim) corners at voxel centres.
        second: (b, 2·ndim) corners.

    Returns:
        (a, b) in 0 … 1.

    Raises:
        UsageError: No corners, or of other numbers of axes.

    Source: Jaccard, New Phytologist 11:37–50 (1912).

    Example:
        >>> box_iou([[0, 0, 9, 9]], [[0, 5, 9, 14], [20, 20, 29, 29]]).round(3).tolist()
        [[0.333, 0.0]]
    """
    a, b = (np.asarray(boxes, dtype=np.float64) for boxes in (first, second))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] % 2:
        raise UsageError("boxes to compare have the same axes", got=f"{a.shape} and {b.shape}")
    rows, columns = (grid.ravel() for grid in np.indices((len(a), len(b))))
    return overlaps(a[rows], b[columns]).reshape(len(a), len(b))


def overlaps(first: Floats, second: Floats, crowd: Bools | None = None) -> Floats:
    """(n,) intersection over union of pairs of boxes (n, 2·ndim); over the first box alone where ``crowd``."""
    n = first.shape[1] // 2
    common = np.ones(len(first))
    for axis in range(n):
        end = np.minimum(first[:, n + axis], second[:, n + axis])
        common *= np.maximum(end - np.maximum(first[:, axis], second[:, axis]) + 1, 0)
    one = (first[:, n:] - first[:, :n] + 1).prod(axis=1)
    either = one + (second[:, n:] - second[:, :n] + 1).prod(axis=1) - common
    return np.asarray(common / (either if crowd is None else np.where(crowd, one, either)))


def kept_rows(found: BoxList, most: int = MOST_DETECTIONS) -> tuple[Ints, Ints]:
    """The boxes that are looked at: of each class and case the ``most`` surest.

    Returns:
        Row numbers by class, case and falling score (ties as they stand); and each one's rank in its case, from 0.
    """
    order = np.lexsort((-found.scores, found.cases, found.labels))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = np.diff(found.cases[order]) != 0
    new[1:] |= np.diff(found.labels[order]) != 0
    starts = np.flatnonzero(new)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    inside = rank < most
    return order[inside], rank[inside]


def pairs(found: BoxList, true: BoxList, rows: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Every pair of a found and a true box of the same case and class, a block of them at a time.

    Args:
        found: The found boxes.
        true: The true ones.
        rows: Which found boxes, as ``kept_rows`` gives them.

    Yields:
        Positions in ``rows``, rising, and rows of ``true``; ignored ones last within a pair's found box.
    """
    order = np.lexsort((true.ignored, true.cases, true.labels))
    wide = 1 + max(found.cases.max(initial=0), true.cases.max(initial=0))
    key, of_true = found.labels[rows] * wide + found.cases[rows], (true.labels * wide + true.cases)[order]
    start, end = np.searchsorted(of_true, key, side="left"), np.searchsorted(of_true, key, side="right")
    count = end - start
    total = np.cumsum(count)
    done = 0
    while done < len(rows):
        used = total[done - 1] if done else 0
        stop = max(done + 1, int(np.searchsorted(total, used + _MOST_PAIRS, side="right")))
        here = count[done:stop]
        which = np.repeat(np.arange(done, stop), here)
        inside = np.arange(len(which)) - np.repeat(np.cumsum(here) - here, here)
        yield which, order[start[which] + inside]
        done = stop


@dataclass(frozen=True, eq=False)
class BoxMatches:
    """Which found box was matched with which true one, at several thresholds of overlap.

    Args:
        thresholds: (t,) intersection over union from which a box is found.
        rows: (k,) rows of the found boxes that were looked at, by class, case and falling score.
        found: These boxes, in this order.
        true: The true boxes.
        truth: (t, k) row of the true box that each was matched with, −1 for none.
        ignored: (t, k) whether a found box is neither right nor wrong.
        counted: (n,) whether each true box is to be found.
    """

    thresholds: tuple[float, ...]
    rows: Ints
    found: BoxList
    true: BoxList
    truth: Ints
    ignored: Bools
    counted: Bools

    @property
    def hit(self) -> Bools:
        """(t, k) whether each found box is right."""
        return np.asarray((self.truth >= 0) & ~self.ignored)


def match_boxes(
    found: BoxList,
    true: BoxList,
    thresholds: Sequence[float] = COCO_IOU,
    *,
    most: int = MOST_DETECTIONS,
    sizes: Range | None = None,
) -> BoxMatches:
    """Match boxes of each class and case as COCO does: the surest first, each with the free true box it covers best.

    A true box is found once; a second box on it is wrong. A box on an ignored one (by the share of its own area or
    volume) is neither right nor wrong, however many there are. With ``sizes``, true boxes of other sizes are ignored,
    and so are found boxes of other sizes that match nothing.

    Args:
        found: The found boxes.
        true: The true ones.
        thresholds: Intersection over union, each in (0, 1].
        most: Boxes of a class in a case that are looked at, the surest.
        sizes: Smallest and largest ``diameters``, both included.

    Raises:
        UsageError: Boxes of other numbers of axes, thresholds out of range, no box to look at.

    Source: Lin et al., Microsoft COCO, ECCV (2014); the rule is that of its evaluation (pycocotools, ``evaluateImg``).

    Example:
        >>> true = BoxList([0, 0], [[0, 0, 9, 9], [20, 20, 29, 29]], [0, 0])
        >>> found = BoxList([0, 0], [[1, 0, 10, 9], [0, 0, 9, 9]], [0, 0], [0.9, 0.8])
        >>> match_boxes(found, true, [0.5]).truth.tolist()
        [[0, -1]]
    """
    if found.ndim != true.ndim:
        raise UsageError("found and true boxes have other axes", got=found.ndim, expected=true.ndim)
    if not thresholds or not all(0 < t <= 1 for t in thresholds) or most < 1:
        raise UsageError("a threshold of overlap lies in 0 … 1", got=f"{list(thresholds)}, {most} boxes a case")
    rows, rank = kept_rows(found, most)
    kept = found.at(rows)
    spared = true.ignored.copy()
    if sizes is not None:
        spared |= (true.diameters < sizes[0]) | (true.diameters > sizes[1])
    limits = np.minimum(np.asarray(thresholds, dtype=np.float64), _NEARLY)
    candidates, shares = _candidates(found, true, rows, spared, float(limits.min()))
    truth = _greedy(candidates, shares, rank, limits, true.ignored)
    ignored = np.where(truth >= 0, spared[truth] if len(true) else False, False)
    if sizes is not None:
        ignored |= (truth < 0) & ((kept.diameters < sizes[0]) | (kept.diameters > sizes[1]))
    return BoxMatches(tuple(thresholds), rows, kept, true, truth, ignored, ~spared)


def _candidates(found: BoxList, true: BoxList, rows: Ints, spared: Bools, least: float) -> tuple[Ints, Floats]:
    """(k, c) true boxes that each found box may take, in the order in which it would: those that count before those
    that do not, then by overlap, of equal ones the last; −1 behind them. And (k, c) the overlaps.
    """
    parts: list[tuple[Ints, Ints, Floats]] = []
    for which, whom in pairs(found, true, rows):
        share = overlaps(found.corners[rows[which]], true.corners[whom], true.ignored[whom])
        near = share >= least
        parts.append((which[near], whom[near], share[near]))
    none = np.zeros(0, dtype=np.int64)
    which, whom = (np.concatenate([none, *(part[i] for part in parts)]).astype(np.int64) for i in (0, 1))
    share = np.concatenate([np.zeros(0), *(part[2] for part in parts)])
    order = np.lexsort((-whom, -share, spared[whom], which))
    which, whom, share = which[order], whom[order], share[order]
    count = np.bincount(which, minlength=len(rows))
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    wide = int(count.max(initial=0))
    candidates, shares = np.full((len(rows), wide), -1, dtype=np.int64), np.zeros((len(rows), wide))
    candidates[which, place], shares[which, place] = whom, share
    return candidates, shares


def _greedy(candidates: Ints, shares: Floats, rank: Ints, limits: Floats, crowd: Bools) -> Ints:
    """(t, k) the true box each found box takes: all cases at once, the surest box of each, then the second, …"""
    truth = np.full((len(limits), len(candidates)), -1, dtype=np.int64)
    if not candidates.size:
        return truth
    free = np.ones((len(limits), len(crowd)), dtype=np.bool_)
    at_threshold = np.arange(len(limits))[:, None]
    some = np.flatnonzero(candidates[:, 0] >= 0)  # the others take nothing
    some = some[np.argsort(rank[some], kind="stable")]
    for now in np.split(some, np.flatnonzero(np.diff(rank[some])) + 1):
        asked = candidates[now]
        able = free[:, asked] & (asked >= 0) & (shares[now] >= limits[:, None, None])
        first = able.argmax(axis=2)
        taken = np.where(able.any(axis=2), asked[np.arange(len(now)), first], -1)
        truth[:, now] = taken
        once = (taken >= 0) & ~crowd[taken]
        which = np.broadcast_to(at_threshold, taken.shape)[once]
        free[which, taken[once]] = False
    return truth
