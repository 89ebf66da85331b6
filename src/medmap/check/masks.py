"""What one look at a mask leaves behind: its grid beside the image's, its labels, where they lie, whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError
from medmap.geometry import Crop, Geometry
from medmap.image import Image

Floats = NDArray[np.float64]
Relation = str  # "same", "exact" (flips, crops and pads bring them together), "header", "shape", "unknown", "outside"

MOST_VALUES = 512  # different values from which a mask is no label map
BORDER_SAMPLE = 20_000  # voxels of the border on which the fit is judged
FEWEST_BORDER = 50


@dataclass(frozen=True, slots=True, eq=False)
class MaskFacts:
    """What is known of one mask.

    Args:
        case: Whose mask it is.
        observer: 0 for the first.
        name: The file, for messages.
        geometry: Its grid.
        image_geometry: The grid of the case's first image; None when that could not be read.
        relation: How the grids lie to each other: ``same``; ``exact`` (flipped, permuted, cropped: no value is lost);
            ``header`` (as many voxels, another place); ``shape`` (other voxels); ``outside`` (whole voxels apart, and
            something is marked where the image has none); ``unknown``.
        apart_mm: How far apart the corners of the two grids are at most; None without millimetres or with other shapes.
        counts: Voxels of each value but 0; empty when the mask is empty.
        whole: Whether it has one channel, and all values are whole numbers, and few.
        channels: How many it has.
        at_edge: Voxels of each value on the outer faces of the grid.
        centres_mm: (3,) centre of each value in LPS mm, for grids of a patient.
        flips: How much better the mask's border lies on edges of the image when it is mirrored along each axis: 2 is
            twice the mean gradient; None where it cannot be judged.
        agreement: Of a further observer's mask: Dice of each value with the first observer's.
    """

    case: str
    observer: int
    name: str
    geometry: Geometry
    image_geometry: Geometry | None
    relation: Relation
    apart_mm: float | None
    counts: Mapping[int, int] = field(default_factory=dict)
    whole: bool = True
    at_edge: Mapping[int, int] = field(default_factory=dict)
    centres_mm: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    flips: tuple[float, ...] | None = None
    channels: int = 1
    agreement: Mapping[int, float] = field(default_factory=dict)

    @property
    def mask_name(self) -> str:
        """``mask`` for the first observer, ``mask_2`` for the second, as the table has it."""
        return "mask" if self.observer == 0 else f"mask_{self.observer + 1}"


def mask_facts(case: str, observer: int, name: str, mask: Image, image: Image | None) -> MaskFacts:
    """The facts of one mask: a pure function.

    Args:
        case, observer, name: As in ``MaskFacts``.
        mask: The mask as read.
        image: The case's first image, or None.
    """
    grid = None if image is None else image.geometry
    relation, apart = related(mask.geometry, grid)
    layers = mask.channels_first()
    array = layers[0]
    values, whole = _values(array)
    if len(layers) > 1 or not whole:
        return MaskFacts(
            case, observer, name, mask.geometry, grid, relation, apart, whole=False, channels=len(layers)
        )  # fmt: skip
    counts = {v: int(np.count_nonzero(array == v)) for v in values}
    at_edge = {v: _at_edge(array == v) for v in values}
    patient = mask.geometry.kind == "patient"
    centres = {v: _centre(array == v, mask.geometry) for v in values} if patient else {}
    flips = None
    if image is not None and counts:
        placed = mask.match(image.geometry).channels_first()[0] if relation == "exact" else array
        if relation == "exact" and np.count_nonzero(placed) < sum(counts.values()):
            relation, placed = "outside", array
        if placed.shape == image.geometry.shape:
            flips = fit_of_flips(placed > 0, image.channels_first()[0])
    return MaskFacts(
        case, observer, name, mask.geometry, grid, relation, apart, counts, True, at_edge, centres, flips
    )  # fmt: skip


def related(mask: Geometry, image: Geometry | None) -> tuple[Relation, float | None]:
    """How two grids lie to each other, and how far apart their corners are, in mm."""
    if image is None:
        return "unknown", None
    if mask.shape == image.shape:
        if not (mask.has_size and image.has_size):
            return ("same" if mask.has_size == image.has_size else "unknown"), None
        apart = _corners_apart_mm(mask, image)
        if mask.same_grid(image):
            return "same", apart
    else:
        apart = None
    if mask.has_size and image.has_size:
        try:
            steps = mask.match(image)
        except GeometryError:
            return ("header" if mask.shape == image.shape else "shape"), apart
        # as many voxels a few whole voxels away: no part of the image's grid, but a header that lost its origin
        moved = mask.shape == image.shape and any(isinstance(step, Crop) for step in steps)
        return ("header" if moved else "exact"), apart
    return "shape", None


def _corners_apart_mm(first: Geometry, second: Geometry) -> float:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in first.shape])).reshape(first.ndim, -1).T
    return float(np.linalg.norm(first.to_world(corners) - second.to_world(corners), axis=1).max())


def _values(array: NDArray[np.generic]) -> tuple[list[int], bool]:
    """The different values but 0, and whether they are few whole numbers."""
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        return [], False
    found = np.unique(array)
    if len(found) > MOST_VALUES:
        return [], False
    return [int(v) for v in found if v != 0], True


def _at_edge(inside: NDArray[np.bool_]) -> int:
    count = int(np.count_nonzero(inside))
    core = inside[tuple(slice(1, -1) if n > 2 else slice(None) for n in inside.shape)]
    return count - int(np.count_nonzero(core))


def _centre(inside: NDArray[np.bool_], geometry: Geometry) -> tuple[float, ...]:
    """Centre of mass from the projections onto the axes, so that no list of voxels is made."""
    total = max(int(np.count_nonzero(inside)), 1)
    index = []
    for axis in range(inside.ndim):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        index.append(float(np.arange(inside.shape[axis]) @ inside.sum(axis=others, dtype=np.int64)) / total)
    return tuple(float(v) for v in geometry.to_world([index])[0])


def border_of(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, axes) indices of voxels inside that have a neighbour outside; at most 20,000, evenly picked."""
    border = np.zeros(inside.shape, bool)
    for axis in range(inside.ndim):
        low = [slice(None)] * inside.ndim
        high = list(low)
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        change = inside[tuple(low)] != inside[tuple(high)]
        border[tuple(low)] |= change
        border[tuple(high)] |= change
    found = np.argwhere(border & inside)
    return found[:: max(1, -(-len(found) // BORDER_SAMPLE))]


def fit_of_flips(inside: NDArray[np.bool_], image: NDArray[np.generic]) -> tuple[float, ...] | None:
    """Mean gradient of the image under the mask's border mirrored along each axis, against that under it as it is.

    A mask drawn on this image has its border where the image has edges; a mirrored one has it anywhere.

    Args:
        inside: The mask, not empty.
        image: Of the same shape.

    Returns:
        One ratio an axis; None where the border is too short or nothing changes in the image.
    """
    border = border_of(inside)
    if len(border) < FEWEST_BORDER:
        return None
    here = _gradient_at(image, border)
    if not here > 0:
        return None
    ratios = []
    for axis in range(inside.ndim):
        mirrored = border.copy()
        mirrored[:, axis] = image.shape[axis] - 1 - mirrored[:, axis]
        ratios.append(_gradient_at(image, mirrored) / here)
    return tuple(ratios)


def _gradient_at(image: NDArray[np.generic], index: NDArray[np.int64]) -> float:
    """Mean length of the gradient by central differences, at some voxels only."""
    squares = np.zeros(len(index))
    for axis in range(image.ndim):
        after, before = index.copy(), index.copy()
        after[:, axis] = np.minimum(after[:, axis] + 1, image.shape[axis] - 1)
        before[:, axis] = np.maximum(before[:, axis] - 1, 0)
        step = image[tuple(after.T)].astype(np.float64) - image[tuple(before.T)].astype(np.float64)
        squares += np.nan_to_num(step, nan=0.0, posinf=0.0, neginf=0.0) ** 2
    return float(np.sqrt(squares).mean())
