"""One DICOM file as an image (a series is a folder of such files and another matter).

Stored numbers become what they mean (rescale slope and intercept, modality LUT), luminance and chrominance become
red, green and blue. A single frame is (rows, columns): column 0 of the affine is the step to the next row, column 1
to the next column (PS3.3 C.7.6.2.1.1). Frames with positions are a volume (rows, columns, slices); frames with times
are a cine; frames with neither are counted, and have no millimetres. Tiles of a slide are put together to its whole
picture. A frame of a file is named ``file.dcm#3``, counted from 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.geometry import Geometry
from medmap.image import Source
from medmap.read.dicom import nuclear, parametric, segmentation
from medmap.read.dicom.codecs import PixelSpec, decode_frame
from medmap.read.dicom.drawn import open_structures
from medmap.read.dicom.elements import Elements
from medmap.read.dicom.frames import Frames
from medmap.read.dicom.header import header_of, named, spec_of, translated, understood
from medmap.read.dicom.meaning import Meaning, windows
from medmap.read.dicom.place import Over, place_of
from medmap.read.dicom.planes import Stacked, pixels_absent, slide, tile_of_slide
from medmap.read.dicom.structures import is_structure_set
from medmap.read.opened import RGB, Opened

# objects whose frames are placed by segment or quantity: (path, member, header, notes) → Opened
DERIVED: Mapping[str, Callable[[Path, str | None, Any, list[str]], Opened]] = MappingProxyType(
    {
        segmentation.SEGMENTATION: segmentation.open_segmentation,
        segmentation.LABEL_MAP: segmentation.open_segmentation,
        parametric.PARAMETRIC_MAP: parametric.open_parametric,
    }
)


def is_dicom(head: bytes) -> bool:
    """Whether bytes begin a DICOM file: the prefix after the preamble, or (older files) a first element of group 8.

    Example:
        >>> is_dicom(bytes(128) + b"DICM")
        True
    """
    if head[128:132] == b"DICM":
        return True
    group_2_or_8 = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00" and len(head) > 12
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"DA", b"TM", b"LO", b"SH", b"OB")
    if head[:3] == b"\x00\x08\x00" and len(head) > 12:  # big endian
        return explicit
    implicit = len(head) > 12 and 0 < int.from_bytes(head[4:8], "little") <= 64
    return group_2_or_8 and (explicit or implicit)


def open_dicom(path: Path, member: str | None) -> Opened:
    """A DICOM image; what its header leaves open stands in the warnings.

    Raises:
        ReadError: Damaged, truncated, without pixels, or frames of different orientations or at uneven distances.
        LimitError: A declared size beyond reason.
        GeometryError: Positions that describe no grid.
    """
    notes: list[str] = []
    with understood(path, notes):
        header, elements = header_of(path)
        drawn = is_structure_set(header)
    if drawn:  # outside: it looks through folders in threads, which listen to pydicom themselves
        with translated(path):
            return open_structures(path, member, notes)
    with understood(path, notes):
        if not elements.pixels:
            if all(name in header for name in ("Rows", "Columns", "BitsAllocated")):
                raise ReadError(f"{path} is truncated: its pixels are missing", remedy="copy the original file again")
            raise ReadError(f"{path} is a DICOM object without an image", got=_what(header))
        opener = DERIVED.get(str(header.get("SOPClassUID", "")))
        if opener is not None:
            return opener(path, member, header, notes)
        return _described(path, member, (header, elements), notes)


def _what(header: Any) -> str:
    meta = getattr(header, "file_meta", None) or {}
    sop = header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    return str(getattr(sop, "name", "") or "an unknown class")


def _described(path: Path, member: str | None, found: tuple[Any, Elements], notes: list[str]) -> Opened:
    header, elements = found
    spec, count = spec_of(path, header, elements, notes)
    run = nuclear.chosen(path, member, header, count, notes)
    picked = run.frames
    frames = Frames.of(elements, header, spec, count, notes)
    meaning = Meaning.of(header, spec, notes)
    tiles, geometry, times = _placed(path, header, (spec, count), (run, member is not None), notes)
    _odd(header, spec, notes)
    once = meaning.transforms[0] if len(set(meaning.transforms)) == 1 else None
    return Opened(
        geometry=geometry,
        dtype=meaning.dtype,
        pixels=lambda notes: (
            _decoded(path, frames, meaning, picked) if tiles is None else _assembled(path, frames, meaning, tiles)
        ),
        quantity=meaning.quantity,
        channels=RGB if meaning.colour else ("image",),
        time_s=times,
        source=Source(
            path=str(path) if member is None else f"{path}#{member}",
            format="dicom",
            transfer_syntax=elements.syntax or None,
            rescale=once,
            photometric=spec.photometric or None,
            bits_stored=spec.bits_stored,
            modality=str(header.get("Modality", "")).strip() or None,
            windows=windows(header),
            warnings=tuple(dict.fromkeys(notes)),
        ),
        working_bytes=min(len(picked), _workers()) * spec.rows * spec.columns * spec.samples * spec.dtype.itemsize,
        measured=lambda array: (
            _measured(array, meaning, picked, times is not None)
            if tiles is None
            else _measured_tiles(array, meaning, tiles, (spec.rows, spec.columns))
        ),
    )


def _placed(
    path: Path, header: Any, extent: tuple[PixelSpec, int], which: tuple[nuclear.Run, bool], notes: list[str]
) -> tuple[Stacked | None, Geometry, tuple[float, ...] | None]:
    """Where tiles lie (None where frames are no tiles of one picture), the grid, and the times of a cine.

    Args:
        path, header: The file.
        extent: How frames are stored, and how many there are.
        which: The frames that are read, and whether they were asked for by name.
        notes: Gets what is odd.
    """
    (spec, count), (run, asked) = extent, which
    if _whole_number(header.get("TotalPixelMatrixRows")) and _whole_number(header.get("TotalPixelMatrixColumns")):
        if asked:
            return None, tile_of_slide(path, header, (count, run.frames[0]), notes), None
        tiles = slide(path, header, count, notes)
        return tiles, tiles.geometry, None
    where = nuclear.placed(header, count)
    if run.times_s is not None and len(run.frames) > 1:
        where = Over(where, {"FrameTimeVector": tuple(np.diff(run.times_s, prepend=0.0) * 1000)})
    return None, *place_of(path, where, (spec.rows, spec.columns), run.frames, notes)


def _whole_number(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _odd(header: Any, spec: PixelSpec, notes: list[str]) -> None:
    if spec.photometric == "MONOCHROME1":
        notes.append("larger numbers are darker here (MONOCHROME1); the values were kept")
    if any(0x6000 <= tag.group <= 0x601E for tag in header.keys()):  # noqa: SIM118  (tags, without decoding values)
        notes.append("an overlay is stored beside the pixels and was left out; read_overlays gives it")
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        notes.append("the file says that annotations are burned into its pixels")


def _workers() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


def _decoded(path: Path, frames: Frames, meaning: Meaning, picked: Sequence[int]) -> NDArray[Any]:
    """(rows, columns[, frames][, channels]): frames decoded side by side, each into its place."""
    first = _values(path, frames, meaning, picked[0])
    if len(picked) == 1:
        return first
    out = np.empty((len(picked), *first.shape), meaning.dtype)
    out[0] = first

    def place(index: int) -> None:
        out[index] = _values(path, frames, meaning, picked[index])

    _side_by_side(place, range(1, len(picked)))
    return np.moveaxis(out, 0, 2)  # frames after rows and columns


def _assembled(path: Path, frames: Frames, meaning: Meaning, tiles: Stacked) -> NDArray[Any]:
    """(rows, columns[, channels]) of a slide's whole picture; zero where it has no tile."""
    trailing = (len(RGB),) if meaning.colour else ()
    out = np.zeros((*tiles.geometry.shape, *trailing), meaning.dtype)

    def place(number: int) -> None:
        row, column = (int(v) for v in tiles.corners[number])
        part = out[row : row + frames.spec.rows, column : column + frames.spec.columns]
        part[...] = _values(path, frames, meaning, number)[: part.shape[0], : part.shape[1]]

    _side_by_side(place, range(len(tiles.corners)))
    return out


