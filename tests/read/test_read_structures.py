"""RT structure sets read and filled: the even-odd rule, slices by position, and everything that is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from grids import oblique_geometry
from medmap.errors import GeometryError, QualityWarning, ReadError
from medmap.geometry import Geometry
from medmap.read.dicom.contours import enclosed, rasterised
from medmap.read.dicom.structures import STRUCTURE_SET, Contour, Roi, StructureSet, read_structures
from medmap.results import Label

GRID = oblique_geometry()


def square(k: float, low: float = 0.5, high: float = 3.5, columns: tuple[float, float] | None = None) -> np.ndarray:
    """A closed square of the oblique grid, in mm."""
    left, right = columns or (low, high)
    return GRID.to_world([(low, left, k), (low, right, k), (high, right, k), (high, left, k)])


def structures(*contours: np.ndarray | Contour, frame: str = "1.2.3") -> StructureSet:
    made = tuple(c if isinstance(c, Contour) else Contour("CLOSED_PLANAR", c) for c in contours)
    return StructureSet((Roi(4, Label("thing"), frame, made),))


# -- the rule ----------------------------------------------------------------------------------------------------------


@given(arrays(np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(-2, 12, width=32)))
def test_the_even_odd_rule_agrees_with_winding_numbers_counted_otherwise(points: np.ndarray) -> None:
    """Against crossings counted for each centre alone, along the other axis; centres near the line are left out."""
    ours = enclosed(points, (10, 11))
    centres = np.argwhere(np.ones((10, 11))).astype(float)
    counted = np.zeros(len(centres), int)
    near = np.zeros(len(centres), bool)
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        along = (a[1] <= centres[:, 1]) != (b[1] <= centres[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            row = a[0] + (centres[:, 1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
        counted += along & (row <= centres[:, 0])
        step = b - a
        length = max(float(step @ step), 1e-12)
        t = np.clip((centres - a) @ step / length, 0, 1)
        near |= np.linalg.norm(centres - a - t[:, None] * step, axis=1) < 1e-4
    far = ~near.reshape(10, 11)
    assert np.array_equal(ours[far], (counted % 2 == 1).reshape(10, 11)[far])


def test_areas_that_share_an_edge_through_centres_share_no_pixel_and_miss_none() -> None:
    left = enclosed(np.array([(0, 0), (0, 4), (6, 4), (6, 0)], float), (7, 9))
    right = enclosed(np.array([(0, 4), (0, 8), (6, 8), (6, 4)], float), (7, 9))
    assert not (left & right).any()
    assert (left | right).sum() == 6 * 8
    slanted = [(0.0, 0.0), (6.0, 3.0)]  # through several centres
    one = enclosed(np.array([*slanted, (6, 0)], float), (7, 9))
    two = enclosed(np.array([*reversed(slanted), (0, 3)], float), (7, 9))
    assert not (one & two).any()
    assert np.array_equal(one | two, enclosed(np.array([(0, 0), (0, 3), (6, 3), (6, 0)], float), (7, 9)))


def test_lines_beyond_the_grid_are_cut() -> None:
    assert enclosed(np.array([(-9, -9), (-9, 99), (99, 99), (99, -9)], float), (3, 4)).all()
    assert not enclosed(np.array([(50, 50), (50, 60), (60, 60)], float), (3, 4)).any()


# -- filling -----------------------------------------------------------------------------------------------------------


def test_a_square_on_the_oblique_grid() -> None:
    mask = rasterised(structures(square(2), square(7)), GRID)
    wanted = np.zeros(GRID.shape, np.uint8)
    wanted[1:4, 1:4, [2, 7]] = 4
    assert np.array_equal(mask.array, wanted)
    assert mask.labels[4].name == "thing"
    assert mask.geometry == GRID


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_nested_contour_is_a_hole(kind: str) -> None:
    outer, inner = square(1, -0.5, 4.5), square(1, 1.5, 2.5)
    mask = rasterised(structures(Contour(kind, outer), Contour(kind, inner)), GRID)
    assert mask.array[2, 2, 1] == 0
    assert (mask.array[:, :, 1] == 4).sum() == 24


def test_a_keyhole_is_a_hole_whose_seam_passes_through_centres() -> None:
    outer = [(-0.5, -0.5), (-0.5, 4.5), (4.5, 4.5), (4.5, -0.5)]
    hole = [(1.5, 1.5), (2.5, 1.5), (2.5, 2.5), (1.5, 2.5)]
    seamed = [*outer[:1], *hole, hole[0], outer[0], *outer[1:]]
    points = GRID.to_world(np.insert(np.array(seamed), 2, 1.0, axis=1))
    mask = rasterised(structures(points), GRID)
    assert mask.array[2, 2, 1] == 0
    assert (mask.array[:, :, 1] == 4).sum() == 24


def test_regions_to_values_shared_and_overlapping() -> None:
    one, two = (
        Roi(1, Label("a"), "1.2.3", (Contour("CLOSED_PLANAR", square(1)),)),
        Roi(2, Label("b"), "1.2.3", (Contour("CLOSED_PLANAR", square(1, 2.5, 4.5)),)),
    )
    both = StructureSet((one, two))
    merged = rasterised(both, GRID, {1: 5, 2: 5})
    assert set(np.unique(merged.array)) == {0, 5}
    assert (merged.array == 5).sum() == 9 + 4 - 1
    overlapping = rasterised(both, GRID, {1: 9, 2: 3})
    assert overlapping.array.dtype == np.bool_
    assert list(overlapping.labels) == [3, 9]
    assert overlapping.array[..., 0].sum() == 4
    assert overlapping.array[..., 1].sum() == 9
    assert rasterised(both, GRID, {2: 300}).array.dtype == np.uint16


def test_a_flat_grid_takes_its_slice() -> None:
    affine = GRID.affine_lps_mm.copy()
    affine[:3, 3] = GRID.to_world([[0, 0, 6]])[0]
    affine[:3, 2] /= np.linalg.norm(affine[:3, 2])
    flat = Geometry(GRID.shape[:2], affine, frame_of_reference="1.2.3")
    assert (rasterised(structures(square(6)), flat).array == 4).sum() == 9


def test_slices_are_matched_by_position_with_a_stated_tolerance() -> None:
    assert (rasterised(structures(square(3.09)), GRID).array[:, :, 3] == 4).sum() == 9
    with pytest.raises(GeometryError, match=r"region 4 \(thing\) has 1 contours on no slice of the grid"):
        rasterised(structures(square(2), square(3.2)), GRID)
    with pytest.raises(GeometryError, match="on no slice"):
        rasterised(structures(square(-1)), GRID)
    with pytest.raises(GeometryError, match="on no slice"):
        rasterised(structures(square(11)), GRID)
    with pytest.warns(QualityWarning, match="nearest slice"):
        mask = rasterised(structures(square(2), square(3.2)), GRID, off_slice="nearest")
    assert (mask.array[:, :, 3] == 4).sum() == 9
    with pytest.warns(QualityWarning, match="left out"):
        mask = rasterised(structures(square(2), square(3.2)), GRID, off_slice="leave out")
    assert (mask.array == 4).sum() == 9


def test_contours_oblique_to_the_grid_are_refused() -> None:
    tilted = GRID.to_world([(0.5, 0.5, 2), (0.5, 3.5, 4), (3.5, 3.5, 6), (3.5, 0.5, 3)])
    with pytest.raises(GeometryError, match="no plane of the grid"):
        rasterised(structures(tilted), GRID)


def test_another_frame_of_reference_is_refused() -> None:
    with pytest.raises(GeometryError, match="another frame of reference"):
        rasterised(structures(square(2), frame="1.2.4"), GRID)
    unknown = Geometry(GRID.shape, GRID.affine_lps_mm)
    assert rasterised(structures(square(2), frame="1.2.4"), unknown).array.any()
    with pytest.raises(GeometryError, match="needs millimetres"):
        rasterised(structures(square(2)), Geometry.without_size((4, 4)))


def test_crossing_and_open_contours_are_told() -> None:
    with pytest.warns(QualityWarning, match="cross each other"):
        rasterised(structures(square(2), square(2, 1.5, 4.5)), GRID)
    with pytest.warns(QualityWarning, match="1 open contours"):
        rasterised(structures(square(2), Contour("OPEN_PLANAR", square(3))), GRID)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rasterised(structures(square(2, 0.5, 1.5), square(2, 2.5, 3.5)), GRID)


def test_regions_that_are_not_there() -> None:
    point = Contour("POINT", GRID.to_world([[1, 1, 1]]))
    with pytest.raises(ReadError, match="encloses an area"):
        rasterised(structures(point), GRID)
    with pytest.raises(ReadError, match="encloses no area"):
        rasterised(structures(point), GRID, {4: 1})
    with pytest.raises(ReadError, match="no region of this number"):
        rasterised(structures(square(1)), GRID, {5: 1})
    with pytest.raises(ReadError, match="outside its range"):
        rasterised(structures(square(1)), GRID, {4: 0})


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_structure_set_of_pydicom(shared_data: Path) -> None:
    found = read_structures(shared_data / "dicom/pydicom_test_files/test_files/rtstruct.dcm")
    assert [(r.number, r.name, r.interpreted_type) for r in found.rois] == [
        (1, "patient", "EXTERNAL"), (2, "Isocenter 1", "ISOCENTER"), (3, "Isocenter 2", "ISOCENTER")
    ]  # fmt: skip
    assert found.roi(1).colour == (220, 160, 120)
    assert found.series_uids == ("1.2.826.0.1.3680043.8.498.2010020400001.2.1.1",)
    assert [c.kind for c in found.roi(2).contours] == ["POINT"]
    grid = Geometry.from_spacing((41, 31, 3), (10, 10, 10), origin_mm=(-200, -150, -200))
    filled = rasterised(found, grid).array
    for k, contour in enumerate(found.roi(1).contours):
        index = grid.to_index(contour.points_mm)[:, :2]
        centres = np.argwhere(np.ones((41, 31))) + np.array((-1e-3, -1e-3))  # the line passes through centres
        inside = Outline(index).contains_points(centres)
        assert filled[:, :, k].sum() == inside.sum() == 1200


def written(path: Path, change: Callable[[Dataset], None] = lambda _: None) -> Path:
    """A small sound structure set, then changed."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.StructureSetLabel = STRUCTURE_SET, "1.2.9", "test"
    roi = Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 1, "liver", "1.2.3"
    data.StructureSetROISequence = [roi]
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 3
    contour.ContourData = ["0", "0", "1", "4", "0", "1", "4", "4", "1"]
    drawn = Dataset()
    drawn.ReferencedROINumber, drawn.ContourSequence, drawn.ROIDisplayColor = 1, [contour], [255, 0, 10]
    data.ROIContourSequence = [drawn]
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = STRUCTURE_SET, "1.2.9"
    change(data)
    data.save_as(path, enforce_file_format=True)
    return path


