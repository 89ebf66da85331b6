"""Strokes that look like burned-in text: found in milliseconds, without reading a letter.

Text that a machine paints into a picture differs from anatomy in three ways: thin strokes that stand out from what is
around them, one ink of nearly equal value for all letters of a line, and letters of like height side by side on one
line. Strokes are what a grey opening with a small square removes (the top hat, Serra 1982); letters are their connected
parts; a line is a chain of letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPENING = 9  # pixels: strokes up to 8 wide are found at full size, up to 16 and 32 at half and quarter size
SCALES = (1, 2, 4)
LEAST_CONTRAST = 0.12  # of the picture's range: fainter text is hardly seen
FAINT_CONTRAST = 0.015  # … but on a ground of exactly one value, such as a title bar
SAME_INK = 0.04  # of the range: how much the ink of one line's letters may differ (lossy compression)
LEAST_HEIGHT, GREATEST_HEIGHT = 5, 72  # pixels of a letter, at the scale it is looked for
MOST_LETTERS = 4000  # more stroke-like parts than this in one layer are texture
LEAST_LETTERS = 3  # a letter or two (a side marker) name nobody
MOST_DRIFT = 2.5  # a line is at most this many letters high
INKS = 3  # the commonest values of strokes are looked at one by one, and those that stick out most
ENLARGED = 3  # times: letters of 10 pixels run into one another at full size
SMALLEST_TEXT_PX = 16  # letters up to this high are looked for enlarged, higher ones are found at full size
MOST_ENLARGED = 1200 * 1200  # pixels of a picture: in a larger one nobody reads such letters
SMALL_LETTERS, SMALL_EVEN = 4, 0.75  # of a line: enlarged noise has many rows of three parts
WIDEST_SPACING = 1.6  # of their height: letters that no one can read stand closer than parts of anatomy


@dataclass(frozen=True)
class Block:
    """A line of strokes that look like text.

    Args:
        row0, column0, row1, column1: Its box in pixels, half open.
        letters: How many parts it has.
        height: Their median height in pixels.
        even: 0…1: the share of letters that stand on one line and have one ink.
        bright: Whether the ink is brighter than what is around it.
    """

    row0: int
    column0: int
    row1: int
    column1: int
    letters: int
    height: int
    even: float
    bright: bool

    @property
    def certain(self) -> bool:
        """Whether it is taken for text although no letter of it can be read."""
        near = self.column1 - self.column0 <= WIDEST_SPACING * self.letters * self.height
        return self.letters >= 5 and self.even >= 0.85 and near


def planes(picture: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The plane in which bright ink stands out and the one for dark ink: both the picture itself, when it is grey.

    Args:
        picture: (rows, columns) or (rows, columns, colours): coloured ink is brightest in its strongest colour.
    """
    if picture.ndim == 2:
        return picture, picture
    return picture.max(axis=2), picture.min(axis=2)


