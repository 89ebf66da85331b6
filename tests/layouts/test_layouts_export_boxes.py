"""Boxes written in every layout that holds them come back as they were, and other programs read them."""

from __future__ import annotations

import csv
import os
import warnings
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import layout_examples as examples
import numpy as np
import pytest
import SimpleITK
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from grids import oblique_image
from medmap import phantom
from medmap.cli import run as medmap
from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.errors import DatasetError, QualityWarning
from medmap.geometry import Geometry
from medmap.layouts import convert_dataset, open_dataset
from medmap.layouts.luna import corners_of_ball
from medmap.layouts.to_luna import ball_of_corners
from medmap.layouts.to_yolo import line_of_corners
from medmap.layouts.yolo import corners_of_line
from medmap.read import read_ref
from medmap.results import Label

CLASSES = (Label("WBC"), Label("RBC"), Label("never seen"))


def cells(root: Path, ignored: bool = False, unseen: bool = False) -> Dataset:
    """Pictures of two formats in three splits and none, one empty, classes in an order that no name suggests."""
    rng = np.random.default_rng(7)
    cases = []
    for n in range(8):
        name = f"p{n}.{'png' if n % 2 else 'jpg'}"
        examples.picture(root / name, rows=40 + n, columns=64, seed=n)
        low = rng.integers(0, 20, (3, 2))
        high = low + rng.integers(0, 19, (3, 2))
        boxes = tuple(((*map(float, a), *map(float, b)), k % 2) for k, (a, b) in enumerate(zip(low, high, strict=True)))
        spared = (((1.0, 2.0, 9.0, 12.0), 0),) if ignored and n == 2 else ()
        truth = Truth(True, boxes=boxes if n != 5 else (), ignored=spared)
        split = ("train", "val", "test", None)[n % 4]
        case = Case(f"cell{n}", f"q{n // 2}", {"image": Ref(name)}, truth, split, "lab", {"age": float(n)})
        cases.append(replace(case, truth=Truth()) if unseen and n in (2, 6) else case)
    return Dataset("cells", "detect", tuple(cases), {"image": InputSpec()}, CLASSES, root=root, patients_known=True)


