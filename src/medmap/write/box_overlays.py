"""Called boxes on their image as a picture for a person: rectangles with class and score, a colour a class.

A plane is shown whole; where boxes crowd, tags are short and the legend below says what they mean. Of a volume, each
finding is shown in the slice through its centre: the whole slice, and beside it what lies around the finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import counted
from medmap.geometry import Floats, Geometry
from medmap.image import Image
from medmap.results import Boxes
from medmap.write.captions import BACK, caption, font, plain
from medmap.write.colours import colour_of, short_names
from medmap.write.overlays import WINDOWS
from medmap.write.planes import intensity_window, picture_of, values_of
from medmap.write.tags import placed_tags

LEAST, MOST = 640, 1600  # px of a plane's longer edge
TILE = 288  # px of a slice
GAP = 6  # px
TAG = 17  # px of a tag, upright
MOST_FINDINGS = 12  # of a volume, the surest
AROUND_MM, AROUND_SIZES, AROUND_VOXELS = 60.0, 5.0, 48.0  # what is shown around a finding, at least
LUNG = (-1350.0, 150.0)  # HU
AIR = -400.0  # HU; what is darker around a finding is lung


@dataclass(frozen=True)
class _View:
    """A part of a slice that becomes a picture.

    Args:
        start, stop: First and last (excluded) pixel, down and right.
        size: Pixels of the picture, down and right.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    size: tuple[int, int]

    def placed(self, corners: Floats) -> Floats:
        """(4,) top, left, bottom, right of a box's outer edges in the picture; corners by voxel centres."""
        scale = np.array(self.size) / (self.stop - self.start)
        low, high = corners[:2] - 0.5, corners[2:] + 0.5
        return np.concatenate([(low + 0.5 - self.start) * scale, (high + 0.5 - self.start) * scale])


def box_overlay(boxes: Boxes, image: Image) -> Image:
    """The called boxes on the image, and below it how many there are of each class.

    HU are shown from −160 to 240, around a finding in the lung from −1350 to 150; SUV from 0 to 10, other values from
    the 0.5th to the 99.5th percentile. A patient's slices lie as radiologists look at them.

    Args:
        boxes: Those that are not called are left out.
        image: On the boxes' grid, or one that differs by turns, flips or a crop.

    Raises:
        GeometryError: The image does not lie under the boxes.
    """
    placed = image if image.geometry.same_grid(boxes.geometry) else image.match(boxes.geometry)
    called = boxes.taken(boxes.called)
    called = called.taken(np.argsort(-called.scores, kind="stable"))
    if boxes.geometry.ndim == 2:
        picture, signs, untagged = _plane(called, placed)
    else:
        picture, signs, untagged = _montage(called, placed), None, 0
    whole = np.concatenate([picture, _legend(called, picture.shape[1], signs, untagged)])
    return Image(whole, Geometry.without_size(whole.shape[:2]), "colour", ("red", "green", "blue"))


# -- planes ------------------------------------------------------------------------------------------------------------


def _plane(boxes: Boxes, image: Image) -> tuple[NDArray[np.uint8], tuple[str, ...] | None, int]:
    """The picture, the signs that stand for classes in its tags (None: their names), and how many boxes have no tag."""
    shape = np.array(image.geometry.shape)
    step = np.array(image.geometry.spacing_mm) if image.geometry.has_size else np.ones(2)
    extent = shape * step
    longest = float(np.clip(shape.max(), LEAST, MOST))
    size = np.maximum(1, np.rint(extent / extent.max() * longest)).astype(int)
    view = _View(np.zeros(2, np.int64), shape, (int(size[0]), int(size[1])))
    picture = _shown(values_of(image), view, WINDOWS.get(image.quantity))
    places = [(row, view.placed(boxes.corners[row])) for row in range(len(boxes.scores))]
    return _tagged(_with_boxes(picture, boxes, places), boxes, [at for _, at in places])


# -- volumes -----------------------------------------------------------------------------------------------------------


