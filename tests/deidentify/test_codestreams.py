"""Words hidden inside pixel data, at every place that an attacker found, are gone or said; the picture stays."""

from __future__ import annotations

import io
import struct

import numpy as np
import pydicom
import pytest
from objects import ct_slice, file_of
from PIL import Image as Picture
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from medmap.deidentify.codestreams import (
    NOT_UNDERSTOOD,
    SIZE_UNKNOWN,
    VIDEO_LEFT,
    cleaned_codestreams,
    without_jpeg_words,
    without_rle_words,
)
from medmap.deidentify.instance import Made, made
from medmap.deidentify.jpeg_2000 import without_jpeg_2000_words
from medmap.deidentify.profile import Profile
from medmap.deidentify.secrets import Key
from medmap.errors import ReadError

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
HIDDEN = b"ZORBA^QUILL 19690701"  # stands in no attribute: nobody can search for it


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    exif = Picture.Exif()
    exif[0x010E] = "DOE^JANE"
    Picture.fromarray(PICTURE).save(buffer, "JPEG", exif=exif, comment=b"born 1969-07-01", **options)
    return buffer.getvalue()


def jpeg_2000(*, boxed: bool = False, tiles: bool = False) -> bytes:
    buffer = io.BytesIO()
    more: dict[str, object] = {"tile_size": (16, 16)} if tiles else {}
    Picture.fromarray(PICTURE).save(buffer, "JPEG2000", no_jp2=not boxed, comment=HIDDEN.decode(), **more)
    return buffer.getvalue()


def decoded(stream: bytes) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(stream)))


def output_of(ds: Dataset, syntax: str) -> tuple[Made, Dataset]:
    result = made(io.BytesIO(file_of(ds, syntax)), Profile.of(), Key(bytes(range(32))))
    assert result is not None
    return result, pydicom.dcmread(io.BytesIO(result.content))


def colour(pixels: bytes) -> Dataset:
    ds = ct_slice(
        Rows=40, Columns=48, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB", BitsAllocated=8,
        BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=pixels,
    )  # fmt: skip
    ds["PixelData"].VR = "OB"
    return ds


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_words_leave_a_jpeg_and_its_picture_stays(options: dict[str, object]) -> None:
    stream = jpeg(**options)
    clean, taken = without_jpeg_words(stream + b"tail")
    assert {what for what, _ in taken} == {"EXIF", "JPEG comment", "bytes after the JPEG"}
    assert b"DOE" not in clean
    assert b"1969" not in clean
    assert b"tail" not in clean
    assert (np.asarray(Picture.open(io.BytesIO(clean))) == np.asarray(Picture.open(io.BytesIO(stream)))).all()
    assert without_jpeg_words(clean) == (clean, ())


def test_frames_of_an_object_are_cleaned_and_others_keep_their_bytes() -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.NumberOfFrames = JPEGBaseline8Bit, 2
    data.PixelData = encapsulate([jpeg(), jpeg()])
    assert len(cleaned_codestreams(data)[0]) == 4
    kept = data.PixelData
    assert cleaned_codestreams(data) == ((), ())
    assert data.PixelData is kept
    assert len(list(generate_frames(kept, number_of_frames=2))) == 2
    data.PixelData = b"\0\1\2"
    with pytest.raises(ReadError, match="damaged"):
        cleaned_codestreams(data)


def test_comments_leave_jpeg_2000() -> None:
    buffer = io.BytesIO()
    Picture.fromarray(PICTURE).save(buffer, "JPEG2000", no_jp2=True, comment="DOE^JANE")
    clean, taken = without_jpeg_2000_words(buffer.getvalue())
    assert taken
    assert b"DOE" not in clean
    assert (np.asarray(Picture.open(io.BytesIO(clean))) == PICTURE).all()
    assert str(JPEG2000Lossless).endswith("90")


