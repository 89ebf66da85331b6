"""``medmap predict`` of a detector: tables of all cases, numbers that fit COCO files, refusals, going on."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from dicom_sources import right_handed_image, written_series
from medmap.cli.answers import Request, write_answers
from medmap.cli.findings import coco_numbers
from medmap.cli.resumed import OWN
from medmap.cli.show import Screen
from medmap.errors import DatasetError, InterruptedRun, UsageError
from medmap.image import Image
from medmap.layouts import convert_dataset, open_dataset
from medmap.read import read_ref
from medmap.results import Boxes, Label, Prediction
from medmap.write import write

DIGEST = "sha256:" + "1" * 64


def bundle(*labels: str, shape: tuple[int, ...] = (16, 16), task: str = "detect") -> Any:
    """What ``predict`` asks a bundle for."""
    inputs = {"image": SimpleNamespace(size=shape, modality="OT")}
    names = tuple(Label(name) for name in labels)
    spec = SimpleNamespace(task=task, labels=names, inputs=inputs, kind=None, positive=None, warnings=())
    return SimpleNamespace(spec=spec, labels=names, digest=DIGEST)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every case is answered by its true boxes, the surer the later, the first below the operating point."""
    told: list[str] = []

    def predict_cases(bundles: Any, dataset: Any, **words: Any) -> Iterator[Prediction]:
        for case in dataset:
            told.append(case.id)
            image = read_ref(dataset, case.inputs["image"])
            rows = case.truth.boxes or ()
            labels = bundles[0].labels
            names = [dataset.labels[label].name for _, label in rows]
            ids = [[label.name for label in labels].index(name) for name in names]
            scores = [0.25 if n == 0 else 0.5 + n / 100 for n in range(len(rows))]
            corners = np.array([corners for corners, _ in rows]).reshape(-1, 2 * image.ndim)
            boxes = Boxes(corners, ids, scores, labels, image.geometry, thresholds=(0.5,) * len(labels))
            yield Prediction(case.id, {"boxes": boxes}, {"image": image.geometry}, DIGEST)

    monkeypatch.setattr(importlib.import_module("medmap.predict"), "predict_cases", predict_cases)
    return told


def pictures(folder: Path, names: tuple[str, ...] = ("cell", "blast")) -> Path:
    """Six pictures; 0 shows nothing, of the others each has as many boxes as its number."""
    rng = np.random.default_rng(4)
    (folder / "images").mkdir(parents=True)
    rows = [["case", "patient", "split", "image", "boxes"]]
    for n in range(6):
        image = Image(rng.integers(0, 255, (20 + n, 30), dtype=np.uint8), geometry_of(20 + n, 30))
        write(image, folder / f"images/{n}.png")
        boxes = [{"corners": [m, 2 * m, m + 4, 2 * m + 6], "label": names[m % len(names)]} for m in range(n)]
        rows.append([f"c{n}", f"p{n}", ("train", "val", "test")[n % 3], f"images/{n}.png", json.dumps(boxes)])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    labels = ", ".join(f"{n}: {name}" for n, name in enumerate(names))
    (folder / "dataset.yaml").write_text(
        f"medmap_dataset: 1\nname: pictures\ntask: detect\ninputs: {{image: {{modality: OT}}}}\nlabels: {{{labels}}}\n"
    )
    return folder


def geometry_of(*shape: int) -> Any:
    from medmap.geometry import Geometry

    return Geometry.without_size(shape)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def ask(out: Path, source: Path, formats: str, model: Any, *, resume: bool = False) -> dict[str, Any]:
    return write_answers([model], [source], out, Request(formats.split(","), resume=resume), Screen(quiet=True))


@pytest.mark.usefixtures("answered")
def test_a_row_a_box_and_only_the_called_ones_in_pictures(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    ask(tmp_path / "out", data, "json,csv,overlay", bundle("cell", "blast"))
    rows = table(tmp_path / "out/boxes.csv")
    assert len(rows) == 1 + 2 + 3 + 4 + 5
    assert [row["called"] for row in rows if row["case"] == "c3"] == ["no", "yes", "yes"]
    assert rows[0]["files"] == "000001.json | 000001.overlay.png"
    assert (rows[0]["i1"], rows[0]["j1"], rows[0]["k1"], rows[0]["first_slice"]) == ("4", "6", "", "")
    told = json.loads((tmp_path / "out/000003.json").read_text())["outputs"]["boxes"]["boxes"]
    assert [row["called"] for row in told] == [False, True, True]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not OWN.fullmatch(path.name)) == []


