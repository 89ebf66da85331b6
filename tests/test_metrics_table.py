"""All rows of metrics.json at once."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from sklearn import metrics as sk

from medmap import metrics as mm
from medmap.errors import DatasetError, UsageError

NAMES = ["auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"]
NAMES += ["ppv", "npv", "f1", "brier", "ece"]


def softmax_cases(seed: int, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, width, n)
    logits = rng.normal(size=(n, width)) + 1.5 * np.eye(width)[truth]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), truth


def find(rows: list[mm.Estimate], name: str, group: str = "all", average: str | None = None) -> mm.Estimate:
    (row,) = [r for r in rows if (r.name, r.group, r.average) == (name, group, average)]
    return row


def test_binary_speaks_of_the_positive_class() -> None:
    chance, truth = softmax_cases(0, 156, 2)
    rows = mm.classification_table(
        chance, truth, mm.Classes("binary", ("malignant", "benign"), 0), thresholds=(0.3, 0.7), stage="calibrated"
    )
    assert [r.name for r in rows] == NAMES
    assert {(r.group, r.average, r.stage) for r in rows} == {("all", None, "calibrated")}
    yes, call = truth == 0, chance[:, 0] >= 0.3
    expected = {
        "auroc": sk.roc_auc_score(yes, chance[:, 0]),
        "auprc": sk.average_precision_score(yes, chance[:, 0]),
        "accuracy": sk.accuracy_score(truth, chance.argmax(1)),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, chance.argmax(1)),
        "sensitivity": sk.recall_score(yes, call),
        "specificity": sk.recall_score(~yes, ~call),
        "ppv": sk.precision_score(yes, call),
        "npv": sk.precision_score(~yes, ~call),
        "f1": sk.f1_score(yes, call),
        "brier": sk.brier_score_loss(yes, chance[:, 0]),
        "ece": mm.ece(chance[:, 0], yes).value,
    }
    for name, value in expected.items():
        assert find(rows, name).value == pytest.approx(value, abs=1e-12), name
    with_threshold = [r.name for r in rows if r.threshold is not None]
    assert with_threshold == ["sensitivity", "specificity", "ppv", "npv", "f1"]
    assert find(rows, "f1").threshold == 0.3
    json.dumps([r.as_json() for r in rows], allow_nan=False)


def test_the_table_gives_the_intervals_of_the_single_functions() -> None:
    chance, truth = softmax_cases(1, 90, 2)
    yes = truth == 1
    names = [f"p{i // 3}" for i in range(90)]
    rows = mm.classification_table(chance, truth, mm.Classes("binary", ("a", "b"), 1), patients=names)
    for name in ("auroc", "auprc", "brier", "ece"):
        single = getattr(mm, name)(chance[:, 1], yes, names)
        row = find(rows, name)
        assert (row.value, row.low, row.high) == pytest.approx((single.value, single.low, single.high), abs=1e-5)
        assert row.method == single.method
    single = mm.balanced_accuracy(truth, chance.argmax(1), names)
    row = find(rows, "balanced_accuracy")
    assert (row.low, row.high) == pytest.approx((single.low, single.high), abs=1e-9)


def test_several_classes() -> None:
    chance, truth = softmax_cases(2, 300, 4)
    labels = ("a", "b", "c", "d")
    rows = mm.classification_table(chance, truth, mm.Classes("multiclass", labels))
    onehot = np.eye(4, dtype=int)[truth]
    call = chance.argmax(1)
    macro = {
        "auroc": sk.roc_auc_score(truth, chance, multi_class="ovr"),
        "auprc": sk.average_precision_score(onehot, chance),
        "accuracy": sk.accuracy_score(truth, call),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, call),
        "sensitivity": sk.recall_score(truth, call, average="macro"),
        "ppv": sk.precision_score(truth, call, average="macro"),
        "f1": sk.f1_score(truth, call, average="macro"),
        "brier": ((chance - onehot) ** 2).mean(),
    }
    for name, value in macro.items():
        assert find(rows, name).value == pytest.approx(value, abs=1e-12), name
    micro = {
        "auroc": sk.roc_auc_score(onehot.ravel(), chance.ravel()),
        "auprc": sk.average_precision_score(onehot.ravel(), chance.ravel()),
        "f1": sk.f1_score(truth, call, average="micro"),
    }
    for name, value in micro.items():
        assert find(rows, name, average="micro").value == pytest.approx(value, abs=1e-12), name
    assert find(rows, "auroc", average="micro").method == "DeLong clustered (Obuchowski)"
    assert find(rows, "auroc", "c").value == pytest.approx(sk.roc_auc_score(truth == 2, chance[:, 2]))
    top = find(rows, "ece", average="top_label")
    assert top.value == pytest.approx(mm.ece(chance.max(1), call == truth).value)
    assert {r.threshold for r in rows} == {None}
    assert rows[0].group == "all"
    for row in rows:
        assert 0 <= row.low <= row.value <= row.high <= 1


def test_macro_interval_is_narrower_than_its_classes() -> None:
    chance, truth = softmax_cases(3, 300, 4)
    rows = mm.classification_table(chance, truth, mm.Classes("multiclass", ("a", "b", "c", "d")))
    macro = find(rows, "auroc")
    widths = [find(rows, "auroc", g).high - find(rows, "auroc", g).low for g in "abcd"]
    assert 0.4 * np.mean(widths) < macro.high - macro.low < np.mean(widths)
    assert macro.method == "bootstrap over patients (2000)"


def test_labels_with_unknown_entries() -> None:
    rng = np.random.default_rng(4)
    truth = (rng.random((120, 3)) < 0.3).astype(float)
    chance = np.clip(truth * 0.3 + rng.random((120, 3)) * 0.7, 0, 1)
    truth[rng.random((120, 3)) < 0.2] = np.nan
    rows = mm.classification_table(
        chance, truth, mm.Classes("multilabel", ("x", "y", "z")), thresholds=(0.4, 0.4, 0.4), stage="raw"
    )
    accuracies, areas = [], []
    for c, label in enumerate("xyz"):
        known = ~np.isnan(truth[:, c])
        accuracies.append(((chance[known, c] >= 0.5) == truth[known, c]).mean())
        areas.append(sk.roc_auc_score(truth[known, c], chance[known, c]))
        assert find(rows, "auroc", label).value == pytest.approx(areas[-1], abs=1e-12)
        assert find(rows, "auroc", label).n == known.sum()
    assert find(rows, "accuracy").value == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert find(rows, "auroc").value == pytest.approx(np.mean(areas), abs=1e-12)
    assert find(rows, "sensitivity").threshold == 0.4
    known = ~np.isnan(truth)
    expected = sk.f1_score(truth[known], chance[known] >= 0.4)
    assert find(rows, "f1", average="micro").value == pytest.approx(expected, abs=1e-12)


def test_a_single_label_has_no_micro_row() -> None:
    rows = mm.classification_table([[0.1], [0.7], [0.9]], [[0], [1], [0]], mm.Classes("multilabel", ("x",)))
    assert {(r.group, r.average) for r in rows} == {("all", None), ("x", None)}


def test_a_class_that_is_missing_is_named() -> None:
    chance, truth = softmax_cases(5, 60, 3)
    truth = np.where(truth == 2, 0, truth)
    rows = mm.classification_table(chance, truth, mm.Classes("multiclass", ("a", "b", "rare")))
    assert find(rows, "auroc", "rare").reason == "no positive case"
    macro = find(rows, "auroc")
    assert macro.reason == "mean of 2 of 3 classes; undefined for rare"
    assert macro.value == pytest.approx(np.mean([find(rows, "auroc", g).value for g in "ab"]))


def test_perfect_classes_are_not_certain() -> None:
    truth = np.repeat([0, 1, 2], 10)
    rows = mm.classification_table(np.eye(3)[truth], truth, mm.Classes("multiclass", ("a", "b", "c")))
    for row in rows:
        assert row.low is not None
        assert row.high - row.low > 0.03, row
    assert find(rows, "auroc").method == "mean of the classes' intervals"


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "ordinal"])
def test_no_case_at_all(kind: str) -> None:
    truth = np.zeros((0, 2)) if kind == "multilabel" else []
    classes = mm.Classes(kind, ("a", "b"), 0 if kind == "binary" else None)
    rows = mm.classification_table(np.zeros((0, 2)), truth, classes)
    assert rows
    assert all(r.value is None and r.reason for r in rows)


def test_one_case() -> None:
    rows = mm.classification_table([[0.2, 0.8]], [1], mm.Classes("binary", ("a", "b"), 1))
    assert find(rows, "auroc").reason == "no negative case"
    assert find(rows, "specificity").value is None
    assert find(rows, "accuracy").value == 1.0
    assert find(rows, "brier").value == pytest.approx(0.04)


def test_grades_have_kappa_too() -> None:
    chance, truth = softmax_cases(6, 100, 4)
    rows = mm.classification_table(chance, truth, mm.Classes("ordinal", ("0", "1", "2", "3")))
    expected = sk.cohen_kappa_score(truth, chance.argmax(1), weights="quadratic")
    assert find(rows, "quadratic_kappa").value == pytest.approx(expected, abs=1e-12)
    assert find(rows, "mae").value == pytest.approx(np.abs(truth - chance.argmax(1)).mean())
    single = mm.ordinal_table(chance.argmax(1), truth)
    assert single[0] == find(rows, "quadratic_kappa")
    assert [r.name for r in single] == ["quadratic_kappa", "mae", "accuracy"]


def test_order_of_the_cases_does_not_matter() -> None:
    chance, truth = softmax_cases(7, 80, 3)
    order = np.random.default_rng(0).permutation(80)
    classes = mm.Classes("multiclass", ("a", "b", "c"))
    names = [f"p{i // 2}" for i in range(80)]
    first = mm.classification_table(chance, truth, classes, patients=names)
    again = mm.classification_table(chance[order], truth[order], classes, patients=[names[i] for i in order])
    for a, b in zip(first, again, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-6)


def test_a_large_table_takes_seconds() -> None:
    chance, truth = softmax_cases(8, 3000, 5)
    started = time.process_time()
    mm.classification_table(chance, truth, mm.Classes("multiclass", tuple("abcde")))
    assert time.process_time() - started < 10


BINARY = mm.Classes("binary", ("a", "b"), 1)


@pytest.mark.parametrize(
    ("chance", "truth", "options", "error", "sentence"),
    [
        ([[0.5, 0.6, 0.1]], [0], {}, UsageError, "wrong shape"),
        ([0.5, 0.6], [0, 1], {}, UsageError, "wrong shape"),
        ([["x", "y"]], [0], {}, UsageError, "not numbers"),
        ([[0.5, 1.6]], [0], {}, DatasetError, r"not all in \[0, 1\]"),
        ([[0.5, np.nan]], [0], {}, DatasetError, r"not all in \[0, 1\]"),
        ([[0.5, 0.5]], [0, 1], {}, UsageError, "truth has the wrong shape"),
        ([[0.5, 0.5]], [2], {}, DatasetError, "a class that is not there: got 2, expected 0 … 1"),
        ([[0.5, 0.5]], [-1], {}, DatasetError, "a class that is not there: got -1"),
        ([[0.5, 0.5]], [np.nan], {}, DatasetError, "not all finite"),
        ([[0.5, 0.5]], [1], {"thresholds": [0.5]}, UsageError, "every class needs its threshold"),
        ([[0.5, 0.5]], [1], {"thresholds": [0.5, 1.5]}, UsageError, r"outside \[0, 1\]"),
        ([[0.5, 0.5]], [1], {"patients": ["a", "b"]}, UsageError, "every case needs its patient"),
    ],
)
def test_refusals(chance, truth, options, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        mm.classification_table(chance, truth, BINARY, **options)


def test_refuses_a_label_that_is_neither() -> None:
    with pytest.raises(DatasetError, match="0, 1 or NaN"):
        mm.classification_table([[0.5, 0.5]], [[0, 2]], mm.Classes("multilabel", ("a", "b")))


def test_calibration_error_of_a_few_undecided_scores_is_small() -> None:
    from medmap.metrics import ece

    found = ece([0.5] * 3 + [0.49] * 3, [0, 1, 0, 1, 0, 1])
    assert found.value is not None
    assert found.value < 0.05