def require_same(old: Dataset, new: Dataset) -> None:
    assert new.labels == old.labels
    for a, b in zip(old, new, strict=True):
        assert (b.id, b.patient, b.site, b.split, b.columns) == (a.id, a.patient, a.site, a.split, a.columns)
        assert b.truth.annotated == a.truth.annotated
        for ours, theirs in ((a.truth.boxes, b.truth.boxes), (a.truth.ignored, b.truth.ignored)):
            assert (ours is None) == (theirs is None)
            assert [label for _, label in ours or ()] == [label for _, label in theirs or ()]
            for (one, _), (two, _) in zip(ours or (), theirs or (), strict=True):
                np.testing.assert_allclose(two, one, atol=1e-6)
        assert np.array_equal(read_ref(old, a.inputs["image"]).array, read_ref(new, b.inputs["image"]).array)


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_cells_come_back(layout: str, tmp_path: Path) -> None:
    data = cells(tmp_path / "s", ignored=layout != "yolo", unseen=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        again = convert_dataset(data, tmp_path / "out", layout)
        third = convert_dataset(again, tmp_path / "third", layout)
    require_same(data, again)
    require_same(data, third)


def test_round_and_round_through_every_layout(tmp_path: Path) -> None:
    data = cells(tmp_path / "s")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        now = data
        for layout in ("coco", "yolo", "voc", "yolo", "coco"):
            now = convert_dataset(now, tmp_path / os.urandom(5).hex(), layout)
    require_same(data, now)


BOX = st.tuples(st.floats(0, 30), st.floats(0, 40), st.floats(0, 16), st.floats(0, 22))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(BOX, st.integers(0, 1)), max_size=5), st.sampled_from(["voc", "yolo", "coco"]))
def test_any_boxes_come_back(tmp_path: Path, rows: list[tuple[tuple[float, ...], int]], layout: str) -> None:
    examples.picture(tmp_path / "a.png")
    boxes = tuple(((a, b, a + h, b + w), label) for (a, b, h, w), label in rows)
    case = Case("a", "a", {"image": Ref("a.png")}, Truth(True, boxes=boxes), "train")
    data = Dataset("d", "detect", (case,), {"image": InputSpec()}, CLASSES[:2], root=tmp_path, patients_known=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        again = convert_dataset(data, tmp_path / os.urandom(6).hex(), layout)
    require_same(data, again)


@given(BOX, st.integers(60, 200), st.integers(70, 200))
def test_yolo_there_and_back(box: tuple[float, ...], rows: int, columns: int) -> None:
    corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    line = line_of_corners(corners, (rows, columns))
    assert all(0 <= v <= 1 for v in line)
    assert corners_of_line(*line, (rows, columns)) == pytest.approx(corners, abs=1e-6)


# -- read by others -----------------------------------------------------------------------------------------------


def test_pycocotools_reads_the_same_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    data = cells(tmp_path / "s", ignored=True)
    convert_dataset(data, tmp_path / "out", "coco")
    by_file = {}
    for path in (tmp_path / "out/annotations").glob("instances_*.json"):
        theirs = COCO(str(path))
        names = {c["id"]: c["name"] for c in theirs.loadCats(theirs.getCatIds())}
        for image in theirs.loadImgs(theirs.getImgIds()):
            found = theirs.loadAnns(theirs.getAnnIds(imgIds=[image["id"]]))
            by_file[Path(image["file_name"]).stem] = (
                image,
                [(a["bbox"], names[a["category_id"]], a["iscrowd"]) for a in found],
            )
    for case in data:
        image, found = by_file[case.id]
        with Pillow.open(data.resolve(case.inputs["image"])) as picture:
            assert (image["width"], image["height"]) == picture.size
        expected = [(box, label, 0) for box, label in case.truth.boxes] + [
            (b, label, 1) for b, label in case.truth.ignored
        ]
        assert len(found) == len(expected)
        for ((x, y, w, h), name, crowd), (corners, label, spared) in zip(found, expected, strict=True):
            assert (name, crowd) == (CLASSES[label].name, spared)
            assert (y, x, y + h - 1, x + w - 1) == pytest.approx(corners)


def test_a_yolo_folder_as_its_own_programs_read_it(tmp_path: Path) -> None:
    data = cells(tmp_path / "s")
    with pytest.warns(QualityWarning, match="cases without a split stand under train"):
        convert_dataset(data, tmp_path / "out", "yolo")
    said = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert [said["names"][i] for i in range(said["nc"])] == [label.name for label in CLASSES]
    assert said["train"] == ["images/train", "images/all"]
    case = data["cell1"]
    (text,) = (tmp_path / "out/labels").glob("*/cell1.txt")
    assert text.parent.name == case.split == "val"
    with Pillow.open(tmp_path / "out/images/val/cell1.png") as picture:
        width, height = picture.size
    for line, (corners, label) in zip(text.read_text().splitlines(), case.truth.boxes, strict=True):
        number, x, y, w, h = (float(v) for v in line.split())
        painted = np.zeros((height, width), bool)
        left, top = round((x - w / 2) * width), round((y - h / 2) * height)
        painted[top : top + round(h * height), left : left + round(w * width)] = True
        where = np.argwhere(painted)
        assert int(number) == label
        assert (*where.min(0), *where.max(0)) == corners
    assert (tmp_path / "out/labels/val/cell5.txt").read_text() == ""


def test_a_voc_folder_as_its_own_programs_read_it(tmp_path: Path) -> None:
    data = cells(tmp_path / "s", ignored=True)
    convert_dataset(data, tmp_path / "out", "voc")
    root = ElementTree.parse(tmp_path / "out/Annotations/cell2.xml").getroot()  # noqa: S314
    assert root.findtext("filename") == "cell2.jpg"
    sizes = [int(root.findtext(f"size/{key}")) for key in ("width", "height", "depth")]
    assert sizes == [64, 42, 3]
    objects = root.findall("object")
    assert [o.findtext("difficult") for o in objects] == ["0", "0", "0", "1"]
    for item, (corners, label) in zip(objects, data["cell2"].truth.boxes, strict=False):
        box = [int(item.findtext(f"bndbox/{key}")) - 1 for key in ("ymin", "xmin", "ymax", "xmax")]
        assert box == list(corners)
        assert item.findtext("name") == CLASSES[label].name
    lists = {p.stem: p.read_text().split() for p in (tmp_path / "out/ImageSets/Main").iterdir()}
    assert lists == {
        "train": ["cell0", "cell4"], "val": ["cell1", "cell5"], "test": ["cell2", "cell6"],
        "trainval": ["cell0", "cell1", "cell4", "cell5"],
    }  # fmt: skip


# -- balls --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    centre=st.tuples(st.floats(-3, 8), st.floats(-3, 9), st.floats(-3, 13)),
    diameter=st.floats(0.2, 9),
    oblique=st.booleans(),
)
def test_balls_there_and_back(centre: tuple[float, ...], diameter: float, oblique: bool) -> None:
    grid = oblique_image().geometry if oblique else Geometry.from_spacing((9, 9, 9), (0.8, 0.8, 2.5))
    world = tuple(grid.to_world([centre])[0].tolist())
    corners = corners_of_ball(grid, world, diameter)
    found, size, exact = ball_of_corners(grid, corners)
    assert exact
    assert found == pytest.approx(world, abs=1e-5)
    np.testing.assert_allclose(corners_of_ball(grid, found, size), corners, atol=1e-5)
    reach = np.linalg.norm(np.linalg.inv(grid.affine_lps_mm)[:3, :3], axis=1)
    if (diameter * reach > 1.001).any():
        assert size == pytest.approx(diameter, abs=1e-4)