def _values(path: Path, frames: Frames, meaning: Meaning, number: int) -> NDArray[Any]:
    with named(path, number if frames.count > 1 else None):
        data, skip = frames.stored(number)
        return meaning.apply(decode_frame(data, frames.spec, skip), number)


def _side_by_side(place: Callable[[int], None], numbers: range) -> None:
    """Every frame, in threads; what is refused ends it."""
    if len(numbers) == 1:
        place(numbers[0])
        return
    with ThreadPoolExecutor(min(_workers(), len(numbers))) as pool:
        waiting = [pool.submit(place, number) for number in numbers]
        try:
            for done in waiting:
                done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _measured(array: NDArray[Any], meaning: Meaning, picked: Sequence[int], cine: bool) -> NDArray[np.bool_] | None:
    """Where something was measured; of a cine, where it was in every frame."""
    if meaning.padding is None:
        return None
    if len(meaning.transforms) <= 1 or len(picked) == 1:
        valid = meaning.measured(array, picked[0])
    else:
        parts = [meaning.measured(array[:, :, i], frame) for i, frame in enumerate(picked)]
        if all(part is None for part in parts):
            return None
        valid = np.stack([np.ones(array.shape[:2], bool) if part is None else part for part in parts], axis=2)
    return np.asarray(valid.all(axis=2)) if valid is not None and cine else valid


def _measured_tiles(
    array: NDArray[Any], meaning: Meaning, tiles: Stacked, size: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """Where a slide's picture has a tile, and no padding."""
    if meaning.padding is None and not pixels_absent(tiles, size):
        return None
    there = np.zeros(array.shape[:2], bool)
    for number, (row, column) in enumerate(tiles.corners.tolist()):
        part = np.s_[row : row + size[0], column : column + size[1]]
        valid = meaning.measured(array[part], number)
        there[part] = True if valid is None else valid
    return None if there.all() else there
