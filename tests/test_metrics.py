"""Values against scikit-learn, DeLong against counting every pair, and every refusal."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medmap import metrics as mm
from medmap.errors import DatasetError, UsageError
from medmap.metrics.inputs import Patients
from medmap.metrics.intervals import Z95
from medmap.metrics.ranking import Ranking, auroc_covariance


def drawn(seed: int, n: int = 80, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth with both classes; ``levels`` makes ties."""
    rng = np.random.default_rng(seed)
    yes = rng.random(n) < 0.4
    yes[:2] = (True, False)
    scores = rng.normal(yes * 1.0, 1)
    return (scores if levels is None else np.round(scores * levels) / levels), yes


def counted_auroc(scores: np.ndarray, yes: np.ndarray) -> tuple[float, float]:
    """AUROC and DeLong's variance by looking at every pair."""
    x, y = scores[yes], scores[~yes]
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    return wins.mean(), wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y)


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("seed", range(5))
def test_ranking_agrees_with_sklearn(seed: int, levels: int | None) -> None:
    scores, yes = drawn(seed, levels=levels)
    assert mm.auroc(scores, yes).value == pytest.approx(sk.roc_auc_score(yes, scores), abs=1e-12)
    assert mm.auroc_value(scores, yes.astype(int)) == pytest.approx(sk.roc_auc_score(yes, scores), abs=1e-12)
    assert mm.auprc(scores, yes).value == pytest.approx(sk.average_precision_score(yes, scores), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("seed", range(5))
def test_delong_agrees_with_counting(seed: int, levels: int | None) -> None:
    scores, yes = drawn(seed, levels=levels)
    value, variance = counted_auroc(scores, yes)
    ours, covariance = auroc_covariance([scores], yes, Patients.of(None, len(yes)))
    assert ours[0] == pytest.approx(value, abs=1e-12)
    assert covariance is not None
    assert covariance[0, 0] == pytest.approx(variance, rel=1e-10)
    estimate = mm.auroc(scores, yes)
    half = Z95 * math.sqrt(variance) / (value * (1 - value))
    assert estimate.method == "DeLong"
    assert math.log(estimate.low / (1 - estimate.low)) == pytest.approx(math.log(value / (1 - value)) - half)
    assert math.log(estimate.high / (1 - estimate.high)) == pytest.approx(math.log(value / (1 - value)) + half)


def test_paired_covariance_agrees_with_counting() -> None:
    a, yes = drawn(1)
    b = a + np.random.default_rng(2).normal(0, 1, len(a))
    _, covariance = auroc_covariance([a, b], yes, Patients.of(None, len(yes)))
    wins = [(s[yes][:, None] > s[~yes][None]).astype(float) for s in (a, b)]
    up, down = np.cov([w.mean(1) for w in wins]), np.cov([w.mean(0) for w in wins])
    np.testing.assert_allclose(covariance, up / yes.sum() + down / (~yes).sum(), rtol=1e-10)


def test_clustered_variance_agrees_with_counting() -> None:
    """Obuchowski 1997, written out patient by patient."""
    rng = np.random.default_rng(4)
    scores, yes = drawn(4, 60)
    names = np.array([f"p{i}" for i in rng.integers(0, 20, 60)])
    wins = (scores[yes][:, None] > scores[~yes][None]).astype(float)
    value, m, n = wins.mean(), yes.sum(), (~yes).sum()
    everyone = sorted(set(names))
    up = {p: (wins.mean(1)[names[yes] == p] - value).sum() for p in everyone}
    down = {p: (wins.mean(0)[names[~yes] == p] - value).sum() for p in everyone}
    with_yes, with_no = len(set(names[yes])), len(set(names[~yes]))
    s10 = with_yes / ((with_yes - 1) * m) * sum(up[p] ** 2 for p in everyone)
    s01 = with_no / ((with_no - 1) * n) * sum(down[p] ** 2 for p in everyone)
    s11 = len(everyone) / (len(everyone) - 1) * sum(up[p] * down[p] for p in everyone)
    _, covariance = auroc_covariance([scores], yes, Patients.of(list(names), 60))
    assert covariance is not None
    assert covariance[0, 0] == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n), rel=1e-10)
    assert mm.auroc(scores, yes, list(names)).method == "DeLong clustered (Obuchowski)"


