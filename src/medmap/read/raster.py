"""PNG, JPEG, BMP and WebP: pictures without millimetres, decoded at the depth they were stored with."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, ReadError
from medmap.geometry import Geometry
from medmap.image import Quantity, Source
from medmap.read.opened import RGB, Opened, at_the_door, heard

EXIF_ORIENTATION = 0x0112
# EXIF 2.32, tag 274: what must be done to the stored rows and columns before the picture stands upright
_ORIENTATIONS = {
    2: "mirrored",
    3: "turned by 180°",
    4: "flipped upside down",
    5: "transposed",
    6: "turned by 90° clockwise",
    7: "transposed along the other diagonal",
    8: "turned by 90° anticlockwise",
}
# Pillow's modes: what the pixels become (mode to convert to, channels, type)
_MODES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "1": ("1", ("image",), "bool"),
    "L": ("L", ("image",), "uint8"),
    "LA": ("L", ("image",), "uint8"),
    "La": ("L", ("image",), "uint8"),
    "P": ("RGB", RGB, "uint8"),
    "PA": ("RGB", RGB, "uint8"),
    "RGB": ("RGB", RGB, "uint8"),
    "RGBX": ("RGB", RGB, "uint8"),
    "RGBA": ("RGB", RGB, "uint8"),
    "CMYK": ("RGB", RGB, "uint8"),
    "YCbCr": ("RGB", RGB, "uint8"),
    "I;16": ("I;16", ("image",), "uint16"),
}


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The picture as the EXIF orientation (1 to 8) says it was meant to be seen.

    Example:
        >>> upright(np.array([[1, 2], [3, 4]]), 6).tolist()
        [[3, 1], [4, 2]]
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def open_png(path: Path, member: str | None) -> Opened:
    """A PNG; 16-bit grey and colour stay 16-bit, a palette becomes colour, transparency is dropped, all of it said.

    Raises:
        ReadError: Damaged or truncated.
    """
    with at_the_door(path, "PNG"), path.open("rb") as file:
        head = file.read(29)
        if len(head) < 29 or head[12:16] != b"IHDR":
            raise ReadError(f"{path} is truncated in its header", expected="a PNG")
        width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
        file.seek(max(0, path.stat().st_size - 2**16))
        if b"IEND\xae\x42\x60\x82" not in file.read():
            raise ReadError(f"{path} is truncated: the PNG has no end", remedy="copy the original file again")
    if bits != 16 or colour == 0:
        return _with_pillow(path, "png", bits)
    # Pillow reads 16-bit colour as 8-bit; libpng through imagecodecs keeps it
    notes = ["the alpha channel was dropped"] if colour in (4, 6) else []
    channels = RGB if colour in (2, 6) else ("image",)

    def pixels(notes: list[str]) -> NDArray[Any]:
        import imagecodecs

        array = np.asarray(imagecodecs.png_decode(path.read_bytes()))
        return array[..., :3] if colour in (2, 6) else array[..., 0]

    return _opened(path, "png", (height, width), (np.dtype(np.uint16), channels, bits), pixels, notes)


def open_jpeg(path: Path, member: str | None) -> Opened:
    """A JPEG of 8 or 12 bits (lossless: up to 16), turned upright by its EXIF orientation.

    Raises:
        ReadError: Damaged, or without its end marker (truncated).
    """
    with at_the_door(path, "JPEG"), path.open("rb") as file:
        bits, height, width, components = jpeg_frame(file)
        file.seek(max(0, path.stat().st_size - 2**16))
        if b"\xff\xd9" not in file.read():
            raise ReadError(f"{path} is truncated: the JPEG has no end marker", remedy="copy the original file again")
    if bits == 8:
        return _with_pillow(path, "jpeg", bits)

    def pixels(notes: list[str]) -> NDArray[Any]:
        import imagecodecs

        return np.asarray(imagecodecs.jpeg_decode(path.read_bytes()))

    channels = ("image",) if components == 1 else RGB
    return _opened(path, "jpeg", (height, width), (np.dtype(np.uint16), channels, bits), pixels, [])


def jpeg_frame(file: IO[bytes]) -> tuple[int, int, int, int]:
    """(bits, height, width, components) of a JPEG from its frame header (ITU-T T.81, B.2.2), reading no pixel.

    Raises:
        ReadError: No frame header.
    """
    if file.read(2) != b"\xff\xd8":
        raise ReadError("the JPEG has no start marker")
    for _ in range(10_000):
        byte = file.read(1)
        if byte != b"\xff":
            break
        while byte == b"\xff":
            byte = file.read(1)
        if not byte:
            break
        marker = byte[0]
        if marker in (0x01, *range(0xD0, 0xD9)):
            continue
        size = file.read(2)
        if len(size) < 2:
            break
        length = int.from_bytes(size, "big")
        # frame headers are FFC0–FFCF but for tables (C4, CC) and the reserved C8; F7 is JPEG-LS
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            body = file.read(6)
            if len(body) == 6:
                bits, height, width, components = struct.unpack(">BHHB", body)
                if not (height and width and components):
                    raise ReadError("the JPEG has no size", got=f"{height} × {width}, {components} components")
                return bits, height, width, components
            break
        file.seek(max(length - 2, 0), 1)
    raise ReadError("the JPEG has no frame header: it is damaged or truncated")


def open_bmp(path: Path, member: str | None) -> Opened:
    """A Windows bitmap.

    Raises:
        ReadError: Damaged or truncated.
    """
    return _with_pillow(path, "bmp", 8)


def open_webp(path: Path, member: str | None) -> Opened:
    """A WebP picture (not an animation).

    Raises:
        ReadError: Damaged, truncated, or an animation.
    """
    with at_the_door(path, "WebP"), path.open("rb") as file:
        declared = struct.unpack("<I", file.read(8)[4:8])[0] + 8
        if declared > path.stat().st_size:
            raise ReadError(
                f"{path} is truncated", got=f"{path.stat().st_size} bytes", expected=f"{declared} bytes by its header"
            )
    return _with_pillow(path, "webp", 8)


def _with_pillow(path: Path, name: str, bits: int) -> Opened:
    from PIL import Image as Pillow

    notes: list[str] = []
    with at_the_door(path, name.upper()), heard(notes):
        try:
            opened = Pillow.open(path, formats=[name.upper()])
        except Pillow.DecompressionBombError as error:
            raise LimitError(f"{path} declares more pixels than a picture may have", got=str(error)) from error
        with opened as picture:
            width, height = picture.size
            mode, frames = picture.mode, int(getattr(picture, "n_frames", 1))
            orientation = int(picture.getexif().get(EXIF_ORIENTATION, 1))
            transparent = mode in ("LA", "La", "PA", "RGBA") or "transparency" in picture.info
    notes[:] = [n for n in notes if "DecompressionBomb" not in n and "could be decompression bomb" not in n]
    if frames > 1:
        raise ReadError(f"{path} is an animation", got=f"{frames} frames", expected="one picture")
    if mode not in _MODES:
        raise ReadError(f"{path} has a colour model that is not read", got=mode, expected=", ".join(_MODES))
    target, channels, dtype = _MODES[mode]
    if mode in ("P", "PA"):
        notes.append("the palette was turned into colours")
    if mode == "CMYK":
        notes.append("printing colours (CMYK) were converted to red, green and blue")
    if transparent:
        notes.append("the transparency was dropped")
    turned = _ORIENTATIONS.get(orientation)
    if turned:
        notes.append(f"the picture was {turned} as its EXIF orientation says")
        if orientation >= 5:
            height, width = width, height

    def pixels(notes: list[str]) -> NDArray[Any]:
        with heard(notes), Pillow.open(path, formats=[name.upper()]) as picture:
            array = np.asarray(picture if picture.mode == target else picture.convert(target))
        return upright(array, orientation) if turned else array

    return _opened(path, name, (height, width), (np.dtype(dtype), channels, bits), pixels, notes)


def _opened(
    path: Path,
    name: str,
    shape: tuple[int, int],
    pixel: tuple[np.dtype[Any], tuple[str, ...], int],
    pixels: Callable[[list[str]], NDArray[Any]],
    notes: list[str],
) -> Opened:
    dtype, channels, bits = pixel
    quantity: Quantity = "label" if dtype.kind == "b" else "colour" if len(channels) == 3 else "arbitrary"
    photometric = "RGB" if len(channels) == 3 else "grey"
    return Opened(
        geometry=Geometry.without_size(shape),
        dtype=dtype,
        pixels=pixels,
        quantity=quantity,
        channels=channels,
        source=Source(path=str(path), format=name, bits_stored=bits, photometric=photometric, warnings=tuple(notes)),
    )
