"""One DICOM file as an image (a series is a folder of such files and another matter).

Stored numbers become what they mean (rescale slope and intercept, modality LUT), luminance and chrominance become
red, green and blue. A single frame is (rows, columns): column 0 of the affine is the step to the next row, column 1
to the next column (PS3.3 C.7.6.2.1.1). Frames with positions are a volume (rows, columns, slices); frames with times
are a cine. Frames of a file are named ``file.dcm#3``, counted from 0.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, ReadError
from medmap.image import Source
from medmap.read.dicom import parametric, segmentation
from medmap.read.dicom.codecs import PixelSpec, decode_frame
from medmap.read.dicom.drawn import open_structures
from medmap.read.dicom.elements import DEFLATED, Elements, walked
from medmap.read.dicom.frames import Frames
from medmap.read.dicom.meaning import Meaning, windows
from medmap.read.dicom.place import place_of
from medmap.read.dicom.structures import is_structure_set
from medmap.read.opened import RGB, Opened, heard
from medmap.read.voxels import ABSURD_BYTES

_LOGGER = "pydicom"

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
    implicit = len(head) > 12 and 0 < int.from_bytes(head[4:8], "little") <= 64
    return group_2_or_8 and (explicit or implicit)


def open_dicom(path: Path, member: str | None) -> Opened:
    """A DICOM image; what its header leaves open stands in the warnings.

    Raises:
        ReadError: Damaged, truncated, without pixels, or frames that are neither a volume nor a cine.
        LimitError: A declared size beyond reason.
        GeometryError: Positions that describe no grid.
    """
    notes: list[str] = []
    with _understood(path, notes):
        header, elements = header_of(path)
        drawn = is_structure_set(header)
    if drawn:  # outside: it looks through folders in threads, which listen to pydicom themselves
        return open_structures(path, member, notes)
    with _understood(path, notes):
        if not elements.pixels:
            if all(name in header for name in ("Rows", "Columns", "BitsAllocated")):
                raise ReadError(f"{path} is truncated: its pixels are missing", remedy="copy the original file again")
            raise ReadError(f"{path} is a DICOM object without an image", got=_what(header))
        opener = DERIVED.get(str(header.get("SOPClassUID", "")))
        if opener is not None:
            return opener(path, member, header, notes)
        return _described(path, member, (header, elements), notes)


@contextmanager
def _understood(path: Path, notes: list[str]) -> Iterator[None]:
    """pydicom's warnings as notes; its own exceptions, which descend from none of Python's, as one of medmap's."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with heard(notes, _LOGGER), _called(path):
            yield
    except (BytesLengthException, InvalidDicomError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(f"{path} is damaged DICOM", got=reason, remedy="copy the original file again") from error


@contextmanager
def _called(path: Path, frame: int | None = None) -> Iterator[None]:
    """What is refused inside names the file, and the frame."""
    try:
        yield
    except (ReadError, LimitError) as error:
        if str(path) in error.what:
            raise
        where = str(path) if frame is None else f"{path}: frame {frame}"
        raise type(error)(
            f"{where}: {error.what}", got=error.got, expected=error.expected, remedy=error.remedy
        ) from error


def _what(header: Any) -> str:
    meta = getattr(header, "file_meta", None) or {}
    sop = header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    return str(getattr(sop, "name", "") or "an unknown class")


def header_of(path: Path) -> tuple[Any, Elements]:
    """The data set before the pixels, as pydicom has it, and where the pixels lie; the elements are walked first.

    Raises:
        ReadError: Truncated, damaged or without elements.
        LimitError: Deeper or larger than any object's header.
    """
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    def read_at(offset: int, count: int) -> bytes:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, count, offset)
            while len(data) < count and (more := os.pread(descriptor, count - len(data), offset + len(data))):
                data += more  # one call gives 2 GiB at most
            return data
        finally:
            os.close(descriptor)

    elements = walked(read_at, path.stat().st_size)
    if elements.syntax == DEFLATED:
        header = read_dataset(io.BytesIO(elements.head), elements.implicit, not elements.big_endian)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = UID(DEFLATED)
    else:
        header = pydicom.dcmread(io.BytesIO(elements.head), force=True)
    if not len(header):
        raise ReadError(f"{path} holds no DICOM elements: it is damaged or truncated")
    return header, elements


