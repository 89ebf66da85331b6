"""Tables of boxes: a row a box, COCO's results through pycocotools, LUNA16's submission in world millimetres."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medmap as mm
from grids import oblique_geometry
from medmap.errors import UsageError
from medmap.geometry import Geometry
from medmap.layouts.coco import bbox_of_corners
from medmap.layouts.luna import corners_of_ball
from medmap.results import Boxes, Label, Prediction, Scores
from medmap.write.findings import COLUMNS, coco_results

CELL, BLAST = Label("cell"), Label("blast; rare")
FLAT = Geometry.without_size((40, 60))


def flat(rows: list[list[float]], labels: list[int], scores: list[float]) -> Boxes:
    return Boxes(np.array(rows).reshape(-1, 4), labels, scores, (CELL, BLAST), FLAT, thresholds=(0.5, 0.8))


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_row_a_box_with_slices_and_millimetres(tmp_path: Path) -> None:
    grid = oblique_geometry()
    found = Boxes(
        np.array([[1, 2, 3, 3, 4, 5.5], [0, 0, 0, 1, 1, 1]]), [0, 0], [0.75, 0.25], (CELL,), grid, thresholds=(0.5,)
    )
    path = mm.write(Prediction("c1", {"boxes": found}), tmp_path / "b.csv")
    first, second = read(path)
    assert list(first) == list(COLUMNS)
    assert [first[name] for name in ("i0", "j0", "k0", "i1", "j1", "k1")] == ["1", "2", "3", "3", "4", "5.5"]
    assert (first["case"], first["label"], first["score"], first["called"]) == ("c1", "cell", "0.75", "yes")
    assert (first["first_slice"], first["last_slice"], second["called"]) == ("3", "5", "no")
    centre = [float(v) for v in first["centre_mm"].split()]
    assert centre == pytest.approx(grid.to_world([(2, 3, 4.25)])[0].tolist(), abs=6e-4)
    assert [float(v) for v in first["size_mm"].split()] == pytest.approx([3 * 0.7, 3 * 1.3, 3.5 * 2.9], abs=6e-4)
    several = [Prediction("a", {"boxes": flat([[0, 1, 2, 3]], [1], [0.5])}), Prediction("b", {"boxes": found})]
    rows = read(mm.write(several, tmp_path / "c.csv", "csv"))
    assert [(row["case"], row["label"], row["k0"]) for row in rows[:2]] == [
        ("a", "blast; rare", ""),
        ("b", "cell", "3"),
    ]


def test_scores_of_several_predictions_are_one_table(tmp_path: Path) -> None:
    several = [Prediction(name, {"scores": Scores((CELL, BLAST), [0.25, 0.75])}) for name in "ab"]
    rows = read(mm.write(several, tmp_path / "s.csv"))
    assert [(row["case"], row["score_cell"]) for row in rows] == [("a", "0.25"), ("b", "0.25")]


box = st.tuples(st.integers(0, 39), st.integers(0, 59), st.integers(0, 39), st.integers(0, 59))


@settings(max_examples=30, deadline=None)
@given(st.lists(box, max_size=6), st.integers(0, 2**31))
def test_pycocotools_reads_every_box_beside_the_truth(rows: list[tuple[int, int, int, int]], seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    corners = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in rows]
    labels = rng.integers(0, 2, len(rows)).tolist()
    boxes = flat(corners, labels, rng.random(len(rows)).tolist())
    found = json.loads(coco_results([(3, boxes.as_json())], {"cell": 1, "blast; rare": 2}))
    truth = {
        "images": [{"id": 3, "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "blast; rare"}],
        "annotations": [
            {"id": n + 1, "image_id": 3, "category_id": label + 1, "bbox": (bbox := bbox_of_corners(tuple(corner))),
             "area": bbox[2] * bbox[3], "iscrowd": 0}
            for n, (corner, label) in enumerate(zip(corners, labels, strict=True))
        ],
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        if not found:
            assert not rows
            return
        judged = COCOeval(coco, coco.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    assert judged.stats[1] == pytest.approx(1.0)  # AP50 of boxes that are the true ones
    assert [row["bbox"] for row in found] == [bbox_of_corners(tuple(corner)) for corner in corners]


def test_coco_counts_predictions_and_classes_from_1(tmp_path: Path) -> None:
    several = [
        Prediction("x", {"boxes": flat([], [], [])}),
        Prediction("y", {"boxes": flat([[1, 2, 4, 7]], [1], [0.3])}),
    ]
    path = mm.write(several, tmp_path / "coco.json", "coco")
    assert json.loads(path.read_text()) == [
        {"image_id": 2, "category_id": 2, "bbox": [2.0, 1.0, 6.0, 4.0], "score": 0.3}
    ]
    assert mm.write(several[0], tmp_path / "none.json", "coco").read_text() == "[]\n"


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.floats(3, 9))
def test_luna16_has_centres_in_world_millimetres(
    tmp_path_factory: pytest.TempPathFactory, aside: tuple[float, float, float], diameter: float
) -> None:
    grid = oblique_geometry()
    centre = grid.to_world([(2, 3, 5)])[0] + np.array(aside)
    corners = corners_of_ball(grid, centre.tolist(), diameter)
    boxes = Boxes(np.array([corners]), [0], [0.25], (Label("nodule"),), grid)
    folder = tmp_path_factory.mktemp("luna")
    path = mm.write(Prediction("1.3.6.1.mhd", {"boxes": boxes}), folder / "luna16.csv", "luna16")
    (row,) = read(path)
    assert list(row) == ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    assert row["seriesuid"] == "1.3.6.1"
    assert row["probability"] == "0.25"
    assert [float(row[f"coord{axis}"]) for axis in "XYZ"] == pytest.approx(centre.tolist(), abs=1e-6)


def test_what_a_table_cannot_hold_is_refused(tmp_path: Path) -> None:
    volume = Boxes(np.zeros((1, 6)), [0], [1.0], (CELL,), oblique_geometry())
    nowhere = Boxes(np.zeros((1, 6)), [0], [1.0], (CELL,), Geometry.without_size((5, 7, 11)))
    cases = [
        (volume, "coco", "boxes of pictures"),
        (nowhere, "luna16", "volumes in millimetres"),
        (flat([[0, 0, 1, 1]], [0], [0.5]), "luna16", "one class"),
        (Scores((CELL,), [1.0]), "coco", "made of boxes"),
        ([], "coco", "no prediction"),
        (
            [Prediction("a", {"boxes": volume}), Prediction("b", {"boxes": flat([], [], [])})],
            "coco",
            "different classes",
        ),
    ]
    for value, format, said in cases:
        with pytest.raises(UsageError, match=said):
            mm.write(value, tmp_path / "no", format)
    assert list(tmp_path.iterdir()) == []
