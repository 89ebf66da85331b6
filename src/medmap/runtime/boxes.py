"""Boxes from several windows, views and networks made one: suppression and weighted fusion, in any number of axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.metrics.boxes import box_iou

Floats = NDArray[np.float64]


def suppressed(corners: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], most: float) -> NDArray[np.intp]:
    """Numbers of the boxes that are kept, best first, when those of one class may overlap by ``most`` (IoU) at most.

    Args:
        corners: (n, 2·ndim) low and high corners at voxel centres.
        scores: (n,).
        labels: (n,) classes; boxes of two classes do not suppress each other.
        most: Largest IoU of two boxes that are both kept.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept: list[int] = []
    left = order
    while len(left):
        best = int(left[0])
        kept.append(best)
        rest = left[1:]
        shared = box_iou(corners[best : best + 1], corners[rest])[0]
        left = rest[(shared <= most) | (labels[rest] != labels[best])]
    return np.array(kept, dtype=np.intp)


def fused(
    corners: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], least: float, voters: int
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Boxes that mean the same, as one: the mean of their corners weighted by their scores.

    A box joins the first cluster of its class that it overlaps by ``least``. The score of a cluster is the mean of
    its boxes' scores, times the share of the voters (networks, views) that found it. Source: Solovyev et al. 2021,
    weighted boxes fusion, https://arxiv.org/abs/1910.13302.

    Args:
        corners: (n, 2·ndim) of all voters together.
        scores: (n,).
        labels: (n,).
        least: Smallest IoU with a cluster's box.
        voters: How many answers were put together.

    Returns:
        (m, 2·ndim) corners, (m,) scores and (m,) labels, best first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    width = corners.shape[1]
    middles = np.zeros((len(order), width))
    sums = np.zeros((len(order), width + 2))  # weighted corners, scores, boxes
    kinds = np.full(len(order), -1, dtype=np.int64)
    count = 0
    for number in order:
        mine = np.flatnonzero(kinds[:count] == labels[number])
        shared = box_iou(corners[number : number + 1], middles[mine])[0] if len(mine) else np.zeros(0)
        if len(shared) and shared.max() >= least:
            cluster = int(mine[int(shared.argmax())])
        else:
            cluster, count = count, count + 1
            kinds[cluster] = labels[number]
        weight = max(float(scores[number]), 1e-9)
        sums[cluster, :width] += weight * corners[number]
        sums[cluster, width] += weight
        sums[cluster, width + 1] += 1
        middles[cluster] = sums[cluster, :width] / sums[cluster, width]
    total, boxes = sums[:count, width], sums[:count, width + 1]
    value = total / np.maximum(boxes, 1) * np.minimum(boxes, voters) / max(voters, 1)
    best = np.argsort(-value, kind="stable")
    return middles[:count][best], value[best], kinds[:count][best]
