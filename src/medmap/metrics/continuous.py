"""Numbers and grades: how far the predicted one is from the true one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from medmap.metrics.estimate import Estimate, undefined
from medmap.metrics.inputs import Floats, Ints, Patients, numbers, same_length, whole_numbers
from medmap.metrics.intervals import Bootstrap, proportion, replicate_interval

# (k, 7) sums of: 1, |e|, e², t, t², p, p² -> (k,) values, NaN where undefined
_Formula = Callable[[Floats], Floats]


def _mae(sums: Floats) -> Floats:
    return np.asarray(sums[:, 1] / sums[:, 0])


def _rmse(sums: Floats) -> Floats:
    return np.asarray(np.sqrt(sums[:, 2] / sums[:, 0]))


def _spread(count: Floats, total: Floats, squares: Floats) -> Floats:
    """Sum of squared distances from the mean, 0 where rounding alone is left."""
    around = squares - total**2 / count
    return np.where(around > 1e-12 * squares, around, 0.0)


def _r2(sums: Floats) -> Floats:
    around = _spread(sums[:, 0], sums[:, 3], sums[:, 4])
    return np.asarray(1 - sums[:, 2] / np.where(around > 0, around, np.nan))


def _quadratic_kappa(sums: Floats) -> Floats:
    # Σ w·expected over all pairs of margins is n·(var t + var p + (mean t − mean p)²) for w = (t − p)²
    n = sums[:, 0]
    spread = _spread(n, sums[:, 3], sums[:, 4]) + _spread(n, sums[:, 5], sums[:, 6])
    chance = spread + (sums[:, 3] - sums[:, 5]) ** 2 / n
    return np.asarray(1 - sums[:, 2] / np.where(chance > 0, chance, np.nan))


_FORMULAS: dict[str, tuple[_Formula, str]] = {
    "mae": (_mae, "no case"),
    "rmse": (_rmse, "no case"),
    "r2": (_r2, "the truth does not vary"),
    "quadratic_kappa": (_quadratic_kappa, "truth and prediction are one and the same grade"),
}


def _estimates(names: Sequence[str], true: Floats, guess: Floats, who: Patients, draws: Bootstrap) -> list[Estimate]:
    n = len(true)
    if not n:
        return [undefined(name, 0, "no case") for name in names]
    # kappa compares the two margins, so both are moved by the same amount; r2 and kappa do not see it
    middle = float(true.mean())
    t, p, error = true - middle, guess - middle, guess - true
    columns = (np.ones(n), np.abs(error), error**2, t, t**2, p, p**2)
    totals = np.stack([who.totals(column) for column in columns], axis=1)
    sums = draws.sums(totals)
    whole = totals.sum(axis=0, keepdims=True)
    rows = []
    for name in names:
        formula, reason = _FORMULAS[name]
        value = float(formula(whole)[0])
        if not np.isfinite(value):
            rows.append(undefined(name, n, reason))
            continue
        interval = replicate_interval(value, formula(sums))
        if interval is None:
            rows.append(Estimate(name, value, None, None, n, None, reason="no interval: resampling does not move it"))
        else:
            rows.append(Estimate(name, value, *interval, n, draws.method))
    return rows


def _one(
    name: str, truth: ArrayLike, predicted: ArrayLike, patients: Sequence[str] | None, bootstrap: Bootstrap | None
) -> Estimate:
    true, guess = numbers("truth", truth), numbers("predicted", predicted)
    n = same_length(truths=true, predictions=guess)
    return _estimates([name], true, guess, Patients.of(patients, n), (bootstrap or Bootstrap()).affordable(n))[0]


def mae(
    truth: ArrayLike,
    predicted: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Estimate:
    """Mean absolute error, in the unit of the truth.

    Args:
        truth: (n,) finite numbers.
        predicted: (n,) finite numbers, same unit.
        patients: (n,) patient of each case; None when each case is another patient.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        The estimate, ≥ 0, with a bootstrap interval; no interval, and the reason, where no resampling moves it.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A number that is not finite.

    Source: Willmott and Matsuura, Clim. Res. 30:79–82 (2005).

    Example:
        >>> mae([60, 70, 80], [62, 70, 79]).value
        1.0
    """
    return _one("mae", truth, predicted, patients, bootstrap)


def rmse(
    truth: ArrayLike,
    predicted: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Estimate:
    """Root of the mean squared error, in the unit of the truth.

    Args, returns, raises: as ``mae``.

    Source: Willmott and Matsuura, Clim. Res. 30:79–82 (2005).

    Example:
        >>> rmse([0, 0], [3, -3]).value
        3.0
    """
    return _one("rmse", truth, predicted, patients, bootstrap)


def r2(
    truth: ArrayLike,
    predicted: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Estimate:
    """Coefficient of determination: 1 − squared error over the truth's squared distance from its mean.

    Args, raises: as ``mae``.

    Returns:
        The estimate, ≤ 1 and without a lower bound; value None with a reason where the truth does not vary.

    Source: Kvålseth, Am. Stat. 39:279–285 (1985), his first formula.

    Example:
        >>> r2([1, 2, 3], [1, 2, 2]).value
        0.5
    """
    return _one("r2", truth, predicted, patients, bootstrap)


def quadratic_kappa(
    truth: ArrayLike,
    predicted: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Estimate:
    """Cohen's kappa with quadratic weights: agreement on grades beyond chance, a miss by two weighing four times.

    Args:
        truth: (n,) grades, whole numbers.
        predicted: (n,) grades.
        patients: (n,) patient of each case; None when each case is another patient.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        The estimate, in [−1, 1]; value None with a reason where all grades are one and the same.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A grade that is no whole number.

    Source: Cohen, Psychol. Bull. 70:213–220 (1968).

    Example:
        >>> round(quadratic_kappa([0, 1, 2, 3], [0, 1, 3, 3]).value, 4)
        0.9167
    """
    true, guess = whole_numbers("truth", truth), whole_numbers("predicted", predicted)
    return _one("quadratic_kappa", true, guess, patients, bootstrap)


def regression_table(
    predicted: ArrayLike,
    truth: ArrayLike,
    *,
    patients: Sequence[str] | None = None,
    stage: str | None = None,
    group: str = "all",
    bootstrap: Bootstrap | None = None,
) -> list[Estimate]:
    """``mae``, ``rmse`` and ``r2`` of one predicted number, from one bootstrap.

    Args:
        predicted: (n,) finite numbers.
        truth: (n,) finite numbers, same unit.
        patients: (n,) patient of each case; None when each case is another patient.
        stage: Written into the rows.
        group: Written into the rows: the target's name where there are several.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A number that is not finite.

    Source: see ``mae``, ``rmse`` and ``r2``.

    Examples:
        >>> [(row.name, row.value) for row in regression_table([1, 2, 2], [1, 2, 3])][2]
        ('r2', 0.5)
    """
    guess, true = numbers("predicted", predicted), numbers("truth", truth)
    n = same_length(truths=true, predictions=guess)
    draws = (bootstrap or Bootstrap()).affordable(n)
    rows = _estimates(("mae", "rmse", "r2"), true, guess, Patients.of(patients, n), draws)
    return [row.with_(stage=stage, group=group) for row in rows]


def ordinal_table(
    predicted: ArrayLike,
    truth: ArrayLike,
    *,
    patients: Sequence[str] | None = None,
    stage: str | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[Estimate]:
    """``quadratic_kappa``, ``mae`` in grades, and ``accuracy`` of predicted grades, from one bootstrap.

    Args:
        predicted: (n,) grades, whole numbers.
        truth: (n,) grades.
        patients: (n,) patient of each case; None when each case is another patient.
        stage: Written into the rows.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A grade that is no whole number.

    Source: see ``quadratic_kappa`` and ``mae``.

    Examples:
        >>> [row.name for row in ordinal_table([0, 1, 2], [0, 2, 2])]
        ['quadratic_kappa', 'mae', 'accuracy']
    """
    guess, true = whole_numbers("predicted", predicted), whole_numbers("truth", truth)
    n = same_length(truths=true, predictions=guess)
    who = Patients.of(patients, n)
    rows = ordinal_rows(guess, true, who, (bootstrap or Bootstrap()).affordable(n))
    rows.append(proportion("accuracy", guess == true, who, "no case"))
    return [row.with_(stage=stage) for row in rows]


def ordinal_rows(guess: Ints, true: Ints, who: Patients, draws: Bootstrap) -> list[Estimate]:
    """``quadratic_kappa`` and ``mae`` of grades that were checked."""
    t, p = true.astype(np.float64), guess.astype(np.float64)
    return _estimates(("quadratic_kappa", "mae"), t, p, who, draws)
