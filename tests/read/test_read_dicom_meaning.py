"""What stored values mean: uptake, tables, palettes, padding, windows, overlays; against pydicom and SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medmap.errors import ReadError
from medmap.read import read
from medmap.read.dicom import read_overlays
from medmap.read.dicom.lut import descriptor, entries, expanded
from medmap.read.dicom.uptake import suv_factor

STORED = np.arange(6 * 4, dtype=np.uint16).reshape(6, 4) * 100


def made(stored: np.ndarray = STORED, **changes: object) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.Modality, data.Rows, data.Columns, data.SamplesPerPixel = "CT", 6, 4, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = stored.tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def saved(folder: Path, data: Dataset) -> Path:
    data.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder / "a.dcm"


# -- PET -------------------------------------------------------------------------------------------------------------


def pet(**changes: object) -> Dataset:
    given = Dataset()
    given.RadionuclideTotalDose, given.RadionuclideHalfLife = "4e8", "6586.2"
    given.RadiopharmaceuticalStartTime = "100000"
    data = made(Modality="PT", Units="BQML", PatientWeight="70", CorrectedImage=["ATTN", "DECY"],
                DecayCorrection="START", SeriesDate="20200101", SeriesTime="110000.5", RescaleSlope="2",
                RescaleIntercept="0", RadiopharmaceuticalInformationSequence=Sequence([given]))  # fmt: skip
    for name, value in changes.items():
        owner = given if name in given else data
        if value is None:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
    return data


def test_activity_becomes_uptake_by_body_weight(tmp_path: Path) -> None:
    image = read(saved(tmp_path, pet()))
    dose_bq = 4e8 * 2 ** (-3600.5 / 6586.2)
    np.testing.assert_allclose(image.array, STORED * 2.0 * 70_000 / dose_bq, rtol=1e-6)
    assert image.quantity == "SUVbw"
    assert image.array.dtype == np.float32


def test_a_dose_at_the_time_of_administration_does_not_decay() -> None:
    assert suv_factor(pet(DecayCorrection="ADMIN"))[0] == pytest.approx(70_000 / 4e8)
    over_midnight = pet(SeriesTime="001000", RadiopharmaceuticalStartTime="233000")
    assert suv_factor(over_midnight)[0] == pytest.approx(70_000 / (4e8 * 2 ** (-2400 / 6586.2)))
    earlier_frame = pet(SeriesTime="120000", AcquisitionDate="20200101", AcquisitionTime="110000.5")
    assert suv_factor(earlier_frame)[0] == pytest.approx(suv_factor(pet())[0])


def test_uptake_by_the_pseudo_code_of_the_qiba_profile(tmp_path: Path) -> None:
    """Worked by hand: a half-life of one hour, and one hour from injection to scan, leave half of the dose.

    80,000 g / 185,000,000 Bq; 46,250 Bq/ml are then an uptake of 20.
    """
    worked = {"PatientWeight": "80", "RadionuclideTotalDose": "3.7e8", "RadionuclideHalfLife": "3600",
              "SeriesTime": "110000", "RescaleSlope": "1"}  # fmt: skip
    stored = np.full((6, 4), 46_250, np.uint16)
    image = read(saved(tmp_path, pet(**worked, PixelData=stored.tobytes())))
    np.testing.assert_allclose(image.array, 20.0, rtol=1e-6)

    # counts with Philips' factor to uptake; or with its factor to Bq/ml, and then as Bq/ml
    counts = pet(**worked, Units="CNTS")
    counts.add_new(0x70530010, "LO", "Philips PET Private Group")
    counts.add_new(0x70531009, "DS", "2.5")
    assert suv_factor(counts)[0] == pytest.approx(2.5 * 80_000 / 1.85e8)
    counts.add_new(0x70531000, "DS", "0.125")
    assert suv_factor(counts)[0] == 0.125
    assert suv_factor(pet(**worked, Units="CNTS")) == (None, "the values are counts without a factor")

    # a series made after its frames: when the scan began stands in GE's own element, two half-lives after injection
    later = pet(**worked | {"SeriesTime": "180000"}, AcquisitionDate="20200101", AcquisitionTime="120500")
    later.add_new(0x00090010, "LO", "GEMS_PETD_01")
    later.add_new(0x0009100D, "DT", "20200101120000.00")
    assert suv_factor(later)[0] == pytest.approx(80_000 / (3.7e8 / 4))

    # the profile assumes that grams a millilitre are of body weight, unless the file says otherwise
    assert suv_factor(pet(Units="GML"))[0] == 1.0
    assert suv_factor(pet(Units="GML", SUVType="LBM"))[0] is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"PatientWeight": None}, "PatientWeight"),
        ({"RadionuclideTotalDose": None}, "TotalDose"),
        ({"RadionuclideHalfLife": None}, "half-life"),
        ({"SeriesTime": None}, "time"),
        ({"DecayCorrection": "NONE"}, "decay"),
        ({"CorrectedImage": ["ATTN"]}, "decay"),
        ({"RadiopharmaceuticalInformationSequence": None}, "0 radiopharmaceuticals"),
        ({"SeriesDate": "20200104", "RadiopharmaceuticalStartDateTime": "20200101100000"}, "after the injection"),
    ],
)
def test_what_cannot_become_uptake_stays_activity(tmp_path: Path, changes: dict[str, object], why: str) -> None:
    data = pet(**{k: v for k, v in changes.items() if k != "RadiopharmaceuticalStartDateTime"})
    if "RadiopharmaceuticalStartDateTime" in changes:
        item = data.RadiopharmaceuticalInformationSequence[0]
        item.RadiopharmaceuticalStartDateTime = changes["RadiopharmaceuticalStartDateTime"]
    image = read(saved(tmp_path, data))
    np.testing.assert_array_equal(image.array, STORED * 2)
    assert image.quantity == "activity"
    assert any(why in note for note in image.source.warnings)


# -- padding and windows ---------------------------------------------------------------------------------------------


def test_padding_is_masked_and_its_value_kept(tmp_path: Path) -> None:
    data = made(RescaleSlope="1", RescaleIntercept="-1024", PixelPaddingValue=300, PixelPaddingRangeLimit=500)
    image = read(saved(tmp_path, data))
    np.testing.assert_array_equal(image.valid, (STORED < 300) | (STORED > 500))
    assert image.array.min() == -1024
    assert not image.valid.flags.writeable
    turned = image.oriented("PS") if image.geometry.has_size else image
    assert turned.valid.sum() == image.valid.sum()
    assert read(saved(tmp_path, made(PixelPaddingValue=301))).valid is None


def test_signed_padding(tmp_path: Path) -> None:
    stored = STORED.astype(np.int16) - 2000
    data = made(stored, PixelRepresentation=1, RescaleSlope="0.5", RescaleIntercept="0")
    data.add_new(0x00280120, "SS", -2000)
    image = read(saved(tmp_path, data))
    np.testing.assert_array_equal(image.valid, stored != -2000)


def test_windows_are_kept_apart_from_values(tmp_path: Path) -> None:
    data = made(WindowCenter=["40", "-600"], WindowWidth=["400", "1500"], WindowCenterWidthExplanation=["A", "LUNG"])
    image = read(saved(tmp_path, data))
    assert image.source.windows == ((40.0, 400.0, "A"), (-600.0, 1500.0, "LUNG"))
    np.testing.assert_array_equal(image.array, STORED)
    assert read(saved(tmp_path, made(WindowCenter="1", WindowWidth="0"))).source.windows == ()


# -- tables ----------------------------------------------------------------------------------------------------------


def test_modality_table_as_pydicom_applies_it(shared_data: Path) -> None:
    path = shared_data / "dicom" / "pydicom-data" / "mlut_18.dcm"
    data = pydicom.dcmread(path)
    np.testing.assert_array_equal(read(path).array, apply_modality_lut(data.pixel_array, data))


@pytest.mark.parametrize(
    "name",
    ["pydicom-data/OBXXXX1A.dcm", "pydicom-data/OBXXXX1A_rle.dcm",
     "pydicom-data/gdcm-US-ALOKA-16.dcm", "pydicom-data/gdcm-US-ALOKA-16_big.dcm",
     "pydicom_test_files/test_files/examples_palette.dcm", "cornerstone3d/TestPattern_Palette_16.dcm"],
)  # fmt: skip
def test_palettes_as_pydicom_applies_them(shared_data: Path, name: str) -> None:
    path = shared_data / "dicom" / name
    data = pydicom.dcmread(path)
    np.testing.assert_array_equal(read(path).array, apply_color_lut(data.pixel_array, data))


def test_segmented_palettes(tmp_path: Path) -> None:
    words = np.array([0, 2, 0, 10, 1, 4, 50, 2, 1, 0, 0], np.uint16)
    assert expanded(words, 8).tolist() == [0, 10, 20, 30, 40, 50, 0, 10]
    for bad, count in (([3, 1, 0], 1), ([0, 2, 1, 2], 9), ([0, 9, *range(9)], 2), ([1, 5, 9], 5), ([2, 9, 0, 0], 5)):
        with pytest.raises(ReadError, match="palette"):
            expanded(np.array(bad, np.uint16), count)


def test_tables_that_cannot_be_are_refused() -> None:
    for bad in ("x", [1, 2], [70000, 0, 8], [4, 0, 99], [1.5, 0, 8]):
        with pytest.raises(ReadError, match="descriptor"):
            descriptor(bad, signed=False)
    with pytest.raises(ReadError, match="shorter"):
        entries(b"\1\2", 3, 16)
    assert entries(bytes([1, 2, 3, 0]), 3, 8).tolist() == [1, 2, 3]
    assert entries([1, 2, 3], 2, 16).tolist() == [1, 2]


# -- overlays --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pydicom-data/MR-SIEMENS-DICOM-WithOverlays.dcm"])
def test_overlays_as_pydicom_has_them(shared_data: Path, name: str) -> None:
    path = shared_data / "dicom" / name
    (overlay,) = read_overlays(path)
    np.testing.assert_array_equal(overlay.mask, pydicom.dcmread(path).overlay_array(overlay.group))
    assert (overlay.origin, overlay.kind) == ((0, 0), "G")
    assert any("read_overlays" in note for note in read(path).source.warnings)


def overlaid(rows: int, data: bytes | None) -> Dataset:
    made_ = made(BitsStored=12, HighBit=11)
    made_.add_new(0x60000010, "US", rows)
    made_.add_new(0x60000011, "US", 4)
    made_.add_new(0x60000040, "CS", "R")
    made_.add_new(0x60000050, "SS", [2, 3])
    made_.add_new(0x60000102, "US", 15 if data is None else 0)
    if data is not None:
        made_.add_new(0x60003000, "OW", data)
    return made_


def test_overlays_in_unused_bits_and_damaged_ones(tmp_path: Path) -> None:
    drawn = np.eye(6, 4, dtype=bool)
    data = overlaid(6, None)
    data.PixelData = (STORED | drawn.astype(np.uint16) << 15).tobytes()
    path = saved(tmp_path, data)
    (overlay,) = read_overlays(path)
    np.testing.assert_array_equal(overlay.mask, drawn)
    assert (overlay.kind, overlay.origin) == ("R", (1, 2))
    np.testing.assert_array_equal(read(path).array, STORED)
    with pytest.raises(ReadError, match="truncated"):
        read_overlays(saved(tmp_path, overlaid(600, b"\1\2")))
    with pytest.raises(ReadError, match="impossible"):
        read_overlays(saved(tmp_path, overlaid(0, b"\1\2")))


# -- another reader --------------------------------------------------------------------------------------------------

TEST_FILES = "pydicom_test_files/test_files"


@pytest.mark.parametrize(
    "name",
    [f"{TEST_FILES}/CT_small.dcm", f"{TEST_FILES}/MR_small.dcm", f"{TEST_FILES}/MR_small_RLE.dcm",
     "pydicom-data/JPEG-LL.dcm", "pydicom-data/693_J2KR.dcm"],
)  # fmt: skip
def test_values_as_simpleitk_has_them(shared_data: Path, name: str) -> None:
    path = shared_data / "dicom" / name
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    image = read(path)
    np.testing.assert_array_equal(image.array, other.squeeze())
