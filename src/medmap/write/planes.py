"""A volume as a person looks at one: three planes through what matters, head up, with the outlines of its mask."""

from __future__ import annotations

from collections.abc import Sequence
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


def values_of(image: Image, level: int | None = None) -> NDArray[Any]:
    """(rows, columns) or, of a colour picture, (rows, columns, 3): a plane, or a volume's slice on its third axis."""
    channels = np.asarray(image.channels_first())
    if level is not None:
        channels = channels[..., level].swapaxes(-1, -2)
    colour = len(image.channels) in (3, 4) and image.time_s is None and image.quantity == "colour"
    return np.moveaxis(channels[:3], 0, -1) if colour else channels[0]  # a fourth is opacity


def picture_of(
    values: NDArray[Any], size: tuple[int, int], window: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """(rows, columns, 3): grey values or colours in 8 bits, in the size asked for.

    Colours of 8 bits are shown as they are, all others from the 0.5th to the 99.5th percentile of all channels alike.

    Args:
        values: (rows, columns) or (rows, columns, 3).
        size: Rows and columns of the picture.
        window: The values that become black and white, in place of the percentiles.
    """
    from PIL import Image as Pillow

    if values.ndim == 3 and values.dtype == np.uint8:
        scaled: NDArray[Any] = values
    else:
        low, high = window or intensity_window(values)
        part = (np.nan_to_num(values.astype(np.float32), nan=low) - low) / ((high - low) or 1.0)
        scaled = np.rint(255 * np.clip(part, 0, 1)).astype(np.uint8)
    rgb = np.repeat(scaled[..., None], 3, axis=2) if scaled.ndim == 2 else scaled
    if rgb.shape[:2] == size:
        return np.array(rgb)
    enlarging = Pillow.Resampling.NEAREST if size[0] > 4 * len(rgb) else Pillow.Resampling.BICUBIC
    how = enlarging if size[0] >= len(rgb) else Pillow.Resampling.BOX
    return np.array(Pillow.fromarray(np.ascontiguousarray(rgb)).resize(size[::-1], how))


def outline_around(picture: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """Draw the outlines of structures around them, label 1 in the first colour, and darken what lies beyond a line.

    A line is one pixel wide and leaves a structure as it is, so that a thin vessel is seen between two lines; only
    where structures meet and at the picture's edge it runs inside. The dark edge tells it from a ground of its own
    colour. No structure is lost in a picture smaller than the labels.

    Args:
        picture: (rows, columns, 3), changed in place.
        labels: (rows, columns), larger or smaller than the picture; 0 where there is no structure.
    """
    size = picture.shape[:2]
    fine = [max(have, wanted) for have, wanted in zip(labels.shape, size, strict=True)]
    lines = _lines_around(_nearest(labels, fine))
    if tuple(fine) != size:
        at, by = np.nonzero(lines)
        smaller = np.zeros(size, lines.dtype)
        smaller[at * size[0] // fine[0], by * size[1] // fine[1]] = lines[at, by]
        lines = smaller
    beyond = (lines == 0) & (_nearest(labels, size) == 0)
    dark = beyond & np.any([beside > 0 for beside in _neighbours(lines)], axis=0)
    picture[dark] //= 2
    for value in np.unique(lines[lines > 0]):
        picture[lines == value] = colour_of(int(value) - 1)


def _lines_around(labels: NDArray[Any]) -> NDArray[Any]:
    """The label whose outline runs through each pixel, 0 where none does."""
    there, edge = labels > 0, np.ones(labels.shape, bool)
    edge[1:-1, 1:-1] = False
    lines: NDArray[Any] = np.where(there & edge, labels, 0)
    for beside in _neighbours(labels):
        meeting, around = there & (beside > 0) & (beside != labels), ~there & (beside > 0)
        lines[meeting], lines[around] = labels[meeting], beside[around]
    return lines


def _neighbours(labels: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """What lies left, right, above and below of each pixel; beyond the edge lies what is at it."""
    padded = np.pad(labels, 1, mode="edge")
    return padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]


def _nearest(labels: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """The labels in another size."""
    index = [_sampled(have, have, have / wanted) for have, wanted in zip(labels.shape, size, strict=True)]
    return np.asarray(labels[np.ix_(*index)])


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
