"""What hides inside or beside the pixels: overlays, curves, icons, documents, comments in codestreams, spare bits.

Overlays (60xx) and curves (50xx) are drawings over the image (PS3.3 C.9.2; curves retired 2004), an icon is a second
picture of it, an encapsulated PDF or CDA (PS3.3 C.24) is a letter with the patient's name on it. Codestreams have
places of their own for words: application and comment segments of JPEG (ITU-T T.81 B.2.4.5, EXIF lies there), comment
segments of JPEG 2000 (T.800 A.9.2). Values may carry drawings in bits above the highest stored one (retired overlays).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmap.deidentify.stored import BIG_ENDIAN, NATIVE
from medmap.errors import ReadError
from medmap.read.text import find_text

DOCUMENTS = {
    "1.2.840.10008.5.1.4.1.1.104.1": "PDF",
    "1.2.840.10008.5.1.4.1.1.104.2": "CDA",
    "1.2.840.10008.5.1.4.1.1.104.3": "STL",
    "1.2.840.10008.5.1.4.1.1.104.4": "OBJ",
    "1.2.840.10008.5.1.4.1.1.104.5": "MTL",
}
# one empty page: the attribute is required and may not be empty (PS3.3 Table C.24-2)
EMPTY_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\nxref\n0 4\n0000000000 65535 f \n"
    b"0000000009 00000 n \n0000000052 00000 n \n0000000101 00000 n \n"
    b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n164\n%%EOF\n"
)
_ICON = 0x00880200
_JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 57, 70, 80, 81))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))


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


# -- drawings and icons ----------------------------------------------------------------------------------------------


def without_graphics(dataset: Any) -> tuple[Removed, ...]:
    """Take out overlays, curves and icons at every depth of a data set, in place.

    Args:
        dataset: A pydicom data set.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> data = Dataset()
        >>> data.add_new(0x60003000, "OW", bytes(8))
        >>> [r.what for r in without_graphics(data)], len(data)
        (['overlay'], 0)
    """
    removed: list[Removed] = []
    for level in _levels(dataset):
        for tag in [int(t) for t in level.keys()]:  # noqa: SIM118  (tags, without decoding values)
            what = _drawing(tag)
            if what is not None:
                removed.append(Removed(what, tag, _size(level.get_item(tag))))
                del level[tag]
    return tuple(removed)


def cleaned_overlays(dataset: Any, languages: str = "eng") -> tuple[tuple[Removed, ...], int]:
    """Keep overlays but blacken the text in their planes (Clean Graphics, PS3.15 E.3.3); curves and icons go.

    An overlay plane is a picture of two values, so all text in it has one ink. A plane that is not the size it says, or
    lies in the spare bits of the pixels, goes as a whole.

    Returns:
        What was taken out altogether, and how many places were blackened in the planes kept.
    """
    removed: list[Removed] = []
    blackened = 0
    for level in _levels(dataset):
        tags = [int(t) for t in level.keys()]  # noqa: SIM118
        for group in sorted({t >> 16 for t in tags if _drawing(t) == "overlay"}):
            count = _plane_cleaned(level, group, languages)
            if count is None:
                for tag in [t for t in tags if t >> 16 == group]:
                    removed.append(Removed("overlay", tag, _size(level.get_item(tag))))
                    del level[tag]
            else:
                blackened += count
        for tag in [t for t in tags if _drawing(t) in ("curve", "icon")]:
            removed.append(Removed(str(_drawing(tag)), tag, _size(level.get_item(tag))))
            del level[tag]
    return tuple(removed), blackened


def _plane_cleaned(level: Any, group: int, languages: str) -> int | None:
    """How many places were blackened in a plane; None when it cannot be judged."""
    try:
        rows, columns = (int(level[group << 16 | element].value) for element in (0x0010, 0x0011))
        frames = int(level[group << 16 | 0x0015].value) if (group << 16 | 0x0015) in level else 1
        data = bytes(level[group << 16 | 0x3000].value)
    except (KeyError, TypeError, ValueError):
        return None
    if min(rows, columns, frames) < 1 or len(data) * 8 < rows * columns * frames:
        return None
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    planes = bits[: rows * columns * frames].reshape(frames, rows, columns)
    count = 0
    for plane in planes:
        boxes = find_text(plane * np.uint8(255), languages=languages)
        for box in boxes:
            plane[box.row0 : box.row1, box.column0 : box.column1] = 0
        count += len(boxes)
    if count:
        packed = np.packbits(planes.ravel(), bitorder="little").tobytes()
        level[group << 16 | 0x3000].value = packed + b"\0" * (len(packed) % 2)
    for element in (0x0022, 0x1500, 0x4000):  # description, label, comments
        if (group << 16 | element) in level:
            del level[group << 16 | element]
    return count


def _drawing(tag: int) -> str | None:
    group = tag >> 16
    if 0x6000 <= group <= 0x60FF and group % 2 == 0:
        return "overlay"
    if 0x5000 <= group <= 0x50FF and group % 2 == 0:
        return "curve"
    return "icon" if tag == _ICON else None


def _levels(dataset: Any) -> Iterator[Any]:
    """A data set and all items below it, without recursion: nesting may be deep."""
    waiting = [dataset]
    while waiting:
        level = waiting.pop()
        yield level
        for tag in list(level.keys()):
            if level.get_item(tag).VR in ("SQ", None, "UN"):
                element = level[tag]
                if element.VR == "SQ":
                    waiting.extend(element.value or ())


def _size(element: Any) -> int:
    value = element.value
    return len(value) if isinstance(value, bytes) else 0


# -- documents -------------------------------------------------------------------------------------------------------


def document_kind(dataset: Any) -> str | None:
    """``PDF``, ``CDA``, ``STL``, ``OBJ`` or ``MTL`` for an object that holds a whole file of another kind; else None.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> document_kind(Dataset()) is None
        True
    """
    if "EncapsulatedDocument" not in dataset:
        return DOCUMENTS.get(str(dataset.get("SOPClassUID", "")))
    return DOCUMENTS.get(str(dataset.get("SOPClassUID", "")), "unknown")


def without_document(dataset: Any) -> tuple[tuple[Removed, ...], tuple[str, ...]]:
    """Put an empty page in the place of a PDF, in place; what has no harmless stand-in is refused in a sentence.

    Returns:
        What was taken out, and what remains to be dealt with (then the object should not leave).
    """
    kind = document_kind(dataset)
    if kind is None:
        return (), ()
    if kind != "PDF":
        return (), (f"an encapsulated {kind} document may identify the patient and cannot be cleaned",)
    old = bytes(dataset.get("EncapsulatedDocument") or b"")
    dataset.EncapsulatedDocument = EMPTY_PDF + b"\0" * (len(EMPTY_PDF) % 2)
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    if "EncapsulatedDocumentLength" in dataset:
        dataset.EncapsulatedDocumentLength = len(EMPTY_PDF)
    return (Removed("PDF document", 0x00420011, len(old)),), ()


# -- inside the pixel data -------------------------------------------------------------------------------------------


def cleaned_codestreams(dataset: Any) -> tuple[Removed, ...]:
    """Take comments, EXIF, thumbnails and trailing bytes out of compressed frames, and spare bytes after native ones.

    The compressed image itself is not touched: its decoded values stay bit for bit. Frames without such segments keep
    their bytes.

    Raises:
        ReadError: Encapsulated pixels that are damaged.
    """
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""
    if "PixelData" not in dataset:
        return ()
    if syntax in NATIVE:
        return _without_tail(dataset) + _without_spare_bits(dataset, syntax)
    if syntax not in _JPEG and syntax not in _JPEG_2000:
        return ()
    from pydicom.encaps import encapsulate, generate_frames

    cleaner = without_jpeg_words if syntax in _JPEG else without_jpeg_2000_words
    try:
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise ReadError("encapsulated pixels are damaged", got=" ".join(str(error).split())[:160]) from error
    removed: list[Removed] = []
    made = []
    for frame in frames:
        clean, taken = cleaner(frame)
        made.append(clean)
        removed += [Removed(what, 0x7FE00010, size) for what, size in taken]
    if removed:
        dataset.PixelData = encapsulate(made, has_bot=True)
        dataset["PixelData"].is_undefined_length = True
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in dataset:
                del dataset[keyword]
    return tuple(removed)


def _without_tail(dataset: Any) -> tuple[Removed, ...]:
    try:
        count = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1) or 1)
        bits = count * int(dataset.get("SamplesPerPixel", 1) or 1) * int(dataset.BitsAllocated)
    except (AttributeError, TypeError, ValueError):
        return ()
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    need = -(-bits // 8)
    need += need % 2
    tail = dataset.PixelData[need:]
    if not tail:
        return ()
    dataset.PixelData = dataset.PixelData[:need]
    return (Removed("bytes after the pixels", 0x7FE00010, len(tail)),) if any(tail) else ()


def _without_spare_bits(dataset: Any, syntax: str) -> tuple[Removed, ...]:
    """Clear bits that belong to no stored value; in signed images they only repeat the sign, else they go too."""
    try:
        allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
        high = int(dataset.get("HighBit", stored - 1))
    except (AttributeError, TypeError, ValueError):
        return ()
    if allocated not in (8, 16) or not 0 < stored < allocated or not stored - 1 <= high < allocated:
        return ()
    if allocated == 8 and syntax == BIG_ENDIAN:
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
    return (Removed("bits beside the stored values", 0x7FE00010, changed),)


def without_jpeg_words(stream: bytes) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """A JPEG or JPEG-LS codestream without application and comment segments and without what follows its end.

    Kept are what decoding needs: JFIF's and Adobe's segments (colours) and JPEG-LS's own; a JFIF thumbnail goes.

    Args:
        stream: One frame, with or without padding.

    Returns:
        The codestream, and (what, bytes) of each segment taken out.
    """
    out, taken, at = bytearray(), [], 2
    if stream[:2] != b"\xff\xd8":
        return stream, ()
    out += stream[:2]
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            return stream, ()  # not understood: a decoder decides
        code = stream[at + 1]
        if code == 0xFF:  # fill byte
            at += 1
            continue
        if code == 0xD9:
            break
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = stream[at : at + 2 + length]
        at += 2 + length
        what = _jpeg_words(code, segment[4:])
        if what is None:
            out += segment
        elif what == "JPEG thumbnail":
            out += b"\xff\xe0\x00\x10" + segment[4:16] + b"\0\0"
            taken.append((what, len(segment) - 18))
        else:
            taken.append((what, len(segment)))
        if code == 0xDA:  # entropy-coded data: up to the next marker that is neither stuffed nor a restart
            end = _scan_end(stream, at)
            out += stream[at:end]
            at = end
    tail = stream[at + 2 :]
    if stream[at : at + 2] != b"\xff\xd9":
        return stream, ()
    out += b"\xff\xd9"
    if any(tail):
        taken.append(("bytes after the JPEG", len(tail)))
    return (bytes(out), tuple(taken)) if taken else (stream, ())


def _jpeg_words(code: int, body: bytes) -> str | None:
    if code == 0xFE:
        return "JPEG comment"
    if not 0xE0 <= code <= 0xEF:
        return None
    if code == 0xE0 and body[:5] == b"JFIF\0":
        return "JPEG thumbnail" if len(body) > 14 else None
    if (code == 0xEE and body[:5] == b"Adobe") or (code == 0xE8 and body[:4] == b"mrfx"):
        return None
    return "EXIF" if body[:4] == b"Exif" else "JPEG application segment"


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


def without_jpeg_2000_words(stream: bytes) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """A JPEG 2000 codestream without comment segments in its main header and without what follows its end."""
    if stream[:2] != b"\xff\x4f":
        return stream, ()
    out, taken, at = bytearray(stream[:2]), [], 2
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != 0x90:  # up to the first tile-part
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = stream[at : at + 2 + length]
        at += 2 + length
        if segment[1] == 0x64:
            taken.append(("JPEG 2000 comment", len(segment)))
        else:
            out += segment
    if stream[at : at + 2] != b"\xff\x90":
        return stream, ()
    end = stream.rfind(b"\xff\xd9")
    tail = b"" if end < 0 else stream[end + 2 :]
    if any(tail):
        taken.append(("bytes after the JPEG 2000", len(tail)))
        out += stream[at : end + 2]
    else:
        out += stream[at:]
    return (bytes(out), tuple(taken)) if taken else (stream, ())
