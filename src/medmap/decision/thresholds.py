"""From which probability a class is called: fitted to a stated target."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medmap.decision.inputs import Bools, Floats, Kind, table_of, truth_of
from medmap.decision.value import Target, parse_target
from medmap.errors import UsageError


class Thresholds(NamedTuple):
    """Fitted thresholds.

    ``values`` (C,) in [0, 1]; ``sensitivity`` and ``specificity`` (C,) that each class reaches on the cases of the fit,
    None where a class is missing; ``reason`` says why a threshold stayed at 0.5, or what it could not reach.
    """

    values: tuple[float, ...]
    sensitivity: tuple[float | None, ...]
    specificity: tuple[float | None, ...]
    target: str
    reason: str | None = None


def fit_thresholds(
    probabilities: ArrayLike,
    truth: ArrayLike,
    kind: Kind,
    target: str,
    *,
    positive: int | None = None,
    prevalence: float | None = None,
) -> Thresholds:
    """The probability from which each class is called, to reach a target on these cases.

    Candidates lie midway between neighbouring scores (and midway to 0 and to 1), so that no case stands on one. Of
    equally good ones, the widest gap wins. ``sensitivity>=x`` takes the highest threshold that reaches x, and
    ``specificity>=x`` the lowest; ``net_benefit@t`` the best for someone who acts from risk t on.

    Args:
        probabilities: (n, C), calibrated, in [0, 1].
        truth: (n,) class indices; multi-label: (n, C) of 0, 1 and NaN for unknown.
        kind: ``binary``: one threshold t for the positive class and 1 − t for the other; otherwise each class against
            the rest.
        target: As ``parse_target``; ``largest_score`` gives 0.5.
        positive: Column of the positive class; needed for ``binary``.
        prevalence: Share of positives where it will be used, between 0 and 1, for ``f1`` and ``net_benefit``; with
            ``binary`` only. None: that of these cases.

    Raises:
        UsageError: Shapes that do not fit together, an unknown target, no positive class for binary.
        DatasetError: A probability outside [0, 1], a truth outside the classes.

    Source: Youden, Cancer 3:32–35 (1950); net benefit: Vickers and Elkin, Med. Decis. Making 26:565–574 (2006).

    Examples:
        >>> p = [[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]]
        >>> [round(t, 3) for t in fit_thresholds(p, [0, 0, 1, 1], "binary", "youden", positive=1).values]
        [0.55, 0.45]
    """
    table = table_of("probabilities", probabilities, kind, chances=True)
    goal = parse_target(target)
    width = table.shape[1]
    true = truth_of(truth, kind, len(table), width)
    if (kind == "binary") != (positive in (0, 1)) or (kind != "binary" and positive is not None):
        raise UsageError("which class is positive belongs to binary, and only there", got=f"{kind}, {positive}")
    if prevalence is not None and (kind != "binary" or not 0 < prevalence < 1):
        raise UsageError("a prevalence is between 0 and 1 and of one positive class", got=f"{prevalence} for {kind}")
    columns = range(width) if positive is None else [positive]
    found, reasons = {}, []
    for c in columns:
        known = ~np.isnan(true[:, c]) if kind == "multilabel" else np.ones(len(table), dtype=np.bool_)
        yes = true[known, c] == 1 if kind == "multilabel" else true == c
        found[c], reason = _one_threshold(table[known, c], yes, goal, prevalence)
        reasons += [f"class {c}: {reason}"] if reason else []
    if positive is not None:
        t, sensitivity, specificity = found[positive]
        found[1 - positive] = (1 - t, specificity, sensitivity)
    values, sensitivities, specificities = zip(*(found[c] for c in range(width)), strict=True)
    return Thresholds(values, sensitivities, specificities, target, "; ".join(reasons) or None)


def _one_threshold(
    chance: Floats, yes: Bools, goal: Target, prevalence: float | None
) -> tuple[tuple[float, float | None, float | None], str | None]:
    """(threshold, sensitivity, specificity) and what stood in the way."""
    positives, negatives = int(yes.sum()), int((~yes).sum())
    if not positives or not negatives:
        called = chance >= 0.5
        hit = float(called.mean()) if positives else None
        clear = float((~called).mean()) if negatives else None
        missing = "no case" if not len(yes) else "no positive case" if not positives else "no negative case"
        return (0.5, hit, clear), missing
    thresholds, gaps, hits, alarms = _candidates(chance, yes)
    sensitivity, specificity = hits / positives, 1 - alarms / negatives
    chosen, reason = 0, None
    if goal.name == "largest_score":
        called = chance >= 0.5
        return (0.5, float(called[yes].mean()), float((~called[~yes]).mean())), None
    if goal.name in ("sensitivity", "specificity"):
        wanted, reached = goal.value or 0.0, sensitivity if goal.name == "sensitivity" else specificity
        good = np.flatnonzero(reached >= wanted - 1e-12)
        if len(good):
            # candidates fall: the first that finds enough is the most specific, the last that spares enough the most
            # sensitive; of those that cost nothing more, the widest gap
            other = specificity if goal.name == "sensitivity" else sensitivity
            good = good[other[good] == other[good].max()]
            chosen = int(good[gaps[good].argmax()])
        else:
            chosen = int(reached.argmax())
            reason = f"{goal.name} reaches {reached.max():.3g} only"
    else:
        gain = _gain(sensitivity, 1 - specificity, goal, positives / len(yes) if prevalence is None else prevalence)
        best = np.flatnonzero(gain >= gain.max() - 1e-12)
        chosen = int(best[gaps[best].argmax()])
    return (float(thresholds[chosen]), float(sensitivity[chosen]), float(specificity[chosen])), reason


def _gain(sensitivity: Floats, false_positive_rate: Floats, goal: Target, prevalence: float) -> Floats:
    if goal.name == "youden":
        return sensitivity - false_positive_rate
    hits, alarms = prevalence * sensitivity, (1 - prevalence) * false_positive_rate
    if goal.name == "f1":
        return 2 * hits / (hits + alarms + prevalence)
    risk = goal.value or 0.0
    return hits - alarms * risk / (1 - risk)


def _candidates(chance: Floats, yes: Bools) -> tuple[Floats, Floats, Floats, Floats]:
    """Thresholds from the highest, the gap each lies in, and the positives and negatives at or above it.

    A score of exactly 1 leaves no room to call nothing, and one of 0 gives the threshold 0.
    """
    order = np.argsort(-chance, kind="stable")
    scores, hit = chance[order], yes[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    distinct = scores[last]
    hits = np.append(0, np.cumsum(hit)[last]).astype(np.float64)
    alarms = np.append(0, last + 1) - hits
    upper, lower = np.append(1.0, distinct), np.append(distinct, 0.0)
    middle, gaps = (upper + lower) / 2, upper - lower
    # scores closer than numbers can tell apart have no middle
    usable = (middle > lower) | ((lower == 0) & (np.arange(len(middle)) == len(middle) - 1))
    usable[0] &= distinct[0] < 1
    return middle[usable], gaps[usable], hits[usable], alarms[usable]
