"""Stored pixels of a DICOM object: shown as a picture, overwritten where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, ReadError
from medmap.read.dicom.codecs import PixelSpec, decode_frame
from medmap.read.opened import FOREIGN_ERRORS

NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
BIG_ENDIAN = "1.2.840.10008.1.2.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
# Lossless syntaxes that are written again as they were: RLE, JPEG-LS lossless, JPEG 2000 lossless
KEPT = ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90")
# what of a lossy syntax's past must be said (PS3.3 C.7.6.1.1.5)
LOSSY = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 81, 91, 203, 110, 112))
LUMINANCE = np.array([0.299, 0.587, 0.114])
Box = tuple[int, int, int, int]  # row0, column0, row1, column1, half open


class Undecodable(ReadError):
    """Pixels that no decoder here understands, or that are not what the header says."""


class StoredPixels(Protocol):
    """Pixels of one object, frame by frame."""

    @property
    def rows(self) -> int:
        """Rows of a frame."""

    @property
    def columns(self) -> int:
        """Columns of a frame."""

    @property
    def frames(self) -> int:
        """How many frames."""

    def shown(self, frame: int) -> NDArray[Any]:
        """(rows, columns) or (rows, columns, 3) whole numbers, as a viewer would have them before any window."""

    def black_out(self, boxes: Sequence[Box]) -> str | None:
        """Overwrite boxes in all frames; says from which to which transfer syntax, where that had to change."""


def open_pixels(dataset: Any, limit_bytes: int) -> StoredPixels:
    """The pixels of a data set, native or compressed.

    Raises:
        Undecodable: A header that contradicts the pixels, a form that is not understood, damaged pixels.
        LimitError: More pixels than may be unpacked.
    """
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        samples = int(dataset.get("SamplesPerPixel", 1) or 1)
        bits = int(dataset.BitsAllocated)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
    except (AttributeError, TypeError, ValueError) as error:
        raise Undecodable("the header does not describe its pixels") from error
    if min(rows, columns, frames) < 1 or samples not in (1, 3) or bits not in (8, 16, 32):
        raise Undecodable("unusual pixels", got=f"{frames} × {rows} × {columns}, {samples} samples of {bits} bits")
    if rows * columns * frames * samples * bits // 8 > limit_bytes:
        raise LimitError("more pixels than may be unpacked", expected=f"≤ {limit_bytes} B")
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    form = Form(rows, columns, frames, samples, bits, photometric)
    return Native(dataset, form, syntax) if syntax in NATIVE else Compressed(dataset, form, syntax)


@dataclass(frozen=True)
class Form:
    """How pixels are laid out, from the header."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits: int
    photometric: str


