"""Temperature, thresholds, abstention, another site."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as sk

from medmap.decision import (
    Decision,
    Target,
    apply_temperature,
    box_chances,
    calibrated,
    decide,
    fit_box_calibration,
    fit_box_threshold,
    fit_temperature,
    fit_thresholds,
    parse_target,
    recalibrate,
)
from medmap.errors import BundleError, DatasetError, UsageError


def honest_logits(seed: int, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the chance of each class."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, width))
    chance = special.softmax(logits, axis=1)
    truth = (rng.random(n)[:, None] > chance.cumsum(1)).sum(1).clip(0, width - 1)
    return logits, truth


# -- the value ------------------------------------------------------------------------------------------------------

FULL = Decision(
    temperature=(1.5, 0.8),
    thresholds=(0.3, 0.6),
    target="sensitivity>=0.95",
    prevalence=0.1,
    prior_shift=(0.5, -0.5),
    abstain_below=0.6,
    components={"organ": {"largest_only": True, "smallest": 12.5}},
    accepts={"image": {"modality": "US", "channels": 1, "ndim": 2, "spacing_mm": [0.1, 0.3]}},
    fitted_on={"n": 78, "split": "val", "how": "out of fold"},
)


def test_json_there_and_back() -> None:
    text = json.dumps(FULL.to_json(), allow_nan=False)
    assert Decision.from_json(json.loads(text)) == FULL
    assert Decision.from_json(Decision().to_json()) == Decision()
    assert FULL.with_(abstain_below=None).abstain_below is None


def test_numpy_numbers_become_plain_ones() -> None:
    decision = Decision(temperature=np.float64(2.0), thresholds=np.array([0.1, 0.9]))
    json.dumps(decision.to_json())
    assert type(decision.temperature) is float


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"colour": "red"}, "field that is unknown here: got colour"),
        ({"temperature": 0}, "temperature is positive"),
        ({"temperature": []}, "temperature is positive"),
        ({"temperature": "warm"}, "not finite numbers"),
        ({"temperature": True}, "not finite numbers"),
        ({"temperature": math.nan}, "temperature is positive"),
        ({"thresholds": [0.5, 1.2]}, r"outside \[0, 1\]"),
        ({"thresholds": 0.5}, "not finite numbers"),
        ({"thresholds": [math.nan, 0.5]}, "not finite numbers"),
        ({"target": "luck"}, "unknown target"),
        ({"target": 3}, "unknown target"),
        ({"positive": 2}, "positive class of two"),
        ({"positive": True}, "positive class of two"),
        ({"prevalence": 1.5}, "prevalence is out of range"),
        ({"abstain_below": "x"}, "abstain_below is out of range"),
        ({"components": {"organ": {"smallest": -1}}}, "the smallest part is out of range"),
        ({"components": {"organ": {"smallest": math.inf}}}, "the smallest part is out of range"),
        ({"components": {"organ": {"largest_only": 1}}}, "largest_only is true or false"),
        ({"components": {"organ": {"biggest": True}}}, "components are no rules"),
        ({"prior_shift": ["a"]}, "prior_shift are not finite"),
        ({"accepts": []}, "accepts is no mapping"),
        ({"fitted_on": None}, "fitted_on is no mapping"),
    ],
)
def test_a_tampered_decision_is_refused(changes, sentence) -> None:
    with pytest.raises(BundleError, match=sentence):
        Decision.from_json({**FULL.to_json(), **changes})


def test_an_incomplete_decision_is_refused() -> None:
    values = FULL.to_json()
    del values["thresholds"]
    with pytest.raises(BundleError, match="lacks a field: got no thresholds"):
        Decision.from_json(values)
    with pytest.raises(BundleError, match="no mapping"):
        Decision.from_json([1])


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("youden", Target("youden")),
        ("f1", Target("f1")),
        ("largest_score", Target("largest_score")),
        ("sensitivity>=0.95", Target("sensitivity", 0.95)),
        ("specificity >= 1.0", Target("specificity", 1.0)),
        ("net_benefit@.2", Target("net_benefit", 0.2)),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["", "Youden", "sensitivity", "sensitivity>0.9", "sensitivity>=1.5", "net_benefit@0", "net_benefit@1", None]
)
def test_targets_that_are_none(text) -> None:
    with pytest.raises(UsageError, match="target"):
        parse_target(text)


# -- temperature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_of_a_softmax_is_found(kind: str, factor: float) -> None:
    logits, truth = honest_logits(0, 4000, 2 if kind == "binary" else 5)
    found = fit_temperature(logits * factor, truth, kind)
    assert found.value == pytest.approx(factor, rel=0.1)
    assert found.reason is None
    assert found.n == 4000
    before = sk.log_loss(truth, special.softmax(logits * factor, axis=1))
    after = sk.log_loss(truth, apply_temperature(logits * factor, found.value, kind))
    assert (found.before, found.after) == pytest.approx((before, after))
    assert after <= before


def test_temperature_of_each_label_is_found() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, 3))
    truth = (rng.random((4000, 3)) < special.expit(logits)).astype(float)
    truth[rng.random((4000, 3)) < 0.2] = np.nan
    truth[:, 2] = 0
    found = fit_temperature(logits * (0.5, 2.0, 1.0), truth, "multilabel")
    assert found.value[:2] == pytest.approx((0.5, 2.0), rel=0.12)
    assert found.value[2] == 1.0
    assert found.reason == "label 2: all cases are of one class"


def test_temperature_of_grades_is_found() -> None:
    rng = np.random.default_rng(2)
    severity = rng.normal(0, 2, 4000)
    honest = severity[:, None] - np.array([-1.5, 0.0, 1.5])
    truth = (special.expit(honest) > rng.random(4000)[:, None]).sum(1)
    assert fit_temperature(honest * 2, truth, "ordinal").value == pytest.approx(2, rel=0.1)
    chance = apply_temperature(honest, 1.0, "ordinal")
    assert chance.shape == (4000, 4)
    np.testing.assert_allclose(chance.sum(1), 1)
    assert (chance >= 0).all()


@pytest.mark.parametrize(
    ("logits", "truth", "reason"),
    [
        (np.eye(2)[np.arange(40) % 2] * 5, np.arange(40) % 2, "too well"),
        (np.eye(2)[np.arange(40) % 2] * 5, 1 - np.arange(40) % 2, "say nothing"),
        (np.zeros((40, 2)), np.arange(40) % 2, "do not differ"),
        (np.eye(2)[np.arange(40) % 2], np.zeros(40), "one class"),
        (np.eye(2), [0, 1], "2 cases are too few"),
        (np.zeros((0, 2)), [], "0 cases are too few"),
    ],
)
def test_a_temperature_that_cannot_be_fitted_is_one(logits, truth, reason) -> None:
    found = fit_temperature(logits, truth, "binary")
    assert found.value == 1.0
    assert reason in found.reason


def test_a_label_that_nobody_knows() -> None:
    found = fit_temperature(np.zeros((20, 1)), np.full((20, 1), np.nan), "multilabel")
    assert (found.value, found.before, found.n) == ((1.0,), None, 0)


@given(st.floats(0.1, 10), st.integers(2, 5), st.integers(0, 99))
def test_temperature_keeps_the_order_of_the_classes(temperature: float, width: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (20, width))
    chance = apply_temperature(logits, temperature, "binary" if width == 2 else "multiclass")
    np.testing.assert_allclose(chance.sum(1), 1)
    assert (chance.argmax(1) == logits.argmax(1)).all()


def test_huge_logits_overflow_nothing() -> None:
    assert apply_temperature([[1e4, -1e4]], 1.0, "binary").tolist() == [[1.0, 0.0]]
    assert apply_temperature([[1e4, -1e4]], [1.0, 2.0], "multilabel").tolist() == [[1.0, 0.0]]
    mixed = np.array([[1e4, -1e4]] * 10 + [[-1e4, 1e4]] * 10)
    truth = np.array([0] * 9 + [1] * 11)
    assert math.isfinite(fit_temperature(mixed, truth, "binary").after)


# -- thresholds -----------------------------------------------------------------------------------------------------


def scored(seed: int, n: int = 200, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    yes = rng.random(n) < 0.3
    yes[:2] = (True, False)
    score = special.expit(rng.normal(2.0 * yes - 1, 1))
    return (score if levels is None else np.round(score * levels) / levels), yes


def every_threshold(score: np.ndarray, yes: np.ndarray):
    """(threshold, sensitivity, specificity) at each score, and above all of them."""
    for t in [*np.unique(score), 1.1]:
        call = score >= t
        yield t, call[yes].mean(), (~call[~yes]).mean()


def binary(score: np.ndarray) -> np.ndarray:
    return np.stack([1 - score, score], axis=1)


@pytest.mark.parametrize("levels", [None, 10])
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_reach_what_a_search_reaches(seed: int, levels: int | None) -> None:
    score, yes = scored(seed, levels=levels)
    table, rate = binary(score), yes.mean()
    options = list(every_threshold(score, yes))
    for target, gain in {
        "youden": lambda a, b: a + b,
        "f1": lambda a, b: 2 * rate * a / (rate * a + (1 - rate) * (1 - b) + rate),
        "net_benefit@0.2": lambda a, b: rate * a - (1 - rate) * (1 - b) * 0.25,
        "sensitivity>=0.9": lambda a, b: b if a >= 0.9 else -1,
        "specificity>=0.9": lambda a, b: a if b >= 0.9 else -1,
    }.items():
        found = fit_thresholds(table, yes, "binary", target, positive=1)
        t = found.values[1]
        call = score >= t
        reached = call[yes].mean(), (~call[~yes]).mean()
        assert (found.sensitivity[1], found.specificity[1]) == pytest.approx(reached)
        assert (found.sensitivity[0], found.specificity[0]) == pytest.approx(reached[::-1])
        assert gain(*reached) == pytest.approx(max(gain(a, b) for _, a, b in options), abs=1e-12), target
        assert found.values[0] == pytest.approx(1 - t)
        assert found.reason is None


def test_thresholds_lie_midway() -> None:
    score = np.array([0.1, 0.2, 0.6, 0.9])
    found = fit_thresholds(binary(score), [0, 0, 1, 1], "binary", "youden", positive=1)
    assert found.values[1] == pytest.approx(0.4)
    all_called = fit_thresholds(binary(score), [1, 0, 1, 1], "binary", "sensitivity>=1", positive=1)
    assert all_called.values[1] == pytest.approx(0.05)
    none_called = fit_thresholds(binary(score), [1, 0, 1, 0], "binary", "specificity>=1", positive=1)
    assert none_called.values[1] == pytest.approx(0.95)


def test_thresholds_at_the_ends_of_the_scale() -> None:
    score = np.array([0.0, 0.0, 1.0, 1.0])
    assert fit_thresholds(binary(score), [0, 1, 0, 1], "binary", "sensitivity>=1", positive=1).values[1] == 0.0
    stuck = fit_thresholds(binary(score), [0, 1, 0, 1], "binary", "specificity>=0.9", positive=1)
    assert stuck.reason == "class 1: specificity reaches 0.5 only"
    assert stuck.values[1] == 0.5


def test_prevalence_moves_the_net_benefit() -> None:
    score, yes = scored(3, 1000)
    table = binary(score)
    here = fit_thresholds(table, yes, "binary", "f1", positive=1)
    rare = fit_thresholds(table, yes, "binary", "f1", positive=1, prevalence=0.02)
    assert rare.values[1] > here.values[1]


def test_the_other_class_can_be_positive() -> None:
    score, yes = scored(4)
    one = fit_thresholds(binary(score), yes, "binary", "sensitivity>=0.9", positive=1)
    other = fit_thresholds(binary(score)[:, ::-1], ~yes, "binary", "sensitivity>=0.9", positive=0)
    assert other.values == pytest.approx(one.values[::-1])


def test_every_class_and_every_label_has_its_threshold() -> None:
    logits, truth = honest_logits(5, 600, 3)
    chance = special.softmax(logits, axis=1)
    found = fit_thresholds(chance, truth, "multiclass", "sensitivity>=0.8")
    for c in range(3):
        assert (chance[truth == c, c] >= found.values[c]).mean() == found.sensitivity[c] >= 0.8
    onehot = np.eye(3)[truth]
    labels = fit_thresholds(chance, onehot, "multilabel", "sensitivity>=0.8")
    assert labels.values == found.values
    onehot[:, 1] = np.nan
    onehot[:, 2] = 1
    unknown = fit_thresholds(chance, onehot, "multilabel", "youden")
    assert unknown.values[1:] == (0.5, 0.5)
    assert unknown.reason == "class 1: no case; class 2: no negative case"
    assert unknown.specificity[2] is None
    half = fit_thresholds(chance, truth, "multiclass", "largest_score")
    assert half.values == (0.5, 0.5, 0.5)


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=30))
def test_thresholds_stand_on_no_score(rows) -> None:
    score, yes = np.array([r[0] for r in rows]) / 20, np.array([r[1] for r in rows])
    for target in ("youden", "f1", "sensitivity>=0.9", "specificity>=0.9", "net_benefit@0.3"):
        found = fit_thresholds(binary(score), yes, "binary", target, positive=1)
        assert all(0 <= t <= 1 for t in found.values)
        if yes.all() or not yes.any():
            assert found.values == (0.5, 0.5)
        else:
            assert found.values[1] == 0 or np.abs(score - found.values[1]).min() > 0.01


# -- applying -------------------------------------------------------------------------------------------------------


def test_binary_answers_follow_the_threshold() -> None:
    decision = Decision(thresholds=(0.2, 0.8), target="youden", positive=0)
    table = np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    assert decide(table, decision, "binary").predicted.tolist() == [1, 0, 0]
    assert decide(table, Decision(), "binary").predicted.tolist() == [1, 1, 0]


def test_answers_at_the_threshold_reach_what_the_fit_promised() -> None:
    score, yes = scored(7)
    found = fit_thresholds(binary(score), yes, "binary", "sensitivity>=0.9", positive=1)
    answer = decide(binary(score), Decision(thresholds=found.values, target=found.target, positive=1), "binary")
    assert (answer.predicted[yes] == 1).mean() == found.sensitivity[1]


def test_several_classes_take_the_largest() -> None:
    table = np.array([[0.4, 0.35, 0.25], [0.1, 0.1, 0.8]])
    decision = Decision(thresholds=(0.9, 0.1, 0.1), target="youden", abstain_below=0.5)
    chosen, abstained = decide(table, decision, "multiclass")
    assert chosen.tolist() == [0, 2]
    assert abstained.tolist() == [True, False]


def test_labels_are_called_one_by_one() -> None:
    table = np.array([[0.4, 0.95], [0.01, 0.97]])
    chosen, abstained = decide(table, Decision(thresholds=(0.3, 0.96), abstain_below=0.9), "multilabel")
    assert chosen.tolist() == [[1, 0], [0, 1]]
    assert abstained.tolist() == [True, False]


def test_no_case_gives_no_answer() -> None:
    chosen, abstained = decide(np.zeros((0, 3)), Decision(abstain_below=0.5), "multiclass")
    assert chosen.shape == abstained.shape == (0,)


# -- another site ---------------------------------------------------------------------------------------------------


def site_cases(prevalence: float, n: int = 3000, factor: float = 1.0):
    """Two normal classes, for which equal priors make 3·score the log odds."""
    rng = np.random.default_rng(11)
    truth = (rng.random(n) < prevalence).astype(int)
    score = rng.normal(3 * truth - 1.5, 1)
    return np.stack([np.zeros(n), 3 * factor * score], axis=1), truth


BASE = Decision(thresholds=(0.4, 0.6), target="youden", positive=1, fitted_on={"n": 100})


def test_priors_are_found_without_truth() -> None:
    logits, truth = site_cases(0.1)
    site = recalibrate(logits, BASE, "binary", priors=(0.5, 0.5))
    assert site.priors[1] == pytest.approx(0.1, abs=0.02)
    assert site.decision.prevalence == site.priors[1]
    chance = calibrated(logits, site.decision, "binary")
    before = calibrated(logits, BASE, "binary")
    assert chance[:, 1].mean() == pytest.approx(truth.mean(), abs=0.015)
    assert sk.log_loss(truth, chance) < sk.log_loss(truth, before)
    # the threshold moved with the odds: the same cases are called
    same = decide(chance, site.decision, "binary").predicted == decide(before, BASE, "binary").predicted
    assert same.all()


def test_recalibrating_twice_is_recalibrating_once() -> None:
    logits, _ = site_cases(0.1)
    once = recalibrate(logits, BASE, "binary", priors=(0.5, 0.5))
    twice = recalibrate(logits, once.decision, "binary", priors=once.priors)
    assert twice.decision.thresholds == pytest.approx(once.decision.thresholds, rel=1e-4)
    assert twice.decision.prior_shift == pytest.approx(once.decision.prior_shift, rel=1e-4)


@pytest.mark.parametrize("seen", [False, True])
def test_a_shift_that_the_decision_has_stays_in(seen: bool) -> None:
    """Logits that are off by a constant, which the bundle's own shift mends: the site's answer is as without either."""
    logits, truth = site_cases(0.1)
    known = truth if seen else None
    plain = recalibrate(logits, BASE, "binary", priors=(0.5, 0.5), truth=known)
    mended = BASE.with_(prior_shift=(0.4, -0.6))
    other = recalibrate(logits - (0.4, -0.6), mended, "binary", priors=(0.5, 0.5), truth=known)
    assert other.priors == pytest.approx(plain.priors)
    got, expected = other.decision, plain.decision
    assert got.prevalence == pytest.approx(expected.prevalence)
    if not seen:  # with truth the temperature divides the constant, too
        assert got.thresholds == pytest.approx(expected.thresholds)
        chance = calibrated(logits - (0.4, -0.6), got, "binary")
        np.testing.assert_allclose(chance, calibrated(logits, expected, "binary"), atol=1e-9)


def test_truth_of_the_site_refits_everything() -> None:
    logits, truth = site_cases(0.1, factor=2.0)
    site = recalibrate(logits, BASE, "binary", priors=(0.5, 0.5), truth=truth)
    assert site.decision.temperature == pytest.approx(2.0, rel=0.15)
    assert site.priors[1] == pytest.approx(truth.mean(), abs=0.005)
    assert site.reason is None
    assert site.decision.fitted_on == {"n": 100, "recalibrated_n": 3000, "priors": list(site.priors)}
    chance = calibrated(logits, site.decision, "binary")
    assert chance[:, 1].mean() == pytest.approx(truth.mean(), abs=0.01)
    fitted = fit_thresholds(chance, truth, "binary", "youden", positive=1)
    assert site.decision.thresholds == fitted.values


def test_a_site_with_one_class_keeps_what_it_cannot_fit() -> None:
    logits, _ = site_cases(0.1, n=40)
    base = BASE.with_(temperature=1.7)
    site = recalibrate(logits, base, "binary", priors=(0.5, 0.5), truth=np.zeros(40))
    assert site.decision.temperature == 1.7
    assert "temperature: all cases are of one class" in site.reason
    assert "thresholds: class 1: no positive case" in site.reason
    moved = stats.logistic.cdf(special.logit(0.6) + special.logit(site.priors[1]))
    assert site.decision.thresholds[1] == pytest.approx(moved)


def test_net_benefit_keeps_its_threshold() -> None:
    logits, _ = site_cases(0.1)
    decision = BASE.with_(target="net_benefit@0.2")
    assert recalibrate(logits, decision, "binary", priors=(0.5, 0.5)).decision.thresholds == BASE.thresholds


def test_labels_and_classes_at_a_site() -> None:
    rng = np.random.default_rng(12)
    truth = (rng.random((2000, 2)) < (0.1, 0.6)).astype(float)
    logits = 3 * rng.normal(3 * truth - 1.5, 1)
    base = Decision(temperature=(1.0, 1.0), thresholds=(0.5, 0.5), target="youden")
    blind = recalibrate(logits, base, "multilabel", priors=(0.5, 0.5))
    assert blind.priors == pytest.approx((0.1, 0.6), abs=0.03)
    seen = recalibrate(logits, base, "multilabel", priors=(0.5, 0.5), truth=truth)
    assert seen.priors == pytest.approx((0.1, 0.6), abs=0.03)
    assert seen.decision.temperature == pytest.approx((1.0, 1.0), rel=0.2)

    classes = rng.choice(3, 3000, p=(0.7, 0.2, 0.1))
    centred = rng.normal(2.5 * np.eye(3)[classes], 1) * 2.5
    shifted = recalibrate(centred, Decision(), "multiclass", priors=(1 / 3, 1 / 3, 1 / 3))
    assert shifted.priors == pytest.approx((0.7, 0.2, 0.1), abs=0.03)
    kept = recalibrate(centred, Decision(), "multiclass", priors=(1 / 3,) * 3, truth=classes)
    assert len(kept.decision.thresholds) == 3


# -- refusals -------------------------------------------------------------------------------------------------------

TWO = [[0.4, 0.6], [0.7, 0.3]]


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: apply_temperature(TWO, 1.0, "ternary"), UsageError, "unknown kind"),
        (lambda: apply_temperature([["a", "b"]], 1.0, "binary"), UsageError, "not numbers"),
        (lambda: apply_temperature([[0.4]], 1.0, "binary"), UsageError, "wrong shape for binary"),
        (lambda: apply_temperature([[0.4]], 1.0, "multiclass"), UsageError, "2 or more"),
        (lambda: apply_temperature([[math.nan, 1]], 1.0, "binary"), DatasetError, "not all finite"),
        (lambda: apply_temperature(TWO, 0.0, "binary"), UsageError, "temperature is positive"),
        (lambda: apply_temperature(TWO, [1.0, 1.0], "binary"), UsageError, "temperatures do not fit"),
        (lambda: fit_temperature(TWO, [0], "binary"), UsageError, "truth has the wrong shape"),
        (lambda: fit_temperature(TWO, [0, 2], "binary"), DatasetError, "not there: got 2"),
        (lambda: fit_temperature(TWO, [0, 0.5], "binary"), DatasetError, "not there: got 0.5"),
        (lambda: fit_temperature(TWO, [[0, 2], [0, 1]], "multilabel"), DatasetError, "0, 1 or NaN"),
        (lambda: fit_thresholds([[0.4, 1.6]], [0], "binary", "youden", positive=1), DatasetError, "no probabilities"),
        (lambda: fit_thresholds(TWO, [0, 1], "binary", "youden"), UsageError, "which class is positive"),
        (lambda: fit_thresholds(TWO, [0, 1], "multiclass", "youden", positive=1), UsageError, "which class"),
        (lambda: fit_thresholds(TWO, [0, 1], "binary", "best", positive=1), UsageError, "unknown target"),
        (
            lambda: fit_thresholds(TWO, [0, 1], "binary", "f1", positive=1, prevalence=1.0),
            UsageError,
            "a prevalence is between",
        ),
        (lambda: fit_thresholds(TWO, [0, 1], "multiclass", "f1", prevalence=0.1), UsageError, "a prevalence is"),
        (lambda: decide(TWO, Decision(thresholds=(0.5,)), "binary"), UsageError, "do not fit"),
        (lambda: decide(TWO, Decision(thresholds=(0.5, 0.5)), "binary"), UsageError, "does not name its positive"),
        (lambda: calibrated(TWO, Decision(prior_shift=(1.0,)), "binary"), UsageError, "prior shift does not fit"),
        (lambda: recalibrate(TWO, Decision(), "binary", priors=(0.5, 0.5)), UsageError, "positive class"),
        (lambda: recalibrate(TWO, BASE, "binary", priors=(0.5, 0.4)), UsageError, "sum to one"),
        (lambda: recalibrate(TWO, BASE, "binary", priors=(0.0, 1.0)), UsageError, "between 0 and 1"),
        (lambda: recalibrate(TWO, Decision(), "ordinal", priors=(0.5, 0.5)), UsageError, "grades"),
        (lambda: recalibrate(np.zeros((0, 2)), BASE, "binary", priors=(0.5, 0.5)), DatasetError, "needs cases"),
        (
            lambda: recalibrate(TWO, BASE.with_(thresholds=(0.5,)), "binary", priors=(0.5, 0.5)),
            UsageError,
            "thresholds and logits do not fit",
        ),
    ],
)
def test_refusals(call, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        call()


def test_scores_of_boxes_become_probabilities() -> None:
    rng = np.random.default_rng(4)
    chance = rng.beta(0.6, 1.2, 6000)
    real = rng.random(6000) < chance
    timid = special.expit(special.logit(np.clip(chance, 1e-4, 1 - 1e-4)) / 3 - 1)
    found = fit_box_calibration(timid[:3000], real[:3000])
    assert found.reason is None
    better = box_chances(timid[3000:], found.temperature, found.shift)
    for low in np.arange(0, 1, 0.2):
        inside = (better >= low) & (better < low + 0.2)
        assert abs(better[inside].mean() - real[3000:][inside].mean()) < 0.05
    assert (np.diff(better[np.argsort(timid[3000:])]) >= 0).all()


def test_scores_of_boxes_stay_where_little_is_known() -> None:
    assert "too few" in (fit_box_calibration([0.9] * 9 + [0.1] * 40, [True] * 9 + [False] * 40).reason or "")
    upside_down = fit_box_calibration(np.linspace(0.1, 0.9, 60), np.arange(60) < 30)
    assert upside_down[:2] == (1.0, 0.0)
    assert "not findings more often" in (upside_down.reason or "")


def test_the_operating_point_of_boxes_has_room_below_it() -> None:
    assert fit_box_threshold([], [0.3], 2) == 0.5
    assert fit_box_threshold([0.9, 0.8], [], 2) == pytest.approx(0.4)
    assert fit_box_threshold([0.9, 0.8], [0.2], 2) == pytest.approx(0.5)
    assert fit_box_threshold([0.9, 0.3], [0.8, 0.7, 0.6, 0.5], 2) == pytest.approx(0.85)
