"""Boxes from several windows, views and networks made one: suppression and weighted fusion, in any number of axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.metrics.boxes import box_iou
from medmap.runtime.kernels import compiled, suppress_boxes

Floats = NDArray[np.float64]


def suppressed(
    corners: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], most: float, *, vote: float
) -> tuple[NDArray[np.intp], Floats]:
    """Numbers of the boxes that are kept, best first, when those of one class may overlap by ``most`` (IoU) at most.

    The boxes that a kept one suppresses say, too, where it lies: its corners become the mean of its own and of those
    that it overlaps by ``vote`` at least, weighted by their squared scores. Which of several nearly equal boxes is
    surest by a hair then matters little: answers stay the same in lower precision. Source: Gidaris and Komodakis 2015,
    box voting, https://arxiv.org/abs/1505.01749; the square is ours.

    Args:
        corners: (n, 2·ndim) low and high corners at voxel centres.
        scores: (n,).
        labels: (n,) classes; boxes of two classes do not suppress each other.
        most: Largest IoU of two boxes that are both kept.
        vote: Smallest IoU with which a suppressed box has a say; above 1 none has.

    Returns:
        (m,) numbers, best first, and (m, 2·ndim) their corners.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    places = np.array(corners, dtype=np.float64)[order]
    weights = np.maximum(np.asarray(scores, dtype=np.float64)[order] ** 2, 1e-12)
    kept = np.ones(len(order), dtype=np.bool_)
    compiled(suppress_boxes)(places, weights, np.asarray(labels, dtype=np.int64)[order], most, vote, kept)
    return order[kept], places[kept]


def fused(
    corners: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    voters: NDArray[Any],
    *,
    least: float,
    count: int,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Boxes that mean the same, as one: the mean of their corners weighted by their scores.

    A box joins the cluster of its class that it overlaps most, from ``least`` on; of each voter (network, view) the
    surest box counts and others in the same place are dropped. The score of a cluster is the mean over all voters, one
    that did not find it counting 0. Source: Solovyev et al. 2021, weighted boxes fusion,
    https://arxiv.org/abs/1910.13302, but for the voters, whose second boxes would pull the score down.

    Args:
        corners: (n, 2·ndim) of all voters together.
        scores: (n,).
        labels: (n,).
        voters: (n,) who found each, 0 to count − 1.
        least: Smallest IoU with a cluster's box.
        count: How many voters there are.

    Returns:
        (m, 2·ndim) corners, (m,) scores and (m,) labels, best first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    width = corners.shape[1]
    middles = np.zeros((len(order), width))
    sums = np.zeros((len(order), width + 1))  # weighted corners, scores
    kinds = np.full(len(order), -1, dtype=np.int64)
    heard = np.zeros((len(order), count), dtype=np.bool_)
    made = 0
    for number in order:
        mine = np.flatnonzero(kinds[:made] == labels[number])
        shared = box_iou(corners[number : number + 1], middles[mine])[0] if len(mine) else np.zeros(0)
        if len(shared) and shared.max() >= least:
            cluster = int(mine[int(shared.argmax())])
            if heard[cluster, voters[number]]:
                continue
        else:
            cluster, made = made, made + 1
            kinds[cluster] = labels[number]
        heard[cluster, voters[number]] = True
        weight = max(float(scores[number]), 1e-9)
        sums[cluster, :width] += weight * corners[number]
        sums[cluster, width] += weight
        middles[cluster] = sums[cluster, :width] / sums[cluster, width]
    value = sums[:made, width] / max(count, 1)
    best = np.argsort(-value, kind="stable")
    return middles[:made][best], value[best], kinds[:made][best]
