"""TIFF: one picture a file, or one page of several; every depth and sign kept.

The resolution tags of a TIFF speak of print (dots per inch) and are not taken as millimetres. A file whose metadata
declare a stack (ImageJ or OME, axes ZYX) opens as a volume (rows, columns, slices) without size; of other files with
several pages one page must be named (``scan.tif#3``, counted from 0), for a page may be anything: a thumbnail, a
mask, another patient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, ReadError
from medmap.geometry import Geometry
from medmap.image import Quantity, Source
from medmap.read.opened import RGB, Opened, at_the_door, heard
from medmap.read.voxels import ABSURD_BYTES

MAX_PAGES = 100_000
_LOGGER = "tifffile"
# TIFF 6.0, PhotometricInterpretation
_MIN_IS_WHITE, _RGB, _PALETTE, _MASK, _YCBCR = 0, 2, 3, 4, 6
_KNOWN = {0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "Palette", 4: "Mask", 5: "CMYK", 6: "YCbCr"}


def open_tiff(path: Path, member: str | None) -> Opened:
    """A TIFF image without physical size.

    Raises:
        ReadError: Damaged, truncated, several pages without one being named, or a whole slide.
        LimitError: A declared size that no image has.
    """
    import tifffile

    if member is not None and not (member.isascii() and member.isdigit() and len(member) < 10):
        raise ReadError(f"{path}: a page is named by its number", got=repr(member), expected="0, 1, 2 …")
    notes: list[str] = []
    with at_the_door(path, "TIFF"), heard(notes, _LOGGER), tifffile.TiffFile(path) as file:
        count = len(file.pages)
        if not 1 <= count <= MAX_PAGES:
            raise ReadError(f"{path} has {count} pages", expected="at least one")
        stack = _stack(file) if member is None and count > 1 else None
        if member is None and count > 1 and stack is None:
            if any(getattr(page, "is_tiled", False) for page in file.pages):
                raise ReadError(
                    f"{path} is a pyramid or a whole slide, not one picture",
                    got=f"{count} pages",
                    remedy=f"name one page: {path.name}#0",
                )
            raise ReadError(
                f"{path} has several pages", got=f"{count} pages", remedy=f"name one: {path.name}#0 to #{count - 1}"
            )
        number = int(member or 0)
        if number >= count:
            raise ReadError(f"{path} has no page {number}", expected=f"0 to {count - 1}")
        return _described(path, file.pages[number], number if member else None, stack, notes)


def _stack(file: Any) -> int | None:
    """Number of slices when the metadata declare one stack of equal grey pages."""
    if not (file.is_imagej or file.is_ome) or len(file.series) != 1:
        return None
    series = file.series[0]
    return int(series.shape[0]) if series.axes == "ZYX" and series.shape[0] == len(file.pages) else None


def _described(path: Path, page: Any, number: int | None, stack: int | None, notes: list[str]) -> Opened:
    size = path.stat().st_size
    photometric = int(page.photometric)
    if page.dtype is None or photometric not in _KNOWN or photometric == 5:
        raise ReadError(
            f"{path} holds pixels of a kind that is not read",
            got=f"{page.bitspersample} bits, {_KNOWN.get(photometric, photometric)}",
            expected="grey, palette or RGB, whole numbers or floats",
        )
    if page.axes not in ("YX", "YXS", "SYX") or 0 in page.shape:
        raise ReadError(f"{path} holds a page that is no picture", got=f"axes {page.axes}, shape {page.shape}")
    if page.nbytes * (stack or 1) > ABSURD_BYTES:
        raise LimitError(f"{path} declares a size that no image has", got=f"{page.nbytes:.3g} bytes")
    ends = [o + b for o, b in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > size or len(page.dataoffsets) != len(page.databytecounts) or 0 in page.databytecounts:
        raise ReadError(f"{path} is truncated", got=f"{size} bytes", remedy="copy the original file again")
    rows, columns = int(page.imagelength), int(page.imagewidth)
    samples = int(page.samplesperpixel)
    dtype = np.dtype(page.dtype).newbyteorder("=")
    palette = photometric == _PALETTE and page.colormap is not None
    channels = _channels(page, photometric, samples, palette, notes)
    if palette:
        dtype = np.dtype(np.uint16)
        notes.append("the palette was turned into colours")
    if photometric == _MIN_IS_WHITE and samples == 1:
        notes.append("larger numbers are darker here (WhiteIsZero); the values were kept")
    shape = (rows, columns) if stack is None else (rows, columns, stack)

    def pixels(notes: list[str]) -> NDArray[Any]:
        return _pixels(path, number, stack, (samples, len(channels), palette), notes)

    quantity: Quantity = (
        "label" if dtype.kind == "b" or photometric == _MASK else "colour" if channels == RGB else "arbitrary"
    )
    return Opened(
        geometry=Geometry.without_size(shape),
        dtype=dtype,
        pixels=pixels,
        quantity=quantity,
        channels=channels,
        source=Source(
            path=str(path) if number is None else f"{path}#{number}",
            format="tiff",
            photometric=_KNOWN[photometric],
            bits_stored=int(page.bitspersample),
            warnings=tuple(notes),
        ),
    )


def _channels(page: Any, photometric: int, samples: int, palette: bool, notes: list[str]) -> tuple[str, ...]:
    if palette:
        return RGB
    if photometric in (_RGB, _YCBCR) and samples in (3, 4):
        if samples == 4:
            notes.append("the fourth channel (transparency) was dropped")
        return RGB
    if samples == 1:
        return ("image",)
    if samples == 2 and page.extrasamples:
        notes.append("the second channel (transparency) was dropped")
        return ("image",)
    return tuple(f"channel_{i}" for i in range(samples))


def _pixels(
    path: Path, number: int | None, stack: int | None, form: tuple[int, int, bool], notes: list[str]
) -> NDArray[Any]:
    import tifffile

    samples, wanted, palette = form
    with heard(notes, _LOGGER), tifffile.TiffFile(path) as file:
        if stack is not None:
            pages = [file.pages[i].asarray() for i in range(stack)]
            return np.stack(pages, axis=-1)
        page: Any = file.pages[number or 0]
        array = np.asarray(page.asarray())
        if palette:
            return np.moveaxis(np.asarray(page.colormap)[:, array], 0, -1).astype(np.uint16)
        if samples > 1:
            array = np.moveaxis(array, 0, -1) if page.axes == "SYX" else array
            array = array[..., 0] if wanted == 1 else array[..., :wanted]
        return array