@pytest.mark.parametrize("seed", range(4))
def test_calls_agree_with_sklearn(seed: int) -> None:
    scores, yes = drawn(seed)
    call = scores > 0.3
    pairs = [
        (mm.accuracy, sk.accuracy_score(yes, call)),
        (mm.balanced_accuracy, sk.balanced_accuracy_score(yes, call)),
        (mm.sensitivity, sk.recall_score(yes, call)),
        (mm.specificity, sk.recall_score(~yes, ~call)),
        (mm.ppv, sk.precision_score(yes, call)),
        (mm.npv, sk.precision_score(~yes, ~call)),
        (mm.f1, sk.f1_score(yes, call)),
    ]
    for metric, expected in pairs:
        estimate = metric(yes, call)
        assert estimate.value == pytest.approx(expected, abs=1e-12), metric
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1


def test_several_classes_agree_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    truth, call = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    assert mm.accuracy(truth, call).value == pytest.approx(sk.accuracy_score(truth, call), abs=1e-12)
    expected = sk.balanced_accuracy_score(truth, call)
    assert mm.balanced_accuracy(truth, call).value == pytest.approx(expected, abs=1e-12)
    expected = sk.cohen_kappa_score(truth, call, weights="quadratic")
    assert mm.quadratic_kappa(truth, call).value == pytest.approx(expected, abs=1e-12)


def test_probabilities_agree_with_sklearn_and_with_a_loop() -> None:
    rng = np.random.default_rng(3)
    chance = np.round(rng.random(137), 2)
    yes = rng.random(137) < chance
    assert mm.brier(chance, yes).value == pytest.approx(sk.brier_score_loss(yes, chance), abs=1e-12)
    edges = np.sort(chance)[[math.ceil(137 * k / 10) - 1 for k in range(1, 10)]]
    expected, left = 0.0, np.ones(137, dtype=bool)
    for edge in [*edges, 1.0]:
        inside = left & (chance <= edge)
        expected += abs(chance[inside].sum() - yes[inside].sum()) / 137
        left &= ~inside
    assert mm.ece(chance, yes).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_numbers_agree_with_sklearn(offset: float) -> None:
    rng = np.random.default_rng(5)
    truth = rng.normal(50, 10, 90) + offset
    guess = truth + rng.normal(1, 4, 90)
    assert mm.mae(truth, guess).value == pytest.approx(sk.mean_absolute_error(truth, guess), rel=1e-9)
    assert mm.rmse(truth, guess).value == pytest.approx(sk.root_mean_squared_error(truth, guess), rel=1e-9)
    r2 = mm.r2(truth, guess)
    assert r2.value == pytest.approx(sk.r2_score(truth, guess), rel=1e-9)
    assert r2.low < r2.value < r2.high < 1
    assert [row.value for row in mm.regression_table(guess, truth, stage="raw")][2] == r2.value


def test_weighted_ranking_is_the_ranking_of_repeated_cases() -> None:
    scores, yes = drawn(6, 40, levels=2)
    who = Patients.of([f"p{i // 2}" for i in range(40)], 40)
    weights = np.random.default_rng(0).multinomial(20, np.full(20, 0.05), size=30).astype(np.float32)
    area, precision = Ranking(scores, yes, who).weighted(weights)
    for row, a, p in zip(weights, area, precision, strict=True):
        again = np.repeat(np.arange(40), row[who.codes].astype(int))
        assert a == pytest.approx(sk.roc_auc_score(yes[again], scores[again]), abs=1e-5)
        assert p == pytest.approx(sk.average_precision_score(yes[again], scores[again]), abs=1e-5)


# -- properties -----------------------------------------------------------------------------------------------------

rankings = st.lists(st.tuples(st.integers(-20, 20), st.booleans(), st.integers(0, 8)), min_size=4, max_size=40).filter(
    lambda rows: 0 < sum(row[1] for row in rows) < len(rows)
)


@given(rankings)
def test_auroc_keeps_its_value_under_what_cannot_matter(rows: list[tuple[int, bool, int]]) -> None:
    scores, yes = np.array([r[0] for r in rows], dtype=float), np.array([r[1] for r in rows])
    names = [f"p{r[2]}" for r in rows]
    whole = mm.auroc(scores, yes, names)
    assert 0 <= whole.low <= whole.value <= whole.high <= 1
    stretched = mm.auroc(np.arctan(scores) * 3 - 7, yes, names)
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    shuffled = mm.auroc(scores[order], yes[order], [names[i] for i in order])
    for other in (stretched, shuffled):
        got = (other.value, other.low, other.high)
        assert got == pytest.approx((whole.value, whole.low, whole.high), abs=1e-9)
    swapped = mm.auroc(-scores, yes, names)
    got = (1 - swapped.value, 1 - swapped.high, 1 - swapped.low)
    assert got == pytest.approx((whole.value, whole.low, whole.high), abs=1e-9)
    other_class = mm.auroc(scores, ~yes, names)
    assert other_class.value == pytest.approx(1 - whole.value, abs=1e-9)