def _described(path: Path, member: str | None, found: tuple[Any, Elements], notes: list[str]) -> Opened:
    header, elements = found
    spec, count = _spec(path, header, elements, notes)
    frame = _frame(path, member, count)
    frames = Frames.of(elements, header, spec, count, notes)
    meaning = Meaning.of(header, spec, notes)
    picked = range(count) if frame is None else range(frame, frame + 1)
    geometry, times = place_of(path, header, (spec.rows, spec.columns), picked, notes)
    _odd(header, spec, notes)
    once = meaning.transforms[0] if len(set(meaning.transforms)) == 1 else None
    return Opened(
        geometry=geometry,
        dtype=meaning.dtype,
        pixels=lambda notes: _decoded(path, frames, meaning, picked),
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
        measured=lambda array: _measured(array, meaning, picked, times is not None),
    )


def _spec(path: Path, header: Any, elements: Elements, notes: list[str]) -> tuple[PixelSpec, int]:
    """How the pixels are stored, and the number of frames."""
    spec = replace(PixelSpec.of(header, elements.syntax), words=elements.words, floating=elements.pixels != 0x7FE00010)
    if spec.floating and spec.bits_allocated not in (32, 64):
        raise ReadError("floating-point pixels are 32 or 64 bits deep", got=f"{spec.bits_allocated} bits")
    if not elements.syntax and elements.big_endian:
        spec = replace(spec, transfer_syntax="1.2.840.10008.1.2.2")
    count = header.get("NumberOfFrames")
    frames = 1 if count is None or count == "" else int(count)
    if frames < 1:
        raise ReadError(f"{path} declares an impossible size", got=f"{frames} frames")
    if frames * spec.bits > 8 * ABSURD_BYTES:
        raise LimitError(f"{path} declares a size that no image has", got=f"{frames * spec.bits / 8:.3g} bytes")
    stored = header.get("BitsStored")
    if stored is not None and not 1 <= int(stored) <= spec.bits_allocated:
        notes.append(f"BitsStored is {stored} of {spec.bits_allocated} allocated bits; all bits were taken")
    high = header.get("HighBit")
    if high is not None and high != spec.bits_stored - 1 and not spec.floating:
        kept = spec.high_bit is not None and not spec.compressed
        notes.append(
            f"HighBit is {high} of {spec.bits_stored} stored bits; "
            + ("the values lie higher in their words" if kept else "it was not used")
        )
    if spec.samples == 1 and spec.photometric.startswith(("RGB", "YBR")):
        notes.append(f"one sample a pixel called {spec.photometric} was taken as grey")
    return spec, frames


def _frame(path: Path, member: str | None, frames: int) -> int | None:
    if member is None:
        return None
    if not (member.isascii() and member.isdigit() and len(member) < 10 and int(member) < frames):
        raise ReadError(f"{path} has no frame {member!r}", expected=f"0 to {frames - 1}")
    return int(member)


def _odd(header: Any, spec: PixelSpec, notes: list[str]) -> None:
    if spec.photometric == "MONOCHROME1":
        notes.append("larger numbers are darker here (MONOCHROME1); the values were kept")
    if any(0x6000 <= tag.group <= 0x601E for tag in header.keys()):  # noqa: SIM118  (tags, without decoding values)
        notes.append("an overlay is stored beside the pixels and was left out; read_overlays gives it")
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        notes.append("the file says that annotations are burned into its pixels")


def _workers() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


def _decoded(path: Path, frames: Frames, meaning: Meaning, picked: range) -> NDArray[Any]:
    """(rows, columns[, frames][, channels]): frames decoded side by side, each into its place."""

    def values(number: int) -> NDArray[Any]:
        with _called(path, number if frames.count > 1 else None):
            data, skip = frames.stored(number)
            return meaning.apply(decode_frame(data, frames.spec, skip), number)

    first = values(picked[0])
    if len(picked) == 1:
        return first
    out = np.empty((len(picked), *first.shape), meaning.dtype)
    out[0] = first

    def place(index: int) -> None:
        out[index] = values(picked[index])

    with ThreadPoolExecutor(min(_workers(), len(picked) - 1)) as pool:
        waiting = [pool.submit(place, index) for index in range(1, len(picked))]
        try:
            for done in waiting:
                done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return np.moveaxis(out, 0, 2)  # frames after rows and columns


def _measured(array: NDArray[Any], meaning: Meaning, picked: range, cine: bool) -> NDArray[np.bool_] | None:
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
