"""Every file of the collection is read or refused in one sentence; the table of them ends the test run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from medmap.errors import MedmapError
from medmap.image import Image
from medmap.read import read

DERIVED = ("SEG",)  # their frames are put on the grid of their source: test_read_segmentation

# the same image in several lossless transfer syntaxes: (folder, names)
LOSSLESS = {
    "CT slice": (
        "cornerstone3d",
        [
            f"CTImage.dcm_{name}.dcm"
            for name in (
                "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1",
                "LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2",
                "BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2",
                "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99",
                "RLELosslessTransferSyntax_1.2.840.10008.1.2.5",
                "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57",
                "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70",
                "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80",
                "JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90",
            )
        ],
    ),
    "MR": ("pydicom_test_files/test_files", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm",
                                             "MR_small_implicit.dcm", "MR_small_expb.dcm"]),
    "MR 2": ("pydicom-data", ["MR2_UNCR.dcm", "MR2_J2KR.dcm"]),
    "693": ("pydicom-data", ["693_UNCR.dcm", "693_J2KR.dcm"]),
    "US": ("pydicom-data", ["US1_UNCR.dcm", "US1_J2KR.dcm"]),
    "enhanced MR": ("pydicom-data", [
        "emri_small.dcm", "emri_small_RLE.dcm", "emri_small_big_endian.dcm", "emri_small_jpeg_ls_lossless.dcm",
        "emri_small_jpeg_2k_lossless.dcm"]),
    "slide": ("highdicom", ["sm_image.dcm", "sm_image_jpegls.dcm", "sm_image_jpegls_nobot.dcm"]),
    "secondary capture": ("pydicom-data", ["SC_rgb.dcm", "SC_rgb_expb.dcm", "SC_rgb_gdcm2k_uncompressed.dcm"]),
    "palette": ("pydicom-data", ["OBXXXX1A.dcm", "OBXXXX1A_expb.dcm", "OBXXXX1A_rle.dcm"]),
    "segmented palette": ("pydicom-data", ["gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"]),
    "dose": ("pydicom_test_files/test_files", ["rtdose.dcm", "rtdose_expb.dcm", "rtdose_rle.dcm"]),
    "segmentation": ("pydicom-data", ["liver.dcm", "liver_expb.dcm", "liver_deflate.dcm"]),
    "segmentation, 510 columns": ("pydicom-data", ["liver_nonbyte_aligned.dcm", "liver_nonbyte_aligned_deflate.dcm"]),
}  # fmt: skip


@pytest.mark.parametrize("group", LOSSLESS)
def test_lossless_transfer_syntaxes_agree_bit_for_bit(shared_data: Path, group: str) -> None:
    folder, names = LOSSLESS[group]
    there = [name for name in names if (shared_data / "dicom" / folder / name.partition("#")[0]).is_file()]
    assert len(there) >= 2
    images = [read(str(shared_data / "dicom" / folder / name)) for name in there]
    assert len({image.source.transfer_syntax for image in images}) >= 2 or group == "secondary capture"
    for image in images[1:]:
        np.testing.assert_array_equal(image.array, images[0].array)
        assert image.quantity == images[0].quantity


# decoded by pydicom and refused here, each for a reason: name → reason
EXCEPTIONS: dict[str, str] = {}
BIG_ENDIAN = "1.2.840.10008.1.2.2"
LOSSY = ("4.50", "4.51", "4.81", "4.91")


def decoded_by_pydicom(path: Path) -> tuple[pydicom.Dataset, np.ndarray] | None:
    """The whole pixel data; None where pydicom and its plug-ins give none."""
    try:
        data = pydicom.dcmread(path, force=True)
        return data, data.pixel_array
    except Exception:  # noqa: BLE001  (whatever it raises, it has not decoded the file)
        return None


def whole(data: pydicom.Dataset, stored: np.ndarray, image: Image) -> np.ndarray:
    """pydicom's pixels in the order of axes, and the meaning, that an image has them."""
    frames = int(data.get("NumberOfFrames") or 1)
    if data.get("PhotometricInterpretation") == "PALETTE COLOR":
        stored = apply_color_lut(stored, data)
    if "ModalityLUTSequence" in data:
        stored = apply_modality_lut(stored, data)
    if "TotalPixelMatrixRows" in data and frames > 1:
        across = -(-data.TotalPixelMatrixColumns // data.Columns)
        rows = [np.concatenate(stored[i : i + across], axis=1) for i in range(0, frames, across)]
        stored = np.concatenate(rows, axis=0)[: data.TotalPixelMatrixRows, : data.TotalPixelMatrixColumns]
    elif frames > 1:
        stored = np.moveaxis(stored, 0, 2)
    slope, intercept = image.source.rescale or (1, 0)
    return stored * float(slope) + intercept if (slope, intercept) != (1, 0) else stored


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_every_file_is_an_image_or_a_sentence(shared_data: Path, record_property) -> None:
    folder = shared_data / "dicom"
    rows, missed, compared, other = [], [], [], []
    counts = {"image": 0, "refused": 0}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        theirs = decoded_by_pydicom(path)
        try:
            image = read(path)
        except MedmapError as error:
            counts["refused"] += 1
            sentence = str(error).replace(f"{folder}/", "")
            assert "\n" not in sentence
            rows.append(f"{name}  {sentence}")
            if theirs is not None and name not in EXCEPTIONS:
                missed.append(name)
            continue
        counts["image"] += 1
        syntax = image.source.transfer_syntax or image.source.format
        rows.append(f"{name}  {syntax}  {image.array.shape}  {image.array.dtype}  {image.quantity}")
        if theirs is None or image.quantity in ("label", "probability") or theirs[0].get("Modality") in DERIVED:
            continue
        if image.source.photometric == "PALETTE COLOR" and syntax == BIG_ENDIAN:
            continue  # pydicom swaps the palette's bytes; the same image in little endian is compared
        expected = whole(*theirs, image).astype(np.float64)
        allowed = (2 if syntax.endswith(LOSSY) else 0) + 1e-6 * np.abs(expected).max()
        same = image.array.shape == expected.shape and np.abs(image.array - expected).max() <= allowed
        (compared if same else other).append(name)
    record_property("table of the DICOM collection: syntax, shape, type, quantity, or why not", rows)
    assert missed == []
    assert other == []
    assert counts["image"] > 270
    assert len(compared) > 240
