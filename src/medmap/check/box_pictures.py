"""Boxes drawn on the pictures of the report: a colour a class, and those that a finding is about in red and white."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case
from medmap.write.colours import colour_of

Corners = tuple[float, ...]  # rounded, as a finding lists them
MOST_CLASSES = 255
ROUNDED, ROWS = 4, 100  # decimals of the corners, and how many boxes, that a finding lists
RED, WHITE = (255, 0, 0), (255, 255, 255)
DASH, SEEN = 4, 8  # pixels of a dash, and of the smallest rectangle
NOTHING: frozenset[Corners] = frozenset()


def concerned(details: Mapping[str, Any]) -> dict[str, frozenset[Corners]]:
    """The boxes that a finding is about, by case, from its details; empty where it lists none."""
    rows = [*details.get("rows", ()), *(box for pair in details.get("pairs", ()) for box in pair)]
    found: dict[str, set[Corners]] = {}
    for row in rows:
        if row.get("corners"):
            found.setdefault(row["case"], set()).add(tuple(row["corners"]))
    return {case: frozenset(corners) for case, corners in found.items()}


def _is_in(marked: Set[Corners], corners: Sequence[float]) -> bool:
    return tuple(round(v, ROUNDED) for v in corners) in marked


def boxed(
    picture: NDArray[np.uint8], case: Case, shape: Sequence[int], marked: Set[Corners] = NOTHING
) -> NDArray[np.uint8]:
    """A picture with the outlines of a case's boxes, one pixel wide on the outermost pixels of each.

    Marked ones lie on top, two pixels wide, in red and white dashes.

    Args:
        picture: (rows, columns) or (rows, columns, 3), the image of ``shape`` or a smaller one of it.
        case: Whose boxes.
        shape: Rows and columns that the boxes speak of.
        marked: Corners of those that a finding is about.

    Returns:
        (rows, columns, 3).
    """
    drawn = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
    scale = np.array(drawn.shape[:2]) / np.array(shape)
    last = np.array(drawn.shape[:2]) - 1

    def placed(rows: Sequence[tuple[Corners, int]]) -> Iterator[tuple[tuple[int, int, int, int], Corners, int]]:
        for corners, label in rows:
            if len(corners) == 4:
                ends = (np.array(corners).reshape(2, 2) + 0.5) * scale - 0.5
                top, left, bottom, right = np.clip(np.rint(ends), 0, last).astype(int).reshape(-1).tolist()
                yield (top, left, bottom, right), corners, label

    for (top, left, bottom, right), _, label in placed(case.truth.boxes or ()):
        colour = colour_of(label)
        drawn[[top, bottom], left : right + 1] = colour
        drawn[top : bottom + 1, [left, right]] = colour
    for place, corners, _ in placed((*(case.truth.boxes or ()), *case.truth.ignored)) if marked else ():
        if _is_in(marked, corners):
            _dashed(drawn, place)
    return drawn


def _dashed(drawn: NDArray[np.uint8], place: tuple[int, int, int, int]) -> None:
    """A rectangle in red and white dashes, changed in place; two pixels wide, the outer one around the box.

    Around a very small box it is drawn larger, so that it is seen.
    """
    top, left, bottom, right = place
    down, along = (max(0, SEEN - (high - low)) for low, high in ((top, bottom), (left, right)))
    top, bottom, left, right = top - down // 2, bottom + down // 2, left - along // 2, right + along // 2
    rows, columns = np.ogrid[: drawn.shape[0], : drawn.shape[1]]
    near = (rows >= top - 1) & (rows <= bottom + 1) & (columns >= left - 1) & (columns <= right + 1)
    inner = (rows > top) & (rows < bottom) & (columns > left) & (columns < right)
    line = near & ~inner
    red = np.broadcast_to((rows + columns) // DASH % 2 == 0, line.shape)
    drawn[line & red], drawn[line & ~red] = RED, WHITE


def box_labels(case: Case, shape: Sequence[int], marked: Set[Corners] = NOTHING) -> NDArray[np.uint8] | None:
    """A volume in which every voxel of a box holds its class plus one; None without a box that lies there.

    Args:
        case: Whose boxes.
        shape: Of the volume.
        marked: Corners of those that a finding is about: where there are any, they alone are drawn.
    """
    labels = np.zeros(tuple(shape), np.uint8)
    rows = case.truth.boxes or ()
    if marked:
        rows = tuple(row for row in (*rows, *case.truth.ignored) if _is_in(marked, row[0]))
    for corners, label in rows:
        if len(corners) == 6 and label < MOST_CLASSES:
            low = np.clip(np.rint(corners[:3]), 0, shape).astype(int)
            high = np.clip(np.rint(corners[3:]), -1, np.array(shape) - 1).astype(int)
            labels[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = label + 1
    return labels if labels.any() else None
