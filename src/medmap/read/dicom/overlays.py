"""Overlays: drawings of one bit a pixel that a file keeps beside its pixels (PS3.3, C.9), never drawn into them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.read.dicom.frames import stored_words
from medmap.read.dicom.header import header_of
from medmap.read.opened import at_the_door, heard

MOST_PIXELS = 2**28  # of one overlay, all frames counted


@dataclass(frozen=True, eq=False)
class Overlay:
    """One overlay plane.

    Args:
        group: Its group: 0x6000, 0x6002 … 0x601E.
        kind: ``G`` graphics or ``R`` region of interest.
        mask: (rows, columns), or (frames, rows, columns): True where it is drawn.
        origin: (row, column) of its first pixel in the image, counted from 0; may lie outside.
        first_frame: The image's frame that its first frame belongs to, counted from 0.
        label, description: As the file says.
    """

    group: int
    kind: str
    mask: NDArray[np.bool_]
    origin: tuple[int, int]
    first_frame: int = 0
    label: str = ""
    description: str = ""


def read_overlays(path: str | Path) -> tuple[Overlay, ...]:
    """The overlays of a DICOM file, also those in unused bits of its pixels (retired in 2004).

    Raises:
        ReadError: An overlay shorter than it declares, or a damaged file.
        LimitError: A header beyond reason.
    """
    path = Path(path)
    notes: list[str] = []
    with at_the_door(path, "DICOM"), heard(notes, "pydicom"):
        header, elements = header_of(path)
        found = []
        for group in range(0x6000, 0x6020, 2):
            if (group, 0x0010) in header and (group, 0x0011) in header:
                found.append(_overlay(path, (header, elements), group))
        return tuple(found)


def _value(header: Any, group: int, element: int, default: Any = None) -> Any:
    item = header.get((group, element))
    return default if item is None or item.value is None or item.value == "" else item.value


def _overlay(path: Path, found: tuple[Any, Any], group: int) -> Overlay:
    header, elements = found
    rows, columns = int(_value(header, group, 0x10, 0)), int(_value(header, group, 0x11, 0))
    frames = int(_value(header, group, 0x15, 1))
    count = rows * columns * frames
    if min(rows, columns, frames) < 1 or count > MOST_PIXELS:
        raise ReadError(f"{path}: an overlay has an impossible size", got=f"{frames} frames of {rows} × {columns}")
    packed = _value(header, group, 0x3000)
    if packed is not None:
        if len(packed) * 8 < count:
            raise ReadError(f"{path}: an overlay is truncated", got=f"{len(packed)} bytes", expected=-(-count // 8))
        data = bytes(packed)
        if elements.big_endian and len(data) % 2 == 0:
            data = np.frombuffer(data, ">u2").astype("<u2").tobytes()  # 16-bit words
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:count].astype(np.bool_)
    else:
        words = stored_words(elements, header, count)
        bits = (words >> int(_value(header, group, 0x102, 0)) & 1).astype(np.bool_)
    origin = _value(header, group, 0x50, (1, 1))
    row, column = (int(v) for v in origin)
    return Overlay(
        group,
        str(_value(header, group, 0x40, "G")).strip(),
        bits.reshape((rows, columns) if frames == 1 else (frames, rows, columns)),
        (row - 1, column - 1),
        int(_value(header, group, 0x51, 1)) - 1,
        str(_value(header, group, 0x1500, "")),
        str(_value(header, group, 0x22, "")),
    )
