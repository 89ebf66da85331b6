"""Two models on the same cases: is one better?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from medmap.errors import UsageError
from medmap.metrics.estimate import Comparison
from medmap.metrics.flips import within_least_p
from medmap.metrics.inputs import Bools, Floats, Patients, numbers, same_length, whole_numbers, yes_no
from medmap.metrics.intervals import Z95, Bootstrap, replicate_interval
from medmap.metrics.ranking import auroc_covariance, missing_class

Metric = Callable[[NDArray[np.generic], NDArray[np.generic]], float]

_EXACT_LIMIT = 20_000_000  # patients × cases in which all signs are counted exactly


def compare_auroc(
    scores_a: ArrayLike, scores_b: ArrayLike, positive: ArrayLike, patients: Sequence[str] | None = None
) -> Comparison:
    """The difference of two AUROC on the same cases, DeLong's paired test, clustered where needed.

    Args:
        scores_a: (n,) the first model's scores, finite.
        scores_b: (n,) the second model's.
        positive: (n,) booleans or 0/1.
        patients: (n,) patient of each case; None when each case is another patient.

    Returns:
        a − b with its 95 % interval and two-sided p, which is not below what so few patients can show
        (``medmap.metrics.flips``); None with a reason where a class is missing, or where the variance is zero though
        the values differ.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A score that is not finite, a truth other than 0 and 1.

    Source: DeLong et al., Biometrics 44:837–845 (1988); Obuchowski, Biometrics 53:567–578 (1997).

    Example:
        >>> truth = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> c = compare_auroc([1, 2, 3, 5, 4, 6, 7, 8], [1, 6, 3, 5, 4, 2, 7, 8], truth)
        >>> c.difference, round(c.p, 3)
        (0.25, 0.221)
    """
    a, b, yes = numbers("scores_a", scores_a), numbers("scores_b", scores_b), yes_no("positive", positive)
    n = same_length(first_scores=a, second_scores=b, truths=yes)
    if reason := missing_class(yes):
        return Comparison("auroc", "all", None, None, None, None, None, None, n, None, reason)
    who = Patients.of(patients, n)
    values, covariance = auroc_covariance([a, b], yes, who)
    method = "DeLong paired, clustered (Obuchowski)" if who.clustered else "DeLong paired"
    first, second = float(values[0]), float(values[1])
    difference = first - second
    plain = Comparison("auroc", "all", first, second, difference, None, None, None, n, method)
    if covariance is None:
        return plain.with_(method=None, reason="fewer than two patients hold a class")
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-14:
        if abs(difference) < 1e-12:  # the two rank every pair alike
            return plain.with_(low=difference, high=difference, p=1.0)
        return plain.with_(method=None, reason="the variance of the difference is zero")
    error = math.sqrt(variance)
    found = plain.with_(
        low=max(-1.0, difference - Z95 * error),
        high=min(1.0, difference + Z95 * error),
        p=float(2 * special.ndtr(-abs(difference) / error)),
    )
    return within_least_p(found, who.count)


def mcnemar(
    truth: ArrayLike, predicted_a: ArrayLike, predicted_b: ArrayLike, patients: Sequence[str] | None = None
) -> Comparison:
    """The difference of two accuracies on the same cases, by McNemar's exact test.

    With one case a patient, p is the exact binomial one over the cases that only one model got right, and the interval
    is Agresti and Min's. With several cases, each patient's surplus of a over b keeps its size and takes either sign
    with equal chance, which is the same test for clusters; the interval then uses the variance between patients.

    Args:
        truth: (n,) class indices.
        predicted_a: (n,) the first model's classes.
        predicted_b: (n,) the second model's.
        patients: (n,) patient of each case; None when each case is another patient.

    Returns:
        a − b with its 95 % interval and two-sided p; None with a reason when there is no case.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A class that is no whole number.

    Source: McNemar, Psychometrika 12:153–157 (1947); interval: Agresti and Min, Stat. Med. 24:729–740 (2005);
    clustered: Obuchowski, Stat. Med. 17:1495–1507 (1998), with all signs counted in place of the normal tail.

    Example:
        >>> c = mcnemar([1] * 10, [1] * 10, [1] * 4 + [0] * 6)
        >>> c.difference, c.p
        (0.6, 0.03125)
    """
    true = whole_numbers("truth", truth)
    first, second = whole_numbers("predicted_a", predicted_a), whole_numbers("predicted_b", predicted_b)
    n = same_length(truths=true, first_predictions=first, second_predictions=second)
    if not n:
        return Comparison("accuracy", "all", None, None, None, None, None, None, 0, None, "no case")
    right_a, right_b = true == first, true == second
    who = Patients.of(patients, n)
    (low, high), p, method = (_clustered_mcnemar if who.clustered else _plain_mcnemar)(right_a, right_b, who)
    a, b = float(right_a.mean()), float(right_b.mean())
    difference = (int(right_a.sum()) - int(right_b.sum())) / n
    return Comparison(
        "accuracy",
        "all",
        a,
        b,
        difference,
        max(-1.0, min(low, difference)),
        min(1.0, max(high, difference)),
        p,
        n,
        method,
    )


def _agresti_min(surplus: float, discordant: float, n: float) -> tuple[float, float]:
    centre = surplus / (n + 2)
    half = Z95 * math.sqrt(max(discordant + 1 - surplus**2 / (n + 2), 0.0)) / (n + 2)
    return centre - half, centre + half


def _plain_mcnemar(right_a: Bools, right_b: Bools, who: Patients) -> tuple[tuple[float, float], float, str]:
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    # binomial with one half: twice the smaller tail
    p = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    return _agresti_min(only_a - only_b, only_a + only_b, len(right_a)), p, "McNemar exact, Agresti-Min interval"


def _clustered_mcnemar(right_a: Bools, right_b: Bools, who: Patients) -> tuple[tuple[float, float], float, str]:
    surplus = who.totals(right_a.astype(np.float64) - right_b)
    sizes = who.sizes().astype(np.float64)
    patients, n = len(sizes), float(sizes.sum())
    difference = float(surplus.sum()) / n
    moved = np.abs(surplus[surplus != 0]).astype(np.int64)
    if len(moved) * int(moved.sum()) <= _EXACT_LIMIT:
        p, how = _sign_flip_p(moved, abs(round(float(surplus.sum())))), "exact"
    else:
        p, how = float(2 * special.ndtr(-abs(surplus.sum()) / math.sqrt((surplus**2).sum()))), "normal"
    variance = 0.0
    if patients > 1:
        variance = patients / (patients - 1) * float(((surplus - difference * sizes) ** 2).sum()) / n**2
    if variance > 0:
        half = Z95 * math.sqrt(variance)
        interval = difference - half, difference + half
    else:  # patients all alike: as if each were one case
        interval = _agresti_min(difference * patients, abs(difference) * patients, patients)
    return interval, p, f"McNemar over patients ({how})"


def _sign_flip_p(sizes: NDArray[np.int64], seen: int) -> float:
    """Chance that sizes with random signs sum to ``seen`` or further from 0, counted by adding one at a time."""
    total = int(sizes.sum())
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0
    for size in sizes:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    return min(1.0, float(chance[np.abs(np.arange(-total, total + 1)) >= seen].sum()))


def paired_bootstrap(
    metric: Metric,
    truth: ArrayLike,
    predicted_a: ArrayLike,
    predicted_b: ArrayLike,
    patients: Sequence[str] | None = None,
    *,
    name: str | None = None,
    bootstrap: Bootstrap | None = None,
) -> Comparison:
    """The difference of any metric between two models, by drawing patients again, the same for both.

    Args:
        metric: ``metric(truth, predicted) -> float``, NaN where undefined; called twice a draw.
        truth: (n, …) whatever the metric takes; its rows are drawn.
        predicted_a: (n, …) the first model's predictions.
        predicted_b: (n, …) the second model's.
        patients: (n,) patient of each case; None when each case is another patient.
        name: The metric's name; that of the function when absent.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        a − b with its 95 % percentile interval and two-sided p (twice the smaller share of draws on the other side of
        zero, counting the data themselves, and not below what so few patients can show: ``medmap.metrics.flips``);
        None with a reason where the metric is undefined or no draw moves it.

    Raises:
        UsageError: Lengths differ.
        DatasetError: An empty patient.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 15; Davison and Hinkley,
    Bootstrap Methods and their Application (1997), section 4.2.

    Example:
        >>> error = lambda truth, predicted: float(abs(truth - predicted).mean())
        >>> c = paired_bootstrap(error, [1., 2., 3., 4.], [1.5, 2., 3., 4.2], [2., 3.5, 3., 5.], name="mae")
        >>> round(c.difference, 3), c.name
        (-0.7, 'mae')
    """
    true, a, b = np.asarray(truth), np.asarray(predicted_a), np.asarray(predicted_b)
    if not (true.ndim and a.ndim and b.ndim):
        raise UsageError("truth and predictions have one row a case", got=f"{true.shape}, {a.shape}, {b.shape}")
    n = same_length(truths=true, first_predictions=a, second_predictions=b)
    title = name or str(getattr(metric, "__name__", "metric"))
    empty = Comparison(title, "all", None, None, None, None, None, None, n, None)
    if not n:
        return empty.with_(reason="no case")
    who = Patients.of(patients, n)
    draws = (bootstrap or Bootstrap()).affordable(n)
    first, second = float(metric(true, a)), float(metric(true, b))
    if not (math.isfinite(first) and math.isfinite(second)):
        return empty.with_(reason="the metric is not defined on these cases")
    plain = empty.with_(a=first, b=second, difference=first - second)
    replicates = _differences(metric, (true, a, b), who, draws)
    if replicates.size and np.all(replicates == 0):
        return plain.with_(low=0.0, high=0.0, p=1.0, method=draws.method)
    interval = replicate_interval(first - second, replicates)
    if interval is None:
        return plain.with_(reason="resampling does not move the difference, or leaves it undefined")
    known = replicates[np.isfinite(replicates)]
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (known.size + 1))
    return within_least_p(plain.with_(low=interval[0], high=interval[1], p=p, method=draws.method), who.count)


def _differences(metric: Metric, tables: tuple[NDArray[np.generic], ...], who: Patients, draws: Bootstrap) -> Floats:
    """(replicates,) a − b in each draw."""
    true, a, b = tables
    rows = np.arange(len(true))
    found = []
    for weights in draws.weights(who.count, len(true)):
        for weight in weights:
            drawn = np.repeat(rows, weight[who.codes].astype(np.int64))
            found.append(float(metric(true[drawn], a[drawn])) - float(metric(true[drawn], b[drawn])))
    return np.array(found)
