"""Images of single cases for a report: the worst and the best, small enough to stand in the page."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Dataset
from medmap.errors import DataError
from medmap.evaluate import PredictionTable
from medmap.image import Image
from medmap.read import read_ref

Pixels = NDArray[np.uint8]
Images = Callable[[str], Pixels | None]
LARGEST = 224  # px of an image's longer side in the page
EACH = 6


@dataclass(frozen=True)
class Shown:
    """A case in the gallery.

    Args:
        case: Its identifier.
        picture: PNG as a data URI, or None.
        truth, called: In words.
        detail: Its score.
    """

    case: str
    picture: str | None
    truth: str
    called: str
    detail: str


@dataclass(frozen=True)
class Gallery:
    """A row of cases with what they have in common."""

    title: str
    explanation: str
    cases: tuple[Shown, ...]


def images_of(dataset: Dataset) -> Images:
    """A function from a case's identifier to its picture: the middle slice of a volume, the middle frame of a cine.

    Args:
        dataset: Where the cases' images are found.
    """

    def picture(case: str) -> Pixels | None:
        ref = dataset[case].inputs.get(next(iter(dataset.inputs)))
        try:
            return None if ref is None else picture_of(read_ref(dataset, ref))
        except DataError:  # it is shown without its picture; that it cannot be read the report says elsewhere
            return None

    return picture


def picture_of(image: Image) -> Pixels:
    """(rows, columns) or (rows, columns, 3); grey values from the 0.5th to the 99.5th percentile.

    A volume lies as radiologists look at it: the patient's right on the left.
    """
    if image.ndim == 3:
        if image.geometry.kind == "patient":
            image = image.oriented("LPS")
        channels = np.asarray(image.channels_first())
        channels = channels[..., channels.shape[-1] // 2].swapaxes(-1, -2)
    else:
        channels = np.asarray(image.channels_first())
    colour = len(image.channels) == 3 and image.time_s is None
    values = channels.astype(np.float64) if colour else channels[len(channels) // 2].astype(np.float64)
    values = np.nan_to_num(values)
    step = max(1, -(-max(values.shape[-2:]) // LARGEST))
    values = values[..., ::step, ::step]
    if not (colour and channels.dtype == np.uint8):
        low, high = np.percentile(values, [0.5, 99.5])
        values = (values - low) / (high - low if high > low else 1.0) * 255
    pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.moveaxis(pixels, 0, -1) if colour else pixels


def png_uri(pixels: Pixels) -> str:
    """Pixels as a PNG data URI (PNG specification, third edition; no metadata).

    Args:
        pixels: (rows, columns) grey or (rows, columns, 3) colour.

    Raises:
        DataError: Another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise DataError("a picture is 8-bit grey or RGB", got=f"{pixels.dtype} {pixels.shape}")
    rows, columns = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    lines = b"".join(b"\0" + np.ascontiguousarray(line).tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", columns, rows, 8, colour, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def galleries(table: PredictionTable, images: Images | None) -> list[Gallery]:
    """The cases that teach most: gravest errors, best answers, greatest doubt."""
    if not len(table):
        return []
    error, right = _error(table)
    worst, best = np.argsort(-error, kind="stable"), np.argsort(error, kind="stable")
    wrong = [row for row in worst if not right[row]][:EACH]
    good = [row for row in best if right[row]][:EACH]
    first = ("Gravest errors", "The model was surest of the wrong answer.")
    second = ("Best answers", "The model was surest of the right answer.")
    if table.kind == "regression":
        wrong, good = list(worst[:EACH]), list(best[:EACH])
        first, second = ("Largest errors", "Furthest from the truth."), ("Best answers", "Nearest to the truth.")
    look = f"{first[1]} Look for wrong labels, artefacts and findings at the border."
    found = [
        Gallery(first[0], look, tuple(_shown(table, row, images) for row in wrong)),
        Gallery(*second, tuple(_shown(table, row, images) for row in good)),
    ]
    doubt = _doubt(table)
    if doubt is not None:
        unsure = np.argsort(-doubt, kind="stable")[:EACH]
        words = (
            "The networks and views disagree most."
            if table.spread is not None
            else "The largest score is the smallest."
        )
        found.append(Gallery("Greatest doubt", words, tuple(_shown(table, row, images) for row in unsure)))
    return [gallery for gallery in found if gallery.cases]


def _error(table: PredictionTable) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n,) how wrong each case is, and whether it is right."""
    if table.kind == "regression":
        gap = np.nanmean(np.abs(table.scores - table.truth), axis=1)
        return gap, np.ones(len(table), dtype=np.bool_)
    if table.kind == "multilabel":
        gap = np.nanmax(np.abs(table.scores - table.truth), axis=1)
        return gap, gap < 0.5
    gap = 1 - table.scores[np.arange(len(table)), table.truth]
    names = np.array([table.labels.index(names[0]) if names else -1 for names in table.decided])
    largest = table.scores.argmax(axis=1)
    return gap, np.where(names >= 0, names, largest) == table.truth


def _doubt(table: PredictionTable) -> NDArray[np.float64] | None:
    if table.kind == "regression":
        return None if table.spread is None else table.spread.max(axis=1)
    if table.spread is not None:
        return np.asarray(table.spread.max(axis=1))
    return None if table.kind == "multilabel" else -table.scores.max(axis=1)


def _shown(table: PredictionTable, row: np.intp | int, images: Images | None) -> Shown:
    row = int(row)
    pixels = None if images is None else images(table.cases[row])
    if table.kind == "regression":
        truth = ", ".join("unknown" if np.isnan(v) else f"{v:.4g}" for v in table.truth[row])
        called, detail = ", ".join(f"{v:.4g}" for v in table.scores[row]), ""
    elif table.kind == "multilabel":
        truth = ", ".join(n for n, v in zip(table.labels, table.truth[row], strict=True) if v == 1) or "nothing"
        called = ", ".join(table.decided[row]) or "nothing"
        most = int(np.nanargmax(np.abs(table.scores[row] - table.truth[row])))
        detail = f"{table.labels[most]} {table.scores[row, most]:.2f}"
    else:
        truth = table.labels[int(table.truth[row])]
        called = ", ".join(table.decided[row]) or "left to a person"
        shown = table.positive if table.positive is not None else int(table.scores[row].argmax())
        detail = f"score for {table.labels[shown]} {table.scores[row, shown]:.2f}"
    if table.spread is not None:
        detail += f" ± {table.spread[row].max():.2f}"
    return Shown(table.cases[row], None if pixels is None else png_uri(pixels), truth, called, detail.strip())
