"""Each structure of a mask within the box that holds it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medmap.errors import UsageError
from medmap.results import Label, Mask

Bools = NDArray[np.bool_]
Region = tuple[int, Label, Bools, tuple[slice, ...]]  # value, label, where it is inside the box, the box


def require_mask(value: object) -> None:
    """Refuse what is no mask.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, Mask):
        raise UsageError("structures are those of a mask", got=type(value).__name__, remedy="mm.Mask.of(image, labels)")


def regions(mask: Mask) -> Iterator[Region]:
    """Every structure in the order of the labels; a box of no size where there is none of it.

    Raises:
        UsageError: No mask.
    """
    from scipy import ndimage

    require_mask(mask)
    nowhere = (slice(0, 0),) * mask.geometry.ndim
    if mask.array.dtype == np.bool_:
        for channel, (value, label) in enumerate(mask.labels.items()):
            whole = mask.array[..., channel]
            box = (ndimage.find_objects(whole.astype(np.uint8)) or [nowhere])[0] or nowhere
            yield value, label, whole[box], box
        return
    boxes = ndimage.find_objects(mask.array, max(mask.labels)) if mask.labels else []
    for value, label in mask.labels.items():
        box = boxes[value - 1] or nowhere
        yield value, label, mask.array[box] == value, box
