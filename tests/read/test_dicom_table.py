"""Every file of the collection is read or refused in one sentence; the table of them ends the test run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmap.errors import MedmapError
from medmap.read import read

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
    "enhanced MR, frame 3": ("pydicom-data", [f"{name}#3" for name in (
        "emri_small.dcm", "emri_small_RLE.dcm", "emri_small_big_endian.dcm", "emri_small_jpeg_ls_lossless.dcm",
        "emri_small_jpeg_2k_lossless.dcm")]),
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


def test_every_file_is_an_image_or_a_sentence(shared_data: Path, record_property) -> None:
    folder = shared_data / "dicom"
    rows, counts = [], {"image": 0, "frames": 0, "refused": 0}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        kind = "image"
        try:
            image = read(path)
        except MedmapError as error:
            sentence = str(error).replace(f"{folder}/", "")
            kind = "refused"
            assert "\n" not in sentence
            if "#0" in sentence:  # frames that are no volume: each is an image
                image, kind = read(path, member="0"), "frames"
        counts[kind] += 1
        if kind == "refused":
            rows.append(f"{name}  {sentence}")
        else:
            syntax = image.source.transfer_syntax or image.source.format
            frame = "#0" if kind == "frames" else ""
            rows.append(f"{name}{frame}  {syntax}  {image.array.shape}  {image.array.dtype}  {image.quantity}")
    record_property("table of the DICOM collection: syntax, shape, type, quantity, or why not", rows)
    assert counts["image"] > 240
    assert counts["frames"] > 20
    assert len(rows) == sum(counts.values())
