"""pydicom, asked where medmap's own walk over a header gives up: odd files, other character sets."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from medmap.errors import ReadError
from medmap.read.dicom.attributes import ATTRIBUTES
from medmap.read.dicom.elements import walked
from medmap.read.dicom.header import named, parsed
from medmap.read.opened import at_the_door, heard

if TYPE_CHECKING:
    from medmap.read.dicom.scan import ReadAt, Scanned


def decoded(data: bytes, character_sets: Sequence[str]) -> str:
    """Text in the character sets that a file declares (PS3.3 C.12.1.1.2); what does not fit is replaced."""
    from pydicom.charset import convert_encodings, decode_bytes

    with heard([], "pydicom"):
        encodings = convert_encodings(list(character_sets) or [""])
        try:
            text: str = decode_bytes(data, encodings, {0x0A, 0x0C, 0x0D})
        except (UnicodeError, LookupError):
            text = data.decode("latin-1")
    return text.strip("\0 ")


def scanned_by_pydicom(read_at: ReadAt, name: str) -> Scanned:
    """The attributes of ``scan`` by way of pydicom.

    Raises:
        ReadError: Nothing of DICOM is in it, or it is damaged.
        LimitError: A header deeper or larger than any object's.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    from medmap.read.dicom.scan import Scanned

    with at_the_door(name, "DICOM"), heard([], "pydicom"), named(name):
        elements = walked(read_at, 0)  # within its limits before pydicom sees it
        try:
            header = parsed(elements)
            values = {word: value for word in ATTRIBUTES if (value := _value(header, word)) is not None}
        except (InvalidDicomError, BytesLengthException) as error:
            raise ReadError(f"{name} is damaged DICOM", got=" ".join(str(error).split())[:200]) from error
        meta = getattr(header, "file_meta", None) or {}
        stored_class = str(meta.get("MediaStorageSOPClassUID", "") or "")
        syntax = str(meta.get("TransferSyntaxUID", "") or "")
    if not values:
        raise ReadError(f"{name} holds no DICOM elements that sorting knows: it is damaged or no DICOM")
    values.setdefault("SOPClassUID", stored_class)
    return Scanned(MappingProxyType(values), syntax, None, False)


def _value(header: Any, word: str) -> Any:
    """One plain value; None where it is absent, empty or cannot be understood."""
    kind = ATTRIBUTES[word][1]
    try:
        value = header.get(word)
        if value is None or value == "":
            return None
        if kind == "?":
            return True if len(value) else None
        several = not isinstance(value, (str, bytes)) and hasattr(value, "__len__")
        values = list(value) if several else [value]
        if not values:
            return None
        convert: Any = {"s": str, "S": str, "i": int, "u": int, "U": int}.get(kind, float)
        found = tuple(convert(v) for v in values)
        if convert is str:
            found = tuple(v.strip("\0 ") for v in found)
    except (ValueError, TypeError, OverflowError, KeyError, AttributeError, NotImplementedError):
        return None
    if kind == "s":
        return "\\".join(found).strip()
    return found if kind in "SFUD" else found[0]
