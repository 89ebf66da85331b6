"""Boxes from masks and from points: the box of each part, in its place; absent stays apart from empty."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import layout_examples as examples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as Pillow
from scipy import ndimage

from medmap import phantom
from medmap.cli import run as medmap
from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import DataError, DatasetError, QualityWarning, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.layouts import boxes_from_masks, boxes_from_points, component_boxes, import_dataset, open_dataset
from medmap.layouts.boxes import shapes_as_stated
from medmap.read import read_ref
from medmap.results import Label
from medmap.write import write

GRID = Geometry.from_spacing((20, 24, 16), (0.8, 0.9, 2.0), origin_mm=(-40, 30, -700))


# -- masks --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.uint8,
        st.one_of(
            st.tuples(st.integers(1, 9), st.integers(1, 9)),
            st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
        ),
        elements=st.sampled_from([0, 0, 0, 1, 3]),
    )
)
def test_the_box_of_a_part_is_the_one_that_scipy_finds(mask: np.ndarray) -> None:
    expected = []
    for value in (1, 3):
        parts, count = ndimage.label(mask == value, np.ones((3,) * mask.ndim))
        for number, where in enumerate(ndimage.find_objects(parts), 1):
            corners = (*(float(s.start) for s in where), *(float(s.stop - 1) for s in where))
            expected.append((value, corners, int((parts == number).sum())))
        assert len(ndimage.find_objects(parts)) == count
    assert sorted(component_boxes(mask)) == sorted(expected)


def segmented(root: Path, masks: list[np.ndarray | None], **changes: object) -> Dataset:
    root.mkdir()
    cases = []
    for n, mask in enumerate(masks):
        write(Image(np.zeros(GRID.shape, np.int16), GRID), root / f"i{n}.nii.gz")
        refs: tuple[Ref, ...] = ()
        if mask is not None:
            write(Image(mask, GRID, "label"), root / f"m{n}.nii.gz")
            refs = (Ref(f"m{n}.nii.gz"),)
        truth = Truth(True, masks=refs) if refs else Truth()
        cases.append(Case(f"c{n}", f"p{n}", {"image": Ref(f"i{n}.nii.gz")}, truth, ("train", "val")[n % 2]))
    names = (Label("background"), Label("liver"), Label("tumour", "SCT:1|T"))
    said = {"labels": names, "root": root, "licence": "CC0", **changes}
    return Dataset("masks", "segment", tuple(cases), {"image": InputSpec("CT")}, **said)


def blocks(*parts: tuple[int, tuple[slice, ...]]) -> np.ndarray:
    mask = np.zeros(GRID.shape, np.uint8)
    for value, where in parts:
        mask[where] = value
    return mask


ONE = (1, np.s_[2:9, 3:8, 1:5])
TWO = (2, np.s_[12:14, 10:20, 6:7])
THREE = (2, np.s_[15:16, 21:22, 9:10])
REST = (7, np.s_[17:20, 0:3, 12:16])


def test_masks_become_boxes_of_their_parts_and_what_is_absent_stays_so(tmp_path: Path) -> None:
    data = segmented(tmp_path / "s", [blocks(ONE, TWO, THREE, REST), None, blocks()], ignore=7)
    made = boxes_from_masks(data)
    first, absent, empty = (case.truth for case in made)
    assert first.boxes == (((2, 3, 1, 8, 7, 4), 0), ((12, 10, 6, 13, 19, 6), 1), ((15, 21, 9, 15, 21, 9), 1))
    assert first.ignored == (((17, 0, 12, 19, 2, 15), 0), ((17, 0, 12, 19, 2, 15), 1))
    assert absent == Truth()
    assert empty == Truth(True, boxes=())
    assert made.task == "detect"
    assert made.labels == (Label("liver"), Label("tumour", "SCT:1|T"))
    assert [c.split for c in made] == ["train", "val", "train"]
    with pytest.warns(QualityWarning, match="1 part of fewer than 2 voxels became no box"):
        larger = boxes_from_masks(data, min_voxels=2)
    assert len(larger.cases[0].truth.boxes) == 2
    again = import_dataset(larger, tmp_path / "d")
    assert [c.truth for c in again] == [c.truth for c in larger]


def test_partial_labels_and_several_observers(tmp_path: Path) -> None:
    data = segmented(tmp_path / "s", [blocks(ONE, TWO)])
    (case,) = data.cases
    twice = replace(case.truth, masks=case.truth.masks * 2, known=(0, 2))
    with pytest.warns(QualityWarning, match="1 case with several observers"):
        made = boxes_from_masks(data.with_cases([replace(case, truth=twice)]))
    assert made.cases[0].truth.known == (1,)


def test_a_mask_on_a_flipped_grid_gives_boxes_on_its_image(tmp_path: Path) -> None:
    from medmap.geometry import Flip

    data = segmented(tmp_path / "s", [blocks(ONE)])
    flipped = Image(blocks(ONE), GRID, "label").moved(Flip((0, 2)))
    (tmp_path / "s/m0.nii.gz").unlink()
    write(flipped, tmp_path / "s/m0.nii.gz")
    assert boxes_from_masks(data).cases[0].truth.boxes == (((2, 3, 1, 8, 7, 4), 0),)


def test_masks_that_cannot_be_meant_so(tmp_path: Path) -> None:
    data = segmented(tmp_path / "s", [blocks(ONE, (5, np.s_[0:1, 0:1, 0:1]))])
    with pytest.raises(DatasetError, match="case c0: a mask holds a value that names no class: got 5"):
        boxes_from_masks(data)
    with pytest.raises(DatasetError, match="no masks"):
        boxes_from_masks(data.with_cases([replace(c, truth=Truth()) for c in data]))
    with pytest.raises(UsageError, match="at least one voxel"):
        boxes_from_masks(data, min_voxels=0)


@pytest.mark.parametrize("layout", ["msd", "pairs", "nndetection", "coco"])
def test_import_for_detection_whatever_the_truth(layout: str, tmp_path: Path) -> None:
    examples.EXAMPLES[layout](tmp_path / "source")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        made = import_dataset(tmp_path / "source", tmp_path / "made", task="detect")
    assert made.task == "detect"
    if layout in ("msd", "pairs"):
        masks = open_dataset(tmp_path / "source")
        for case in masks:
            if case.truth.masks:
                parts = component_boxes(read_ref(masks, case.truth.masks[0]).array)
                assert made[case.id].truth.boxes == tuple((box, value - 1) for value, box, _ in parts)
    else:
        assert [c.truth for c in made] == [c.truth for c in open_dataset(tmp_path / "source")]


def test_what_holds_neither_boxes_nor_masks_is_refused_as_before(tmp_path: Path) -> None:
    phantom.write_study(tmp_path / "s", phantom.classification(2, 0, shape=(16, 16)))
    with pytest.raises(DatasetError, match="about another task: got classify, expected detect"):
        import_dataset(tmp_path / "s", tmp_path / "made", task="detect")
    assert not (tmp_path / "made").exists()


def test_the_command_line_makes_boxes_of_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom.write_study(tmp_path / "s", phantom.segmentation(3, 1, shape=(40, 40, 20), lesions=(1, 2)), task="segment")
    assert medmap(["import", str(tmp_path / "s"), str(tmp_path / "d"), "--task", "detect", "--min-voxels", "20"]) == 0
    assert "3 cases" in capsys.readouterr().out
    data = open_dataset(tmp_path / "d")
    assert data.label_names == ("lung", "nodule")
    assert all(len(case.truth.boxes) >= 2 for case in data)
    assert medmap(["import", str(tmp_path / "s"), str(tmp_path / "e"), "--min-voxels", "20"]) == 2
    assert "add --task detect" in capsys.readouterr().err


# -- points -------------------------------------------------------------------------------------------------------


def scans(root: Path) -> Path:
    phantom.write_chest_dataset(root, 3, 2, shape=(72, 72, 40))
    lines = ["case,image", *(f"chest-{n:04d},images/chest-{n:04d}.nii.gz" for n in range(3))]
    (root / "images.csv").write_text("\n".join(lines) + "\n")
    return root


def test_points_become_the_boxes_of_their_balls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = scans(tmp_path / "s")
    stated = open_dataset(root)
    rows = [line.split(",") for line in (root / "nodules.csv").read_text().splitlines()[1:]]
    assert {"chest-0000", "chest-0001"} <= {row[0] for row in rows}
    table = ["case,x,y,z,radius_mm,label", "chest-0002,,,,,"]
    table += [",".join([*row[:4], str(float(row[4]) / 2), "nodule"]) for row in rows if row[0] == "chest-0000"]
    (tmp_path / "points.csv").write_text("\n".join(table) + "\n")
    command = ["import", str(root / "images.csv"), str(tmp_path / "d"), "--points", str(tmp_path / "points.csv")]
    assert medmap([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "detect"
    data = open_dataset(tmp_path / "d")
    assert data.label_names == ("nodule",)
    boxes = {case.id: case.truth.boxes for case in data}
    assert boxes["chest-0001"] is None  # without a row: not looked at
    assert boxes["chest-0002"] == ()  # a row without a place: looked at, nothing found
    ours, theirs = (np.array([box for box, _ in found]) for found in (boxes["chest-0000"], stated.cases[0].truth.boxes))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert medmap([*command[:2], str(tmp_path / "e"), *command[3:], "--task", "segment"]) == 2
    assert "makes boxes of points" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("case,x,y,z\nchest-0000,1,2,3\n", "lacks columns"),
        ("case,x,y,z,diameter_mm\nnobody,1,2,3,4\n", "1 cases that are not in the dataset: got nobody"),
        ("case,x,y,z,diameter_mm\nchest-0000,1,2,,4\n", "line 2: a coordinate is no number"),
        ("case,x,y,z,diameter_mm\nchest-0000,1,2,3,-4\n", "line 2: no position and size in mm"),
        ("case,x,y,z,diameter_mm\nchest-0000,9000,2,3,4\n", "line 2: a box lies outside its image"),
    ],
)
def test_points_that_cannot_be_meant_so(table: str, message: str, tmp_path: Path) -> None:
    root = scans(tmp_path / "s")
    (tmp_path / "points.csv").write_text(table)
    with pytest.raises(DatasetError, match=message):
        boxes_from_points(open_dataset(root), tmp_path / "points.csv")


def test_points_need_millimetres_of_a_patient_and_known_classes(tmp_path: Path) -> None:
    examples.coco(tmp_path / "coco")
    data = open_dataset(tmp_path / "coco")
    (tmp_path / "points.csv").write_text(f"case,x,y,z,diameter_mm\n{data.cases[0].id},1,2,3,4\n")
    with pytest.raises(DatasetError, match="need a volume of a patient"):
        boxes_from_points(data, tmp_path / "points.csv")
    root = scans(tmp_path / "s")
    (tmp_path / "points.csv").write_text("case,x,y,z,diameter_mm,label\nchest-0000,1,2,3,4,mass\n")
    with pytest.raises(DatasetError, match="unknown class: got mass, expected nodule"):
        boxes_from_points(open_dataset(root), tmp_path / "points.csv")


def test_a_picture_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    """Its stated size is believed while the dataset is opened; one without a stated size is refused."""
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    Pillow.fromarray(np.zeros((48, 64), np.uint8)).save(good)
    bad.write_bytes(b"no picture")
    assert shapes_as_stated([(good, "a"), (bad, "b")], [(48, 64), (30, 40)]) == [(48, 64), (30, 40)]
    assert shapes_as_stated([(good, "a")], [None]) == shapes_as_stated([(good, "a")], [(0, 64)]) == [(48, 64)]
    with pytest.raises(DatasetError, match="another size"):
        shapes_as_stated([(good, "a")], [(30, 40)])
    with pytest.raises(DataError):
        shapes_as_stated([(bad, "b")], [None])
