"""A file's elements walked with limits before pydicom sees them, and where its pixels lie.

pydicom parses nested sequences by recursion and reads as many bytes as an element declares. The walk here is flat,
stays inside the file, and hands pydicom only the header.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from medmap.errors import LimitError, ReadError

ReadAt = Callable[[int, int], bytes]  # (offset, count) → the bytes there; fewer at the end

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_DEPTH = 64  # nested sequences; a structured report has some fifteen
MAX_ELEMENTS = 200_000
MAX_HEADER_BYTES = 2**26
UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass(frozen=True)
class Elements:
    """What the walk found.

    Args:
        read_at: Gives bytes of the data set; offsets below count in it.
        head: The header's bytes, up to the pixels: with preamble and meta group, unless the file was deflated.
        syntax: Transfer syntax UID; empty where the file states none.
        implicit, big_endian: How elements are written.
        meta_end: Where the data set begins in ``head``.
        pixels: Tag of the pixel element, or 0.
        words: Whether the pixels are of 16-bit words (VR OW).
        offset, length: Of the value of the pixel element; a length of None: encapsulated.
        size: Bytes of the data set that can be read.
    """

    read_at: ReadAt
    head: bytes
    syntax: str
    implicit: bool
    big_endian: bool
    meta_end: int
    pixels: int
    words: bool
    offset: int
    length: int | None
    size: int


class _ShortError(Exception):
    """The bytes at hand end inside an element."""


def walked(read_at: ReadAt, size: int) -> Elements:
    """The elements up to the pixels.

    Args:
        read_at: Gives bytes of the file.
        size: Of the file, in bytes.

    Raises:
        ReadError: Truncated, damaged, or nested deeper than any object.
        LimitError: More elements or a larger header than any object, or a deflated file that unpacks to such.
    """
    count = 2**16
    head = read_at(0, count)
    meta_end, syntax = _meta(head)
    base = 0
    if syntax == DEFLATED:
        read_at, size = _inflated(read_at, size, meta_end), UNDEFINED * 4
        head, base, meta_end = read_at(0, count), meta_end, 0
    implicit, big = _encoding(head[meta_end : meta_end + 6], syntax)
    while True:
        whole = len(head) < count
        try:
            tag, words, offset, length, end = _walk(head, meta_end, (implicit, big), whole)
        except _ShortError as error:
            if count >= MAX_HEADER_BYTES:
                raise LimitError("the header is larger than any object's", expected=f"{MAX_HEADER_BYTES} B") from error
            count *= 4
            head = read_at(0, count)
            continue
        if base:
            size = offset + (length or 0) if tag else end
        return Elements(read_at, head[:end], syntax, implicit, big, meta_end, tag, words, offset, length, size)


def _meta(head: bytes) -> tuple[int, str]:
    """Where the data set begins, and the transfer syntax; the meta group is explicit little endian (PS3.10, 7.1)."""
    at = 132 if head[128:132] == b"DICM" else 0
    syntax = ""
    while head[at : at + 2] == b"\x02\x00" and at + 12 <= len(head):
        long = head[at + 4 : at + 6] in _LONG
        begin = at + 12 if long else at + 8
        length = int.from_bytes(head[begin - (4 if long else 2) : begin], "little")
        if not head[at + 4 : at + 6].isalpha():
            begin, length = at + 8, int.from_bytes(head[at + 4 : at + 8], "little")
        if begin + length > len(head):
            raise ReadError("the meta group is truncated or damaged")
        if head[at : at + 4] == b"\x02\x00\x10\x00":
            syntax = head[begin : begin + length].rstrip(b"\0 ").decode("ascii", "replace")
        at = begin + length
    return at, syntax


def _encoding(first: bytes, syntax: str) -> tuple[bool, bool]:
    """Whether elements are implicit, and big endian; what the bytes show counts more than what the file says."""
    letters = first[4:6].isalpha() and first[4:6].isupper()
    if syntax == BIG_ENDIAN:
        return False, True
    if syntax in (IMPLICIT, ""):
        big = not syntax and len(first) >= 2 and int.from_bytes(first[:2], "little") >= 0x400
        return not letters, big
    return bool(first) and not letters, False


def _walk(head: bytes, at: int, how: tuple[bool, bool], whole: bool) -> tuple[int, bool, int, int | None, int]:
    """(tag of the pixels or 0, whether words, offset, length or None, where the header ends)."""
    implicit, big = how
    pair, order = struct.Struct(">HH" if big else "<HH").unpack_from, "big" if big else "little"
    depth: list[bool] = []  # for each open sequence and item, whether it is implicit
    count, total = 0, len(head)
    while True:
        if at + 8 > total:
            if not whole:
                raise _ShortError
            if depth:
                raise ReadError("the header ends inside a sequence: it is truncated or damaged")
            return 0, False, at, None, min(at, total)
        count += 1
        if count > MAX_ELEMENTS:
            raise LimitError("the header holds more elements than any object", expected=f"at most {MAX_ELEMENTS}")
        group, element = pair(head, at)
        tag = group << 16 | element
        if tag in (_ITEM_END, _SEQUENCE_END):
            if depth:
                depth.pop()
            at += 8
            continue
        kind = head[at + 4 : at + 6]
        here = depth[-1] if depth else implicit
        begin, length = at + 8, int.from_bytes(head[at + 4 : at + 8], order)  # type: ignore[arg-type]
        if tag != _ITEM and not here and kind.isalpha():
            if kind in _LONG:
                begin, length = at + 12, int.from_bytes(head[at + 8 : at + 12], order)  # type: ignore[arg-type]
            else:
                length = int.from_bytes(head[at + 6 : at + 8], order)  # type: ignore[arg-type]
        if begin > total:
            if not whole:
                raise _ShortError
            raise ReadError("the header ends inside an element: it is truncated or damaged")
        if tag in _PIXELS and not depth:
            return tag, here or kind == b"OW", begin, None if length == UNDEFINED else length, at
        if length == UNDEFINED:
            depth.append(here or kind == b"UN")  # inside UN, elements are implicit (PS3.5, 6.2.2, note 2)
            if len(depth) > 2 * MAX_DEPTH:
                raise LimitError("sequences are nested deeper than in any object", expected=f"at most {MAX_DEPTH}")
            at = begin
            continue
        at = begin + length
        if at > total and whole:
            raise ReadError("the header is truncated, or an element declares more bytes than there are")
        if at > total:
            raise _ShortError


def _inflated(read_at: ReadAt, size: int, start: int) -> ReadAt:
    """The data set of a deflated file (PS3.5, A.5), unpacked as far as it is asked for."""
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    have = bytearray()
    at = start

    def read(offset: int, count: int) -> bytes:
        nonlocal at
        while len(have) < offset + count and not unpack.eof:
            packed = unpack.unconsumed_tail
            if not packed:
                packed = read_at(at, 2**20)
                at += len(packed)
            if not packed:
                raise ReadError("the file is truncated: its deflated part has no end", remedy="copy the original again")
            have.extend(unpack.decompress(packed, min(2**22, offset + count - len(have))))
        return bytes(memoryview(have)[offset : offset + count])

    return read
