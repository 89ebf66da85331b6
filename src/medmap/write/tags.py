"""Where the tags of boxes stand: none over another, each where it hides least of any box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Floats

Place = tuple[int, int, int, int]  # top, left, bottom, right in px; the last two excluded

EDGE = 3  # px that a box's line reaches to both sides
INSIDE = 0.05  # how much a pixel of a box's inside is worth beside a pixel of a line


@dataclass(frozen=True)
class Tags:
    """Places of tags.

    Args:
        places: Of each box, in the order given; None where every place is taken.
        hidden: Pixels of other boxes' lines that lie under tags.
    """

    places: tuple[Place | None, ...]
    hidden: int

    @property
    def clear(self) -> bool:
        """Whether every box has its tag and no line lies under one."""
        return not self.hidden and None not in self.places


def placed_tags(
    boxes: Floats, widths: Sequence[int], height: int, size: tuple[int, int], others: Floats | None = None
) -> Tags:
    """Places for the tags of boxes, those that come first served first.

    A tag stands at a side of its box, outside or inside, within the picture. Of the places that no other tag takes it
    has the one under which the fewest lines run, then the one that covers least of what is in boxes.

    Args:
        boxes: (n, 4) top, left, bottom, right in px.
        widths: Of each tag, in px.
        height: Of all tags, in px.
        size: Of the picture, down and right, in px.
        others: Further boxes without a tag.
    """
    lines, insides = _drawn(boxes if others is None else np.concatenate([boxes, others]), size)
    taken = np.zeros(size, bool)
    found: list[Place | None] = []
    hidden = 0
    for box, width in zip(boxes, widths, strict=True):
        best: tuple[float, int, Place] | None = None
        for place in _around(box, width, height):
            top, left, bottom, right = place
            if top < 0 or left < 0 or bottom > size[0] or right > size[1]:
                continue
            here = np.s_[top:bottom, left:right]
            if taken[here].any():
                continue
            under = int(lines[here].sum())
            cost = under + INSIDE * float(insides[here].sum())
            if best is None or cost < best[0]:
                best = cost, under, place
        found.append(None if best is None else best[2])
        if best is not None:
            hidden += best[1]
            top, left, bottom, right = best[2]
            taken[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
    return Tags(tuple(found), hidden)


def _drawn(boxes: Floats, size: tuple[int, int]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """How many boxes' lines, and how many boxes' insides, lie on each pixel."""
    lines, insides = np.zeros(size, np.uint16), np.zeros(size, np.uint16)
    for box in boxes:
        top, left, bottom, right = (round(float(v)) for v in box)
        outer = np.s_[max(0, top - EDGE) : max(0, bottom + EDGE), max(0, left - EDGE) : max(0, right + EDGE)]
        inner = np.s_[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        insides[inner] += 1
        lines[outer] += 1
        lines[inner] -= 1
    return lines, insides


def _around(box: Floats, width: int, height: int) -> Iterator[Place]:
    """Places at a box, the usual ones first: above it, below it, in it, beside it."""
    top, left, bottom, right = (round(float(v)) for v in box)
    middle = (left + right - width) // 2
    rows = (top - EDGE - height, bottom + EDGE, top, bottom - height)
    for number, upper in enumerate(rows):
        ends = (left - EDGE, right + EDGE - width) if number < 2 else (left, right - width)
        for start in (*ends, middle):
            yield upper, start, upper + height, start + width
    for start in (left - EDGE - width, right + EDGE):
        for upper in (top, bottom - height, (top + bottom - height) // 2):
            yield upper, start, upper + height, start + width
