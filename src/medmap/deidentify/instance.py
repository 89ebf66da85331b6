"""One DICOM object in, one out: read, walked, marked, written, and looked at again before it reaches the disk."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from medmap.deidentify.identity import Identity
from medmap.deidentify.profile import Profile
from medmap.deidentify.secrets import Key
from medmap.deidentify.texts import cleaned
from medmap.deidentify.verify import Residual, cleaned_where_found, examined, found_in, found_in_pixels
from medmap.deidentify.walk import patient_of, walked
from medmap.errors import LimitError, MedmapError, ReadError
from medmap.read.opened import heard

if TYPE_CHECKING:
    from pydicom import Dataset

_DEFLATED = "1.2.840.10008.1.2.1.99"
_MOST_DEFLATED = 200  # beyond this, and beyond what a large mask of zeros takes, it is a bomb
_DEFLATED_BYTES = 1 << 28
_DIRECTORY = "1.2.840.10008.1.3.10"
_IMPLEMENTATION_UID = b"2.25.245370914863487229302843106573221398121"
_UNDEFINED = 0xFFFFFFFF
_LONG_LENGTH = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])  # PS3.5 7.1.2
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_DERIVATION = "00082111"
_METHOD = "medmap: DICOM PS3.15 2024b Annex E"
_WITHOUT_PATIENT = "no object of a patient"
MOST_BOXES = 100
# PS3.3 C.7.3.1.1.1, those with pictures: a word that is none of them may be anything, a name too
_MODALITIES = frozenset(
    [
        *("BDUS", "BI", "BMD", "CD", "CR", "CT", "DD", "DG", "DX", "ECHO", "ES", "FLUOR", "FS", "GM"),
        *("IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OP", "OPM", "OPT", "OPV", "OT", "PT", "PX"),
        *("RF", "RG", "RTDOSE", "RTIMAGE", "SC", "SEG", "SM", "TG", "US", "VL", "XA", "XC"),
    ]
)  # fmt: skip
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Made:
    """One de-identified object.

    Args:
        content: The file's bytes.
        folder: Its place: pseudonym, study and series, each a folder.
        name: File name without ending.
        actions: ``(tag or pattern, action)`` and how often.
        residuals: What is left that should be gone.
        notes: What else happened, e.g. ``pixels cleaned``.
        modality: Of an object with pixels, a defined term; ``other`` for any other word, empty without pixels.
        boxes: What was blacked out, as (row0, column0, row1, column1), half open; the first ``MOST_BOXES``.
    """

    content: bytes
    folder: str
    name: str
    actions: Mapping[tuple[str, str], int]
    residuals: tuple[Residual, ...]
    notes: tuple[str, ...]
    modality: str = ""
    boxes: tuple[Box, ...] = ()


def made(file: BinaryIO, profile: Profile, key: Key) -> Made | None:
    """De-identify one file; None for a DICOMDIR, which names patients and files and is dropped.

    Args:
        file: An open DICOM file.
        profile: What is asked for.
        key: The project's key.

    Raises:
        ReadError: Damaged, truncated or hostile; nothing of it is written then.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    with heard([], "pydicom"):  # it remarks on values, which may be a patient's
        try:
            return _made(file, profile, key)
        except MedmapError:
            raise
        except RecursionError:
            raise ReadError("sequences are nested too deep") from None
        except (
            *(BytesLengthException, InvalidDicomError, EOFError, ValueError, TypeError, KeyError, AttributeError),
            *(IndexError, OverflowError, NotImplementedError, LookupError, zlib.error, OSError, AssertionError),
        ) as error:
            # the reason without its text, which may quote a value
            raise ReadError("the file is damaged DICOM", got=type(error).__name__) from None


def _made(file: BinaryIO, profile: Profile, key: Key) -> Made | None:
    from pydicom import dcmread

    _require_no_bomb(file)
    dataset = dcmread(file, force=True)
    meta = dataset.file_meta
    syntax = str(
        meta.get("TransferSyntaxUID", "")
        or ("1.2.840.10008.1.2" if dataset.original_encoding[0] else "1.2.840.10008.1.2.1")
    )
    if str(meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY or "DirectoryRecordSequence" in dataset:
        return None
    if not dataset.keys():
        raise ReadError("the file holds no attribute", got=_WITHOUT_PATIENT)
    _require_whole(dataset)
    identity_of_file = _place_of(dataset, key)
    walk = walked(dataset, profile, key)
    looked = _pixels(dataset, profile, walk.identity.words())
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "") or syntax)
    _mark(dataset, profile, walk.identity)
    implicit, little = (bool(flag) for flag in dataset.original_encoding)
    actions = Counter(walk.actions)

    before, pixels, after = _written(dataset, implicit, little)
    residuals: list[Residual] = []
    if found := found_in(before + after, walk.identity):
        changed, residuals = cleaned_where_found(dataset, found, walk.identity, profile)
        if changed:
            actions.update((path.rpartition("/")[2], "C") for path in changed)
            before, pixels, after = _written(dataset, implicit, little)
    again, wrong = examined(before + after, implicit, little, profile, walk.identity)
    if residuals or found:
        residuals = _still_there(again, before + after, walk, profile)
    if looked.described:  # that pixels were changed is said in a description of our own
        wrong = [residual for residual in wrong if residual.place != _DERIVATION]
    residuals += [*wrong, *looked.left, *found_in_pixels(pixels, walk.identity)]
    folder, name = identity_of_file
    content = _file(dataset, syntax, before + pixels + after)
    left = tuple(dict.fromkeys(residuals))
    return Made(content, folder, name, actions, left, tuple(looked.notes), _modality(dataset), looked.boxes)


