"""What hides inside the pixel data: words in codestreams and beside frames, bytes after pixels, spare bits.

Compressed pixels have many places for words that no viewer shows: application and comment segments of JPEG (ITU-T T.81
B.2.4.5; EXIF lies there), comment segments of JPEG 2000 (T.800 A.9.2) in the main header and in every tile-part's, the
boxes of a JP2 file around it, bytes behind the last code of an RLE segment (PS3.5 Annex G), the table of offsets.
Native pixels may be longer than the picture, and values may carry drawings in bits above the highest stored one. All of
it goes, the decoded image stays bit for bit. What is not understood is said: it may hold anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from medmap.deidentify.jpeg_2000 import without_jpeg_2000_words
from medmap.deidentify.stored import BIG_ENDIAN, NATIVE
from medmap.errors import ReadError

_JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 57, 70, 80, 81))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))
_VIDEO = tuple(f"1.2.840.10008.1.2.4.{n}" for n in range(100, 110))
_RLE = "1.2.840.10008.1.2.5"
_PIXELS, _FLOAT_PIXELS, _DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
_OFFSETS = (0x7FE00001, 0x7FE00002)
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
Taken = tuple[tuple[str, int], ...]

VIDEO_LEFT = "video, whose own words and pictures were not looked at"
NOT_UNDERSTOOD = "compressed pixels that are not understood"
SIZE_UNKNOWN = "pixels whose size the header does not say"


@dataclass(frozen=True)
class Removed:
    """Something taken out.

    Args:
        what: In words: ``overlay``, ``curve``, ``icon``, ``PDF document``, ``JPEG comment`` …
        tag: The element it was in, as a number.
        size: Bytes.
    """

    what: str
    tag: int
    size: int


def cleaned_codestreams(dataset: Any) -> tuple[tuple[Removed, ...], tuple[str, ...]]:
    """Take words out of compressed frames and from beside them, and spare bytes and bits out of native pixels.

    The compressed image itself is not touched: its decoded values stay bit for bit. Frames without such places keep
    their bytes.

    Returns:
        What was taken out, and what may hold words and could not be dealt with.

    Raises:
        ReadError: Encapsulated pixels that are damaged.
    """
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""
    removed, left = [*_without_long_tail(dataset)], []
    if _PIXELS not in dataset:
        return (*removed, *_without_offsets(dataset, None)), ()
    if syntax in NATIVE or not syntax:
        tail = _without_tail(dataset)
        if tail is None:
            left.append(SIZE_UNKNOWN)
        removed += [*(tail or ()), *_without_spare_bits(dataset, syntax), *_without_offsets(dataset, None)]
    elif syntax in _VIDEO:
        left.append(VIDEO_LEFT)
    else:
        cleaner = _cleaner(dataset, syntax)
        found, understood = _cleaned_frames(dataset, cleaner or (lambda frame: (frame, ())))
        removed += found
        if cleaner is None or not understood:
            left.append(NOT_UNDERSTOOD)
    return tuple(removed), tuple(left)


def _cleaner(dataset: Any, syntax: str) -> Callable[[bytes], tuple[bytes, Taken]] | None:
    if syntax in _JPEG:
        return without_jpeg_words
    if syntax in _JPEG_2000:
        return without_jpeg_2000_words
    if syntax == _RLE:
        try:
            size, planes = int(dataset.Rows) * int(dataset.Columns), -(-int(dataset.BitsAllocated) // 8)
            count = planes * int(dataset.get("SamplesPerPixel", 1) or 1)
        except (AttributeError, TypeError, ValueError):
            return None
        return lambda frame: without_rle_words(frame, size, count)
    return None


# -- frames and the table of offsets -----------------------------------------------------------------------------------


def _cleaned_frames(dataset: Any, cleaner: Callable[[bytes], tuple[bytes, Taken]]) -> tuple[list[Removed], bool]:
    from pydicom.encaps import encapsulate, generate_frames

    data = bytes(dataset.PixelData)
    try:
        table, starts, lengths, beside = _fragments(data)
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        long_table = [dataset.get(k) for k in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
        given = (long_table[0], long_table[1]) if all(long_table) and count > 1 else None
        frames = list(generate_frames(data, number_of_frames=count, extended_offsets=given))
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise ReadError("encapsulated pixels are damaged", got=type(error).__name__) from error
    hidden = sum(lengths) - sum(len(frame) for frame in frames[:count])
    removed = [Removed("bytes beside the frames", _PIXELS, n) for n in (beside, hidden) if n > 0]
    begins = dict(zip([0, *np.cumsum(lengths).tolist()], [*starts, 0], strict=True))
    reached, expected, understood = 0, [], True
    made = []
    for frame in frames[:count]:
        expected.append(begins.get(reached, 0))
        reached += len(frame)
        try:
            clean, taken = cleaner(frame)
        except ReadError:
            clean, taken, understood = frame, (), False
        made.append(clean)
        removed += [Removed(what, _PIXELS, size) for what, size in taken]
    if table and table != b"".join(struct.pack("<L", offset) for offset in expected):
        removed.append(Removed("a false table of offsets", _PIXELS, len(table)))
    elif not table:
        removed += _without_offsets(dataset, (expected, [len(frame) for frame in frames[:count]]))
    if removed:
        dataset.PixelData = encapsulate(made, has_bot=True)
        dataset["PixelData"].is_undefined_length = True
    if removed or table:
        removed += _without_offsets(dataset, None)
    return removed, understood


def _fragments(data: bytes) -> tuple[bytes, list[int], list[int], int]:
    """The table of offsets, where each fragment's item begins after it, how long each is, and bytes behind the last.

    Raises:
        ValueError: No items, or one that is cut (PS3.5 A.4).
    """
    items: list[tuple[int, int]] = []
    at = 0
    while data[at : at + 4] == _ITEM:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data):
            raise ValueError("a fragment is cut")
        items.append((at, length))
        at += 8 + length
    if not items:
        raise ValueError("no fragment")
    table = data[8 : 8 + items[0][1]]
    first = items[0][1] + 8
    rest = data[at + 8 :] if data[at : at + 4] == _END else data[at:]
    return table, [start - first for start, _ in items[1:]], [n for _, n in items[1:]], len(rest)


def _without_offsets(dataset: Any, truth: tuple[list[int], list[int]] | None) -> list[Removed]:
    """Take out the long tables of offsets where they are not what they must be (PS3.3 C.7.6.3.1.8)."""
    held = [tag for tag in _OFFSETS if tag in dataset]
    values = [bytes(dataset[tag].value or b"") for tag in held]
    if not held or (
        truth is not None and len(values) == 2 and _are(values[0], truth[0], 0) and _are(values[1], truth[1], 1)
    ):
        return []
    for tag in held:
        del dataset[tag]
    return [Removed("a false table of offsets", _OFFSETS[0], sum(map(len, values)))]


def _are(table: bytes, expected: list[int], padding: int) -> bool:
    """Whether a table holds these numbers; a length may leave out a frame's padding."""
    if len(table) != 8 * len(expected):
        return False
    return bool((np.array(expected, "<u8") - np.frombuffer(table, "<u8") <= padding).all())


