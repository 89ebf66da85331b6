"""Small pictures of cases: what a baseline learns from, and the hash that finds a training image again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, Dataset
from medmap.errors import DataError
from medmap.image import Image
from medmap.read import read_ref

SIDE_GREY, SIDE_COLOUR, SIDE_VOLUME = 32, 16, 8


@dataclass(frozen=True, eq=False)
class Small:
    """An image reduced to a few numbers.

    Args:
        values: The thumbnail, flattened, in the image's own unit.
        sha256: Hash of the whole image's content; empty for an image of one value, which is a copy of nothing.
    """

    values: NDArray[np.float32]
    sha256: str


def small(dataset: Dataset, case: Case) -> Small:
    """A case's first input as a thumbnail, with its content hash.

    Raises:
        DataError: The input was not acquired or cannot be read.
    """
    image = _first_image(dataset, case)
    return Small(thumbnail(image).reshape(-1), _content_hash(image))


def content_hash(dataset: Dataset, case: Case) -> str:
    """Hash of the content of a case's first input; empty for an image of one value.

    Raises:
        DataError: The input was not acquired or cannot be read.
    """
    return _content_hash(_first_image(dataset, case))


def _first_image(dataset: Dataset, case: Case) -> Image:
    ref = case.inputs.get(next(iter(dataset.inputs)))
    if ref is None:
        raise DataError("the input was not acquired", case=case.id)
    return read_ref(dataset, ref)


def _content_hash(image: Image) -> str:
    blank = image.array.size == 0 or bool((image.array == image.array.flat[0]).all())
    return "" if blank else image.content_sha256()


def thumbnail(image: Image) -> NDArray[np.float32]:
    """(channels, side …): at most 32×32 grey, 16×16 in three colours, 8×8×8 of a volume; other channels averaged."""
    array = image.channels_first().astype(np.float32)
    if len(array) != 3 or image.ndim == 3:
        array = array.mean(axis=0, keepdims=True)
    side = SIDE_VOLUME if image.ndim == 3 else SIDE_COLOUR if len(array) == 3 else SIDE_GREY
    for axis in range(1, array.ndim):
        array = averaged(array, axis, side)
    return np.asarray(np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0), dtype=np.float32)


def averaged(array: NDArray[np.float32], axis: int, size: int) -> NDArray[np.float32]:
    """The array with ``size`` cells along an axis, each the mean over its extent of the old ones.

    Example:
        >>> averaged(np.array([1, 3, 5, 7], np.float32), 0, 2).tolist()
        [2.0, 6.0]
    """
    moved = np.moveaxis(array, axis, -1).astype(np.float64)
    n = moved.shape[-1]
    if n == size:
        return array
    running = np.concatenate([np.zeros((*moved.shape[:-1], 1)), np.cumsum(moved, axis=-1)], axis=-1)
    edges = np.linspace(0, n, size + 1)
    below = np.minimum(edges.astype(np.intp), n - 1)
    share = edges - below
    at = running[..., below] * (1 - share) + running[..., below + 1] * share
    return np.asarray(np.moveaxis(np.diff(at, axis=-1) * (size / n), -1, axis), dtype=np.float32)
