"""Do the intervals hold what they promise?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medmap import metrics as mm
from medmap.metrics.intervals import Bootstrap, effective_n, replicate_interval

TRUE_AUROC = float(stats.norm.cdf(1.2 / np.sqrt(2)))


@pytest.mark.parametrize(("k", "n"), [(0, 7), (1, 7), (3, 10), (7, 7), (40, 156), (9999, 10000)])
def test_wilson_agrees_with_scipy(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert mm.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing() -> None:
    assert mm.wilson(0, 0) == (0.0, 1.0)
    assert mm.wilson(2.5, 5)[0] < 0.5


def coverage(simulate, times: int) -> float:
    """Share of simulations whose interval holds the truth."""
    held = 0
    for seed in range(times):
        estimate, truth = simulate(np.random.default_rng(seed))
        held += estimate.low <= truth <= estimate.high
    return held / times


def test_auroc_interval_covers() -> None:
    def simulate(rng):
        yes = np.arange(100) < 35
        return mm.auroc(rng.normal(1.2 * yes, 1), yes), TRUE_AUROC

    assert 0.93 <= coverage(simulate, 1500) <= 0.97


def test_small_auroc_interval_covers() -> None:
    """Twelve against twelve at AUROC 0.96: separation is often perfect."""

    def simulate(rng):
        yes = np.arange(24) < 12
        return mm.auroc(rng.normal(2.5 * yes, 1), yes), float(stats.norm.cdf(2.5 / np.sqrt(2)))

    assert coverage(simulate, 1000) >= 0.94


def clustered_cases(rng):
    """Sixty patients of four images that share half of their variance; a patient's images differ in class."""
    names = np.repeat(np.arange(60), 4)
    yes = rng.random(240) < np.repeat(rng.choice([0.15, 0.75], 60), 4)
    noise = np.repeat(rng.normal(0, np.sqrt(0.5), 60), 4) + rng.normal(0, np.sqrt(0.5), 240)
    return 1.2 * yes + noise, yes, [f"p{i}" for i in names]


def test_clustered_auroc_interval_covers_where_the_plain_one_differs() -> None:
    def simulate(rng):
        # whole patients of one class: clustering hurts
        yes = np.repeat(np.arange(50) < 20, 4)
        noise = np.repeat(rng.normal(0, np.sqrt(0.7), 50), 4) + rng.normal(0, np.sqrt(0.3), 200)
        patients = [f"p{i // 4}" for i in range(200)]
        return 1.2 * yes + noise, yes, patients

    clustered = coverage(lambda rng: (mm.auroc(*simulate(rng)), TRUE_AUROC), 800)
    plain = coverage(lambda rng: (mm.auroc(*simulate(rng)[:2]), TRUE_AUROC), 800)
    assert 0.92 <= clustered <= 0.97
    assert plain < 0.8


def test_clustered_auroc_of_mixed_patients_covers() -> None:
    def simulate(rng):
        return mm.auroc(*clustered_cases(rng)), TRUE_AUROC

    # the within-patient noise is shared, so the pairs of one patient separate better: a large sample gives the truth
    rng = np.random.default_rng(99)
    many = [clustered_cases(rng)[:2] for _ in range(300)]
    truth = mm.auroc(np.concatenate([m[0] for m in many]), np.concatenate([m[1] for m in many])).value
    held = coverage(lambda r: (simulate(r)[0], truth), 800)
    assert 0.92 <= held <= 0.975


def test_clustered_proportion_covers() -> None:
    def simulate(rng):
        chance = rng.beta(4, 1, 40)
        right = rng.random((40, 5)) < chance[:, None]
        names = [f"p{i // 5}" for i in range(200)]
        return mm.accuracy(np.ones(200), right.ravel(), names), 0.8

    assert 0.92 <= coverage(simulate, 600) <= 0.98
    estimate, _ = simulate(np.random.default_rng(0))
    assert estimate.method == "Wilson clustered (Korn-Graubard)"


def test_bootstrap_interval_covers() -> None:
    def simulate(rng):
        chance = rng.random(120)
        # E (p - y)² = E p (1 - p) = 1/6
        return mm.brier(chance, rng.random(120) < chance, bootstrap=Bootstrap(400)), 1 / 6

    assert 0.92 <= coverage(simulate, 400) <= 0.975


def test_effective_n() -> None:
    ones = np.ones(50)
    assert effective_n(np.array([1.0, 0.0] * 25), ones) == pytest.approx(49)  # one patient of fifty for the mean
    # five images that always agree are worth one
    assert effective_n(np.array([5.0, 0.0] * 25), 5 * ones) == pytest.approx(50, rel=0.06)
    assert effective_n(5 * ones, 5 * ones) == 50
    assert effective_n(np.array([3.0]), np.array([4.0])) == 1


def test_one_case_a_patient_is_the_plain_formula() -> None:
    rng = np.random.default_rng(0)
    yes = rng.random(60) < 0.5
    scores = rng.normal(yes, 1)
    names = [f"p{i}" for i in rng.permutation(60)]
    assert mm.auroc(scores, yes, names).low == pytest.approx(mm.auroc(scores, yes).low, abs=1e-12)
    assert mm.accuracy(yes, scores > 0, names) == mm.accuracy(yes, scores > 0)


def test_several_images_of_a_patient_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    yes = rng.random(60) < 0.5
    chance = rng.random(60)
    again, names = np.repeat(np.arange(60), 4), [f"p{i // 4}" for i in range(240)]
    for metric in (mm.auroc, mm.auprc, mm.brier):
        once, copies = metric(chance, yes), metric(chance[again], yes[again], names)
        believed = metric(chance[again], yes[again])
        assert copies.high - copies.low == pytest.approx(once.high - once.low, rel=0.15)
        assert believed.high - believed.low < 0.7 * (once.high - once.low)


def test_weights_draw_whole_patients() -> None:
    draws = np.concatenate(list(Bootstrap(300).weights(11)))
    assert draws.shape == (300, 11)
    assert (draws.sum(1) == 11).all()
    assert draws.mean() == pytest.approx(1)
    chunks = list(Bootstrap(300).weights(11, width=100_000))
    assert len(chunks) > 1
    assert sum(map(len, chunks)) == 300


def test_very_large_tables_say_how_many_draws() -> None:
    assert Bootstrap().affordable(1000) == Bootstrap()
    assert Bootstrap().affordable(10**6).replicates == 500
    assert Bootstrap().affordable(10**9).method == "bootstrap over patients (200)"


def test_replicates_that_say_nothing() -> None:
    assert replicate_interval(0.5, np.full(100, 0.5)) is None
    assert replicate_interval(0.5, np.where(np.arange(100) < 60, np.nan, np.arange(100))) is None
    low, high = replicate_interval(0.5, np.linspace(0.6, 0.9, 100))
    assert (low, high) == (0.5, pytest.approx(0.8925))


def test_calibration_error_is_corrected_for_chance() -> None:
    """Of honest probabilities every resampling shows a larger error; the interval reaches below the estimate."""
    rng = np.random.default_rng(2)
    chance = rng.random(400)
    estimate = mm.ece(chance, rng.random(400) < chance)
    assert estimate.method == "bootstrap over patients (2000), bias-corrected"
    assert estimate.low < estimate.value - 0.005
    assert estimate.high < 0.08
