"""How well scores rank: AUROC with DeLong's variance, average precision, and both under a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import DatasetError
from medmap.metrics.estimate import Estimate, undefined
from medmap.metrics.inputs import Bools, Floats, Patients, numbers, same_length, yes_no
from medmap.metrics.intervals import Z95, Bootstrap, Interval, bounded_estimate, wilson


def placements(scores: Floats, positive: Bools) -> tuple[float, Floats, Floats]:
    """AUROC and its structural components, in O(n log n).

    Returns:
        The AUROC; for each positive the share of negatives below it; for each negative the share of positives above it
        (ties count half).

    Source: DeLong et al., Biometrics 44:837–845 (1988); by midranks: Sun and Xu, IEEE Signal Process. Lett.
    21:1389–1393 (2014).
    """
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = _midranks(scores)
    of_positives = (ranks[positive] - _midranks(scores[positive])) / n
    of_negatives = 1 - (ranks[~positive] - _midranks(scores[~positive])) / m
    value = (float(ranks[positive].sum()) - m * (m + 1) / 2) / (m * n)
    return value, of_positives, of_negatives


def _midranks(scores: Floats) -> Floats:
    """(n,) ranks from 1; equal scores share the mean of their ranks."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)], dtype=np.float64)


def auroc_covariance(scores: Sequence[Floats], positive: Bools, patients: Patients) -> tuple[Floats, Floats | None]:
    """AUROC of several scores of the same cases, and their covariance matrix.

    Args:
        scores: k arrays (n,).
        positive: (n,), with both classes.
        patients: The clusters; with one case a patient this is DeLong's formula.

    Returns:
        (k,) AUROC; (k, k) covariance, or None where fewer than two patients hold a class.

    Source: Obuchowski, Biometrics 53:567–578 (1997), equations 3 to 6.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    of_positive, of_negative = patients.at(positive), patients.at(~positive)
    with_positive, with_negative = of_positive.sizes() > 0, of_negative.sizes() > 0
    values, up, down = [], [], []
    for score in scores:
        value, positives, negatives = placements(score, positive)
        values.append(value)
        up.append(of_positive.totals(positives - value))
        down.append(of_negative.totals(negatives - value))
    i10, i01 = int(with_positive.sum()), int(with_negative.sum())
    i = int((with_positive | with_negative).sum())
    if i10 < 2 or i01 < 2:
        return np.array(values), None
    a, b = np.array(up), np.array(down)
    cross = a @ b.T
    covariance = (
        i10 / (i10 - 1) * (a @ a.T) / m**2
        + i01 / (i01 - 1) * (b @ b.T) / n**2
        + i / (i - 1) * (cross + cross.T) / (m * n)
    )
    return np.array(values), covariance


def _independent_pairs(positive: Bools, patients: Patients) -> int:
    """Most pairs of a positive and a negative case with no patient in two of them."""
    yes, no = patients.at(positive).sizes() > 0, patients.at(~positive).sizes() > 0
    return max(1, min(int(yes.sum()), int(no.sum()), int((yes | no).sum()) // 2))


def _auroc_interval(value: float, variance: float | None, positive: Bools, patients: Patients) -> tuple[Interval, str]:
    if variance is not None and variance > 1e-14 and 0 < value < 1:
        logit, half = math.log(value / (1 - value)), Z95 * math.sqrt(variance) / (value * (1 - value))
        ends = [1 / (1 + math.exp(-np.clip(logit + sign * half, -700, 700))) for sign in (-1, 1)]
        return (ends[0], ends[1]), "DeLong clustered (Obuchowski)" if patients.clustered else "DeLong"
    pairs = _independent_pairs(positive, patients)
    method = f"over independent pairs ({pairs})"
    if value in (0.0, 1.0):
        bound = 0.025 ** (1 / pairs)
        return ((bound, 1.0), f"exact {method}") if value == 1 else ((0.0, 1 - bound), f"exact {method}")
    return wilson(value * pairs, pairs), f"Wilson {method}"


def auroc_value(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve, without an interval.

    Args:
        scores: (n,) finite numbers, larger for more suspicious.
        positive: (n,) booleans or 0/1, with both classes.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A score that is not finite, or only one class.

    Example:
        >>> auroc_value([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    score, yes = numbers("scores", scores), yes_no("positive", positive)
    same_length(scores=score, truths=yes)
    if reason := missing_class(yes):
        raise DatasetError("AUROC needs positive and negative cases", got=reason)
    return placements(score, yes)[0]


def auroc(scores: ArrayLike, positive: ArrayLike, patients: Sequence[str] | None = None) -> Estimate:
    """Area under the ROC curve with DeLong's interval, clustered where a patient has several cases.

    The interval is symmetric on the logit scale, so it stays in [0, 1]. Where the variance says nothing (perfect
    separation, a single case of a class), cases are paired so that no patient is used twice: each pair is an
    independent trial that succeeds with probability AUROC, which gives the exact (Clopper and Pearson) bound at 1 and
    at 0, and Wilson's interval elsewhere. It is on the safe side.

    Args:
        scores: (n,) finite numbers, larger for more suspicious.
        positive: (n,) booleans or 0/1.
        patients: (n,) patient of each case; None when each case is another patient.

    Returns:
        The estimate, in [0, 1]; value None with a reason where a class is missing.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A score that is not finite, a truth other than 0 and 1.

    Source: DeLong et al., Biometrics 44:837–845 (1988); Obuchowski, Biometrics 53:567–578 (1997); logit interval:
    Pepe, The Statistical Evaluation of Medical Tests (2003), section 5.2; Clopper and Pearson, Biometrika 26:404–413
    (1934).

    Example:
        >>> e = auroc([0.1, 0.3, 0.4, 0.35, 0.8, 0.9], [0, 0, 0, 1, 1, 1])
        >>> round(e.value, 3), round(e.low, 3), round(e.high, 3), e.method
        (0.889, 0.261, 0.995, 'DeLong')
    """
    score, yes = numbers("scores", scores), yes_no("positive", positive)
    n = same_length(scores=score, truths=yes)
    return auroc_of(score, yes, Patients.of(patients, n))


def auroc_of(score: Floats, yes: Bools, patients: Patients) -> Estimate:
    """``auroc`` of arrays that were checked."""
    if reason := missing_class(yes):
        return undefined("auroc", len(yes), reason)
    values, covariance = auroc_covariance([score], yes, patients)
    value = float(values[0])
    (low, high), method = _auroc_interval(value, None if covariance is None else float(covariance[0, 0]), yes, patients)
    return Estimate("auroc", value, min(low, value), max(high, value), len(yes), method)


def missing_class(yes: Bools) -> str | None:
    """Why a ranking of these cases has no value, or None."""
    if not len(yes):
        return "no case"
    if yes.all():
        return "no negative case"
    return None if yes.any() else "no positive case"


class Ranking:
    """Cases in the order of their scores, ready to be weighted again and again.

    Only places are kept: for each positive case how many negatives stand at or above it and strictly above it, and how
    many positives at or above it. With weights, these places are read off running sums.

    Args:
        scores: (n,) finite.
        positive: (n,), with at least one positive case.
        patients: Whose weights the cases take.
    """

    def __init__(self, scores: Floats, positive: Bools, patients: Patients) -> None:
        order = np.argsort(-scores, kind="stable")
        yes = positive[order]
        descending = -scores[order]
        codes = patients.codes[order]
        self.positive_codes, self.negative_codes = codes[yes], codes[~yes]
        of_positive, of_negative = descending[yes], descending[~yes]
        self._negatives_to = np.searchsorted(of_negative, of_positive, side="right")
        self._negatives_above = np.searchsorted(of_negative, of_positive, side="left")
        self._positives_to = np.searchsorted(of_positive, of_positive, side="right") - 1

    def average_precision(self) -> float:
        """Average precision of the cases as they are."""
        to = self._positives_to + 1.0
        return float(np.mean(to / (to + self._negatives_to)))

    def weighted(self, weights: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """AUROC and average precision of each draw.

        Args:
            weights: (draws, patients) how often each patient was drawn.

        Returns:
            (draws,) AUROC and (draws,) average precision; NaN where a class was not drawn.
        """
        # float32 counts are exact up to 16 million cases
        drawn = np.take(weights, self.positive_codes, axis=1)
        positives = np.cumsum(drawn, axis=1)
        negatives = np.zeros((len(weights), len(self.negative_codes) + 1), dtype=np.float32)
        np.cumsum(np.take(weights, self.negative_codes, axis=1), axis=1, out=negatives[:, 1:])
        all_positive, all_negative = positives[:, -1:], negatives[:, -1:]
        to = np.take(negatives, self._negatives_to, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.take(negatives, self._negatives_above, axis=1)
            below = 1 - (to + above) / (2 * all_negative)
            area = (drawn * below).sum(axis=1, dtype=np.float64) / all_positive[:, 0]
            hits = np.take(positives, self._positives_to, axis=1)
            # nothing drawn so far weighs nothing, and is no 0/0
            precision = hits / np.maximum(hits + to, 1)
            average = (drawn * precision).sum(axis=1, dtype=np.float64) / all_positive[:, 0]
        return np.asarray(area, dtype=np.float64), np.asarray(average, dtype=np.float64)


def auprc_fallback(value: float, yes: Bools, patients: Patients) -> tuple[Interval, str]:
    """Average precision that no resampling moves: Wilson with the patients that have a positive case as n, the
    binomial interval of Boyd et al. (2013).
    """
    worth = int((patients.at(yes).sizes() > 0).sum())
    return wilson(value * worth, worth), f"Wilson over positive patients ({worth})"


def auprc(
    scores: ArrayLike,
    positive: ArrayLike,
    patients: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Estimate:
    """Average precision, the step-wise area under the precision-recall curve.

    What a score without skill reaches is the share of positives, not 0.5.

    Args:
        scores: (n,) finite numbers, larger for more suspicious.
        positive: (n,) booleans or 0/1.
        patients: (n,) patient of each case; None when each case is another patient.
        bootstrap: Replicates and seed; 2,000 and 0 when absent.

    Returns:
        The estimate, in [0, 1]; value None with a reason where a class is missing.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A score that is not finite, a truth other than 0 and 1.

    Source: Davis and Goadrich, ICML (2006); Boyd et al., ECML PKDD (2013).

    Example:
        >>> round(auprc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]).value, 4)
        0.8333
    """
    score, yes = numbers("scores", scores), yes_no("positive", positive)
    n = same_length(scores=score, truths=yes)
    who = Patients.of(patients, n)
    draws = (bootstrap or Bootstrap()).affordable(n)
    if reason := missing_class(yes):
        return undefined("auprc", n, reason)
    ranking = Ranking(score, yes, who)
    replicates = np.concatenate([ranking.weighted(w)[1] for w in draws.weights(who.count, n)])
    value = ranking.average_precision()
    return bounded_estimate("auprc", value, replicates, n, draws, auprc_fallback(value, yes, who))
