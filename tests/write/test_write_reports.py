"""Measurement reports: every number recomputed here, read back by our own reader, by highdicom and by dcmtk."""

from __future__ import annotations

import copy
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from scipy.spatial.distance import pdist

from dicom_sources import PATIENT, right_handed_image, written_series
from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.measure import largest_diameter_mm, plane_axes_mm
from medmap.read.dicom.contours import enclosed
from medmap.read.dicom.report import MeasurementGroup, MeasurementReport, read_report
from medmap.results import Boxes, Label, Mask, Picture, Prediction, Scores
from medmap.write import write
from medmap.write.dicom.report import measurement_report
from medmap.write.dicom.source import About, Origin, origin_of

LIVER, LESION, KIDNEY = Label("liver"), Label("my lesion", "99LAB:L1|My lesion"), Label("left kidney")
BUNDLE = "sha256:" + "0123456789abcdef" * 4
ABOUT = About(bundle=BUNDLE)
IMAGE = right_handed_image()
GRID = IMAGE.geometry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_series(tmp_path_factory.mktemp("source"), IMAGE)


@pytest.fixture(scope="module")
def origin(folder: Path) -> Origin:
    return replace(origin_of(folder), pixels=IMAGE)


def mask() -> Mask:
    array = np.random.default_rng(5).integers(0, 3, GRID.shape).astype(np.uint8)
    return Mask(array, GRID, {1: LIVER, 2: LESION, 3: KIDNEY}, calibrated=True)


def boxes() -> Boxes:
    corners = np.array([[1, 1, 2, 3, 4, 6], [0, 2, 3, 2, 5, 3], [0.5, 1.25, 4.5, 2.5, 3, 7.25]])
    return Boxes(corners, [0, 1, 0], [0.9, 0.25, 1.0], (Label("nodule"), Label("cyst")), GRID)


def scores() -> Scores:
    return Scores((Label("benign"), Label("malignant")), [0.2, 0.8], calibrated=True, decided=("malignant",))


def read_back(made: pydicom.Dataset, folder: Path) -> MeasurementReport:
    made.save_as(folder / "sr.dcm", enforce_file_format=True)
    return read_report(folder / "sr.dcm")


def numbers(group: MeasurementGroup) -> dict[tuple[str, str], tuple[float | None, str]]:
    return {(m.concept.name, m.derivation.name if m.derivation else ""): (m.value, m.unit) for m in group.measurements}


def evaluations(group: MeasurementGroup) -> dict[str, str]:
    return {e.concept.name: e.value.name for e in group.evaluations}


# -- masks -------------------------------------------------------------------------------------------------------------


def test_volume_diameter_and_values_inside(origin: Origin, tmp_path: Path) -> None:
    report = read_back(measurement_report(mask(), origin, ABOUT), tmp_path)
    assert [g.finding.code for g in report.groups] == ["SCT:10200004", "99LAB:L1", "SCT:64033007"]
    for value, group in zip((1, 2), report.groups, strict=False):
        inside = mask().array == value
        found = numbers(group)
        expected = inside.sum() * 0.7 * 1.3 * 2.9 / 1000
        assert found["Volume", ""] == (pytest.approx(expected, rel=1e-9), "ml")
        values = IMAGE.array[inside].astype(float)
        for derivation, number in (
            ("Mean", values.mean()), ("Standard Deviation", values.std()), ("Minimum", values.min()),
            ("Maximum", values.max()),
        ):  # fmt: skip
            assert found["Attenuation Coefficient", derivation] == (pytest.approx(number, rel=1e-9), "[hnsf'U]")
        assert found["Maximum 3D Diameter of a Mesh", ""][1] == "mm"
        long, short = plane_axes_mm(mask().array == value, GRID.affine_lps_mm, 2)
        assert found["Long Axis", ""] == (pytest.approx(long), "mm")
        assert found["Short Axis", ""] == (pytest.approx(short), "mm")
        assert evaluations(group) == {"Calibration of the scores": "Calibrated on cases not learned from"}


