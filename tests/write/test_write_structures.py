"""RT structure sets: written, read back by our own code, by pydicom and by dcmtk, voxel by voxel in millimetres."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline

from dicom_sources import PATIENT, right_handed_image, written_series
from medmap.errors import DataError, GeometryError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.read.dicom.contours import enclosed, rasterised
from medmap.read.dicom.structures import read_structures
from medmap.results import Label, Mask
from medmap.write import write
from medmap.write.dicom.outlines import keyholed, outlined
from medmap.write.dicom.source import About, origin_of
from medmap.write.dicom.structures import millimetres, structure_set

LIVER, LESION = Label("liver"), Label("my lesion", "99LAB:L1|My lesion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_series(tmp_path_factory.mktemp("source"), right_handed_image())


def random_mask(seed: int = 1) -> Mask:
    image = right_handed_image()
    array = np.random.default_rng(seed).integers(0, 3, image.geometry.shape).astype(np.uint8)
    return Mask(array, image.geometry, {1: LIVER, 2: LESION})


def with_holes() -> Mask:
    """On a larger oblique grid: a ring, an island in its hole, a hole that touches another at a corner."""
    geometry = Geometry((12, 14, 3), right_handed_image().geometry.affine_lps_mm, frame_of_reference="1.2.3")
    array = np.zeros(geometry.shape, np.uint8)
    array[1:11, 1:12] = 1
    array[3:9, 3:9] = 0
    array[5:7, 5:7] = 1
    array[9, 10, 1] = array[8, 9, 1] = 0
    return Mask(array, geometry, {1: LIVER})


# -- outlines ----------------------------------------------------------------------------------------------------------


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_filling_the_outlines_gives_the_region(plane: np.ndarray) -> None:
    keyholes, apart = np.zeros_like(plane), np.zeros_like(plane)
    for area in outlined(plane):
        keyholes ^= enclosed(keyholed(area), plane.shape)
        for line in area:
            apart ^= enclosed(line, plane.shape)
    assert np.array_equal(keyholes, plane)
    assert np.array_equal(apart, plane)


def test_outlines_pass_midway_and_keep_no_point_on_a_straight_way() -> None:
    plane = np.zeros((6, 9), np.bool_)
    plane[2:4, 3:8] = True
    ((line,),) = outlined(plane)
    assert {tuple(p) for p in line.tolist()} == {
        (1.5, 3), (1.5, 7), (2, 7.5), (3, 7.5), (3.5, 7), (3.5, 3), (3, 2.5), (2, 2.5)
    }  # fmt: skip


def test_decimal_strings_fit_and_keep_nanometres() -> None:
    for value in (-123.45678901234, 9999.123456789, -99999.123456789123, 1e-12, 0.1 + 0.2):
        assert len(millimetres(value)) <= 16
        assert float(millimetres(value)) == pytest.approx(value, abs=1e-6)


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [random_mask(), with_holes()], ids=["noise", "holes"])
def test_the_mask_comes_back_voxel_by_voxel(mask: Mask, tmp_path: Path) -> None:
    image = Image(np.zeros(mask.geometry.shape, np.int16), mask.geometry, "HU")
    written_series(tmp_path / "source", image)
    path = write(mask, tmp_path / "rt.dcm", "dicom-rtstruct", source=tmp_path / "source")
    structures = read_structures(path)
    back = rasterised(structures, mask.geometry)
    assert np.array_equal(back.array, mask.array)
    assert structures.warnings == ()
    assert [roi.name for roi in structures.rois] == [label.name for label in mask.labels.values()]
    # every vertex midway between two voxel centres of one slice, in millimetres
    for roi in structures.rois:
        for contour in roi.contours:
            index = mask.geometry.to_index(contour.points_mm)
            assert np.abs(index[:, :2] * 2 - np.rint(index[:, :2] * 2)).max() < 1e-7
            assert np.abs(index[:, 2] - np.rint(index[:, 2])).max() < 1e-7
            assert len(set(np.rint(index[:, 2]))) == 1


@pytest.mark.parametrize("flips", [(0,), (1, 2), (0, 1, 2)])
def test_a_mask_in_another_order_of_axes_lands_on_the_same_places(folder: Path, flips: tuple[int, ...]) -> None:
    mask = random_mask()
    geometry = mask.geometry.flip(flips).permute((2, 0, 1))
    turned = Mask(np.flip(mask.array, flips).transpose(2, 0, 1), geometry, mask.labels)
    origin = origin_of(folder)
    back = rasterised(_read(structure_set(turned, origin, About()), folder.parent), mask.geometry)
    assert np.array_equal(back.array, mask.array)
    also = rasterised(_read(structure_set(mask, origin, About()), folder.parent), geometry)
    assert np.array_equal(also.array, turned.array)


def _read(data: pydicom.Dataset, folder: Path):
    data.save_as(folder / "one.dcm", enforce_file_format=True)
    return read_structures(folder / "one.dcm")


def test_a_cropped_mask_lands_on_its_place(folder: Path) -> None:
    mask = random_mask()
    part = Mask(mask.array[1:4, 2:6, 3:8], mask.geometry.crop((1, 2, 3), (3, 4, 5)), mask.labels)
    whole = np.zeros(mask.geometry.shape, np.uint8)
    whole[1:4, 2:6, 3:8] = part.array
    back = rasterised(_read(structure_set(part, origin_of(folder), About()), folder.parent), mask.geometry)
    assert np.array_equal(back.array, whole)


def test_overlapping_regions_and_an_empty_one(folder: Path) -> None:
    mask = random_mask()
    both = np.stack([mask.array > 0, mask.array == 1, np.zeros(mask.array.shape, np.bool_)], axis=-1)
    overlapping = Mask(both, mask.geometry, {3: LIVER, 7: LESION, 9: Label("cyst")})
    structures = _read(structure_set(overlapping, origin_of(folder), About()), folder.parent)
    assert [(roi.number, len(roi.contours) > 0) for roi in structures.rois] == [(3, True), (7, True), (9, False)]
    back = rasterised(structures, mask.geometry)
    assert list(back.labels) == [3, 7]
    assert np.array_equal(back.array, both[..., :2])


def test_what_the_file_says(folder: Path, tmp_path: Path) -> None:
    mask, origin = random_mask(), origin_of(folder)
    about = About(title="Plan of a test", bundle="sha256:" + "0123456789abcdef" * 4)
    data = structure_set(mask, origin, about, {2: "GTV"})
    data.save_as(tmp_path / "rt.dcm", enforce_file_format=True)
    read = pydicom.dcmread(tmp_path / "rt.dcm")
    assert str(read.PatientName) == PATIENT
    assert (read.PatientID, read.StudyInstanceUID) == (origin.first.PatientID, origin.first.StudyInstanceUID)
    assert read.FrameOfReferenceUID == "1.2.3"
    assert (read.Manufacturer, read.DeviceSerialNumber) == ("medmap", "0123456789abcdef")
    assert [o.RTROIInterpretedType for o in read.RTROIObservationsSequence] == ["ORGAN", "GTV"]
    codes = [o.RTROIIdentificationCodeSequence[0] for o in read.RTROIObservationsSequence]
    assert [(c.CodingSchemeDesignator, c.CodeValue) for c in codes] == [("SCT", "10200004"), ("99LAB", "L1")]
    series = read.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    referred = {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence}
    assert referred == {image.SOPInstanceUID for image in origin.images}
    # a contour refers to the instance whose position it has
    places = {i.SOPInstanceUID: np.array(i.ImagePositionPatient, float) for i in origin.images}
    normal = np.cross(*np.reshape(np.array(origin.first.ImageOrientationPatient, float), (2, 3)))
    for roi in read.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            place = places[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert np.abs((points - place) @ normal).max() < 1e-6
    volumes = [float(roi.ROIVolume) for roi in read.StructureSetROISequence]
    voxel = mask.geometry.voxel_volume_mm3 / 1000
    assert volumes == pytest.approx([(mask.array == n).sum() * voxel for n in (1, 2)])


def test_a_long_contour_survives(tmp_path: Path) -> None:
    """More than 65,534 bytes of coordinates have no place in explicit VR."""
    geometry = Geometry((64, 64, 1), right_handed_image().geometry.affine_lps_mm, frame_of_reference="1.2.3")
    array = (np.random.default_rng(0).random(geometry.shape) < 0.7).astype(np.uint8)
    mask = Mask(array, geometry, {1: LIVER})
    written_series(tmp_path / "source", Image(np.zeros(geometry.shape, np.int16), geometry, "HU"))
    path = write(mask, tmp_path / "rt.dcm", "dicom-rtstruct", source=tmp_path / "source")
    longest = max(len(c.points_mm) for c in read_structures(path).rois[0].contours)
    assert longest * 3 * 12 > 65534
    assert np.array_equal(rasterised(read_structures(path), geometry).array, array)


# -- other readers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [random_mask(), with_holes()], ids=["noise", "holes"])
def test_dcmtk_and_matplotlib_find_the_same_voxels(mask: Mask, tmp_path: Path, tool) -> None:
    written_series(tmp_path / "source", Image(np.zeros(mask.geometry.shape, np.int16), mask.geometry, "HU"))
    path = write(mask, tmp_path / "rt.dcm", "dicom-rtstruct", source=tmp_path / "source")
    text = subprocess.run([tool("dcm2xml"), str(path)], capture_output=True, check=True).stdout
    root = ElementTree.fromstring(text)  # noqa: S314  (our own file, through dcmtk)
    grid = mask.geometry
    for roi in root.findall(".//sequence[@tag='3006,0039']/item"):
        number = int(roi.find("element[@tag='3006,0084']").text)
        found = np.zeros(grid.shape, np.bool_)
        for data in roi.findall(".//element[@tag='3006,0050']"):
            index = grid.to_index(np.array(data.text.split("\\"), float).reshape(-1, 3))
            k = round(float(index[0, 2]))
            centres = np.argwhere(np.ones(grid.shape[:2]))
            inside = Outline(index[:, :2]).contains_points(centres).reshape(grid.shape[:2])
            found[:, :, k] ^= inside
        assert np.array_equal(grid.to_world(np.argwhere(found)), grid.to_world(np.argwhere(mask.array == number)))


def test_the_validator_finds_no_error(folder: Path, tmp_path: Path, tool) -> None:
    path = write(random_mask(), tmp_path / "rt.dcm", "dicom-rtstruct", source=folder)
    result = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert "RTStructureSet" in said
    assert "Error" not in said, said


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals(folder: Path) -> None:
    mask, origin = random_mask(), origin_of(folder)
    elsewhere = Mask(mask.array, replace(mask.geometry, frame_of_reference="9.9"), mask.labels)
    with pytest.raises(GeometryError, match="different frames of reference"):
        structure_set(elsewhere, origin, About())
    with pytest.raises(DataError, match="no label"):
        structure_set(Mask(mask.array * 0, mask.geometry, {}), origin, About())
    with pytest.raises(DataError, match="interpreted type"):
        structure_set(mask, origin, About(), {1: "LIVER"})
    with pytest.raises(GeometryError, match="patient's space"):
        structure_set(Mask(mask.array, Geometry.without_size(mask.array.shape), mask.labels), origin, About())
    tilted = mask.geometry.affine_lps_mm.copy()
    tilted[:3, 2] += (1.0, 0.5, 0)
    with pytest.raises(GeometryError, match=r"no image|does not lie"):
        structure_set(Mask(mask.array, replace(mask.geometry, affine_lps_mm=tilted), mask.labels), origin, About())


def test_a_source_without_a_slice_of_the_mask_is_refused(tmp_path: Path) -> None:
    written_series(tmp_path / "source", right_handed_image())
    next(iter(sorted((tmp_path / "source").iterdir()))).unlink()
    mask = random_mask()
    full = Mask(np.ones_like(mask.array), mask.geometry, {1: LIVER})
    with pytest.raises(GeometryError, match="no image"):
        structure_set(full, origin_of(tmp_path / "source"), About())
