"""``predict`` of masks: within a coarse mask, mirrored, with its uncertainty, in every format, with a work list."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap import phantom
from medmap.augment import OFF
from medmap.bundle import Bundle
from medmap.cli import run as medmap
from medmap.cli.findings import require_formats
from medmap.cli.images import as_dataset
from medmap.cli.resumed import OWN
from medmap.errors import BundleError, UsageError
from medmap.geometry import Crop, Flip, Geometry, Pad, Permute, Resample, Trace
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.predict import MaskView, predict, predict_masks
from medmap.predict.accept import unlike
from medmap.predict.masks import Predictor
from medmap.predict.within import box_of, box_on_prepared, foreground_of
from medmap.read import read
from medmap.results import Label, Mask, Picture
from medmap.train import train
from nested_masks import nested_run, write_nested


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nested(tmp_path_factory.mktemp("masks") / "data", dimensions=3)


@pytest.fixture(scope="module")
def trained(nested: Path) -> Path:
    flips = OFF.model_copy(update={"flip_axes": (1, 2)})
    train(nested_run(3, flips, epochs=10), open_dataset(nested), nested.parent / "run", listener=lambda event: None)
    return nested.parent / "run"


# -- boxes ------------------------------------------------------------------------------------------------------------


@given(
    ends=st.tuples(*[st.tuples(st.integers(0, 8), st.integers(1, 6)) for _ in range(3)]),
    turn=st.permutations([0, 1, 2]),
    mirrored=st.booleans(),
    finer=st.floats(0.4, 2.5),
)
def test_a_box_holds_every_voxel_of_the_mask_after_preparation(
    ends: tuple[tuple[int, int], ...], turn: list[int], mirrored: bool, finer: float
) -> None:
    shape = (11, 13, 10)
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(first, first + more) for first, more in ends)] = 1
    grid = Geometry.from_spacing(shape, (0.7, 1.3, 2.9))
    turned = tuple(shape[a] for a in turn)
    fine = tuple(max(2, round(side * finer)) for side in turned)
    steps = (Permute(tuple(turn)), *((Flip((0, 2)),) if mirrored else ()), Resample(fine))
    trace = Trace(grid, steps)
    found = box_of(Mask(array, grid, {1: Label("organ")}))
    assert found is not None
    box = box_on_prepared(found, trace, 0.0)
    assert box is not None
    there = trace.forward(array.astype(np.float32), order=0) > 0
    outside = np.ones(there.shape, bool)
    outside[tuple(slice(*side) for side in box)] = False
    assert not (there & outside).any()
    wide = box_on_prepared(found, trace, 3.0)
    assert wide is not None
    assert all(a <= c and d <= b for (a, b), (c, d) in zip(wide, box, strict=True))


def test_a_margin_is_in_millimetres_and_ends_at_the_image() -> None:
    grid = Geometry.from_spacing((20, 20), (0.5, 2.0))
    trace = Trace(grid, (Pad((2, 0), (2, 0)),))
    assert box_on_prepared(((5, 6), (9, 10)), trace, 0.0) == ((7, 8), (9, 10))
    assert box_on_prepared(((5, 6), (9, 10)), trace, 2.0) == ((3, 12), (8, 11))
    assert box_on_prepared(((5, 6), (9, 10)), trace, 1e4) == ((0, 24), (0, 20))
    gone = Trace(grid, (Crop((10, 0), (10, 20)),))
    assert box_on_prepared(((1, 3), (9, 10)), gone, 0.0) is None
    assert box_of(Mask(np.zeros((4, 5), np.uint8), Geometry.without_size((4, 5)), {1: Label("a")})) is None
    both = np.zeros((4, 5, 2), bool)
    both[1, 2, 0], both[3, 4, 1] = True, True
    named = {1: Label("a"), 2: Label("b")}
    assert box_of(Mask(both, Geometry.without_size((4, 5)), named)) == ((1, 4), (2, 5))


@given(low=st.tuples(*[st.integers(1, 5)] * 3), size=st.tuples(*[st.integers(1, 6)] * 3), hounsfield=st.booleans())
def test_the_background_around_a_body_is_left_out(
    low: tuple[int, ...], size: tuple[int, ...], hounsfield: bool
) -> None:
    shape = (11, 13, 12)
    rng = np.random.default_rng(0)
    body = tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))
    array = rng.normal(-1000, 40, shape) if hounsfield else np.zeros(shape)
    array[body] = rng.uniform(1, 60, size) * (1 if hounsfield else rng.choice((-1, 1), size))
    grid = Geometry.from_spacing(shape, (0.7, 1.3, 2.9))
    image = Image(array.astype(np.float32), grid, "HU" if hounsfield else "arbitrary")
    found = foreground_of(image)
    assert found == tuple((a, a + n) for a, n in zip(low, size, strict=True))
    if hounsfield:  # as NIfTI keeps it: no unit
        assert foreground_of(replace(image, quantity="unknown"), "CT") == found
        assert foreground_of(replace(image, quantity="unknown"), "MR") is None
    two = np.stack([np.full(shape, 7, np.float32), array.astype(np.float32)], axis=-1)
    if not hounsfield:
        assert foreground_of(Image(two, grid, channels=("t1", "t2"))) == found


def test_without_background_everything_is_looked_at() -> None:
    rng = np.random.default_rng(0)
    grid = Geometry.from_spacing((6, 7, 8), (1.0, 1.0, 1.0))
    for values, quantity in ((rng.normal(40, 5, grid.shape), "HU"), (np.full(grid.shape, -1000.0), "HU")):
        assert foreground_of(Image(values.astype(np.float32), grid, quantity)) is None  # type: ignore[arg-type]
    assert foreground_of(Image(np.zeros(grid.shape, np.float32), grid)) is None
    one_corner = np.zeros(grid.shape, np.float32)
    one_corner[:3, :3, :3] = 1
    assert foreground_of(Image(one_corner, grid)) is None, "it reaches into a corner: nothing tells the background"
    assert foreground_of(Image(np.zeros((4, 5), np.float32), Geometry.without_size((4, 5)))) is None


def test_a_body_in_air_is_outlined_as_without_the_air(trained: Path, nested: Path) -> None:
    bundle, image = Bundle.load(trained), read(nested / "images/12.nii.gz")
    grid = Geometry.from_spacing(tuple(n + 40 for n in image.array.shape), image.spacing_mm)
    wide = np.full(grid.shape, float(image.array.min()), np.float32)
    wide[(slice(20, -20),) * 3] = image.array
    seen = []
    with Predictor([bundle]) as predictor:
        asked = predictor.scores
        predictor.scores = lambda batch: (seen.append(len(batch)), asked(batch))[1]  # type: ignore[method-assign]
        images, prepared = predictor.prepared({"image": Image(wide, grid)})
        mask = predictor.answer("a", (images, prepared)).outputs["mask"]
        inside = sum(seen)
        seen.clear()
        pixels = prepared.tensors["image"]
        predictor.task.seen(predictor.scores, pixels, prepared.trace)
    assert inside < sum(seen), "windows of air alone are not looked at"
    assert isinstance(mask, Mask)
    assert mask.array.any()


# -- coarse to fine ---------------------------------------------------------------------------------------------------


def test_within_a_coarse_mask_the_same_is_found_and_nothing_beyond(trained: Path, nested: Path, tmp_path: Path) -> None:
    bundle, image = Bundle.load(trained), read(nested / "images/12.nii.gz")
    plain = predict(bundle, image).outputs["mask"]
    assert isinstance(plain, Mask)
    ends = box_of(plain)
    assert ends is not None
    seen = []
    with Predictor([bundle], view=MaskView(within=(bundle,), margin_mm=0.0)) as fine:
        asked = fine.scores
        fine.scores = lambda batch: (seen.append(len(batch)), asked(batch))[1]  # type: ignore[method-assign]
        found = fine.answer("a", fine.prepared({"image": image}))
    mask = found.outputs["mask"]
    assert isinstance(mask, Mask)
    few = sum(seen)
    with Predictor([bundle]) as whole:
        seen.clear()
        asked_all = whole.scores
        whole.scores = lambda batch: (seen.append(len(batch)), asked_all(batch))[1]  # type: ignore[method-assign]
        whole.answer("a", whole.prepared({"image": image}))
    assert 0 < few < sum(seen), "fewer windows are looked at"
    outside = np.ones(mask.array.shape, bool)
    outside[tuple(slice(max(0, a - 8), b + 8) for a, b in ends)] = False  # the box is grown to a window
    assert not mask.array[outside].any()
    both = (mask.array > 0) & (plain.array > 0)
    assert 2 * both.sum() / ((mask.array > 0).sum() + (plain.array > 0).sum()) > 0.9
    assert found.bundle == f"{bundle.digest}+{bundle.digest}"


def test_where_the_coarse_bundle_finds_nothing_everything_is_looked_at(
    trained: Path, nested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, image = Bundle.load(trained), read(nested / "images/12.nii.gz")
    plain = predict(bundle, image).outputs["mask"]
    monkeypatch.setattr(import_module("medmap.predict.masks"), "box_of", lambda mask: None)
    with Predictor([bundle], view=MaskView(within=(bundle,))) as fine:
        found = fine.answer("a", fine.prepared({"image": image}))
    np.testing.assert_array_equal(found.outputs["mask"].array, plain.array)  # type: ignore[union-attr]
    assert any("found nothing" in words for words in found.warnings)


def test_the_command_looks_within_keeps_memory_and_knows_its_answers(
    trained: Path, nested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = ["predict", str(trained), str(nested / "images/12.nii.gz"), "-o", str(out), "--quiet"]
    within = ["--within", str(trained), "--margin", "4", "--memory", "8GiB"]
    assert medmap([*call, *within]) == 0
    assert len(json.loads((out / "index.json").read_text())["bundles"]) == 2
    assert medmap([*call, *within, "--resume"]) == 0
    assert medmap([*call, "--resume"]) == 2, "the answers were made within another bundle's mask"
    assert "another bundle" in capsys.readouterr().err
    assert medmap(["predict", str(trained), str(nested), "-o", str(tmp_path / "x"), "--within", str(nested)]) == 5
    assert medmap([*call[:-2], str(tmp_path / "y"), "--within", str(trained), "--margin", "-1"]) == 2


def test_rules_that_leave_nothing_are_said_and_foretell_nothing(trained: Path, nested: Path) -> None:
    bundle = Bundle.load(trained)
    rules = {"rim": {"smallest": 1e9}, "core": {"smallest": 1e9}}
    decision = {**bundle.spec.decision, "components": rules}
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"decision": decision}))
    found = predict(bundle, read(nested / "images/12.nii.gz"))
    assert not found.outputs["mask"].array.any()  # type: ignore[union-attr]
    assert (found.expected_dice, found.probable_dice) == (None, None)
    assert sum("all that was found was dropped" in text for text in found.warnings) == 2
    strange = {**decision, "components": {"liver": {"smallest": 1.0}}}
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"decision": strange}))
    with pytest.raises(BundleError, match="rules for structures"):
        Predictor([bundle])


def test_answers_whose_files_are_gone_are_made_again(trained: Path, nested: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["predict", str(trained), str(nested / "images/12.nii.gz"), "-o", str(out), "--format", "json,instances"]
    assert medmap([*call, "--quiet"]) == 0
    (out / "000000.instances.nii.gz").unlink()
    assert medmap([*call, "--quiet", "--resume"]) == 0
    assert (out / json.loads((out / "index.json").read_text())["cases"][0]["files"][1]).exists()


def test_a_call_that_is_refused_leaves_no_folder(
    trained: Path, nested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["predict", str(trained), str(nested / "images/12.nii.gz"), "-o", str(tmp_path / "out"), "--quiet"]
    late = ["--engine", "steam"]  # found wrong where the bundles are made ready
    assert medmap([*call, *late]) == 5
    assert not (tmp_path / "out").exists()
    assert medmap([*call, "--format", "json,png"]) == 2
    assert "png holds masks with 2 axes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert medmap([*call, *late]) == 5
    assert (tmp_path / "out").exists(), "it was there before"


def test_surfaces_of_pictures_are_refused_before_anything_is_answered(trained: Path) -> None:
    flat = Bundle.load(trained)
    inputs = {name: one.model_copy(update={"size": (16, 16)}) for name, one in flat.spec.inputs.items()}
    object.__setattr__(flat, "spec", flat.spec.model_copy(update={"inputs": inputs}))
    for name in ("stl", "obj"):
        with pytest.raises(UsageError, match="3 axes"):
            require_formats(["json", name], flat)
    require_formats(["json", "png", "overlay", "instances"], flat)


def test_files_alone_do_not_say_which_input_they_are(trained: Path, nested: Path, tmp_path: Path) -> None:
    two = Bundle.load(trained)
    (given,) = two.spec.inputs.values()
    object.__setattr__(two, "spec", two.spec.model_copy(update={"inputs": {"t1": given, "flair": given}}))
    with pytest.raises(UsageError, match="do not say which is which") as refused:
        as_dataset([nested / "images/12.nii.gz"], two, tmp_path)
    assert "case,t1,flair" in str(refused.value)


def test_answers_looked_for_otherwise_are_not_mixed(
    trained: Path, nested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = ["predict", str(trained), str(nested / "images/12.nii.gz"), "-o", str(out), "--quiet"]
    assert medmap([*call, "--mirror"]) == 0
    assert json.loads((out / "000000.json").read_text())["view"] == {"mirror": True}
    (out / "index.json").unlink()  # as a killed call leaves it
    assert medmap([*call, "--resume"]) == 2
    assert "looked for otherwise" in capsys.readouterr().err
    assert medmap([*call, "--resume", "--mirror", "--whole"]) == 2
    assert medmap([*call, "--resume", "--mirror"]) == 0


def test_a_mask_is_judged_as_it_is_looked_for(
    trained: Path, nested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["evaluate", str(trained), str(nested), "--quiet", "--json", "-o"]
    found = []
    for name, words in (
        ("plain", []),
        ("within", ["--within", str(trained), "--margin", "2"]),
        ("mirror", ["--mirror"]),
    ):
        capsys.readouterr()
        assert medmap([*call, str(tmp_path / name), *words]) == 0
        rows = json.loads(capsys.readouterr().out)["metrics"]
        found.append(next(row["value"] for row in rows if row["name"] == "dice" and row["value"] is not None))
    assert 0.5 < found[1] < 1
    assert len(set(found)) == 3, "the box and the mirrored views have a say"
    assert medmap([*call, str(tmp_path / "x"), "--mirror", "--channel", "a=b"]) == 2
    assert medmap([*call, str(tmp_path / "x"), "--hit", "centre"]) == 2
    assert medmap([*call, str(tmp_path / "x"), "--whole", "--within", str(trained)]) == 2


def test_the_whole_volume_is_looked_at_when_asked(trained: Path, nested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, image = Bundle.load(trained), read(nested / "images/12.nii.gz")
    monkeypatch.setattr(import_module("medmap.predict.masks"), "foreground_of", lambda image, modality: ((0, 2),) * 3)
    seen = []
    for whole in (False, True):
        with Predictor([bundle], view=MaskView(whole=whole)) as predictor:
            asked, count = predictor.scores, []
            predictor.scores = lambda batch, asked=asked, count=count: (count.append(len(batch)), asked(batch))[1]  # type: ignore[method-assign]
            predictor.answer("a", predictor.prepared({"image": image}))
        seen.append(sum(count))
    assert 0 < seen[0] < seen[1]


def test_progress_is_told_window_by_window(trained: Path, nested: Path) -> None:
    data, told = open_dataset(nested), []
    some = data.with_cases(list(data)[:2])
    list(predict_masks([Bundle.load(trained)], some, MaskView(), progress=lambda *far: told.append(far)))
    done = [part for part, of in told]
    assert {of for _, of in told} == {2}
    assert done == sorted(done)
    assert done[-1] == 2
    assert {1, 2} <= set(done)
    assert any(0 < part < 1 for part in done)
    assert any(1 < part < 2 for part in done)


def test_what_is_no_coarse_bundle_is_refused(trained: Path, nested: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(trained)
    other = Bundle.load(trained)
    object.__setattr__(other, "spec", bundle.spec.model_copy(update={"task": "classify"}))
    with pytest.raises(UsageError, match="gives masks"):
        Predictor([bundle], view=MaskView(within=(other,)))
    with pytest.raises(UsageError, match="masks alone"):
        next(predict_masks([other], open_dataset(nested), MaskView(uncertainty=True)))
    inputs = {**bundle.spec.inputs, "flair": bundle.spec.inputs["image"]}
    object.__setattr__(other, "spec", bundle.spec.model_copy(update={"inputs": inputs}))
    with pytest.raises(UsageError, match="other inputs"):
        Predictor([bundle], view=MaskView(within=(other,)))


def test_inputs_are_taken_by_their_names_and_in_one_order(trained: Path, nested: Path) -> None:
    bundle, data = Bundle.load(trained), open_dataset(nested)
    first = next(iter(data))
    own = first.inputs["image"]
    two = replace(
        data,
        inputs={"other": data.inputs["image"], "image": data.inputs["image"]},
        cases=(replace(first, inputs={"other": next(reversed(list(data))).inputs["image"], "image": own}),),
    )
    (wanted,) = predict_masks([bundle], data.with_cases([first]), MaskView())
    (found,) = predict_masks([bundle], two, MaskView())
    np.testing.assert_array_equal(found.outputs["mask"].array, wanted.outputs["mask"].array)  # type: ignore[union-attr]
    strange = dict.fromkeys(("a", "b"), data.inputs["image"])
    unnamed = replace(two, inputs=strange, cases=(replace(first, inputs={"a": own, "b": own}),))
    with pytest.raises(UsageError, match=r"none of the name that the bundle takes.*a, b"):
        list(predict_masks([bundle], unnamed, MaskView()))


@pytest.mark.parametrize("order", [("t1", "t2"), ("t2", "t1")])
def test_bundles_of_swapped_inputs_do_not_answer_together(trained: Path, order: tuple[str, str]) -> None:
    def of(names: tuple[str, str]) -> Bundle:
        bundle = Bundle.load(trained)
        inputs = dict.fromkeys(names, bundle.spec.inputs["image"])
        object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"inputs": inputs}))
        return bundle

    one, other = of(("t1", "t2")), of(order)
    if order == ("t1", "t2"):
        Predictor([one], view=MaskView(within=(other,))).__exit__()
        return
    with pytest.raises(UsageError, match="in another order"):
        Predictor([one], view=MaskView(within=(other,)))
    with pytest.raises(UsageError, match="different orders"):
        predict([one, other], Image(np.zeros((4, 4, 4), np.float32), Geometry.without_size((4, 4, 4))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run": {"task": {"kind": "segment", "overlap": 5}}}, "states no task of masks"),
        ({"run": {"task": "segment"}}, "states no task of masks"),
        ({"provenance": {"regions": {"background": ["x"], "organ": [1]}}}, "regions that are not its own"),
    ],
)
def test_a_bundle_that_says_nonsense_is_refused(trained: Path, change: dict[str, object], words: str) -> None:
    bundle = Bundle.load(trained)
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update=change))
    with pytest.raises(BundleError, match=words):
        Predictor([bundle])


def test_a_bundle_without_a_section_of_augmentation_learned_from_no_mirror(trained: Path) -> None:
    bundle = Bundle.load(trained)
    object.__setattr__(bundle, "spec", bundle.spec.model_copy(update={"run": {"augment": []}}))
    with pytest.raises(UsageError, match="did not learn from mirrored"):
        Predictor([bundle], view=MaskView(mirror=True))


# -- mirrored, and how sure ------------------------------------------------------------------------------------------


def test_mirrored_views_are_averaged(trained: Path, nested: Path) -> None:
    bundle, image = Bundle.load(trained), read(nested / "images/12.nii.gz")
    shape = (2, 1, 8, 16, 16)
    batch = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with Predictor([bundle], view=MaskView(mirror=True)) as predictor:
        pixels = predictor.prepared({"image": image})[1].tensors["image"]
        assert predictor._looking(pixels, None, None).windows.mirror == (1, 2)  # type: ignore[arg-type, union-attr]
        plain = predictor.scores(batch)
        found = predictor.answer("a", predictor.prepared({"image": image})).outputs["mask"]
    turned = Bundle.load(trained)
    augment = {**turned.spec.run["augment"], "flip_axes": []}
    object.__setattr__(turned, "spec", turned.spec.model_copy(update={"run": {**turned.spec.run, "augment": augment}}))
    with pytest.raises(UsageError, match="did not learn from mirrored"):
        Predictor([turned], view=MaskView(mirror=True))
    assert plain.shape == (2, 3, 8, 16, 16)
    flipped = image.moved(Flip((1,)))
    again = None
    with Predictor([bundle], view=MaskView(mirror=True)) as predictor:
        again = predictor.answer("a", predictor.prepared({"image": flipped})).outputs["mask"]
    same = np.asarray(again.array)[:, ::-1] == found.array  # type: ignore[union-attr]
    assert same.mean() > 0.999, "a mirrored image has the mirrored mask"


def test_uncertainty_is_written_beside_the_mask(trained: Path, nested: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    picture = str(nested / "images/13.nii.gz")
    call = ["predict", str(trained), picture, "-o", str(out), "--uncertainty", "--format", "json,nifti", "--quiet"]
    assert medmap(call) == 0
    row = json.loads((out / "index.json").read_text())["cases"][0]
    assert row["files"] == ["000000.json", "000000.uncertainty.nii.gz", "000000.nii.gz"]
    doubt, mask, image = read(out / "000000.uncertainty.nii.gz"), read(out / "000000.nii.gz"), read(picture)
    assert doubt.geometry == image.geometry
    values, there = np.asarray(doubt.array), np.asarray(mask.array) > 0
    assert 0 <= values.min() < values.max() <= 1
    edge = there != np.roll(there, 1, axis=1)
    assert values[edge].mean() > 1.5 * values[~edge].mean(), "it is unsure where structures end"
    assert medmap([*call, "--resume"]) == 0
    assert all(OWN.fullmatch(path.name) for path in out.iterdir())


def test_uncertainty_is_the_entropy_of_the_averaged_scores(trained: Path, nested: Path) -> None:
    from scipy.special import softmax

    bundle, image = Bundle.load(trained), read(nested / "images/13.nii.gz")
    with Predictor([bundle], view=MaskView(uncertainty=True)) as predictor:
        images, prepared = predictor.prepared({"image": image})
        found = predictor.answer("a", (images, prepared)).outputs["uncertainty"]
        from medmap.runtime import ScoreSink, slide

        pixels = prepared.tensors["image"]
        scores = slide(predictor.scores, pixels, predictor.task.windows(pixels), ScoreSink(pixels.shape[1:]))
    chance = softmax(scores.astype(np.float64), axis=0)
    entropy = -(chance * np.log(np.maximum(chance, 1e-30))).sum(0) / np.log(len(chance))
    expected = prepared.trace.back(entropy, order=1)
    assert isinstance(found, Picture)
    np.testing.assert_allclose(found.image.array, expected, atol=1e-4)


# -- files and the work list -----------------------------------------------------------------------------------------


def test_surfaces_overlays_and_a_work_list(trained: Path, nested: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["predict", str(trained), str(nested), "-o", str(out), "--format", "json,csv,stl,obj,overlay", "--quiet"]
    assert medmap(call) == 0
    cases = json.loads((out / "index.json").read_text())["cases"]
    assert len(cases) == 16
    for row in cases:
        found = {one["label"] for one in row["outputs"]["mask"]["structures"] if one["voxels"]}
        endings = {name.split(".", 1)[1] for name in row["files"]}
        assert {"json", "obj", "overlay.png"} <= endings
        assert {ending for ending in endings if ending.endswith("stl")} == {
            f"{n}-{name}.stl" for n, name in ((1, "rim"), (2, "core")) if name in found
        }
        shown = np.asarray(read(out / f"{row['files'][0][:6]}.overlay.png").array)
        colours = shown.reshape(-1, shown.shape[-1]).astype(int)
        assert (np.ptp(colours, axis=1) > 60).sum() > 20, "outlines are drawn in colour"
    listed = list(csv.DictReader((out / "worklist.csv").read_text().splitlines()))
    assert len(listed) == 16
    order = [float(one["uncertainty"]) for one in listed if one["uncertainty"]]
    assert order == sorted(order, reverse=True)
    dice = {row["case"]: row.get("expected_dice") for row in cases}
    assert all(0 < row["probable_dice"] <= 1 for row in cases)
    assert all(
        float(one["expected_dice"]) == pytest.approx(dice[one["case"]], abs=1e-3)
        for one in listed
        if one["expected_dice"]
    )
    assert {name for one in listed for name in one["files"].split(" | ")} == {f for row in cases for f in row["files"]}


def test_instances_are_numbered_and_measured_one_by_one(trained: Path, nested: Path, tmp_path: Path) -> None:
    out, pictures = tmp_path / "out", [str(nested / f"images/{n}.nii.gz") for n in (12, 13)]
    call = ["predict", str(trained), *pictures, "-o", str(out), "--format", "json,csv,nifti,instances", "--quiet"]
    assert medmap(call) == 0
    cases = json.loads((out / "index.json").read_text())["cases"]
    table = list(csv.DictReader((out / "instances.csv").read_text().splitlines()))
    assert len(table) == sum(len(row["outputs"]["mask"]["instances"]) for row in cases) >= 4
    for row in cases:
        stem = row["files"][0][:6]
        numbers, mask = (np.asarray(read(out / f"{stem}.{ending}.nii.gz".replace("..", ".")).array)
                         for ending in ("instances", ""))  # fmt: skip
        assert np.array_equal(numbers > 0, mask > 0)
        for one in row["outputs"]["mask"]["instances"]:
            value = {"rim": 1, "core": 2}[one["structure"]]
            assert (mask[numbers == one["instance"]] == value).all()
            assert (numbers == one["instance"]).sum() == one["voxels"]
        mine = [one for one in table if one["case"] == row["case"]]
        assert [int(one["instance"]) for one in mine] == list(range(1, len(mine) + 1))
    before = (out / "instances.csv").read_bytes()
    assert all(OWN.fullmatch(path.name) for path in out.iterdir())
    assert medmap([*call, "--resume"]) == 0
    assert (out / "instances.csv").read_bytes() == before


def test_dicom_segmentations_beside_nifti_with_a_work_list(tmp_path: Path) -> None:
    phantom.write_study(
        tmp_path / "lungs", phantom.segmentation(14, seed=0, shape=(48, 48)), task="segment", format="dicom"
    )
    run = nested_run(epochs=10)
    prepare = run.prepare.model_copy(update={"shape": (32, 32), "grid": "native", "spacing_mm": None})
    train(
        run.model_copy(update={"prepare": prepare}),
        open_dataset(tmp_path / "lungs"),
        tmp_path / "run",
        listener=lambda event: None,
    )
    out = tmp_path / "out"
    call = ["predict", str(tmp_path / "run"), str(tmp_path / "lungs/images"), "-o", str(out)]
    assert medmap([*call, "--format", "json,csv,nifti,dicom-seg,dicom-seg-instances", "--uncertainty", "--quiet"]) == 0
    rows = json.loads((out / "index.json").read_text())["cases"]
    assert len(rows) == 14
    assert all(row["unwritten"] == {} for row in rows)
    for row in rows[:3]:
        stem = row["files"][0][:6]
        flat, seg = read(out / f"{stem}.nii.gz"), read(out / f"{stem}.seg.dcm")
        assert set(np.unique(flat.array)) <= {0, 1, 2}
        assert (np.asarray(seg.array) > 0).sum() == (np.asarray(flat.array) > 0).sum()
        apart = read(out / f"{stem}.instances.seg.dcm")
        assert (np.asarray(apart.array) > 0).sum() == (np.asarray(flat.array) > 0).sum()
        parts = [one["parts"] for one in row["outputs"]["mask"]["structures"]]
        assert len(row["outputs"]["mask"]["instances"]) == sum(parts)
    assert len((out / "worklist.csv").read_text().splitlines()) == 15


def test_a_grey_image_for_a_bundle_of_colour_is_warned_of() -> None:
    grid = Geometry.without_size((4, 5))
    grey = Image(np.zeros((4, 5), np.uint8), grid)
    colour = Image(np.zeros((4, 5, 3), np.uint8), grid, "colour", ("red", "green", "blue"))
    assert "grey" in (unlike(grey, {"quantities": ["colour"]}) or "")
    assert unlike(colour, {"quantities": ["colour"]}) is None
    assert unlike(grey, {"quantities": ["colour", "unknown"]}) is None, "it learned from both"
