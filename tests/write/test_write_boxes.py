"""Boxes in DICOM: only what is called, where it lies, known by one name in report and segmentation; read by others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_sources import right_handed_image, world_points, written_series
from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.read import read
from medmap.read.dicom.report import read_report
from medmap.read.dicom.segmentation import read_segmentation
from medmap.results import Boxes, Label, Prediction
from medmap.write import write
from medmap.write.dicom.boxed import box_regions, findings, not_found
from medmap.write.dicom.report import measurement_report
from medmap.write.dicom.source import About, Origin, origin_of

IMAGE = right_handed_image()
GRID = IMAGE.geometry
NODULE, CYST = Label("nodule"), Label("my cyst", "99LAB:C1|My cyst")
ROWS = [[1, 1, 2, 3, 4, 6], [0, 2, 8, 2, 5, 8], [0, 0, 0, 4, 6, 10], [2, 3, 4, 4, 6, 7.0]]


def boxes(labels: tuple[int, ...] = (0, 1, 1, 0), thresholds: tuple[float, ...] = (0.5, 0.4)) -> Boxes:
    """The third is below its class's threshold; the first and the fourth overlap."""
    return Boxes(np.array(ROWS), labels, [0.9, 0.75, 0.1, 0.5], (NODULE, CYST), GRID, True, thresholds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_series(tmp_path_factory.mktemp("source"), IMAGE)


@pytest.fixture(scope="module")
def origin(folder: Path) -> Origin:
    return origin_of(folder)


def inside(row: list[float]) -> np.ndarray:
    mask = np.zeros(GRID.shape, np.bool_)
    mask[tuple(slice(int(a), int(b) + 1) for a, b in zip(row[:3], row[3:], strict=True))] = True
    return mask


def validated(path: Path, program: str, kind: str) -> None:
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=60)
    said = done.stdout + done.stderr
    assert kind in said
    assert "Error" not in said, said


def test_a_report_holds_what_is_called_and_from_which_score_on(folder: Path, tmp_path: Path) -> None:
    path = write(boxes(), tmp_path / "sr.dcm", "dicom-sr", source=folder)
    report = read_report(path)
    assert [g.tracking_id for g in report.groups] == ["nodule 1", "my cyst 2", "nodule 3"]
    assert [g.measured("Certainty of Finding") for g in report.groups] == pytest.approx([90, 75, 50])
    for group, row in zip(report.groups, (0, 1, 3), strict=True):
        index = GRID.to_index(np.concatenate([region.points for region in group.regions]))
        low, high = np.array(ROWS[row]).reshape(2, 3)
        assert np.abs(index.min(axis=0) - low + (0.5, 0.5, 0)).max() < 1e-4
        assert np.abs(index.max(axis=0) - high - (0.5, 0.5, 0)).max() < 1e-4
        slices = {round(float(k)) for k in index[:, 2]}
        assert slices == set(range(int(ROWS[row][2]), int(ROWS[row][5]) + 1))
    said = " ".join(str(item.value) for item in pydicom.dcmread(path).iterall() if item.keyword == "TextValue")
    assert "nodule: reported from a score of 0.5 on" in said
    groups = hd.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 2  # one lies in a single slice
    assert {g.tracking_identifier for g in groups} == {"nodule 1", "nodule 3"}


def test_a_class_of_which_nothing_is_called_is_absent(origin: Origin, folder: Path, tmp_path: Path) -> None:
    none = replace(boxes(), thresholds=(0.95, 0.95))
    report = read_report(write(none, tmp_path / "sr.dcm", "dicom-sr", source=folder))
    assert [g.tracking_id for g in report.groups] == ["nodule", "my cyst"]
    for group in report.groups:
        assert [(e.concept.name, e.value.name) for e in group.evaluations] == [("Presence of property", "Absent")]
        assert group.regions == ()
    assert [label.name for label in not_found(replace(boxes(), thresholds=(0.5, 0.95)))] == ["my cyst"]
    with pytest.raises(UsageError, match="holds masks, boxes and scores"):
        measurement_report(Prediction("c", {}), origin, About())


