"""Boxes drawn on the pictures of the report: a colour a class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case
from medmap.write.colours import colour_of

MOST_CLASSES = 255


def boxed(picture: NDArray[np.uint8], case: Case, shape: Sequence[int]) -> NDArray[np.uint8]:
    """A picture with the outlines of a case's boxes, one pixel wide on the outermost pixels of each.

    Args:
        picture: (rows, columns) or (rows, columns, 3), the image of ``shape`` or a smaller one of it.
        case: Whose boxes.
        shape: Rows and columns that the boxes speak of.

    Returns:
        (rows, columns, 3).
    """
    drawn = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
    scale = np.array(drawn.shape[:2]) / np.array(shape)
    last = np.array(drawn.shape[:2]) - 1
    for corners, label in case.truth.boxes or ():
        if len(corners) != 4:
            continue
        ends = (np.array(corners).reshape(2, 2) + 0.5) * scale - 0.5
        (top, left), (bottom, right) = np.clip(np.rint(ends), 0, last).astype(int)
        colour = colour_of(label)
        drawn[[top, bottom], left : right + 1] = colour
        drawn[top : bottom + 1, [left, right]] = colour
    return drawn


def box_labels(case: Case, shape: Sequence[int]) -> NDArray[np.uint8] | None:
    """A volume in which every voxel of a box holds its class plus one; None without a box that lies there."""
    labels = np.zeros(tuple(shape), np.uint8)
    for corners, label in case.truth.boxes or ():
        if len(corners) == 6 and label < MOST_CLASSES:
            low = np.clip(np.rint(corners[:3]), 0, shape).astype(int)
            high = np.clip(np.rint(corners[3:]), -1, np.array(shape) - 1).astype(int)
            labels[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = label + 1
    return labels if labels.any() else None
