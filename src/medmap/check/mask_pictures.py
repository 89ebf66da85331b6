"""Masks drawn on the pictures of the report: an outline in the colour of each structure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.masks import MOST_VALUES
from medmap.write.planes import outline


def masked(picture: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture with the outline of each structure, one pixel wide on the outermost pixels of each.

    Args:
        picture: (rows, columns) or (rows, columns, 3), the image of the mask or every n-th row and column of it.
        labels: (rows, columns) of the mask itself.

    Returns:
        (rows, columns, 3).
    """
    drawn = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
    step = max(-(-whole // part) for whole, part in zip(labels.shape, drawn.shape, strict=False))
    outline(drawn, shrunk_labels(labels, step))
    return drawn


def shrunk_labels(labels: NDArray[Any], step: int) -> NDArray[Any]:
    """Labels of a picture of every n-th row and column; what is thinner than that stays in it.

    A pixel of it holds the rarest label of those that lie under it: neither a vessel one pixel wide nor a small lesion
    in a large organ is lost.

    Args:
        labels: (rows, columns).
        step: Of how many rows and columns one is left.

    Example:
        >>> shrunk_labels(np.eye(4, dtype=np.uint8), 2).tolist()
        [[1, 0], [0, 1]]
    """
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    if len(values) > MOST_VALUES:  # no map of labels, an issue says so
        return shrunk_labels((labels > 0).astype(np.uint8), step)
    rows, columns = (-(-n // step) for n in labels.shape)
    padded = np.pad(labels, [(0, n * step - have) for n, have in zip((rows, columns), labels.shape, strict=True)])
    blocks = padded.reshape(rows, step, columns, step)
    small = np.zeros((rows, columns), labels.dtype)
    for value in values[np.argsort(-counts, kind="stable")]:
        small[(blocks == value).any(axis=(1, 3))] = value
    return small
