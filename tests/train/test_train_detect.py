"""Images with boxes to a bundle that gives boxes: trained, judged out of fold, exported, asked through the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medmap.augment import OFF
from medmap.bundle import Bundle, verify
from medmap.cli import run as medmap
from medmap.errors import BoxError, BundleError, ConfigError, DatasetError
from medmap.evaluate import evaluate
from medmap.fit import FitSection
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.metrics import box_iou
from medmap.networks import NetworkSpec
from medmap.plan import EnsembleSection, NetworkSection, Run, detect, fingerprint, plan, training_cases
from medmap.predict import predict
from medmap.prepare import PrepareSection
from medmap.results import Boxes, Label
from medmap.tasks.detect import Detect, DetectSection
from medmap.train import detected, train
from medmap.write import write

SPACING = (0.8, 1.2)
STRIDES = ((2, 2), (2, 2), (2, 2))


def write_discs(folder: Path, count: int = 24, ndim: int = 2) -> Path:
    """Pictures or volumes with bright and dark blobs on noise and a box around each; every fourth shows nothing."""
    rng = np.random.default_rng(11)
    (folder / "images").mkdir(parents=True)
    spacing = SPACING if ndim == 2 else (*SPACING, 2.0)
    with (folder / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "patient", "split", "image", "boxes"])
        for n in range(count):
            shape = tuple(int(v) for v in rng.integers(40, 52, ndim)) if ndim == 2 else (40, 36, 24)
            pixels = rng.normal(0, 10, shape)
            boxes = []
            for label, value in (("bright", 90), ("dark", -90)) if n % 4 else ():
                half = rng.integers(4, 7, ndim) if ndim == 2 else rng.integers(3, 6, ndim)
                centre = np.array([int(rng.integers(h + 1, s - h - 1)) for h, s in zip(half, shape, strict=True)])
                grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
                inside = (((grid - centre) / (half + 0.5)) ** 2).sum(-1) <= 1
                pixels[inside] = value
                boxes.append({"corners": [*(centre - half).tolist(), *(centre + half).tolist()], "label": label})
            image = Image(pixels.astype(np.float32), Geometry.from_spacing(shape, spacing))
            write(image, folder / f"images/{n}.nii.gz")
            split = "test" if n >= count - 6 else "train"
            rows.writerow([f"c{n}", f"p{n}", split, f"images/{n}.nii.gz", json.dumps(boxes)])
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: discs\ntask: detect\ninputs: {image: {modality: OT}}\nlabels: {0: bright, 1: dark}\n"
    )
    return folder


def small_run(name: str = "fcos", ndim: int = 2, **fit: object) -> Run:
    shape = (32, 32) if ndim == 2 else (32, 32, 16)
    spacing = SPACING if ndim == 2 else (*SPACING, 2.0)
    anchors = () if name == "fcos" else (((11.0,) * ndim, (13.0,) * ndim),) * 3
    return Run(
        task=DetectSection(patches=6),
        prepare=PrepareSection(shape=shape, grid="spacing", spacing_mm=spacing, intensity="zscore"),
        augment=OFF.model_copy(update={"flip_axes": tuple(range(ndim)), "scale": 0.1, "probability": 1.0}),
        network=NetworkSection(name=name, width=0.25, strides=((2,) * ndim,) * 3, finest=1, anchors=anchors),
        fit=FitSection(
            epochs=20, batch_size=8, learning_rate=3e-3, warmup_epochs=1, threads=1, select="last", ema_epochs=1
        ).model_copy(update=fit),
        ensemble=EnsembleSection(folds=2, members=2),
    )


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs") / "data")


@pytest.fixture(scope="module")
def trained(discs: Path) -> Path:
    train(small_run(), open_dataset(discs), discs.parent / "run", listener=lambda event: None)
    return discs.parent / "run"


def test_a_detector_is_judged_out_of_fold_and_on_test_cases(discs: Path, trained: Path) -> None:
    judged = json.loads((trained / "evaluation/metrics.json").read_text())
    values = {(row["name"], row["group"], row["average"]): row["value"] for row in judged["metrics"]}
    assert judged["task"] == "detect"
    assert judged["split"] == "oof"
    assert judged["cases"] == 18
    assert values["ap50", "all", None] > 0.7
    bundle = Bundle.load(trained / "bundle")
    assert len(bundle.decision.thresholds) == 2
    report = evaluate(bundle, open_dataset(discs), "test")
    assert report.row("ap50").value > 0.7
    assert report.row("froc_cpm").value > 0.7


def test_every_engine_finds_the_same_boxes(trained: Path, discs: Path) -> None:
    bundle = Bundle.load(trained / "bundle")
    assert bundle.spec.engines["onnx"]["passed"] is True
    assert bundle.spec.engines["openvino"]["passed"] is True
    assert bundle.spec.engines["openvino"]["boxes_matched"] > 0.99
    assert all(row.passed for row in verify(bundle))
    image = discs / "images/23.nii.gz"
    there, here = (predict(bundle, image, engine=engine).outputs["boxes"] for engine in ("torch", "openvino"))
    assert isinstance(there, Boxes)
    assert isinstance(here, Boxes)
    kept = there.called
    assert kept.any()
    assert box_iou(there.corners[kept], here.corners).max(1).min() > 0.99


def test_boxes_lie_where_the_image_says(trained: Path, discs: Path) -> None:
    data = open_dataset(discs)
    for number in (21, 22, 23):
        case = data[f"c{number}"]
        found = predict(Bundle.load(trained / "bundle"), discs / f"images/{number}.nii.gz").outputs["boxes"]
        assert isinstance(found, Boxes)
        for corners, label in case.truth.boxes or ():
            mine = found.taken(found.label_ids == label)
            shared = box_iou(np.array([corners]), mine.corners)[0]
            best = int(np.argmax(shared * mine.scores))
            middle = (np.array(corners[:2]) + np.array(corners[2:])) / 2 * np.array(SPACING)
            assert np.abs(mine.centres_mm()[best][:2] - middle).max() < 2.0


def test_boxes_through_the_command(trained: Path, discs: Path, tmp_path: Path) -> None:
    assert medmap(["predict", str(trained), str(discs), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert len(index["cases"]) == 24
    one = next(row for row in index["cases"] if row["case"] == "c23")
    told = json.loads((tmp_path / "out" / next(f for f in one["files"] if f.endswith(".json"))).read_text())
    boxes = told["outputs"]["boxes"]["boxes"]
    assert {row["label"] for row in boxes if row["called"]} == {"bright", "dark"}
    assert medmap(["evaluate", str(trained), str(discs), "-o", str(tmp_path / "judged"), "--quiet"]) == 0
    assert (tmp_path / "judged/report.html").exists()
    assert (tmp_path / "judged/predictions.csv").exists()


def test_the_rule_of_hits_is_the_users(
    trained: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ["evaluate", str(trained), str(discs), "--quiet", "-o"]
    assert medmap([*order, str(tmp_path / "strict"), "--hit", "iou:0.95", "--sizes", "9,11"]) == 0
    assert medmap([*order, str(tmp_path / "loose"), "--hit", "centre"]) == 0
    judged = [json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in ("strict", "loose")]
    found = [{(row["name"], row["group"]): row["value"] for row in rows} for rows in judged]
    assert found[0]["froc_cpm", "all"] < found[1]["froc_cpm", "all"]
    assert found[0]["ap50", "all"] == found[1]["ap50", "all"], "average precision has its own rule"
    assert {group for _, group in found[0] if group.startswith("size")} == {"size<9mm", "size=9–11mm", "size≥11mm"}
    for words, told in (
        (["--hit", "nearby"], "unknown rule of hits"),
        (["--hit", "iou:2"], "unknown rule of hits"),
        (["--sizes", "10,5"], "ranges of size rise"),
        (["--sizes", "5mm"], "ranges of size are numbers"),
    ):
        assert medmap([*order, str(tmp_path / "not"), *words]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "not").exists()


def test_what_reaches_a_person_and_who_judges(
    trained: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(trained), str(discs), "-o", str(tmp_path / "out"), "--format", "json,csv,coco,overlay"]
    assert medmap([*words, "--quiet"]) == 0
    index = json.loads((tmp_path / "out/index.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out/boxes.csv").read_text().splitlines()))
    judged = json.loads((tmp_path / "out/coco.json").read_text())
    assert len(rows) == len(judged) > 24
    assert [row["image_id"] for row in judged] == [index["coco"]["images"][row["case"]] for row in rows]
    assert {row["called"] for row in rows} == {"yes", "no"}
    assert all(any(name.endswith(".overlay.png") for name in row["files"]) for row in index["cases"])
    before = (tmp_path / "out/boxes.csv").read_bytes()
    assert medmap([*words, "--quiet", "--resume"]) == 0
    assert (tmp_path / "out/boxes.csv").read_bytes() == before
    capsys.readouterr()
    assert medmap(["info", str(trained), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    bundle = Bundle.load(trained / "bundle")
    assert list(facts["operating_points"].values()) == pytest.approx(bundle.decision.thresholds, abs=1e-4)
    assert facts["input_grid"] == "patches of 32 × 32 voxels, each 0.8 × 1.2 mm"
    assert facts["judged"].startswith("18 cases")
    assert facts["ap50"]["value"] > 0.7
    assert "How it calls findings" in (trained / "bundle/CARD.md").read_text()


def test_retinanet_in_three_dimensions_learns(tmp_path: Path) -> None:
    data = open_dataset(write_discs(tmp_path / "data", 14, ndim=3))
    run = small_run("retinanet", 3, epochs=5, batch_size=4).override(
        ["ensemble.folds=0", "ensemble.members=1", "task.patches=8", "network.norm=instance"]
    )
    bundle = train(run, data, tmp_path / "run", listener=lambda event: None)
    report = evaluate(bundle, data, "test")
    assert report.row("ap50").value > 0.5


def test_two_stages_learn_and_are_exported_as_two_graphs(discs: Path, tmp_path: Path) -> None:
    data = open_dataset(discs)
    run = small_run("faster_rcnn", epochs=12)
    bundle = train(run, data, tmp_path / "run", listener=lambda event: None)
    assert (bundle.path / "second.onnx").exists()
    for engine in ("onnx", "openvino"):
        assert bundle.spec.engines[engine]["passed"] is True
        assert bundle.spec.engines[engine]["boxes_matched"] >= 0.99
    assert all(row.passed for row in verify(bundle))
    assert evaluate(bundle, data, "test").row("ap50").value > 0.7
    image = discs / "images/23.nii.gz"
    there, here = (predict(bundle, image, engine=engine).outputs["boxes"] for engine in ("torch", "onnx"))
    assert isinstance(there, Boxes)
    assert isinstance(here, Boxes)
    assert there.called.any()
    assert box_iou(there.corners[there.called], here.corners).max(1).min() > 0.99
    (bundle.path / "second.onnx").unlink()
    with pytest.raises(BundleError, match=r"second\.onnx"):
        Bundle.load(bundle.path)


def test_networks_that_judge_a_case_answer_for_it_together(tmp_path: Path) -> None:
    """Two networks and one validation split: the operating point is that of both, as predict asks both."""
    spec = NetworkSpec("fcos", 2, 1, 1, (32, 32), width=0.25, strides=STRIDES, finest=1, boxes=True)
    task = Detect(DetectSection(), (Label("disc"),), spec)
    (tmp_path / detected.JUDGED).mkdir()
    told = [([[2.0, 2, 9, 9], [20, 20, 29, 29]], [0.9, 0.8]), ([[2.0, 2, 9, 9]], [0.5])]
    members = [SimpleNamespace(number=number) for number in range(2)]
    for member, (corners, scores) in zip(members, told, strict=True):
        where = tmp_path / detected.JUDGED / detected._file(7, member)  # type: ignore[arg-type]
        np.savez(where, corners=corners, scores=scores, labels=np.zeros(len(scores), int))
    trace = SimpleNamespace(source=Geometry.without_size((32, 32)))
    work: Any = SimpleNamespace(
        output=tmp_path, task=task, store=SimpleNamespace(prepared={7: SimpleNamespace(trace=trace)})
    )
    both: Any = members
    assert detected._boxes(work, 7, both).scores.tolist() == pytest.approx([0.7, 0.4])
    assert detected._boxes(work, 7, both[:1]).scores.tolist() == pytest.approx([0.9, 0.8])


def test_boxes_are_not_mixed(discs: Path, tmp_path: Path) -> None:
    run = small_run(epochs=1)
    with pytest.raises(ConfigError, match="not mixed"):
        train(run.override(["augment.mixup=0.4"]), open_dataset(discs), tmp_path / "run", listener=lambda event: None)


def test_more_formats_are_not_forgotten_by_resume(
    trained: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(trained), str(discs / "images/23.nii.gz"), "-o", str(tmp_path / "out"), "--quiet"]
    assert medmap([*words, "--format", "json"]) == 0
    assert medmap([*words, "--format", "json,overlay", "--resume"]) == 2
    assert "other formats" in capsys.readouterr().err
    assert medmap([*words, "--format", "json,csv", "--resume"]) == 0, "a table is made of what is there"


def test_boxes_beside_their_image_are_not_judged(trained: Path, discs: Path, tmp_path: Path) -> None:
    data = open_dataset(discs)
    looks = (trained / "looks.jsonl").read_text() if (trained / "looks.jsonl").exists() else ""
    first, *others = [case for case in data if case.truth.boxes]
    (corners, label), *_ = first.truth.boxes or ()
    for far in ((*(v + 500 for v in corners),), (*corners[:2], 9.0, *corners[2:], 9.0)):
        odd = replace(first, truth=replace(first.truth, boxes=((far, label),)))
        with pytest.raises(BoxError, match=first.id):
            evaluate(Bundle.load(trained / "bundle"), data.with_cases([odd, *others]), "all")
    assert ((trained / "looks.jsonl").read_text() if (trained / "looks.jsonl").exists() else "") == looks


def test_two_stages_learn_from_volumes(tmp_path: Path) -> None:
    data = open_dataset(write_discs(tmp_path / "data", 14, ndim=3))
    run = small_run("faster_rcnn", 3, epochs=4, batch_size=4).override(
        ["ensemble.folds=0", "ensemble.members=1", "task.patches=8", "network.norm=instance"]
    )
    bundle = train(run, data, tmp_path / "run", listener=lambda event: None)
    assert bundle.spec.engines["openvino"]["passed"] is True
    assert evaluate(bundle, data, "test").row("ap50").value > 0.5


def test_the_plan_of_a_detection(discs: Path) -> None:
    run = plan(open_dataset(discs), budget_s=60)
    assert run.task.kind == "detect"
    assert run.network.name == "fcos"
    assert "network.finest" in run.reasons
    assert run.prepare.spacing_mm is not None
    data = training_cases(open_dataset(discs))
    words = {"seed": 0, "device": "cpu", "budget_s": None, "memory_bytes": 2**31, "network": {"name": "retinanet"}}
    drafted = detect.first_draft(data, fingerprint(data), "rules", words)
    for row in drafted.network.anchors:
        assert len(row) == 2
        assert row[0][0] < row[1][0]
    sides = np.array(drafted.network.anchors).reshape(-1, 2)
    assert sides.min() > 3
    assert sides.max() < 80


def test_a_dataset_without_a_box_is_refused(discs: Path, tmp_path: Path) -> None:
    data = open_dataset(discs)
    empty = data.with_cases([case for case in data if not case.truth.boxes])
    with pytest.raises(DatasetError, match="has a box"):
        train(small_run(), empty, tmp_path / "run", listener=lambda event: None)


def test_the_command_exports_with_boxes_as_the_measure(trained: Path, discs: Path, tmp_path: Path) -> None:
    words = ["export", str(trained), "-o", str(tmp_path / "made"), "--to", "openvino", "--dataset", str(discs)]
    assert medmap([*words, "--json"]) == 0
    parity = Bundle.load(tmp_path / "made").spec.engines["openvino"]
    assert parity["cases"] == 16
    assert parity["boxes_matched"] >= 0.99
    assert abs(parity["ap50_drop"]) <= 0.002


def test_boxes_hardly_meant_are_not_learned_silently(discs: Path) -> None:
    data = open_dataset(discs)
    first, second, *others = [case for case in data if case.truth.boxes]
    corners, label = first.truth.boxes[0]
    point = ((*corners[:2], *corners[:2]), label)
    odd = [
        replace(first, truth=replace(first.truth, boxes=((corners, label), (corners, label)))),
        replace(second, truth=replace(second.truth, boxes=(point,))),
    ]
    assert detected.doubts(data) == ()
    told = detected.doubts(data.with_cases([*odd, *others]))
    assert [sentence.partition(": learned")[0] for sentence in told] == [
        "1 box of a single voxel",
        "1 box given more than once",
    ]
    bright = [replace(case, truth=replace(case.truth, boxes=(case.truth.boxes or ())[:1])) for case in (first, second)]
    assert detected.doubts(data.with_cases(bright)) == ("there is no box of dark to learn from",)


def test_the_memory_allowed_is_kept_or_refused(trained: Path, discs: Path, tmp_path: Path) -> None:
    words = ["predict", str(trained), str(discs / "images/23.nii.gz"), "--quiet"]
    assert medmap([*words, "-o", str(tmp_path / "small"), "--memory", "256MiB"]) in (1, 3)
    assert medmap([*words, "-o", str(tmp_path / "enough"), "--memory", "64GiB"]) == 0
    assert medmap([*words, "-o", str(tmp_path / "free")]) == 0
    made = [(tmp_path / name / "000000.json").read_text() for name in ("enough", "free")]
    assert json.loads(made[0])["outputs"] == json.loads(made[1])["outputs"]


def test_several_bundles_are_put_together_by_what_their_scores_mean(trained: Path, discs: Path) -> None:
    one = Bundle.load(trained / "bundle")
    image = discs / "images/23.nii.gz"
    alone, twice = (predict(bundles, image).outputs["boxes"] for bundles in (one, [one, one]))
    assert isinstance(alone, Boxes)
    assert isinstance(twice, Boxes)
    kept = alone.called
    assert kept.any()
    np.testing.assert_allclose(twice.scores[: kept.sum()], alone.scores[kept], rtol=1e-6)
    assert twice.thresholds == alone.thresholds
    assert twice.calibrated == alone.calibrated