def test_the_largest_diameter_is_that_of_all_pairs() -> None:
    region = mask().array == 1
    # every midpoint between a voxel inside and its neighbour outside
    padded = np.pad(region, 1)
    points = []
    for i, j, k in np.argwhere(region):
        for a, b, c in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)):
            if not padded[i + 1 + a, j + 1 + b, k + 1 + c]:
                points.append((i + a / 2, j + b / 2, k + c / 2))
    assert largest_diameter_mm(region, GRID.affine_lps_mm) == pytest.approx(
        pdist(GRID.to_world(points)).max(), rel=1e-12
    )
    one = np.zeros(GRID.shape, np.bool_)
    one[2, 3, 4] = True
    assert largest_diameter_mm(one, GRID.affine_lps_mm) == pytest.approx(2.9)


def test_a_structure_that_was_not_found_is_stated(origin: Origin, tmp_path: Path) -> None:
    group = read_back(measurement_report(mask(), origin, ABOUT), tmp_path).groups[2]
    assert numbers(group) == {("Volume", ""): (0.0, "ml")}
    assert evaluations(group)["Presence of property"] == "Absent"
    assert [site.code for site in group.sites] == ["SCT:64033007"]  # with its side as laterality


def test_without_a_segmentation_the_outlines_stand_in_the_report(origin: Origin, tmp_path: Path) -> None:
    report = read_back(measurement_report(mask(), origin, ABOUT), tmp_path)
    places = {str(i.SOPInstanceUID): np.array(i.ImagePositionPatient, float) for i in origin.images}
    for value, group in zip((1, 2), report.groups, strict=False):
        found = np.zeros(GRID.shape, np.uint8)
        for region in group.regions:
            assert region.graphic_type == "POLYLINE"
            assert region.image is not None
            k = GRID.to_index(places[region.image.sop_instance_uid][None])[0, 2]
            assert abs(k - round(k)) < 1e-6
            # column and row, 0.5 at the centre of the first pixel
            found[:, :, round(k)] ^= enclosed(region.points[:-1, ::-1] - 0.5, GRID.shape[:2])
        assert np.array_equal(found, mask().array == value)


def test_with_its_segmentation_the_report_refers_to_segments(folder: Path, tmp_path: Path) -> None:
    segmentation = write(mask(), tmp_path / "seg.dcm", "dicom-seg", source=folder, about=ABOUT)
    about = replace(ABOUT, segmentation=segmentation)
    report = read_report(write(mask(), tmp_path / "sr.dcm", "dicom-sr", source=folder, about=about))
    seg = pydicom.dcmread(segmentation)
    labels = {int(s.SegmentNumber): s for s in seg.SegmentSequence}
    for group in report.groups[:2]:
        (reference,) = group.segments
        assert reference.sop_instance_uid == seg.SOPInstanceUID
        segment = labels[reference.segments[0]]
        assert segment.SegmentLabel == group.tracking_id
        assert segment.TrackingUID == group.tracking_uid
        assert group.regions == ()
    assert seg.SOPInstanceUID in report.evidence
    assert ("Attenuation Coefficient", "Mean") not in numbers(report.groups[0])  # no pixels were given


def test_an_image_on_another_grid_is_not_measured(origin: Origin, tmp_path: Path) -> None:
    other = replace(origin, pixels=IMAGE.moved(*IMAGE.geometry.oriented("RAS")))
    report = read_back(measurement_report(mask(), other, ABOUT), tmp_path)
    assert ("Attenuation Coefficient", "Mean") not in numbers(report.groups[0])


# -- boxes and scores --------------------------------------------------------------------------------------------------


def test_boxes_lie_where_they_were_found(origin: Origin, tmp_path: Path) -> None:
    report = read_back(measurement_report(boxes(), origin, ABOUT), tmp_path)
    assert [g.finding.name for g in report.groups] == ["Nodule", "Cyst", "Nodule"]
    assert len({g.tracking_uid for g in report.groups}) == 3
    for i, group in enumerate(report.groups):
        found = numbers(group)
        sizes = (boxes().corners[i, 3:] - boxes().corners[i, :3] + 1) * (0.7, 1.3, 2.9)
        for name, size in zip(("Height", "Width", "Depth"), sizes, strict=True):
            assert found[name, ""] == (pytest.approx(size), "mm")
        assert found["Certainty of Finding", ""] == (pytest.approx(boxes().scores[i] * 100), "%")
        assert evaluations(group) == {"Calibration of the scores": "Not calibrated"}
        corners = np.concatenate([region.points for region in group.regions])
        assert {region.frame_of_reference for region in group.regions} == {"1.2.3"}
        index = GRID.to_index(corners)
        low, high = boxes().corners[i, :3] - (0.5, 0.5, 0), boxes().corners[i, 3:] + (0.5, 0.5, 0)
        assert np.abs(index.min(axis=0) - low).max() < 1e-4  # coordinates in a report are 32-bit numbers
        assert np.abs(index.max(axis=0) - high).max() < 1e-4
        assert {r.graphic_type for r in group.regions} == {"POLYGON"}


