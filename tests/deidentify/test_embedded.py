"""What hides beside and inside the pixels is found and taken out; the image stays."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from medmap.deidentify.embedded import (
    EMPTY_PDF,
    cleaned_codestreams,
    cleaned_overlays,
    document_kind,
    without_document,
    without_graphics,
    without_jpeg_2000_words,
    without_jpeg_words,
)
from medmap.errors import ReadError

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    exif = Picture.Exif()
    exif[0x010E] = "DOE^JANE"
    Picture.fromarray(PICTURE).save(buffer, "JPEG", exif=exif, comment=b"born 1969-07-01", **options)
    return buffer.getvalue()


def test_drawings_and_icons_go_at_every_depth() -> None:
    item, data = Dataset(), Dataset()
    for holder in (item, data):
        holder.add_new(0x60023000, "OW", bytes(8))
        holder.add_new(0x50003000, "OW", bytes(8))
        holder.IconImageSequence = Sequence([Dataset()])
        holder.PatientID = "kept"
    data.ReferencedImageSequence = Sequence([item])
    assert sorted(r.what for r in without_graphics(data)) == ["curve"] * 2 + ["icon"] * 2 + ["overlay"] * 2
    assert len(item) == 1
    assert len(data) == 2


def test_a_pdf_becomes_an_empty_page_and_other_documents_are_refused() -> None:
    data = Dataset()
    data.SOPClassUID, data.EncapsulatedDocument = "1.2.840.10008.5.1.4.1.1.104.1", b"%PDF-1.4 DOE^JANE "
    removed, residual = without_document(data)
    assert removed
    assert not residual
    assert b"DOE" not in data.EncapsulatedDocument
    for number in (1, 2, 3):  # the table of the page's objects tells the truth
        offset = int(EMPTY_PDF.split(b"\n0000000000 65535 f \n")[1].split(b"\n")[number - 1][:10])
        assert EMPTY_PDF[offset:].startswith(b"%d 0 obj" % number)
    assert EMPTY_PDF[164:].startswith(b"xref")
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.2"
    assert document_kind(data) == "CDA"
    assert without_document(data)[1]
    assert without_document(Dataset()) == ((), ())


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
    assert len(cleaned_codestreams(data)) == 4
    kept = data.PixelData
    assert cleaned_codestreams(data) == ()
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
    assert [r.what for r in cleaned_codestreams(data)] == ["bytes after the pixels", "bits beside the stored values"]
    assert data.PixelData == values.tobytes()
    signed = (values.astype("<i2") - 32).tobytes()
    data.PixelRepresentation, data.PixelData = 1, signed
    assert cleaned_codestreams(data) == ()
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


def test_words_in_an_overlay_are_blackened_and_its_drawing_stays(tool: Callable) -> None:
    tool("tesseract")
    canvas = Picture.new("L", (400, 200))
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((150, 90, 290, 190), outline=255, width=2)
    drawing = np.asarray(canvas) > 0
    draw.text((20, 15), "DOE JANE 19690701", fill=255, font=ImageFont.load_default(26))
    bits = np.asarray(canvas) > 127
    data = Dataset()
    for element, vr, value in ((0x10, "US", 200), (0x11, "US", 400), (0x1500, "LO", "of Jane"), (0x3000, "OW", b"")):
        data.add_new(0x60000000 | element, vr, value or np.packbits(bits.ravel(), bitorder="little").tobytes())
    data.add_new(0x60020010, "US", 4)  # a plane without data, that cannot be judged
    data.add_new(0x50003000, "OW", bytes(8))
    removed, blackened = cleaned_overlays(data)
    assert [r.what for r in removed] == ["overlay", "curve"]
    assert blackened >= 1
    assert 0x60001500 not in data
    after = np.unpackbits(np.frombuffer(data[0x60003000].value, np.uint8), bitorder="little").reshape(200, 400) > 0
    assert not after[:60].any()
    assert (after[80:] == drawing[80:]).all()
