"""Nuclear medicine: frames counted by energy window, detector, phase, beat and view become named images with places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

import dicom_series
import medmap as mm
from medmap.errors import MedmapError, ReadError
from medmap.read import Series, studies
from medmap.read.dicom.nuclear import CLASSES, runs

TAGS = {"EnergyWindowVector": 0x00540010, "DetectorVector": 0x00540020, "PhaseVector": 0x00540030,
        "RotationVector": 0x00540050, "RRIntervalVector": 0x00540060, "TimeSlotVector": 0x00540070,
        "SliceVector": 0x00540080, "AngularViewVector": 0x00540090, "TimeSliceVector": 0x00540100}  # fmt: skip
ROW, COLUMN = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
NORMAL = np.cross(ROW, COLUMN)


def items(*found: dict[str, Any]) -> list[Dataset]:
    made = []
    for values in found:
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        made.append(item)
    return made


def counted(**ends: int) -> dict[str, list[int]]:
    """The vectors of frames counted along axes, the last one fastest."""
    grid = np.indices(tuple(ends.values())).reshape(len(ends), -1) + 1
    return {f"{name}Vector": [int(v) for v in row] for name, row in zip(ends, grid, strict=True)}


def nuclear(kind: str, vectors: dict[str, Sequence[int]], **more: Any) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CLASSES[0], "2.25.11"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.1", "2.25.2", "1.2.3"
    ds.PatientID, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "P1", "NM", 1, 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", kind, "EMISSION"]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 5, 7, 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.PixelSpacing = 15, 0, [4.8, 4.4]
    ds.NumberOfFrames = len(next(iter(vectors.values())))
    ds.FrameIncrementPointer = [TAGS[name] for name in vectors]
    for name, value in (vectors | more).items():
        setattr(ds, name, value)
    return ds


def saved(folder: Path, ds: Dataset) -> tuple[Path, np.ndarray]:
    """The file, and (frames, rows, columns) as pydicom reads them back."""
    pixels = np.arange(ds.NumberOfFrames * 35, dtype=np.uint16).reshape(-1, 5, 7)
    path = dicom_series.save(ds, pixels, folder / "nm.dcm")
    return path, np.asarray(pydicom.dcmread(path).pixel_array).reshape(-1, 5, 7)


def only(path: Path) -> Series:
    (study,) = studies(path)
    (series,) = study.series
    return series


def detectors(count: int = 1, **own: Any) -> list[Dataset]:
    return items(*[own] * count)


# -- planar images ---------------------------------------------------------------------------------------------------


def test_static_frames_are_pictures_by_window_and_detector(tmp_path: Path) -> None:
    path, truth = saved(tmp_path, nuclear("STATIC", counted(EnergyWindow=2, Detector=2)))
    series = only(tmp_path)
    names = [f"energy-window-{w}-detector-{d}" for w in (1, 2) for d in (1, 2)]
    assert [p.name for p in series.parts] == names
    assert (series.kind, {p.split for p in series.parts}) == ("picture", {"energy-window+detector"})
    assert [p.slices for p in series.parts] == [1] * 4
    for number, name in enumerate(names):
        image = series.read(name)
        assert np.array_equal(image.array, truth[number])
        assert (image.geometry.kind, image.geometry.spacing_mm) == ("detector", (4.8, 4.4))
        assert np.array_equal(mm.read(f"{path}#{name}").array, truth[number])
        assert np.array_equal(mm.read(f"{tmp_path}#2.25.2/{name}").array, truth[number])
    assert np.array_equal(mm.read(f"{path}#3").array, truth[3])


def test_several_images_in_one_file_are_said(tmp_path: Path) -> None:
    path, truth = saved(tmp_path, nuclear("STATIC", counted(EnergyWindow=1, Detector=2)))
    image = mm.read(path)
    assert np.array_equal(image.array, np.moveaxis(truth, 0, 2))
    assert any("2 images that differ in detector" in note and "nm.dcm#detector-1 (1)" in note
               for note in image.source.warnings)  # fmt: skip
    with pytest.raises(ReadError, match=r"no frame 'detector-3'.*0 to 1, detector-1, detector-2"):
        mm.read(f"{path}#detector-3")


def test_a_dynamic_study_has_times_and_phases(tmp_path: Path) -> None:
    phases = items(
        {"PhaseDelay": 0, "ActualFrameDuration": 1000, "PauseBetweenFrames": 0, "NumberOfFramesInPhase": 3},
        {"PhaseDelay": 500, "ActualFrameDuration": 9000, "PauseBetweenFrames": 1000, "NumberOfFramesInPhase": 2},
    )
    vectors = {"EnergyWindowVector": [1] * 5, "DetectorVector": [1] * 5, "PhaseVector": [1, 1, 1, 2, 2],
               "TimeSliceVector": [1, 2, 3, 1, 2]}  # fmt: skip
    path, truth = saved(tmp_path, nuclear("DYNAMIC", vectors, PhaseInformationSequence=phases))
    series = only(tmp_path)
    assert [(p.name, p.shape, p.slices) for p in series.parts] == [("phase-1", "cine", 3), ("phase-2", "cine", 2)]
    first, second = series.read("phase-1"), mm.read(f"{path}#phase-2")
    assert (first.time_s, second.time_s) == ((0.0, 1.0, 2.0), (3.5, 13.5))
    assert np.array_equal(second.array, np.moveaxis(truth[3:], 0, 2))
    assert first.geometry.spacing_mm == (4.8, 4.4)


def test_one_detector_that_runs_in_time_is_read_whole(tmp_path: Path) -> None:
    phase = items({"PhaseDelay": 0, "ActualFrameDuration": 2000, "PauseBetweenFrames": 0, "NumberOfFramesInPhase": 4})
    path, truth = saved(tmp_path, nuclear("DYNAMIC", counted(EnergyWindow=1, Detector=1, Phase=1, TimeSlice=4),
                                          PhaseInformationSequence=phase))  # fmt: skip
    assert mm.read(path).time_s == mm.read(tmp_path).time_s == (0.0, 2.0, 4.0, 6.0)
    assert np.array_equal(mm.read(path).array, np.moveaxis(truth, 0, 2))


def test_a_gated_study_runs_over_the_beat(tmp_path: Path) -> None:
    gates = items({"DataInformationSequence": items({"FrameTime": 50})})
    path, truth = saved(tmp_path, nuclear("GATED", counted(EnergyWindow=1, Detector=2, RRInterval=1, TimeSlot=3),
                                          GatedInformationSequence=gates))  # fmt: skip
    image = mm.read(f"{path}#detector-2")
    assert image.time_s == (0.0, 0.05, 0.1)
    assert np.array_equal(image.array, np.moveaxis(truth[3:], 0, 2))


def test_views_are_told_apart_by_rotation_and_ordered_by_number(tmp_path: Path) -> None:
    vectors = counted(EnergyWindow=1, Detector=1, Rotation=2, AngularView=3)
    vectors["AngularViewVector"] = [3, 2, 1, 1, 2, 3]
    path, truth = saved(tmp_path, nuclear("TOMO", vectors))
    image = mm.read(f"{path}#rotation-1")
    assert np.array_equal(image.array, np.moveaxis(truth[2::-1], 0, 2))
    assert not image.geometry.has_size
    assert image.time_s is None
    assert [p.name for p in only(tmp_path).parts] == ["rotation-1", "rotation-2"]


# -- reconstructions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3.3, -3.3])
@pytest.mark.parametrize("inside", [True, False])
def test_reconstructed_slices_lie_along_the_normal(tmp_path: Path, step: float, inside: bool) -> None:
    where = {"ImagePositionPatient": [-10, 20, 30], "ImageOrientationPatient": [float(v) for v in (*ROW, *COLUMN)]}
    own = {"DetectorInformationSequence": detectors(**where)} if inside else where
    path, truth = saved(tmp_path, nuclear("RECON TOMO", counted(Slice=4), SpacingBetweenSlices=step, SliceThickness=9,
                                          **own))  # fmt: skip
    expected = np.array([-10, 20, 30]) + np.outer(np.arange(4) * step, NORMAL)
    file, series = mm.read(path), mm.read(tmp_path)
    assert only(tmp_path).kind == "volume"
    for image in (file, series):
        assert image.geometry.kind == "patient"
        assert image.geometry.frame_of_reference == "1.2.3"
        assert np.allclose(image.geometry.spacing_mm, (4.8, 4.4, 3.3))
        for number in range(4):
            index = image.geometry.to_index([expected[number]])[0]
            assert np.allclose(index, np.rint(index), atol=1e-6)
            row, column, plane = np.rint(index).astype(int)
            assert (row, column) == (0, 0)
            assert np.array_equal(image.array[:, :, plane], truth[number])
    one = mm.read(f"{path}#2")
    assert np.allclose(one.geometry.affine_lps_mm[:3, 3], expected[2])


@pytest.mark.parametrize("step", [3.3, -3.3])
def test_simpleitk_puts_reconstructed_voxels_at_the_same_place(tmp_path: Path, step: float) -> None:
    where = {"ImagePositionPatient": [-10, 20, 30], "ImageOrientationPatient": [float(v) for v in (*ROW, *COLUMN)]}
    path, _ = saved(tmp_path, nuclear("RECON TOMO", counted(Slice=4), SpacingBetweenSlices=step,
                                      DetectorInformationSequence=detectors(**where)))  # fmt: skip
    image, other = mm.read(tmp_path), sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (4, 6, 3), (1, 5, 2)):
        point = image.geometry.to_world([index])[0]
        i, j, k = other.TransformPhysicalPointToIndex([float(v) for v in point])
        assert other.GetPixel(i, j, k) == image.array[index]


def test_without_a_place_slices_are_counted(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, nuclear("RECON TOMO", counted(Slice=3), SpacingBetweenSlices=4))
    assert not mm.read(path).geometry.has_size
    assert not mm.read(tmp_path).geometry.has_size


@pytest.mark.parametrize("timed", [True, False])
def test_a_gated_reconstruction_is_a_volume_for_each_slot(tmp_path: Path, timed: bool) -> None:
    where = {"ImagePositionPatient": [-10, 20, 30], "ImageOrientationPatient": [float(v) for v in (*ROW, *COLUMN)]}
    gates = {"GatedInformationSequence": items({"DataInformationSequence": items({"FrameTime": 125})})} if timed else {}
    path, truth = saved(tmp_path, nuclear("RECON GATED TOMO", counted(RRInterval=1, TimeSlot=3, Slice=4),
                                          SpacingBetweenSlices=3.3, DetectorInformationSequence=detectors(**where),
                                          **gates))  # fmt: skip
    series = only(tmp_path)
    word = "phase" if timed else "slot"
    assert [(p.name, p.slices) for p in series.parts] == [(f"{word}-{n}", 4) for n in (1, 2, 3)]
    cut = truth.reshape(3, 4, 5, 7)
    assert np.array_equal(series.read(f"{word}-2").array, np.moveaxis(cut[1], 0, 2))
    alone = mm.read(f"{path}#slot-2")
    assert np.array_equal(alone.array, np.moveaxis(cut[1], 0, 2))
    assert np.allclose(alone.geometry.spacing_mm, (4.8, 4.4, 3.3))
    if timed:
        whole = series.read()
        assert whole.time_s == (0.0, 0.125, 0.25)
        assert np.array_equal(whole.array, np.transpose(cut, (2, 3, 1, 0)))


# -- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vectors",
    [
        {"EnergyWindowVector": [1, 1, 1], "DetectorVector": [1, 1, 2]},  # two frames with one number
        {"EnergyWindowVector": [1, 1, 1], "DetectorVector": [1, 2]},  # a vector of another length
        {"EnergyWindowVector": [1, 1, 1], "DetectorVector": [0, 1, 2]},  # counted from 0
    ],
)
def test_vectors_that_do_not_tell_frames_apart_are_left_out(tmp_path: Path, vectors: dict[str, list[int]]) -> None:
    path, truth = saved(tmp_path, nuclear("STATIC", vectors, NumberOfFrames=3))
    assert np.array_equal(mm.read(path).array, np.moveaxis(truth, 0, 2))
    assert [p.name for p in only(tmp_path).parts] == ["cine-1"]


def test_vectors_of_other_objects_say_nothing() -> None:
    ds = nuclear("STATIC", counted(EnergyWindow=2, Detector=2))
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    assert runs(ds, 4) == ()


@given(st.lists(st.integers(1, 3), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_every_frame_belongs_to_one_run_whatever_the_order(ends: list[int], random: Any) -> None:
    vectors = counted(EnergyWindow=ends[0], Detector=ends[1], Rotation=ends[2], AngularView=ends[3])
    order = list(range(len(vectors["DetectorVector"])))
    random.shuffle(order)
    mixed = {name: [values[n] for n in order] for name, values in vectors.items()}
    found = runs(nuclear("TOMO", mixed), len(order))
    if len(order) == 1:
        assert found == ()
        return
    assert sorted(n for run in found for n in run.frames) == list(range(len(order)))
    assert len({run.name for run in found}) == len(found) == ends[0] * ends[1] * ends[2]
    for run in found:
        assert [mixed["AngularViewVector"][n] for n in run.frames] == list(range(1, ends[3] + 1))


def test_damaged_files_give_an_image_or_a_sentence(tmp_path: Path) -> None:
    where = {"ImagePositionPatient": [-10, 20, 30], "ImageOrientationPatient": [float(v) for v in (*ROW, *COLUMN)]}
    gates = items({"DataInformationSequence": items({"FrameTime": 125})})
    path, _ = saved(tmp_path, nuclear("RECON GATED TOMO", counted(RRInterval=1, TimeSlot=3, Slice=4),
                                      SpacingBetweenSlices=3.3, DetectorInformationSequence=detectors(**where),
                                      GatedInformationSequence=gates))  # fmt: skip
    whole, rng, images = path.read_bytes(), np.random.default_rng(5), 0
    header = whole.index(b"\xe0\x7f\x10\x00")
    for _ in range(250):
        content = bytearray(whole)
        at, width = int(rng.integers(132, header)), int(rng.integers(1, 5))
        content[at : at + width] = rng.bytes(width)
        path.write_bytes(bytes(content))
        for attempt in (lambda: mm.read(path), lambda: only(tmp_path).read(0)):
            try:
                images += attempt().array.size > 0
            except MedmapError:
                continue
    assert images > 100