def _modality(dataset: Dataset) -> str:
    if not any(tag in dataset for tag in _PIXELS):
        return ""
    word = str(dataset.get("Modality") or "").strip().upper()
    return word if word in _MODALITIES else "other"


def _still_there(again: Dataset, header: bytes, walk: Any, profile: Profile) -> list[Residual]:
    from medmap.deidentify.verify import located

    found = found_in(header, walk.identity)
    return [Residual(path, kind) for _, _, _, path, kind in located(again, found, profile)] if found else []


def _require_no_bomb(file: BinaryIO) -> None:
    """A deflated object unpacks to no more than images do; pydicom would unpack it whole before anyone can look."""
    head = file.read(2048)
    if _DEFLATED.encode("ascii") in head and head[132:140] == b"\x02\0\0\0UL\4\0":
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        unpacker, size, packed = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
        while not unpacker.eof and (chunk := unpacker.unconsumed_tail or file.read(1 << 16)):
            packed += len(chunk) - len(unpacker.unconsumed_tail)
            size += len(unpacker.decompress(chunk, 1 << 20))
            if size > max(packed * _MOST_DEFLATED, _DEFLATED_BYTES):
                raise LimitError(
                    "the deflated object unpacks to far more than images do", expected=f"{_MOST_DEFLATED} to 1"
                )
    file.seek(0)


def _require_whole(dataset: Dataset) -> None:
    """A value shorter than its length says that the file was cut."""
    for tag in dataset.keys():  # noqa: SIM118  (tags, not elements)
        raw: Any = dataset.get_item(tag)
        if raw is not None and raw.is_raw and raw.value is not None and raw.length not in (len(raw.value), 0xFFFFFFFF):
            raise ReadError("the file is truncated", got=f"a value of {len(raw.value)} bytes", expected=f"{raw.length}")


def _place_of(dataset: Dataset, key: Key) -> tuple[str, str]:
    """Folder and file name, from keyed digests alone."""
    study, series, instance = (
        str(dataset.get(k) or "") for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    )
    folder = f"{key.pseudonym(patient_of(dataset))}/{key.short('study', study, 12)}/{key.short('series', series, 12)}"
    return folder, key.short("instance", instance)


@dataclass
class _Looked:
    """What was found in and beside the pixels.

    Args:
        notes: What was done, in words.
        left: What could not be dealt with.
        boxes: Places that were blacked out.
        described: Whether a derivation is described.
    """

    notes: list[str]
    left: list[Residual]
    boxes: tuple[Box, ...] = ()
    described: bool = False


def _pixels(dataset: Dataset, profile: Profile, known: list[str]) -> _Looked:
    """What hides in or beside the pixels: words in codestreams always, drawings and painted text where asked."""
    from medmap.deidentify.codestreams import cleaned_codestreams
    from medmap.deidentify.embedded import cleaned_overlays, document_kind, without_document

    taken, hidden = cleaned_codestreams(dataset)
    found = _Looked(sorted({f"taken out: {r.what}" for r in taken}), [Residual("pixels", what) for what in hidden])
    if document_kind(dataset) == "PDF":
        without_document(dataset)
        found.notes.append("encapsulated PDF replaced by an empty page")
    if "graphics" in profile.clean:
        removed, blackened = cleaned_overlays(dataset)
        found.notes += sorted({f"taken out: {r.what}" for r in removed})
        found.notes += ["text in overlays blacked out"] if blackened else []
    if "pixels" in profile.clean:
        _painted(dataset, known, found)
    return found


