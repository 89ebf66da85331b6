"""Every kind of bad box is found by the command line, named with its case, and told apart from what is merely odd."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter

from medmap import phantom
from medmap.check import check, refused_boxes, require_usable_boxes
from medmap.check.boxes import _beyond
from medmap.cli import run as medmap
from medmap.config import to_yaml
from medmap.errors import BoxError, MedmapError, QualityWarning
from medmap.layouts import gathering, open_dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "layouts"))
import layout_examples as examples

COUNT = 24
ROWS, COLUMNS = 64, 80


def usual(n: int) -> list[dict[str, Any]]:
    """Two or three boxes of two classes, well inside, of sizes that differ a little."""
    rng = np.random.default_rng([n, 5])
    found = []
    for k, name in enumerate(("RBC", "WBC", "RBC")[: 2 + n % 2]):
        row, column = 4 + 18 * k + int(rng.integers(0, 3)), 6 + 20 * k + int(rng.integers(0, 5))
        height, width = (int(v) for v in rng.integers(9, 14, 2))
        found.append({"corners": [row, column, row + height, column + width], "label": name})
    return found


def planted(
    root: Path, boxes: dict[int, Any] | None = None, columns: dict[str, Callable[[int], str]] | None = None
) -> Path:
    """A detection dataset without fault, but for the cells that a test gives; images are pictures without a size."""
    (root / "images").mkdir(parents=True)
    said = {
        "medmap_dataset": 1, "name": "planted", "task": "detect", "inputs": {"image": {"modality": "OT"}},
        "labels": {0: "RBC", 1: "WBC"},
    }  # fmt: skip
    (root / "dataset.yaml").write_text(to_yaml(said))
    extra = columns or {}
    with (root / "cases.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "patient", "site", "split", "image", "boxes"])
        for n in range(COUNT):
            tissue = gaussian_filter(np.random.default_rng([n, 77]).normal(size=(ROWS, COLUMNS)), 1.5)
            picture = np.clip(90 + 20 * tissue / tissue.std(), 1, 250).astype(np.uint8)
            Pillow.fromarray(picture).save(root / f"images/c{n:02d}.png")
            cell: Any = usual(n)
            if boxes is not None and n in boxes:
                cell = boxes[n](cell) if callable(boxes[n]) else boxes[n]
            text = cell if isinstance(cell, str) else json.dumps(cell)
            site = extra.get("site", lambda n: ("north", "south")[n * 7 % 5 % 2])(n)
            split = extra.get("split", lambda n: ("train", "val", "train", "test")[n % 4])(n)
            table.writerow([f"c{n:02d}", f"p{n:02d}", site, split, f"images/c{n:02d}.png", text])
    return root


def told(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the findings by code."""
    code = medmap(["check", str(path), "--json"])
    return code, {issue["code"]: issue for issue in json.loads(capsys.readouterr().out)}


def with_box(corners: list[float], label: str = "RBC") -> Callable[[list[Any]], list[Any]]:
    return lambda cell: [*cell, {"corners": corners, "label": label}]


# -- a clean one, and each kind of bad input through the command line ---------------------------------------------


def test_a_clean_dataset_has_nothing_but_what_its_size_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(planted(tmp_path / "d"), capsys)
    assert code == 0
    assert set(found) <= {"too_few_boxes"}, found


