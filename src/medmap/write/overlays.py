"""A mask's outlines on its image as a picture for a person: a plane, or three planes of a volume, with a legend."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Geometry
from medmap.image import Image
from medmap.results import Mask
from medmap.write.captions import caption
from medmap.write.colours import colour_of
from medmap.write.planes import outline_around, picture_of, three_planes, values_of

HEIGHT = 384  # px: of a volume's planes, and at least of a picture
MOST = 2000  # px of a picture's longer side
# what becomes black and white: soft tissue and fat in HU, uptake in SUV
WINDOWS: Mapping[str, tuple[float, float]] = MappingProxyType({"HU": (-160.0, 240.0), "SUVbw": (0.0, 10.0)})


def overlay(mask: Mask, image: Image) -> Image:
    """The outlines of each structure on the image, in colour, with the structures' names below.

    A volume is shown in three planes that hold most of the mask; a plane is shown as it lies, in its own colours and
    size, small ones enlarged. HU are shown from −160 to 240, SUV from 0 to 10, other values but colours of 8 bits from
    the 0.5th to the 99.5th percentile.

    Args:
        mask: Where regions overlap, the later one is drawn over the earlier.
        image: On the mask's grid, or one that differs by turns, flips or a crop.

    Raises:
        GeometryError: The image does not lie under the mask.
    """
    placed = image if image.geometry.same_grid(mask.geometry) else image.match(mask.geometry)
    labels, names = _numbered(mask)
    window = WINDOWS.get(image.quantity)
    if mask.geometry.ndim == 2:
        size = _size(placed.geometry)
        picture = picture_of(values_of(placed), size, window)
        outline_around(picture, labels)
    else:
        picture = three_planes(placed, labels, height=HEIGHT, window=window)
    rows = [(colour_of(number - 1), name) for number, name in names.items()]
    legend = caption(rows or [(None, "no structure")], picture.shape[1])
    whole = np.concatenate([picture, legend])
    return Image(whole, Geometry.without_size(whole.shape[:2]), "colour", ("red", "green", "blue"))


def _size(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of a plane's picture: in true proportions no pixel is lost unless there are too many."""
    step = np.array(geometry.spacing_mm) if geometry.has_size else np.ones(2)
    size = np.array(geometry.shape) * step / step.min()
    size = size * max(1.0, HEIGHT / size[0])
    rows, columns = np.maximum(1, np.rint(size * min(1.0, MOST / size.max()))).astype(int)
    return int(rows), int(columns)


def _numbered(mask: Mask) -> tuple[NDArray[np.uint16], dict[int, str]]:
    """The structures that are there, by value or by channel from 1: each has its colour whatever else is there."""
    numbered = np.zeros(mask.geometry.shape, np.uint16)
    names = {}
    apart = mask.array.dtype == np.bool_
    for channel, (value, label) in enumerate(mask.labels.items()):
        region = mask.array[..., channel] if apart else mask.array == value
        if region.any():
            number = channel + 1 if apart else value
            names[number] = label.name
            numbered[region] = number
    return numbered, names