def test_nodules_come_back_from_luna(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom.write_chest_dataset(tmp_path / "own", 3, 4, shape=(72, 72, 40))
    command = ["convert", str(tmp_path / "own"), str(tmp_path / "out"), "--layout", "luna16", "--json"]
    assert medmap(command) == 0
    out, told = capsys.readouterr()
    assert "warning" not in told
    assert '"layout": "luna16"' in out
    old, new = open_dataset(tmp_path / "own"), open_dataset(tmp_path / "out")
    require_same(old, new)
    with (tmp_path / "out/annotations.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "own/nodules.csv").open() as file:
        stated = list(csv.DictReader(file))
    assert len(rows) == len(stated) > 2
    for row, nodule in zip(rows, stated, strict=True):
        assert row["seriesuid"] == nodule["case"]
        for ours, theirs in (("coordX", "x"), ("coordY", "y"), ("coordZ", "z"), ("diameter_mm", "diameter_mm")):
            assert float(row[ours]) == pytest.approx(float(nodule[theirs]), abs=1e-3)
        image = SimpleITK.ReadImage(str(tmp_path / f"out/scans/{row['seriesuid']}.mha"))
        index = image.TransformPhysicalPointToIndex([float(row[f"coord{axis}"]) for axis in "XYZ"])
        around = tuple(slice(max(0, i - 1), i + 2) for i in index)
        assert SimpleITK.GetArrayFromImage(image)[around[::-1]].mean() > -700


def test_a_luna_folder_comes_back_with_folds_and_excluded_findings(tmp_path: Path) -> None:
    phantom.write_chest_dataset(tmp_path / "source", 2, 4, layout="luna16", shape=(72, 72, 40))
    rows = (tmp_path / "source/annotations.csv").read_text().splitlines()
    (tmp_path / "source/annotations_excluded.csv").write_text("\n".join([rows[0], rows[-1]]) + "\n")
    data = open_dataset(tmp_path / "source")
    assert sum(len(case.truth.ignored) for case in data) == 1
    again = convert_dataset(data, tmp_path / "out", "luna16")
    require_same(data, again)
    assert (tmp_path / f"out/subset1/{data.cases[1].id}.mha").is_file()
    assert open_dataset(tmp_path / "out", layout="luna16").digest == again.digest


def test_a_box_that_is_no_ball_is_said(tmp_path: Path) -> None:
    phantom.write_chest_dataset(tmp_path / "own", 1, 4, shape=(72, 72, 40))
    data = open_dataset(tmp_path / "own")
    (case,) = data.cases
    flat = ((20.0, 20.0, 10.0, 50.0, 25.0, 12.0), 0)
    data = replace(data, labels=(Label("metastasis"),), cases=(replace(case, truth=Truth(True, boxes=(flat,))),))
    with pytest.warns(QualityWarning) as caught:
        again = convert_dataset(data, tmp_path / "out", "luna16")
    told = " ".join(str(w.message) for w in caught)
    assert "1 of 1 boxes are no ball's" in told
    assert "the class is nodule" in told
    ((corners, _),) = again.cases[0].truth.boxes
    edges = (np.array(corners[3:]) - corners[:3] + 1) * read_ref(data, case.inputs["image"]).spacing_mm
    ours = (np.array(flat[0][3:]) - flat[0][:3] + 1) * read_ref(data, case.inputs["image"]).spacing_mm
    assert np.prod(edges) == pytest.approx(np.prod(ours), rel=1e-3)  # as large as it was


# -- what a layout cannot hold ------------------------------------------------------------------------------------


def test_what_yolo_and_voc_cannot_hold(tmp_path: Path) -> None:
    spared = cells(tmp_path / "a", ignored=True)
    with pytest.raises(DatasetError, match="case cell2: YOLO knows no box that is neither found nor missed"):
        convert_dataset(spared, tmp_path / "out", "yolo")
    data = cells(tmp_path / "b")
    first, *others = data.cases
    with pytest.raises(DatasetError, match="case cell0: YOLO takes a picture without a text file"):
        convert_dataset(data.with_cases([replace(first, truth=Truth()), *others]), tmp_path / "out", "yolo")
    with pytest.raises(DatasetError, match="nobody has looked at any"):
        convert_dataset(data.with_cases([replace(c, truth=Truth()) for c in data]), tmp_path / "out", "voc")
    with pytest.raises(DatasetError, match="identifier with blanks"):
        convert_dataset(data.with_cases([replace(first, id="a b"), *others]), tmp_path / "out", "voc")
    odd = replace(data, labels=(Label("two  blanks"), *CLASSES[1:]))
    with pytest.raises(DatasetError, match="a class has a name"):
        convert_dataset(odd, tmp_path / "out", "voc")
    phantom.write_chest_dataset(tmp_path / "chest", 1, 0, shape=(72, 72, 40))
    chest = open_dataset(tmp_path / "chest")
    for layout, name in (("yolo", "YOLO"), ("voc", "VOC"), ("coco", "COCO")):
        with pytest.raises(DatasetError, match=f"{name} holds pictures, not volumes"):
            convert_dataset(chest, tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_what_luna_cannot_hold(tmp_path: Path) -> None:
    phantom.write_chest_dataset(tmp_path / "chest", 2, 4, shape=(72, 72, 40))
    data = open_dataset(tmp_path / "chest")
    first, second = data.cases
    for wrong, words in (
        (replace(data, labels=(Label("a"), Label("b"))), "one volume a case and one class"),
        (data.with_cases([first, replace(second, truth=Truth())]), "case chest-0001: in LUNA16's layout every scan"),
        (data.with_cases([first, replace(second, inputs={"image": None})]), "case chest-0001: a case without"),
        (replace(cells(tmp_path / "c"), labels=CLASSES[:2]), "one class"),
    ):
        with pytest.raises(DatasetError, match=words):
            convert_dataset(wrong, tmp_path / "out", "luna16")
    pictures = cells(tmp_path / "d")
    empty = [replace(case, truth=Truth(True, boxes=())) for case in pictures]
    with pytest.raises(DatasetError, match="volumes of patients: got 2 axes"):
        convert_dataset(replace(pictures, labels=CLASSES[:1], cases=tuple(empty)), tmp_path / "out", "luna16")
    assert not (tmp_path / "out").exists()


def test_the_blood_smears_come_back(shared_data: Path, tmp_path: Path) -> None:
    data = open_dataset(shared_data / "bccd")
    data = data.with_cases(data.cases[:60])
    for layout in ("voc", "yolo", "coco"):
        require_same(data, convert_dataset(data, tmp_path / layout, layout, link=True))


def test_a_list_of_classes_that_does_not_fit_is_left_alone(tmp_path: Path) -> None:
    examples.voc(tmp_path)
    names = open_dataset(tmp_path).label_names
    for text in ("other\n", "", "\n".join([*names, names[0]])):
        (tmp_path / "labels.txt").write_text(text)
        assert open_dataset(tmp_path).label_names == names
    (tmp_path / "labels.txt").write_text("\n".join(["more", *reversed(names)]))
    assert open_dataset(tmp_path).label_names == ("more", *reversed(names))