@given(rankings)
def test_every_interval_holds_its_value(rows: list[tuple[int, bool, int]]) -> None:
    yes, call = np.array([r[1] for r in rows]), np.array([r[0] > 0 for r in rows])
    chance = np.array([r[0] + 20 for r in rows]) / 40
    names = [f"p{r[2]}" for r in rows]
    few = mm.Bootstrap(100)
    estimates = [metric(yes, call, names) for metric in (mm.accuracy, mm.sensitivity, mm.specificity, mm.f1, mm.ppv)]
    estimates += [metric(chance, yes, names, few) for metric in (mm.brier, mm.ece, mm.auprc)]
    estimates += [mm.balanced_accuracy(yes, call, names, few)]
    for estimate in estimates:
        json.dumps(estimate.as_json(), allow_nan=False)
        if estimate.value is None:
            assert estimate.reason
        else:
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1, estimate
            assert estimate.method


def test_the_same_seed_gives_the_same_interval_whatever_the_order() -> None:
    scores, yes = drawn(8)
    chance = 1 / (1 + np.exp(-scores))
    first, again = mm.brier(chance, yes), mm.brier(chance, yes)
    other = mm.brier(chance, yes, bootstrap=mm.Bootstrap(2000, seed=1))
    assert first == again
    assert other.low != first.low
    assert other.low == pytest.approx(first.low, rel=0.1)


# -- the edges ------------------------------------------------------------------------------------------------------


def test_one_class_alone_has_no_ranking() -> None:
    for metric in (mm.auroc, mm.auprc):
        assert metric([0.1, 0.2], [1, 1]).reason == "no negative case"
        assert metric([0.1, 0.2], [0, 0]).reason == "no positive case"
        assert metric([], []).reason == "no case"
        assert metric([0.1, 0.2], [0, 0]).value is None
    assert mm.sensitivity([0, 0], [0, 1]).reason == "no positive case"
    assert mm.specificity([1, 1], [0, 1]).reason == "no negative case"
    assert mm.ppv([1, 0], [0, 0]).reason == "no case called positive"
    assert mm.npv([1, 0], [1, 1]).reason == "no case called negative"
    assert mm.f1([0, 0], [0, 0]).reason == "no case is positive or called positive"
    assert mm.balanced_accuracy([1, 1], [1, 0]).value is None
    assert mm.r2([3, 3, 3], [1, 2, 3]).reason == "the truth does not vary"
    assert mm.quadratic_kappa([2, 2], [2, 2]).value is None
    for metric in (mm.brier, mm.ece, mm.accuracy, mm.mae):
        assert metric([], []).reason == "no case"


def test_perfect_separation_is_not_certainty() -> None:
    perfect = mm.auroc([1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 1, 1, 1])
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.025 ** (1 / 3))  # three pairs, each a trial
    assert perfect.method == "exact over independent pairs (3)"
    assert mm.auroc([1, 2, 3, 4], [1, 1, 0, 0]).high == pytest.approx(1 - 0.025**0.5)
    shared = mm.auroc([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1], ["a", "b", "c", "a", "b", "c"])
    assert shared.method == "exact over independent pairs (1)"
    more = mm.auroc(np.arange(200), np.arange(200) >= 100)
    assert perfect.low < 0.95 < more.low
    assert mm.auprc([1, 2, 3, 4], [0, 0, 1, 1]).low < 0.5
    assert mm.f1([0, 1, 1], [0, 1, 1]).low < 0.7
    assert mm.brier([0.0, 1.0, 1.0], [0, 1, 1]).high > 0.3
    assert mm.balanced_accuracy([0, 1, 1], [0, 1, 1]).low < 0.5


def test_scores_that_say_nothing() -> None:
    flat = mm.auroc([0.5] * 6, [0, 0, 0, 1, 1, 1])
    assert flat.value == 0.5
    assert flat.low < 0.3
    assert flat.high > 0.7
    lonely = mm.auroc([1, 2, 3, 4], [0, 1, 0, 0])  # DeLong has no variance of one positive
    assert lonely.method == "Wilson over independent pairs (1)"
    assert lonely.low < 0.2
    assert lonely.high > 0.9


