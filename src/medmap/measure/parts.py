"""Instances of a mask: the connected parts of each structure, each with a number of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.measure.regions import Bools, Region, regions, require_mask
from medmap.results import Label, Mask

LONGEST_NAME = 64  # of a segment in DICOM
MOST_BYTES = 2 * 2**30


@dataclass(frozen=True, eq=False)
class Instances:
    """Which instance each voxel belongs to: 0 none, n the one whose structure is ``labels[n]``.

    Args:
        array: Unsigned integers of the geometry's shape; where structures overlap, one trailing channel each.
        geometry: The grid.
        labels: Number → the structure's label; numbers run from 1, structure by structure, the largest instance first.
        structures: All that were looked for, those without an instance too.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: Mapping[int, Label]
    structures: tuple[Label, ...]

    @property
    def overlapping(self) -> bool:
        """Whether each structure has a channel of its own."""
        return self.array.ndim > self.geometry.ndim

    @property
    def image(self) -> Image:
        """The numbers as an image, for files.

        Raises:
            DataError: A mask of no structure at all.
        """
        if self.overlapping and not self.structures:
            raise DataError("a mask without structures has no instances to show", got="0 channels")
        if self.overlapping and len(self.structures) > 1:
            return Image(self.array, self.geometry, "label", tuple(label.name for label in self.structures))
        return Image(self.array[..., 0] if self.overlapping else self.array, self.geometry, "label")

    def as_mask(self) -> Mask:
        """A mask with a structure an instance, ``lesion 1``, ``lesion 2`` …, for whatever takes masks.

        A structure without an instance keeps its name, and has no voxel. Names are cut so that their number stays.

        Raises:
            DataError: Overlapping structures with so many instances that the mask, a byte a voxel and instance, would
                take more than 2 GiB.
        """
        counted: Counter[str] = Counter()
        labels = {}
        for number, label in self.labels.items():
            counted[label.name] += 1
            ending = f" {counted[label.name]}"
            labels[number] = replace(label, name=label.name[: LONGEST_NAME - len(ending)] + ending)
        for label in self.structures:
            if not counted[label.name]:
                labels[len(labels) + 1] = label
        if not self.overlapping:
            return Mask(self.array, self.geometry, labels)
        shape = (*self.geometry.shape, len(labels))
        if math.prod(shape) > MOST_BYTES:
            raise DataError(
                "too many instances of overlapping structures for a mask of their own", got=len(labels),
                expected=f"at most {MOST_BYTES // math.prod(self.geometry.shape)} on this grid",
                remedy="write them as numbers: format instances",
            )  # fmt: skip
        array = np.zeros(shape, dtype=np.bool_)
        for place, (_, _, part, box) in enumerate(self.regions()):  # in the order of the labels
            array[..., place][box] = part
        return Mask(array, self.geometry, labels)

    def regions(self) -> Iterator[Region]:
        """Each instance within the box that holds it: number, label, where it is, the box."""
        from scipy import ndimage

        layers = np.moveaxis(self.array, -1, 0) if self.overlapping else self.array[None]
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
    require_mask(mask)
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
    return Instances(array, mask.geometry, MappingProxyType(labels), tuple(mask.labels.values()))


def _by_size(region: Bools) -> tuple[NDArray[np.uint32], int]:
    """Connected parts, numbered from the largest; equally large ones in the order of their first voxels."""
    from scipy import ndimage

    found, count = ndimage.label(region, np.ones((3,) * region.ndim, int))
    sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
    rank = np.zeros(count + 1, dtype=np.uint32)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    return rank[found], int(count)