def test_a_presentation_state_draws_what_is_called(folder: Path, tmp_path: Path) -> None:
    state = pydicom.dcmread(write(boxes(), tmp_path / "pr.dcm", "dicom-gsps", source=folder))
    texts = [a.TextObjectSequence[0].UnformattedTextValue for a in state.GraphicAnnotationSequence]
    assert sorted(set(texts)) == ["my cyst 0.75", "nodule 0.50", "nodule 0.90"]
    assert texts.count("nodule 0.90") == 5  # slices 2 to 6
    with pytest.raises(DataError, match="no box is called"):
        write(replace(boxes(), thresholds=(1.0, 1.0)), tmp_path / "no.dcm", "dicom-gsps", source=folder)


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (0, 1)])
def test_each_called_box_is_a_segment_known_as_in_the_report(
    folder: Path, tmp_path: Path, rows: tuple[int, ...]
) -> None:
    """With rows 0 and 3 boxes overlap, and each still has all its voxels."""
    some = boxes().taken(np.array(rows))
    path = write(Prediction("c", {"boxes": some}), tmp_path / "seg.dcm", "dicom-seg", source=folder)
    report = read_report(write(Prediction("c", {"boxes": some}), tmp_path / "sr.dcm", "dicom-sr", source=folder))
    seg = hd.seg.segread(path)
    called = [row for row in rows if row != 2]
    assert [s.SegmentLabel for s in seg.SegmentSequence] == [g.tracking_id for g in report.groups]
    assert [s.TrackingUID for s in seg.SegmentSequence] == [g.tracking_uid for g in report.groups]
    assert [s.SegmentDescription for s in seg.SegmentSequence] == [
        f"Box, score {boxes().scores[row]:.3f}" for row in called
    ]
    assert seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue == "C1"
    back = read_segmentation(path, on=GRID)
    for number, row in enumerate(called):
        found = back.array[..., number] if back.array.dtype == np.bool_ else back.array == number + 1
        assert np.array_equal(found, inside(ROWS[row]))


def test_the_segmentation_of_no_box_says_what_was_looked_for(folder: Path, tmp_path: Path) -> None:
    none = replace(boxes(), thresholds=(0.95, 0.95))
    seg = pydicom.dcmread(write(none, tmp_path / "seg.dcm", "dicom-seg", source=folder))
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["nodule", "my cyst"]
    assert all("no voxel of it was found" in s.SegmentDescription for s in seg.SegmentSequence)
    assert not read_segmentation(tmp_path / "seg.dcm").array.any()


def test_the_validator_finds_no_error(folder: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    for number, some in enumerate((boxes(), boxes().taken(np.array([0, 1])), replace(boxes(), thresholds=(1.0, 1.0)))):
        for format, kind in (("dicom-sr", "Comprehensive3DSR"), ("dicom-seg", "Segmentation")):
            path = write(some, tmp_path / f"{number}.{format}.dcm", format, source=folder)
            validated(path, tool("dciodvfy"), kind)
    path = write(boxes(), tmp_path / "pr.dcm", "dicom-gsps", source=folder)
    validated(path, tool("dciodvfy"), "GrayscaleSoftcopyPresentationState")


corner = st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 10))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(corner, corner), min_size=1, max_size=5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_regions_are_the_voxels_of_the_boxes_that_are_called(
    ends: list[tuple[tuple[int, ...], tuple[int, ...]]], called: list[bool]
) -> None:
    low, high = (np.array([pick(np.array(a), np.array(b)) for a, b in ends]) for pick in (np.minimum, np.maximum))
    scores = [0.75 if called[n] else 0.25 for n in range(len(ends))]
    some = Boxes(np.concatenate([low, high], axis=1), [0] * len(ends), scores, (NODULE,), GRID, thresholds=(0.5,))
    mask = box_regions(some)
    assert len(mask.labels) == max(1, sum(called[: len(ends)]))
    wanted = [n for n in range(len(ends)) if called[n]]
    for number, n in enumerate(wanted):
        region = mask.array[..., number] if mask.array.dtype == np.bool_ else mask.array == number + 1
        expected = world_points(inside([*low[n], *high[n]]), GRID)
        assert np.abs(world_points(region, mask.geometry) - expected).max() < 1e-9
    if not wanted:
        assert not mask.array.any()


def test_findings_of_one_series_are_told_apart() -> None:
    twice = boxes().taken(np.array([0, 0, 1]))
    known = [f.tracking_uid for f in findings(twice, "1.2", About())]
    assert len(set(known)) == 3
    assert known == [f.tracking_uid for f in findings(twice, "1.2", About())]
    assert not set(known) & {f.tracking_uid for f in findings(twice, "1.3", About())}


def test_a_radiograph_s_boxes_lie_on_its_pixels(shared_data: Path, tmp_path: Path) -> None:
    image = read(shared_data / "dicom/highdicom/dx_image.dcm")
    found = Boxes(np.array([[3, 5, 6, 8.0]]), [0], [0.8], (NODULE,), image.geometry)
    (group,) = read_report(write(found, tmp_path / "sr.dcm", "dicom-sr", source=image)).groups
    (region,) = group.regions
    assert region.graphic_type == "POLYLINE"
    assert [*region.points.min(axis=0), *region.points.max(axis=0)] == [5, 3, 9, 7]  # columns and rows, outer edges
    assert group.measured("Certainty of Finding") == pytest.approx(80)
    other = replace(found, geometry=Geometry.without_size((4 * image.geometry.shape[0], 9)))
    with pytest.raises(GeometryError, match="place in the patient"):
        write(other, tmp_path / "no.dcm", "dicom-sr", source=image)
