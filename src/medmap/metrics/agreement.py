"""Two ways of measuring the same thing: how far apart, on average and in a single case."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from medmap.metrics.estimate import Estimate, undefined
from medmap.metrics.inputs import Floats, Patients, numbers, same_length
from medmap.metrics.intervals import Z95, Bootstrap, drawn_patients, replicate_interval

FEWEST = 3
_METHOD = "Bland-Altman, Student's t"


def bland_altman(
    reference: ArrayLike,
    measured: ArrayLike,
    patients: Sequence[str] | None = None,
    *,
    unit: str = "",
    bootstrap: Bootstrap | None = None,
) -> tuple[Estimate, Estimate, Estimate]:
    """Bias and the two 95 % limits of agreement: within them lie 95 % of single differences.

    With one case a patient the intervals are Bland and Altman's: ± t·s/√n for the bias, ± t·s·√(1/n + z²/(2(n − 1)))
    for a limit. Where a patient has several cases, whole patients are drawn again.

    Args:
        reference: (n,) finite numbers.
        measured: (n,) finite numbers, same unit.
        patients: (n,) patient of each case; None when each case is another patient.
        unit: Ends the names of the rows: ``ml`` gives ``bias_ml``.
        bootstrap: Replicates and seed where patients have several cases; 2,000 and 0 when absent.

    Returns:
        ``bias`` (measured − reference), ``limit_low`` and ``limit_high``; None with a reason below three patients.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A number that is not finite.

    Source: Bland and Altman, Lancet 327:307–310 (1986); Stat. Methods Med. Res. 8:135–160 (1999), section 2.

    Example:
        >>> bias, low, high = bland_altman([10, 20, 30, 40], [11, 21, 33, 41])
        >>> bias.value, round(low.value, 2), round(high.value, 2)
        (1.5, -0.46, 3.46)
    """
    first, second = numbers("reference", reference), numbers("measured", measured)
    n = same_length(references=first, measurements=second)
    who = Patients.of(patients, n)
    names = [f"{name}_{unit}" if unit else name for name in ("bias", "limit_low", "limit_high")]
    people = drawn_patients(who) if n else 0
    if people < FEWEST:
        one, two, three = (undefined(name, n, f"fewer than {FEWEST} patients") for name in names)
        return one, two, three
    gaps = second - first
    values = _three(np.array([[n, gaps.sum(), (gaps**2).sum()]]))[0]
    if who.clustered:
        draws = (bootstrap or Bootstrap()).affordable(n)
        totals = np.stack([who.totals(column) for column in (np.ones(n), gaps, gaps**2)], axis=1)
        replicates = _three(draws.sums(totals))
        found = [_drawn(name, float(v), r, n, draws) for name, v, r in zip(names, values, replicates.T, strict=True)]
        return found[0], found[1], found[2]
    spread = float(gaps.std(ddof=1))
    t = float(special.stdtrit(n - 1, 0.975))
    errors = [spread / math.sqrt(n), *[spread * math.sqrt(1 / n + Z95**2 / (2 * (n - 1)))] * 2]
    rows = [
        Estimate(name, float(value), float(value - t * error), float(value + t * error), n, _METHOD)
        for name, value, error in zip(names, values, errors, strict=True)
    ]
    return rows[0], rows[1], rows[2]


def _three(sums: Floats) -> Floats:
    """(k, 3) bias and limits from (k, 3) sums of 1, d, d²."""
    n, total, squares = sums.T
    bias = total / n
    around = np.maximum(squares - total**2 / n, 0)
    half = Z95 * np.sqrt(around / np.maximum(n - 1, 1))
    return np.stack([bias, bias - half, bias + half], axis=1)


def _drawn(name: str, value: float, replicates: Floats, n: int, draws: Bootstrap) -> Estimate:
    interval = replicate_interval(value, replicates)
    if interval is None:
        return Estimate(name, value, None, None, n, None, reason="no interval: resampling does not move it")
    return Estimate(name, value, *interval, n, draws.method)
