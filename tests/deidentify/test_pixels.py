"""Text in pixels is gone afterwards, and nothing else has changed."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from medmap.deidentify.pixels import PixelPolicy, cleaned_pixels, whether_to_look

NAME = "DAVIDSON 19690701"


def painted(rows: int = 120, columns: int = 400) -> np.ndarray:
    canvas = Picture.fromarray(np.tile(np.arange(columns) // 4, (rows, 1)).astype(np.uint8) + 20)
    ImageDraw.Draw(canvas).text((30, 40), NAME, fill=255, font=ImageFont.load_default(28))
    return np.asarray(canvas)


def made(
    array: np.ndarray, photometric: str, *, frames: int = 1, planar: int = 0, stored: int | None = None
) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", "2.25.1"
    data.Modality, data.PhotometricInterpretation = "US", photometric
    shape = array.shape[1:] if frames > 1 else array.shape
    colour = photometric in ("RGB", "YBR_FULL", "YBR_FULL_422")
    data.Rows, data.Columns = shape[:2] if not planar else shape[1:]
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = planar
    if frames > 1:
        data.NumberOfFrames = frames
    bits = array.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored = bits, stored or bits
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(array.dtype.kind == "i")
    data.PixelData = array.tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    return data


def variants() -> dict[str, Dataset]:
    grey = painted()
    rgb = np.stack([grey, grey, grey // 2], axis=2)
    ybr = np.dstack([grey, np.full_like(grey, 100), np.full_like(grey, 140)])
    half = np.concatenate([grey.reshape(120, 200, 2), ybr[:, ::2, 1:]], axis=2)
    palette = made(grey, "PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(palette, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        ramp = (np.arange(256) * 257).astype("<u2").tobytes()
        setattr(palette, f"{colour}PaletteColorLookupTableData", ramp)
    ybr_half = made(half, "YBR_FULL_422")
    ybr_half.Rows, ybr_half.Columns = 120, 400
    cine = np.stack([grey, np.roll(grey, 40, axis=0), grey // 2 + 10])
    big = made((grey.astype(np.uint16) * 4).astype(">u2"), "MONOCHROME2", stored=10)
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    rle = made(rgb, "RGB")
    rle.compress(RLELossless, generate_instance_uid=False)
    return {
        "MONOCHROME2": made(grey, "MONOCHROME2"),
        "MONOCHROME1": made(255 - grey, "MONOCHROME1"),
        "signed 16": made((grey.astype(np.int16) - 128) * 8, "MONOCHROME2", stored=12),
        "RGB": made(rgb, "RGB"),
        "RGB by plane": made(np.ascontiguousarray(np.moveaxis(rgb, 2, 0)), "RGB", planar=1),
        "YBR_FULL": made(ybr, "YBR_FULL"),
        "YBR_FULL_422": ybr_half,
        "palette": palette,
        "cine": made(cine, "MONOCHROME2", frames=3),
        "big-endian": big,
        "RLE": rle,
    }


def read_back(picture: np.ndarray) -> str:
    """What another setting of tesseract reads: other page mode, other scale."""
    shown = Picture.fromarray(picture).convert("L")
    shown = shown.resize((shown.width * 3, shown.height * 3))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    command = ["tesseract", "stdin", "stdout", "--psm", "12"]
    done = subprocess.run(command, input=buffer.getvalue(), capture_output=True, check=True)
    return "".join(done.stdout.decode().split()).upper()


@pytest.mark.parametrize("name", list(variants()))
def test_text_goes_and_all_else_stays_bit_for_bit(tool: Callable, tmp_path: Path, name: str) -> None:
    tool("tesseract")
    data = variants()[name]
    before, syntax = data.pixel_array.copy(), data.file_meta.TransferSyntaxUID
    result = cleaned_pixels(data, known=["Davidson^Ann"])
    assert result.changed
    assert not result.residual
    assert data.BurnedInAnnotation == "NO"
    assert data.file_meta.TransferSyntaxUID == syntax
    assert result.recompressed is None
    data.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=syntax != ExplicitVRBigEndian)
    after = pydicom.dcmread(tmp_path / "a.dcm", force=True).pixel_array
    frames = (slice(None),) if name == "cine" else ()
    inside = np.zeros(before.shape, bool)
    for box in result.boxes:
        columns = slice(box.column0 - box.column0 % 2, box.column1 + box.column1 % 2)
        inside[(*frames, slice(box.row0, box.row1), columns)] = True
    assert (before == after)[~inside].all()
    shown = after[1] if name == "cine" else after
    low, high = float(shown.min()), float(shown.max())
    assert "DAVID" not in read_back(((shown - low) * (255 / (high - low))).astype(np.uint8))


def test_a_picture_without_text_keeps_its_bytes(tool: Callable) -> None:
    tool("tesseract")
    data = made(np.tile(np.arange(256, dtype=np.uint8), (256, 1)), "MONOCHROME2")
    data.compress(RLELossless, generate_instance_uid=False)
    bytes_before = bytes(data.PixelData)
    result = cleaned_pixels(data)
    assert result.looked
    assert not result.changed
    assert bytes(data.PixelData) == bytes_before


def test_only_known_words_go_when_asked(tool: Callable) -> None:
    tool("tesseract")
    policy = PixelPolicy(words="known")
    data = made(painted(), "MONOCHROME2")
    assert cleaned_pixels(data, known=["Davidson"], policy=policy).changed
    canvas = Picture.fromarray(np.full((120, 400), 30, np.uint8))
    ImageDraw.Draw(canvas).text((30, 40), "PORTABLE", fill=255, font=ImageFont.load_default(28))
    data = made(np.asarray(canvas), "MONOCHROME2")
    result = cleaned_pixels(data, known=["Davidson"], policy=policy)
    assert not result.changed
    assert [b.text for b in result.kept] == ["PORTABLE"]
    assert "BurnedInAnnotation" not in data


def test_where_to_look_follows_from_the_kind_of_picture() -> None:
    ct = made(painted(), "MONOCHROME2")
    ct.Modality, ct.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ct.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    assert not whether_to_look(ct)[0]
    assert whether_to_look(ct, PixelPolicy(where="all"))[0]
    assert not whether_to_look(ct, PixelPolicy(where="none"))[0]
    ct.ImageType = ["DERIVED", "SECONDARY"]
    assert whether_to_look(ct)[0]
    ct.ImageType, ct.BurnedInAnnotation = ["ORIGINAL", "PRIMARY"], "YES"
    assert whether_to_look(ct)[0]


def test_what_cannot_be_looked_at_is_said() -> None:
    video = made(painted(), "RGB")
    video.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    assert "video" in cleaned_pixels(video).residual[0]
    cut = made(painted(), "MONOCHROME2")
    cut.PixelData = cut.PixelData[:100]
    assert "truncated" in cleaned_pixels(cut).residual[0]
    odd = made(painted(), "MONOCHROME2")
    odd.SamplesPerPixel = 2
    assert "unusual" in cleaned_pixels(odd).residual[0]
    del odd.Rows
    assert "does not describe" in cleaned_pixels(odd).residual[0]
    assert not cleaned_pixels(Dataset()).looked


def test_the_label_of_a_slide_goes_altogether() -> None:
    label = made(np.full((40, 40, 3), 200, np.uint8), "RGB")
    label.Modality, label.ImageType = "SM", ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    assert cleaned_pixels(label).changed
    assert not label.pixel_array.any()


def test_burned_in_names_of_real_pictures_are_gone(tool: Callable, shared_data: Path) -> None:
    tool("tesseract")
    data = pydicom.dcmread(shared_data / "deid" / "presidio" / "0_ORIGINAL_compressed.dcm")
    shown = (data.pixel_array >> 2).astype(np.uint8)[:140]
    assert "DAVIDSON" in read_back(shown)
    assert cleaned_pixels(data).changed
    after = read_back((data.pixel_array >> 2).astype(np.uint8)[:140])
    assert not any(word in after for word in ("DAVIDSON", "DOUGLAS", "2012", "1976", "DOB"))


def lossy(array: np.ndarray) -> Dataset:
    buffer = io.BytesIO()
    Picture.fromarray(array).save(buffer, "JPEG", quality=95)
    data = made(array, "MONOCHROME2")
    data.PixelData = encapsulate([buffer.getvalue()])
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return data


def test_a_lossy_picture_becomes_plain_numbers_and_stays_lossy(tool: Callable) -> None:
    tool("tesseract")
    data = lossy(painted())
    before = data.pixel_array.copy()
    result = cleaned_pixels(data)
    assert result.recompressed == f"{JPEGBaseline8Bit} → {ExplicitVRLittleEndian}"
    assert data.LossyImageCompression == "01"
    inside = np.zeros(before.shape, bool)
    for box in result.boxes:
        inside[box.row0 : box.row1, box.column0 : box.column1] = True
    assert inside[45:65, 40:300].mean() > 0.9
    assert (data.pixel_array == before)[~inside].all()


def test_a_codestream_of_another_size_never_reaches_a_decoder() -> None:
    data = lossy(painted())
    data.Rows = 60
    result = cleaned_pixels(data)
    assert "another size" in result.residual[0]
    assert not result.looked