def test_spare_bits_and_bytes_of_native_pixels_go() -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    values = np.arange(64, dtype="<u2").reshape(8, 8)
    data.Rows = data.Columns = 8
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = (values | 0x4000).tobytes() + b"DOE^JANE"
    assert [r.what for r in cleaned_codestreams(data)[0]] == ["bytes after the pixels", "bits beside the stored values"]
    assert data.PixelData == values.tobytes()
    signed = (values.astype("<i2") - 32).tobytes()
    data.PixelRepresentation, data.PixelData = 1, signed
    assert cleaned_codestreams(data) == ((), ())
    assert data.PixelData == signed


def test_a_thumbnail_leaves_the_jfif_segment() -> None:
    buffer = io.BytesIO()
    Picture.fromarray(PICTURE).save(buffer, "JPEG")
    plain = buffer.getvalue()
    small = bytes(range(27))  # 3 by 3 pixels (JFIF 1.02: RGB behind the segment's fields)
    segment = b"\xff\xe0" + (16 + len(small)).to_bytes(2, "big") + plain[6:18] + b"\x03\x03" + small
    clean, taken = without_jpeg_words(plain[:2] + segment + plain[20:])
    assert taken == (("JPEG thumbnail", 27),)
    assert clean == plain


def test_what_stands_around_a_jpeg_and_at_the_end_of_its_colour_segment_goes() -> None:
    plain, _ = without_jpeg_words(jpeg())
    adobe = b"Adobe" + b"\0\x64\0\0\0\0\1"
    long = plain[:2] + b"\xff\xee" + (2 + len(adobe + HIDDEN)).to_bytes(2, "big") + adobe + HIDDEN + plain[2:]
    again = plain[:2] + 2 * (b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0") + plain[2:]
    for stream in (HIDDEN + plain, plain + HIDDEN, long, again):
        clean, taken = without_jpeg_words(stream)
        assert taken
        assert HIDDEN not in clean
        assert len(clean) <= len(plain) + 18
        np.testing.assert_array_equal(decoded(clean), decoded(plain))
    for broken in (b"", HIDDEN, plain[: len(plain) // 2], plain[:40] + HIDDEN + plain[40:]):
        with pytest.raises(ReadError):
            without_jpeg_words(broken)


def boxes_with_words(stream: bytes) -> bytes:
    xml = (8 + len(HIDDEN)).to_bytes(4, "big") + b"xml " + HIDDEN
    uuid = (24 + len(HIDDEN)).to_bytes(4, "big") + b"uuid" + bytes(16) + HIDDEN
    at = stream.index(b"jp2c") - 4
    exact = (len(stream) - at).to_bytes(4, "big")
    return stream[:at] + xml + exact + stream[at + 4 :] + uuid


def comment_in_tile_part(stream: bytes) -> bytes:
    """A comment in the header of every tile-part, whose lengths tell the truth."""
    comment = b"\xff\x64" + (4 + len(HIDDEN)).to_bytes(2, "big") + b"\0\1" + HIDDEN
    made, at = stream[: stream.index(b"\xff\x90")], stream.index(b"\xff\x90")
    while stream[at : at + 2] == b"\xff\x90":
        (length,) = struct.unpack(">L", stream[at + 6 : at + 10])
        part = stream[at : at + length]
        made += part[:6] + struct.pack(">L", length + len(comment)) + part[10:12] + comment + part[12:]
        at += length
    return made + stream[at:]


def test_boxes_and_comments_of_every_header_leave_jpeg_2000() -> None:
    plain, _ = without_jpeg_2000_words(jpeg_2000())
    boxed = boxes_with_words(jpeg_2000(boxed=True))
    tiled = comment_in_tile_part(without_jpeg_2000_words(jpeg_2000(tiles=True))[0])
    assert boxed.count(HIDDEN) == 3
    assert tiled.count(HIDDEN) == 9
    lengths = struct.pack(">BBHBBL", 0xFF, 0x55, 8, 0, 0x40, int.from_bytes(HIDDEN[:4], "big"))
    false = plain[: plain.index(b"\xff\x90")] + lengths + plain[plain.index(b"\xff\x90") :]
    unknown = (
        plain[:2]
        + plain[2 : plain.index(b"\xff\x52")]
        + b"\xff\x7f"
        + (2 + len(HIDDEN)).to_bytes(2, "big")
        + (HIDDEN + plain[plain.index(b"\xff\x52") :])
    )
    for stream in (boxed, tiled, plain + HIDDEN, false, unknown):
        clean, taken = without_jpeg_2000_words(stream)
        assert taken
        assert HIDDEN[:4] not in clean
        np.testing.assert_array_equal(decoded(clean), PICTURE)
        assert without_jpeg_2000_words(clean) == (clean, ())
    endless = bytearray(plain)
    endless[plain.index(b"\xff\x90") + 6 : plain.index(b"\xff\x90") + 10] = bytes(4)  # up to the end
    assert HIDDEN not in without_jpeg_2000_words(bytes(endless) + HIDDEN)[0]
    palette = boxed.replace(b"colr", b"pclr")
    for broken in (b"", HIDDEN, plain[:-40], plain[:60], plain[:-2] + HIDDEN, boxed[:100], palette, plain[:12]):
        with pytest.raises(ReadError):
            without_jpeg_2000_words(broken)


def rle_object() -> Dataset:
    ds = ct_slice(Rows=16, Columns=16, PixelData=np.arange(256, dtype="<u2").repeat(1).tobytes(), PixelRepresentation=0)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.compress(RLELossless, generate_instance_uid=False)
    return ds


@pytest.mark.parametrize("where", ["between", "behind", "in the header", "before", "no codes", "the last code"])
def test_words_between_the_codes_of_rle_go(where: str) -> None:
    ds = rle_object()
    before = ds.pixel_array.copy()
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    header, second = list(struct.unpack("<16L", frame[:64])), 0
    second = header[2]
    body = frame[64:]
    if where in ("between", "no codes"):
        word = HIDDEN if where == "between" else b"\x80" * 6 + HIDDEN
        header[2] += len(word)
        body = frame[64:second] + word + frame[second:]
    elif where == "behind":
        body += HIDDEN
    elif where == "in the header":
        header[9] = int.from_bytes(HIDDEN[:4], "little")
    elif where == "before":
        header[1], header[2], body = header[1] + len(HIDDEN), header[2] + len(HIDDEN), HIDDEN + body
    else:  # a literal run that brings more than the last pixels
        body = frame[64:second] + bytes([127]) + bytes(range(128)) + bytes([127 + 20]) + bytes(128) + HIDDEN
    wrong = struct.pack("<16L", *header) + body
    ds.PixelData = encapsulate([wrong])
    ds["PixelData"].is_undefined_length = True
    if where == "the last code":
        body = frame[64:second] + bytes([127]) + bytes(range(128)) + bytes([127]) + bytes(128)
        assert without_rle_words(struct.pack("<16L", *header) + body, 256, 2)[1] == ()
        return
    result, found = output_of(ds, RLELossless)
    assert "taken out: bytes between the RLE codes" in result.notes
    assert HIDDEN[:4] not in found.PixelData
    np.testing.assert_array_equal(found.pixel_array, before)


def test_a_sound_rle_frame_keeps_its_bytes_and_a_damaged_one_is_said() -> None:
    ds = rle_object()
    kept = ds.PixelData
    assert cleaned_codestreams(ds) == ((), ())
    assert ds.PixelData == kept
    frame = next(generate_frames(kept, number_of_frames=1))
    for broken in (b"", frame[:70], struct.pack("<L", 3) + frame[4:], frame[:4] + bytes(8) + frame[12:]):
        with pytest.raises(ReadError):
            without_rle_words(broken, 256, 2)
    ds.PixelData = encapsulate([frame[:70]])
    assert cleaned_codestreams(ds)[1] == (NOT_UNDERSTOOD,)
    del ds.Rows
    ds.PixelData = kept
    assert cleaned_codestreams(ds)[1] == (NOT_UNDERSTOOD,)


def test_the_table_of_offsets_and_what_lies_beside_the_frames_hold_no_words() -> None:
    clean, _ = without_jpeg_words(jpeg())
    clean += b"\0" * (len(clean) % 2)
    item = b"\xfe\xff\x00\xe0" + len(clean).to_bytes(4, "little") + clean
    table = b"\xfe\xff\x00\xe0" + len(HIDDEN).to_bytes(4, "little") + HIDDEN
    empty = b"\xfe\xff\x00\xe0" + bytes(4)
    end = b"\xfe\xff\xdd\xe0" + bytes(4)
    for pixels, one in ((table + item, 1), (empty + item + end + HIDDEN, 1), (encapsulate([clean, HIDDEN]), 1)):
        ds = colour(pixels)
        ds.NumberOfFrames = one
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        removed, left = cleaned_codestreams(ds)
        assert removed
        assert not left
        assert HIDDEN not in ds.PixelData
        np.testing.assert_array_equal(decoded(next(generate_frames(ds.PixelData, number_of_frames=1))), decoded(clean))
    ds.PixelData = empty + item
    ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = bytes(8), struct.pack("<Q", len(clean))
    assert cleaned_codestreams(ds) == ((), ())
    assert "ExtendedOffsetTable" in ds
    ds.ExtendedOffsetTable = HIDDEN[:16]
    assert [r.what for r in cleaned_codestreams(ds)[0]] == ["a false table of offsets"]
    assert "ExtendedOffsetTable" not in ds


def test_bytes_after_native_pixels_go_and_unknown_sizes_are_said() -> None:
    pixels = bytes(range(256)) * 2
    result, found = output_of(ct_slice(PixelData=pixels + HIDDEN), "1.2.840.10008.1.2.1")
    assert found.PixelData == pixels
    assert result.notes == ("taken out: bytes after the pixels",)
    result, _ = output_of(ct_slice(Rows=None, PixelData=pixels + HIDDEN), "1.2.840.10008.1.2.1")
    assert [(r.place, r.kind) for r in result.residuals] == [("pixels", SIZE_UNKNOWN)]
    ds = ct_slice(PixelData=None)
    ds.FloatPixelData = bytes(1024) + HIDDEN
    assert HIDDEN not in output_of(ds, "1.2.840.10008.1.2.1")[0].content


def test_video_and_forms_that_nobody_knows_are_said() -> None:
    for syntax, kind in (("1.2.840.10008.1.2.4.102", VIDEO_LEFT), ("1.2.840.10008.1.2.4.52", NOT_UNDERSTOOD)):
        ds = colour(encapsulate([b"\0\0\1\xb2" + HIDDEN]))
        ds["PixelData"].is_undefined_length = True
        result, _ = output_of(ds, syntax)
        assert [(r.place, r.kind) for r in result.residuals] == [("pixels", kind)]


def test_pixels_at_other_places_do_not_leave_unseen() -> None:
    ds, item = ct_slice(), Dataset()
    item.add_new(0x7FE00010, "OW", b"dulcinea Quixotely")
    ds.RealWorldValueMappingSequence = [item]
    ds.add_new(0x7F000010, "OW", HIDDEN)
    result, _ = output_of(ds, "1.2.840.10008.1.2.1")
    assert HIDDEN not in result.content
    assert [(r.place, r.kind) for r in result.residuals] == [("00409096/7FE00010", "name")]


def test_the_title_of_a_document_is_replaced() -> None:
    ds = ct_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", PixelData=None, DocumentTitle=HIDDEN.decode())
    ds.EncapsulatedDocument, ds.MIMETypeOfEncapsulatedDocument = b"%PDF-1.4 " + HIDDEN + b" ", "application/pdf"
    result, found = output_of(ds, "1.2.840.10008.1.2.1")
    assert HIDDEN not in result.content
    assert found.DocumentTitle == "ANONYMIZED"
