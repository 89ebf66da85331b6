"""From a real bundle and a dataset to a report: looks, leaks, baselines, other hospitals' words."""

import json
from dataclasses import replace

import numpy as np
import pytest
from random_bundle import make_bundle

from medmap.bundle import Bundle
from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth, with_splits
from medmap.decision import Decision
from medmap.errors import BundleError, DatasetError, UsageError
from medmap.evaluate import (
    Options,
    channel_order,
    evaluate,
    in_terms_of,
    leaks,
    leaks_of_recalibration,
    log_look,
    operating_point,
    read_predictions,
    recalibrated_bundle,
)
from medmap.evaluate.baselines import baselines, not_beaten
from medmap.evaluate.judge import as_dealt
from medmap.evaluate.leakage import shared_patients
from medmap.evaluate.pictures import averaged, content_hash, small
from medmap.metrics import Bootstrap
from medmap.read import read_ref
from medmap.results import Label

QUICK = Options(bootstrap=Bootstrap(200), baselines=False)


def test_a_bundle_is_judged_on_the_test_split(bundle, dataset, tmp_path):
    report = evaluate(bundle, dataset, options=replace(QUICK, baselines=True))
    assert report.split == "test"
    assert report.cases == 49, "one of fifty test cases has no truth"
    assert report.bundles == (bundle.digest,)
    assert dict(report.flow) == {
        "supplied": 120,
        "of another split, or a class left out": 70,
        "without a truth": 1,
        "evaluated": 49,
    }
    assert report.looks == 1
    assert report.table.threshold == 0.5
    assert report.table.uncalibrated is not None
    by_name = {b.name: b for b in report.baselines}
    assert set(by_name) == {"majority", "thumbnails", "columns"}
    assert by_name["thumbnails"].rows[0].value > 0.9, "the planted square is found on thumbnails"
    assert by_name["columns"].rows[0].value > 0.85, "the planted marker is found in the columns"
    assert next(r for r in by_name["majority"].rows if r.name == "auroc").value == 0.5
    assert by_name["thumbnails"].trained_on == 70
    assert [text for text in report.warnings if text.startswith("The network does not beat")]
    assert not [text for text in report.warnings if text.startswith("Leakage")]
    report.save(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["bundle"] == bundle.digest
    assert document["dataset"] == dataset.digest
    assert read_predictions(tmp_path / "out").cases == report.table.cases


def test_looks_are_counted_in_the_run_folder(bundle, dataset):
    for number in (1, 2, 3):
        report = evaluate(bundle, dataset, "test", options=QUICK)
        assert report.looks == number
    assert any("look number 3" in text for text in report.warnings)
    assert evaluate(bundle, dataset, "val", options=QUICK).looks is None, "validation is there to be looked at"
    lines = [json.loads(line) for line in (bundle.path.parent / "looks.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert {line["dataset"] for line in lines} == {dataset.digest}
    assert {line["cases"] for line in lines} == {49}
    part = dataset.where(lambda case: case.id != "c100")
    assert evaluate(bundle, part, "test", options=QUICK).looks == 1, "other cases are another test set"


def test_a_look_at_all_cases_is_a_look_at_the_test_cases_among_them(bundle, dataset):
    assert evaluate(bundle, dataset, "all", options=QUICK).looks == 1
    assert evaluate(bundle, dataset, "test", options=QUICK).looks == 2
    line = json.loads((bundle.path.parent / "looks.jsonl").read_text().splitlines()[0])
    assert (line["split"], line["cases"]) == ("all", 49), "the test cases, not all that were evaluated"
    seen_anyway = dataset.where(lambda case: case.split != "test")
    assert log_look([bundle], seen_anyway, "all", [case.id for case in seen_anyway]).count is None
    bare = dataset.with_cases([replace(case, split=None) for case in dataset])
    assert log_look([bundle], bare, "all", ["c001", "c100"]).count == 1, "without splits all are a test set"


def test_every_bundle_of_several_remembers_the_look(bundle, tmp_path, dataset, read_images):
    second = make_bundle(tmp_path / "second", dataset, read_images, seed=1)
    assert log_look([second], dataset, "test", ["c100"]).count == 1
    both = log_look([bundle, second], dataset, "test", ["c100"])
    assert both.count == 2, "the bundle that has looked most often counts"
    assert any("look number 2" in text for text in both.warnings)
    for one, lines in ((bundle, 1), (second, 2)):
        kept = (one.path.parent / "looks.jsonl").read_text().splitlines()
        assert len(kept) == lines
        assert json.loads(kept[-1])["bundles"] == [bundle.digest, second.digest]
    (bundle.path.parent / "looks.jsonl").unlink()
    (bundle.path.parent / "looks.jsonl").mkdir()
    partly = log_look([bundle, second], dataset, "test", ["c100"])
    assert partly.count == 3, "what can be written is counted"
    assert "could not be written down" in partly.warnings[0]


def test_a_spoilt_log_is_said(bundle, dataset):
    (bundle.path.parent / "looks.jsonl").write_bytes(b"\xff\xfe half a li\n[1]\n")
    found = log_look([bundle], dataset, "test", ["a"])
    assert found.count == 1
    assert any("cannot be read" in text for text in found.warnings)


def test_a_folder_that_may_not_be_written_to_is_said(bundle, dataset):
    log = bundle.path.parent / "looks.jsonl"
    log.mkdir()  # as good as a folder without permission, also for the superuser
    found = log_look([bundle], dataset, "test", ["a"])
    assert found.count is None
    assert "could not be written down" in found.warnings[0]


def test_a_training_image_among_the_evaluated_is_found(tmp_path, dataset, read_images):
    leaked = make_bundle(
        tmp_path / "run", dataset, read_images, training_case_hashes=[read_images["c090"].content_sha256()]
    )
    report = evaluate(leaked, dataset, options=QUICK)
    assert report.warnings[0].startswith("Leakage: 1 of 49 evaluated image was")
    assert "c090" in report.warnings[0]


def test_an_image_that_only_judged_is_not_said_to_be_learned_from(tmp_path, dataset, read_images):
    hashes = {"training_case_hashes": ["1", "2"], "validation_case_hashes": ["2", "3"]}
    known = make_bundle(tmp_path / "run", dataset, read_images, **hashes)
    learned, judged = leaks([known], {"a": "1", "b": "2", "c": "3", "d": "4"}, "test")
    assert learned.startswith("Leakage: 2 of 4 evaluated images were")
    assert "(a, b)" in learned
    assert judged.startswith("Leakage: 1 of 4 evaluated image was also among those that chose the best epoch")
    assert "(c)" in judged


def test_leaks_in_words(bundle):
    assert "learned from" in leaks([bundle], {"a": "0"}, "train")[0]
    assert "validation" in leaks([bundle], {"a": "0"}, "val")[0]
    assert leaks([bundle], {"a": "0"}, "test") == []


def test_validation_cases_of_folds_are_training_cases(tmp_path, dataset, read_images):
    folded = make_bundle(tmp_path / "run", dataset, read_images, folds=5, training_case_hashes=["0"])
    report = evaluate(folded, dataset, "val", options=QUICK)
    assert report.warnings[0].startswith("These are cases the networks learned from: these are training numbers.")
    single = make_bundle(tmp_path / "single", dataset, read_images, folds=0, training_case_hashes=["0"])
    assert leaks([single], {"a": "0"}, "val")[0].startswith("The validation cases chose")
    assert leaks([single, folded], {"a": "0"}, "val") == [report.warnings[0]]


def test_recalibration_on_cases_learned_from_is_warned_of(bundle, dataset, read_images):
    learned = evaluate(bundle, dataset, "test", options=replace(QUICK, recalibrate_on="train"))
    assert learned.warnings[0].startswith("Leakage: recalibration was fitted on 60 cases, 60 of them")
    named = tuple(c.id for c in dataset if c.split == "test")[:20]
    own = evaluate(bundle, dataset, "test", options=replace(QUICK, recalibrate_on=named))
    assert not [text for text in own.warnings if "recalibration was fitted" in text]
    assert leaks_of_recalibration([bundle], {"c100": read_images["c100"].content_sha256(), "blank": ""}) == []


def test_blank_images_are_copies_of_nothing(tmp_path, dataset, read_images):
    np.savez(tmp_path / "blank.npz", images=np.full((2, 16, 16), 7, np.uint8))
    blank = dataset["c100"].inputs["image"]
    cases = [
        replace(c, inputs={"image": replace(blank, path=str(tmp_path / "blank.npz"), member="images/0")})
        if c.id in ("c090", "c100")
        else c
        for c in dataset
    ]
    spoilt = dataset.with_cases(cases)
    assert content_hash(spoilt, spoilt["c090"]) == small(spoilt, spoilt["c090"]).sha256 == ""
    assert content_hash(spoilt, spoilt["c091"]) == read_images["c091"].content_sha256()
    trained = make_bundle(tmp_path / "run", dataset, read_images, training_case_hashes=["", "1"])
    assert not [text for text in evaluate(trained, spoilt, options=QUICK).warnings if "Leakage" in text]
    forgetful = make_bundle(tmp_path / "other", dataset, read_images, training_case_hashes=[""])
    assert "does not say" in leaks([forgetful], {"c090": ""}, "test")[0]


def test_a_patient_in_two_splits_is_warned_of(bundle, dataset):
    cases = [replace(c, patient="p000") if c.id == "c100" else c for c in dataset]
    report = evaluate(bundle, dataset.with_cases(cases), options=QUICK)
    assert any("in another split too (p000)" in text for text in report.warnings)


def test_a_patient_nobody_could_learn_from_is_no_leak(dataset):
    def told(split, **changes):
        cases = [replace(c, patient="p000", **changes) if c.id == "c100" else c for c in dataset]
        whole = dataset.with_cases(cases)
        return shared_patients(whole, split)

    first = next(c for c in dataset if c.id == "c000")
    assert (first.split, dataset["c100"].split) == ("train", "test")
    assert told("test")
    assert not told("train")  # nobody learns from the test split
    bare = [replace(c, truth=Truth()) if c.patient == "p000" else c for c in dataset]
    bare = [replace(c, patient="p000") if c.id == "c100" else c for c in bare]
    assert not shared_patients(dataset.with_cases(bare), "test")  # nor from a case without a truth


def test_several_bundles_answer_together(bundle, tmp_path, dataset, read_images):
    second = make_bundle(tmp_path / "second", dataset, read_images, seed=1)
    report = evaluate([bundle, second], dataset, options=QUICK)
    assert report.as_json()["bundles"] == [bundle.digest, second.digest]
    assert report.table.spread is not None
    with pytest.raises(UsageError, match="no bundle"):
        evaluate([], dataset)


def test_unreadable_cases_fail_alone(bundle, dataset):
    ref = dataset["c100"].inputs["image"]
    cases = [replace(c, inputs={"image": replace(ref, member="images/999")}) if c.id == "c100" else c for c in dataset]
    report = evaluate(bundle, dataset.with_cases(cases), options=QUICK)
    assert [failure.case for failure in report.failed] == ["c100"]
    assert report.cases == 48
    assert ("unreadable or refused", 1) in report.flow
    assert any("1 of 49 cases could not be evaluated" in text for text in report.warnings)


# -- another hospital ------------------------------------------------------------------------------------------------


def test_their_classes_become_ours(bundle, dataset):
    theirs = (Label("cancer"), Label("healthy"), Label("unclear"))
    turn = {0: 1, 1: 0}
    cases = tuple(
        replace(c, truth=replace(c.truth, label=2 if c.id == "c110" else turn[c.truth.label]))
        if c.truth.annotated
        else c
        for c in dataset
    )
    other = replace(dataset, name="elsewhere", cases=cases, labels=theirs, kind="multiclass", positive=None)
    words = {"cancer": "malignant", "healthy": "benign", "unclear": None}
    report = evaluate(bundle, other, options=replace(QUICK, labels=words))
    assert report.cases == 48, "the unclear one is left out"
    own = evaluate(bundle, dataset.where(lambda c: c.id != "c110"), options=QUICK)
    assert np.array_equal(report.table.truth, own.table.truth)
    assert report.row("auroc").value == own.row("auroc").value
    with pytest.raises(UsageError, match=r"does not know a class.*cancer"):
        evaluate(bundle, other, options=QUICK)
    with pytest.raises(UsageError, match="no such class"):
        in_terms_of(bundle, other, {"mass": "malignant"})
    with pytest.raises(UsageError, match="no case of elsewhere"):
        in_terms_of(bundle, other, dict.fromkeys(words))


def test_their_inputs_become_ours(bundle, dataset):
    cases = tuple(replace(c, inputs={"ultrasound": c.inputs["image"], "mammogram": None}) for c in dataset)
    other = replace(
        dataset, cases=cases, inputs={"mammogram": dataset.inputs["image"], "ultrasound": dataset.inputs["image"]}
    )
    mapped = in_terms_of(bundle, other, inputs={"ultrasound": "image"})
    assert list(mapped.inputs) == ["image"]
    assert mapped["c003"].inputs == dataset["c003"].inputs
    with pytest.raises(UsageError, match="lacks an input"):
        in_terms_of(bundle, other)
    with pytest.raises(UsageError, match="no such input"):
        in_terms_of(bundle, other, inputs={"mri": "image"})


@pytest.fixture
def colours(tmp_path):
    """40 colour images whose ill ones have a red square."""
    rng = np.random.default_rng(8)
    ill = rng.random(40) < 0.5
    images = rng.integers(0, 90, (40, 16, 16, 3)).astype(np.uint8)
    images[ill, 4:9, 4:9, 0] += 120
    np.savez(tmp_path / "rgb.npz", images=images)
    cases = [
        Case(f"c{i:02d}", f"p{i}", {"image": Ref("rgb.npz", f"images/{i}")}, Truth(True, label=int(ill[i])), "test")
        for i in range(40)
    ]
    labels = (Label("benign"), Label("malignant"))
    inputs = {"image": InputSpec("XC")}
    return images, Dataset("colours", "classify", tuple(cases), inputs, labels, "binary", tmp_path, positive=1)


def _as_nrrd(folder, name, pixels):
    """One image with its samples side by side, unnamed, as other programs store several channels."""
    rows, columns, samples = pixels.shape
    header = (
        f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: {samples} {columns} {rows}\n"
        "kinds: vector domain domain\nencoding: raw\n\n"
    )
    (folder / f"{name}.nrrd").write_bytes(header.encode() + pixels.tobytes())
    return Ref(f"{name}.nrrd")


def test_their_channels_become_ours(tmp_path, colours):
    images, ours = colours
    read = {case.id: read_ref(ours, case.inputs["image"]) for case in ours}
    trained = make_bundle(
        tmp_path / "run", ours, read, recipe_images=list(read.values()), channels=3, training_case_hashes=["0"]
    )
    stored = [
        replace(case, inputs={"image": _as_nrrd(tmp_path, case.id, images[i][..., ::-1])})
        for i, case in enumerate(ours)
    ]
    theirs = ours.with_cases(stored)
    assert read_ref(theirs, theirs["c00"].inputs["image"]).channels == ("channel_0", "channel_1", "channel_2")
    expected = evaluate(trained, ours, options=QUICK).table.scores
    named = {"channel_0": "blue", "channel_1": "green", "channel_2": "red"}
    for words in (named, ("channel_2", "channel_1", "channel_0")):
        found = evaluate(trained, theirs, options=replace(QUICK, channels=words)).table.scores
        assert np.array_equal(found, expected)
    assert np.abs(evaluate(trained, theirs, options=QUICK).table.scores - expected).max() > 1e-3, "the test can fail"
    with pytest.raises(DatasetError, match="no such channel"):
        evaluate(trained, theirs, options=replace(QUICK, channels=("red", "green", "blue")))


def test_the_order_of_channels():
    assert channel_order({"t2": "flair", "t1": "t1"}) == ("t2", "t1"), "not colours: as they are given"
    assert channel_order({"a": "alpha", "z": "blue", "y": "green", "x": "red"}) == ("x", "y", "z", "a")
    assert channel_order(("c", "a")) == ("c", "a")
    for wrong in ({}, (), "rgb"):
        with pytest.raises(UsageError, match="names in order"):
            channel_order(wrong)
    with pytest.raises(UsageError, match="the same one"):
        channel_order({"a": "red", "b": "red"})


def test_another_kind_of_truth_is_refused(bundle, dataset):
    cases = tuple(replace(c, truth=replace(c.truth, label=None, values=(1.0, 0.0))) for c in dataset)
    other = replace(dataset, cases=cases, kind="multilabel", positive=None)
    with pytest.raises(UsageError, match="other kinds of truth"):
        in_terms_of(bundle, other)


def test_recalibration_on_a_sites_own_cases(bundle, dataset):
    report = evaluate(bundle, dataset, "test", options=replace(QUICK, recalibrate_on="train"))
    stages = {r.stage for r in report.rows if r.name == "brier"}
    assert stages == {"uncalibrated", "calibrated", "recalibrated"}
    before, after = report.row("brier"), report.row("brier", stage="recalibrated")
    assert after.n == before.n == 49
    assert report.row("sensitivity", stage="recalibrated").threshold is not None
    named = tuple(c.id for c in dataset if c.split == "test")[:20]
    part = evaluate(bundle, dataset, "test", options=replace(QUICK, recalibrate_on=named))
    assert part.cases == 29
    assert ("kept for recalibration", 20) in part.flow
    with pytest.raises(UsageError, match="cases of its own"):
        evaluate(bundle, dataset, "test", options=replace(QUICK, recalibrate_on="test"))


def test_a_sites_decision_can_be_kept(bundle, dataset, tmp_path):
    named = tuple(c.id for c in dataset if c.split == "test" and c.truth.annotated)[:25]
    report = evaluate(bundle, dataset, "test", options=replace(QUICK, recalibrate_on=named))
    report.save(tmp_path / "out")
    kept = Decision.from_json(json.loads((tmp_path / "out" / "decision.json").read_text()))
    assert kept == report.recalibrated
    assert kept != bundle.decision
    here = recalibrated_bundle(bundle, kept, tmp_path / "here" / "bundle")
    assert here.digest == Bundle.load(tmp_path / "here").digest != bundle.digest
    assert here.decision == kept
    assert here.hashes["weights.safetensors"] == bundle.hashes["weights.safetensors"]
    assert here.spec.members == bundle.spec.members
    assert here.provenance["recalibrated_from"] == bundle.digest
    assert "Recalibrated for one site" in (here.path / "CARD.md").read_text()
    part = dataset.where(lambda case: case.id not in named)
    again = evaluate(here, part, "test", options=QUICK)
    assert again.row("brier").value == pytest.approx(report.row("brier", stage="recalibrated").value, abs=1e-6)
    sensitivity = report.row("sensitivity", stage="recalibrated")
    assert again.row("sensitivity").value == sensitivity.value
    assert again.row("sensitivity").threshold == pytest.approx(sensitivity.threshold)
    assert Bundle.load(bundle.path).digest == bundle.digest, "the bundle itself stays"
    with pytest.raises(BundleError, match="exists already"):
        recalibrated_bundle(bundle, kept, here.path)
    evaluate(bundle, dataset, "test", options=QUICK).save(tmp_path / "out")
    assert not (tmp_path / "out" / "decision.json").exists(), "no decision of an earlier evaluation stays"


def test_recalibrating_a_recalibrated_bundle_on_the_same_cases_changes_nothing(bundle, dataset, tmp_path):
    named = tuple(c.id for c in dataset if c.split == "test" and c.truth.annotated)[:25]
    options = replace(QUICK, recalibrate_on=named)
    once = evaluate(bundle, dataset, "test", options=options).recalibrated
    here = recalibrated_bundle(bundle, once, tmp_path / "here")
    twice = evaluate(here, dataset, "test", options=options).recalibrated
    assert twice.prior_shift == pytest.approx(once.prior_shift, abs=1e-9)
    assert twice.temperature == pytest.approx(once.temperature, rel=1e-3)


def test_exported_parts_go_into_the_recalibrated_bundle(bundle, tmp_path):
    states = [bundle.state_dict()]
    inputs = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)
    whole = Bundle.write(
        tmp_path / "whole", bundle.spec, states, card="# squares", parity_inputs=inputs, files={"table.csv": b"a,b\n"}
    )
    here = recalibrated_bundle(whole, whole.decision.with_(temperature=2.0), tmp_path / "here")
    assert set(here.hashes) == set(whole.hashes)
    assert here.hashes["table.csv"] == whole.hashes["table.csv"]
    with np.load(whole.path / "parity.npz") as before, np.load(here.path / "parity.npz") as after:
        assert np.array_equal(before["inputs"], after["inputs"])
        assert np.allclose(before["outputs"], after["outputs"])


def test_a_decision_of_another_mapping_is_refused(bundle, tmp_path):
    with pytest.raises(UsageError, match="thresholds are not the bundle's classes"):
        recalibrated_bundle(bundle, Decision(thresholds=(0.1, 0.2, 0.7), positive=1), tmp_path / "here")
    with pytest.raises(UsageError, match="another positive class"):
        recalibrated_bundle(bundle, Decision(positive=0), tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_several_bundles_keep_no_decision(bundle, tmp_path, dataset, read_images):
    second = make_bundle(tmp_path / "second", dataset, read_images, seed=1)
    report = evaluate([bundle, second], dataset, "test", options=replace(QUICK, recalibrate_on="train"))
    assert report.row("brier", stage="recalibrated") is not None
    assert report.recalibrated is None, "it is for their average and fits neither"


def test_splits_that_training_dealt_are_dealt_again(tmp_path, dataset, read_images):
    bare = dataset.with_cases([replace(c, split=None) for c in dataset])
    dealt = with_splits(bare, 3)
    trained = make_bundle(tmp_path / "run", dealt, read_images)
    assert as_dealt(bare, [trained]).digest == dealt.digest
    report = evaluate(trained, bare, options=QUICK)
    assert report.split == "test"
    assert set(report.table.cases) <= {c.id for c in dealt if c.split == "test"}
    strange = bare.where(lambda c: c.id != "c000")
    assert as_dealt(strange, [trained]) is strange


def test_without_a_truth_there_is_nothing_to_judge(bundle, dataset):
    cases = [replace(c, truth=replace(c.truth, annotated=False, label=None)) for c in dataset]
    with pytest.raises(DatasetError, match="truth"):
        evaluate(bundle, dataset.with_cases(cases), options=QUICK)


def test_operating_points():
    fitted = Decision(thresholds=(0.3, 0.7), target="youden", positive=1)
    assert operating_point("binary", fitted) == (0.3, 0.7)
    assert operating_point("ordinal", fitted) is None
    assert operating_point("binary", Decision()) is None


# -- baselines -------------------------------------------------------------------------------------------------------


def test_baselines_of_a_dataset_without_training_cases_say_so(bundle, dataset):
    test = dataset.split("test")
    report = evaluate(bundle, test, "test", options=replace(QUICK, baselines=True))
    assert len(report.baselines) == 1
    assert "no labelled training cases" in report.baselines[0].reason


def test_a_column_that_gives_the_truth_away_is_told(bundle, dataset):
    cases = [
        replace(c, columns={"histology": "carcinoma" if c.truth.label else "none"}) if c.truth.annotated else c
        for c in dataset
    ]
    report = evaluate(bundle, dataset.with_cases(cases), options=replace(QUICK, baselines=True))
    assert any("does one of them record the diagnosis" in text for text in report.warnings)


def test_a_baseline_that_is_beaten_is_not_complained_of(bundle, dataset):
    table = evaluate(bundle, dataset, options=QUICK).table
    perfect = replace(table, scores=np.eye(2)[table.truth] * 0.98 + 0.01, decided=())
    pictures = {case: small(dataset, dataset[case]) for case in table.cases}
    plain = dataset.with_cases([replace(c, columns={"noise": c.columns["noise"]}) for c in dataset])
    found = baselines(perfect, plain, pictures)
    assert not [text for text in not_beaten(found) if "commonest" in text or "columns" in text]


def test_images_that_differ_in_size_have_thumbnails_of_one_size():
    rng = np.random.default_rng(0)
    image = rng.random((17, 40)).astype(np.float32)
    little = averaged(averaged(image, 0, 5), 1, 8)
    assert little.shape == (5, 8)
    assert little.mean() == pytest.approx(image.mean(), rel=1e-5)
    assert averaged(np.ones((3, 2), np.float32), 0, 7) == pytest.approx(np.ones((7, 2)))