def _montage(boxes: Boxes, image: Image) -> NDArray[np.uint8]:
    """Findings in rows of two, each a whole slice and its surroundings; the middle slice where nothing is called."""
    placed = image.oriented("LPS") if image.geometry.kind == "patient" else image
    turn = np.linalg.inv(placed.geometry.affine_lps_mm) @ image.geometry.affine_lps_mm
    turned = _turned(boxes.corners, turn)
    across = int(np.abs(turn[2, :3]).argmax())  # the source's own axis across the slices that are shown
    if not len(boxes.scores):
        middle = (placed.geometry.shape[2] - 1) // 2
        return _captioned([_slice(placed, middle, None, boxes, turned)], "middle slice: nothing is called")
    tiles = []
    for row in range(min(len(boxes.scores), MOST_FINDINGS)):
        level = round(float(turned[row, 2] + turned[row, 5]) / 2)
        level = int(np.clip(level, 0, placed.geometry.shape[2] - 1))
        pieces = [_slice(placed, level, focus, boxes, turned, row) for focus in (None, turned[row])]
        tiles.append(_captioned(pieces, _caption(boxes, row, across)))
    rows = [_joined(tiles[n : n + 2], axis=1) for n in range(0, len(tiles), 2)]
    return _joined(rows, axis=0)


def _caption(boxes: Boxes, row: int, across: int) -> str:
    first, last = boxes.slices(across)[row]
    corners = boxes.corners[row]
    middle = round(float(corners[across] + corners[3 + across]) / 2)
    words = f"{_name(boxes, row)}, slice {middle} of {first} to {last}"
    if boxes.geometry.has_size:
        words += ", " + " x ".join(f"{v:.1f}" for v in boxes.sizes_mm()[row]) + " mm"
    return words


def _slice(
    image: Image, level: int, focus: Floats | None, boxes: Boxes, turned: Floats, row: int | None = None
) -> NDArray[np.uint8]:
    """A slice, or the part around a box, with all boxes that reach into it; rows run along the second axis."""
    shape = np.array(image.geometry.shape)[[1, 0]]
    step = np.array(image.geometry.spacing_mm)[[1, 0]] if image.geometry.has_size else np.ones(2)
    if focus is None:
        extent = shape * step
        size = np.maximum(1, np.rint(extent / extent.max() * TILE)).astype(int)
        view = _View(np.zeros(2, np.int64), shape, (int(size[0]), int(size[1])))
    else:
        view = _around(focus[[1, 0, 4, 3]], shape, step, image.geometry.has_size)
    values = values_of(image, level)
    there = [n for n in range(len(turned)) if turned[n, 2] - 0.5 <= level <= turned[n, 5] + 0.5 or n == row]
    window = _window_of(image, values, None if row is None else turned[row][[1, 0, 4, 3]])
    picture = _shown(values, view, window)
    places = [(n, view.placed(turned[n][[1, 0, 4, 3]])) for n in there]
    return _squared(_with_boxes(picture, boxes, places))


def _around(corners: Floats, shape: NDArray[Any], step: Floats, sized: bool) -> _View:
    """A square around a box, within the slice."""
    least = AROUND_MM if sized else AROUND_VOXELS
    wide = max(least, AROUND_SIZES * float(((corners[2:] - corners[:2] + 1) * step).max()))
    count = np.minimum(np.maximum(np.rint(wide / step), 8), shape).astype(np.int64)
    start = np.clip(np.rint((corners[:2] + corners[2:] + 1) / 2 - count / 2), 0, shape - count).astype(np.int64)
    extent = count * step
    size = np.maximum(1, np.rint(extent / extent.max() * TILE)).astype(int)
    return _View(start, start + count, (int(size[0]), int(size[1])))


def _window_of(image: Image, values: NDArray[Any], corners: Floats | None) -> tuple[float, float] | None:
    """What becomes black and white; a finding surrounded by lung is shown as lung is looked at."""
    if image.quantity == "HU" and corners is not None and values.ndim == 2:
        reach = 2 * (corners[2:] - corners[:2] + 1)
        low = np.maximum(0, np.floor(corners[:2] - reach)).astype(int)
        high = np.ceil(corners[2:] + reach).astype(int) + 1
        if float(np.median(values[low[0] : high[0], low[1] : high[1]])) < AIR:
            return LUNG
    return WINDOWS.get(image.quantity)


def _turned(corners: Floats, turn: Floats) -> Floats:
    """(n, 6) corners on another grid that differs by turns and flips."""
    ends = [corners[:, :3] @ turn[:3, :3].T + turn[:3, 3], corners[:, 3:] @ turn[:3, :3].T + turn[:3, 3]]
    return np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1)


# -- drawing -----------------------------------------------------------------------------------------------------------


