"""From a detector's numbers to boxes: places decoded, windows and views put together, networks fused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medmap.decision import Decision, box_chances
from medmap.metrics.boxes import BoxList
from medmap.results import Boxes
from medmap.runtime import Windows, each_window, fused, suppressed
from medmap.tasks.box_targets import decoded
from medmap.tasks.protocol import Forward

LEAST_SCORE = 0.01  # what is less sure is no finding on any curve
MOST_OF_A_WINDOW = 300  # boxes of a window that are looked at, the surest ones
MOST_OF_AN_IMAGE = 4000  # boxes of all windows together, the surest ones; judging looks at 100 a class
MOST_KEPT = 1000  # of these, that overlap no surer one
WINDOWS_AT_ONCE = 4
VOTE = 0.6  # overlap (IoU) from which a suppressed box has a say in where the kept one lies


@dataclass(frozen=True, eq=False)
class Found:
    """Boxes on a prepared grid, best first.

    Args:
        corners: (n, 2·ndim) at voxel centres.
        scores: (n,) in 0…1.
        labels: (n,) classes.
    """

    corners: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reading:
    """How a detector's answers are read.

    Args:
        priors: (places, 2·ndim) centre and sides of the box that each answer starts from.
        patch: Voxels along each axis of what the network sees.
        outputs: Classes.
        anchored, two_stage: How the numbers tell boxes (``decoded``); in two stages they are edges already.
        overlap, most_overlap, fuse: As ``DetectSection``.
    """

    priors: NDArray[np.float32]
    patch: tuple[int, ...]
    outputs: int
    anchored: bool
    two_stage: bool
    overlap: float
    most_overlap: float
    fuse: float

    @property
    def ndim(self) -> int:
        """Axes of the images."""
        return len(self.patch)

    def windows(self, image: NDArray[np.float32]) -> Windows:
        """How an image is covered."""
        return Windows(self.patch, self.overlap, WINDOWS_AT_ONCE, fill=float(image.min()))

    def found(self, network: Forward, image: NDArray[np.float32], windows: Windows | None = None) -> Found:
        """The boxes of one prepared image.

        Windows overlap; of each, the boxes are taken whose centre lies nearer to its middle than to its neighbour's,
        so that an object which one window cuts is told by the one that holds it. Boxes of several networks that mean
        the same are fused.

        Args:
            network: (batch, channels, patch …) to (batch, places, numbers), or (batch, members, places, numbers).
            image: (channels, spatial …) prepared.
            windows: How to cover it; None as ``windows`` says.
        """
        windows = windows or self.windows(image)
        n = self.ndim
        zones = [_zones(starts, side) for starts, side in zip(windows.starts(image.shape[1:]), self.patch, strict=True)]
        voters: list[list[Found]] = []
        for corner, answer in each_window(network, image, windows):
            rows = answer[None] if answer.ndim == 2 else answer
            voters = voters or [[] for _ in rows]
            low, high = np.array([zone[at] for zone, at in zip(zones, corner, strict=True)]).T
            for voter, numbers in zip(voters, rows, strict=True):
                one = self.of_window(numbers)
                corners = one.corners + np.tile(corner, 2)
                middle = (corners[:, :n] + corners[:, n:]) / 2
                kept = ((middle >= low) & (middle < high)).all(1)
                voter.append(Found(corners[kept], one.scores[kept], one.labels[kept]))
        each = [self._suppressed(_joined(voter)) for voter in voters]
        return self._inside(self.fused(each), image.shape[1:])

    def viewed(
        self,
        network: Forward,
        image: NDArray[np.float32],
        views: Sequence[Sequence[int]] = ((),),
        windows: Windows | None = None,
    ) -> Found:
        """As ``found``, for an image and its mirrored views together.

        Args:
            network: As ``found``.
            image: (channels, spatial …) prepared.
            views: For each view the spatial axes that are mirrored; ``()`` is the image as it is.
            windows: As ``found``.
        """
        n, last = self.ndim, np.array(image.shape[1:]) - 1
        each = []
        for view in views:
            turned = np.ascontiguousarray(np.flip(image, tuple(axis + 1 for axis in view))) if view else image
            one = self.found(network, turned, windows)
            low, high = one.corners[:, :n].copy(), one.corners[:, n:].copy()
            for axis in view:
                low[:, axis], high[:, axis] = last[axis] - one.corners[:, n + axis], last[axis] - one.corners[:, axis]
            each.append(Found(np.concatenate([low, high], axis=1), one.scores, one.labels))
        return self.fused(each)

    def of_window(self, numbers: NDArray[np.float32]) -> Found:
        """The surest boxes that (places, classes + 2·ndim) numbers tell, none suppressed yet."""
        import torch

        n = self.ndim
        logits = numbers[:, : self.outputs].astype(np.float64)
        scores = 1 / (1 + np.exp(-logits))
        places, labels = np.nonzero(scores >= LEAST_SCORE)
        value = scores[places, labels]
        best = np.argsort(-value, kind="stable")[:MOST_OF_A_WINDOW]
        places, labels, value = places[best], labels[best], value[best]
        told = torch.from_numpy(np.ascontiguousarray(numbers[places, self.outputs :]))
        if not self.two_stage:
            told = decoded(told, torch.from_numpy(self.priors[places]), self.anchored)
        edges = told.numpy().astype(np.float64)
        middle = (edges[:, :n] + edges[:, n:]) / 2 - 0.5
        half = np.maximum(edges[:, n:] - edges[:, :n] - 1, 0) / 2  # below one voxel a box becomes that voxel
        return Found(np.concatenate([middle - half, middle + half], axis=1), value, labels)

    def _suppressed(self, one: Found) -> Found:
        if len(one.scores) > MOST_OF_AN_IMAGE:
            best = np.argsort(-one.scores, kind="stable")[:MOST_OF_AN_IMAGE]
            one = Found(one.corners[best], one.scores[best], one.labels[best])
        kept, corners = suppressed(one.corners, one.scores, one.labels, self.most_overlap, vote=VOTE)
        kept, corners = kept[:MOST_KEPT], corners[:MOST_KEPT]
        return Found(corners, one.scores[kept], one.labels[kept])

    def fused(self, each: Sequence[Found]) -> Found:
        """The answer of several networks or views together."""
        if len(each) == 1:
            return each[0]
        every = _joined(each)
        voters = np.repeat(np.arange(len(each)), [len(one.scores) for one in each])
        parts = every.corners, every.scores, every.labels, voters
        return Found(*fused(*parts, least=self.fuse, count=len(each)))

    def _inside(self, one: Found, shape: Sequence[int]) -> Found:
        """What lies in the image, cut at its edge."""
        n, last = self.ndim, np.array(shape) - 1
        low, high = np.clip(one.corners[:, :n], 0, last), np.clip(one.corners[:, n:], 0, last)
        kept = ((one.corners[:, :n] <= last) & (one.corners[:, n:] >= 0)).all(1)
        return Found(np.concatenate([low, high], axis=1)[kept], one.scores[kept], one.labels[kept])

    def of_patch(self, numbers: NDArray[np.float32]) -> Found:
        """The boxes of one window that is the whole image, from (places, numbers) or (members, places, numbers)."""
        rows = numbers[None] if numbers.ndim == 2 else numbers
        one = self.fused([self._suppressed(self.of_window(row)) for row in rows])
        return self._inside(one, self.patch)


def decided(boxes: Boxes, decision: Decision | None) -> Boxes:
    """Boxes with scores that are probabilities, and with the operating point, as far as a decision has them.

    Args:
        boxes: With scores as networks give them.
        decision: ``temperature`` and ``prior_shift`` of each class, ``thresholds``.
    """
    if decision is None:
        return boxes
    warm, shift = decision.temperature, decision.prior_shift
    if shift is None:
        return replace(boxes, thresholds=decision.thresholds)
    each = np.broadcast_to(np.asarray(warm, dtype=np.float64), (len(boxes.labels),))
    scores = box_chances(boxes.scores, each[boxes.label_ids], np.asarray(shift)[boxes.label_ids])
    order = np.argsort(-scores, kind="stable")
    fitted = bool(((each != 1) | (np.asarray(shift) != 0)).all())
    better = replace(boxes, scores=scores, calibrated=fitted, thresholds=decision.thresholds)
    return better.taken(order)


def _zones(starts: Sequence[int], side: int) -> dict[int, tuple[float, float]]:
    """First voxel of each window along an axis → from where to where its boxes' centres count."""
    middles = [(after + before + side) / 2 - 0.5 for before, after in itertools.pairwise(starts)]
    return dict(zip(starts, zip((-np.inf, *middles), (*middles, np.inf), strict=True), strict=True))


