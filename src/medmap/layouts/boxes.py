"""From edges to corners and back: the rule that all box layouts share; each layout's own numbers stay in its file.

In index coordinates voxel ``i`` reaches from ``i − 0.5`` to ``i + 0.5``. A box is stored by the centres of its corner
voxels (``medmap.results.Boxes``), so its corners lie half a voxel inside its edges.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from medmap.errors import BoxError, DataError, DatasetError, QualityWarning
from medmap.read import open_header

Corners = tuple[float, ...]
_AT_ONCE = 4
_EXACT = 9  # decimals of a voxel that are kept: far below what any layout writes


def corners_of_edges(low: Sequence[float], high: Sequence[float]) -> Corners:
    """Corner voxels of a box from its outer edges, in index coordinates; below one voxel it becomes that voxel.

    Example:
        >>> corners_of_edges((-0.5, 9.5), (3.5, 10.5))
        (0.0, 10.0, 3.0, 10.0)
    """
    starts: list[float] = []
    ends: list[float] = []
    for a, b in zip(low, high, strict=True):
        wide = b - a >= 1
        starts.append(round(a + 0.5 if wide else (a + b) / 2, _EXACT) + 0.0)
        ends.append(round(b - 0.5 if wide else (a + b) / 2, _EXACT) + 0.0)
    return (*starts, *ends)


def edges_of_corners(corners: Corners) -> tuple[Corners, Corners]:
    """The outer edges (low, high) of a box in index coordinates; the inverse of ``corners_of_edges``."""
    half = len(corners) // 2
    return tuple(v - 0.5 for v in corners[:half]), tuple(v + 0.5 for v in corners[half:])


# where refused boxes are noted while somebody wants to know of all of them; else the first one ends the opening
_GATHERED: ContextVar[list[BoxError] | None] = ContextVar("gathered", default=None)


@contextmanager
def gathering() -> Iterator[list[BoxError]]:
    """Note every box that a layout refuses or cuts instead of ending at the first: a refused one is left out.

    For ``medmap check``, which names them all; a dataset that was opened so is not to be learned from.

    Example:
        >>> with gathering() as refused:
        ...     kept = Fitting("boxes.json").fit((9.0, 9.0, 12.0, 12.0), (5, 5), "boxes.json, line 3")
        >>> kept is None, refused[0].code
        (True, 'box_outside_image')
    """
    found: list[BoxError] = []
    token = _GATHERED.set(found)
    try:
        yield found
    finally:
        _GATHERED.reset(token)


def refused(error: BoxError) -> None:
    """Refuse a box: raise, or note it where refusals are gathered and leave the box out.

    Raises:
        BoxError: Nobody gathers.
    """
    found = _GATHERED.get()
    if found is None:
        raise error
    found.append(error)


class Fitting:
    """Boxes held against the size of their image: what sticks out is cut off and counted, what lies outside refused.

    Args:
        what: The layout's file, for the warning.
    """

    def __init__(self, what: str) -> None:
        self.what, self.cut, self.first = what, 0, ""

    def fit(self, corners: Corners, shape: Sequence[int], where: str, case: str | None = None) -> Corners | None:
        """The part of a box that lies in an image of ``shape``; None for one that was refused and noted.

        Args:
            corners: Low corner, high corner.
            shape: The image's.
            where: File and place, for the message.
            case: The case's identifier, or the path of its image as the layout names it, where ``where`` is another.

        Raises:
            BoxError: Undefined, or wholly outside.
        """
        half = len(shape)
        if len(corners) == 2 * half:
            for a, b, n in zip(corners, corners[half:], shape, strict=False):
                if not 0 <= a <= b <= n - 1:
                    break
            else:
                return corners  # nearly every box lies inside
        if len(corners) != 2 * half or not all(math.isfinite(v) for v in corners):
            what = f"{where}: a box has undefined corners"
            refused(BoxError(what, "box_unreadable", got=corners, case=case or where))
            return None
        low, high = corners[:half], corners[half:]
        outside = any(a > n - 0.5 or b < -0.5 for a, b, n in zip(low, high, shape, strict=True))
        if outside:
            what, room = f"{where}: a box lies outside its image", f"inside {_shape(shape)}"
            refused(BoxError(what, "box_outside_image", got=_shown(corners), expected=room, case=case or where))
            return None
        fitted = (
            *(min(max(a, 0.0), n - 1.0) for a, n in zip(low, shape, strict=True)),
            *(max(min(b, n - 1.0), 0.0) for b, n in zip(high, shape, strict=True)),
        )
        if max(abs(a - b) for a, b in zip(fitted, corners, strict=True)) > 1:
            self.cut += 1
            self.first = self.first or where
            gathered = _GATHERED.get()
            if gathered is not None:
                what, room = f"{where}: a box reaches beyond its image", f"inside {_shape(shape)}"
                gathered.append(
                    BoxError(what, "box_partly_outside", got=_shown(corners), expected=room, case=case or where)
                )
        return fitted

    def warn(self) -> None:
        """Say how many boxes were cut by more than a voxel, unless each of them was noted."""
        if self.cut and _GATHERED.get() is None:
            warnings.warn(
                f"{self.what}: {self.cut} boxes reach beyond their image and were cut at its edge, first {self.first}",
                QualityWarning,
                stacklevel=4,
            )


def _shown(corners: Corners) -> str:
    return ", ".join(f"{v:g}" for v in corners)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(str(n) for n in shape)


def picture_shapes(files: Iterable[tuple[Path, str | None]]) -> list[tuple[int, ...]]:
    """Sizes of images, given as file and member, from their headers alone (pictures: rows, then columns).

    Raises:
        ReadError: A file that is no image.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda file: open_header(*file).geometry.shape, files))


def shapes_as_stated(
    files: Sequence[tuple[Path, str]], stated: Sequence[Sequence[int | None] | None]
) -> list[tuple[int, ...]]:
    """Sizes of pictures, held against those that a layout's file states.

    A picture that cannot be read is believed to have the stated size: reading it says what is wrong, for it alone.

    Args:
        files: Each picture and what it is called in a message.
        stated: Rows and columns of each; None, or a part that is None or 0: not stated.

    Raises:
        DatasetError: Another size.
        ReadError: A file that is no image, whose size is not stated.
    """

    def shape_of(file: tuple[Path, str], said: Sequence[int | None] | None) -> tuple[int, ...]:
        known = tuple(side for side in said or () if side)
        try:
            shape = open_header(file[0]).geometry.shape
        except DataError:
            if len(known) != 2:
                raise
            return known
        _require_stated_size(said, shape, file[1])
        return shape

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(shape_of, files, stated))


def _require_stated_size(stated: Sequence[int | None] | None, shape: Sequence[int], where: str) -> None:
    """Refuse boxes that were drawn on a picture of another size than the one that is there.

    Args:
        stated: Rows and columns as the layout's file has them; None, or a part that is None or 0: not stated.
        shape: Rows and columns of the picture.
        where: File and picture, for the message.

    Raises:
        DatasetError: Another size.
    """
    if not stated or not all(stated) or tuple(stated) == tuple(shape[:2]):
        return
    turned = tuple(stated)[::-1] == tuple(shape[:2])
    raise DatasetError(
        f"{where}: the picture has another size than the annotation says",
        got=_shape(shape[:2]),
        expected=_shape([side or 0 for side in stated]),
        remedy="the picture lies on its side, or width and height are exchanged: boxes would lie elsewhere"
        if turned
        else "boxes were drawn on another resolution of it: put that one there, or scale boxes and stated size",
    )
