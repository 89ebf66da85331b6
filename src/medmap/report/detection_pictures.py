"""What a detector hit, missed and invented, in pictures: true and found boxes on the image, each kind its own line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Dataset
from medmap.errors import DataError, counted
from medmap.evaluate import DetectionTable
from medmap.image import Image
from medmap.metrics import BoxList
from medmap.metrics.froc import ALARM, DOUBLE, HIT
from medmap.read import read_ref
from medmap.report.pictures import Pixels, png_uri
from medmap.report.svg import LETTER, attribute, box, drawing, label, number, plain, short
from medmap.write.colours import short_names
from medmap.write.tags import placed_tags

Floats = NDArray[np.float64]
ImageOf = Callable[[str], Image | None]  # a case's identifier → its image, None where it cannot be read
EACH = 6
WIDE, LARGE = 300.0, 480.0  # px of a picture in the page: of the surroundings of a finding, of a whole plane
SHARP, SHARPEST = 320, 640  # px of the image in them, at most
TAG, TAG_FONT = 14, 11  # px
AROUND_MM, AROUND_SIZES = 60.0, 5.0  # what is shown of a volume: at least so much, and so many times the finding
AROUND_VOXELS = 64.0  # where there are no millimetres


@dataclass(frozen=True)
class Stroke:
    """How a kind of box is drawn: told apart by colour and by line, on bright and on dark images."""

    name: str
    colour: str
    dash: str
    width: float


FOUND_TRUE = Stroke("true box, found", "#2fd6a3", "", 1.3)
MISSED = Stroke("true box, missed", "#ffab2e", "9 5", 2.6)
BOX_HIT = Stroke("found box, right", "#6cc5ff", "6 2", 1.3)
BOX_ALARM = Stroke("false alarm", "#ff6fae", "2.5 3", 2.6)
SPARED = Stroke("true box, ignored", "#d0d4da", "1 4", 1.6)
STROKES = (FOUND_TRUE, MISSED, BOX_HIT, BOX_ALARM, SPARED)


@dataclass(frozen=True)
class Pictured:
    """A case, or a finding in it.

    Args:
        case: Its identifier.
        picture: SVG, or None where the image cannot be shown.
        words: What is to be seen, in a few words.
    """

    case: str
    picture: str | None
    words: str


@dataclass(frozen=True)
class PictureRow:
    """Pictures that have something in common."""

    title: str
    explanation: str
    cases: tuple[Pictured, ...]


@dataclass(frozen=True)
class _Focus:
    """A case by its row, the box that is looked at (its corners, None for the whole picture), and the words."""

    row: int
    corners: tuple[float, ...] | None
    words: str


@dataclass(frozen=True, eq=False)
class _Box:
    """A box that is drawn: how, where, its class, and what is said when a pointer rests on it."""

    stroke: Stroke
    corners: Floats
    label: int
    words: str


def volumes_of(dataset: Dataset) -> ImageOf:
    """A function from a case's identifier to its first input, as it is stored.

    Args:
        dataset: Where the cases' images are found.
    """

    def image(case: str) -> Image | None:
        try:
            ref = dataset[case].inputs.get(next(iter(dataset.inputs)))
            return None if ref is None else read_ref(dataset, ref)
        except DataError:  # it is shown without its picture; that it cannot be read the report says elsewhere
            return None

    return image


def picture_rows(table: DetectionTable, images: ImageOf | None, count: int = EACH) -> list[PictureRow]:
    """The pictures of a report: of planes the worst cases whole, of volumes the slice through single findings.

    Args:
        table: The judged boxes.
        images: Gives what is drawn on; only what is shown is asked for. None: words alone.
        count: At most so many in a row.
    """
    rows = _of_planes(table, count) if table.ndim == 2 else _of_volumes(table, count)
    wanted = list(dict.fromkeys(focus.row for _, _, foci in rows for focus in foci))
    drawn: dict[int, str | None] = {}
    for row in wanted if images is not None else []:  # each image is read once, and one held at a time
        image = images(table.cases[row]) if images is not None else None
        for _, _, foci in rows:
            for focus in foci:
                if focus.row == row:
                    drawn[id(focus)] = None if image is None else boxes_drawn(table, row, image, focus.corners)
    return [
        PictureRow(title, words, tuple(Pictured(table.cases[f.row], drawn.get(id(f)), f.words) for f in foci))
        for title, words, foci in rows
        if foci
    ]


def _of_planes(table: DetectionTable, count: int) -> list[tuple[str, str, list[_Focus]]]:
    hits, n = table.hits, len(table)
    missed = np.bincount(table.true.cases[table.findings & ~table.found_when_called], minlength=n)
    found = np.bincount(table.true.cases[table.findings & table.found_when_called], minlength=n)
    alarms = np.bincount(table.found.cases[(hits.outcomes == ALARM) & table.called], minlength=n)
    wrong = missed + alarms

    def focus(row: int) -> _Focus:
        return _Focus(
            row, None, f"{found[row]} found, {missed[row]} missed, {counted(int(alarms[row]), 'false alarm')}"
        )

    worst = [int(row) for row in np.argsort(-wrong, kind="stable") if wrong[row]][:count]
    best = [int(row) for row in np.argsort(-found, kind="stable") if found[row] and not wrong[row]][: count // 2]
    return [
        (
            "Worst cases",
            "Most findings missed and most false alarms. Look for boxes that nobody has drawn.",
            list(map(focus, worst)),
        ),
        ("All found", "Nothing missed, no false alarm.", list(map(focus, best))),
    ]


def _of_volumes(table: DetectionTable, count: int) -> list[tuple[str, str, list[_Focus]]]:
    hits = table.hits
    missed = np.flatnonzero(table.findings & ~table.found_when_called)
    missed = missed[np.argsort(-table.true.diameters[missed], kind="stable")][:count]
    alarms = np.flatnonzero((hits.outcomes == ALARM) & table.called)
    alarms = alarms[np.argsort(-table.found.scores[alarms], kind="stable")][:count]
    right = np.flatnonzero(table.findings & table.found_when_called)
    right = right[np.argsort(hits.scores[right], kind="stable")][:count]

    def of_true(row: int) -> _Focus:
        boxes, by = table.true, int(hits.by[row])
        words = f"{table.labels[boxes.labels[row]]}, {boxes.diameters[row]:.1f} {table.unit}"
        words += "" if by < 0 else f", score {table.found.scores[by]:.2f}"
        return _Focus(int(boxes.cases[row]), tuple(boxes.corners[row].tolist()), words)

    def of_found(row: int) -> _Focus:
        boxes = table.found
        words = (
            f"{table.labels[boxes.labels[row]]}, {boxes.diameters[row]:.1f} {table.unit}, score {boxes.scores[row]:.2f}"
        )
        return _Focus(int(boxes.cases[row]), tuple(boxes.corners[row].tolist()), words)

    return [
        ("Missed", "The largest findings below the operating point.", [of_true(int(row)) for row in missed]),
        (
            "False alarms",
            "The surest of them. Look for findings that nobody has drawn.",
            [of_found(int(row)) for row in alarms],
        ),
        ("Found", "The least sure of those that were found.", [of_true(int(row)) for row in right]),
    ]


def boxes_drawn(table: DetectionTable, row: int, image: Image, focus: Sequence[float] | None = None) -> str | None:
    """The image of a case with its boxes as SVG; of a volume the slice through the middle of a box, around it.

    Patients lie as radiologists look at them. Called boxes are drawn, and the one that is looked at.

    Args:
        table: The judged boxes.
        row: Which case.
        image: On the grid that the boxes speak of.
        focus: Corners of the box that is looked at; None for the whole picture, or a volume's middle slice.

    Returns:
        None where the image has other axes than the boxes.
    """
    if image.ndim != table.ndim:
        return None
    placed = image.oriented("LPS") if image.ndim == 3 and image.geometry.kind == "patient" else image
    turn = np.linalg.inv(placed.geometry.affine_lps_mm) @ image.geometry.affine_lps_mm
    middle = (np.array(image.geometry.shape, dtype=np.float64) - 1) / 2
    looked_at = np.concatenate([middle, middle]) if focus is None else np.asarray(focus, dtype=np.float64)
    here = _turned(looked_at[None], turn)[0]
    n = image.ndim
    across = (0, 1) if n == 3 else (1, 0)  # the index axes that run right and down in the picture
    step = np.array(placed.geometry.spacing_mm)[list(across)] if placed.geometry.has_size else np.ones(2)
    level = int(np.clip(round(float(here[2] + here[5]) / 2), 0, placed.geometry.shape[2] - 1)) if n == 3 else 0
    size = np.array([placed.geometry.shape[axis] for axis in across])
    start, stop = _window(here, across, step, size, whole=focus is None or n == 2)
    pixels = _pixels(placed, level, start, stop, SHARPEST if n == 2 else SHARP)
    wide = LARGE if n == 2 else WIDE
    scale = wide / float((stop - start)[0] * step[0])
    high = float((stop - start)[1] * step[1] * scale)
    parts = [
        f'<image href="{png_uri(pixels)}" x="0" y="0" width="{number(wide)}" height="{number(high)}" '
        'preserveAspectRatio="none"/>'
    ]
    shown: list[tuple[_Box, Floats]] = []
    for one in _boxes(table, row, focus):
        at = _turned(one.corners[None], turn)[0]
        if n == 3 and not at[2] - 0.5 <= level <= at[5] + 0.5:
            continue
        low = (at[list(across)] - 0.5 - start) * step * scale
        far = (at[[axis + n for axis in across]] + 0.5 - start) * step * scale
        if (far < 0).any() or low[0] > wide or low[1] > high:
            continue
        parts.append(_rectangle(low, far - low, one.stroke, one.words))
        shown.append((one, np.concatenate([low[::-1], far[::-1]])))
    parts += _tags(table.labels, shown, (round(high), round(wide)))
    return drawing(wide, high, table.cases[row], "boxes on the image", parts)


def _turned(corners: Floats, turn: Floats) -> Floats:
    """(n, 2·ndim) corners on another grid that differs by turns and flips."""
    n = corners.shape[1] // 2
    matrix, shift = turn[:n, :n], turn[:n, 3]
    ends = [corners[:, :n] @ matrix.T + shift, corners[:, n:] @ matrix.T + shift]
    return np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1)


def _window(
    here: Floats, across: tuple[int, int], step: Floats, size: NDArray[Any], *, whole: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last (excluded) pixel that is shown, right and down."""
    if whole:
        return np.zeros(2, dtype=np.int64), size.astype(np.int64)
    n = len(here) // 2
    low, far = here[list(across)], here[[axis + n for axis in across]]
    least = AROUND_MM if (step != 1).any() else AROUND_VOXELS
    wide = max(least, AROUND_SIZES * float(((far - low + 1) * step).max()))
    count = np.minimum(np.maximum(np.round(wide / step), 8), size).astype(np.int64)
    start = np.clip(np.round((low + far + 1) / 2 - count / 2), 0, size - count).astype(np.int64)
    return start, start + count


