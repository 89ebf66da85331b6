"""One frame of pixel data, in any transfer syntax, as an array: a decoder for each syntax, chosen by measurement.

``benchmarks/decoders.py`` times the permissively licensed candidates. imagecodecs' libraries (libjpeg-turbo, CharLS,
OpenJPEG) were the fastest that damaged streams did not crash, and they let other threads work meanwhile. Before a
decoder sees a frame, the frame's own markers are compared with the header.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, MedmapError, ReadError
from medmap.read.dicom.codestream import Codestream, codestream_of
from medmap.read.dicom.colour import from_422, to_rgb
from medmap.read.opened import FOREIGN_ERRORS

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
ENCAPSULATED_PLAIN = "1.2.840.10008.1.2.1.98"
RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
NATIVE = frozenset({"", IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED})
_JPEG = "1.2.840.10008.1.2.4."
# A frame this small is decoded whatever it claims; a larger one must have bytes for its pixels: a blank picture packs
# well in JPEG-LS and JPEG 2000, but a JPEG takes two bits a block, and a lossless one a bit a sample.
FREE_PIXELS = 2**24
PIXELS_A_BYTE: Mapping[str, int] = MappingProxyType(
    {"jpeg": 512, "jpeg-lossless": 8, "jpeg-ls": 20_000, "jpeg-2000": 20_000}
)


@dataclass(frozen=True)
class PixelSpec:
    """How the pixels of a frame are stored.

    Args:
        rows, columns: Size of the frame.
        samples: Samples a pixel: 1 or 3.
        bits_allocated: Bits that a sample takes: 1, 8, 16, 32 or 64.
        bits_stored: Bits of it that count.
        signed: Whether samples are two's complement.
        planar: Whether all of red comes first (uncompressed only).
        photometric: DICOM's photometric interpretation.
        transfer_syntax: UID of the transfer syntax.
        high_bit: The most significant of the stored bits; None: ``bits_stored - 1``.
        floating: Float Pixel Data or Double Float Pixel Data.
        words: Whether the element is of 16-bit words (VR OW), whose bytes a big-endian file swaps.

    Example:
        >>> PixelSpec(2, 3, bits_stored=12).dtype, PixelSpec(2, 3, bits_stored=12).nbytes
        (dtype('uint16'), 12)
    """

    rows: int
    columns: int
    samples: int = 1
    bits_allocated: int = 16
    bits_stored: int = 16
    signed: bool = False
    planar: bool = False
    photometric: str = "MONOCHROME2"
    transfer_syntax: str = EXPLICIT_LITTLE
    high_bit: int | None = None
    floating: bool = False
    words: bool = True

    @classmethod
    def of(cls, header: Mapping[str, Any] | Any, transfer_syntax: str = EXPLICIT_LITTLE) -> PixelSpec:
        """The description in a header: anything with ``get`` by DICOM keyword.

        Raises:
            ReadError: An attribute is missing, is no whole number, or describes pixels that cannot be.
        """
        allocated = _whole(header, "BitsAllocated")
        stored = _whole(header, "BitsStored", allocated)
        usable = 1 <= stored <= allocated
        high = _whole(header, "HighBit", stored - 1)
        spec = cls(
            rows=_whole(header, "Rows"),
            columns=_whole(header, "Columns"),
            samples=_whole(header, "SamplesPerPixel", 1),
            bits_allocated=allocated,
            bits_stored=stored if usable else allocated,
            signed=_whole(header, "PixelRepresentation", 0) == 1,
            planar=_whole(header, "PlanarConfiguration", 0) == 1,
            photometric=str(header.get("PhotometricInterpretation") or "").strip(),
            transfer_syntax=transfer_syntax,
            high_bit=high if usable and stored - 1 <= high < allocated else None,
        )
        if min(spec.rows, spec.columns) < 1 or spec.samples not in (1, 3):
            raise ReadError(
                "the header declares an impossible size",
                got=f"{spec.rows} × {spec.columns}, {spec.samples} samples a pixel",
            )
        if allocated not in (1, 8, 16, 32, 64):
            raise ReadError("pixels are stored in a way that is not read", got=f"{allocated} bits", expected="1 to 64")
        return spec

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values in memory."""
        if self.bits_allocated == 1:
            return np.dtype(np.uint8)
        kind = "f" if self.floating else "i" if self.signed and self.samples == 1 else "u"
        return np.dtype(f"{kind}{self.bits_allocated // 8}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows, columns, 3)."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def bits(self) -> int:
        """Bits of an uncompressed frame; two pixels of YBR_FULL_422 share a chrominance."""
        pixels = self.rows * self.columns
        return pixels * self.bits_allocated * (2 if self.halved else self.samples)

    @property
    def nbytes(self) -> int:
        """Bytes of an uncompressed frame (8 pixels of one bit to a byte)."""
        return -(-self.bits // 8)

    @property
    def halved(self) -> bool:
        """Whether uncompressed chrominance is stored for every second pixel only."""
        return self.samples == 3 and self.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422")

    @property
    def compressed(self) -> bool:
        """Whether frames are encapsulated."""
        return self.transfer_syntax not in NATIVE


def _whole(header: Any, name: str, default: int | None = None) -> int:
    value = header.get(name)
    if value is None or value == "":
        if default is None:
            raise ReadError(f"an image without {name} cannot be read")
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ReadError(f"{name} is no whole number", got=str(value)[:40]) from error


def decode_frame(data: bytes | memoryview, spec: PixelSpec, skip_bits: int = 0) -> NDArray[Any]:
    """The stored values of one frame; three samples come as red, green and blue.

    Args:
        data: The frame's bytes: its part of uncompressed pixel data, or its codestream.
        spec: How they are stored.
        skip_bits: Bits of uncompressed data that belong to the frame before.

    Returns:
        (rows, columns) or (rows, columns, 3) in ``spec.dtype``; it may be a read-only view of ``data``.

    Raises:
        ReadError: Truncated, damaged, another picture than the header declares, or a syntax that is not read.
        LimitError: It would take more memory or time than such a frame can need.

    Example:
        >>> decode_frame(bytes([1, 0, 2, 0]), PixelSpec(1, 2)).tolist()
        [[1, 2]]
    """
    decoder = DECODERS.get(spec.transfer_syntax)
    if decoder is None:
        raise ReadError(
            "the pixels are in a transfer syntax that is not read",
            got=f"{_named(spec.transfer_syntax)}",
            remedy="convert the file to an uncompressed or JPEG 2000 one",
        )
    try:
        return _native(data, spec, skip_bits) if skip_bits else decoder(data, spec)
    except MedmapError:
        raise
    except MemoryError as error:
        raise LimitError("a frame needs more memory than may be used") from error
    except FOREIGN_ERRORS as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ReadError("a compressed frame is damaged", got=reason, remedy="copy the original file again") from error


def _named(syntax: str) -> str:
    if syntax.startswith("1.2.840.10008.1.2.4.10") and syntax > "1.2.840.10008.1.2.4.100":
        return f"a video ({syntax})"
    return syntax


# -- decoders --------------------------------------------------------------------------------------------------------


def _native(data: bytes | memoryview, spec: PixelSpec, skip_bits: int = 0) -> NDArray[Any]:
    """PS3.5, 8.1 and 8.2: values one after another; of single bits, frames follow each other without a gap."""
    need = -(-(spec.bits + skip_bits) // 8)
    if len(data) < need:
        raise ReadError("a frame is truncated", got=f"{len(data)} bytes", expected=f"{need} bytes")
    if spec.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8, need), bitorder="little")
        return _in_colour(bits[skip_bits : skip_bits + spec.bits], spec)
    big = spec.transfer_syntax == EXPLICIT_BIG
    skip, count = skip_bits // 8, spec.nbytes // (spec.bits_allocated // 8)
    if big and spec.words and spec.bits_allocated == 8:
        raw = np.frombuffer(bytes(data) + bytes(len(data) % 2), np.uint8)
        values = raw.reshape(-1, 2)[:, ::-1].reshape(-1)[skip : skip + count]
    else:
        values = np.frombuffer(data, spec.dtype.newbyteorder(">" if big else "<"), count, skip)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return _in_colour(values, spec)


def _in_colour(values: NDArray[Any], spec: PixelSpec) -> NDArray[Any]:
    """A flat run of samples in the shape of the frame, unused bits cut off, colours as red, green and blue."""
    values = _cut(values, spec)
    if spec.samples == 1:
        return values.reshape(spec.shape)
    if spec.halved and spec.transfer_syntax in NATIVE:
        array = from_422(values, spec.rows, spec.columns)
    elif spec.planar or spec.transfer_syntax == RLE:
        array = np.moveaxis(values.reshape(spec.samples, spec.rows, spec.columns), 0, -1)
    else:
        array = values.reshape(spec.shape)
    return to_rgb(array, spec.photometric, spec.bits_stored)


def _cut(values: NDArray[Any], spec: PixelSpec) -> NDArray[Any]:
    """The stored bits of each value (PS3.5, 8.1.1): others may hold an old overlay."""
    if spec.floating or spec.bits_allocated in (1, spec.bits_stored):
        return values
    left = spec.bits_allocated - 1 - (spec.bits_stored - 1 if spec.high_bit is None else spec.high_bit)
    right = spec.bits_allocated - spec.bits_stored
    if left == right and not spec.signed and values.size and int(values.max()) < 2**spec.bits_stored:
        return values  # right-aligned and nothing beyond: most files
    return np.asarray(np.right_shift(np.left_shift(values, left), right))  # arithmetic for signed values


def _rle(data: bytes | memoryview, spec: PixelSpec) -> NDArray[Any]:
    """PS3.5, annex G: one segment a byte plane, most significant first; eight single bits to a byte (8.1.1)."""
    import imagecodecs

    if spec.bits_allocated == 1:
        packed = replace(spec, rows=1, columns=spec.nbytes, bits_allocated=8, bits_stored=8, high_bit=None)
        return _native(_rle(data, packed).tobytes(), spec)
    width = spec.bits_allocated // 8
    head = np.frombuffer(data[:64], "<u4") if len(data) >= 64 else np.zeros(16, "<u4")
    count, offsets = int(head[0]), head[1 : 1 + min(int(head[0]), 15)].astype(np.int64)
    if count != spec.samples * width:
        raise ReadError("an RLE frame has other segments than its header declares", got=count, expected=width)
    if offsets[0] != 64 or (np.diff(offsets) <= 0).any() or offsets[-1] >= len(data):
        raise ReadError("an RLE frame is truncated or damaged in its table of segments")
    need = spec.rows * spec.columns * spec.samples * width
    if (len(data) - 64) * 128 < need:  # two bytes give at most 128
        raise ReadError("an RLE frame is truncated", got=f"{len(data)} bytes", expected=f"enough for {need}")
    out = memoryview(np.empty(need, np.uint8).data)
    done = imagecodecs.dicomrle_decode(bytes(data), spec.dtype.newbyteorder("<"), out=out)
    if len(done) != need:
        raise ReadError("an RLE frame is truncated or damaged", got=f"{len(done)} bytes", expected=f"{need} bytes")
    return _in_colour(np.frombuffer(done, spec.dtype), spec)


def _jpeg(data: bytes | memoryview, spec: PixelSpec) -> NDArray[Any]:
    """JPEG, JPEG-LS, JPEG 2000, HTJ2K: by what the frame is, for files exist that are labelled as another of them."""
    stream = bytes(data)
    found = codestream_of(stream)
    if found is None:
        raise ReadError("a frame holds no JPEG", got=f"bytes that begin with {stream[:4]!r}")
    _require_same(found, spec)
    colours = found.colours or ("RGB" if spec.photometric == "RGB" else "YCbCr")
    array = _CODECS[found.kind](stream[: found.end], spec, colours)
    if spec.samples == 3 and array.ndim == 3 and array.shape[0] == 3 and array.shape != spec.shape:
        array = np.moveaxis(array, 0, -1)
    if array.shape != spec.shape:
        raise ReadError("a frame was decoded to another size", got=array.shape, expected=spec.shape)
    array = _within(array, _as_declared(array, spec), found.bits, spec)
    # the decoder of an ordinary JPEG has turned its colours already, that of JPEG 2000 when it was told to
    return array if found.kind == "jpeg" else to_rgb(array, spec.photometric, max(found.bits, 1))


def _require_same(found: Codestream, spec: PixelSpec) -> None:
    """Refuse a frame that contradicts the header, before a decoder allocates what *it* declares."""
    if (found.rows, found.columns) != (spec.rows, spec.columns):
        raise ReadError(
            "a frame has another size than the header declares",
            got=f"{found.rows} × {found.columns}",
            expected=f"{spec.rows} × {spec.columns}",
        )
    if found.components != spec.samples:
        raise ReadError("a frame has other samples a pixel than the header declares", got=found.components,
                        expected=spec.samples)  # fmt: skip
    pixels = spec.rows * spec.columns
    if pixels > FREE_PIXELS + PIXELS_A_BYTE[found.kind] * found.end:
        raise LimitError("a frame declares far more pixels than its bytes can hold", got=f"{found.end} bytes",
                         expected=f"enough for {pixels} pixels")  # fmt: skip
    if found.bits > spec.bits_allocated:
        raise ReadError("a frame has deeper samples than the header allows", got=f"{found.bits} bits",
                        expected=f"at most {spec.bits_allocated} bits")  # fmt: skip


def _as_declared(array: NDArray[Any], spec: PixelSpec) -> NDArray[Any]:
    """Decoded values in the header's type; most codecs know no sign, so the stored bits are two's complement."""
    if array.dtype == spec.dtype:
        return array
    if spec.dtype.kind == "i" and array.dtype.kind == "u":
        left = spec.bits_allocated - spec.bits_stored
        values = array.astype(spec.dtype)
        if left:
            np.left_shift(values, left, out=values)
            np.right_shift(values, left, out=values)  # arithmetic: the sign is extended
        return values
    if spec.dtype.kind == "u" and array.dtype.kind == "i":
        return np.asarray(array.astype(spec.dtype) & spec.dtype.type(2**spec.bits_stored - 1))
    return array.astype(spec.dtype)


def _within(decoded: NDArray[Any], array: NDArray[Any], bits: int, spec: PixelSpec) -> NDArray[Any]:
    """Values of a codestream deeper than BitsStored, which must need no more bits: what follows counts on it."""
    if bits <= spec.bits_stored or spec.bits_allocated == 1:
        return array
    if array.dtype.kind == "u" == decoded.dtype.kind and int(decoded.max()) < 2**spec.bits_stored:
        return array  # most files; what follows takes eight times the frame's memory
    half = 2 ** (spec.bits_stored - 1) if spec.dtype.kind == "i" else 0
    low, high = -half, 2**spec.bits_stored - 1 - half
    wide = np.int32 if spec.bits_allocated <= 16 else np.int64
    raw, values = decoded.astype(wide), array.astype(wide)
    same = np.zeros(raw.shape, bool)
    for kept in (bits, spec.bits_stored):  # a sign may have been extended to the depth of the codestream, or not
        same |= (raw & (2**bits - 1)) == (values & (2**kept - 1))
    if not same.all() or values.min() < low or values.max() > high:
        raise ReadError("a frame holds values that need more bits than the header says", got=f"{bits} bits",
                        expected=f"BitsStored {spec.bits_stored}")  # fmt: skip
    return array


def _lossy_jpeg(stream: bytes, spec: PixelSpec, colours: str) -> NDArray[Any]:
    import imagecodecs

    if spec.samples == 1:
        return np.asarray(imagecodecs.jpeg8_decode(stream))
    return np.asarray(imagecodecs.jpeg8_decode(stream, colorspace=colours, outcolorspace="RGB"))


def _lossless_jpeg(stream: bytes, spec: PixelSpec, colours: str) -> NDArray[Any]:
    import imagecodecs

    if spec.samples == 1:
        return np.asarray(imagecodecs.jpeg8_decode(stream))
    return np.asarray(imagecodecs.jpeg8_decode(stream, colorspace="RGB", outcolorspace="RGB"))  # samples as they are


def _jpeg_ls(stream: bytes, spec: PixelSpec, colours: str) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpegls_decode(stream))


