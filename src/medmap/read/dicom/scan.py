"""The chosen attributes of a DICOM header, fast: medmap's own walk over the elements, with limits.

A folder of a thousand slices is sorted by a hundred attributes a file. The walk here reads only as many bytes as it
needs, steps over everything else, and notes where the pixels lie, so that they can later be fetched without parsing
again. It knows explicit, implicit, big-endian and deflated files (PS3.5 section 7 and annex A). Whatever it finds odd
(another representation than the file declares, a file without preamble) is left to pydicom.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medmap.errors import LimitError, ReadError
from medmap.read.dicom.attributes import ATTRIBUTES, OWNERS, PIXELS, PRIVATE
from medmap.read.dicom.file import is_dicom
from medmap.read.opened import DEFAULT_LIMIT_BYTES

ReadAt = Callable[[int, int], bytes]  # (offset, count) → the bytes there; fewer at the end

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

FIRST_BYTES = 8192  # most headers are shorter
NEXT_BYTES = 32768
VALUE_BYTES = 2**17  # no attribute that sorting needs is longer (a vector of 65,000 frames)
MAX_DEPTH = 100  # nested sequences; real objects have fewer than ten
MAX_ELEMENTS = 200_000  # of one header, nested ones counted
UNDEFINED = 0xFFFFFFFF

# value representations: whether the length has four bytes (PS3.5 section 7.1.2)
_LONG: Mapping[bytes, bool] = MappingProxyType(
    dict.fromkeys((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"), True)
    | dict.fromkeys(
        (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
         b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
        False,
    )
)  # fmt: skip


class OddError(Exception):
    """Not what this walk understands; pydicom is asked instead."""


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the pixels lie in a file.

    Args:
        name: PixelData, FloatPixelData or DoubleFloatPixelData.
        offset: Of the first byte of the value; of the offset table's item where the pixels are encapsulated.
        length: In bytes; None where the pixels are encapsulated.
    """

    name: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan found.

    Args:
        values: By DICOM keyword: text, whole numbers, floats, or tuples of them; absent and empty ones are left out.
        transfer_syntax: UID; empty where the file states none.
        pixels: Where they lie; None where there are none, or where only pydicom knows.
        own: Whether medmap's own walk read it (else pydicom did).
    """

    values: Mapping[str, Any]
    transfer_syntax: str
    pixels: PixelPlace | None
    own: bool


def _tags(order: str) -> dict[bytes, tuple[str, str]]:
    pack = struct.Struct(order + "HH").pack
    named = {pack(tag >> 16, tag & 0xFFFF): (name, kind) for name, (tag, kind) in ATTRIBUTES.items()}
    named |= {pack(row[0] >> 16, row[0] & 0xFFFF): (name, row[1]) for name, row in PRIVATE.items()}
    named |= {pack(tag >> 16, tag & 0xFFFF): (name, "s") for name, tag in OWNERS.items()}
    named |= {pack(tag >> 16, tag & 0xFFFF): (name, "pixels") for tag, name in PIXELS.items()}
    return named


_WANTED = {"<": _tags("<"), ">": _tags(">")}


def scan(path: Path) -> Scanned:
    """The chosen attributes of one file.

    Raises:
        ReadError: No DICOM, damaged beyond what pydicom reads, or beyond the limits of nesting.
        LimitError: A deflated header that unpacks beyond reason.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return scan_bytes(lambda at, count: os.pread(descriptor, count, at), str(path))
    finally:
        os.close(descriptor)


def scan_bytes(read_at: ReadAt, name: str) -> Scanned:
    """``scan`` for bytes that lie elsewhere than in a file of their own, such as in a zip."""
    try:
        return _own(read_at, name)
    except (OddError, ValueError, struct.error, zlib.error, UnicodeDecodeError):
        from medmap.read.dicom.behind import scanned_by_pydicom

        return scanned_by_pydicom(read_at, name)


def _own(read_at: ReadAt, name: str) -> Scanned:
    data = read_at(0, FIRST_BYTES)
    if data[128:132] != b"DICM":
        if not is_dicom(data):
            raise ReadError(f"{name} is no DICOM file")
        raise OddError("no preamble")
    syntax, stored_class, start = _meta(data)
    if syntax == DEFLATED:
        read_at = _inflated(read_at, start, name)
        data, start = read_at(0, FIRST_BYTES), 0
    values, pixels = _walk(read_at, data, start, syntax, name)
    _judge(values)
    if stored_class:
        values.setdefault("SOPClassUID", stored_class)
    if not values:
        raise ReadError(f"{name} holds no DICOM elements: it is damaged or truncated")
    return Scanned(MappingProxyType(values), syntax, pixels, True)


