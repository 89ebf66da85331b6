"""A file's header, as pydicom has it after a walk within limits, and how its pixels are stored."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from medmap.errors import LimitError, ReadError
from medmap.read.dicom.codecs import EXPLICIT_BIG, PixelSpec
from medmap.read.dicom.elements import DEFLATED, Elements, walked
from medmap.read.opened import heard
from medmap.read.voxels import ABSURD_BYTES


@contextmanager
def understood(path: Path, notes: list[str]) -> Iterator[None]:
    """pydicom's warnings as notes; its own exceptions, and what is refused inside, name the file."""
    with heard(notes, "pydicom"), translated(path), named(path):
        yield


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """pydicom's own exceptions, which descend from none of Python's, as one of medmap's."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        yield
    except (BytesLengthException, InvalidDicomError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(f"{path} is damaged DICOM", got=reason, remedy="copy the original file again") from error


@contextmanager
def named(path: Path | str, frame: int | None = None) -> Iterator[None]:
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


def header_of(path: Path) -> tuple[Any, Elements]:
    """The data set before the pixels, as pydicom has it, and where the pixels lie; the elements are walked first.

    Raises:
        ReadError: Truncated, damaged or without elements.
        LimitError: Deeper or larger than any object's header.
    """

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
    header = parsed(elements)
    if not len(header):
        raise ReadError(f"{path} holds no DICOM elements: it is damaged or truncated")
    return header, elements


def parsed(elements: Elements) -> Any:
    """The header as a pydicom data set, of a file that was walked."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    if elements.syntax != DEFLATED:
        return pydicom.dcmread(io.BytesIO(elements.head), force=True)
    header: Any = read_dataset(io.BytesIO(elements.head), elements.implicit, not elements.big_endian)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = UID(DEFLATED)
    return header


def spec_of(path: Path, header: Any, elements: Elements, notes: list[str]) -> tuple[PixelSpec, int]:
    """How the pixels are stored, and the number of frames.

    Args:
        path: For the sentences.
        header, elements: What ``header_of`` gave; there are pixels.
        notes: Gets what is odd.

    Raises:
        ReadError: Pixels that cannot be.
        LimitError: A declared size beyond reason.
    """
    spec = replace(PixelSpec.of(header, elements.syntax), words=elements.words, floating=elements.pixels != 0x7FE00010)
    if spec.floating and spec.bits_allocated not in (32, 64):
        raise ReadError("floating-point pixels are 32 or 64 bits deep", got=f"{spec.bits_allocated} bits")
    if not elements.syntax and elements.big_endian:
        spec = replace(spec, transfer_syntax=EXPLICIT_BIG)
    frames = _frames(header, spec, elements, notes)
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


def _frames(header: Any, spec: PixelSpec, elements: Elements, notes: list[str]) -> int:
    """NumberOfFrames; where that is no number, as many as uncompressed pixels hold without a rest, or one."""
    given = header.get("NumberOfFrames")
    if given is None or given == "":
        return 1
    try:
        return int(given)
    except (TypeError, ValueError, OverflowError):
        held, rest = divmod(8 * (elements.length or 0), spec.bits)
        count = held if held and not rest and not spec.compressed else 1
        notes.append(f"NumberOfFrames is no whole number; {count} taken, as the pixels are long" if count > 1 else
                     "NumberOfFrames is no whole number; one frame was taken")  # fmt: skip
        return count
