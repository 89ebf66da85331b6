"""The sheet of augmented images: what the network may see, with the outlines of what it is to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmap import augment
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.plan import Run
from medmap.prepare import Recipe
from medmap.tasks import Task
from medmap.tasks.protocol import IGNORED
from medmap.write import write
from medmap.write.captions import caption
from medmap.write.colours import colour_of
from medmap.write.planes import outline_around

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES, VIEWS = 8, 7
TILE = 96  # px that a small image is enlarged to
TOLD = {"voxels": ", with masks", "boxes": ", with boxes"}
SLICES = {"nothing": "middle slices", "voxels": "slices with most of the mask", "boxes": "slices with most boxes"}


@dataclass(frozen=True, eq=False)
class View:
    """One image of the sheet.

    Args:
        pixels: (channels, rows, columns) as the network sees them.
        marks: (rows, columns) label maps to be outlined: numbers of structures or classes from 1, 0 for none.
    """

    pixels: NDArray[np.float32]
    marks: tuple[NDArray[Any], ...] = ()


def write_contact_sheet(path: Path, store: Any, task: Task, run: Run, recipe: Recipe) -> None:
    """A PNG of training images (first column) and what augmentation makes of them, with their masks or boxes.

    A volume shows a slice: the one that holds most of them, else the middle one. Lines above say what is seen, and each
    row names its case. Colours are those of the pictures, unless each image was standardised by itself (``zscore``).
    """
    rows = np.unique(np.linspace(0, len(store) - 1, IMAGES).astype(int))
    lines = [_views(store, int(row), task, run) for row in rows]
    words = f"Training images (left) and {VIEWS} augmented views of each, as the network may see them"
    words += TOLD.get(task.moves, "") + (f"; {SLICES[task.moves]}" if len(run.prepare.shape) == 3 else "")
    names = [store.cases[int(row)].id for row in rows]
    write(_sheet(_in_8_bits(lines, recipe), names, words, _structures(task)), path, overwrite=True)


def _views(store: Any, row: int, task: Task, run: Run) -> list[View]:
    """A training image and its augmented views."""
    rngs = [np.random.default_rng([run.seed, 0, row, view]) for view in range(VIEWS)]
    images, truth = task.collate([task.draw(store[row], rngs[0])] * VIEWS, [store.cases[row]] * VIEWS)
    drawn = [augment.draw(run.augment, rng, images.ndim - 2) for rng in rngs]
    if task.moves == "voxels":
        views, moved = augment.apply_with_truth(images, truth, drawn)
    elif task.moves == "boxes":
        views, moved = augment.apply_with_boxes(images, truth, drawn)
        moved = task.cut(moved)
    else:
        views, moved = augment.apply(images, drawn), truth
    pairs = [(images[0], truth[0]), *zip(views, moved, strict=True)]
    return [_view(pixels.numpy(), there.numpy(), task) for pixels, there in pairs]


def _view(pixels: NDArray[np.float32], truth: NDArray[Any], task: Any) -> View:
    """A plane, or the slice of a volume that holds most of the truth."""
    shape = pixels.shape[1:]
    if task.moves == "voxels":
        if len(shape) == 3:
            at = _fullest(((truth > 0) & (truth != IGNORED)).sum(axis=(0, 1)))
            pixels, truth = pixels[..., at], truth[..., at]
        numbered = np.zeros(truth.shape, np.int64)
        for number in task.structures.named:
            numbered[task.structures.true(truth, number)] = number
        return View(pixels, (numbered,))
    boxes = truth[truth[:, 2 * len(shape)] > 0] if task.moves == "boxes" else np.zeros((0, 2 * len(shape) + 1))
    if len(shape) == 2:
        return View(pixels, _as_marks(boxes, shape))
    levels = np.arange(shape[2])[:, None] + 0.5
    here = (boxes[:, 2] <= levels) & (levels <= boxes[:, 5])  # (slices, boxes)
    at = _fullest(here.sum(axis=1))
    return View(pixels[..., at], _as_marks(np.delete(boxes[here[at]], [2, 5], axis=1), shape[:2]))


def _fullest(held: NDArray[Any]) -> int:
    """The slice that holds most, the middle one of several; the middle one of all where none holds anything."""
    best = np.flatnonzero(held == held.max())
    return len(held) // 2 if not held.any() else int(best[len(best) // 2])


def _as_marks(boxes: NDArray[Any], shape: tuple[int, ...]) -> tuple[NDArray[Any], ...]:
    """A label map a box: rows of edges, a state and 1 for each class, of which the first gives the number."""
    marks = []
    for row in boxes:
        (top, left), (bottom, right) = np.floor(row[:2]).astype(int), np.ceil(row[2:4]).astype(int)
        mark = np.zeros(shape, np.int64)
        mark[max(0, top) : bottom, max(0, left) : right] = 1 + int(np.argmax(row[5:]))
        marks.append(mark)
    return tuple(marks)


def _structures(task: Any) -> dict[int, str]:
    """Number of a mark → the name of the structure or class."""
    if task.moves == "voxels":
        return {number: label.name for number, label in task.structures.named.items()}
    return {n: label.name for n, label in enumerate(task.labels, start=1)} if task.moves == "boxes" else {}


def _in_8_bits(lines: Sequence[Sequence[View]], recipe: Recipe) -> list[list[tuple[NDArray[np.uint8], View]]]:
    """(rows, columns, 3) of each view, all on one scale: colours in true proportions, grey from black to white."""
    pixels = np.stack([[view.pixels for view in line] for line in lines])
    colour = pixels.shape[2] == 3
    pixels = recipe.unstandardised(pixels, axis=2) if colour else pixels[:, :, :1].repeat(3, axis=2)
    low, high = (float(v) for v in np.percentile(pixels, [0.5, 99.5]))
    if colour and recipe.section.intensity != "zscore":  # else black would be no black
        low = 0.0
    scaled = np.rint(np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    pictures = np.moveaxis(scaled, 2, -1)
    return [list(zip(drawn, line, strict=True)) for drawn, line in zip(pictures, lines, strict=True)]


def _sheet(
    lines: Sequence[Sequence[tuple[NDArray[np.uint8], View]]],
    names: Sequence[str],
    words: str,
    structures: Mapping[int, str],
) -> Image:
    """Rows of pictures with outlines below the words, what the colours mean and the cases' names."""
    rows, seen = [], set()
    for name, line in zip(names, lines, strict=True):
        tiles = []
        for picture, view in line:
            zoom = max(1, TILE // max(picture.shape[:2]))
            tile = picture.repeat(zoom, 0).repeat(zoom, 1)
            for mark in view.marks:
                outline_around(tile, mark)
                seen |= set(np.unique(mark).tolist())
            tiles.append(np.pad(tile, [(1, 1), (1, 1), (0, 0)]))
        row = np.concatenate(tiles, axis=1)
        rows += [caption([(None, f"case {name}")], row.shape[1]), row]
    legend = [(colour_of(number - 1), text) for number, text in structures.items() if number in seen]
    whole = np.concatenate([caption([(None, words), *legend], rows[0].shape[1]), *rows])
    return Image(whole, Geometry.without_size(whole.shape[:2]), "colour", ("red", "green", "blue"))
