"""Faces taken out of a finished output, series by series: only all slices together show where a face is.

A series that is said to be of another part of the body is left alone. One that may show a head and cannot be judged
is left too, and said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medmap.deidentify.archive import journal_lines
from medmap.deidentify.stored import Compressed, Undecodable, open_pixels
from medmap.errors import DataError, LimitError, MedmapError
from medmap.read.opened import heard

_FACE = ("HEAD", "BRAIN", "SKULL", "FACE", "SINUS", "ORBIT")
_HEAD = ("HEAD", "BRAIN", "SKULL", "FACE", "NECK", "HEADNECK", "SINUS", "ORBIT", "EYE", "EAR", "JAW", "CSPINE", "IAC")
FEWEST_SLICES = 8
LEFT = "face"
_LIMIT_BYTES = 2**28  # one slice


def take_out_faces(output: Path, journal: Path) -> None:
    """Take the face out of every CT and MR series of a head, once; the journal remembers which are done.

    Args:
        output: The folder of de-identified files.
        journal: The run's journal.
    """
    done = {str(line["face"]) for line in journal_lines(journal) if "face" in line}
    handle = os.open(journal, os.O_WRONLY | os.O_APPEND)
    try:
        for folder in _series(output):
            name = folder.relative_to(output).as_posix()
            if name not in done:
                line = {"face": name, **_outcome(folder)}
                os.write(handle, (json.dumps(line, separators=(",", ":")) + "\n").encode())
    finally:
        os.close(handle)


def _series(output: Path) -> Iterator[Path]:
    for patient in sorted(output.iterdir()):
        for study in sorted(patient.iterdir()) if patient.is_dir() else ():
            yield from sorted(path for path in study.iterdir() if path.is_dir())


def _outcome(folder: Path) -> dict[str, object]:
    from pydicom import dcmread

    files = sorted(folder.glob("*.dcm"))
    with heard([], "pydicom"):
        first = dcmread(files[0], specific_tags=["Modality", "BodyPartExamined", "NumberOfFrames"])
        if not may_show_a_head(first):
            return {}
        if int(first.get("NumberOfFrames") or 1) > 1:
            return {"r": [["pixels", LEFT]], "note": "heads of multi-frame objects, left as they are"}
        if len(files) < FEWEST_SLICES:
            return {"note": "heads of too few slices to find a face in"}
        part = str(first.get("BodyPartExamined") or "").upper()
        return _taken_out(files, must_be_a_head=any(word in part for word in _FACE))


def _taken_out(files: list[Path], *, must_be_a_head: bool) -> dict[str, object]:
    from pydicom import dcmread

    from medmap.deidentify.deface import NoHead, deface_series

    series = [dcmread(path) for path in files]
    try:
        for ds in series:
            _make_native(ds)
        deface_series(series)
    except NoHead:
        if must_be_a_head:
            return {"r": [["pixels", LEFT]], "note": "heads in which the rule finds no head"}
        return {"note": "series without a head"}
    except (DataError, _UnusualPixels):  # no volume of plain slices: nobody has looked
        return {"r": [["pixels", LEFT]], "note": "heads that could not be judged"}
    for path, ds in zip(files, series, strict=True):
        part = path.with_name(f".{path.name}.part")
        ds.save_as(part, enforce_file_format=True)
        part.replace(path)
    return {"note": "faces taken out"}


class _UnusualPixels(MedmapError):
    """Pixels that are no plain grey slice."""


def _make_native(ds: Any) -> None:
    if (
        int(ds.get("SamplesPerPixel") or 1) != 1
        or int(ds.get("BitsAllocated") or 0) not in (8, 16)
        or "PixelData" not in ds
    ):
        raise _UnusualPixels("no plain grey slice")
    try:
        pixels = open_pixels(ds, _LIMIT_BYTES)
        if isinstance(pixels, Compressed):
            pixels.unpack()
    except (Undecodable, LimitError) as error:
        raise _UnusualPixels("no decodable slice") from error


def may_show_a_head(header: Any) -> bool:
    """Whether a CT or MR series may show a head: its body part says so, or says nothing.

    Example:
        >>> may_show_a_head({"Modality": "CT", "BodyPartExamined": "CHEST"}), may_show_a_head({"Modality": "MR"})
        (False, True)
    """
    part = str(header.get("BodyPartExamined") or "").upper()
    return str(header.get("Modality") or "") in ("CT", "MR") and (not part or any(word in part for word in _HEAD))