def _shown(values: NDArray[Any], view: _View, window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """(rows, columns, 3): the part of a slice in 8 bits, in the view's size; the whole slice says what is white."""
    part = values[view.start[0] : view.stop[0], view.start[1] : view.stop[1]]
    return picture_of(part, view.size, window or intensity_window(values))


def _with_boxes(picture: NDArray[np.uint8], boxes: Boxes, places: list[tuple[int, Floats]]) -> NDArray[np.uint8]:
    """Rectangles over a dark edge, seen on bright images too; the surest on top."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    canvas = Pillow.fromarray(picture)
    draw: Any = ImageDraw.Draw(canvas)
    for row, at in reversed(places):
        top, left, bottom, right = (round(float(v)) for v in at)
        colour = colour_of(int(boxes.label_ids[row]))
        draw.rectangle((left - 3, top - 3, right + 2, bottom + 2), outline=(0, 0, 0), width=4)
        draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=colour, width=2)  # around, not over it
    return np.array(canvas)


def _tagged(
    picture: NDArray[np.uint8], boxes: Boxes, places: list[Floats]
) -> tuple[NDArray[np.uint8], tuple[str, ...] | None, int]:
    """The picture with the fullest tags under which no other box disappears, the surest placed first."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    canvas = Pillow.fromarray(picture)
    draw: Any = ImageDraw.Draw(canvas)
    for signs, texts in _wordings(boxes):  # noqa: B007 - the last ones tried are drawn
        widths = [int(draw.textlength(words, font=font())) + 6 for words in texts]
        tags = placed_tags(np.reshape(places, (-1, 4)), widths, TAG, picture.shape[:2])
        if tags.clear:
            break
    for row, place in enumerate(tags.places):
        if place is not None:
            top, left, bottom, right = place
            draw.rectangle((left, top, right - 1, bottom - 1), fill=colour_of(int(boxes.label_ids[row])))
            draw.text((left + 3, top + 1), texts[row], fill=(0, 0, 0), font=font())
    return np.array(canvas), signs, sum(place is None for place in tags.places)


def _wordings(boxes: Boxes) -> Iterator[tuple[tuple[str, ...] | None, list[str]]]:
    """What tags may say, the fullest first: class and score, a sign for the class and the score, the sign alone."""
    rows = range(len(boxes.scores))
    yield None, [_name(boxes, row) for row in rows]
    if len(boxes.labels) == 1:
        yield None, [f"{boxes.scores[row]:.2f}" for row in rows]
        return
    signs = short_names([plain(label.name) for label in boxes.labels])
    yield signs, [f"{signs[int(boxes.label_ids[row])]} {boxes.scores[row]:.2f}" for row in rows]
    yield signs, [signs[int(boxes.label_ids[row])] for row in rows]


def _name(boxes: Boxes, row: int) -> str:
    return f"{plain(boxes.labels[int(boxes.label_ids[row])].name)} {boxes.scores[row]:.2f}"


def _squared(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In the middle of a tile."""
    tile = np.empty((TILE, TILE, 3), np.uint8)
    tile[:] = BACK
    top, left = (TILE - picture.shape[0]) // 2, (TILE - picture.shape[1]) // 2
    tile[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return tile


def _captioned(pieces: list[NDArray[np.uint8]], words: str) -> NDArray[np.uint8]:
    row = _joined(pieces, axis=1)
    return np.concatenate([row, caption([(None, words)], row.shape[1])])


def _joined(pieces: list[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Side by side, or one below the other, with a gap; short ones filled up."""
    other = 1 - axis
    longest = max(piece.shape[other] for piece in pieces)
    gap = [GAP, GAP]
    gap[other] = longest
    out = []
    for piece in pieces:
        size = [piece.shape[0], piece.shape[1]]
        size[other] = longest
        room = np.empty((*size, 3), np.uint8)
        room[:] = BACK
        room[: piece.shape[0], : piece.shape[1]] = piece
        out += [room, np.full((*gap, 3), BACK, np.uint8)]
    return np.concatenate(out[:-1], axis=axis)


def _legend(boxes: Boxes, width: int, signs: tuple[str, ...] | None, untagged: int) -> NDArray[np.uint8]:
    """How many boxes of each class are called, behind the sign that stands for it in tags."""
    counts = Counter(boxes.label_ids.tolist())
    rows: list[tuple[tuple[int, int, int] | None, str]] = [
        (colour_of(i), ("" if signs is None else f"{signs[i]} = ") + f"{plain(label.name)}: {counts[i]}")
        for i, label in enumerate(boxes.labels)
        if counts[i]
    ]
    if boxes.geometry.ndim == 3 and len(boxes.scores) > MOST_FINDINGS:
        rows.append((None, f"the surest {MOST_FINDINGS} of {len(boxes.scores)} are shown"))
    if untagged:
        rows.append((None, f"no room for the tag of {counted(untagged, 'box', 'boxes')}"))
    return caption(rows or [(None, "nothing is called")], width)