@pytest.mark.usefixtures("answered")
def test_the_results_fit_the_export_of_the_same_dataset(tmp_path: Path) -> None:
    """The dataset's own order counts, whichever split a case is in; and an export's own numbers when that is asked."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = pictures(tmp_path / "data")
    convert_dataset(open_dataset(data), tmp_path / "coco", layout="coco")
    model = bundle("blast", "cell")  # the bundle's order is not the dataset's
    index = ask(tmp_path / "one", data, "json,coco", model)
    again = ask(tmp_path / "two", tmp_path / "coco", "json,coco", model)
    assert index["coco"]["images"] == {f"c{n}": n + 1 for n in range(6)}
    assert again["coco"]["images"] == index["coco"]["images"]
    assert index["coco"]["categories"] == again["coco"]["categories"] == {"cell": 1, "blast": 2}
    one, two = (json.loads((tmp_path / name / "coco.json").read_text()) for name in ("one", "two"))
    key = lambda row: (row["image_id"], row["score"])  # noqa: E731
    assert sorted(one, key=key) == sorted(two, key=key)
    for split in ("train", "val", "test"):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(tmp_path / f"coco/annotations/instances_{split}.json"))
            mine = [row for row in one if row["image_id"] in truth.getImgIds()]
            judged = COCOeval(truth, truth.loadRes(mine), "bbox")
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        assert judged.stats[0] == pytest.approx(1.0)
    single = ask(tmp_path / "three", tmp_path / "coco/annotations/instances_val.json", "json,coco", model)
    assert single["coco"]["images"] == {"c1": 2, "c4": 5}


def test_coco_files_that_number_different_images_alike_are_refused(tmp_path: Path) -> None:
    convert_dataset(open_dataset(pictures(tmp_path / "data")), tmp_path / "coco", layout="coco")
    for file in (tmp_path / "coco/annotations").iterdir():
        content = json.loads(file.read_text())
        renumbered = {image["id"]: n for n, image in enumerate(content["images"])}
        for image in content["images"]:
            image["id"] = renumbered[image["id"]]
        for row in content["annotations"]:
            row["image_id"] = renumbered[row["image_id"]]
        file.write_text(json.dumps(content))
    data = open_dataset(tmp_path / "coco")
    with pytest.raises(DatasetError, match="number different images alike"):
        coco_numbers(data, [tmp_path / "coco"], bundle("cell", "blast"))
    one = tmp_path / "coco/annotations/instances_val.json"
    assert sorted(coco_numbers(open_dataset(one), [one], bundle("cell", "extra")).categories.items()) == [
        ("blast", 2), ("cell", 1), ("extra", 3),
    ]  # fmt: skip


def test_what_was_interrupted_ends_with_the_same_tables(
    answered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model, formats = pictures(tmp_path / "data"), bundle("cell", "blast"), "json,csv,coco,overlay"
    whole = ask(tmp_path / "whole", data, formats, model)
    room = importlib.import_module("medmap.predict")
    complete = room.predict_cases

    def stopped(*args: Any, **words: Any) -> Iterator[Prediction]:
        for number, one in enumerate(complete(*args, **words)):
            if number == 3:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(room, "predict_cases", stopped)
    with pytest.raises(InterruptedRun):
        ask(tmp_path / "out", data, formats, model)
    monkeypatch.setattr(room, "predict_cases", complete)
    answered.clear()
    assert ask(tmp_path / "out", data, formats, model, resume=True) == whole
    assert answered == ["c3", "c4", "c5"]
    for name in ("boxes.csv", "coco.json", "index.json"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert ask(tmp_path / "out", data, formats, model, resume=True) == whole


@pytest.mark.usefixtures("answered")
def test_luna16_of_volumes_is_read_back_as_annotations(tmp_path: Path) -> None:
    """The submission with a diameter is LUNA16's own table: the centres come back where the boxes are."""
    from medmap import phantom

    phantom.write_chest_dataset(tmp_path / "data", 3, seed=1, layout="luna16", shape=(64, 64, 32))
    data = open_dataset(tmp_path / "data")
    ask(tmp_path / "out", tmp_path / "data", "json,csv,luna16", bundle("nodule", shape=(32, 32, 16)))
    rows = table(tmp_path / "out/luna16.csv")
    assert len(rows) == sum(len(case.truth.boxes or ()) for case in data) > 0
    truth = table(tmp_path / "data/annotations.csv")
    for row in truth:  # centres of boxes around balls are the balls' own, where the border of the scan cuts none
        place = np.array([float(row[f"coord{axis}"]) for axis in "XYZ"])
        mine = [r for r in rows if r["seriesuid"] == row["seriesuid"]]
        apart = [np.linalg.norm(np.array([float(r[f"coord{axis}"]) for axis in "XYZ"]) - place) for r in mine]
        assert min(apart) < 0.01
    found = table(tmp_path / "out/boxes.csv")
    sized = [[r["seriesuid"], r["coordX"], r["coordY"], r["coordZ"], "6"] for r in rows]
    with (tmp_path / "data/annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"], *sized])
    again = open_dataset(tmp_path / "data")
    centres = {
        (case.id, *np.round((np.array(c[:3]) + np.array(c[3:])) / 2, 2)) for case in again for c, _ in case.truth.boxes
    }
    for row in found:
        low, high = ([float(row[f"{axis}{end}"]) for axis in "ijk"] for end in (0, 1))
        key = (row["case"], *np.round((np.array(low) + np.array(high)) / 2, 2))
        assert any(key[0] == c[0] and np.abs(np.array(key[1:]) - np.array(c[1:])).max() < 0.02 for c in centres)
        assert (int(row["first_slice"]), int(row["last_slice"])) == (
            int(np.floor(low[2] + 0.5)), max(int(np.floor(low[2] + 0.5)), int(np.ceil(high[2] - 0.5)))
        )  # fmt: skip


