"""From a real bundle and a dataset to a report: looks, leaks, baselines, other hospitals' words."""

import json
from dataclasses import replace

import numpy as np
import pytest
from random_bundle import make_bundle

from medmap.dataset import with_splits
from medmap.decision import Decision
from medmap.errors import DatasetError, UsageError
from medmap.evaluate import Options, evaluate, in_terms_of, leaks, log_look, operating_point, read_predictions
from medmap.evaluate.baselines import baselines, not_beaten
from medmap.evaluate.judge import as_dealt
from medmap.evaluate.pictures import averaged, small
from medmap.metrics import Bootstrap
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


def test_leaks_in_words(bundle):
    assert "learned from" in leaks([bundle], {"a": "0"}, "train")[0]
    assert "validation" in leaks([bundle], {"a": "0"}, "val")[0]
    assert leaks([bundle], {"a": "0"}, "test") == []


def test_a_patient_in_two_splits_is_warned_of(bundle, dataset):
    cases = [replace(c, patient="p000") if c.id == "c100" else c for c in dataset]
    report = evaluate(bundle, dataset.with_cases(cases), options=QUICK)
    assert any("in another split too (p000)" in text for text in report.warnings)


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
