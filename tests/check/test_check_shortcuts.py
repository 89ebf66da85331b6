"""What predicts the label and should not; labels that are probably wrong."""

from __future__ import annotations

import numpy as np
import pytest

from medmap.check import Issue, check
from medmap.check.labels import confident_errors
from medmap.check.shortcuts import categorised, linear_out_of_fold, rates_out_of_fold


def only(issues: list[Issue], code: str) -> Issue:
    found = [issue for issue in issues if issue.code == code]
    assert len(found) == 1, (code, issues)
    return found[0]


def codes(issues: list[Issue]) -> set[str]:
    return {issue.code for issue in issues}


def test_a_site_that_predicts_the_label(plan):
    rng = np.random.default_rng(0)
    plan.sites = ["north" if (label == 1) != (rng.random() < 0.1) else "south" for label in plan.labels]
    found = only(check(plan.write()), "shortcut_column")
    assert found.severity == "warning"
    assert found.details["predictor"] == "site"
    assert found.details["auroc"] > 0.8
    assert found.details["low"] > 0.55
    assert "site" in found.message
    assert f"{found.details['auroc']:.2f}" in found.message


def test_a_column_that_is_the_answer(plan):
    plan.columns["therapy"] = ["surgery" if label else "none" for label in plan.labels]
    found = only(check(plan.write()), "shortcut_column")
    assert found.details["predictor"] == "therapy"
    assert "answer written down" in found.effect


def test_age_may_go_along_with_disease_and_a_number_need_not_be_monotone(plan):
    rng = np.random.default_rng(1)
    plan.columns["age"] = [float(rng.normal(66 if label else 54, 12)) for label in plan.labels]
    plan.columns["kvp"] = [float(100 + (rng.choice([-20, 20]) if label else 0)) for label in plan.labels]
    found = {issue.details["predictor"]: issue for issue in check(plan.write()) if issue.code == "shortcut_column"}
    assert found["age"].severity == "info"
    assert found["kvp"].severity == "warning"


def test_an_identifier_predicts_nothing(plan):
    plan.columns["accession"] = [f"A{i:05d}" for i in range(90)]
    plan.columns["number"] = [float(i * 37 % 90) for i in range(90)]
    assert "shortcut_column" not in codes(check(plan.write()))


def test_patients_stay_together_so_that_their_names_predict_nothing(plan):
    """Three images and one label a patient, a column that names the patient: only a split by case would cheat."""
    plan.splits = [None] * 90
    plan.patients = [f"p{i // 3}" for i in range(90)]
    plan.columns["room"] = [f"r{i // 3}" for i in range(90)]
    assert "shortcut_column" not in codes(check(plan.write()))


def test_a_size_that_predicts_the_label(plan):
    plan.images = {i: plan.texture(i, label, side=28 + 4 * label) for i, label in enumerate(plan.labels)}
    found = only(check(plan.write()), "shortcut_acquisition")
    assert found.severity == "warning"
    assert found.details["auroc"] == pytest.approx(1.0)
    assert "size" in found.message


def test_a_marker_in_the_corner_predicts_the_label(plan):
    for i, label in enumerate(plan.labels):
        array = plan.picture(i).copy()
        if label:
            array[1:4, 22:27:2] = 250  # the letter of a ward
        plan.images[i] = array
    found = only(check(plan.write()), "shortcut_border")
    assert found.severity == "warning"
    assert found.details["auroc"] > 0.85


def test_several_classes_name_the_one_that_is_given_away(plan):
    plan.labels = [i % 3 for i in range(90)]
    plan.names, plan.kind = ("a", "b", "c"), "multiclass"
    plan.sites = ["x" if label == 2 else "y" for label in plan.labels]
    assert only(check(plan.write()), "shortcut_column").details["class"] == "c"


def test_too_few_cases_say_nothing_about_shortcuts(plan):
    plan.labels = [int(i < 6) for i in range(90)]
    plan.sites = ["x" if label else "y" for label in plan.labels]
    assert "shortcut_column" not in codes(check(plan.write()))


def test_chance_stays_chance():
    rng = np.random.default_rng(0)
    fold = np.arange(200) % 5
    from medmap.metrics import auroc_value

    values = []
    for _ in range(40):
        yes = rng.random(200) < 0.4
        values.append(auroc_value(rates_out_of_fold(rng.integers(0, 4, 200), yes, fold), yes))
        scores = linear_out_of_fold(rng.normal(size=(200, 30)), yes, fold)
        values.append(auroc_value(scores, yes))
    assert 0.44 < np.mean(values) < 0.52
    assert linear_out_of_fold(np.ones((200, 3)), rng.random(200) < 0.5, fold) is None


def test_categories():
    assert categorised(["a", None, "b", "a"]).tolist() == [0, 1, 2, 0]
    assert categorised([1.0, 2.0, float("nan"), 1.0]).tolist() == [0, 1, 2, 0]
    assert len(set(categorised(list(np.linspace(0, 1, 300))).tolist())) == 10


# -- wrong labels -------------------------------------------------------------------------------------------------


def test_planted_label_errors_are_found(plan):
    truth = list(plan.labels)
    plan.images = {i: plan.texture(i, label) for i, label in enumerate(truth)}
    wrong = {4, 17, 33, 50, 62, 81}
    plan.labels = [1 - label if i in wrong else label for i, label in enumerate(truth)]
    dataset = plan.write()
    assert "likely_label_error" not in codes(check(dataset))  # only when asked
    found = only(check(dataset, label_errors=True), "likely_label_error")
    named = {int(case[1:]) for case in found.cases}
    assert len(named & wrong) >= 4
    assert {int(case[1:]) for case in found.cases[:4]} <= wrong  # the most certain first
    assert len(named - wrong) <= 1
    assert found.details["rows"][0]["given"] != found.details["rows"][0]["suggested"]


def test_right_labels_are_left_in_peace(plan):
    assert not codes(check(plan.write(), label_errors=True)) & {"likely_label_error", "label_errors_not_assessed"}


def test_when_pictures_say_nothing_the_check_says_so(plan):
    plan.images = {i: plan.texture(i, 0) for i in range(90)}
    found = only(check(plan.write(), label_errors=True), "label_errors_not_assessed")
    assert found.severity == "info"
    assert "do not tell" in found.message


def test_too_few_cases_for_label_errors(plan):
    plan.labels = [int(i < 15) for i in range(90)]
    assert "too few" in only(check(plan.write(), label_errors=True), "label_errors_not_assessed").message


def test_confident_learning_prunes_by_margin():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600)
    given = truth.copy()
    flipped = rng.choice(600, 40, replace=False)
    given[flipped] = (truth[flipped] + 1) % 3
    logits = rng.normal(size=(600, 3))
    logits[np.arange(600), truth] += 4
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    positions, suggested, share = confident_errors(p, given)
    assert len(set(positions) & set(flipped)) >= 26
    assert len(set(positions) - set(flipped)) <= 4
    assert share == pytest.approx(40 / 600, abs=0.03)
    hits = np.isin(positions, flipped)
    assert (suggested[hits] == truth[positions[hits]]).mean() > 0.95
