"""Compiled loops over volumes: sums of weighted windows, and class scores brought to another grid with their argmax.

Plain functions that numba compiles on first use (``compiled``); importing this module imports nothing of it. They let
go of Python's lock, so threads of the caller run them side by side, and numba's own threads are never started: those
may neither be called from two threads nor survive a fork.

Everywhere here the axis along which windows stream comes first: a *plane* is (classes, A, B), and planes are stacked
as (planes, classes, A, B), contiguous. A two-dimensional image has A = 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Axis = tuple[Array, Array, Array, Array, Array]
"""Cells along an axis: (low corner, high corner, first output voxel, voxel after the last) of each, and, for each
output voxel, the weight of the high corner."""


@functools.cache
def compiled(kernel: Callable[..., None]) -> Callable[..., None]:
    """The kernel as machine code, kept on disk where Python may keep its own compiled files, else in memory."""
    import numba

    try:
        return numba.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # numba found no place to write: a read-only installation without a home
        return numba.njit(nogil=True)(kernel)


def add_windows(sums: Array, weight: Array, windows: Array, kernel: Array, places: Array, planes: Array) -> None:
    """Add windows, each voxel times its weight, to a ring of planes.

    Args:
        sums: (depth, classes, A, B) float32; plane z of the image is in slot z modulo depth.
        weight: (depth, A, B) float32: the sum of weights.
        windows: (count, classes, p0, pA, pB) float32; or only some of its planes.
        kernel: (p0, pA, pB) float32: the weight of each voxel of a window.
        places: (count, 3, 3) int64: for each window and axis, first voxel in the image, first in the window, how many.
        planes: (3,) int64: planes of the window to add, from and up to, and the first that ``windows`` holds.
    """
    depth, classes = sums.shape[0], sums.shape[1]
    for n in range(windows.shape[0]):
        begin = max(planes[0], places[n, 0, 1])
        end = min(planes[1], places[n, 0, 1] + places[n, 0, 2])
        a, from_a, count_a = places[n, 1, 0], places[n, 1, 1], places[n, 1, 2]
        b, from_b, count_b = places[n, 2, 0], places[n, 2, 1], places[n, 2, 2]
        # rows of their own: a loop over one axis from 0 is a vector loop, one with an index in two axes half as fast
        for z in range(begin, end):
            slot, held = (places[n, 0, 0] + z - places[n, 0, 1]) % depth, z - planes[2]
            for c in range(classes):
                for i in range(from_a, from_a + count_a):
                    to = sums[slot, c, a + i - from_a, b : b + count_b]
                    given = windows[n, c, held, i, from_b : from_b + count_b]
                    times = kernel[z, i, from_b : from_b + count_b]
                    for j in range(count_b):
                        to[j] += given[j] * times[j]
            for i in range(from_a, from_a + count_a):
                total = weight[slot, a + i - from_a, b : b + count_b]
                times = kernel[z, i, from_b : from_b + count_b]
                for j in range(count_b):
                    total[j] += times[j]


def turn(windows: Array, out: Array) -> None:
    """Copy windows whose axes stand in another order; ``windows`` is a view, ``out`` as ``add_windows`` wants them.

    Sixteen planes or less at a time: what one read from memory brings is then used before it is forgotten.
    """
    for n in range(out.shape[0]):
        for c in range(out.shape[1]):
            for a in range(out.shape[3]):
                for z in range(out.shape[2]):
                    for b in range(out.shape[4]):
                        out[n, c, z, a, b] = windows[n, c, z, a, b]


def divide(sums: Array, weight: Array, finite: Array) -> None:
    """Make weighted sums means, in place, and note planes with a value that is no finite number.

    Args:
        sums: (planes, classes, A, B) float32.
        weight: (planes, A, B) float32, > 0; becomes its inverse.
        finite: (planes,) bool, set.
    """
    odd = np.empty(sums.shape[3], np.float32)
    for z in range(sums.shape[0]):
        odd[:] = 0
        for a in range(sums.shape[2]):
            inverse = weight[z, a]
            for b in range(inverse.shape[0]):
                inverse[b] = np.float32(1) / inverse[b]
        for c in range(sums.shape[1]):
            for a in range(sums.shape[2]):
                row, inverse = sums[z, c, a], weight[z, a]
                for b in range(row.shape[0]):
                    row[b] *= inverse[b]
                    # 0 for a finite number, NaN otherwise, and NaN stays
                    odd[b] += row[b] * np.float32(0)
        finite[z] = not np.isnan(odd).any()


def best_class(planes: Array, best: Array) -> None:
    """The class with the largest score at each voxel; of equals the first, as numpy's argmax has it.

    Args:
        planes: (planes, classes, A, B) float32.
        best: (planes, A, B) uint16, set.
    """
    count = planes.shape[3]
    top = np.empty(count, np.float32)
    label = np.empty(count, np.int32)
    for z in range(planes.shape[0]):
        for a in range(planes.shape[2]):
            top[:] = planes[z, 0, a]
            label[:] = 0
            for c in range(1, planes.shape[1]):
                row = planes[z, c, a]
                for b in range(count):
                    higher = row[b] > top[b]
                    top[b] = row[b] if higher else top[b]
                    label[b] = c if higher else label[b]
            for b in range(count):
                best[z, a, b] = label[b]


def fill_common(labels: tuple[Array, Array], out: Array, values: Array, common: Array, axes: tuple[Axis, Axis]) -> None:
    """Label the cells between two planes whose corners agree; note the others.

    Trilinear interpolation is convex: where all eight corners of a cell have the same best class, every voxel inside
    has it too, and nothing needs to be computed.

    Args:
        labels: (A, B) uint16 each: the best class at each voxel of the low and of the high plane.
        out: (voxels between the planes, output A, output B), set where the corners agree.
        values: (classes,) of ``out``'s type: the label of each class.
        common: (cells A, cells B) int32, set: the class of all corners, or -1.
        axes: Cells along A and along B.
    """
    low, high = labels
    a_low, a_high, a_from, a_to, _ = axes[0]
    b_low, b_high, b_from, b_to, _ = axes[1]
    for g in range(a_low.shape[0]):
        i0, i1 = a_low[g], a_high[g]
        for h in range(b_low.shape[0]):
            j0, j1 = b_low[h], b_high[h]
            one = low[i0, j0]
            below = low[i0, j1] == one and low[i1, j0] == one and low[i1, j1] == one
            above = high[i0, j0] == one and high[i0, j1] == one and high[i1, j0] == one and high[i1, j1] == one
            common[g, h] = one if below and above else -1
        for k in range(out.shape[0]):
            for i in range(a_from[g], a_to[g]):
                for h in range(b_low.shape[0]):
                    if common[g, h] >= 0:
                        value = values[common[g, h]]
                        for j in range(b_from[h], b_to[h]):
                            out[k, i, j] = value


def fill_contested(
    planes: tuple[Array, Array],
    labels: tuple[Array, Array],
    out: Array,
    values: Array,
    common: Array,
    part: Array,
    axes: tuple[Axis, Axis],
) -> None:
    """Label the cells whose corners differ: interpolation of the scores and their argmax in one.

    A class that another one tops at all eight corners cannot win inside. Those that are left when held against two of
    the corners' classes, mostly two or three of all, are interpolated.

    Args:
        planes: Two planes (classes, A, B) float32 of scores, low and high.
        labels: As for ``fill_common``.
        out: As for ``fill_common``; set where ``common`` is -1.
        values: As for ``fill_common``.
        common: What ``fill_common`` noted.
        part: (voxels between the planes,) float64: the weight of the high plane for each.
        axes: Cells along A and along B.
    """
    low, high = planes
    a_low, a_high, a_from, a_to, a_part = axes[0]
    b_low, b_high, b_from, b_to, b_part = axes[1]
    classes = low.shape[0]
    left = np.empty((4, classes), np.float32)  # scores at the four corners with low B
    right = np.empty((4, classes), np.float32)  # and with high B
    lead, other_lead = np.empty(classes, np.float32), np.empty(classes, np.float32)
    rivals = np.empty(classes, np.int64)
    for g in range(a_low.shape[0]):
        i0, i1, gathered = a_low[g], a_high[g], -1
        for h in range(b_low.shape[0]):
            if common[g, h] >= 0:
                continue
            j0, j1 = b_low[h], b_high[h]
            if gathered == j0:  # the neighbour's right side is this cell's left side
                left, right = right, left
            else:
                for c in range(classes):
                    left[0, c], left[1, c], left[2, c], left[3, c] = (
                        low[c, i0, j0],
                        low[c, i1, j0],
                        high[c, i0, j0],
                        high[c, i1, j0],
                    )
            for c in range(classes):
                right[0, c], right[1, c], right[2, c], right[3, c] = (
                    low[c, i0, j1],
                    low[c, i1, j1],
                    high[c, i0, j1],
                    high[c, i1, j1],
                )
            gathered = j1
            one = two = labels[0][i0, j0]
            for plane in labels:
                for corner in (plane[i0, j0], plane[i0, j1], plane[i1, j0], plane[i1, j1]):
                    two = corner if corner != one else two
            # by how much each class is ahead of these two, at the corner where it is most ahead
            lead[:], other_lead[:] = -np.inf, -np.inf
            for q in range(4):
                for c in range(classes):
                    lead[c] = max(lead[c], left[q, c] - left[q, one], right[q, c] - right[q, one])
                    other_lead[c] = max(other_lead[c], left[q, c] - left[q, two], right[q, c] - right[q, two])
            count = 0
            for c in range(classes):
                if (lead[c] > 0 and other_lead[c] > 0) or c in (one, two):
                    rivals[count] = c
                    count += 1
            for k in range(out.shape[0]):
                for i in range(a_from[g], a_to[g]):
                    z, y = part[k], a_part[i]
                    w0, w1, w2, w3 = (1 - z) * (1 - y), (1 - z) * y, z * (1 - y), z * y
                    for j in range(b_from[h], b_to[h]):
                        top, winner = -np.inf, 0
                        for r in range(count):
                            c = rivals[r]
                            at_left = w0 * left[0, c] + w1 * left[1, c] + w2 * left[2, c] + w3 * left[3, c]
                            at_right = w0 * right[0, c] + w1 * right[1, c] + w2 * right[2, c] + w3 * right[3, c]
                            score = at_left + b_part[j] * (at_right - at_left)
                            if score > top:
                                top, winner = score, c
                        out[k, i, j] = values[winner]


def fill_regions(planes: tuple[Array, Array], out: Array, limits: Array, part: Array, axes: tuple[Axis, Axis]) -> None:
    """For each region by itself, whether the interpolated score is above its limit.

    Convexity again: where all eight corners are above the limit, or none is, nothing is computed.

    Args:
        planes: Two planes (regions, A, B) float32 of scores, low and high.
        out: (regions, voxels between the planes, output A, output B) bool, set.
        limits: (regions,) float32.
        part: (voxels between the planes,) float64: the weight of the high plane for each.
        axes: Cells along A and along B.
    """
    a_low, a_high, a_from, a_to, a_part = axes[0]
    b_low, b_high, b_from, b_to, b_part = axes[1]
    corners = np.empty(8, np.float64)
    for c in range(out.shape[0]):
        low, high = planes[0][c], planes[1][c]
        for g in range(a_low.shape[0]):
            i0, i1 = a_low[g], a_high[g]
            for h in range(b_low.shape[0]):
                j0, j1 = b_low[h], b_high[h]
                corners[0], corners[1], corners[2], corners[3] = low[i0, j0], low[i1, j0], high[i0, j0], high[i1, j0]
                corners[4], corners[5], corners[6], corners[7] = low[i0, j1], low[i1, j1], high[i0, j1], high[i1, j1]
                above = 0
                for q in range(8):
                    above += corners[q] > limits[c]
                for k in range(out.shape[1]):
                    for i in range(a_from[g], a_to[g]):
                        z, y = part[k], a_part[i]
                        w0, w1, w2, w3 = (1 - z) * (1 - y), (1 - z) * y, z * (1 - y), z * y
                        at_left = w0 * corners[0] + w1 * corners[1] + w2 * corners[2] + w3 * corners[3]
                        at_right = w0 * corners[4] + w1 * corners[5] + w2 * corners[6] + w3 * corners[7]
                        for j in range(b_from[h], b_to[h]):
                            score = at_left + b_part[j] * (at_right - at_left)
                            out[c, k, i, j] = above == 8 or (above > 0 and score > limits[c])


def interpolate(planes: tuple[Array, Array], out: Array, part: Array, axes: tuple[Axis, Axis]) -> None:
    """Trilinear interpolation of one value a voxel.

    Args:
        planes: Two planes (A, B) float32, low and high.
        out: (voxels between the planes, output A, output B) float32, set.
        part: (voxels between the planes,) float64: the weight of the high plane for each.
        axes: Cells along A and along B.
    """
    low, high = planes
    a_low, a_high, a_from, a_to, a_part = axes[0]
    b_low, b_high, b_from, b_to, b_part = axes[1]
    for g in range(a_low.shape[0]):
        i0, i1 = a_low[g], a_high[g]
        for k in range(out.shape[0]):
            for i in range(a_from[g], a_to[g]):
                z, y = part[k], a_part[i]
                w0, w1, w2, w3 = (1 - z) * (1 - y), (1 - z) * y, z * (1 - y), z * y
                for h in range(b_low.shape[0]):
                    j0, j1 = b_low[h], b_high[h]
                    at_left = w0 * low[i0, j0] + w1 * low[i1, j0] + w2 * high[i0, j0] + w3 * high[i1, j0]
                    at_right = w0 * low[i0, j1] + w1 * low[i1, j1] + w2 * high[i0, j1] + w3 * high[i1, j1]
                    for j in range(b_from[h], b_to[h]):
                        out[k, i, j] = at_left + b_part[j] * (at_right - at_left)


def expected_overlap(scores: Array, sums: Array) -> None:
    """Of a softmax and its largest class: voxels of each class, its probability there, and its probability everywhere.

    What is 20 below the largest score has a probability below 2e-9 and is passed over.

    Args:
        scores: (classes, voxels) float32.
        sums: (classes, 3) float64, added to.
    """
    classes = scores.shape[0]
    odds = np.empty(classes, np.float64)
    for v in range(scores.shape[1]):
        top, best = scores[0, v], 0
        for c in range(1, classes):
            if scores[c, v] > top:
                top, best = scores[c, v], c
        total = 0.0
        for c in range(classes):
            below = scores[c, v] - top
            odds[c] = np.exp(below) if below > -20 else 0.0
            total += odds[c]
        for c in range(classes):
            if odds[c] > 0:
                sums[c, 2] += odds[c] / total
        sums[best, 0] += 1
        sums[best, 1] += odds[best] / total


def expected_regions(scores: Array, sums: Array) -> None:
    """The same where each region stands for itself: its probability is the logistic function of its score.

    Args:
        scores: (regions, voxels) float32.
        sums: (regions, 3) float64, added to.
    """
    for c in range(scores.shape[0]):
        for v in range(scores.shape[1]):
            score = scores[c, v]
            chance = 1 / (1 + np.exp(-np.float64(score))) if score > -30 else 0.0
            sums[c, 2] += chance
            if score > 0:
                sums[c, 0] += 1
                sums[c, 1] += chance


def suppress_boxes(corners: Array, weights: Array, labels: Array, most: float, vote: float, kept: Array) -> None:
    """Drop boxes that a better one of their class overlaps, and let them say where that one lies.

    Args:
        corners: (n, 2·ndim) float64 at voxel centres, best first; of kept boxes they become the weighted mean.
        weights: (n,) float64, above 0.
        labels: (n,) int64.
        most: Largest IoU of two kept boxes of one class.
        vote: Smallest IoU with which a dropped box has a say.
        kept: (n,) bool, all true; dropped ones become false.
    """
    count, ndim = corners.shape[0], corners.shape[1] // 2
    for a in range(count):
        if not kept[a]:
            continue
        mine = corners[a].copy()
        place, total = mine * weights[a], weights[a]
        size = 1.0
        for axis in range(ndim):
            size *= mine[ndim + axis] - mine[axis] + 1
        for b in range(a + 1, count):
            if not kept[b] or labels[b] != labels[a]:
                continue
            common, other = 1.0, 1.0
            for axis in range(ndim):
                end = min(mine[ndim + axis], corners[b, ndim + axis])
                common *= max(end - max(mine[axis], corners[b, axis]) + 1, 0.0)
                other *= corners[b, ndim + axis] - corners[b, axis] + 1
            shared = common / (size + other - common)
            if shared > most:
                kept[b] = False
                if shared >= vote:
                    total += weights[b]
                    for side in range(2 * ndim):
                        place[side] += weights[b] * corners[b, side]
        for side in range(2 * ndim):
            corners[a, side] = place[side] / total
