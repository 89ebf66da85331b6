"""What hides beside the pixels is found and taken out; the image stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medmap.deidentify.embedded import EMPTY_PDF, cleaned_overlays, document_kind, without_document, without_graphics


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