def test_a_case_without_a_called_box_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = right_handed_image()
    source = written_series(tmp_path / "series", image)
    low = Boxes(np.array([[1, 1, 2, 3, 3, 4.0]]), [0], [0.25], (Label("nodule"),), image.geometry, thresholds=(0.5,))
    found = [low]

    def predict_cases(bundles: Any, dataset: Any, **words: Any) -> Iterator[Prediction]:
        for case in dataset:
            yield Prediction(case.id, {"boxes": found[0]}, {"image": image.geometry}, DIGEST)

    monkeypatch.setattr(importlib.import_module("medmap.predict"), "predict_cases", predict_cases)
    formats = "json,csv,dicom-sr,dicom-seg,dicom-gsps,overlay"
    (row,) = ask(tmp_path / "none", source, formats, bundle("nodule", shape=(8, 8, 8)))["cases"]
    assert row["unwritten"] == {}
    assert row["files"] == ["000000.json", "000000.sr.dcm", "000000.seg.dcm", "000000.overlay.png"]
    found[0] = replace(low, thresholds=(0.1,))
    (row,) = ask(tmp_path / "one", source, formats, bundle("nodule", shape=(8, 8, 8)))["cases"]
    assert "000000.gsps.dcm" in row["files"]
    assert pydicom.dcmread(tmp_path / "one/000000.sr.dcm").Modality == "SR"
    (only,) = ask(tmp_path / "gsps", source, "dicom-gsps", bundle("nodule", shape=(8, 8, 8)))["cases"]
    assert only["error"] is None


@pytest.mark.parametrize(
    ("formats", "model", "said"),
    [
        ("json,mask", bundle("cell"), "boxes have no such format"),
        ("coco", bundle("cell", shape=(8, 8, 8)), "boxes with 2 axes"),
        ("luna16", bundle("cell"), "boxes with 3 axes"),
        ("luna16", bundle("cell", "blast", shape=(8, 8, 8)), "one class"),
        ("json,coco", bundle("cell", task="segment"), "made of boxes"),
        ("csv,bmp", bundle("cell"), "unknown format"),
    ],
)
def test_formats_that_no_answer_can_have_are_refused_at_once(
    formats: str, model: Any, said: str, answered: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        ask(tmp_path / "out", pictures(tmp_path / "data"), formats, model)
    assert answered == []
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("answered")
def test_a_volume_without_millimetres_has_no_place_in_luna16(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data/a.npy", np.zeros((6, 7, 8), np.float32))
    boxes = json.dumps([{"corners": [1, 1, 1, 3, 3, 3], "label": "nodule"}])
    with (tmp_path / "data/cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["case", "patient", "image", "boxes"], ["a", "p", "a.npy", boxes]])
    (tmp_path / "data/dataset.yaml").write_text(
        "medmap_dataset: 1\nname: x\ntask: detect\ninputs: {image: {modality: CT}}\nlabels: {0: nodule}\n"
    )
    model = bundle("nodule", shape=(4, 4, 4))
    (row,) = ask(tmp_path / "out", tmp_path / "data", "json,luna16", model)["cases"]
    assert "volumes in millimetres" in row["unwritten"]["luna16"]
    assert table(tmp_path / "out/luna16.csv") == []
    (row,) = ask(tmp_path / "no", tmp_path / "data", "luna16", model)["cases"]
    assert "luna16 was not written" in row["error"]