def test_one_case() -> None:
    assert mm.accuracy([1], [1]).low == pytest.approx(0.2065, abs=1e-4)
    assert mm.accuracy([1, 1], [1, 1], ["a", "a"]).low == pytest.approx(0.2065, abs=1e-4)
    assert mm.brier([0.5], [1]).high > 0.8
    error = mm.mae([3], [4])
    assert (error.value, error.low, error.method) == (1.0, None, None)
    assert "resampling" in error.reason


def test_estimates_as_values() -> None:
    estimate = mm.auroc([1, 2, 3, 4], [0, 1, 0, 1])
    row = estimate.as_json()
    assert list(row) == ["name", "group", "average", "stage", "value", "low", "high", "n", "method"]
    assert (row["group"], row["average"]) == ("all", None)
    labelled = estimate.with_(group="site=A", threshold=0.4, reason="few")
    assert labelled.as_json()["threshold"] == 0.4
    assert labelled.as_json()["reason"] == "few"
    with pytest.raises(UsageError, match="not a number"):
        estimate.with_(value=float("nan"))
    with pytest.raises(UsageError, match="not a number"):
        mm.Comparison("auroc", "all", 0.1, 0.1, 0.0, 0.0, float("inf"), 1.0, 3, "x")


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: mm.auroc([1, 2], [1]), UsageError, "different cases: got 2 scores, 1 truths"),
        (lambda: mm.auroc([1, math.nan], [1, 0]), DatasetError, "scores are not all finite"),
        (lambda: mm.auroc([[1, 2]], [1, 0]), UsageError, "wrong shape"),
        (lambda: mm.auroc(["a", "b"], [1, 0]), UsageError, "not numbers"),
        (lambda: mm.auroc([1, 2], [1, 2]), DatasetError, "not yes or no: got 2"),
        (lambda: mm.auroc([1, 2], [1, 0], ["a"]), UsageError, "every case needs its patient"),
        (lambda: mm.auroc([1, 2], [1, 0], ["a", ""]), DatasetError, "empty patient"),
        (lambda: mm.auroc_value([1, 2], [1, 1]), DatasetError, "no negative case"),
        (lambda: mm.brier([0.5, 1.2], [1, 0]), DatasetError, r"no probabilities: got 0.5 … 1.2"),
        (lambda: mm.brier([0.5, math.nan], [1, 0]), DatasetError, "not all finite"),
        (lambda: mm.ece([0.5], [1], bins=0), UsageError, "number of bins"),
        (lambda: mm.accuracy([0.5], [1]), DatasetError, "not whole numbers: got 0.5"),
        (lambda: mm.accuracy([1, 0], [1]), UsageError, "different cases"),
        (lambda: mm.wilson(3, 2), UsageError, "0 ≤ successes ≤ n"),
        (lambda: mm.Bootstrap(5), UsageError, "replicates"),
        (lambda: mm.Bootstrap(seed=-1), UsageError, "seed"),
        (lambda: mm.Classes("ternary", ("a", "b")), UsageError, "unknown kind"),
        (lambda: mm.Classes("binary", ("a", "b")), UsageError, "which of them is positive"),
        (lambda: mm.Classes("binary", ("a", "b", "c"), 0), UsageError, "two labels"),
        (lambda: mm.Classes("multiclass", ("a", "b", "c"), 0), UsageError, "no meaning"),
        (lambda: mm.Classes("multiclass", ("a", "a")), UsageError, "differ"),
        (lambda: mm.Classes("multiclass", ("a", "all")), UsageError, "not be 'all'"),
        (lambda: mm.Classes("multiclass", ("a",)), UsageError, "decides nothing"),
        (lambda: mm.mae([1, 2], [1]), UsageError, "different cases"),
        (lambda: mm.rmse([1, math.inf], [1, 1]), DatasetError, "not all finite"),
        (lambda: mm.quadratic_kappa([1.5], [1]), DatasetError, "whole numbers"),
    ],
)
def test_refusals(call, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        call()


def test_rounding_of_single_precision_is_forgiven() -> None:
    assert mm.brier([1.0000001], [1]).value == 0.0


def test_public_names() -> None:
    for name in mm.__all__:
        assert getattr(mm, name).__doc__