@pytest.mark.parametrize(
    ("corners", "code", "severity", "words"),
    [
        ([70, 10, 80, 20], "box_outside_image", "error", "lies outside the image, the first c03: (70, 10, 80, 20)"),
        ([-9, -8, -2, -3], "box_outside_image", "error", "in 64 × 80"),
        ([50, 60, 70, 90], "box_partly_outside", "warning", "reaches beyond the image"),
        ([30, 10, 20, 25], "box_swapped_corners", "error", "has swapped corners: cases.csv, line 5"),
        ([30, 40, 12, 9], "box_swapped_corners", "error", "got [30, 40, 12, 9]"),
        ([0.2, 0.3, 0.5, 0.6], "box_wrong_unit", "error", "parts of the image's size (0 to 1)"),
        ([31, 31, 31, 31], "tiny_box", "warning", "1 box is not larger than a voxel, in c03"),
        ([0, 0, 63, 79], "box_fills_image", "warning", "1 box is as large as the image, in c03"),
        ([2, 2, 61, 75], "box_size_outlier", "info", "for example 66.6 in c03"),
    ],
)
def test_a_box_that_cannot_be_meant(
    corners: list[float], code: str, severity: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, found = told(planted(tmp_path / "d", {3: with_box(corners)}), capsys)
    assert found[code]["severity"] == severity
    assert found[code]["cases"] == ["c03"]
    assert words in found[code]["message"]
    assert found[code]["remedy"]
    assert exit_code == (1 if severity == "error" else 0)
    if severity == "error":
        assert set(found) - {code} <= {"too_few_boxes"}
    assert found[code]["details"]["rows"][0]["case"] == "c03"


@pytest.mark.parametrize(
    ("corners", "code"),
    [
        ([70, 10, 80, 20], "box_outside_image"),
        ([0.2, 0.3, 0.5, 0.6], "box_wrong_unit"),
        ([1, 2, 3, 4, 5, 6], "box_axes"),
        ([50, 60, 70, 90], None),
        ([31, 31, 31, 31], None),
    ],
)
def test_what_means_nothing_is_never_learned(corners: list[float], code: str | None, tmp_path: Path) -> None:
    root = planted(tmp_path / "d", {3: with_box(corners), 4: ""})
    (root / "images/c09.png").write_bytes(b"no picture")  # reading it says so, later
    data = open_dataset(root)
    if code is None:
        beyond = corners[3] > COLUMNS
        with pytest.warns(QualityWarning, match="1 box of 56 reaches beyond") if beyond else contextlib.nullcontext():
            require_usable_boxes(data)
        return
    with pytest.raises(BoxError, match="c03") as caught:
        require_usable_boxes(data)
    assert (caught.value.code, caught.value.case) == (code, "c03")
    assert "medmap check" in str(caught.value)
    assert medmap(["plan", str(root), "-o", str(tmp_path / "run.yaml")]) == 3
    assert medmap(["train", str(root), "-o", str(tmp_path / "run")]) == 3
    assert not (tmp_path / "run").exists()


def test_all_swapped_corners_are_listed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = planted(tmp_path / "d", {n: with_box([30, 10, 20, 25]) for n in (2, 9, 17)})
    code, found = told(root, capsys)
    assert code == 1
    assert found["box_swapped_corners"]["cases"] == ["c02", "c09", "c17"]
    assert "3 boxes" in found["box_swapped_corners"]["message"]
    assert [row["place"][:17] for row in found["box_swapped_corners"]["details"]["rows"]] == [
        "cases.csv, line 4", "cases.csv, line 1", "cases.csv, line 1",
    ]  # fmt: skip
    assert "width and height" in found["box_swapped_corners"]["remedy"]
    with pytest.raises(BoxError, match="line 4: a box has swapped corners"):  # nothing is learned from it
        open_dataset(root)
    assert medmap(["train", str(root), "-o", str(tmp_path / "run")]) == 3


def test_boxes_of_an_unknown_class_or_no_box_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {3: with_box([3, 3, 9, 9], "platelet"), 7: [{"corners": [1, 2, 3], "label": "RBC"}]}
    code, found = told(planted(tmp_path / "d", wrong), capsys)
    assert code == 1
    assert found["box_unknown_class"]["cases"] == ["c03"]
    assert "got 'platelet', expected RBC, WBC" in found["box_unknown_class"]["message"]
    assert found["box_unreadable"]["cases"] == ["c07"]
    root = planted(tmp_path / "e", {5: "[{"})
    assert medmap(["check", str(root), "--json"]) == 3
    assert "cases.csv, line 7: boxes are no JSON" in capsys.readouterr().err


def test_percent_everywhere_in_large_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom.write_chest_dataset(tmp_path / "d", 6, 3, shape=(220, 220, 220))
    data = open_dataset(tmp_path / "d")
    shape = 220
    with (tmp_path / "d/cases.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        boxes = json.loads(row[5])
        for box in boxes:
            box["corners"] = [100 * v / shape for v in box["corners"]]
        row[5] = json.dumps(boxes)
    with (tmp_path / "d/cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    issues = {issue.code: issue for issue in check(open_dataset(tmp_path / "d"))}
    assert "percent of the image's size" in issues["box_wrong_unit"].message
    assert issues["box_wrong_unit"].severity == "error"
    assert "box_wrong_unit" not in {issue.code for issue in check(data)}


def test_boxes_within_the_first_hundred_pixels_are_no_percent_in_small_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "box_wrong_unit" not in told(planted(tmp_path / "d"), capsys)[1]


def test_axes_that_were_exchanged_are_suspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def turned(cell: list[Any]) -> list[Any]:
        far = [*cell, {"corners": [30, 66, 40, 76], "label": "RBC"}]
        return [{"corners": [box["corners"][i] for i in (1, 0, 3, 2)], "label": box["label"]} for box in far]

    _, found = told(planted(tmp_path / "d", dict.fromkeys(range(COUNT), turned)), capsys)
    assert "x before y?" in found["box_outside_image"]["message"]
    _, found = told(planted(tmp_path / "e", {3: with_box([70, 10, 90, 20])}), capsys)
    assert "x before y?" not in found["box_outside_image"]["message"]


def test_the_same_box_twice_and_with_another_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def twice(cell: list[Any]) -> list[Any]:
        return [*cell, {**cell[0], "corners": [v + 0.05 for v in cell[0]["corners"]]}]

    def both(cell: list[Any]) -> list[Any]:
        return [*cell, {**cell[0], "label": "WBC"}]

    def near(cell: list[Any]) -> list[Any]:
        a, b, c, d = cell[0]["corners"]
        return [*cell, {"corners": [a, b, c + 1, d], "label": "RBC"}]  # nine tenths: two cells, perhaps

    _, found = told(planted(tmp_path / "d", {3: twice, 8: both, 11: near}), capsys)
    assert found["duplicate_boxes"]["cases"] == ["c03"]
    assert found["conflicting_boxes"]["cases"] == ["c08"]
    assert "RBC and WBC: 1" in found["conflicting_boxes"]["message"]
    assert len(found["conflicting_boxes"]["details"]["pairs"]) == 1


def test_empty_and_not_annotated_are_counted_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = told(planted(tmp_path / "d", {3: [], 7: [], 11: "", 12: ""}), capsys)
    issue = found["images_without_boxes"]
    assert "4 of 24 images without a box: 2 looked at and empty, 2 not annotated" in issue["message"]
    assert issue["details"] == {"empty": ["c03", "c07"], "not_annotated": ["c11", "c12"]}
    assert found["missing_label"]["cases"] == ["c11", "c12"]
    assert "empty_or_not_annotated" not in found
    _, found = told(planted(tmp_path / "e", {11: "", 12: ""}), capsys)
    assert found["empty_or_not_annotated"]["cases"] == ["c11", "c12"]
    assert "write [] for images" in found["empty_or_not_annotated"]["remedy"].lower()
    assert found["empty_or_not_annotated"]["severity"] == "warning"


@pytest.mark.parametrize("what", ["site", "split"])
def test_empty_images_from_one_place_alone(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = {n: [] for n in range(0, 24, 4)}
    places = {"site": ("elsewhere", "north"), "split": ("test", "train")}[what]
    columns = {"split": lambda n: ("train", "val")[n % 2], what: lambda n: places[0] if n % 4 == 0 else places[1]}
    _, found = told(planted(tmp_path / "d", empty, columns), capsys)
    assert found["empty_images_in_one_place"]["details"] == {what: places[0]}
    assert found["empty_images_in_one_place"]["cases"] == [f"c{n:02d}" for n in range(0, 24, 4)]
    _, found = told(planted(tmp_path / "e", empty), capsys)
    assert "empty_images_in_one_place" not in found


def test_what_the_classes_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def alone(cell: list[Any]) -> list[Any]:
        return [box for box in cell if box["label"] == "RBC"]

    _, found = told(planted(tmp_path / "d", dict.fromkeys(range(COUNT), alone)), capsys)
    assert "No box is of class WBC" in found["class_without_boxes"]["message"]
    some = {n: alone for n in range(COUNT) if n % 4 != 3 or n > 8}  # 3 and 7, both in test
    _, found = told(planted(tmp_path / "e", some), capsys)
    assert found["box_class_missing_from_split"]["details"] == {"missing": {"train": ["WBC"], "val": ["WBC"]}}
    assert found["box_class_missing_from_split"]["severity"] == "error"
    assert found["too_few_boxes"]["details"]["counts"] == {"WBC": 2}
    assert "RBC has 36 boxes, WBC 2: 18 to 1" in found["box_class_imbalance"]["message"]
    _, found = told(planted(tmp_path / "f", {n: [] for n in range(COUNT)}), capsys)
    assert found["class_without_boxes"]["severity"] == "error"


def test_an_image_with_far_more_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = [{"corners": [6 * i, 7 * j, 6 * i + 9, 7 * j + 10], "label": "RBC"} for i in range(9) for j in range(9)]
    _, found = told(planted(tmp_path / "d", {5: many}), capsys)
    assert found["many_boxes"]["cases"] == ["c05"]
    assert "c05 has 81" in found["many_boxes"]["message"]


def test_boxes_of_another_number_of_axes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(planted(tmp_path / "d", {4: with_box([1, 2, 3, 4, 5, 6])}), capsys)
    assert (code, found["box_axes"]["cases"]) == (1, ["c04"])


def test_sizes_are_judged_in_millimetres(tmp_path: Path) -> None:
    phantom.write_chest_dataset(tmp_path / "d", 12, 0, shape=(96, 96, 48))
    data = open_dataset(tmp_path / "d")
    assert not {i.code for i in check(data)} & {"box_size_outlier", "box_outside_image", "tiny_box", "duplicate_boxes"}
    case = max(data, key=lambda c: len(c.truth.boxes))
    from dataclasses import replace

    huge = replace(case, truth=replace(case.truth, boxes=(*case.truth.boxes, ((10, 10, 10, 70, 70, 40), 0))))
    issues = check(data.with_cases([huge if c is case else c for c in data]))
    (found,) = (issue for issue in issues if issue.code == "box_size_outlier")
    assert " mm)" in found.message
    assert found.cases == (case.id,)


# -- layouts that refuse ------------------------------------------------------------------------------------------

COCO = "annotations/instances_train.json"


def coco(**keys: Any) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        said = json.loads((root / COCO).read_text())
        good = {"id": 8, "image_id": 9, "category_id": 1, "bbox": [1, 2, 30, 20]}
        said["annotations"] = [{"id": 9, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], **keys}, good]
        (root / COCO).write_text(json.dumps(said))

    return damage


def yolo(line: str) -> Callable[[Path], None]:
    return lambda root: (root / "train/labels/b.txt").write_text(f"{line}\n0 .5 .5 .2 .2\n")  # type: ignore[func-returns-value]


FAR = "<xmin>71</xmin><ymin>2</ymin><xmax>80<"


def voc(old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "Annotations/a.xml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return damage


def luna(row: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        text = (root / "annotations.csv").read_text()
        (root / "annotations.csv").write_text(text + row + "\n")

    return damage


@pytest.mark.parametrize(
    ("layout", "damage", "code", "case"),
    [
        ("coco", coco(bbox=[100, 2, 3, 4]), "box_outside_image", "b"),
        ("coco", coco(bbox=[60, 40, 30, 20]), "box_partly_outside", "b"),
        ("coco", coco(bbox=[9, 9, 0, 4]), "box_without_size", "b"),
        ("coco", coco(bbox=[9, 9, -3, 4]), "box_without_size", "b"),
        ("coco", coco(category_id=77), "box_unknown_class", "b"),
        ("yolo", yolo("0 20 20 8 8"), "box_wrong_unit", "b"),
        ("yolo", yolo("9 .5 .5 .1 .1"), "box_unknown_class", "b"),
        ("yolo", yolo("0 .5 .5 .1 0"), "box_without_size", "b"),
        ("yolo", yolo("0 -.5 .5 .1 .1"), "box_without_size", "b"),
        ("yolo", yolo("0 .5 .5 .1"), "box_unreadable", "b"),
        ("voc", voc("<xmax>10</xmax>", "<xmax>0</xmax>"), "box_swapped_corners", "a"),
        ("voc", voc("<xmin>1</xmin><ymin>2</ymin><xmax>10<", FAR), "box_outside_image", "a"),
        ("luna", luna("1.2.4,1,1,1,-3"), "box_without_size", "1.2.4"),
        ("luna", luna("1.2.4,9000,1,1,3"), "box_outside_image", "1.2.4"),
        ("luna", luna("1.2.4,x,1,1,3"), "box_unreadable", "1.2.4"),
    ],
)  # fmt: skip
def test_a_layout_that_refuses_is_explained(
    layout: str, damage: Callable[[Path], None], code: str, case: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    examples.EXAMPLES[layout](tmp_path / "d")
    damage(tmp_path / "d")
    exit_code, found = told(tmp_path / "d", capsys)
    assert found[code]["cases"] == [case]
    assert exit_code == (0 if code == "box_partly_outside" else 1)
    assert all(found[code][key] for key in ("message", "effect", "remedy", "details"))
    if code != "box_partly_outside":  # and nothing is learned from it
        with pytest.raises(MedmapError):
            open_dataset(tmp_path / "d")


def test_parts_of_the_size_in_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples.coco(tmp_path)
    said = json.loads((tmp_path / COCO).read_text())
    said["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.1 * n]} for n in range(1, 4)
    ]
    (tmp_path / COCO).write_text(json.dumps(said))
    code, found = told(tmp_path, capsys)
    assert code == 1
    assert "3 boxes" in found["box_wrong_unit"]["message"]


@pytest.mark.parametrize("corners", [True, False])
def test_corners_in_the_place_of_width_and_height_in_coco(
    corners: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples.coco(tmp_path)
    said = json.loads((tmp_path / COCO).read_text())
    places = [(4 + 5 * n, 3 + 3 * n, 9, 8 + n % 3) for n in range(10)]  # x, y, width, height in 64 × 48
    boxes = [(x, y, x + w, y + h) if corners else (x, y, w, h) for x, y, w, h in places]
    said["annotations"] = [{"id": n, "image_id": 7, "category_id": 1, "bbox": box} for n, box in enumerate(boxes, 1)]
    (tmp_path / COCO).write_text(json.dumps(said))
    code, found = told(tmp_path, capsys)
    assert code == int(corners)
    assert ("box_corners_as_size" in found) is corners
    if corners:
        issue = found["box_corners_as_size"]
        assert "10 boxes" in issue["message"]
        assert "x0, y0, x1, y1" in issue["message"]
        assert issue["cases"] == ["a"]
        with pytest.raises(BoxError, match="x0, y0, x1, y1"):
            open_dataset(tmp_path)


def test_percent_of_the_size_in_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    images, boxes = [], []
    for n in range(6):
        Pillow.fromarray(np.full((480, 640), 40 + n, np.uint8)).save(tmp_path / f"images/{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 640, "height": 480})
        boxes.append({"id": n, "image_id": n, "category_id": 1, "bbox": [10 + 9 * n, 60 - 5 * n, 20, 35]})
    said = {"images": images, "categories": [{"id": 1, "name": "RBC"}], "annotations": boxes}
    (tmp_path / "annotations").mkdir()
    (tmp_path / COCO).write_text(json.dumps(said))
    code, found = told(tmp_path, capsys)
    assert code == 1
    assert "percent of the image's size" in found["box_wrong_unit"]["message"]


def test_an_image_whose_only_box_was_refused_is_not_said_to_be_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = [{"corners": [30, 10, 20, 25], "label": "RBC"}]
    root = planted(tmp_path / "d", {3: only, 4: lambda cell: [*cell, *only], 5: []})
    _, found = told(root, capsys)
    issue = found["images_without_boxes"]
    assert "2 of 24 images" in issue["message"]
    assert "1 looked at and empty, 0 not annotated, 1 whose boxes were all refused" in issue["message"]
    assert issue["details"] == {"empty": ["c05"], "not_annotated": [], "refused": ["c03"]}


def test_gathering_ends_with_its_block(tmp_path: Path) -> None:
    root = planted(tmp_path / "d", {3: with_box([30, 10, 20, 25])})
    with gathering() as refused:
        data = open_dataset(root)
    assert [error.code for error in refused] == ["box_swapped_corners"]
    assert len(data["c03"].truth.boxes) == len(usual(3))
    assert refused_boxes(refused, data)[0].cases == ("c03",)
    assert refused_boxes([], data) == []
    with pytest.raises(BoxError):
        open_dataset(root)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(5, 40), st.floats(-60, 60), st.floats(0, 60)), min_size=2, max_size=3))
def test_outside_means_that_hardly_a_voxel_is_covered(axes: list[tuple[int, float, float]]) -> None:
    shape = tuple(n for n, _, _ in axes)
    corners = (*(low for _, low, _ in axes), *(low + size for _, low, size in axes))
    partly, outside = _beyond(corners, shape)
    shares = [max(0.0, min(low + size, n - 1) - max(low, 0) + 1) / (size + 1) for n, low, size in axes]
    if not math.isclose(math.prod(shares), 0.1):
        assert outside == (math.prod(shares) < 0.1)
    inside = all(low >= -1 and low + size <= n for n, low, size in axes)
    assert partly == (not inside)


def test_the_blood_smears_have_two_boxes_of_one_pixel(shared_data: Path) -> None:
    with gathering() as refused:
        data = open_dataset(shared_data / "bccd")
    assert refused == []
    tiny = [case.id for case in data for corners, _ in case.truth.boxes or () if corners[:2] == corners[2:]]
    assert tiny == ["BloodImage_00338", "BloodImage_00343"]
    some = data.with_cases([c for c in data if c.id in {*tiny, "BloodImage_00001", "BloodImage_00002"}])
    (found,) = (issue for issue in check(some) if issue.code == "tiny_box")
    assert found.cases == tuple(tiny)


# -- in pictures --------------------------------------------------------------------------------------------------


def test_boxes_are_drawn_where_they_lie_on_a_smaller_picture() -> None:
    from medmap.check.box_pictures import box_labels, boxed
    from medmap.dataset import Case, Truth
    from medmap.write.planes import COLOURS

    boxes = (((20.0, 40.0, 59.0, 79.0), 1), ((90.0, 0.0, 120.0, 9.0), 0))  # the second reaches beyond
    case = Case("a", "a", {}, Truth(True, boxes=boxes))
    drawn = boxed(np.full((50, 80), 7, np.uint8), case, (100, 160))
    where = np.argwhere((drawn == COLOURS[1]).all(axis=2))
    assert (*where.min(0), *where.max(0)) == (10, 20, 29, 39)
    assert (drawn[11:29, 21:39] == 7).all()  # only the outline
    assert len(np.argwhere((drawn == COLOURS[0]).all(axis=2))) > 0
    assert (boxed(np.full((50, 80, 3), 7, np.uint8), case, (100, 160)) == drawn).all()
    volume = Case("b", "b", {}, Truth(True, boxes=(((1.0, 2.0, 3.0, 4.0, 5.0, 9.0), 0),)))
    labels = box_labels(volume, (6, 7, 8))
    where = np.argwhere(labels == 1)
    assert (*where.min(0), *where.max(0)) == (1, 2, 3, 4, 5, 7)
    assert box_labels(case, (6, 7, 8)) is None


def test_the_box_of_a_finding_is_marked_apart_in_its_picture(tmp_path: Path) -> None:
    from medmap.check import page
    from medmap.check.box_pictures import RED, WHITE, boxed, concerned
    from medmap.write.colours import colour_of

    data = open_dataset(planted(tmp_path / "d", {3: with_box([2, 2, 61, 75])}))
    (issue,) = (one for one in check(data) if one.code == "box_size_outlier")
    marks = concerned(issue.details)
    assert marks == {"c03": {(2.0, 2.0, 61.0, 75.0)}}
    drawn = boxed(np.zeros((ROWS, COLUMNS), np.uint8), data["c03"], (ROWS, COLUMNS), marks["c03"])
    line = (drawn == RED).all(axis=-1) | (drawn == WHITE).all(axis=-1)
    rows, columns = np.nonzero(line)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (1, 1, 62, 76)
    assert line[1:63, 1:77][2:-2, 2:-2].sum() == 0  # two pixels wide
    assert (drawn == RED).all(axis=-1).any()
    assert (drawn == colour_of(0)).all(axis=-1).any()  # the others have their class's colour
    text = page.render([issue], data)
    assert "the boxes of this finding" in text
    assert 'class="marked"' in text
    assert "the boxes of this finding" not in page.render([], data)


def test_the_report_names_the_classes_of_the_boxes(tmp_path: Path) -> None:
    root = planted(tmp_path / "d", {3: with_box([31, 31, 31, 31])})
    assert medmap(["check", str(root), "--report", str(tmp_path / "r.html"), "--quiet"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "tiny_box" in page
    assert '</span>RBC</li><li><span class="swatch"' in page
    assert "</span>WBC</li>" in page
