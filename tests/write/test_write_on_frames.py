"""Structure sets, reports and presentation states of a multi-frame source: each place names its frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_sources import right_handed_image, written_series
from medmap.read.dicom.contours import enclosed, rasterised
from medmap.read.dicom.report import read_report
from medmap.read.dicom.structures import read_structures
from medmap.results import Boxes, Label, Mask
from medmap.write import write

IMAGE = right_handed_image()
GRID = IMAGE.geometry
MASK = Mask(np.random.default_rng(4).integers(0, 2, GRID.shape).astype(np.uint8), GRID, {1: Label("liver")})


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enhanced")
    written_series(folder / "source", IMAGE)
    return write(IMAGE, folder / "many.dcm", "dicom-enhanced", source=folder / "source")


def heights(path: Path) -> dict[int, int]:
    """Slice of the grid by frame number, from the position alone."""
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    found = {}
    for number, group in enumerate(groups, 1):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        found[number] = round(GRID.to_index(place[None])[0, 2])
    return found


def test_a_structure_set(enhanced: Path, tmp_path: Path) -> None:
    path = write(MASK, tmp_path / "rt.dcm", "dicom-rtstruct", source=enhanced)
    assert np.array_equal(rasterised(read_structures(path), GRID).array, MASK.array)
    frames = heights(enhanced)
    assert sorted(frames.values()) == list(range(GRID.shape[2]))
    for contour in pydicom.dcmread(path).ROIContourSequence[0].ContourSequence:
        place = np.array(contour.ContourData, float).reshape(-1, 3)
        k = round(GRID.to_index(place)[0, 2])
        assert frames[contour.ContourImageSequence[0].ReferencedFrameNumber] == k


def test_a_report(enhanced: Path, tmp_path: Path) -> None:
    (group,) = read_report(write(MASK, tmp_path / "sr.dcm", "dicom-sr", source=enhanced)).groups
    frames = heights(enhanced)
    found = np.zeros(GRID.shape, np.bool_)
    for region in group.regions:
        (frame,) = region.image.frames
        found[:, :, frames[frame]] ^= enclosed(region.points[:-1, ::-1] - 0.5, GRID.shape[:2])
    assert np.array_equal(found, MASK.array == 1)


def test_a_presentation_state(enhanced: Path, tmp_path: Path) -> None:
    boxes = Boxes(np.array([[1, 1, 2, 3, 4, 4.0]]), [0], [0.5], (Label("cyst"),), GRID)
    state = pydicom.dcmread(write(boxes, tmp_path / "pr.dcm", "dicom-gsps", source=enhanced))
    frames = heights(enhanced)
    referred = [a.ReferencedImageSequence[0].ReferencedFrameNumber for a in state.GraphicAnnotationSequence]
    assert sorted(frames[f] for f in referred) == [2, 3, 4]


def test_a_radiograph_takes_boxes_and_outlines(shared_data: Path, tmp_path: Path) -> None:
    from medmap.read import read

    image = read(shared_data / "dicom/highdicom/dx_image.dcm")
    array = np.zeros(image.geometry.shape, np.uint8)
    array[3:7, 5:9] = 1
    mask = Mask(array, image.geometry, {1: Label("nodule")})
    state = pydicom.dcmread(write(mask, tmp_path / "pr.dcm", "dicom-gsps", source=image))
    (annotation,) = state.GraphicAnnotationSequence
    line = np.array(annotation.GraphicObjectSequence[0].GraphicData, float).reshape(-1, 2)
    assert np.array_equal(enclosed(line[:-1, ::-1] - 0.5, array.shape), array == 1)
