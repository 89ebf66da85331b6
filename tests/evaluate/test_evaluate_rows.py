"""The rows of a report: recomputed by scikit-learn, refused where there is nothing to say, joined by patient."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error, recall_score, roc_auc_score

from medmap.config import validate
from medmap.errors import DatasetError
from medmap.evaluate import MetricsFile, Options, groups_of, metrics_schema, report_from_table, taken_together
from medmap.metrics import Bootstrap

QUICK = Options(bootstrap=Bootstrap(200))


def row(report, name, group="all", stage="calibrated"):
    found = [r for r in report.rows if (r.name, r.group, r.stage, r.average) == (name, group, stage, None)]
    assert len(found) == 1, (name, group, stage, found)
    return found[0]


def test_every_kind_gives_valid_json(table):
    report = report_from_table(table, split="test", options=QUICK)
    document = json.loads(report.json_text())
    read = validate(MetricsFile, document, "metrics.json")
    assert read.cases == len(table) == document["cases"]
    for key in [
        "medmap_metrics",
        "task",
        "split",
        "cases",
        "patients",
        "failed",
        "bundle",
        "dataset",
        "seconds",
        "metrics",
        "warnings",
    ]:
        assert key in document
    for entry in document["metrics"]:
        assert {"name", "group", "average", "stage", "value", "low", "high", "n", "method"} <= entry.keys()
        assert entry["value"] is not None or entry["reason"]
        if entry["value"] is not None and entry["low"] is not None:
            assert entry["low"] <= entry["value"] <= entry["high"]


def test_the_schema_names_what_the_interface_names():
    schema = metrics_schema()
    assert {"medmap_metrics", "metrics", "warnings", "failed"} <= set(schema["required"])


def test_uncalibrated_rows_carry_no_operating_point(binary_table):
    report = report_from_table(binary_table, split="test", options=QUICK)
    before = {r.name for r in report.rows if r.stage == "uncalibrated"}
    assert {"auroc", "brier", "ece", "accuracy"} <= before
    assert not before & {"sensitivity", "specificity", "ppv", "npv", "f1"}
    assert row(report, "brier", stage="uncalibrated").value != row(report, "brier").value
    assert row(report, "sensitivity").threshold == 0.3


def test_binary_subgroups_are_what_scikit_learn_says(binary_table):
    report = report_from_table(binary_table, split="test", options=QUICK)
    yes, score = binary_table.is_positive, binary_table.positive_scores
    for site in ("Ghent", "Lund"):
        here = np.array([s == site for s in binary_table.sites])
        group = f"site={site}"
        assert row(report, "auroc", group).value == pytest.approx(roc_auc_score(yes[here], score[here]))
        assert row(report, "sensitivity", group).value == pytest.approx(recall_score(yes[here], score[here] >= 0.3))
        specificity = recall_score(~yes[here], score[here] < 0.3)
        assert row(report, "specificity", group).value == pytest.approx(specificity)
        assert row(report, "accuracy", group).value == pytest.approx(accuracy_score(yes[here], score[here] >= 0.5))
        assert row(report, "auroc", group).n == here.sum()
    assert [r for r in report.rows if r.group == "stage=not recorded"]


def test_numeric_columns_are_cut_into_ranges_that_cover_everybody(binary_table):
    found, why = groups_of("age", binary_table.columns["age"])
    assert why is None
    assert len(found) == 4
    assert np.sum([g.inside for g in found], axis=0).tolist() == [1] * len(binary_table)
    sizes = [int(g.inside.sum()) for g in found]
    assert max(sizes) - min(sizes) < 15
    low, high = found[0].name.removeprefix("age=").split("–")
    ages = np.array(binary_table.columns["age"])[found[0].inside]
    assert (float(low), float(high)) == (ages.min(), ages.max())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("a",) * 40, "same value everywhere"),
        ((None,) * 40, "not recorded"),
        (tuple(f"id{i}" for i in range(40)), "too many"),
    ],
)
def test_columns_that_make_no_groups_say_why(values, words):
    found, why = groups_of("column", values)
    assert found == []
    assert words in why


def test_small_groups_and_groups_of_one_class_are_null_with_a_reason(binary_table):
    yes = binary_table.is_positive
    rare = np.where(np.arange(len(yes)) < 4, "rare", np.where(yes, "ill", "well"))
    table = replace(binary_table, columns={"group": tuple(str(v) for v in rare)})
    report = report_from_table(table, split="test", options=QUICK)
    few = row(report, "accuracy", "group=rare")
    assert few.value is None
    assert "fewer than 10" in few.reason
    assert row(report, "auroc", "group=ill").value is None
    assert row(report, "auroc", "group=ill").reason == "no negative case"
    assert row(report, "specificity", "group=ill").value is None
    assert row(report, "sensitivity", "group=ill").value is not None


def test_a_group_that_fares_worse_is_warned_of(binary_table):
    here = np.array([s == "Lund" for s in binary_table.sites])
    scores = np.array(binary_table.scores)
    scores[here] = scores[here][:, ::-1]
    report = report_from_table(replace(binary_table, scores=scores, decided=()), split="test", options=QUICK)
    assert [text for text in report.warnings if "site: Lund" in text and "worse" in text]


def test_macro_auroc_is_scikit_learns():
    from prediction_tables import several

    table = several()
    report = report_from_table(table, split="test", options=QUICK)
    expected = roc_auc_score(table.truth, table.scores, multi_class="ovr")
    assert row(report, "auroc").value == pytest.approx(expected)
    assert row(report, "accuracy").value == pytest.approx(accuracy_score(table.truth, table.scores.argmax(1)))


def test_regression_leaves_unknown_truths_out():
    from prediction_tables import regression

    table = regression(targets=2)
    truth = np.array(table.truth)
    truth[:30, 0] = np.nan
    report = report_from_table(replace(table, truth=truth), split="test", options=QUICK)
    found = row(report, "mae", "age 0", None)
    assert found.n == 70
    assert found.value == pytest.approx(mean_absolute_error(truth[30:, 0], table.scores[30:, 0]))


def test_abstention_has_its_coverage_and_its_accuracy(binary_table):
    report = report_from_table(binary_table, split="test", options=QUICK)
    kept = ~binary_table.abstained
    assert row(report, "coverage").value == pytest.approx(kept.mean())
    right = (binary_table.positive_scores >= 0.5) == binary_table.is_positive
    assert row(report, "accuracy_when_decided").value == pytest.approx(right[kept].mean())
    plain = report_from_table(replace(binary_table, abstained=None, decided=()), split="test", options=QUICK)
    assert not [r for r in plain.rows if r.name == "coverage"]


def test_cases_of_a_patient_are_taken_together(binary_table):
    patients = tuple(f"P{i // 3}" for i in range(len(binary_table)))
    table = replace(binary_table, patients=patients, columns={"eye": ("L", "L", "R") * (len(patients) // 3)})
    together = taken_together(table, "patient")
    assert len(together) == 40
    assert together.positive_scores[0] == pytest.approx(table.positive_scores[:3].mean())
    assert together.is_positive[0] == table.is_positive[:3].any()
    eyes = taken_together(table, "eye")
    assert len(eyes) == 80
    assert len(set(eyes.patients)) == 40
    report = report_from_table(table, split="test", options=replace(QUICK, aggregate_by=("eye", "patient")))
    assert [(part.by, part.units) for part in report.aggregated] == [("eye", 80), ("patient", 40)]
    per_eye = next(r for r in report.aggregated[0].rows if r.name == "auroc")
    assert "clustered" in per_eye.method
    expected = roc_auc_score(together.is_positive, together.positive_scores)
    assert next(r for r in report.aggregated[1].rows if r.name == "auroc").value == pytest.approx(expected)


def test_taking_together_what_has_no_one_class_is_refused():
    from prediction_tables import several

    table = replace(several(), patients=("one",) * 150)
    with pytest.raises(DatasetError, match="different classes"):
        taken_together(table, "patient")
    with pytest.raises(DatasetError, match="no such column"):
        taken_together(table, "eye")


def test_taking_together_findings_and_numbers():
    from prediction_tables import multilabel, regression

    table = replace(multilabel(), patients=tuple(f"p{i // 2}" for i in range(150)))
    together = taken_together(table, "patient")
    assert together.truth[0, 0] == np.nanmax(table.truth[:2, 0])
    numbers = replace(regression(), patients=tuple(f"p{i // 2}" for i in range(100)))
    means = taken_together(numbers, "patient")
    assert means.scores[3, 0] == pytest.approx(numbers.scores[6:8, 0].mean())
    assert means.truth[3, 0] == pytest.approx(numbers.truth[6:8, 0].mean())


def test_few_cases_of_a_class_are_warned_of(binary_table):
    report = report_from_table(binary_table.at(np.arange(30)), split="test", options=QUICK)
    assert [text for text in report.warnings if text.startswith("Fewer than 20 cases of: malignant")]