def test_scores_as_probability_and_presence(origin: Origin, tmp_path: Path) -> None:
    report = read_back(measurement_report(scores(), origin, ABOUT), tmp_path)
    benign, malignant = report.groups
    assert (benign.measured("Probability"), malignant.measured("Probability")) == (0.2, 0.8)
    assert evaluations(benign)["Presence of property"] == "Absent"
    assert evaluations(malignant) == {
        "Presence of property": "Present", "Calibration of the scores": "Calibrated on cases not learned from"
    }  # fmt: skip
    left = replace(scores(), abstained=True, calibrated=False, decided=())
    groups = read_back(measurement_report(left, origin, ABOUT), tmp_path).groups
    assert [evaluations(g) for g in groups] == [
        {"Presence of property": "Presence Undetermined", "Calibration of the scores": "Not calibrated"}
    ] * 2
    predicted = Scores((Label("age"),), [63.5], kind="regression")
    (group,) = read_back(measurement_report(predicted, origin, ABOUT), tmp_path).groups
    assert group.measured("Predicted value") == 63.5
    assert group.evaluations == ()


def test_a_whole_prediction_names_its_bundle_patient_and_evidence(folder: Path, tmp_path: Path) -> None:
    prediction = Prediction("c1", {"mask": mask(), "boxes": boxes(), "class": scores()}, {"image": GRID}, BUNDLE)
    path = write(prediction, tmp_path / "sr.dcm", "dicom-sr", source=folder)
    report = read_report(path)
    assert len(report.groups) == 3 + 3 + 2
    (device,) = report.devices
    assert (device["name"], device["manufacturer"], device["serial"]) == ("medmap", "medmap", BUNDLE)
    assert {g.algorithm.partition(" ")[0] for g in report.groups} == {"medmap"}
    assert [p.code for p in report.procedures] == ["LN:25045-6"]
    origin = origin_of(folder)
    assert set(report.evidence) == {str(i.SOPInstanceUID) for i in origin.images}
    assert report.is_complete
    assert not report.is_verified
    data = pydicom.dcmread(path)
    assert (str(data.PatientName), data.StudyInstanceUID) == (PATIENT, origin.first.StudyInstanceUID)
    assert data.PreliminaryFlag == "PRELIMINARY"


def test_the_study_says_what_was_done(origin: Origin, tmp_path: Path) -> None:
    images = copy.deepcopy(list(origin.images))
    images[0].ProcedureCodeSequence = [hd.sr.CodedConcept("24627-2", "LN", "CT Chest")]
    report = read_back(measurement_report(scores(), replace(origin, images=tuple(images)), ABOUT), tmp_path)
    assert [p.code for p in report.procedures] == ["LN:24627-2"]


# -- other readers -----------------------------------------------------------------------------------------------------


def test_highdicom_reads_it(folder: Path, tmp_path: Path) -> None:
    prediction = Prediction("c1", {"mask": mask(), "boxes": boxes(), "class": scores()}, {"image": GRID}, BUNDLE)
    content = hd.sr.srread(write(prediction, tmp_path / "sr.dcm", "dicom-sr", source=folder)).content
    volumetric = content.get_volumetric_roi_measurement_groups()
    assert len(volumetric) == 2 + 2  # two structures found, two boxes of several slices
    assert len(content.get_planar_roi_measurement_groups()) == 1
    volume = volumetric[0].get_measurements(hd.sr.CodedConcept("118565006", "SCT", "Volume"))[0]
    assert volume.value == pytest.approx((mask().array == 1).sum() * 0.7 * 1.3 * 2.9 / 1000)
    assert volume.unit.value == "ml"
    surface = volumetric[2].roi
    points = np.concatenate([np.asarray(p) for p in surface.graphic_data])
    assert np.abs(GRID.to_index(points).min(axis=0) - (0.5, 0.5, 2)).max() < 1e-4


