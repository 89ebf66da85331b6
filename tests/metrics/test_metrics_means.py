"""Means, paired differences and limits of agreement: by hand, by simulation, refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medmap.errors import DatasetError, UsageError
from medmap.metrics import Bootstrap, bland_altman, mean_differences, mean_estimates


def test_a_mean_leaves_out_what_has_no_value() -> None:
    values = np.array([[0.5, 1.0, np.nan], [0.7, 1.0, np.nan], [np.nan, 1.0, np.nan], [0.9, 1.0, np.nan]])
    first, second, third = mean_estimates(["dice", "iou", "nsd"], values, bounded=["iou"])
    assert (first.value, first.n) == (pytest.approx(0.7), 3)
    assert first.low is not None
    assert first.high is not None
    assert 0.5 <= first.low < 0.7 < first.high <= 0.9
    assert first.method == "bootstrap over patients (2000)"
    assert (second.value, second.high, second.method) == (1.0, 1.0, "Wilson over patients (nothing to resample)")
    assert (third.value, third.n, third.reason) == (None, 0, "no case has a value")


def test_what_no_resampling_moves_has_no_interval() -> None:
    row = mean_estimates(["hd95_mm"], np.full((4, 1), 3.0))[0]
    assert (row.value, row.low, row.high) == (3.0, None, None)
    assert row.reason is not None
    assert mean_estimates(["dice"], np.empty((0, 1)))[0].reason == "no case"


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(10, 2, (400, 1))
    row = mean_estimates(["hd95_mm"], values)[0]
    half = 1.96 * 2 / math.sqrt(400)
    assert row.low == pytest.approx(values.mean() - half, abs=0.04)
    assert row.high == pytest.approx(values.mean() + half, abs=0.04)


def test_patients_with_several_cases_widen_the_interval() -> None:
    per_patient = np.random.default_rng(1).normal(0, 1, 40)
    values = np.repeat(per_patient, 5)[:, None]
    patients = [f"p{i // 5}" for i in range(200)]
    plain, clustered = mean_estimates(["a"], values)[0], mean_estimates(["a"], values, patients)[0]
    assert clustered.value == plain.value
    assert clustered.high - clustered.low > 1.8 * (plain.high - plain.low)


def test_a_paired_difference() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(0.8, 0.1, (60, 1))
    better = hard + rng.normal(0.02, 0.01, (60, 1))
    found = mean_differences(["dice"], better, hard)[0]
    assert found.difference == pytest.approx(float((better - hard).mean()))
    assert found.low is not None
    assert found.low > 0.015
    assert found.p == pytest.approx(2 / 2001)
    turned = mean_differences(["dice"], hard, better)[0]
    assert (turned.difference, turned.low, turned.p) == pytest.approx((-found.difference, -found.high, found.p))
    same = mean_differences(["dice"], hard, hard)[0]
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    constant = mean_differences(["dice"], hard + 0.5, hard)[0]
    assert (constant.p, constant.reason) == (None, "resampling does not move the difference")
    gone = mean_differences(["dice"], hard * np.nan, hard)[0]
    assert (gone.difference, gone.n, gone.reason) == (None, 0, "no case has a value in both")
    half = np.where(np.arange(60)[:, None] < 30, better, np.nan)
    assert mean_differences(["dice"], half, hard)[0].n == 30


def test_p_is_even_where_nothing_differs() -> None:
    rng = np.random.default_rng(3)
    p = [
        mean_differences(["a"], rng.normal(size=(40, 1)), rng.normal(size=(40, 1)), bootstrap=Bootstrap(200))[0].p
        for _ in range(200)
    ]
    assert 0.01 <= float(np.mean(np.array(p) < 0.05)) <= 0.11


def test_limits_of_agreement_by_hand() -> None:
    true = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    gaps = np.array([1.0, -1.0, 2.0, 0.0, 3.0])
    bias, low, high = bland_altman(true, true + gaps, unit="ml")
    spread, t = gaps.std(ddof=1), stats.t.ppf(0.975, 4)
    assert [row.name for row in (bias, low, high)] == ["bias_ml", "limit_low_ml", "limit_high_ml"]
    assert bias.value == pytest.approx(1.0)
    assert (bias.low, bias.high) == pytest.approx((1 - t * spread / 5**0.5, 1 + t * spread / 5**0.5))
    assert (low.value, high.value) == pytest.approx((1 - 1.959964 * spread, 1 + 1.959964 * spread), abs=1e-5)
    error = spread * math.sqrt(1 / 5 + 1.959964**2 / 8)
    assert high.high - high.value == pytest.approx(t * error, abs=1e-5)


def test_limits_of_agreement_cover() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        _, low, _ = bland_altman(np.zeros(30), rng.normal(0, 1, 30))
        held += low.low <= -1.959964 <= low.high
    assert 0.9 <= held / 300 <= 0.99


def test_limits_of_agreement_where_patients_have_several_cases() -> None:
    rng = np.random.default_rng(5)
    gaps = np.repeat(rng.normal(0, 1, 30), 4) + rng.normal(0, 0.1, 120)
    patients = [f"p{i // 4}" for i in range(120)]
    plain, clustered = bland_altman(np.zeros(120), gaps)[0], bland_altman(np.zeros(120), gaps, patients)[0]
    assert clustered.value == plain.value
    assert clustered.high - clustered.low > 1.5 * (plain.high - plain.low)
    assert clustered.method is not None
    assert clustered.method.startswith("bootstrap over patients")
    same = bland_altman(np.zeros(120), np.ones(120), patients)[0]
    assert (same.value, same.low, same.reason) == (1, None, "no interval: resampling does not move it")


def test_refusals() -> None:
    assert bland_altman([1, 2], [1, 2])[0].reason == "fewer than 3 patients"
    assert bland_altman([], [])[2].value is None
    assert bland_altman([1, 2, 3], [1, 2, 4], ["a", "a", "b"])[1].reason == "fewer than 3 patients"
    with pytest.raises(UsageError, match="different cases"):
        bland_altman([1, 2, 3], [1, 2])
    with pytest.raises(DatasetError, match="not all finite"):
        bland_altman([1, 2, float("nan")], [1, 2, 3])
    with pytest.raises(UsageError, match="one column a name"):
        mean_estimates(["a", "b"], np.zeros((3, 1)))
    with pytest.raises(UsageError, match="different cases"):
        mean_differences(["a"], np.zeros((3, 1)), np.zeros((2, 1)))