def _pixels(image: Image, level: int, start: NDArray[np.int64], stop: NDArray[np.int64], most: int) -> Pixels:
    """(rows, columns) or (rows, columns, 3) of a slice's part; grey from its 0.5th to its 99.5th percentile."""
    channels = np.asarray(image.channels_first())
    if image.ndim == 3:
        channels = channels[..., level].swapaxes(-1, -2)
    channels = channels[..., start[1] : stop[1], start[0] : stop[0]]
    colour = len(image.channels) == 3 and image.time_s is None
    values = np.nan_to_num((channels if colour else channels[len(channels) // 2]).astype(np.float64))
    thin = max(1, -(-max(values.shape[-2:]) // most))
    values = values[..., ::thin, ::thin]
    if not (colour and channels.dtype == np.uint8):
        low, high = np.percentile(values, [0.5, 99.5])
        values = (values - low) / (high - low if high > low else 1.0) * 255
    pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.moveaxis(pixels, 0, -1) if colour else pixels


def _boxes(table: DetectionTable, row: int, focus: Sequence[float] | None) -> list[_Box]:
    """What is drawn of a case; what went wrong last, on top."""
    found: list[_Box] = []
    hits = table.hits
    for at in np.flatnonzero(table.true.cases == row):
        stroke = SPARED if not table.findings[at] else FOUND_TRUE if table.found_when_called[at] else MISSED
        words = _said(table, table.true, int(at), stroke)
        found.append(_Box(stroke, table.true.corners[at], int(table.true.labels[at]), words))
    for at in np.flatnonzero(table.found.cases == row):
        corners = table.found.corners[at]
        asked = focus is not None and np.array_equal(corners, np.asarray(focus))
        if not (table.called[at] or asked):
            continue
        outcome = hits.outcomes[at]
        if outcome in (HIT, DOUBLE, ALARM):
            stroke = BOX_ALARM if outcome == ALARM else BOX_HIT
            words = f"{_said(table, table.found, int(at), stroke)}, score {table.found.scores[at]:.2f}"
            found.append(_Box(stroke, corners, int(table.found.labels[at]), words))
    order = {FOUND_TRUE: 1, SPARED: 0, BOX_HIT: 2, MISSED: 3, BOX_ALARM: 4}
    return sorted(found, key=lambda one: order[one.stroke])


def _tags(labels: Sequence[str], shown: Sequence[tuple[_Box, Floats]], size: tuple[int, int]) -> list[str]:
    """The class of each box, what went wrong placed first; its sign where names hide boxes. One class needs no tag.

    A box that hit has the class of the true one beneath it, which bears the tag.
    """
    if len(labels) == 1:
        return []
    tagged = [(one, at) for one, at in reversed(shown) if one.stroke is not BOX_HIT]
    others = np.reshape([at for one, at in shown if one.stroke is BOX_HIT], (-1, 4))
    for names in (labels, short_names(labels)):
        texts = [short(names[one.label], 24) for one, _ in tagged]
        widths = [round(len(text) * LETTER * TAG_FONT / 12) + 6 for text in texts]
        tags = placed_tags(np.reshape([at for _, at in tagged], (-1, 4)), widths, TAG, size, others)
        if tags.clear:
            break
    parts = []
    for (one, _), text, width, place in zip(tagged, texts, widths, tags.places, strict=True):
        if place is not None:
            parts.append(box(place[1], place[0], width, TAG, one.stroke.colour, opacity="0.85"))
            middle = place[1] + width / 2
            parts.append(label(middle, place[0] + 11, text, anchor="middle", colour="#000000", size=TAG_FONT))
    return parts


def class_key(table: DetectionTable) -> str:
    """What the tags on pictures mean; nothing where there is but one class."""
    if len(table.labels) == 1:
        return ""
    signs = short_names(table.labels)
    return "Tags name the class: " + ", ".join(
        f"{sign} is {name}" for sign, name in zip(signs, table.labels, strict=True)
    )


def _said(table: DetectionTable, boxes: BoxList, row: int, stroke: Stroke) -> str:
    return f"{table.labels[int(boxes.labels[row])]}: {stroke.name}"


def _rectangle(low: Floats, size: Floats, stroke: Stroke, words: str) -> str:
    """A box over a dark edge, so that it is seen on bright images too."""
    place = (
        f'x="{number(low[0])}" y="{number(low[1])}" width="{number(size[0])}" height="{number(size[1])}" fill="none"'
    )
    dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
    return (
        f"<g><title>{plain(words)}</title>"
        f'<rect {place} stroke="#000000" stroke-opacity="0.5" stroke-width="{number(stroke.width + 1.2)}"{dash}/>'
        f'<rect {place} stroke="{stroke.colour}" stroke-width="{number(stroke.width)}"{dash}/></g>'
    )


def legend() -> list[tuple[str, str]]:
    """Each kind of box: a short line as SVG, and what it means."""
    found = []
    for stroke in STROKES:
        dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
        line = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="34" height="12" aria-hidden="true">'
            f'<rect width="34" height="12" fill="#3b4250"/><path d="M3 6h28" stroke={attribute(stroke.colour)} '
            f'stroke-width="{number(stroke.width)}"{dash}/></svg>'
        )
        found.append((line, stroke.name))
    return found
