"""What hides beside the pixels: overlays, curves, icons, documents.

Overlays (60xx) and curves (50xx) are drawings over the image (PS3.3 C.9.2; curves retired 2004), an icon is a second
picture of it, an encapsulated PDF or CDA (PS3.3 C.24) is a letter with the patient's name on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from medmap.deidentify.codestreams import Removed
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
