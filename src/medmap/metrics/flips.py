"""What few patients can show: all signs of their paired differences counted, and the least p that there is then.

Where two models are alike, each patient's difference has either sign with equal chance; of n patients all 2ⁿ patterns
of signs are equally likely. At least two of them, the one seen and its opposite, lie as far from zero as what was seen:
no two-sided p is below 2 / 2ⁿ. Intervals and p values of DeLong and of the bootstrap do not know this bound.

Sources: Fisher, The Design of Experiments (1935), section 21; Good, Permutation, Parametric, and Bootstrap Tests of
Hypotheses, 3rd edition (2005), chapter 3.
"""

from __future__ import annotations

import numpy as np

from medmap.metrics.estimate import Comparison
from medmap.metrics.inputs import Floats

MOST_COUNTED = 16  # patients whose signs are counted; of more, the bound is below 0.00002


def least_p(patients: int) -> float:
    """The smallest two-sided p that paired differences of so many patients can have: 2 / 2ⁿ.

    Example:
        >>> least_p(8), least_p(5), least_p(1)
        (0.0078125, 0.0625, 1.0)
    """
    return min(1.0, 2.0 ** (1 - patients))


def sign_flip_p(differences: Floats) -> float:
    """Exact two-sided p of the sum of patients' differences: the share of all patterns of signs as far from zero.

    Args:
        differences: (n,) of each patient, n at most about 20: 2ⁿ sums are held.

    Example:
        >>> sign_flip_p(np.array([0.1, 0.2, 0.3]))
        0.25
    """
    moved = differences[differences != 0]  # the sign of a zero changes nothing
    sums = np.zeros(1)
    for size in np.abs(moved):
        sums = np.concatenate([sums + size, sums - size])
    rounding = 1e-9 * float(np.abs(moved).sum())
    return float((np.abs(sums) >= abs(float(moved.sum())) - rounding).mean())


def by_sign_flips(row: Comparison, differences: Floats) -> Comparison:
    """A comparison of means whose p is not below that of the exact sign-flip test, where patients are few.

    Args:
        row: With the p of its draws, or None.
        differences: (patients,) the sum of each patient's differences.
    """
    if row.p is None or len(differences) > MOST_COUNTED:
        return row
    exact = sign_flip_p(differences)
    return row if exact <= row.p else row.with_(p=exact, method=f"{row.method}, p by exact sign flips")


def within_least_p(row: Comparison, patients: int) -> Comparison:
    """A comparison whose p is not below what so many patients can show.

    Args:
        row: With a p, or None.
        patients: Those compared.
    """
    least = least_p(patients)
    if row.p is None or patients > MOST_COUNTED or row.p >= least:
        return row
    word = "patient" if patients == 1 else "patients"
    return row.with_(p=least, method=f"{row.method}, p the least that {patients} {word} can show")