def _meta(data: bytes) -> tuple[str, str, int]:
    """Transfer syntax, class, and where the data set begins; the meta group is always explicit little endian."""
    at, syntax, stored_class = 132, "", ""
    while data[at : at + 2] == b"\x02\x00":
        long = _LONG.get(data[at + 4 : at + 6])
        if long is None or at + 12 > len(data):
            raise OddError("meta group")
        width, begin = (4, at + 12) if long else (2, at + 8)
        length = int.from_bytes(data[begin - width : begin], "little")
        if begin + length > len(data):
            raise OddError("meta group")
        if data[at : at + 4] == b"\x02\x00\x10\x00":
            syntax = data[begin : begin + length].rstrip(b"\0 ").decode("ascii")
        elif data[at : at + 4] == b"\x02\x00\x02\x00":
            stored_class = data[begin : begin + length].rstrip(b"\0 ").decode("ascii")
        at = begin + length
    if not syntax:
        raise OddError("no transfer syntax")
    return syntax, stored_class, at


def _inflated(read_at: ReadAt, start: int, name: str) -> ReadAt:
    """The data set of a deflated file, unpacked as far as it is asked for."""
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    have = bytearray()
    at = start

    def read(offset: int, count: int) -> bytes:
        nonlocal at
        while len(have) < offset + count and not unpack.eof:
            packed = unpack.unconsumed_tail
            if not packed:
                packed = read_at(at, NEXT_BYTES)
                at += len(packed)
            if not packed:
                break
            have.extend(unpack.decompress(packed, 2**20))
            if len(have) > DEFAULT_LIMIT_BYTES // 16:
                raise LimitError(f"{name} unpacks to a header beyond reason", expected="at most 512 MiB")
        return bytes(have[offset : offset + count])

    return read


def _walk(read_at: ReadAt, data: bytes, at: int, syntax: str, name: str) -> tuple[dict[str, Any], PixelPlace | None]:
    """Element by element up to the pixels: values of what is wanted, and where the pixels lie."""
    implicit = syntax == IMPLICIT
    order = ">" if syntax == BIG_ENDIAN else "<"
    byteorder: Any = "big" if order == ">" else "little"
    wanted, number, longs = _WANTED[order], int.from_bytes, _LONG
    raw: list[tuple[str, str, bytes]] = []
    pixels: PixelPlace | None = None
    base, end, count = 0, len(data), 0
    while True:
        if at + 12 > end:  # the rest of the window is too short for an element's head
            base, at, data = base + at, 0, read_at(base + at, NEXT_BYTES)
            end = len(data)
            if end < 8:
                _require_end(data, name)
                break
        tag = data[at : at + 4]
        if implicit:
            length, begin = number(data[at + 4 : at + 8], "little"), at + 8
        else:
            long = longs.get(data[at + 4 : at + 6])
            if long is None:
                raise OddError("representation")
            if long:
                length, begin = number(data[at + 8 : at + 12], byteorder), at + 12
            else:
                length, begin = number(data[at + 6 : at + 8], byteorder), at + 8
        count += 1
        if count > MAX_ELEMENTS:
            raise ReadError(f"{name} holds more elements than any header", expected=f"at most {MAX_ELEMENTS}")
        found = wanted.get(tag)
        if found is not None and length:
            keyword, kind = found
            if kind == "pixels":
                pixels = PixelPlace(keyword, base + begin, None if length == UNDEFINED else length)
                break
            if kind == "?":
                raw.append((keyword, kind, b""))
            elif length > VALUE_BYTES:
                raise OddError("long value")
            else:
                if begin + length > end:
                    base, at, begin = base + at, 0, begin - at
                    data = _whole(read_at, base, begin + length, name)
                    end = len(data)
                raw.append((keyword, kind, data[begin : begin + length]))
        if length == UNDEFINED:
            unknown = not implicit and data[at + 4 : at + 6] == b"UN"  # then implicit inside (PS3.5, 6.2.2 note 2)
            base, at, end = _after(read_at, base + begin, (implicit or unknown, byteorder), name), 0, 0
        else:
            at = begin + length
    return _values(raw, order), pixels


def _require_end(data: bytes, name: str) -> None:
    """What follows the last element is nothing, or zeros that fill a block."""
    if any(data):
        raise ReadError(f"{name} is truncated in its header", remedy="copy the original file again")


