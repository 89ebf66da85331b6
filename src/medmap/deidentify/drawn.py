"""Which finished pictures stand on the sheet of samples: some of every kind, drawn by chance, a bounded number."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.deidentify.archive import journal_lines
from medmap.deidentify.samples import Sample, sample_sheet
from medmap.deidentify.stored import Undecodable, open_pixels
from medmap.errors import LimitError
from medmap.read.opened import heard
from medmap.read.text import TextBox

MOST_SAMPLES = 24
_SPARE = 2  # as many again may be undecodable
_LIMIT_BYTES = 2**30
_Line = dict[str, Any]


def write_samples(output: Path, journal: Path, path: Path) -> Path | None:
    """Write a sheet of finished pictures: evenly over modalities, and over those with and without blacked-out places.

    Args:
        output: The folder of de-identified files.
        journal: The run's journal.
        path: The sheet, readable by its owner alone; an earlier one is replaced.

    Returns:
        The sheet; None where no picture was written that can be shown.
    """
    samples: list[Sample] = []
    for line in _in_turn(_drawn(journal)):
        sample = _sample(output, line)
        samples += [] if sample is None else [sample]
        if len(samples) == MOST_SAMPLES:
            break
    if not samples:
        path.unlink(missing_ok=True)  # an earlier run's
        return None
    samples.sort(key=lambda sample: (sample.note, not sample.boxes, sample.name))
    return sample_sheet(samples, path, replace=True)


def _drawn(journal: Path) -> list[list[_Line]]:
    """A few lines of each kind of picture; which is decided by a hash of the new name, so that nothing else is held."""
    kinds: dict[tuple[str, bool], list[tuple[int, int, _Line]]] = {}
    for number, line in enumerate(journal_lines(journal)):
        if "p" not in line or "o" not in line:
            continue
        held = kinds.setdefault((str(line["p"]), "b" in line), [])
        entry = (-zlib.crc32(str(line["o"]).encode()), number, line)
        if len(held) < MOST_SAMPLES * _SPARE:
            heapq.heappush(held, entry)
        else:
            heapq.heappushpop(held, entry)
    return [[line for _, _, line in sorted(kinds[kind], key=lambda e: -e[0])] for kind in sorted(kinds)]


def _in_turn(kinds: list[list[_Line]]) -> Iterator[_Line]:
    """One of each kind, then the next of each; files done twice after a kill count once."""
    seen: set[str] = set()
    for round_ in range(MOST_SAMPLES * _SPARE):
        for lines in kinds:
            if round_ < len(lines) and lines[round_]["o"] not in seen:
                seen.add(str(lines[round_]["o"]))
                yield lines[round_]


def _sample(output: Path, line: _Line) -> Sample | None:
    from pydicom import dcmread

    with heard([], "pydicom"):
        try:
            dataset = dcmread(output / str(line["o"]))
            pixels = open_pixels(dataset, _LIMIT_BYTES)
            picture = pixels.shown(pixels.frames // 2)
        except (Undecodable, LimitError, OSError):
            return None
    if str(dataset.get("PhotometricInterpretation") or "") == "MONOCHROME1":
        picture = _turned(picture)
    boxes = [TextBox(row0, column0, row1, column1, None, 1.0) for row0, column0, row1, column1 in line.get("b", ())]
    return Sample(str(line["o"]), picture, boxes, str(line["p"]))


def _turned(picture: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(int(picture.max()) - picture)