def shown_grey(words: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Stored values without the bits that do not belong to them (retired overlays lie there), signed ones from zero."""
    allocated = words.dtype.itemsize * 8
    stored = int(dataset.get("BitsStored", allocated) or allocated)
    if not 1 <= stored <= allocated:
        stored = allocated
    high = int(dataset.get("HighBit", stored - 1) or stored - 1)
    shift = max(0, min(high + 1 - stored, allocated - stored))
    values = (words.view(words.dtype.newbyteorder("=").str.replace("i", "u")) >> shift).astype(np.uint32)
    values &= np.uint32(2**stored - 1)
    if int(dataset.get("PixelRepresentation", 0) or 0) == 1:
        values = (values + np.uint32(2 ** (stored - 1))) & np.uint32(2**stored - 1)
    return values.astype(np.uint16) if stored <= 16 else values


def coloured(indices: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Palette indices as colours.

    Raises:
        Undecodable: A palette that is absent or damaged.
    """
    from pydicom.pixels.processing import apply_color_lut

    try:
        return np.asarray(apply_color_lut(indices, dataset))
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise Undecodable("the palette cannot be used", got=" ".join(str(error).split())[:120]) from error


def _darkest_index(dataset: Any, bits: int) -> int:
    """The palette's index that is nearest to black."""
    entries, first = (int(v) for v in dataset.RedPaletteColorLookupTableDescriptor[:2])
    indices = np.arange(first, first + (entries or 2**16))
    indices = indices[indices < 2**bits].astype(np.uint16 if bits > 8 else np.uint8)
    return int(indices[int((coloured(indices[None], dataset)[0] @ LUMINANCE).argmin())])


def _from_ybr(picture: NDArray[Any]) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import convert_color_space

    return np.asarray(convert_color_space(np.asarray(picture, np.uint8), "YBR_FULL", "RGB"))


@dataclass
class Native:
    """Pixels stored as plain numbers; overwritten in the bytes themselves."""

    dataset: Any
    form: Form
    syntax: str
    words: NDArray[Any] = field(init=False)
    swapped: bool = field(init=False)

    def __post_init__(self) -> None:
        f = self.form
        data = bytearray(self.dataset.PixelData)
        self.swapped = self.syntax == BIG_ENDIAN and f.bits == 8 and self.dataset["PixelData"].VR == "OW"
        if self.swapped:  # 8 bits in words of 16: the two of a word change places (PS3.5 section 8.1.1, Annex A.3)
            data = bytearray(np.frombuffer(data, np.uint8).reshape(-1, 2)[:, ::-1].tobytes())
        kind = np.dtype(f"{'>' if self.syntax == BIG_ENDIAN else '<'}u{f.bits // 8}")
        self.half_chroma = f.samples == 3 and f.photometric == "YBR_FULL_422"
        planar = f.samples == 3 and int(self.dataset.get("PlanarConfiguration", 0) or 0) == 1
        shape: tuple[int, ...] = (f.frames, f.rows, f.columns)
        if self.half_chroma:
            if f.columns % 2 or f.bits != 8:
                raise Undecodable("unusual pixels", got="YBR_FULL_422 with an odd width")
            shape = (f.frames, f.rows, f.columns // 2, 4)
        elif f.samples == 3:
            shape = (f.frames, 3, f.rows, f.columns) if planar else (*shape, 3)
        need = int(np.prod(shape)) * kind.itemsize
        if len(data) < need:
            raise Undecodable("the pixels are truncated", got=f"{len(data)} bytes", expected=need)
        self.data = data
        words = np.frombuffer(data, kind, count=need // kind.itemsize).reshape(shape)
        self.words = np.moveaxis(words, 1, 3) if planar and not self.half_chroma else words

    @property
    def rows(self) -> int:
        """Rows of a frame."""
        return self.form.rows

    @property
    def columns(self) -> int:
        """Columns of a frame."""
        return self.form.columns

    @property
    def frames(self) -> int:
        """How many frames."""
        return self.form.frames

    def shown(self, frame: int) -> NDArray[Any]:
        """One frame as a viewer shows it."""
        stored, f = self.words[frame], self.form
        if f.photometric == "PALETTE COLOR":
            return coloured(np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("="))), self.dataset)
        if f.samples == 1:
            return shown_grey(np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("="))), self.dataset)
        if self.half_chroma:  # Y Y Cb Cr for each two columns (PS3.3 C.7.6.3.1.2)
            luma = stored[..., :2].reshape(f.rows, f.columns)
            chroma = np.repeat(stored[..., 2:], 2, axis=1)
            return _from_ybr(np.dstack([luma, chroma]))
        if f.photometric.startswith("YBR") and f.bits == 8:
            return _from_ybr(stored)
        return np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("=")))

    def _black(self) -> Any:
        f = self.form
        if f.photometric == "PALETTE COLOR":
            return _darkest_index(self.dataset, f.bits)
        if self.half_chroma:
            return np.array([0, 0, 128, 128])
        if f.samples == 3:
            return np.array([0, 128, 128]) if f.photometric.startswith("YBR") else 0
        # the stored word of the darkest pixel there is: no value appears that the image did not have
        best: tuple[int, int] | None = None
        for index in range(f.frames):
            values = self.shown(index).ravel()
            at = int(values.argmax() if f.photometric == "MONOCHROME1" else values.argmin())
            rank = -int(values[at]) if f.photometric == "MONOCHROME1" else int(values[at])
            if best is None or rank < best[0]:
                best = (rank, int(self.words[index].ravel()[at]))
        return best[1] if best else 0

    def black_out(self, boxes: Sequence[Box]) -> str | None:
        """Overwrite boxes in all frames."""
        black = self._black()
        for row0, column0, row1, column1 in boxes:
            columns = slice(column0 // 2, -(-column1 // 2)) if self.half_chroma else slice(column0, column1)
            self.words[:, row0:row1, columns] = black
        data = bytes(self.data)
        if self.swapped:
            data = np.frombuffer(data, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
        self.dataset.PixelData = data
        return None


@dataclass
class Compressed:
    """Pixels in a codestream a frame: decoded to be looked at, written again only when something is blacked out."""

    dataset: Any
    form: Form
    syntax: str

    @property
    def rows(self) -> int:
        """Rows of a frame."""
        return self.form.rows

    @property
    def columns(self) -> int:
        """Columns of a frame."""
        return self.form.columns

    @property
    def frames(self) -> int:
        """How many frames."""
        return self.form.frames

    def _decoded(self, frame: int) -> tuple[NDArray[Any], str]:
        """Stored values (colours as RGB) and their photometric interpretation.

        Raises:
            Undecodable: Damaged, or another picture than the header declares; a decoder never sees it then.
        """
        from pydicom.encaps import get_frame

        try:
            spec = PixelSpec.of(self.dataset, self.syntax)
            tables = [self.dataset.get(k) for k in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
            data = get_frame(
                self.dataset.PixelData,
                frame,
                number_of_frames=self.form.frames,
                extended_offsets=(tables[0], tables[1]) if all(tables) else None,
            )
            array = decode_frame(data, spec)
        except (ReadError, LimitError, *FOREIGN_ERRORS) as error:
            reason = " ".join(str(error).split())[:160]
            raise Undecodable("no decoder reads these pixels", got=reason) from error
        return array, "RGB" if self.form.samples == 3 else self.form.photometric

    def shown(self, frame: int) -> NDArray[Any]:
        """One frame as a viewer shows it."""
        array, photometric = self._decoded(frame)
        if photometric == "PALETTE COLOR":
            return coloured(array, self.dataset)
        if array.ndim == 3 or array.dtype.kind == "u":
            return array
        return (array.astype(np.int64) - int(np.iinfo(array.dtype).min)).astype(np.uint32)

    def black_out(self, boxes: Sequence[Box]) -> str | None:
        """Decode all frames, overwrite boxes, write without loss."""
        values, photometric = self._all()
        if photometric == "PALETTE COLOR":
            black = _darkest_index(self.dataset, values.dtype.itemsize * 8)
        elif values.ndim == 4:
            black = 0
        else:
            black = int(values.max() if photometric == "MONOCHROME1" else values.min())
        for row0, column0, row1, column1 in boxes:
            values[:, row0:row1, column0:column1] = black
        self._write(values, photometric)
        self._compress()
        now = str(self.dataset.file_meta.TransferSyntaxUID)
        return None if now == self.syntax else f"{self.syntax} → {now}"

    def unpack(self) -> None:
        """Write all frames as plain numbers."""
        self._write(*self._all())

    def _all(self) -> tuple[NDArray[Any], str]:
        frames, photometric = [], ""
        for index in range(self.form.frames):
            array, photometric = self._decoded(index)
            frames.append(array)
        return np.stack(frames), photometric

    def _write(self, values: NDArray[Any], photometric: str) -> None:
        data = self.dataset
        stored = values.astype(values.dtype.newbyteorder("<")).tobytes()
        data.file_meta.TransferSyntaxUID = _uid(EXPLICIT_LITTLE)
        data.PixelData = stored + b"\0" * (len(stored) % 2)
        data["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
        data["PixelData"].is_undefined_length = False
        data.PhotometricInterpretation = photometric
        data.BitsAllocated = values.dtype.itemsize * 8
        if values.ndim == 4:
            data.PlanarConfiguration = 0
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in data:
                del data[keyword]
        if self.syntax in LOSSY:
            data.LossyImageCompression = "01"  # once lossy, for ever lossy

    def _compress(self) -> None:
        if self.syntax in KEPT:
            try:
                self.dataset.compress(_uid(self.syntax), generate_instance_uid=False)
            except (NotImplementedError, RuntimeError, ValueError, AttributeError, TypeError):
                return  # no encoder for this form of pixels: plain numbers lose nothing either


def _uid(value: str) -> Any:
    from pydicom.uid import UID

    return UID(value)
