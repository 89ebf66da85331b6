"""Presentation states: lines on the right images, at the right pixels, the window kept."""

from __future__ import annotations

import copy
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_sources import PATIENT, right_handed_image, written_series
from medmap.errors import DataError, GeometryError, UsageError
from medmap.read.dicom.contours import enclosed
from medmap.results import Boxes, Label, Mask, Prediction, Scores
from medmap.write import write
from medmap.write.dicom.presentation import presentation_state
from medmap.write.dicom.source import About, Origin, origin_of

IMAGE = right_handed_image()
GRID = IMAGE.geometry
LABELS = {1: Label("liver"), 2: Label("lesion")}
MASK = Mask(np.random.default_rng(3).integers(0, 3, GRID.shape).astype(np.uint8), GRID, LABELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = written_series(tmp_path_factory.mktemp("source"), IMAGE)
    for path in folder.iterdir():  # a window, as scanners state it
        data = pydicom.dcmread(path)
        data.WindowCenter, data.WindowWidth = "40", "400"
        data.save_as(path)
    return folder


def places(origin: Origin) -> dict[str, int]:
    """Slice of the grid by SOP Instance UID, from the position alone."""
    found = {}
    for image in origin.images:
        index = GRID.to_index(np.array(image.ImagePositionPatient, float)[None])[0]
        assert np.abs(index - np.rint(index)).max() < 1e-6
        found[str(image.SOPInstanceUID)] = round(index[2])
    return found


def lines(annotation: pydicom.Dataset) -> list[np.ndarray]:
    """Row and column at pixel centres, as 0, 0 is the outer corner (PS3.3 C.10.5)."""
    return [np.array(o.GraphicData, float).reshape(-1, 2)[:, ::-1] - 0.5 for o in annotation.GraphicObjectSequence]


def test_outlines_enclose_the_mask_on_the_slices_they_refer_to(folder: Path, tmp_path: Path) -> None:
    state = pydicom.dcmread(write(MASK, tmp_path / "pr.dcm", "dicom-gsps", source=folder))
    slices = places(origin_of(folder))
    layers = {layer.GraphicLayer: layer.GraphicLayerDescription for layer in state.GraphicLayerSequence}
    assert list(layers.values()) == ["liver", "lesion"]
    found = np.zeros((*GRID.shape, 2), np.bool_)
    for annotation in state.GraphicAnnotationSequence:
        (image,) = annotation.ReferencedImageSequence
        channel = ["liver", "lesion"].index(layers[annotation.GraphicLayer])
        assert annotation.TextObjectSequence[0].UnformattedTextValue == layers[annotation.GraphicLayer]
        for line in lines(annotation):
            assert np.array_equal(line[0], line[-1])
            found[:, :, slices[image.ReferencedSOPInstanceUID], channel] ^= enclosed(line[:-1], GRID.shape[:2])
    assert np.array_equal(found[..., 0], MASK.array == 1)
    assert np.array_equal(found[..., 1], MASK.array == 2)


def test_the_window_rescale_and_patient_are_kept(folder: Path) -> None:
    origin = origin_of(folder)
    state = presentation_state(MASK, origin, About(bundle="sha256:" + "0" * 64))
    window = state.SoftcopyVOILUTSequence[0]
    assert (float(window.WindowCenter), float(window.WindowWidth)) == (40, 400)
    assert (float(state.RescaleSlope), float(state.RescaleIntercept)) == (1, -1024)
    assert (str(state.PatientName), state.StudyInstanceUID) == (PATIENT, origin.first.StudyInstanceUID)
    referred = {i.ReferencedSOPInstanceUID for s in state.ReferencedSeriesSequence for i in s.ReferencedImageSequence}
    assert referred == {image.SOPInstanceUID for image in origin.images}


@pytest.mark.parametrize("flips", [(), (0, 2), (0, 1, 2)])
def test_boxes_are_rectangles_along_the_edges_of_their_voxels(folder: Path, flips: tuple[int, ...]) -> None:
    corners = np.array([[1, 2, 3, 3, 4, 5], [0, 0, 10, 4, 6, 10.0]])
    if flips:
        last = np.array(GRID.shape) - 1
        low, high = corners[:, :3].copy(), corners[:, 3:].copy()
        for axis in flips:
            low[:, axis], high[:, axis] = last[axis] - corners[:, 3 + axis], last[axis] - corners[:, axis]
        corners_there = np.concatenate([low, high], axis=1)
    else:
        corners_there = corners
    grid = GRID.flip(flips) if flips else GRID
    boxes = Boxes(corners_there, [0, 1], [0.875, 0.25], tuple(LABELS.values()), grid)
    origin = origin_of(folder)
    state = presentation_state(Prediction("c", {"boxes": boxes}), origin, About())
    slices = places(origin)
    found: dict[str, list[tuple[int, list[float]]]] = {}
    for annotation in state.GraphicAnnotationSequence:
        (line,) = lines(annotation)
        k = slices[annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID]
        text = annotation.TextObjectSequence[0].UnformattedTextValue
        found.setdefault(text, []).append((k, [*line.min(axis=0), *line.max(axis=0)]))
    edges = [0.5, 1.5, 3.5, 4.5]
    assert sorted(found["liver 0.88"]) == [(3, edges), (4, edges), (5, edges)]
    assert found["lesion 0.25"] == [(10, [-0.5, -0.5, 4.5, 6.5])]


def test_a_box_thinner_than_a_slice_has_one(folder: Path) -> None:
    origin = origin_of(folder)
    boxes = Boxes(np.array([[1, 1, 4.3, 2, 2, 4.4]]), [0], [1.0], (LABELS[1],), GRID)
    (annotation,) = presentation_state(boxes, origin, About()).GraphicAnnotationSequence
    assert places(origin)[annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID] == 4


def test_the_validator_finds_no_error_and_dcmtk_reads_it(folder: Path, tmp_path: Path, tool) -> None:
    path = write(MASK, tmp_path / "pr.dcm", "dicom-gsps", source=folder)
    result = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert "GrayscaleSoftcopyPresentationState" in said
    assert "Error" not in said, said
    dump = subprocess.run(
        [tool("dcmdump"), "+P", "0070,0022", str(path)], capture_output=True, text=True, check=True
    ).stdout
    drawn = pydicom.dcmread(path).GraphicAnnotationSequence
    assert dump.count("GraphicData") == sum(len(a.GraphicObjectSequence) for a in drawn)


def test_refusals(folder: Path) -> None:
    origin = origin_of(folder)
    elsewhere = replace(GRID, frame_of_reference="9.9")
    with pytest.raises(GeometryError, match="different frames of reference"):
        presentation_state(replace(MASK, geometry=elsewhere), origin, About())
    with pytest.raises(UsageError, match="shows masks and boxes"):
        presentation_state(Prediction("c", {"class": Scores((Label("a"),), [1.0])}), origin, About())
    with pytest.raises(DataError, match="nothing to draw"):
        presentation_state(Mask(MASK.array * 0, GRID, LABELS), origin, About())
    with pytest.raises(GeometryError, match="on no slice of the source"):
        presentation_state(Boxes(np.array([[1, 1, 40, 2, 2, 41.0]]), [0], [1.0], (LABELS[1],), GRID), origin, About())
    half = GRID.resampled((5, 14, 11))
    with pytest.raises(GeometryError, match="does not lie on the slices"):
        presentation_state(Mask(np.ones(half.shape, np.uint8), half, LABELS), origin, About())
    images = copy.deepcopy(list(origin.images))
    images[0].SamplesPerPixel = 3
    with pytest.raises(DataError, match="grey images"):
        presentation_state(MASK, replace(origin, images=tuple(images)), About())
    images = copy.deepcopy(list(origin.images))
    images[0].RescaleSlope = "2"
    with pytest.raises(DataError, match="no presentation state can be made"):
        presentation_state(MASK, replace(origin, images=tuple(images)), About())
