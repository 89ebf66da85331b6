"""A volume as a person looks at one: three planes through what matters, head up, with the outlines of its mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.image import Image
from medmap.write.colours import COLOURS, colour_of

HEIGHT = 128  # pixels of the tallest plane
GAP = 4  # pixels between planes
FIRST, SECOND, BOTH = COLOURS[5], COLOURS[1], COLOURS[3]  # of two masks' outlines: far apart on any grey


def three_planes(
    image: Image,
    mask: NDArray[Any] | None = None,
    compared: NDArray[Any] | None = None,
    *,
    height: int = HEIGHT,
    line: int = 1,
    window: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """(rows, columns, 3): the axial, the frontal and the sagittal plane side by side, in true proportions.

    They go through the middle of the mask, else of the image. Head is up, front is up or left, the patient's right is
    on the left, as radiologists look at it; of an image without a place in a patient the axes are taken as they are.

    Args:
        image: A volume; the first channel is shown, stretched from the 0.5th to the 99.5th percentile.
        mask: Labels on the image's own grid, or None.
        compared: A second mask to set against the first; the planes then go where most voxels differ, the first mask is
            outlined in ``FIRST``, this one in ``SECOND``, and in ``BOTH`` where the two outlines run together.
        height: Pixels of the longest edge that is shown upright.
        line: Pixels that the outlines of two masks are wide.
        window: The values that become black and white, in place of the percentiles.
    """
    placed, spacing = image, np.ones(3)
    outlined = [labels for labels in (mask, compared) if labels is not None]
    if image.geometry.has_size:
        steps = image.geometry.oriented("LPS")
        placed = image.moved(*steps)
        spacing = np.array(placed.spacing_mm)
        geometry = image.geometry
        for step in steps:
            outlined = [step.on_array(np.asarray(labels), geometry, fill=0, order=0) for labels in outlined]
            geometry = step.apply(geometry)
    volume = placed.channels_first()[0]
    centre = _centre(outlined, volume.shape)
    low, high = window or intensity_window(volume)
    extent = spacing * volume.shape
    per_pixel = max(extent[1], extent[2]) / height
    pieces = []
    # (axis across which, rows, columns, rows run upward)
    for across, down, along, upward in ((2, 1, 0, False), (1, 2, 0, True), (0, 2, 1, True)):
        rows = _sampled(volume.shape[down], extent[down], per_pixel)
        columns = _sampled(volume.shape[along], extent[along], per_pixel)
        rows = rows[::-1] if upward else rows
        plane = _cut(volume, across, centre[across], (down, along), (rows, columns)).astype(np.float32)
        plane = np.nan_to_num(plane, nan=low, posinf=high, neginf=low)
        grey = np.clip((plane - low) / (high - low), 0, 1) if high > low else np.zeros_like(plane)
        picture = np.repeat(np.rint(255 * grey).astype(np.uint8)[..., None], 3, axis=2)
        cuts = [_cut(labels, across, centre[across], (down, along), (rows, columns)) for labels in outlined]
        if len(cuts) == 2:
            outline_both(picture, cuts[0], cuts[1], line)
        elif cuts:
            outline(picture, cuts[0])
        pieces.append(picture)
    return _side_by_side(pieces)


def outline(picture: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """Draw the outline of each label into a picture, in the label's colour.

    Args:
        picture: (rows, columns, 3), changed in place.
        labels: (rows, columns); 0 is not outlined.
    """
    border = _border(labels)
    for value in np.unique(labels[labels > 0]):
        picture[border & (labels == value)] = colour_of(int(value) - 1)


def outline_both(picture: NDArray[np.uint8], first: NDArray[Any], second: NDArray[Any], line: int = 1) -> None:
    """Draw the outlines of two masks into a picture: in ``FIRST`` and ``SECOND``, in ``BOTH`` where they run together.

    Args:
        picture: (rows, columns, 3), changed in place.
        first: (rows, columns) labels; all but 0 belong to the mask.
        second: Likewise.
        line: Pixels that an outline is wide, inward.
    """
    one, two = _rim(first > 0, line), _rim(second > 0, line)
    for where, colour in ((one, FIRST), (two, SECOND), (one & two, BOTH)):
        picture[where] = colour


def _rim(inside: NDArray[np.bool_], line: int) -> NDArray[np.bool_]:
    """The outermost pixels of a mask, so many deep."""
    found = _border(inside)
    for _ in range(line - 1):
        found |= _border(inside & ~found)
    return found


def _centre(masks: list[NDArray[Any]], shape: tuple[int, ...]) -> list[int]:
    """Where the planes go: on each axis the slice that holds most of the mask, or of what two masks differ in."""
    if not masks:
        return [n // 2 for n in shape]
    inside = masks[0] > 0
    if len(masks) == 2 and (differ := inside != (masks[1] > 0)).any():
        inside = differ
    if not inside.any():
        return [n // 2 for n in shape]
    cover = [inside.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return [int(np.argmax(count)) for count in cover]


def intensity_window(volume: NDArray[Any]) -> tuple[float, float]:
    """The values that become black and white: the 0.5th and the 99.5th percentile of what is finite."""
    flat = volume.reshape(-1)[:: max(1, volume.size // 200_000)].astype(np.float64)
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(flat, (0.5, 99.5)))
    return (low, high) if high > low else (float(flat.min()), float(flat.max()))


def _sampled(count: int, extent: float, per_pixel: float) -> NDArray[np.int64]:
    """Which voxel each pixel shows, along one axis."""
    pixels = max(1, round(extent / per_pixel))
    return np.minimum((np.arange(pixels) + 0.5) * count / pixels, count - 1).astype(np.int64)


def _cut(
    volume: NDArray[Any],
    across: int,
    at: int,
    axes: tuple[int, int],
    index: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[Any]:
    plane: NDArray[Any] = np.take(volume, at, axis=across)  # the two axes that are left keep their order
    if axes[0] > axes[1]:
        plane = plane.T
    return np.asarray(plane[np.ix_(*index)])


def _border(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Labelled pixels beside another label, or at the picture's edge."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    border = np.zeros(inner.shape, bool)
    for shifted in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        border |= shifted != inner
    return np.asarray(border & (inner > 0))


def _side_by_side(pieces: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(len(piece) for piece in pieces)
    padded = []
    for piece in pieces:
        above = (height - len(piece)) // 2
        padded.append(np.pad(piece, ((above, height - len(piece) - above), (0, GAP), (0, 0))))
    return np.concatenate(padded, axis=1)[:, :-GAP]
