"""Images with masks to a bundle that gives masks: trained, judged out of fold, exported, asked through the command."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from medmap import phantom
from medmap.augment import OFF
from medmap.bundle import Bundle, parity
from medmap.cli import run as medmap
from medmap.decision import ComponentRule
from medmap.errors import BundleError, DataError, MedmapError, MedmapWarning, UsageError
from medmap.evaluate import Options, evaluate, read_structures
from medmap.fit import FitSection
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.plan import EnsembleSection, NetworkSection, Run
from medmap.predict import predict
from medmap.prepare import PrepareSection
from medmap.read import read, read_ref
from medmap.runtime import CpuFacts, Parity
from medmap.tasks.segment import SegmentSection
from medmap.train import _empty_if_refused, segmented, train
from medmap.train.members import Member
from medmap.write import write
from nested_masks import nested_run, write_nested

SPACING = (1.0, 1.5)
FEWEST = 0.8
FIT = FitSection(epochs=8, batch_size=8, learning_rate=5e-3, warmup_epochs=1, threads=1, select="last", ema_epochs=1)


def write_squares(folder: Path, count: int = 16) -> Path:
    """Pictures with a bright square on noise and its mask, each of its own size, as NIfTI with a spacing."""
    rng = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    rows = ["case,patient,split,image,mask"]
    for n in range(count):
        shape = (int(rng.integers(26, 40)), int(rng.integers(26, 40)))
        mask = np.zeros(shape, np.uint8)
        row, column = rng.integers(4, 14, 2)
        mask[row : row + 9, column : column + 8] = 1
        image = rng.normal(0, 20, shape) + 100 * mask
        grid = Geometry.from_spacing(shape, SPACING)
        write(Image(image.astype(np.float32), grid), folder / f"images/{n}.nii.gz")
        write(Image(mask, grid, "label"), folder / f"images/{n}_mask.nii.gz")
        split = "test" if n >= count - 4 else ""
        rows.append(f"c{n},p{n},{split or 'train'},images/{n}.nii.gz,images/{n}_mask.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: squares\ntask: segment\ninputs: {image: {modality: OT}}\n"
        "labels: {0: background, 1: square}\n"
    )
    return folder


def small_run(**fit: object) -> Run:
    return Run(
        task=SegmentSection(patches=6, foreground=0.7),
        prepare=PrepareSection(shape=(16, 16), grid="spacing", spacing_mm=SPACING, intensity="zscore"),
        augment=OFF,
        network=NetworkSection(name="unet", width=0.25),
        fit=FitSection(
            epochs=6, batch_size=8, learning_rate=5e-3, warmup_epochs=1, threads=1, select="last", ema_epochs=1
        ).model_copy(update=fit),
        ensemble=EnsembleSection(folds=2, members=2),
    )


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares") / "data")


@pytest.fixture(scope="module")
def trained(squares: Path) -> Path:
    train(small_run(), open_dataset(squares), squares.parent / "run", listener=lambda event: None)
    return squares.parent / "run"


def test_the_way_from_masks_to_masks(trained: Path, squares: Path) -> None:
    bundle = Bundle.load(trained)
    assert bundle.spec.task == "segment"
    assert [label.name for label in bundle.labels] == ["background", "square"]
    assert {"onnx", "openvino"} <= bundle.spec.engines.keys()
    assert all(parity["passed"] for name, parity in bundle.spec.engines.items() if ":" not in name)
    found = json.loads((trained / "evaluation/metrics.json").read_text())
    dice = next(row for row in found["metrics"] if row["name"] == "dice" and row["group"] == "all")
    assert found["split"] == "oof"
    assert found["cases"] == 12
    assert [tuple(step.values()) for step in found["flow"]] == [
        ("supplied", 16),
        ("of the test split, not looked at", 4),
        ("evaluated", 12),
    ]
    assert dice["value"] > FEWEST
    assert dice["low"] <= dice["value"] <= dice["high"]
    expected = bundle.decision.expected_dice
    assert expected["cases"] == 12
    assert 0 <= expected["error"] < 0.2
    assert any(note.startswith("Expected Dice: ") for note in found["notes"])
    whole = bundle.spec.provenance["dataset_digest"]
    assert found["dataset"] == whole, "the report and the card speak of one dataset, not of the cases judged"
    assert whole in (trained / "bundle" / "CARD.md").read_text()
    table = read_structures(trained / "evaluation/predictions.csv")
    assert set(table.folds) == {0, 1}
    assert set(table.structures) == {"square"}
    assert len((trained / "log.csv").read_text().splitlines()) == 13


def test_evaluation_and_prediction_lie_on_the_source(trained: Path, squares: Path) -> None:
    bundle, data = Bundle.load(trained), open_dataset(squares)
    report = evaluate(bundle, data)
    assert report.split == "test"
    assert report.cases == 4
    assert report.dataset_digest == bundle.spec.provenance["dataset_digest"]
    dice = report.row("dice")
    assert dice is not None
    assert (dice.value or 0) > FEWEST
    case = data.split("test").cases[0]
    ref = case.inputs["image"]
    assert ref is not None
    image = read_ref(data, ref)
    mask = predict(bundle, image).outputs["mask"]
    assert mask.geometry == image.geometry  # type: ignore[union-attr]
    truth = read_ref(data, case.truth.masks[0]).array
    both = (np.asarray(mask.array) == 1) & (truth == 1)  # type: ignore[union-attr]
    assert 2 * both.sum() / ((np.asarray(mask.array) == 1).sum() + truth.sum()) > FEWEST  # type: ignore[union-attr]


def test_a_killed_training_goes_on_to_the_same_weights(squares: Path, trained: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stopping(event: object) -> None:
        if getattr(event, "kind", "") == "progress" and "network 2, epoch 3" in str(getattr(event, "text", "")):
            raise Stop

    with pytest.raises(Stop):
        train(small_run(), open_dataset(squares), tmp_path / "run", listener=stopping)  # type: ignore[arg-type]
    train(small_run(), open_dataset(squares), tmp_path / "run", resume=True, listener=lambda event: None)
    one, two = Bundle.load(trained), Bundle.load(tmp_path / "run")
    assert one.hashes["weights.safetensors"] == two.hashes["weights.safetensors"]


def test_the_command_line_gives_masks(trained: Path, squares: Path, tmp_path: Path) -> None:
    assert medmap(["predict", str(trained), str(squares), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert len(index["cases"]) == 16
    assert index["cases"][0]["files"] == ["000000.json", "000000.nii.gz"]
    mask = read(tmp_path / "out/000000.nii.gz")
    assert mask.quantity == "label"
    assert mask.geometry == read(squares / "images/0.nii.gz").geometry
    rows = list(csv.DictReader((tmp_path / "out/structures.csv").read_text().splitlines()))
    assert rows[0]["structure"] == "square"
    assert int(rows[0]["voxels"]) == int((mask.array == 1).sum())
    under = np.asarray(read(squares / "images/0.nii.gz").array)[mask.array == 1]
    assert float(rows[0]["intensity_mean"]) == pytest.approx(under.mean(), rel=1e-4)
    told = json.loads((tmp_path / "out/000000.json").read_text())["outputs"]["mask"]["structures"][0]
    assert told["long_axis_mm"] == pytest.approx(float(rows[0]["long_axis_mm"]), rel=1e-4)
    assert medmap(["evaluate", str(trained), str(squares), "-o", str(tmp_path / "judged"), "--quiet"]) == 0
    assert json.loads((tmp_path / "judged/metrics.json").read_text())["task"] == "segment"


def test_memory_is_kept_or_refused_at_once(trained: Path, squares: Path, tmp_path: Path) -> None:
    picture = str(squares / "images/0.nii.gz")
    call = ["predict", str(trained), picture, "--quiet"]
    assert medmap([*call, "-o", str(tmp_path / "much"), "--memory", "16GiB"]) == 0
    assert medmap([*call, "-o", str(tmp_path / "little"), "--memory", "256MiB"]) == 1
    told = json.loads((tmp_path / "little/index.json").read_text())["cases"][0]["error"]
    assert "does not fit" in told
    assert "allow" in told
    assert sorted(p.name for p in (tmp_path / "little").iterdir()) == ["index.json", "structures.csv"]
    first, second = (read(tmp_path / "much/000000.nii.gz"), predict(Bundle.load(trained), picture).outputs["mask"])
    np.testing.assert_array_equal(first.array, second.array)  # type: ignore[union-attr]


def test_other_structures_are_refused(trained: Path, squares: Path, tmp_path: Path) -> None:
    phantom.write_study(tmp_path / "other", phantom.segmentation(3, seed=0, shape=(16, 16)), task="segment")
    with pytest.raises(UsageError, match="other structures"):
        evaluate(Bundle.load(trained), open_dataset(tmp_path / "other"))
    for asked in (Options(recalibrate_on="test"), Options(aggregate_by="patient")):
        with pytest.raises(UsageError, match="neither recalibrated"):
            evaluate(Bundle.load(trained), open_dataset(squares), options=asked)
    phantom.write_study(tmp_path / "classes", phantom.classification(3, seed=0, shape=(16, 16)))
    with pytest.raises(UsageError, match="another task"):
        evaluate(Bundle.load(trained), open_dataset(tmp_path / "classes"))


def test_pictures_without_a_size_give_pictures(tmp_path: Path) -> None:
    from PIL import Image as Png

    rng = np.random.default_rng(0)
    folder = tmp_path / "png"
    (folder / "images").mkdir(parents=True)
    rows = ["case,patient,image,mask"]
    for n in range(4):
        mask = np.zeros((24, 24), np.uint8)
        mask[4 + n : 14 + n, 6:16] = 1
        Png.fromarray((rng.integers(0, 60, (24, 24)) + 120 * mask).astype(np.uint8)).save(folder / f"images/{n}.png")
        Png.fromarray(mask).save(folder / f"images/{n}_mask.png")
        rows.append(f"c{n},p{n},images/{n}.png,images/{n}_mask.png")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: png\ntask: segment\ninputs: {image: {modality: OP}}\n"
        "labels: {0: background, 1: vessel}\n"
    )
    run = small_run(epochs=1).model_copy(
        update={
            "prepare": PrepareSection(shape=(16, 16), grid="native"),
            "ensemble": EnsembleSection(folds=2, members=2),
        }
    )
    train(run, open_dataset(folder), tmp_path / "run", listener=lambda event: None)
    picture = str(folder / "images/0.png")
    assert medmap(["predict", str(tmp_path / "run"), picture, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert read(tmp_path / "out/000000.png").array.shape == (24, 24)
    found = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    row = next(r for r in found["metrics"] if r["name"] == "hd95_mm")
    assert row["value"] is None
    assert row["reason"]


def test_eight_bits_are_added_measured_and_taken_where_they_lose_nothing(
    trained: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    order = ["export", str(trained), "-o", str(out), "--to", "openvino", "--int8", "--dataset", str(squares), "--json"]
    assert medmap(order) in (0, 1)  # 1 where an engine of fewer bits loses too much: it is then not taken
    found = json.loads(capsys.readouterr().out)["engines"]
    assert found["openvino"]["passed"]
    int8 = found["openvino:int8"]
    assert int8["reason"] is None
    assert int8["dice"] > 0.9
    assert int8["phantom_max_abs"] > 0
    assert int8["passed"] == (int8["dice_drop"] <= 0.002)
    bundle = Bundle.load(out)
    text = (out / "model.int8.xml").read_text()
    assert "FakeQuantize" in text or "int8" in text
    assert str(tmp_path) not in text
    assert "nncf" not in text
    facts = CpuFacts("new", 2, avx512_bf16=False, vnni=True)
    monkeypatch.setattr("medmap.runtime.cpu_facts", lambda: facts)
    engine = bundle.engine("openvino", precision="auto", threads=1)
    assert engine.precision == ("int8" if int8["passed"] else "float32")
    monkeypatch.setattr("medmap.runtime.cpu_facts", lambda: CpuFacts("old", 2))
    assert bundle.engine(precision="auto", device="cpu", threads=1).precision == "float32"


def test_eight_bits_are_judged_on_other_patients_than_those_that_set_them(
    trained: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, np.ndarray] = {}
    quantize, compare = parity.quantized, parity.compare_engines

    def setting(path: Path, inputs: np.ndarray, **words: int) -> tuple[bytes, bytes]:
        seen["set"] = inputs
        return quantize(path, inputs, **words)

    def judging(reference: object, comparisons: object, inputs: np.ndarray, *more: object, **named: object) -> object:
        seen["judged"] = inputs
        return compare(reference, comparisons, inputs, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(parity, "quantized", setting)
    monkeypatch.setattr(parity, "compare_engines", judging)
    order = ["export", str(trained), "--to", "openvino", "--int8", "--json", "--dataset"]
    assert medmap([*order, str(squares), "-o", str(tmp_path / "small")]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["engines"]["openvino:int8"]["cases"] == 4, "the test split judges"
    assert len(seen["set"]) == 12
    assert len(seen["judged"]) == 4
    assert not any(np.array_equal(a, b) for a in seen["set"] for b in seen["judged"])
    table = squares / "cases.csv"
    whole = table.read_text()
    table.write_text(re.sub(r",p\d+,(train|test),", ",p0,,", whole))
    assert medmap([*order, str(squares), "-o", str(tmp_path / "one")]) == 2
    assert "cases of one patient" in capsys.readouterr().err
    table.write_text(whole.replace(",test,", ",,").replace(",train,", ",,"))
    assert medmap([*order, str(squares), "-o", str(tmp_path / "dealt")]) in (0, 1)
    table.write_text(whole)
    assert len(seen["set"]) == len(seen["judged"]) == 8


def test_an_engine_that_answers_otherwise_here_is_not_taken(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(trained)
    monkeypatch.setattr(parity, "compare_engines", lambda *given, **options: [_differing()])
    with pytest.warns(MedmapWarning, match="openvino in float32 does not answer here as it did"):
        engine = bundle.engine(device="cpu", threads=1)
    assert engine.name == "torch"
    with (
        pytest.warns(MedmapWarning, match="onnx in float32"),
        pytest.raises(BundleError, match="another answer on onnx here"),
    ):
        bundle.engine("onnx", precision="auto", threads=1)


def _differing() -> Parity:
    return Parity("openvino", "float32", 1, 9.0, 9.0, 0.1, False, 1e-3)


def test_masks_without_a_structure_teach_nothing(tmp_path: Path) -> None:
    folder = write_squares(tmp_path / "data", count=8)
    for path in (folder / "images").glob("*_mask.nii.gz"):
        mask = read(path)
        write(mask.with_array(np.zeros_like(mask.array), "emptied"), path, overwrite=True)
    with pytest.raises(DataError, match="every mask of squares is empty"):
        train(small_run(), open_dataset(folder), tmp_path / "run")


def test_what_is_judged_with_all_parts_is_said() -> None:
    """Of one validation split there are no other cases to fit a rule on; of folds there are."""
    rule = {1: ComponentRule(largest_only=True)}
    member = Member(0, None, 0, np.array([0]), np.array([1]))
    said = segmented._judged_whole({1: member}, {None: {}})
    assert said is not None
    assert "For 1 case there were no others" in said
    folded = Member(0, 0, 0, np.array([0]), np.array([1]))
    assert segmented._judged_whole({1: folded}, {0: rule}) is None


def _refused_in(folder: Path) -> None:
    with pytest.raises(DataError, match="too little"), _empty_if_refused(folder, False):
        raise DataError("too little memory")


def test_a_run_that_is_refused_leaves_its_folder_empty(tmp_path: Path) -> None:
    data = write_nested(tmp_path / "data", count=6)
    run = nested_run(epochs=1)
    odd = run.model_copy(update={"prepare": run.prepare.model_copy(update={"shape": (5, 5)})})
    with pytest.raises(MedmapError):
        train(odd, open_dataset(data), tmp_path / "run", listener=lambda event: None)
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run/coarse/checkpoint").mkdir(parents=True)  # hours of the coarse network
    (tmp_path / "run/notes.txt").write_text("somebody's")
    _refused_in(tmp_path / "run")
    assert (tmp_path / "run/coarse/checkpoint").exists()
    shutil.rmtree(tmp_path / "run/coarse")
    (tmp_path / "run/store").mkdir()
    _refused_in(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    (tmp_path / "run/notes.txt").unlink()
    train(run, open_dataset(data), tmp_path / "run", listener=lambda event: None)
    assert (tmp_path / "run/bundle/spec.json").exists()