def test_dcmtk_reads_it(folder: Path, tmp_path: Path, tool) -> None:
    prediction = Prediction("c1", {"mask": mask(), "boxes": boxes()}, {"image": GRID}, BUNDLE)
    path = write(prediction, tmp_path / "sr.dcm", "dicom-sr", source=folder)
    said = subprocess.run([tool("dsrdump"), "+Pl", str(path)], capture_output=True, text=True, check=True).stdout
    volumes = [float(v) for v in re.findall(r'"Volume"\)="([^"]+)" \(ml,UCUM', said)]
    assert volumes == pytest.approx([(mask().array == n).sum() * 0.7 * 1.3 * 2.9 / 1000 for n in (1, 2, 3)])
    polygons = re.findall(r'"Volume Surface"\)=\(POLYGON,,([^)]*)\)', said)
    rows = np.array([[p.split("/") for p in polygon.split(",")] for polygon in polygons], float)
    index = GRID.to_index(rows.reshape(-1, 3)).reshape(rows.shape)
    assert np.abs(index[0].min(axis=0) - (0.5, 0.5, 2)).max() < 1e-4
    assert np.abs(index[0].max(axis=0) - (3.5, 4.5, 2)).max() < 1e-4


def test_the_validator_finds_no_error(folder: Path, tmp_path: Path, tool) -> None:
    prediction = Prediction("c1", {"mask": mask(), "boxes": boxes(), "class": scores()}, {"image": GRID}, BUNDLE)
    segmentation = write(mask(), tmp_path / "seg.dcm", "dicom-seg", source=folder)
    for number, about in enumerate((About(), About(segmentation=segmentation))):
        path = write(prediction, tmp_path / f"{number}.dcm", "dicom-sr", source=folder, about=about)
        result = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        said = result.stdout + result.stderr
        assert "Comprehensive3DSR" in said
        assert "Error" not in said, said


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals(folder: Path, origin: Origin, tmp_path: Path) -> None:
    elsewhere = replace(GRID, frame_of_reference="9.9")
    for output in (replace(mask(), geometry=elsewhere), replace(boxes(), geometry=elsewhere)):
        with pytest.raises(GeometryError, match="different frames of reference"):
            measurement_report(output, origin, ABOUT)
    nowhere = Geometry.without_size(GRID.shape)
    for output in (replace(mask(), geometry=nowhere), replace(boxes(), geometry=nowhere)):
        with pytest.raises(GeometryError, match="place in the patient"):
            measurement_report(output, origin, ABOUT)
    with pytest.raises(UsageError, match="holds masks, boxes and scores"):
        measurement_report(Prediction("c", {"picture": Picture(IMAGE)}), origin, ABOUT)
    half = GRID.resampled((5, 7, 22))
    with pytest.raises(GeometryError, match="does not lie"):
        measurement_report(Mask(np.ones(half.shape, np.uint8), half, {1: LIVER}), origin, ABOUT)


def test_a_segmentation_of_something_else_is_refused(folder: Path, origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no segmentation"):
        measurement_report(mask(), origin, ABOUT, next(folder.iterdir()))
    with pytest.raises(DataError, match="cannot be read"):
        measurement_report(mask(), origin, ABOUT, tmp_path / "none.dcm")
    other = written_series(tmp_path / "other", IMAGE)
    segmentation = write(mask(), tmp_path / "other.dcm", "dicom-seg", source=other)
    with pytest.raises(DataError, match="another series"):
        measurement_report(mask(), origin, ABOUT, segmentation)
    own = pydicom.dcmread(write(mask(), tmp_path / "own.dcm", "dicom-seg", source=folder))
    with pytest.raises(DataError, match="no segment for spleen"):
        measurement_report(Mask(mask().array, GRID, {1: Label("spleen")}), origin, ABOUT, own)
    own.FrameOfReferenceUID = "9.9"
    with pytest.raises(GeometryError, match="another frame of reference"):
        measurement_report(mask(), origin, ABOUT, own)
