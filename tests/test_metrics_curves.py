"""Curves against scikit-learn, and images put together."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from medmap import metrics as mm
from medmap.errors import DatasetError, UsageError


@pytest.fixture
def cases() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    yes = rng.random(150) < 0.4
    return np.round(np.clip(rng.normal(0.4 + 0.2 * yes, 0.2), 0, 1), 2), yes


def test_roc(cases) -> None:
    chance, yes = cases
    curve = mm.roc_curve(chance, yes)
    fpr, tpr, thresholds = sk.roc_curve(yes, chance, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.true_positive_rate, tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(mm.auroc(chance, yes).value, abs=1e-12)


def test_precision_recall(cases) -> None:
    chance, yes = cases
    curve = mm.precision_recall_curve(chance, yes)
    precision, recall, thresholds = sk.precision_recall_curve(yes, chance)
    np.testing.assert_allclose(curve.precision, precision[::-1], atol=1e-12)
    np.testing.assert_allclose(curve.recall, recall[::-1], atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds[1:], thresholds[::-1])
    assert (np.diff(curve.recall) * curve.precision[1:]).sum() == pytest.approx(mm.auprc(chance, yes).value, abs=1e-12)


def test_reliability(cases) -> None:
    chance, yes = cases
    curve = mm.reliability_curve(chance, yes)
    assert curve.n.sum() == 150
    assert (curve.n * np.abs(curve.predicted - curve.observed)).sum() / 150 == pytest.approx(mm.ece(chance, yes).value)
    assert ((curve.low <= curve.observed) & (curve.observed <= curve.high)).all()
    assert curve.low[0] == pytest.approx(mm.wilson(round(curve.observed[0] * curve.n[0]), curve.n[0])[0])
    between = np.clip(chance + 0.0017, 0, 1)  # no case on an edge: scikit-learn closes its bins on the other side
    wide = mm.reliability_curve(between, yes, bins=5, spacing="equal_width")
    observed, predicted = calibration_curve(yes, between, n_bins=5)
    np.testing.assert_allclose(wide.observed, observed, atol=1e-12)
    np.testing.assert_allclose(wide.predicted, predicted, atol=1e-12)
    clustered = mm.reliability_curve(chance, yes, [f"p{i // 5}" for i in range(150)])
    assert (clustered.observed == curve.observed).all()


def test_confusion(cases) -> None:
    rng = np.random.default_rng(1)
    truth, call = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    matrix = mm.confusion_matrix(truth, call, ("a", "b", "c"))
    np.testing.assert_array_equal(matrix.counts, sk.confusion_matrix(truth, call))
    assert matrix.labels == ("a", "b", "c")
    assert mm.confusion_matrix([], [], ("a", "b")).counts.sum() == 0


def test_decision_curve(cases) -> None:
    chance, yes = cases
    curve = mm.decision_curve(chance, yes)
    for k in (4, 19, 49, 90):
        t = curve.thresholds[k]
        call = chance >= t
        expected = (call & yes).mean() - (call & ~yes).mean() * t / (1 - t)
        assert curve.net_benefit[k] == pytest.approx(expected, abs=1e-12)
        assert curve.treat_all[k] == pytest.approx(yes.mean() - (~yes).mean() * t / (1 - t))
    assert (curve.treat_none == 0).all()


def test_images_to_patients() -> None:
    table = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    groups = ["z", "a", "z", "b"]
    mean = mm.aggregate(table, groups)
    assert mean.groups == ("z", "a", "b")
    assert mean.sizes == (2, 1, 1)
    np.testing.assert_allclose(mean.probabilities, [[0.55, 0.45], [0.4, 0.6], [0.7, 0.3]])
    np.testing.assert_allclose(mm.aggregate(table, groups, "max").probabilities[0], [0.9, 0.8])
    np.testing.assert_allclose(mm.aggregate(table, groups, "max", positive=1).probabilities[0], [0.2, 0.8])
    np.testing.assert_allclose(mm.aggregate(table, groups, "noisy_or").probabilities[0], [0.92, 0.82])
    assert mm.aggregate(np.zeros((0, 2)), []).groups == ()


def test_predictive_values_elsewhere() -> None:
    here = mm.prevalence_adjusted_ppv_npv(0.8, 0.9, 0.3)
    assert here == pytest.approx((0.24 / 0.31, 0.63 / 0.69))
    assert mm.prevalence_adjusted_ppv_npv(0.0, 1.0, 0.3).ppv is None
    assert mm.prevalence_adjusted_ppv_npv(1.0, 0.0, 0.3).npv is None


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: mm.roc_curve([1, 2], [1, 1]), DatasetError, "no negative case"),
        (lambda: mm.precision_recall_curve([1], [1, 0]), UsageError, "different cases"),
        (lambda: mm.reliability_curve([], []), DatasetError, "needs cases"),
        (lambda: mm.reliability_curve([0.5], [1], bins=0), UsageError, "unknown bins"),
        (lambda: mm.reliability_curve([0.5], [1], spacing="log"), UsageError, "unknown bins"),
        (lambda: mm.confusion_matrix([3], [0], ("a", "b")), DatasetError, "not there"),
        (lambda: mm.decision_curve([0.5], [1], [1.0]), UsageError, "between 0 and 1"),
        (lambda: mm.decision_curve([], []), DatasetError, "needs cases"),
        (lambda: mm.aggregate([[0.5]], ["a", "b"]), UsageError, "its group"),
        (lambda: mm.aggregate([[0.5]], ["a"], "median"), UsageError, "mean | max | noisy_or"),
        (lambda: mm.aggregate([[0.5]], ["a"], "max", positive=0), UsageError, "two columns"),
        (lambda: mm.aggregate([[np.nan]], ["a"]), DatasetError, "not all in"),
        (lambda: mm.prevalence_adjusted_ppv_npv(1.2, 0.5, 0.5), UsageError, "sensitivity is outside"),
    ],
)
def test_refusals(call, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        call()
