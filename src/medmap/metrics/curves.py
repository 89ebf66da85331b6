"""Curves that a report draws: ROC, precision-recall, reliability, confusion, decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from medmap.errors import DatasetError, UsageError
from medmap.metrics.classification import BINS, equal_mass_bins, equal_width_bins
from medmap.metrics.inputs import Floats, Ints, Patients, chances, numbers, same_length, whole_numbers, yes_no
from medmap.metrics.intervals import proportion_interval
from medmap.metrics.ranking import missing_class


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Corners of the ROC curve, from nothing called positive to everything.

    Args:
        false_positive_rate: (k,) 0 … 1, rising.
        true_positive_rate: (k,) 0 … 1, rising.
        thresholds: (k,) the score from which a case is called positive; the first is infinite.
    """

    false_positive_rate: Floats
    true_positive_rate: Floats
    thresholds: Floats


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Points of the precision-recall curve, from the highest score downward.

    Args:
        recall: (k,) 0 … 1, rising; the first is 0.
        precision: (k,) 0 … 1; 1 where nothing is called positive.
        thresholds: (k,) the score from which a case is called positive; the first is infinite.
    """

    recall: Floats
    precision: Floats
    thresholds: Floats


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Probabilities against what was, in bins that hold a case.

    Args:
        predicted: (b,) mean probability.
        observed: (b,) share of positives.
        low: (b,) lower end of the share's 95 % interval.
        high: (b,) upper end.
        n: (b,) cases.
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    n: Ints


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How often each true class was called each class.

    Args:
        counts: (C, C) cases: row true, column predicted.
        labels: (C,) names.
    """

    counts: Ints
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit against the risk from which one would act.

    Args:
        thresholds: (k,) risk, between 0 and 1.
        net_benefit: (k,) of acting on the model, in true positives a case.
        treat_all: (k,) of acting on everyone.
        treat_none: (k,) zero.
    """

    thresholds: Floats
    net_benefit: Floats
    treat_all: Floats
    treat_none: Floats


def _steps(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Thresholds, true positives and false positives at each distinct score, from the highest; infinity first."""
    score, yes = numbers("scores", scores), yes_no("positive", positive)
    same_length(scores=score, truths=yes)
    if reason := missing_class(yes):
        raise DatasetError("a curve needs positive and negative cases", got=reason)
    order = np.argsort(-score, kind="stable")
    score, yes = score[order], yes[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    hits = np.cumsum(yes)[last].astype(np.float64)
    return np.append(np.inf, score[last]), np.append(0.0, hits), np.append(0.0, last + 1 - hits)


def roc_curve(scores: ArrayLike, positive: ArrayLike) -> RocCurve:
    """Sensitivity against the false positive rate at every distinct score.

    Args:
        scores: (n,) finite numbers, larger for more suspicious.
        positive: (n,) booleans or 0/1, with both classes.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A score that is not finite, or only one class.

    Source: Hanley and McNeil, Radiology 143:29–36 (1982); Fawcett, Pattern Recognit. Lett. 27:861–874 (2006).

    Example:
        >>> roc_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]).true_positive_rate.tolist()
        [0.0, 0.5, 0.5, 1.0, 1.0]
    """
    thresholds, hits, misses = _steps(scores, positive)
    return RocCurve(misses / misses[-1], hits / hits[-1], thresholds)


def precision_recall_curve(scores: ArrayLike, positive: ArrayLike) -> PrecisionRecallCurve:
    """Precision (PPV) against recall (sensitivity) at every distinct score.

    Args:
        scores: (n,) finite numbers, larger for more suspicious.
        positive: (n,) booleans or 0/1, with both classes.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A score that is not finite, or only one class.

    Source: Davis and Goadrich, ICML (2006).

    Example:
        >>> precision_recall_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]).recall.tolist()
        [0.0, 0.5, 0.5, 1.0, 1.0]
    """
    thresholds, hits, misses = _steps(scores, positive)
    precision = np.ones_like(hits)
    precision[1:] = hits[1:] / (hits[1:] + misses[1:])
    return PrecisionRecallCurve(hits / hits[-1], precision, thresholds)


def reliability_curve(
    probability: ArrayLike,
    positive: ArrayLike,
    patients: Sequence[str] | None = None,
    bins: int = BINS,
    spacing: Literal["equal_mass", "equal_width"] = "equal_mass",
) -> ReliabilityCurve:
    """Mean probability and share of positives in bins, with Wilson's interval (clustered where needed).

    Args:
        probability: (n,) in [0, 1], n > 0.
        positive: (n,) booleans or 0/1.
        patients: (n,) patient of each case; None when each case is another patient.
        bins: Number of bins, 1 … 1,000; empty ones are left out.
        spacing: ``equal_mass`` (as ``ece``) or ``equal_width``.

    Raises:
        UsageError: Lengths differ, bins or spacing out of range.
        DatasetError: No case, a probability outside [0, 1], a truth other than 0 and 1.

    Source: Bröcker and Smith, Weather Forecast. 22:651–661 (2007).

    Example:
        >>> reliability_curve([0.1, 0.3, 0.8, 0.9], [0, 0, 1, 1], bins=2).observed.tolist()
        [0.0, 1.0]
    """
    chance, yes = chances("probability", probability), yes_no("positive", positive)
    n = same_length(probabilities=chance, truths=yes)
    if not 1 <= bins <= 1000 or spacing not in ("equal_mass", "equal_width"):
        raise UsageError("unknown bins", got=f"{bins} {spacing}", expected="1 … 1000, equal_mass | equal_width")
    if not n:
        raise DatasetError("a reliability curve needs cases", got="none")
    who = Patients.of(patients, n)
    of_bin = (equal_mass_bins if spacing == "equal_mass" else equal_width_bins)(chance, bins)
    rows = []
    for b in np.unique(of_bin):
        inside = of_bin == b
        (low, high), _ = proportion_interval(yes[inside], who.at(inside))
        rows.append((chance[inside].mean(), yes[inside].mean(), low, high, inside.sum()))
    predicted, observed, low, high, count = np.array(rows, dtype=np.float64).T
    return ReliabilityCurve(predicted, observed, low, high, count.astype(np.int64))


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, labels: Sequence[str]) -> ConfusionMatrix:
    """Counts of true against predicted class.

    Args:
        truth: (n,) class indices, 0 … C − 1.
        predicted: (n,) class indices, 0 … C − 1.
        labels: (C,) names.

    Raises:
        UsageError: Lengths differ.
        DatasetError: A class outside the range.

    Source: Stehman, Remote Sens. Environ. 62:77–89 (1997).

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], ("benign", "malignant")).counts.tolist()
        [[1, 1], [0, 1]]
    """
    width = len(labels)
    true, call = whole_numbers("truth", truth, width), whole_numbers("predicted", predicted, width)
    same_length(truths=true, predictions=call)
    counts = np.bincount(true * width + call, minlength=width * width).reshape(width, width)
    return ConfusionMatrix(counts, tuple(labels))


