"""Pictures of 32 × 32 pixels: small enough to keep for every image, large enough to know one again."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medmap.image import Image

SIDE = 32  # rows and columns of a thumbnail
RING = 2  # width of the border in thumbnail pixels
CORNER = 6  # a corner patch is this part of the side: where text is burned in


@lru_cache(maxsize=256)
def _area_weights(n: int) -> NDArray[np.float32]:
    """(32, n): how much of each of n pixels falls into each of 32 equal parts of the side; rows sum to 1."""
    edges = np.linspace(0, n, SIDE + 1)
    left, right = np.arange(n), np.arange(n) + 1
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    weights: NDArray[np.float32] = (np.maximum(overlap, 0) * SIDE / n).astype(np.float32)
    return weights


def flat_picture(image: Image) -> NDArray[np.float32]:
    """(rows, columns): channels and frames averaged, a volume averaged along its last axis; what is not finite is 0."""
    planes = image.channels_first()
    picture = planes[0].astype(np.float32) if len(planes) == 1 else planes.mean(axis=0, dtype=np.float32)
    if picture.dtype != np.float32 or image.array.dtype.kind == "f":
        picture = np.nan_to_num(picture, nan=0.0, posinf=0.0, neginf=0.0)
    flat: NDArray[np.float32] = picture.mean(axis=2) if picture.ndim == 3 else picture
    return flat


def shrunk(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(32, 32): averages over equal areas."""
    rows, columns = picture.shape
    return np.asarray(_area_weights(rows) @ picture @ _area_weights(columns).T, np.float32)


def thumbnail(small: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(32, 32) uint8: a shrunk picture stretched from its least to its greatest value."""
    low, high = float(small.min()), float(small.max())
    if not high > low:
        return np.zeros((SIDE, SIDE), np.uint8)
    return np.asarray(np.rint((small - low) * (255 / (high - low))), np.uint8)


def _ring() -> NDArray[np.bool_]:
    ring = np.ones((SIDE, SIDE), bool)
    ring[RING:-RING, RING:-RING] = False
    return ring


_BORDER = _ring()


def border_of(picture: NDArray[np.float32], small: NDArray[np.float32]) -> NDArray[np.float32]:
    """(248,) what stands at the border and in the corners, where text and markers are burned in."""
    r, c = max(1, picture.shape[0] // CORNER), max(1, picture.shape[1] // CORNER)
    patches = (picture[:r, :c], picture[:r, -c:], picture[-r:, :c], picture[-r:, -c:])
    corners = [float(number) for patch in patches for number in (patch.std(), patch.max() - patch.min())]
    return np.concatenate([small[_BORDER], np.array(corners, np.float32)])