def raw(data: Dataset, keyword: str, vr: str, value: bytes) -> None:
    tag = Tag(keyword)
    data[tag] = RawDataElement(tag, vr, len(value), value, 0, True, True)


def contour_of(data: Dataset) -> Dataset:
    return data.ROIContourSequence[0].ContourSequence[0]


REFUSED: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "NaN": (lambda d: raw(contour_of(d), "ContourData", "DS", b"0\\0\\nan\\4\\0\\1\\4\\4\\1 "), "not finite"),
    "infinite": (lambda d: raw(contour_of(d), "ContourData", "DS", b"0\\0\\1e400\\4\\0\\1\\4\\4\\1"), "not finite"),
    "a word": (lambda d: raw(contour_of(d), "ContourData", "DS", b"0\\0\\one\\4\\0\\1\\4\\4\\1 "), "no number"),
    "an empty number": (lambda d: raw(contour_of(d), "ContourData", "DS", b"0\\\\1 "), "no number"),
    "no triplets": (lambda d: raw(contour_of(d), "ContourData", "DS", b"0\\0\\1\\4"), "no triplets"),
    "no coordinates": (lambda d: delattr(contour_of(d), "ContourData"), "no triplets"),
    "a wrong count": (lambda d: setattr(contour_of(d), "NumberOfContourPoints", 4), "another number of points"),
    "two points": (
        lambda d: (
            raw(contour_of(d), "ContourData", "DS", b"0\\0\\1\\4\\0\\1 "),
            raw(contour_of(d), "NumberOfContourPoints", "IS", b"2 "),
        ),
        "too few points",
    ),
    "an unknown kind": (lambda d: setattr(contour_of(d), "ContourGeometricType", "SPIRAL"), "unknown kind"),
    "an unknown number": (lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", 7), "does not name"),
    "no number": (lambda d: delattr(d.StructureSetROISequence[0], "ROINumber"), "without a number"),
    "a number twice": (
        lambda d: setattr(d, "StructureSetROISequence", [*d.StructureSetROISequence, *d.StructureSetROISequence]),
        "twice",
    ),
    "no space": (lambda d: delattr(d.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID"), "which space"),
    "no region": (lambda d: delattr(d, "StructureSetROISequence"), "without a region"),
    "another object": (lambda d: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "is no RT structure set"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, sentence = REFUSED[name]
    with pytest.raises(ReadError, match=sentence) as caught:
        read_structures(written(tmp_path / "rt.dcm", change))
    assert "\n" not in str(caught.value)


def test_a_sound_file_reads(tmp_path: Path) -> None:
    found = read_structures(written(tmp_path / "rt.dcm"))
    (roi,) = found.rois
    assert (roi.name, roi.colour, roi.frame_of_reference, found.label) == ("liver", (255, 0, 10), "1.2.3", "test")
    assert roi.contours[0].points_mm.tolist() == [[0, 0, 1], [4, 0, 1], [4, 4, 1]]


def test_a_contour_twice_is_taken_once_and_told(tmp_path: Path) -> None:
    def twice(data: Dataset) -> None:
        sequence = data.ROIContourSequence[0].ContourSequence
        data.ROIContourSequence[0].ContourSequence = [*sequence, *sequence]

    found = read_structures(written(tmp_path / "rt.dcm", twice))
    assert len(found.rois[0].contours) == 1
    assert found.warnings == ("region 1 holds 1 contours twice; each was taken once",)


def test_damaged_absent_and_foreign_files(tmp_path: Path) -> None:
    whole = written(tmp_path / "rt.dcm").read_bytes()
    with pytest.raises(ReadError, match="does not exist"):
        read_structures(tmp_path / "none.dcm")
    with pytest.raises(ReadError, match="folder"):
        read_structures(tmp_path)
    outcomes = set()
    for end in range(0, len(whole), 7):
        (tmp_path / "cut.dcm").write_bytes(whole[:end])
        try:
            outcomes.add(len(read_structures(tmp_path / "cut.dcm").rois))
        except ReadError as error:
            assert "\n" not in str(error)  # noqa: PT017  (a cut at an element's end may leave a sound rest)
            outcomes.add("refused")
    assert "refused" in outcomes