def _whole(read_at: ReadAt, at: int, count: int, name: str) -> bytes:
    data = read_at(at, count + NEXT_BYTES)
    if len(data) < count:
        raise ReadError(f"{name} is truncated in its header", remedy="copy the original file again")
    return data


def _after(read_at: ReadAt, at: int, how: tuple[bool, Any], name: str) -> int:
    """Where a sequence of undefined length ends (PS3.5 section 7.5); nothing inside is kept."""
    implicit, order = how
    big = order == "big"
    item, item_end, sequence_end = (
        (b"\xff\xfe\xe0\x00", b"\xff\xfe\xe0\x0d", b"\xff\xfe\xe0\xdd")
        if big
        else (b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0")
    )
    depth = [implicit]  # of the open sequences and items, whether they are implicit
    base, data, count = at, b"", 0
    while depth:
        count += 1
        if len(depth) > 2 * MAX_DEPTH or count > MAX_ELEMENTS:
            raise ReadError(f"{name} nests sequences deeper or longer than any object", expected=f"at most {MAX_DEPTH}")
        offset = at - base
        if offset < 0 or offset + 12 > len(data):
            base, data, offset = at, read_at(at, NEXT_BYTES), 0
            if len(data) < 8:
                raise ReadError(f"{name} ends inside a sequence: it is truncated", remedy="copy the file again")
        tag = data[offset : offset + 4]
        if tag in (item_end, sequence_end):
            depth.pop()
            at += 8
            continue
        here = depth[-1]
        if tag == item or here:
            length, head, kind = int.from_bytes(data[offset + 4 : offset + 8], order), 8, b""
        else:
            kind = data[offset + 4 : offset + 6]
            long = _LONG.get(kind)
            if long is None:
                raise OddError("nested representation")
            head = 12 if long else 8
            length = int.from_bytes(data[offset + head - (4 if long else 2) : offset + head], order)
        at += head
        if length == UNDEFINED:
            depth.append(here or kind == b"UN")
        else:
            at += length
    return at


_UNSIGNED = {"<": struct.Struct("<H").unpack_from, ">": struct.Struct(">H").unpack_from}


def _values(raw: list[tuple[str, str, bytes]], order: str) -> dict[str, Any]:
    """Plain values; text that is not ASCII is decoded by the file's own character set."""
    values: dict[str, Any] = {}
    unsigned = _UNSIGNED[order]
    foreign: list[tuple[str, str, bytes]] = []
    for name, kind, data in raw:
        if kind == "u":
            values[name] = unsigned(data)[0]
            continue
        if kind == "?":
            values[name] = True
            continue
        if kind in "dDeU":
            code, size = {"d": ("d", 8), "D": ("d", 8), "e": ("f", 4), "U": ("H", 2)}[kind]
            numbers = struct.unpack(f"{order}{len(data) // size}{code}", data[: len(data) // size * size])
            if numbers:
                values[name] = numbers if kind in "DU" else numbers[0]
            continue
        text = data.strip(b"\0 ")
        if not text:
            continue
        if kind == "F":
            values[name] = tuple(map(float, text.split(b"\\")))
        elif kind == "f":
            values[name] = float(text.split(b"\\", 1)[0])
        elif kind == "i":
            first = text.split(b"\\", 1)[0]
            values[name] = int(first) if b"." not in first else int(float(first))
        elif not text.isascii() or b"\x1b" in text:
            foreign.append((name, kind, text))
        elif kind == "S":
            values[name] = tuple(part.strip() for part in text.decode("ascii").split("\\"))
        else:
            values[name] = text.decode("ascii")
    if foreign:
        from medmap.read.dicom.behind import decoded

        for name, kind, data in foreign:
            said = decoded(data, values.get("SpecificCharacterSet", ()))
            values[name] = tuple(part.strip() for part in said.split("\\")) if kind == "S" else said
    return values


def _judge(values: dict[str, Any]) -> None:
    """Give padding values their sign; keep a private element only where its block belongs to the known maker."""
    if values.get("PixelRepresentation") == 1:
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
            if values.get(name, 0) > 0x7FFF:
                values[name] -= 0x10000
    owners = {name: str(values.pop(name)) for name in OWNERS if name in values}
    for name, (_, _, owner, maker) in PRIVATE.items():
        if name in values and owners.get(f"owner {owner:08x}", "").strip().upper() != maker.upper():
            del values[name]