def _joined(each: Sequence[Found]) -> Found:
    return Found(
        np.concatenate([one.corners for one in each]),
        np.concatenate([one.scores for one in each]),
        np.concatenate([one.labels for one in each]),
    )


def listed(each: Sequence[Found], ndim: int) -> BoxList:
    """Found boxes of several cases as the metrics take them."""
    joined = _joined(each)
    cases = np.repeat(np.arange(len(each)), [len(one.scores) for one in each])
    return BoxList(cases, joined.corners.reshape(-1, 2 * ndim), joined.labels, joined.scores)


def true_boxes(truths: Sequence[NDArray[np.float32]], ndim: int) -> BoxList:
    """True boxes of several cases as the metrics take them, once for each class that they have."""
    rows = [(case, row) for case, truth in enumerate(truths) for row in truth]
    listed = [(case, row, int(label)) for case, row in rows for label in np.flatnonzero(row[2 * ndim + 1 :])]
    edges = np.array([row[: 2 * ndim] for _, row, _ in listed], dtype=np.float64).reshape(-1, 2 * ndim)
    edges[:, ndim:] = np.maximum(edges[:, ndim:] - 1, edges[:, :ndim])
    return BoxList(
        np.array([case for case, _, _ in listed], dtype=np.int64),
        edges,
        np.array([label for _, _, label in listed], dtype=np.int64),
        ignored=np.array([row[2 * ndim] < 0 for _, row, _ in listed], dtype=np.bool_),
    )
