"""What a compressed frame says of itself, read from its markers before any decoder sees it.

A decoder allocates what the codestream declares, not what the DICOM header does. So the codestream is asked first, and
one that contradicts the header is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Literal

from medmap.errors import LimitError, ReadError

Kind = Literal["jpeg", "jpeg-lossless", "jpeg-ls", "jpeg-2000"]
# A decoder of a progressive JPEG goes over the whole picture once a scan; encoders write some ten scans.
MAX_SCANS = 64
_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2 = b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True)
class Codestream:
    """The picture that a codestream declares.

    Args:
        kind: Which family of codecs it is of.
        rows, columns: Its size in pixels.
        components: Samples a pixel.
        bits: Of a sample, at most.
        signed: Whether samples have a sign (JPEG 2000).
        colours: What its own markers say of three components: RGB, YCbCr, or nothing (empty).
        end: Index behind its end marker.
    """

    kind: Kind
    rows: int
    columns: int
    components: int
    bits: int
    signed: bool = False
    colours: str = ""
    end: int = 0


def codestream_of(data: bytes) -> Codestream | None:
    """What a JPEG, JPEG-LS or JPEG 2000 stream (also HTJ2K) declares; None for anything else.

    Raises:
        ReadError: Its markers are damaged, or there is no size.
        LimitError: More tiles or scans than such a picture can need.

    Example:
        >>> codestream_of(b"not a picture") is None
        True
    """
    if data[:2] == b"\xff\xd8":
        found = _jpeg(data)
    elif data[:4] == _SOC_SIZ:
        found = _jpeg_2000(data, 0)
    elif data[:8] == _JP2:
        found = _jpeg_2000(data, _codestream_box(data))
    else:
        return None
    end = data.rfind(b"\xff\xd9")
    if end < 0:
        # decoders fill what is missing with grey, and CharLS searches for a marker for ever
        raise ReadError("a compressed frame is truncated: it has no end marker", remedy="copy the original file again")
    return replace(found, end=end + 2)


def _jpeg(data: bytes) -> Codestream:
    """ITU-T T.81, B.2 (JPEG) and T.87, C.2 (JPEG-LS): segments up to the first scan."""
    at, jfif, adobe = 2, False, -1
    frame: tuple[int, bytes] | None = None
    while True:
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) - 1 and data[at + 1] == 0xFF:
            at += 1
        if at < 0 or at + 4 > len(data):
            raise ReadError("the JPEG is damaged or truncated before its first scan")
        marker = data[at + 1]
        at += 2
        if marker in (0x00, 0x01, *range(0xD0, 0xD9)):
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        if length < 2 or len(body) < length - 2:
            raise ReadError("the JPEG is damaged or truncated in a marker")
        if marker == 0xDA:
            break
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xF8 and body[:1] == b"\x04":
            raise ReadError("the JPEG-LS stream declares a size beyond its frame header, which is not read")
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            if frame is not None:
                raise ReadError("the JPEG declares its size twice")
            frame = marker, body
        at += length
    if frame is None:
        raise ReadError("the JPEG has no frame header: it is damaged or truncated")
    return _jpeg_frame(data, frame, jfif, adobe)


def _jpeg_frame(data: bytes, frame: tuple[int, bytes], jfif: bool, adobe: int) -> Codestream:
    marker, body = frame
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise ReadError("the JPEG is damaged in its frame header")
    bits, rows, columns, components = struct.unpack(">BHHB", body[:6])
    if not (rows and columns and components and bits):
        raise ReadError("the JPEG has no size", got=f"{rows} × {columns}, {components} components of {bits} bits")
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise LimitError("the JPEG has more scans than a picture needs", expected=f"at most {MAX_SCANS}")
    identifiers = bytes(body[6::3][:3])
    colours = ""
    if adobe >= 0:
        colours = "YCbCr" if adobe == 1 else "RGB"
    elif jfif:
        colours = "YCbCr"
    elif identifiers == b"RGB":
        colours = "RGB"
    lossless = marker in (0xC3, 0xC7, 0xCB, 0xCF)
    kind: Kind = "jpeg-ls" if marker == 0xF7 else "jpeg-lossless" if lossless else "jpeg"
    return Codestream(kind, rows, columns, components, bits, colours=colours if kind == "jpeg" else "")


def _codestream_box(data: bytes) -> int:
    """Where the codestream begins in a JP2 file (ITU-T T.800, I.4: boxes of length and type)."""
    at = 0
    for _ in range(1000):
        if at + 16 > len(data):
            break
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        head = 8
        if length == 1:
            length, head = struct.unpack(">Q", data[at + 8 : at + 16])[0], 16
        if kind == b"jp2c":
            return at + head
        if length < head:
            break
        at += length
    raise ReadError("the JPEG 2000 file holds no codestream: it is damaged or truncated")


def _jpeg_2000(data: bytes, at: int) -> Codestream:
    """ITU-T T.800, A.5.1: the SIZ segment, which comes first."""
    if data[at : at + 4] != _SOC_SIZ or len(data) < at + 42:
        raise ReadError("the JPEG 2000 stream has no size: it is damaged or truncated")
    x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">8IH", data[at + 8 : at + 42])
    parts = data[at + 42 : at + 42 + 3 * components]
    rows, columns = y - y0, x - x0
    if min(rows, columns, components, tile_x, tile_y) < 1 or len(parts) < 3 * components:
        raise ReadError("the JPEG 2000 stream has no size", got=f"{rows} × {columns}, {components} components")
    if any(part != 1 for i in (1, 2) for part in parts[i::3]):
        raise ReadError("the JPEG 2000 stream has components of different sizes, which is not read")
    if len({*parts[::3]}) > 1:
        raise ReadError("the JPEG 2000 stream has components of different depths, which is not read")
    tiles = -(-(x - tile_x0) // tile_x) * -(-(y - tile_y0) // tile_y)
    most = 64 + rows * columns // 1024
    if not 1 <= tiles <= most:
        raise LimitError("the JPEG 2000 stream declares more tiles than such a picture needs", got=tiles, expected=most)
    return Codestream("jpeg-2000", rows, columns, components, (parts[0] & 0x7F) + 1, signed=bool(parts[0] & 0x80))