# -- native pixels -----------------------------------------------------------------------------------------------------


def _size_bits(dataset: Any, bits: int | None) -> int | None:
    try:
        count = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1) or 1)
        size = count * int(dataset.get("SamplesPerPixel", 1) or 1) * (bits or int(dataset.BitsAllocated))
    except (AttributeError, TypeError, ValueError):
        return None
    return size * 2 // 3 if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" else size


def _without_tail(dataset: Any) -> tuple[Removed, ...] | None:
    bits = _size_bits(dataset, None)
    if bits is None:
        return None if dataset.PixelData else ()
    used = -(-bits // 8)
    data = dataset.PixelData
    if any(data[used:]):
        dataset.PixelData = data[:used] + b"\0" * (used % 2)
        return (Removed("bytes after the pixels", _PIXELS, len(data) - used),)
    if len(data) > used + used % 2:
        dataset.PixelData = data[: used + used % 2]
    return ()


def _without_long_tail(dataset: Any) -> list[Removed]:
    """Bytes after pixels that are floating point numbers (PS3.3 C.7.6.24); sizes are whole words there."""
    removed = []
    for tag, bits in ((_FLOAT_PIXELS, 32), (_DOUBLE_PIXELS, 64)):
        size = _size_bits(dataset, bits) if tag in dataset else None
        data = dataset[tag].value if size is not None else b""
        if size is not None and isinstance(data, bytes) and any(data[size // 8 :]):
            dataset[tag].value = data[: size // 8]
            removed.append(Removed("bytes after the pixels", tag, len(data) - size // 8))
    return removed


def _without_spare_bits(dataset: Any, syntax: str) -> tuple[Removed, ...]:
    """Clear bits that belong to no stored value; in signed images they only repeat the sign, else they go too."""
    try:
        allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
        high = int(dataset.get("HighBit", stored - 1))
    except (AttributeError, TypeError, ValueError):
        return ()
    if allocated not in (8, 16, 32) or not 0 < stored < allocated or not stored - 1 <= high < allocated:
        return ()
    if (allocated == 8 and syntax == BIG_ENDIAN) or len(dataset.PixelData) % (allocated // 8):
        return ()
    words = np.frombuffer(dataset.PixelData, f"{'>' if syntax == BIG_ENDIAN else '<'}u{allocated // 8}")
    mask = (2**stored - 1) << (high + 1 - stored)
    clean = words & mask
    if int(dataset.get("PixelRepresentation", 0) or 0) == 1 and high == stored - 1:
        extension = (2**allocated - 1) ^ mask
        clean = np.where(words >> high & 1, clean | extension, clean).astype(words.dtype)
    changed = int((clean != words).sum())
    if not changed:
        return ()
    dataset.PixelData = clean.astype(words.dtype).tobytes()
    return (Removed("bits beside the stored values", _PIXELS, changed),)


# -- RLE ---------------------------------------------------------------------------------------------------------------


def without_rle_words(frame: bytes, size: int, count: int) -> tuple[bytes, Taken]:
    """An RLE frame without bytes that no pixel comes from: before, between and after its segments' codes.

    Args:
        frame: Header and segments (PS3.5 G.3 to G.5).
        size: Bytes that each segment unpacks to: pixels of the frame.
        count: Segments there must be: bytes of a pixel.

    Raises:
        ReadError: Another number of segments, or one that is too short.
    """
    header = struct.unpack("<16L", frame[:64]) if len(frame) >= 64 else (0,) * 16
    starts = [*header[1 : count + 1], len(frame)]
    if header[0] != count or not 0 < count < 16 or starts != sorted(starts) or starts[0] < 64:
        raise ReadError("an RLE frame has not the segments its pixels need", got=header[0], expected=count)
    own = [frame[start:stop] for start, stop in pairwise(starts)]
    segments = [_rle_codes(data, size) for data in own]
    spare = len(frame) - 64 - sum(map(len, segments))
    plain = all(mine == codes + bytes(len(mine) - len(codes)) for mine, codes in zip(own, segments, strict=True))
    if plain and not any(frame[4 + 4 * count : 64]) and not any(frame[64 : starts[0]]):
        return frame, ()  # an even length's zero, no word
    segments = [codes + b"\0" * (len(codes) % 2) for codes in segments]
    offsets = np.cumsum([64, *map(len, segments)])[:-1].tolist()
    made = struct.pack("<16L", count, *offsets, *[0] * (15 - count)) + b"".join(segments)
    return made, (("bytes between the RLE codes", max(spare, 1)),)


def _rle_codes(data: bytes, size: int) -> bytes:
    """The codes that unpack to ``size`` bytes, without what follows them and without codes that say nothing."""
    at, made = 0, 0
    out: list[bytes] = []
    begin = 0
    while made < size:
        if at >= len(data):
            raise ReadError("an RLE segment is too short for its pixels")
        code = data[at]
        if code < 128:
            step, length = 2 + code, code + 1
            if made + length > size:  # the last code brings more than there are pixels
                out += [data[begin:at], bytes([size - made - 1]), data[at + 1 : at + 1 + size - made]]
                begin = at = at + step
                break
        elif code > 128:
            step, length = 2, 257 - code
        else:  # no code: it is left out
            out.append(data[begin:at])
            begin, step, length = at + 1, 1, 0
        at += step
        made += length
    out.append(data[begin:at])
    if at > len(data):
        raise ReadError("an RLE segment is too short for its pixels")
    return b"".join(out)


# -- JPEG and JPEG-LS --------------------------------------------------------------------------------------------------


def without_jpeg_words(stream: bytes) -> tuple[bytes, Taken]:
    """A JPEG or JPEG-LS codestream without application and comment segments and without what stands around it.

    Kept are what decoding needs: JFIF's and Adobe's segments (colours) and JPEG-LS's own, none longer than it must be.

    Args:
        stream: One frame, with or without padding.

    Returns:
        The codestream, and (what, bytes) of each segment taken out.

    Raises:
        ReadError: No such codestream, or one that is cut.
    """
    begin = stream.find(b"\xff\xd8")
    if begin < 0:
        raise ReadError("no JPEG")
    taken: list[tuple[str, int]] = [("bytes before the JPEG", begin)] if begin else []
    stream = stream[begin:]
    out, at, seen = bytearray(stream[:2]), 2, set[int]()
    while stream[at : at + 2] != b"\xff\xd9":
        if at + 4 > len(stream) or stream[at] != 0xFF:
            raise ReadError("a JPEG is damaged or cut")
        code = stream[at + 1]
        if code == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = stream[at : at + 2 + length]
        at += 2 + length
        what, kept = ("JPEG application segment", b"") if code in seen else _jpeg_segment(code, segment)
        if kept and code >= 0xE0:
            seen.add(code)
        if kept != segment:
            taken.append((what, len(segment) - len(kept)))
        out += kept
        if code == 0xDA:  # entropy-coded data: up to the next marker that is neither stuffed nor a restart
            end = _scan_end(stream, at)
            out += stream[at:end]
            at = end
    tail = stream[at + 2 :]
    out += b"\xff\xd9"
    if any(tail):
        taken.append(("bytes after the JPEG", len(tail)))
    return (bytes(out), tuple(taken)) if taken else (stream, ())


def _jpeg_segment(code: int, segment: bytes) -> tuple[str, bytes]:
    """What is in a segment that should go, and what of the segment stays."""
    body = segment[4:]
    if code == 0xFE:
        return "JPEG comment", b""
    if code == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14:
        return "JPEG thumbnail", segment if len(body) == 14 else b"\xff\xe0\x00\x10" + body[:12] + b"\0\0"
    if code == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
        # version and flags say nothing to a decoder, the transform does (Adobe Technical Note 5116)
        return "end of a JPEG colour segment", b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + body[11:12]
    if code == 0xE8 and body[:4] == b"mrfx":
        return "end of a JPEG-LS colour segment", b"\xff\xe8\x00\x07mrfx" + body[4:5]
    if code < 0xC0 or 0xE0 <= code <= 0xF6 or code > 0xF8:  # reserved, or of an application
        return ("EXIF" if body[:4] == b"Exif" else "JPEG application segment"), b""
    return "", segment


def _scan_end(stream: bytes, at: int) -> int:
    while True:
        at = stream.find(b"\xff", at)
        if at < 0 or at + 1 >= len(stream):
            return len(stream)
        follows = stream[at + 1]
        # JPEG stuffs 00, JPEG-LS a zero bit (below 80); D0 to D7 are restarts
        if follows < 0x80 or 0xD0 <= follows <= 0xD7:
            at += 2
        elif follows == 0xFF:
            at += 1
        else:
            return at
