"""A slice read in its series holds the same numbers as when it is read alone, whatever its header makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

import dicom_series as made
import medmap as mm
from medmap.errors import ReadError
from medmap.image import Image
from medmap.read import studies

PET = "1.2.840.10008.5.1.4.1.1.128"


def item(**values: Any) -> Dataset:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def pet(folder: Path, **changes: Any) -> Path:
    """Eleven slices of activity, each with a slope of its own, scanned one bed after the other."""
    truth = made.phantom()
    for n in range(11):
        ds = made.header(
            truth.geometry, n, SOPClassUID=PET, Modality="PT", Units="BQML", RescaleSlope=0.5 + n / 4,
            RescaleIntercept=0, RescaleType=None, PatientWeight=70, DecayCorrection="START",
            CorrectedImage=["ATTN", "DECY", "SCAT"], SeriesDate="20260102", SeriesTime="103000",
            AcquisitionDate="20260102", AcquisitionTime=f"10{30 + n:02d}00",
        )  # fmt: skip
        ds.RadiopharmaceuticalInformationSequence = [
            item(RadionuclideTotalDose=3.7e8, RadionuclideHalfLife=6586.2, RadiopharmaceuticalStartTime="093000")
        ]
        for name, value in changes.items():
            setattr(ds, name, value)
        made.save(ds, (truth.array[:, :, n] + 1024).astype(np.uint16), folder / f"{n}.dcm")
    return folder


def of_its_files(folder: Path) -> np.ndarray:
    return np.stack([mm.read(folder / f"{n}.dcm").array for n in range(11)], axis=-1)


def test_pet_becomes_uptake_with_each_slices_own_slope(tmp_path: Path) -> None:
    image = mm.read(pet(tmp_path))
    dose = 3.7e8 * 2 ** (-3600 / 6586.2)
    stored = made.phantom().array.astype(float) + 1024
    expected = stored * (0.5 + np.arange(11) / 4) * 70_000 / dose
    assert image.quantity == "SUVbw"
    assert image.array.dtype == np.float32
    assert np.allclose(image.array, expected, rtol=1e-6)
    assert np.array_equal(image.array, of_its_files(tmp_path))
    assert image.source.rescale is None


def test_a_late_series_time_gives_one_uptake_for_all_slices(tmp_path: Path) -> None:
    # a later processing changed SeriesTime; the earliest slice says when the scan began
    image = mm.read(pet(tmp_path, SeriesTime="180000"))
    dose = 3.7e8 * 2 ** (-3600 / 6586.2)
    stored = made.phantom().array.astype(float) + 1024
    assert np.allclose(image.array, stored * (0.5 + np.arange(11) / 4) * 70_000 / dose, rtol=1e-6)


def test_pet_without_a_weight_stays_activity(tmp_path: Path) -> None:
    image = mm.read(pet(tmp_path, PatientWeight=None))
    assert image.quantity == "activity"
    assert np.allclose(image.array, of_its_files(tmp_path))
    assert any("no standardised uptake" in w for w in image.source.warnings)


def test_slices_in_different_units_are_no_volume(tmp_path: Path) -> None:
    pet(tmp_path)
    truth = made.phantom()
    ds = made.header(truth.geometry, 4, SOPClassUID=PET, Modality="PT", Units="CNTS", RescaleType=None)
    made.save(ds, truth.array[:, :, 4].astype(np.uint16), tmp_path / "4.dcm")
    with pytest.raises(ReadError, match=r"mixed-meaning.*BQML.*CNTS"):
        mm.read(tmp_path)


def test_padding_is_not_measured(tmp_path: Path) -> None:
    truth = made.phantom()
    array = np.array(truth.array)
    array[0, :3, 2:5] = -1024 + 7
    made.write(tmp_path / "s", Image(array, truth.geometry), PixelPaddingValue=7)
    for image in (mm.read(tmp_path / "s"), next(studies(tmp_path / "s")).series[0].read()):
        assert np.array_equal(image.array, array)
        assert image.valid is not None
        assert np.array_equal(image.valid, array != -1017)
    kept = [0, 1, 2, 3, 6, 7, 8, 9, 10]
    made.write(tmp_path / "m", Image(array, truth.geometry), numbers=kept, PixelPaddingValue=7)
    filled = next(studies(tmp_path / "m")).series[0].read(mend=("missing-slices",))
    assert filled.valid is not None
    assert not filled.valid[0, :3, 2:6].any()  # slices 4 and 5 lean on the padded slice 3
    assert filled.valid.sum() == filled.array.size - 12
    made.write(tmp_path / "n")
    assert mm.read(tmp_path / "n").valid is None


def test_windows_stand_beside_the_values(tmp_path: Path) -> None:
    image = mm.read(made.write(tmp_path, WindowCenter=[40, 300], WindowWidth=[400, 1500]))
    assert image.source.windows == ((40.0, 400.0, ""), (300.0, 1500.0, ""))
    assert np.array_equal(image.array, made.phantom().array)


def lut(ds: Dataset) -> None:
    del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType
    table = (np.arange(4096) * 3 % 65536).astype("<u2")
    ds.ModalityLUTSequence = [item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US", LUTData=table.tobytes())]
    ds.ModalityLUTSequence[0]["LUTData"].VR = "OW"


def test_a_modality_table_is_applied_to_every_slice(tmp_path: Path) -> None:
    truth = made.phantom()
    for n in range(11):
        ds = made.header(truth.geometry, n)
        lut(ds)
        made.save(ds, truth.array[:, :, n].astype(np.uint16), tmp_path / f"{n}.dcm")
    image = mm.read(tmp_path)
    assert np.array_equal(image.array, truth.array.astype(int) * 3)
    assert np.array_equal(image.array, of_its_files(tmp_path))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planar", [0, 1])
def test_a_series_in_colour(tmp_path: Path, photometric: str, planar: int) -> None:
    truth, rng = made.phantom(), np.random.default_rng(3)
    for n in range(11):
        ds = made.header(
            truth.geometry, n, SamplesPerPixel=3, PhotometricInterpretation=photometric, PlanarConfiguration=planar,
            BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope=None, RescaleIntercept=None, RescaleType=None,
        )  # fmt: skip
        shape = (3, 5, 7) if planar else (5, 7, 3)
        made.save(ds, np.append(rng.integers(0, 256, shape), 0).astype(np.uint8), tmp_path / f"{n}.dcm")
    image = mm.read(tmp_path)
    assert image.quantity == "colour"
    assert image.channels == ("red", "green", "blue")
    assert image.array.shape == (5, 7, 11, 3)
    alone = np.stack([mm.read(tmp_path / f"{n}.dcm").array for n in range(11)], axis=2)
    assert np.array_equal(image.array, alone)


@pytest.mark.parametrize(
    "changes",
    [
        {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1},
        {"BitsStored": 12, "HighBit": 15},
        {"RescaleSlope": 2.5, "RescaleIntercept": -7},
        {"RescaleSlope": -1, "RescaleIntercept": 100},
        {"RescaleIntercept": 70_000},
        {"PhotometricInterpretation": "MONOCHROME1", "RescaleType": "US"},
        {"RescaleSlope": "0"},
        {"BitsAllocated": 32, "BitsStored": 20, "HighBit": 19},
    ],
)
def test_a_series_means_what_its_files_mean(tmp_path: Path, changes: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    for n in range(11):
        ds = made.header(made.phantom().geometry, n, **changes)
        wide = ds.BitsAllocated == 32
        stored = rng.integers(0, 2**20 if wide else 2**16, (5, 7)).astype(np.uint32 if wide else np.uint16)
        made.save(ds, stored, tmp_path / f"{n}.dcm")
    image, alone = mm.read(tmp_path), mm.read(tmp_path / "0.dcm")
    assert np.array_equal(image.array, of_its_files(tmp_path))
    assert (image.array.dtype, image.quantity) == (alone.array.dtype, alone.quantity)
    assert image.source.rescale == alone.source.rescale


def test_one_slice_with_an_unusable_rescale_is_refused(tmp_path: Path) -> None:
    made.write(tmp_path)
    ds = made.header(made.phantom().geometry, 4, RescaleSlope="0")
    made.save(ds, made.phantom().array[:, :, 4].astype(np.uint16), next(tmp_path.glob("*.10.5.dcm")))
    with pytest.raises(ReadError, match="rescale slope or intercept that cannot be used"):
        mm.read(tmp_path)


def test_a_damaged_slice_is_named(tmp_path: Path) -> None:
    for n in range(11):
        ds = made.header(made.phantom().geometry, n, Rows=20, Columns=28)
        plane = np.kron(made.phantom().array[:, :, n] + 1024, np.ones((4, 4), int)).astype(np.uint16)
        stream = imagecodecs.jpegls_encode(plane)
        made.save(ds, plane, tmp_path / f"{n}.dcm")
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"
        ds.PixelData = encapsulate([stream if n != 6 else stream[:60]])
        ds["PixelData"].VR = "OB"
        ds.save_as(tmp_path / f"{n}.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match=r"6\.dcm"):
        mm.read(tmp_path)


def test_frames_of_a_compressed_object_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmap.read.dicom import pixels

    truth = made.phantom()
    ds = made.header(truth.geometry, 0, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", Rows=20, Columns=28)
    slices = [made.header(truth.geometry, n) for n in range(11)]
    planes = [np.kron(truth.array[:, :, n] + 1024, np.ones((4, 4), int)).astype(np.uint16) for n in range(11)]
    ds.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=s.ImagePositionPatient)]) for s in slices
    ]
    ds.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=ds.ImageOrientationPatient)],
            PixelMeasuresSequence=[item(PixelSpacing=ds.PixelSpacing)],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        )
    ]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
                 "RescaleType"):  # fmt: skip
        delattr(ds, name)
    ds.NumberOfFrames = 11
    made.save(ds, planes[0], tmp_path / "e.dcm")
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"
    ds.PixelData = encapsulate([imagecodecs.jpegls_encode(p) for p in planes])
    ds["PixelData"].VR = "OB"
    ds.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    calls = []
    located = pixels._located
    monkeypatch.setattr(pixels, "_located", lambda *given: calls.append(1) or located(*given))
    image = mm.read(tmp_path)
    assert image.quantity == "HU"
    assert np.array_equal(image.array, np.stack(planes, axis=-1).astype(int) - 1024)
    assert len(calls) == 1
