"""Instances of a mask: the connected parts of each structure, each with a number of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Geometry
from medmap.image import Image
from medmap.measure.regions import Bools, Region, regions
from medmap.results import Label, Mask


@dataclass(frozen=True, eq=False)
class Instances:
    """Which instance each voxel belongs to: 0 none, n the one whose structure is ``labels[n]``.

    Args:
        array: Unsigned integers of the geometry's shape; where structures overlap, one trailing channel each.
        geometry: The grid.
        labels: Number → the structure's label; numbers run from 1, structure by structure, the largest instance first.
        channels: Names of the structures, where each has a channel; else empty.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: Mapping[int, Label]
    channels: tuple[str, ...] = ()

    @property
    def image(self) -> Image:
        """The numbers as an image, for files."""
        single = self.array.ndim > self.geometry.ndim and len(self.channels) == 1
        array = self.array[..., 0] if single else self.array
        return Image(array, self.geometry, "label", self.channels if len(self.channels) > 1 else ("image",))

    def as_mask(self) -> Mask:
        """A mask with a structure an instance, ``lesion 1``, ``lesion 2`` …, for whatever takes masks.

        Of overlapping structures it takes a byte a voxel and instance.
        """
        counted: Counter[str] = Counter()
        labels = {}
        for number, label in self.labels.items():
            counted[label.name] += 1
            labels[number] = replace(label, name=f"{label.name} {counted[label.name]}")
        if not self.channels:
            return Mask(self.array, self.geometry, labels)
        array = np.zeros((*self.geometry.shape, len(labels)), dtype=np.bool_)
        for place, (_, _, part, box) in enumerate(self.regions()):  # in the order of the labels
            array[..., place][box] = part
        return Mask(array, self.geometry, labels)

    def regions(self) -> Iterator[Region]:
        """Each instance within the box that holds it: number, label, where it is, the box."""
        from scipy import ndimage

        layers = np.moveaxis(self.array, -1, 0) if self.channels else self.array[None]
        boxes = [ndimage.find_objects(layer) for layer in layers]
        for number, label in self.labels.items():
            for layer, found in zip(layers, boxes, strict=True):
                if number <= len(found) and found[number - 1] is not None:
                    box = found[number - 1]
                    yield number, label, np.asarray(layer[box] == number), box


def instances(mask: Mask) -> Instances:
    """Number the connected parts of every structure of a mask; voxels that share a corner belong together.

    Args:
        mask: On any grid; structures that touch stay apart, and so do regions that overlap.

    Raises:
        UsageError: No mask; ``Mask.of`` makes one of an image that was read.

    Example:
        >>> array = np.array([[1, 0, 1, 1, 0, 2]], np.uint8)
        >>> mask = Mask(array, Geometry.without_size((1, 6)), {1: Label("cell"), 2: Label("debris")})
        >>> found = instances(mask)
        >>> found.array.tolist(), [label.name for label in found.labels.values()]
        ([[2, 0, 1, 1, 0, 3]], ['cell', 'cell', 'debris'])
    """
    overlapping = mask.array.dtype == np.bool_
    shape = (*mask.geometry.shape, len(mask.labels)) if overlapping else mask.geometry.shape
    array = np.zeros(shape, dtype=np.uint32)
    labels: dict[int, Label] = {}
    for channel, (_, label, region, box) in enumerate(regions(mask)):
        parts, count = _by_size(region)
        layer = array[..., channel] if overlapping else array
        layer[box][region] = parts[region] + len(labels)
        labels |= {len(labels) + n: label for n in range(1, count + 1)}
    small = np.uint8 if len(labels) <= np.iinfo(np.uint8).max else np.uint16
    array = array.astype(small) if len(labels) <= np.iinfo(np.uint16).max else array
    array.setflags(write=False)
    names = tuple(label.name for label in mask.labels.values()) if overlapping else ()
    return Instances(array, mask.geometry, MappingProxyType(labels), names)


def _by_size(region: Bools) -> tuple[NDArray[np.uint32], int]:
    """Connected parts, numbered from the largest; equally large ones in the order of their first voxels."""
    from scipy import ndimage

    found, count = ndimage.label(region, np.ones((3,) * region.ndim, int))
    sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
    rank = np.zeros(count + 1, dtype=np.uint32)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    return rank[found], int(count)