def decision_curve(
    probability: ArrayLike, positive: ArrayLike, thresholds: Sequence[float] | Floats | None = None
) -> DecisionCurve:
    """Net benefit of acting on the model: true positives a case, less false positives weighed by the threshold's odds.

    Args:
        probability: (n,) calibrated, in [0, 1], n > 0.
        positive: (n,) booleans or 0/1.
        thresholds: (k,) risks from which one would act, between 0 and 1; 0.01 … 0.99 when absent.

    Raises:
        UsageError: Lengths differ, a threshold that is not between 0 and 1.
        DatasetError: No case, a probability outside [0, 1], a truth other than 0 and 1.

    Source: Vickers and Elkin, Med. Decis. Making 26:565–574 (2006).

    Example:
        >>> curve = decision_curve([0.1, 0.3, 0.8, 0.9], [0, 0, 1, 1], [0.2])
        >>> curve.net_benefit.tolist(), curve.treat_all.tolist()
        ([0.4375], [0.375])
    """
    chance, yes = chances("probability", probability), yes_no("positive", positive)
    n = same_length(probabilities=chance, truths=yes)
    risk = np.arange(1, 100) / 100 if thresholds is None else numbers("thresholds", thresholds)
    if risk.size and (risk.min() <= 0 or risk.max() >= 1):
        raise UsageError("a risk to act on is between 0 and 1", got=f"{risk.min():g} … {risk.max():g}")
    if not n:
        raise DatasetError("a decision curve needs cases", got="none")
    odds = risk / (1 - risk)
    hits, alarms = _called(chance[yes], risk), _called(chance[~yes], risk)
    prevalence = float(yes.mean())
    return DecisionCurve(risk, (hits - alarms * odds) / n, prevalence - (1 - prevalence) * odds, np.zeros_like(risk))


def _called(chance: Floats, risk: Floats) -> Floats:
    """(k,) cases at or above each risk."""
    return (len(chance) - np.searchsorted(np.sort(chance), risk, side="left")).astype(np.float64)