def _painted(dataset: Dataset, known: list[str], found: _Looked) -> None:
    """Text painted into the pixels, and a word on those that were not looked at."""
    from medmap.deidentify.pixels import cleaned_pixels

    cleaning = cleaned_pixels(dataset, known=known)
    found.boxes = tuple((b.row0, b.column0, b.row1, b.column1) for b in cleaning.boxes[:MOST_BOXES])
    found.described = cleaning.changed
    if cleaning.residual:
        found.left.append(Residual("pixels", "picture that could not be looked at"))
    elif cleaning.changed:
        found.notes.append("text in pixels blacked out")
    elif cleaning.looked:
        found.notes.append("pixels looked at")
    elif any(tag in dataset for tag in _PIXELS):
        found.notes.append("pixels not looked at: a picture as a scanner reconstructs it")


def _mark(dataset: Dataset, profile: Profile, known: Identity) -> None:
    """Say in the object what was done to it (PS3.3 C.12.1.1.1 and C.7.1.1, CID 7050)."""
    from pydicom.dataset import Dataset as Item
    from pydicom.sequence import Sequence

    dataset.PatientIdentityRemoved = "YES"
    before = dataset.get("DeidentificationMethod")
    methods = [cleaned(str(m), known) for m in ([before] if isinstance(before, str) else before or ()) if str(m)]
    dataset.DeidentificationMethod = [*methods, _METHOD] if methods else _METHOD
    codes = list(dataset.get("DeidentificationMethodCodeSequence") or ())
    for value, meaning in profile.method_codes:
        item = Item()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        codes.append(item)
    dataset.DeidentificationMethodCodeSequence = Sequence(codes)
    dataset.LongitudinalTemporalInformationModified = profile.dates_modified


def _written(dataset: Dataset, implicit: bool, little: bool) -> tuple[bytes, bytes, bytes]:
    """The encoded object: what stands before its pixel data, the pixel data, and what stands after."""
    from pydicom.tag import Tag

    encoding = dataset.get("SpecificCharacterSet", "iso8859")
    held = [(tag, dataset.get_item(tag)) for tag in map(Tag, _PIXELS) if tag in dataset]
    for tag, _ in held:
        del dataset[tag]
    last = Tag(_PIXELS[-1])
    later = [tag for tag in dataset.keys() if int(tag) > last]  # noqa: SIM118  (tags, not elements)
    before = _encoded(dataset[:last] if later else dataset, implicit, little, encoding)
    after = _encoded(dataset[last:], implicit, little, encoding) if later else b""
    for tag, element in held:
        dataset[tag] = element
    return before, b"".join(_element(element, implicit, little, encoding) for _, element in held), after


def _encoded(part: Dataset, implicit: bool, little: bool, encoding: Any) -> bytes:
    """A data set as bytes (PS3.5 7.1): what was never decoded is copied, pydicom encodes the rest."""
    parts = []
    for tag in sorted(part.keys(), key=int):
        parts.append(_element(part.get_item(tag), implicit, little, encoding))
    return b"".join(parts)


def _element(element: Any, implicit: bool, little: bool, encoding: Any) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_data_element

    if element.is_raw and element.value is not None and element.length != _UNDEFINED:
        head = _head(int(element.tag), element.VR, len(element.value), implicit, little)
        if head is not None:
            return head + bytes(element.value)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_data_element(buffer, element, encoding)
    return bytes(buffer.getvalue())


def _head(tag: int, vr: str | None, length: int, implicit: bool, little: bool) -> bytes | None:
    """Tag, representation and length; None where the length does not fit."""
    order = "<" if little else ">"
    if implicit:
        return struct.pack(order + "HHL", tag >> 16, tag & 0xFFFF, length)
    if vr is None:
        return None
    if vr in _LONG_LENGTH:
        return struct.pack(order + "HH2sHL", tag >> 16, tag & 0xFFFF, vr.encode("ascii"), 0, length)
    if length > 0xFFFF:
        return None
    return struct.pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr.encode("ascii"), length)


def _file(dataset: Dataset, syntax: str, body: bytes) -> bytes:
    """A file of PS3.10 7.1: a preamble of zeros, new meta information, the object."""
    meta = b""
    for tag, vr, value in (
        (0x00020001, "OB", b"\0\1"),
        (0x00020002, "UI", str(dataset.get("SOPClassUID") or "1.2.840.10008.5.1.4.1.1.66").encode("ascii")),
        (0x00020003, "UI", str(dataset.get("SOPInstanceUID") or "2.25.0").encode("ascii")),
        (0x00020010, "UI", syntax.encode("ascii")),
        (0x00020012, "UI", _IMPLEMENTATION_UID),
        (0x00020013, "SH", b"MEDMAP"),
    ):
        padded = value + b"\0" * (len(value) % 2)
        meta += (_head(tag, vr, len(padded), False, True) or b"") + padded
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta))
    if syntax == _DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
        body += bytes(len(body) % 2)
    return bytes(128) + b"DICM" + length + meta + body
