"""Paired comparisons."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from medmap import metrics as mm
from medmap.errors import UsageError


def pair(seed: int, n: int = 120, better: float = 0.0):
    rng = np.random.default_rng(seed)
    yes = np.arange(n) < n // 3
    shared = rng.normal(0, 0.7, n)
    a = (1 + better) * yes + shared + rng.normal(0, 0.7, n)
    return a, 1.0 * yes + shared + rng.normal(0, 0.7, n), yes


def test_auroc_difference_agrees_with_counting() -> None:
    a, b, yes = pair(0, better=0.5)
    found = mm.compare_auroc(a, b, yes)
    wins = [(s[yes][:, None] > s[~yes][None]).astype(float) for s in (a, b)]
    step = wins[0] - wins[1]
    variance = step.mean(1).var(ddof=1) / yes.sum() + step.mean(0).var(ddof=1) / (~yes).sum()
    assert found.difference == pytest.approx(step.mean(), abs=1e-12)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(step.mean()) / np.sqrt(variance)), rel=1e-9)
    assert found.low < found.difference < found.high
    assert found.method == "DeLong paired"
    back = mm.compare_auroc(b, a, yes)
    assert (back.difference, back.low, back.p) == pytest.approx((-found.difference, -found.high, found.p))


def test_no_difference_is_found_as_often_as_promised() -> None:
    found = [mm.compare_auroc(*pair(seed)).p < 0.05 for seed in range(600)]
    assert 0.03 <= np.mean(found) <= 0.07


def test_copies_of_a_patient_are_no_evidence() -> None:
    a, b, yes = pair(3, 60, better=0.5)
    again, names = np.repeat(np.arange(60), 5), [f"p{i // 5}" for i in range(300)]
    once = mm.compare_auroc(a, b, yes)
    copies = mm.compare_auroc(a[again], b[again], yes[again], names)
    assert copies.method == "DeLong paired, clustered (Obuchowski)"
    assert copies.p == pytest.approx(once.p, rel=1e-6)
    assert mm.compare_auroc(a[again], b[again], yes[again]).p < once.p


def test_auroc_comparison_at_the_edges() -> None:
    assert mm.compare_auroc([1, 2], [1, 2], [1, 1]).reason == "no negative case"
    same = mm.compare_auroc([1, 2, 3, 4], [10, 20, 30, 40], [0, 1, 0, 1])
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    opposite = mm.compare_auroc([1, 2, 3, 4], [4, 3, 2, 1], [0, 0, 1, 1])
    assert opposite.difference == 1.0
    assert opposite.p is None
    assert "variance" in opposite.reason
    assert "two patients" in mm.compare_auroc([1, 2, 3], [2, 1, 3], [0, 1, 0]).reason
    assert same.as_json()["name"] == "auroc"
    assert same.with_(group="site=A").group == "site=A"


def test_mcnemar_is_the_binomial_test() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    a = np.where(rng.random(200) < 0.85, truth, (truth + 1) % 3)
    b = np.where(rng.random(200) < 0.75, truth, (truth + 1) % 3)
    found = mm.mcnemar(truth, a, b)
    only_a, only_b = ((a == truth) & (b != truth)).sum(), ((b == truth) & (a != truth)).sum()
    assert found.p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert found.difference == pytest.approx((only_a - only_b) / 200)
    assert found.low < found.difference < found.high
    one_each = mm.mcnemar(truth, a, b, [f"p{i}" for i in range(200)])
    assert one_each == found


def test_clustered_mcnemar_counts_signs() -> None:
    rng = np.random.default_rng(1)
    truth = np.ones(30, dtype=int)
    a, b = (rng.random(30) < 0.8).astype(int), (rng.random(30) < 0.5).astype(int)
    names = [f"p{i // 3}" for i in range(30)]
    surplus = (a - b).reshape(10, 3).sum(1)
    sums = [abs(np.dot(signs, surplus)) for signs in itertools.product((-1, 1), repeat=10)]
    found = mm.mcnemar(truth, a, b, names)
    assert found.p == pytest.approx(np.mean([s >= abs(surplus.sum()) for s in sums]))
    assert found.method == "McNemar over patients (exact)"
    assert found.low < found.difference < found.high


def test_clustered_mcnemar_with_single_surpluses_is_the_plain_one() -> None:
    """The second image of each patient is right in both: the discordant ones are as before."""
    a, b = np.array([1] * 9 + [0] * 4 + [1] * 5), np.array([0] * 9 + [1] * 4 + [1] * 5)
    plain = mm.mcnemar(np.ones(18), a, b)
    doubled = mm.mcnemar(
        np.ones(36), np.append(a, np.ones(18)), np.append(b, np.ones(18)), [f"p{i % 18}" for i in range(36)]
    )
    assert doubled.p == pytest.approx(plain.p, abs=1e-12)


def test_mcnemar_at_the_edges() -> None:
    assert mm.mcnemar([], [], []).reason == "no case"
    same = mm.mcnemar([1, 0, 1], [1, 1, 1], [1, 1, 1])
    assert (same.difference, same.p) == (0.0, 1.0)
    assert same.low < 0 < same.high
    all_of_one = mm.mcnemar([1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], ["a", "a", "b", "b"])
    assert all_of_one.difference == 1.0
    assert all_of_one.low < 1.0
    with pytest.raises(UsageError, match="different cases"):
        mm.mcnemar([1], [1], [1, 0])


def test_many_clusters_take_the_normal_tail(monkeypatch) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    names = [f"p{i // 2}" for i in range(400)]
    exact = mm.mcnemar(np.ones(400), a, b, names)
    monkeypatch.setattr("medmap.metrics.compare._EXACT_LIMIT", 0)
    normal = mm.mcnemar(np.ones(400), a, b, names)
    assert normal.method == "McNemar over patients (normal)"
    assert normal.p == pytest.approx(exact.p, abs=0.05)


def area(truth, score) -> float:
    return float(sk.roc_auc_score(truth, score)) if 0 < truth.sum() < len(truth) else float("nan")


def test_bootstrap_agrees_with_delong() -> None:
    a, b, yes = pair(5, better=0.6)
    few = mm.Bootstrap(400)
    found = mm.paired_bootstrap(area, yes, a, b, name="auroc", bootstrap=few)
    delong = mm.compare_auroc(a, b, yes)
    assert found.difference == pytest.approx(delong.difference)
    assert (found.low, found.high) == pytest.approx((delong.low, delong.high), abs=0.02)
    assert found.p == pytest.approx(delong.p, abs=0.1)
    assert found.method == "bootstrap over patients (400)"


def brier(truth, chance) -> float:
    return float(((truth - chance) ** 2).mean())


def test_bootstrap_draws_patients_and_tables() -> None:
    rng = np.random.default_rng(6)
    truth = np.eye(3)[rng.integers(0, 3, 40)]
    a, b = truth * 0.5 + rng.random((40, 3)) * 0.3, truth * 0.5 + rng.random((40, 3)) * 0.35
    again = np.repeat(np.arange(40), 4)
    names = [f"p{i}" for i in again]
    few = mm.Bootstrap(300)
    once = mm.paired_bootstrap(brier, truth, a, b, bootstrap=few)
    copies = mm.paired_bootstrap(brier, truth[again], a[again], b[again], names, bootstrap=few)
    assert once.name == "brier"
    assert copies.high - copies.low == pytest.approx(once.high - once.low, rel=0.25)


def test_bootstrap_at_the_edges() -> None:
    few = mm.Bootstrap(100)
    assert mm.paired_bootstrap(brier, [], [], []).reason == "no case"
    same = mm.paired_bootstrap(brier, [1.0, 0.0], [0.5, 0.5], [0.5, 0.5], bootstrap=few)
    assert (same.difference, same.p) == (0.0, 1.0)
    stuck = mm.paired_bootstrap(brier, [1.0, 0.0], [0.5, 0.5], [1.0, 0.0], bootstrap=few)
    assert "does not move" in stuck.reason
    assert stuck.difference == 0.25
    undefined = mm.paired_bootstrap(area, [1, 1], [0.5, 0.6], [0.7, 0.8], bootstrap=few)
    assert undefined.difference is None
    with pytest.raises(UsageError, match="one row a case"):
        mm.paired_bootstrap(brier, 1.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="different cases"):
        mm.paired_bootstrap(brier, [1.0], [1.0], [1.0, 0.0])
