"""Means of what each case scored, with intervals over patients, and the paired differences of two such means."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from medmap.errors import UsageError
from medmap.metrics.estimate import Comparison, Estimate, undefined
from medmap.metrics.flips import by_sign_flips
from medmap.metrics.inputs import Floats, Patients
from medmap.metrics.intervals import (
    Bootstrap,
    bounded_mean_fallback,
    drawn_patients,
    replicate_interval,
)

NOT_MOVED = "no interval: resampling does not move it"


def mean_estimates(
    names: Sequence[str],
    values: Floats,
    patients: Sequence[str] | None = None,
    *,
    bounded: Collection[str] = (),
    bootstrap: Bootstrap | None = None,
) -> list[Estimate]:
    """The mean of each column over the cases that have a value there, from one bootstrap over patients.

    Args:
        names: (k,) of the columns.
        values: (n, k), NaN where a case has no value.
        patients: (n,) patient of each case; None when each case is another patient.
        bounded: Names of columns whose values lie in [0, 1]: where no resampling moves them, Wilson's interval over
            patients stands in.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        One a column; value None with a reason where no case has one.

    Raises:
        UsageError: Shapes that do not fit.
        DatasetError: An empty patient.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993); whole patients: Field and Welsh, J. R. Stat.
    Soc. B 69:369–390 (2007).

    Example:
        >>> row = mean_estimates(["dice"], np.array([[0.8], [0.9], [np.nan]]))[0]
        >>> round(row.value, 3), row.n
        (0.85, 2)
    """
    n = _rows(names, values)
    if not n:
        return [undefined(name, 0, "no case") for name in names]
    who = Patients.of(patients, n)
    draws = (bootstrap or Bootstrap()).affordable(n)
    replicates = _mean_replicates(values, who, draws)
    rows = []
    for column, name in enumerate(names):
        known = np.isfinite(values[:, column])
        count = int(known.sum())
        if not count:
            rows.append(undefined(name, 0, "no case has a value"))
            continue
        value = float(values[known, column].mean())
        interval = replicate_interval(value, replicates[:, column])
        if interval is not None:
            rows.append(Estimate(name, value, *interval, count, draws.method))
        elif name in bounded:
            (low, high), method = bounded_mean_fallback(value, drawn_patients(who.at(known)))
            rows.append(Estimate(name, value, min(low, value), max(high, value), count, method))
        else:
            rows.append(Estimate(name, value, None, None, count, None, reason=NOT_MOVED))
    return rows


def mean_differences(
    names: Sequence[str],
    first: Floats,
    second: Floats,
    patients: Sequence[str] | None = None,
    *,
    bootstrap: Bootstrap | None = None,
) -> list[Comparison]:
    """The difference of two means of each column, over the cases that have a value in both, patients drawn together.

    Args:
        names: (k,) of the columns.
        first: (n, k), NaN where a case has no value.
        second: (n, k), the same cases.
        patients: (n,) patient of each case; None when each case is another patient.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        first − second with a 95 % percentile interval and a two-sided p (twice the smaller share of draws on the other
        side of zero, counting the data themselves; of at most 16 patients never below the exact sign-flip test's);
        None with a reason where no case has both.

    Raises:
        UsageError: Shapes that do not fit.
        DatasetError: An empty patient.

    Source: Efron and Tibshirani (1993), chapters 13 and 15; Davison and Hinkley, Bootstrap Methods and their
    Application (1997), section 4.2; few patients: ``medmap.metrics.flips``.

    Example:
        >>> better = np.array([[0.9], [0.8], [0.95]])
        >>> round(mean_differences(["dice"], better, better - 0.1)[0].difference, 3)
        0.1
    """
    n = _rows(names, first)
    if second.shape != first.shape:
        raise UsageError("the two tables are of different cases", got=second.shape, expected=first.shape)
    both = np.isfinite(first) & np.isfinite(second)
    gaps = np.where(both, first - second, np.nan)
    who = Patients.of(patients, n)
    draws = (bootstrap or Bootstrap()).affordable(n)
    replicates = _mean_replicates(gaps, who, draws) if n else np.empty((0, len(names)))
    rows = []
    for column, name in enumerate(names):
        inside = both[:, column]
        count = int(inside.sum())
        plain = Comparison(name, "all", None, None, None, None, None, None, count, None)
        if not count:
            rows.append(plain.with_(reason="no case has a value in both"))
            continue
        a, b = float(first[inside, column].mean()), float(second[inside, column].mean())
        plain = plain.with_(a=a, b=b, difference=float(gaps[inside, column].mean()))
        totals = who.totals(np.where(inside, gaps[:, column], 0.0))
        rows.append(by_sign_flips(tested_difference(plain, replicates[:, column], draws), totals))
    return rows


def tested_difference(plain: Comparison, replicates: Floats, draws: Bootstrap) -> Comparison:
    """A difference with the interval and p of its draws.

    Args:
        plain: The values and their difference.
        replicates: (replicates,) of the difference, NaN where a draw has none.
        draws: How they were drawn.
    """
    known = replicates[np.isfinite(replicates)]
    if known.size and np.all(known == 0):
        return plain.with_(low=0.0, high=0.0, p=1.0, method=draws.method)
    interval = replicate_interval(float(plain.difference or 0.0), replicates)
    if interval is None:
        return plain.with_(reason="resampling does not move the difference")
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (known.size + 1))
    return plain.with_(low=interval[0], high=interval[1], p=p, method=draws.method)


def _rows(names: Sequence[str], values: Floats) -> int:
    if values.ndim != 2 or values.shape[1] != len(names):
        raise UsageError("the values need one column a name", got=values.shape, expected=f"(cases, {len(names)})")
    return len(values)


def _mean_replicates(values: Floats, who: Patients, draws: Bootstrap) -> Floats:
    """(replicates, k) means of each draw; NaN where it holds no case with a value."""
    known = np.isfinite(values)
    columns = [*np.where(known, values, 0.0).T, *known.T.astype(np.float64)]
    sums = draws.sums(np.stack([who.totals(column) for column in columns], axis=1))
    total, count = np.split(sums, 2, axis=1)
    return np.asarray(total / np.where(count > 0, count, np.nan))
