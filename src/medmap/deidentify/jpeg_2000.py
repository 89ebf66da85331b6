"""JPEG 2000 without words: no JP2 file around the codestream, no comments in any header, no bytes behind its end.

Markers are those of ITU-T T.800 Annex A (and T.814 for HTJ2K); DICOM forbids the JP2 boxes (PS3.5 A.4.4).
"""

from __future__ import annotations

import struct

from medmap.errors import ReadError

_SOC, _SOT, _SOD, _EOC = b"\xff\x4f", b"\xff\x90", b"\xff\x93", b"\xff\xd9"
_COMMENT, _LENGTHS = 0x64, 0x55
# CAP PRF SIZ COD COC TLM PLM PLT CPF QCD QCC RGN POC PPM PPT CRG, and Part 2's of colour transforms
_KNOWN = frozenset([*range(0x50, 0x5A), *range(0x5C, 0x62), 0x63, *range(0x72, 0x79)])
_MOST_TILE_PARTS = 65535
Taken = tuple[tuple[str, int], ...]


def without_jpeg_2000_words(stream: bytes) -> tuple[bytes, Taken]:
    """A JPEG 2000 codestream without comments and without what stands around it.

    Returns:
        The codestream, and (what, bytes) of each thing taken out; the same bytes where there is none.

    Raises:
        ReadError: No such codestream, a damaged one, or one whose JP2 boxes hold its palette.
    """
    whole, taken = stream, []
    if stream[4:8] == b"jP  ":
        stream = _unboxed(stream)
        taken.append(("JP2 boxes", len(whole) - len(stream)))
    if stream[:2] != _SOC:
        raise ReadError("no JPEG 2000")
    header, at = _segments(stream, 2, _SOT, taken)
    parts: list[tuple[int, bytes]] = []
    while stream[at : at + 2] == _SOT and len(parts) < _MOST_TILE_PARTS:
        at, tile, part = _tile_part(stream, at, taken)
        parts.append((tile, part))
    if stream[at : at + 2] != _EOC or not parts:
        raise ReadError("a JPEG 2000 codestream is damaged or cut")
    if any(stream[at + 2 :]):
        taken.append(("bytes after the JPEG 2000", len(stream) - at - 2))
    header = _with_lengths(header, [(tile, len(part)) for tile, part in parts], taken)
    if not taken:
        return whole, ()
    made = _SOC + b"".join(segment for _, segment in header) + b"".join(part for _, part in parts) + _EOC
    return made, tuple(taken)


def _unboxed(stream: bytes) -> bytes:
    """The codestream of a JP2 file (T.800 Annex I)."""
    at = 0
    while at + 8 <= len(stream):
        length, kind = int.from_bytes(stream[at : at + 4], "big"), stream[at + 4 : at + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(stream[at + 8 : at + 16], "big"), 16
        end = len(stream) if length == 0 else at + length
        if end <= at + head - 1:
            break
        if kind == b"jp2h" and b"pclr" in stream[at:end]:
            raise ReadError("the palette of a JPEG 2000 stands in its JP2 boxes")
        if kind == b"jp2c":
            return stream[at + head : end]
        at = end
    raise ReadError("JP2 boxes without a codestream")


def _segments(stream: bytes, at: int, stop: bytes, taken: list[tuple[str, int]]) -> tuple[list[tuple[int, bytes]], int]:
    """Marker segments up to a marker, without comments and unknown ones."""
    kept = []
    while stream[at : at + 2] != stop:
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at : at + 1] != b"\xff" or length < 2 or at + 2 + length > len(stream):
            raise ReadError("a JPEG 2000 header is damaged or cut")
        code, segment = stream[at + 1], stream[at : at + 2 + length]
        if code in _KNOWN:
            kept.append((code, segment))
        else:
            taken.append(("JPEG 2000 comment" if code == _COMMENT else "JPEG 2000 segment", len(segment)))
        at += 2 + length
    return kept, at


def _tile_part(stream: bytes, at: int, taken: list[tuple[str, int]]) -> tuple[int, int, bytes]:
    """Where a tile-part ends, its tile, and the part without comments and with its new length (T.800 A.4.2)."""
    if at + 12 > len(stream):
        raise ReadError("a JPEG 2000 tile-part is cut")
    tile, length = struct.unpack(">HL", stream[at + 4 : at + 10])
    header, data = _segments(stream, at + 12, _SOD, taken)
    end = at + length
    if length == 0:  # the last one: up to the end of the codestream; no marker stands within its data
        end = stream.find(_EOC, data)
    if not data < end <= len(stream):
        raise ReadError("a JPEG 2000 tile-part is cut")
    body = b"".join(segment for _, segment in header) + stream[data:end]
    said = struct.pack(">L", 12 + len(body) if length else 0)
    return end, tile, stream[at : at + 6] + said + stream[at + 10 : at + 12] + body


def _with_lengths(
    header: list[tuple[int, bytes]], parts: list[tuple[int, int]], taken: list[tuple[str, int]]
) -> list[tuple[int, bytes]]:
    """The main header with lengths of tile-parts that are true, where it says any (T.800 A.7.1)."""
    said = [segment for code, segment in header if code == _LENGTHS]
    if not said or _said_lengths(said) == [length for _, length in parts]:
        return header
    if not any(what.startswith("JPEG 2000") for what, _ in taken):
        taken.append(("JPEG 2000 lengths that are false", sum(map(len, said))))
    place = [code for code, _ in header].index(_LENGTHS)
    rest = [(code, segment) for code, segment in header if code != _LENGTHS]
    many = 10000  # entries of six bytes in a segment
    for number, start in enumerate(range(0, len(parts), many)):
        entries = b"".join(struct.pack(">HL", *part) for part in parts[start : start + many])
        segment = struct.pack(">BBHBB", 0xFF, _LENGTHS, 4 + len(entries), number, 0x60) + entries
        rest.insert(place + number, (_LENGTHS, segment))
    return rest


def _said_lengths(segments: list[bytes]) -> list[int]:
    found = []
    for segment in sorted(segments, key=lambda s: s[4]):
        tile, long = segment[5] >> 4 & 3, segment[5] >> 6 & 1
        step = tile + (4 if long else 2)
        for at in range(6, len(segment) - step + 1, step):
            found.append(int.from_bytes(segment[at + tile : at + step], "big"))
    return found
