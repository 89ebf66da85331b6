"""One DICOM file as an image (a series is a folder of such files and another matter).

Stored numbers become what they mean (rescale slope and intercept, modality LUT), luminance and chrominance become
red, green and blue. A single frame is (rows, columns): column 0 of the affine is the step to the next row, column 1
to the next column (PS3.3 C.7.6.2.1.1). Frames with positions are a volume (rows, columns, slices); frames with times
are a cine. Frames of a file are named ``file.dcm#3``, counted from 0.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, ReadError
from medmap.image import Quantity, Source
from medmap.read.dicom.place import groups, per_frame, place_of
from medmap.read.opened import DEFAULT_LIMIT_BYTES, RGB, Opened, heard
from medmap.read.raster import jpeg_frame
from medmap.read.rescale import rescaled, rescaled_type
from medmap.read.voxels import require_complete

_DEFLATED = "1.2.840.10008.1.2.1.99"
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_LOGGER = "pydicom"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
# 12 bits (also the retired progressive ones) and lossless
_JPEG_OF_OWN = (_JPEG_EXTENDED, "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55", *_JPEG_LOSSLESS)
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")


def is_dicom(head: bytes) -> bool:
    """Whether bytes begin a DICOM file: the prefix after the preamble, or (older files) a first element of group 8.

    Example:
        >>> is_dicom(bytes(128) + b"DICM")
        True
    """
    if head[128:132] == b"DICM":
        return True
    group_2_or_8 = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00" and len(head) > 12
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"DA", b"TM", b"LO", b"SH", b"OB")
    implicit = len(head) > 12 and 0 < int.from_bytes(head[4:8], "little") <= 64
    return group_2_or_8 and (explicit or implicit)


def open_dicom(path: Path, member: str | None) -> Opened:
    """A DICOM image; what its header leaves open stands in the warnings.

    Raises:
        ReadError: Damaged, truncated, without pixels, or frames that are neither a volume nor a cine.
        LimitError: A declared size beyond reason.
        GeometryError: Positions that describe no grid.
    """
    notes: list[str] = []
    with _understood(path, notes):
        header, has_pixels = _header(path)
        if not has_pixels:
            raise ReadError(f"{path} is a DICOM object without an image", got=_what(header))
        return _described(path, member, header, notes)


@contextmanager
def _understood(path: Path, notes: list[str]) -> Iterator[None]:
    """pydicom's warnings as notes, and its own exceptions, which descend from none of Python's, as one of medmap's."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with heard(notes, _LOGGER):
            yield
    except (BytesLengthException, InvalidDicomError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(f"{path} is damaged DICOM", got=reason, remedy="copy the original file again") from error


def _what(header: Any) -> str:
    meta = getattr(header, "file_meta", None) or {}
    sop = header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    return str(getattr(sop, "name", "") or "an unknown class")


def _header(path: Path) -> tuple[Any, bool]:
    """The data set before the pixels, and whether pixels follow."""
    import pydicom

    with path.open("rb") as file:
        plain = file.read(132)[128:] != b"DICM"
        file.seek(0)
        if not plain:
            _require_modest(path)
        header = pydicom.dcmread(file, stop_before_pixels=True, force=plain)
        if not len(header):
            raise ReadError(f"{path} holds no DICOM elements: it is damaged or truncated")
        syntax = _syntax(header)
        if syntax == _DEFLATED:
            whole = pydicom.dcmread(path)
            return header, any(t in whole for t in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
        tag = file.read(12)
    order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
    if len(tag) < 8 or struct.unpack(order + "HH", tag[:4]) not in (
        (0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0001), (0x7FE0, 0x0002), (0x7FE0, 0x0003),
    ):  # fmt: skip
        if _rows(header):
            raise ReadError(f"{path} is truncated: its pixels are missing", remedy="copy the original file again")
        return header, False
    return header, True


def _rows(header: Any) -> bool:
    return "Rows" in header and "Columns" in header and "BitsAllocated" in header


def _syntax(header: Any) -> str:
    meta = getattr(header, "file_meta", None)
    return str(meta.get("TransferSyntaxUID", "") if meta is not None else "")


def _require_modest(path: Path) -> None:
    """Refuse a deflated file that unpacks beyond the limit, before the library unpacks it in one go."""
    import pydicom

    meta = pydicom.filereader.read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) != _DEFLATED:
        return
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    count = 0
    with path.open("rb") as file:
        file.seek(132 + 12 + int(meta.get("FileMetaInformationGroupLength", 0)))
        pending = b""
        while pending := unpack.unconsumed_tail or file.read(2**20):
            count += len(unpack.decompress(pending, 2**22))
            if count > DEFAULT_LIMIT_BYTES:
                raise LimitError(f"{path} unpacks to more than may be allocated", expected=f"≤ {DEFAULT_LIMIT_BYTES} B")
            if unpack.eof:
                break


def _number(header: Any, name: str, default: int | None = None) -> int:
    value = header.get(name)
    if value is None or value == "":
        if default is None:
            where = getattr(header, "filename", None) or "the DICOM file"
            raise ReadError(f"{where} is an image without {name} and cannot be read", got=_what(header))
        return default
    return int(value)


def _described(path: Path, member: str | None, header: Any, notes: list[str]) -> Opened:
    rows, columns = _number(header, "Rows"), _number(header, "Columns")
    frames = _number(header, "NumberOfFrames", 1)
    samples = _number(header, "SamplesPerPixel", 1)
    if min(rows, columns, frames) < 1 or samples not in (1, 3):
        raise ReadError(
            f"{path} declares an impossible size", got=f"{frames} frames of {rows} × {columns}, {samples} samples"
        )
    allocated = _number(header, "BitsAllocated")
    stored_bits = _number(header, "BitsStored", allocated)
    if not 1 <= stored_bits <= allocated:
        notes.append(f"BitsStored is {stored_bits} of {allocated} allocated bits; all bits were taken")
        stored_bits = allocated
    stored = _stored_type(path, header, allocated)
    syntax = _syntax(header)
    if not syntax.startswith(_JPEG_FAMILY) and syntax in ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        bits = rows * columns * frames * samples * allocated
        bits = bits * 2 // 3 if header.get("PhotometricInterpretation") == "YBR_FULL_422" else bits
        require_complete(path, path.stat().st_size, bits // 8)
    frame = _frame(path, member, frames)
    photometric = str(header.get("PhotometricInterpretation", "")).strip()
    meaning = _Meaning.of(header, stored, stored_bits, samples, photometric, notes)
    picked = range(frames) if frame is None else range(frame, frame + 1)
    geometry, times = place_of(path, header, (rows, columns), picked, notes)
    _odd(header, photometric, notes)

    def pixels(notes: list[str]) -> NDArray[Any]:
        with _understood(path, notes):
            array = _decoded(path, frame, (rows, columns), meaning, picked)
        if len(picked) > 1:
            array = np.moveaxis(array, 0, 2)  # frames after rows and columns
        return array

    return Opened(
        geometry=geometry,
        dtype=meaning.dtype,
        pixels=pixels,
        quantity=meaning.quantity,
        channels=RGB if meaning.colour else ("image",),
        time_s=times,
        source=Source(
            path=str(path) if member is None else f"{path}#{member}",
            format="dicom",
            transfer_syntax=syntax or None,
            rescale=meaning.transforms[0] if meaning.transforms and len(set(meaning.transforms)) == 1 else None,
            photometric=photometric or None,
            bits_stored=stored_bits,
            modality=str(header.get("Modality", "")).strip() or None,
            warnings=tuple(dict.fromkeys(notes)),
        ),
        working_bytes=rows * columns * len(picked) * samples * stored.itemsize,
    )


def _frame(path: Path, member: str | None, frames: int) -> int | None:
    if member is None:
        return None
    if not (member.isascii() and member.isdigit() and len(member) < 10 and int(member) < frames):
        raise ReadError(f"{path} has no frame {member!r}", expected=f"0 to {frames - 1}")
    return int(member)


def _stored_type(path: Path, header: Any, allocated: int) -> np.dtype[Any]:
    signed = _number(header, "PixelRepresentation", 0) == 1
    if allocated == 1:
        return np.dtype(np.uint8)
    if allocated not in (8, 16, 32, 64):
        raise ReadError(f"{path} stores pixels in a way that is not read", got=f"{allocated} bits", expected="1 to 64")
    if "PixelRepresentation" not in header and allocated in (32, 64):  # Float Pixel Data has no sign
        return np.dtype(f"f{allocated // 8}")
    return np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")


def _odd(header: Any, photometric: str, notes: list[str]) -> None:
    if photometric == "MONOCHROME1":
        notes.append("larger numbers are darker here (MONOCHROME1); the values were kept")
    if any(0x6000 <= tag.group <= 0x601E for tag in header.keys()):  # noqa: SIM118  (tags, without decoding values)
        notes.append("an overlay is stored beside the pixels and was left out")
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        notes.append("the file says that annotations are burned into its pixels")


# -- what the numbers mean -------------------------------------------------------------------------------------------


class _Meaning:
    """How stored values become the image's values."""

    def __init__(self, dtype: np.dtype[Any], quantity: Quantity, colour: bool) -> None:
        self.dtype, self.quantity, self.colour = dtype, quantity, colour
        self.transforms: tuple[tuple[float, float], ...] = ()
        self.stored: np.dtype[Any] = dtype
        self.table: Any = None  # modality LUT or palette: the data set that holds it

    @classmethod
    def of(
        cls, header: Any, stored: np.dtype[Any], bits: int, samples: int, photometric: str, notes: list[str]
    ) -> _Meaning:
        if photometric == "PALETTE COLOR" and samples == 1:
            depth = int(header["RedPaletteColorLookupTableDescriptor"].value[2])
            made = cls(np.dtype(np.uint8 if depth <= 8 else np.uint16), "colour", True)
            made.stored, made.table = stored, "palette"
            notes.append("the palette was turned into colours")
            return made
        if samples == 3:
            if photometric not in _COLOUR:
                notes.append(f"three samples a pixel called {photometric or 'nothing'} were taken as colours")
            return cls(stored, "colour", True)
        if header.get("ModalityLUTSequence"):
            depth = int(header.ModalityLUTSequence[0].LUTDescriptor[2])
            made = cls(np.dtype(np.uint8 if depth <= 8 else np.uint16), "arbitrary", False)
            made.stored, made.table = stored, "modality"
            return made
        transforms, kind = _transforms(header)
        bad = [t for t in transforms if not (math.isfinite(t[0]) and math.isfinite(t[1]) and t[0] != 0)]
        if bad:
            notes.append(f"the rescale slope and intercept are unusable ({bad[0][0]:g}, {bad[0][1]:g}); left out")
            transforms = ()
        types = {rescaled_type(stored, *t, bits=bits) for t in transforms} or {stored}
        made = cls(np.result_type(*types), _quantity(header, bool(transforms), kind), False)
        made.stored, made.transforms = stored, transforms
        return made


def _transforms(header: Any) -> tuple[tuple[tuple[float, float], ...], str]:
    """(slope, intercept) once, or for each frame; and the rescale type."""
    if "RescaleSlope" in header or "RescaleIntercept" in header:
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        pair = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
        return (pair,), str(header.get("RescaleType", "") or "")
    found: list[tuple[float, float]] = []
    kind = ""
    for group in (*groups(header, "SharedFunctionalGroupsSequence"), *per_frame(header)):
        for item in group.get("PixelValueTransformationSequence") or []:
            found.append((float(item.RescaleSlope), float(item.RescaleIntercept)))
            kind = str(item.get("RescaleType", "") or "")
    return (tuple(found[:1]) if len(set(found)) == 1 else tuple(found)), kind


def _quantity(header: Any, rescaled_values: bool, kind: str) -> Quantity:
    """HU only where the file says so: CT with a rescale of type HU (or, as older files, of no type)."""
    modality = str(header.get("Modality", "")).strip()
    if str(header.get("SOPClassUID", "")) == _SEGMENTATION:
        return "label" if header.get("SegmentationType") == "BINARY" else "probability"
    if kind.strip().upper() == "HU" or (modality == "CT" and rescaled_values and not kind.strip()):
        return "HU"
    if modality == "PT" and header.get("Units") == "GML" and header.get("SUVType", "BW") == "BW":
        return "SUVbw"
    return "arbitrary"


def _decoded(path: Path, frame: int | None, size: tuple[int, int], meaning: _Meaning, picked: range) -> NDArray[Any]:
    import pydicom
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    data = pydicom.dcmread(path, force=True)
    _require_same_size(path, data, size)
    array = _frames(data, frame)
    if array.dtype != meaning.stored and array.dtype.kind == meaning.stored.kind:
        array = array.astype(meaning.stored)
    if meaning.table == "palette":
        return np.asarray(apply_color_lut(array, data)).astype(meaning.dtype, copy=False)
    if meaning.table == "modality":
        return np.asarray(apply_modality_lut(array, data)).astype(meaning.dtype, copy=False)
    if len(meaning.transforms) <= 1:
        pair = meaning.transforms[0] if meaning.transforms else (1.0, 0.0)
        return rescaled(array, *pair, meaning.dtype)
    if frame is not None:
        return rescaled(array, *meaning.transforms[frame], meaning.dtype)
    return np.stack([rescaled(array[i], *meaning.transforms[i], meaning.dtype) for i in picked])


def _frames(data: Any, frame: int | None) -> NDArray[Any]:
    """Stored values, colours as red, green and blue: (frames, rows, columns, samples), single axes left out."""
    from pydicom.pixels.processing import convert_color_space
    from pydicom.pixels.utils import pixel_array

    syntax = _syntax(data)
    if not syntax:
        _assume_syntax(data)
    bits = _number(data, "BitsStored", _number(data, "BitsAllocated"))
    if syntax not in _JPEG_OF_OWN or (syntax == _JPEG_EXTENDED and bits <= 8):
        return np.asarray(pixel_array(data, index=frame))
    array = _jpegs(data, frame, bits)
    photometric = str(data.PhotometricInterpretation)
    if photometric.startswith("YBR_FULL") and array.shape[-1] == 3:
        return np.asarray(convert_color_space(array, "YBR_FULL", "RGB"))
    return array


def _assume_syntax(data: Any) -> None:
    """A file without a transfer syntax: take what its elements were found to be written in."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = data.original_encoding
    data.file_meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    )


def _jpegs(data: Any, frame: int | None, bits: int) -> NDArray[Any]:
    """JPEG of 12 bits and lossless JPEG, which pydicom's free decoders do not cover."""
    import imagecodecs
    from pydicom.encaps import generate_frames, get_frame

    count = _number(data, "NumberOfFrames", 1)
    if frame is not None:
        streams = [get_frame(data.PixelData, frame, number_of_frames=count)]
    else:
        streams = list(generate_frames(data.PixelData, number_of_frames=count))
    if len(streams) != (count if frame is None else 1):
        raise ReadError("the file holds fewer frames than its header declares", got=len(streams), expected=count)
    lossless = _syntax(data) in _JPEG_LOSSLESS
    decode = imagecodecs.jpegsof3_decode if lossless else imagecodecs.jpeg_decode
    array = np.stack([np.asarray(decode(stream)) for stream in streams])
    if _number(data, "PixelRepresentation", 0) == 1:  # JPEG knows no sign: the stored bits are two's complement
        width = array.dtype.itemsize * 8
        array = (array << (width - bits)).view(f"i{array.dtype.itemsize}") >> (width - bits)
    return array[0] if len(array) == 1 else array


def _require_same_size(path: Path, data: Any, size: tuple[int, int]) -> None:
    """Refuse compressed frames that are larger than the header says: the decoder would allocate what *they* declare."""
    from pydicom.encaps import generate_frames

    syntax = _syntax(data)
    if not syntax.startswith(_JPEG_FAMILY) or "PixelData" not in data:
        return
    for number, frame in enumerate(
        generate_frames(data.PixelData, number_of_frames=_number(data, "NumberOfFrames", 1))
    ):
        found = _codestream_size(frame)
        if found is not None and found != size:
            raise ReadError(
                f"{path}: frame {number} has another size than the header declares", got=found, expected=size
            )


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 stream; None for others (video)."""
    if frame[:2] == b"\xff\xd8":
        _, height, width, _ = jpeg_frame(io.BytesIO(frame))
        return height, width
    at = frame.find(b"\xff\x4f\xff\x51") if frame[:4] in (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c") else -1
    if at < 0 or len(frame) < at + 24:
        return None
    x, y, x0, y0 = struct.unpack(">IIII", frame[at + 8 : at + 24])  # ITU-T T.800, A.5.1
    return y - y0, x - x0