def span(picture: NDArray[Any]) -> float:
    """The range of a picture's values without the outermost thousandths (but never less than ink needs)."""
    sample = picture[:: max(1, picture.shape[0] // 512), :: max(1, picture.shape[1] // 512)]
    low, high = np.percentile(sample, (0.1, 99.9))
    return float(high - low) or float(picture.max()) - float(picture.min())


def text_like(picture: NDArray[Any], *, each_ink: bool = False) -> tuple[Block, ...]:
    """Lines of strokes that look like burned-in text, from the top.

    Args:
        picture: (rows, columns) or (rows, columns, 3), whole numbers.
        each_ink: Where a line stands out in bright and in dark ink, give both: one of them are the gaps between
            letters, which nobody can read. Otherwise the one of more and evener parts is given.

    Example:
        >>> text_like(np.zeros((64, 64), np.uint8))
        ()
    """
    found = list(_at_scales(picture, SCALES))
    return _without_doubles_of_each_ink(found) if each_ink else _without_doubles(found)


def small_text_like(picture: NDArray[Any]) -> tuple[Block, ...]:
    """Lines of letters so small that they run into one another: looked for in the picture enlarged, from the top.

    Args:
        picture: As for ``text_like``. One too large for such letters to be read by anybody is not looked at.
    """
    if picture.shape[0] * picture.shape[1] > MOST_ENLARGED or min(picture.shape[:2]) < OPENING:
        return ()
    found = []
    for block in _at_scales(_enlarged(picture), (1,), (float(picture.min()), float(picture.max()))):
        small = LEAST_HEIGHT * ENLARGED < block.height <= SMALLEST_TEXT_PX * ENLARGED
        if small and block.letters >= SMALL_LETTERS and block.even >= SMALL_EVEN:
            low = (block.row0 // ENLARGED, block.column0 // ENLARGED)
            high = (-(-block.row1 // ENLARGED), -(-block.column1 // ENLARGED))
            found.append(
                replace(
                    block, row0=low[0], column0=low[1], row1=high[0], column1=high[1],
                    height=round(block.height / ENLARGED),
                )
            )  # fmt: skip
    return _without_doubles_of_each_ink(found)


def _enlarged(picture: NDArray[Any]) -> NDArray[Any]:
    """A picture ``ENLARGED`` times as large, each colour by itself; 8 bits stay 8 bits, others become float32."""
    from PIL import Image

    rows, columns = (n * ENLARGED for n in picture.shape[:2])
    values = picture if picture.dtype == np.uint8 else picture.astype(np.float32)

    def larger(layer: NDArray[Any]) -> NDArray[Any]:
        shown = Image.fromarray(np.ascontiguousarray(layer))
        return np.asarray(shown.resize((columns, rows), Image.Resampling.BICUBIC))

    return larger(values) if values.ndim == 2 else np.dstack([larger(values[..., k]) for k in range(values.shape[2])])


def _at_scales(
    picture: NDArray[Any], scales: tuple[int, ...], values: tuple[float, float] | None = None
) -> Iterator[Block]:
    for plane, bright in zip(planes(picture), (True, False), strict=True):
        extent = span(plane)
        if extent <= 0:
            continue
        ink = plane.astype(np.float32) if plane.dtype.itemsize > 2 else plane
        if values is not None:  # enlarging overshoots at edges: the extreme ink would have many values instead of one
            ink = np.minimum(ink, ink.dtype.type(values[1])) if bright else np.maximum(ink, ink.dtype.type(values[0]))
        ink = ink if bright else ink.max() - ink
        for scale in scales:
            if scale == 1 or min(plane.shape) >= 100 * scale:  # large letters need a large picture
                yield from _at_scale(np.ascontiguousarray(ink[::scale, ::scale]), extent, scale, bright)


def _at_scale(ink: NDArray[Any], extent: float, scale: int, bright: bool) -> Iterator[Block]:
    opened = _opened(ink)
    hat = ink - opened
    strokes = hat > LEAST_CONTRAST * extent
    if strokes.any():
        for layer in _layers(ink, strokes, extent):
            yield from _lines(ink, layer, extent, scale, bright)
    faint = (hat > FAINT_CONTRAST * extent) & ~strokes
    if faint.any():
        yield from _lines(ink, faint & _on_plain_ground(opened), extent, scale, bright)


def _on_plain_ground(opened: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the ground under the strokes is of exactly one value, as only a machine paints it."""
    plain = np.ones(opened.shape, bool)
    reach = OPENING - 1
    for axis in (0, 1):
        lines, same = opened.swapaxes(0, axis), plain.swapaxes(0, axis)
        same[reach:] &= lines[reach:] == lines[:-reach]
        same[:-reach] &= lines[:-reach] == lines[reach:]
    return plain


def _opened(ink: NDArray[Any]) -> NDArray[Any]:
    """Grey opening with a square of ``OPENING`` pixels; windows are built by doubling, which numpy does fastest."""
    padded = np.pad(ink, OPENING - 1, mode="reflect" if min(ink.shape) >= OPENING else "edge")
    for smaller in (np.minimum, np.maximum):
        for axis in (0, 1):
            lines = padded.swapaxes(0, axis)
            window = lines
            width = 1
            while width < OPENING:
                step = min(width, OPENING - width)
                window = smaller(window[: len(window) - step], window[step:])
                width += step
            padded = window.swapaxes(0, axis)
    return padded


def _layers(ink: NDArray[Any], strokes: NDArray[np.bool_], extent: float) -> Iterator[NDArray[np.bool_]]:
    """All strokes, then those of one ink: on a busy background only these come apart into letters.

    An ink is one of the commonest values, the extreme one, or one far commoner than the values beside it: what a
    machine paints has one value, anatomy and noise have many.
    """
    yield strokes
    values = ink[strokes].astype(np.float64)
    count, edges = np.histogram(values, bins=max(2, int((values.max() - values.min()) / (SAME_INK * extent) * 2)))
    beside = np.convolve(np.pad(count, 2, mode="edge"), [0.25, 0.25, 0, 0.25, 0.25], mode="valid")
    chosen = [*np.argsort(count)[::-1][:INKS], len(count) - 1, *np.argsort(count / (beside + 20))[::-1][:2]]
    for index in dict.fromkeys(int(i) for i in chosen):
        if count[index] >= 20:
            middle = (edges[index] + edges[index + 1]) / 2
            yield strokes & (np.abs(ink - middle) <= SAME_INK * extent)


def _lines(ink: NDArray[Any], layer: NDArray[np.bool_], extent: float, scale: int, bright: bool) -> Iterator[Block]:
    from scipy import ndimage, sparse

    labels, count = ndimage.label(layer, structure=np.ones((3, 3), bool))
    if not LEAST_LETTERS <= count <= 20 * MOST_LETTERS:
        return
    boxes = np.array([(r.start, c.start, r.stop, c.stop) for r, c in ndimage.find_objects(labels)])
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    filled = np.bincount(labels.ravel(), minlength=count + 1)[1:] / (height * width)
    # at half and quarter size only what is too thick for full size is new, but a line may hold both
    fits = (height >= LEAST_HEIGHT) & (height <= GREATEST_HEIGHT) & (width <= 8 * height)
    fits &= (filled >= 0.15) & ((filled <= 0.85) | (width <= 0.5 * height))
    letters = np.flatnonzero(fits)
    if not LEAST_LETTERS <= len(letters) <= MOST_LETTERS:
        return
    boxes, height = boxes[letters], height[letters]
    highest = np.zeros(count + 1, ink.dtype)
    np.maximum.at(highest, labels[layer], ink[layer])
    peak = highest[letters + 1].astype(np.float64)
    order = np.argsort(boxes[:, 1], kind="stable")
    boxes, height, peak = boxes[order], height[order], peak[order]
    first, second = _neighbours(boxes, height, peak, extent)
    graph = sparse.coo_matrix((np.ones(len(first), bool), (first, second)), shape=(len(boxes), len(boxes)))
    groups, member = sparse.csgraph.connected_components(graph, directed=False)
    sizes = np.bincount(member, minlength=groups)
    for group in np.flatnonzero(sizes >= LEAST_LETTERS):
        chosen = member == group
        if boxes[chosen, 2].max() - boxes[chosen, 0].min() > MOST_DRIFT * np.median(height[chosen]):
            continue  # a chain that climbs is no line
        yield _block(boxes[chosen], height[chosen], peak[chosen], (extent, scale, bright), ink.shape)


def _neighbours(
    boxes: NDArray[np.int64], height: NDArray[np.int64], peak: NDArray[np.float64], extent: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of letters side by side: of like height and ink, on one line, less than about a letter apart."""
    firsts, seconds = [], []
    for i in range(len(boxes) - 1):
        # sorted by the left edge: what begins too far to the right cannot follow
        stop = int(np.searchsorted(boxes[:, 1], boxes[i, 3] + 1.6 * height[i], side="right"))
        if stop <= i + 1:
            continue
        others = slice(i + 1, stop)
        overlap = np.minimum(boxes[others, 2], boxes[i, 2]) - np.maximum(boxes[others, 0], boxes[i, 0])
        low, high = np.minimum(height[others], height[i]), np.maximum(height[others], height[i])
        near = (overlap >= 0.6 * low) & (high <= 1.8 * low) & (np.abs(peak[others] - peak[i]) <= SAME_INK * extent)
        near &= boxes[others, 3] > boxes[i, 3]  # not one inside the other
        seconds.append(np.flatnonzero(near) + i + 1)
        firsts.append(np.full(len(seconds[-1]), i))
    if not firsts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(firsts), np.concatenate(seconds)


def _block(
    boxes: NDArray[np.int64],
    height: NDArray[np.int64],
    peak: NDArray[np.float64],
    look: tuple[float, int, bool],
    shape: tuple[int, ...],
) -> Block:
    extent, scale, bright = look
    typical = float(np.median(height))
    tolerance = max(1.0, 0.15 * typical)
    # letters stand on a line or hang from one; the line may be slightly inclined
    aligned = np.zeros(len(boxes), bool)
    for edge in (0, 2):
        level = boxes[:, edge].astype(np.float64)
        slope = np.polyfit(boxes[:, 1], level, 1) if np.ptp(boxes[:, 1]) > 4 * typical else (0.0, np.median(level))
        aligned |= np.abs(level - np.polyval(slope, boxes[:, 1])) <= tolerance
    same = np.abs(peak - np.median(peak)) <= SAME_INK / 2 * extent
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    low, high = np.maximum(low * scale - scale + 1, 0), np.minimum(high * scale, np.array(shape[:2]) * scale)
    return Block(
        int(low[0]), int(low[1]), int(high[0]), int(high[1]),
        len(boxes), round(typical * scale), float((aligned & same).mean()), bright,
    )  # fmt: skip


def _without_doubles(found: list[Block]) -> tuple[Block, ...]:
    """The best of blocks that lie on one another: found at several scales, in several layers."""
    kept: list[Block] = []
    for block in sorted(found, key=lambda b: (-b.letters * b.even, b.row0, b.column0)):
        if all(_shared(block, other) < 0.5 and not _around(block, other) for other in kept):
            kept.append(block)
    return tuple(sorted(kept, key=lambda b: (b.row0, b.column0)))


def _without_doubles_of_each_ink(found: list[Block]) -> tuple[Block, ...]:
    """What is a gap to one ink is a letter to the other: both are read."""
    return tuple(block for ink in (True, False) for block in _without_doubles([b for b in found if b.bright == ink]))


def _around(block: Block, other: Block) -> bool:
    """Whether ``block`` is no line: one of letters half as high lies in it."""
    return 2 * other.height <= block.height and other.even >= 0.8 and _shared(other, block) >= 0.6


def _shared(block: Block, other: Block) -> float:
    """The part of ``block`` that lies in ``other``."""
    rows = min(block.row1, other.row1) - max(block.row0, other.row0)
    columns = min(block.column1, other.column1) - max(block.column0, other.column0)
    area = (block.row1 - block.row0) * (block.column1 - block.column0)
    return max(rows, 0) * max(columns, 0) / area
