"""What few patients can show: all signs counted, against another library and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medmap.metrics import compare_auroc, mean_differences, paired_bootstrap
from medmap.metrics.flips import least_p, sign_flip_p


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9))
def test_all_signs_are_counted_as_another_library_counts_them(sizes: list[int]) -> None:
    values = np.array(sizes, float)
    told = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(values) == pytest.approx(told.pvalue)


def test_eight_patients_who_all_gain_are_as_sure_as_eight_can_be() -> None:
    assert sign_flip_p(np.arange(1.0, 9)) == least_p(8) == 2 / 2**8
    better = np.linspace(0.8, 0.9, 8)[:, None]
    found = mean_differences(["dice"], better, better - np.linspace(0.01, 0.05, 8)[:, None])[0]
    assert found.p == 2 / 2**8, "the bootstrap alone says below 0.001"
    assert found.method == "bootstrap over patients (2000), p by exact sign flips"


def test_a_loss_among_few_gains_counts() -> None:
    gains = np.array([0.02, 0.03, 0.05, 0.04, 0.03, -0.01, 0.02, 0.03])
    found = mean_differences(["dice"], 0.8 + gains[:, None], np.full((8, 1), 0.8))[0]
    assert found.p == pytest.approx(sign_flip_p(gains))
    assert found.p > 2 / 2**8


def test_copies_of_a_patient_do_not_make_many() -> None:
    gains = np.repeat(np.linspace(0.01, 0.05, 5), 30)[:, None]
    who = [f"p{i // 30}" for i in range(150)]
    assert mean_differences(["dice"], 0.8 + gains, np.full((150, 1), 0.8), who)[0].p == 2 / 2**5
    alone = mean_differences(["dice"], 0.8 + gains, np.full((150, 1), 0.8))[0]
    assert alone.p == pytest.approx(2 / 2001), "many patients: the bootstrap's p stands"
    assert alone.method == "bootstrap over patients (2000)"


def test_any_metric_keeps_to_what_so_few_patients_can_show() -> None:
    truth = np.arange(6.0)
    good, bad = truth + np.array([0.1, 0.2, 0.1, 0.3, 0.2, 0.1]), truth + np.array([1, 2, 1.5, 1, 3, 2.5])
    found = paired_bootstrap(lambda t, p: float(np.abs(t - p).mean()), truth, good, bad, name="mae")
    assert found.p == 2 / 2**6
    assert found.method == "bootstrap over patients (2000), p the least that 6 patients can show"
    ranked = compare_auroc([1, 2, 3, 4, 5, 6], [5, 3, 6, 4, 2, 1], np.array([0, 0, 0, 1, 1, 1]))
    assert (ranked.p, ranked.method) == (2 / 2**6, "DeLong paired, p the least that 6 patients can show")


def test_nothing_moved_is_no_evidence() -> None:
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert (least_p(0), least_p(1), least_p(2)) == (1.0, 1.0, 0.5)