def _jpeg_2000(stream: bytes, spec: PixelSpec, colours: str) -> NDArray[Any]:
    import imagecodecs

    # also for HTJ2K: OpenJPH takes half the time, but damaged streams crash it and hold it for ever
    return np.asarray(imagecodecs.jpeg2k_decode(stream, numthreads=1))


def _deflated_frame(data: bytes | memoryview, spec: PixelSpec) -> NDArray[Any]:
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    return _native(unpack.decompress(data, spec.nbytes + 1), spec)


_CODECS: dict[str, Callable[[bytes, PixelSpec, str], NDArray[Any]]] = {
    "jpeg": _lossy_jpeg,
    "jpeg-lossless": _lossless_jpeg,
    "jpeg-ls": _jpeg_ls,
    "jpeg-2000": _jpeg_2000,
}

# 50 baseline, 51 extended, 53 and 55 progressive (retired), 57 and 70 lossless, 80 and 81 JPEG-LS,
# 90 to 93 JPEG 2000, 201 to 203 HTJ2K
DECODERS: dict[str, Callable[[bytes | memoryview, PixelSpec], NDArray[Any]]] = {
    **dict.fromkeys((*NATIVE, ENCAPSULATED_PLAIN), _native),
    RLE: _rle,
    DEFLATED_FRAMES: _deflated_frame,
    **{f"{_JPEG}{n}": _jpeg for n in (50, 51, 53, 55, 57, 70, 80, 81, 90, 91, 92, 93, 201, 202, 203)},
}
