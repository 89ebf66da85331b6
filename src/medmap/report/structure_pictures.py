"""The worst masks of a report: image with the outlines of truth and prediction, in three planes or in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Dataset
from medmap.errors import DataError, GeometryError
from medmap.evaluate import MaskOf, StructureTable, badness, structures_of
from medmap.evaluate.structures import PREDICTION
from medmap.geometry import Crop
from medmap.image import Image
from medmap.metrics import MaskScores
from medmap.read import read_ref
from medmap.report.pictures import LARGEST, Pixels, png_uri
from medmap.write.colours import RGB
from medmap.write.planes import BOTH, FIRST, SECOND, outline_both, three_planes

Bools = NDArray[np.bool_]
# (case, structure) → the image, the true and the other mask on its grid; None where they cannot be shown
Drawn = Callable[[str, str], tuple[Image, Bools, Bools] | None]
EACH = 6
MARGIN = 0.5  # of the masks' extent, on each side
HEIGHT = 256  # px of a volume's planes in the page
LINE = 2  # px of an outline
OUTLINES: tuple[tuple[RGB, str], ...] = (
    (FIRST, "true outline"),
    (SECOND, "predicted outline"),
    (BOTH, "both run here"),
)


@dataclass(frozen=True)
class WorstMask:
    """A mask that went wrong.

    Args:
        case: Its identifier.
        scores: How it compares.
        picture: PNG as a data URI, or None where it cannot be shown.
        words: What is wrong, in a few words.
        volume: Whether the picture shows three planes of a volume.
    """

    case: str
    scores: MaskScores
    picture: str | None
    words: str
    volume: bool = False


def worst_masks(
    table: StructureTable, masks: Drawn | None = None, count: int = EACH, rater: str = PREDICTION
) -> tuple[WorstMask, ...]:
    """The cases with the smallest Dice, each with its worst structure, worst first; ties by HD95.

    Args:
        table: The judged masks.
        masks: Gives what is drawn; only those shown are asked for. None: words alone.
        count: At most so many.
        rater: Whose masks.
    """
    part = table.of(rater)
    order = sorted(range(len(part)), key=lambda row: (badness(part.scores[row]), row))
    worst: dict[str, int] = {}
    for row in order:
        worst.setdefault(part.cases[row], row)
    found = []
    for case, row in list(worst.items())[:count]:
        scores = part.scores[row]
        drawn = None if masks is None else masks(case, scores.structure)
        picture = None if drawn is None else png_uri(contours(*drawn))
        volume = drawn is not None and drawn[0].ndim > 2
        found.append(WorstMask(case, scores, picture, words_of(scores), volume))
    return tuple(found)


def drawn_of(dataset: Dataset, masks: MaskOf) -> Drawn:
    """What ``worst_masks`` draws: the first input of a case, the first observer's mask, and the one that was predicted.

    Args:
        dataset: Where images and true masks are found.
        masks: From a case's identifier to its mask on the case's own grid; None where it is gone.
    """

    def drawn(case_id: str, structure: str) -> tuple[Image, Bools, Bools] | None:
        try:
            case = dataset[case_id]
            mask, ref = masks(case_id), case.inputs.get(next(iter(dataset.inputs)))
            if mask is None or ref is None or not case.truth.masks:
                return None
            image = read_ref(dataset, ref).match(mask.geometry)
            truth = np.asarray(read_ref(dataset, case.truth.masks[0]).match(mask.geometry).array)
        except DataError:  # it is shown without its picture; that it cannot be read the report says elsewhere
            return None
        return image, _one(dataset, truth, structure, image), _one(dataset, mask.array, structure, image)

    return drawn


def _one(dataset: Dataset, mask: NDArray[Any], structure: str, image: Image) -> Bools:
    """One structure of a label map, or of channels a region."""
    names = structures_of(dataset)
    if mask.ndim > image.ndim:
        return np.asarray(mask[..., list(names.values()).index(structure)] > 0)
    if dataset.regions:
        return np.isin(mask, list(dataset.regions[structure]))
    return np.asarray(mask == next(value for value, name in names.items() if name == structure))


def outlines_key() -> list[tuple[str, str]]:
    """Each outline: a short line as SVG, and what it is."""
    found = []
    for (red, green, blue), name in OUTLINES:
        line = (
            '<svg xmlns="http://www.w3.org/2000/svg" width="34" height="12" aria-hidden="true">'
            f'<rect width="34" height="12" fill="#3b4250"/><path d="M3 6h28" stroke="rgb({red},{green},{blue})" '
            'stroke-width="3"/></svg>'
        )
        found.append((line, name))
    return found


def words_of(scores: MaskScores) -> str:
    """What is wrong with a mask, in a few words."""
    if not scores.prediction_voxels and scores.truth_voxels:
        return f"{scores.structure}: missed, Dice {scores.dice:.2f}"
    if scores.prediction_voxels and not scores.truth_voxels:
        return f"{scores.structure}: invented, Dice {scores.dice:.2f}"
    text = f"{scores.structure}: Dice {scores.dice:.2f}"
    if scores.hd95_mm is not None:
        text += f", HD95 {scores.hd95_mm:.1f} mm"
    if scores.volume_error_ml is not None:
        text += f", {scores.volume_error_ml:+.3g} ml".replace("-", "−")
    return text


def contours(image: Image, truth: Bools, predicted: Bools) -> Pixels:
    """(rows, columns, 3): the image around two masks with their outlines, where they differ most.

    A volume is shown in three planes, of an image in a plane a window of at most 224 × 224 pixels, enlarged.

    Args:
        image: Of two or three axes.
        truth: (*shape) bool, outlined in ``FIRST``.
        predicted: (*shape) bool, in ``SECOND``; where both outlines run, ``BOTH``.

    Raises:
        GeometryError: A mask that does not fit the image.
    """
    for mask in (truth, predicted):
        if mask.shape != image.geometry.shape:
            raise GeometryError("the mask does not fit the image", got=mask.shape, expected=image.geometry.shape)
    if image.ndim == 2:
        return _plane(image, truth, predicted)
    box = _around(truth | predicted)
    step = Crop(tuple(s.start for s in box), tuple(s.stop - s.start for s in box))
    ours, theirs = truth[box].astype(np.uint8), predicted[box].astype(np.uint8)
    return three_planes(image.moved(step), ours, theirs, height=HEIGHT, line=LINE)


def _around(mask: Bools) -> tuple[slice, ...]:
    """The box of a mask with a margin, within the grid; everything where the mask is empty."""
    found = []
    for axis, n in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not len(used):
            return tuple(slice(0, size) for size in mask.shape)
        low, high = int(used[0]), int(used[-1]) + 1
        more = max(2, round((high - low) * MARGIN))
        found.append(slice(max(0, low - more), min(n, high + more)))
    return tuple(found)


def _plane(image: Image, truth: Bools, predicted: Bools) -> Pixels:
    box = _densest(truth != predicted if (truth != predicted).any() else truth)
    channels = np.nan_to_num(np.asarray(image.channels_first(), dtype=np.float64))
    colour = len(channels) == 3 and image.time_s is None
    values = channels if colour else channels[len(channels) // 2][None]
    low, high = np.percentile(values, [0.5, 99.5])
    shown = np.clip((values - low) / (high - low if high > low else 1.0) * 255, 0, 255)
    picture = np.moveaxis(np.rint(shown).astype(np.uint8), 0, -1)[box]
    times = max(1, 2 * LARGEST // max(picture.shape[:2]))
    picture = _enlarged(np.broadcast_to(picture, (*picture.shape[:2], 3)), times)  # a copy: it is drawn into
    ours, theirs = (_enlarged(mask[box].astype(np.uint8), times) for mask in (truth, predicted))
    outline_both(picture, ours, theirs, LINE)
    return picture


def _enlarged(picture: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Each pixel as a square of so many a side, in memory of its own."""
    return np.repeat(np.repeat(picture, times, axis=0), times, axis=1)


def _densest(mask: Bools) -> tuple[slice, slice]:
    """The window of at most 224 × 224 pixels that holds most of a mask, by sums over corners of an integral image."""
    sums = np.zeros(tuple(n + 1 for n in mask.shape), dtype=np.int64)
    sums[1:, 1:] = mask.astype(np.int64).cumsum(0).cumsum(1)
    high, wide = (min(n, LARGEST) for n in mask.shape)
    held: NDArray[Any] = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    best = np.argwhere(held == held.max())
    row, column = (int(v) for v in best[len(best) // 2])  # of several, one in the middle
    return slice(row, row + high), slice(column, column + wide)
