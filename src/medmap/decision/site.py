"""A decision taken to another site: other priors, another temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from medmap.decision.answer import calibrated, shift_of
from medmap.decision.inputs import Floats, Kind, table_of, truth_of
from medmap.decision.temperature import one_temperature
from medmap.decision.thresholds import fit_thresholds
from medmap.decision.value import Decision, parse_target
from medmap.errors import DatasetError, UsageError


class Recalibrated(NamedTuple):
    """A decision for a site.

    ``decision`` is the new one; ``priors`` (C,) how common each class is there; ``reason`` says what could not be
    fitted and stayed as it was.
    """

    decision: Decision
    priors: tuple[float, ...]
    reason: str | None = None


def recalibrate(
    logits: ArrayLike,
    decision: Decision,
    kind: Kind,
    *,
    priors: Sequence[float],
    truth: ArrayLike | None = None,
) -> Recalibrated:
    """Fit a decision to a site's own cases: how common the classes are there, and, with their truth, how sure to be.

    With truth, the site's priors are its label counts (one added to each class), then the temperature is fitted under
    them, and the thresholds again for the decision's target. Without truth, expectation maximisation finds the priors
    that agree with the scores; the temperature stays, and each threshold moves with its class's odds, so that the same
    cases are called: exactly for binary and multi-label, nearly for several classes. (``net_benefit@t`` and
    ``largest_score`` keep theirs: they do not depend on the prior.) Without truth this holds only where the
    images of each class look as they did, and only their mix has changed.

    Args:
        logits: (n, C) finite, of the site's cases.
        decision: The bundle's.
        kind: ``binary``, ``multiclass`` or ``multilabel``.
        priors: (C,) how common each class was where the decision, as it stands, was fitted, each between 0 and 1;
            of a decision that was recalibrated before: its ``Recalibrated.priors``.
        truth: As ``fit_temperature``; None when the site has no labels.

    Raises:
        UsageError: Shapes that do not fit together, priors out of range, ordinal, no positive class for binary.
        DatasetError: No case, a logit that is not finite, a truth outside the classes.

    Source: Saerens, Latinne and Decaestecker, Neural Comput. 14:21–41 (2002); Guo et al. (2017).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> truth = (rng.random(4000) < 0.1).astype(int)
        >>> score = rng.normal(3 * truth - 1.5, 1)  # equal priors: log odds = 3 * score
        >>> z = np.stack([0 * score, 3 * score], axis=1)
        >>> site = recalibrate(z, Decision(positive=1), "binary", priors=(0.5, 0.5))
        >>> abs(site.priors[1] - 0.1) < 0.02
        True
    """
    z = table_of("logits", logits, kind)
    width = z.shape[1]
    if kind == "ordinal":
        raise UsageError("grades cannot be recalibrated by their priors", got=kind)
    if kind == "binary" and decision.positive is None:
        raise UsageError("the decision does not name its positive class", expected="positive 0 or 1")
    if not len(z):
        raise DatasetError("recalibration needs cases", got="none")
    old = np.asarray(priors, dtype=np.float64)
    if old.shape != (width,) or not ((old > 0) & (old < 1)).all():
        raise UsageError("priors are one a class, between 0 and 1", got=list(priors), expected=f"{width} numbers")
    if kind != "multilabel":
        if abs(old.sum() - 1) > 1e-3:
            raise UsageError("priors of exclusive classes sum to one", got=f"{old.sum():g}")
        old = old / old.sum()
    if truth is None:
        new = _saerens(calibrated(z, decision, kind), old, kind)
        moved = _with_priors(decision, old, new, kind, len(z))
        moved = moved.with_(thresholds=_moved_thresholds(decision, old, new))
        return Recalibrated(moved, tuple(new.tolist()))
    return _with_truth(z, truth_of(truth, kind, len(z), width), decision, kind, old)


def _with_truth(z: Floats, true: Floats, decision: Decision, kind: Kind, old: Floats) -> Recalibrated:
    width = z.shape[1]
    if kind == "multilabel":
        new = (np.nansum(true, axis=0) + 1) / ((~np.isnan(true)).sum(axis=0) + 2)
    else:
        counts = np.bincount(true.astype(np.int64), minlength=width) + 1.0
        new = counts / counts.sum()
    moved = _with_priors(decision, old, new, kind, len(z))
    shift = shift_of(moved, width)
    reasons = []
    before = np.broadcast_to(np.asarray(decision.temperature), (width,))
    temperature: float | tuple[float, ...]
    if kind == "multilabel":
        each = []
        for c in range(width):
            value, reason = one_temperature(z[:, c : c + 1], true[:, c : c + 1], kind, shift[c])
            each.append(float(before[c]) if reason else value)
            reasons += [f"temperature of label {c}: {reason}"] if reason else []
        temperature = tuple(each)
    else:
        temperature, reason = one_temperature(z, true, kind, shift)
        if reason:
            temperature = float(before[0])
            reasons.append(f"temperature: {reason}")
    moved = moved.with_(temperature=temperature)
    chance = calibrated(z, moved, kind)
    fitted = fit_thresholds(chance, true, kind, decision.target, positive=decision.positive)
    values = fitted.values
    if fitted.reason:
        reasons.append(f"thresholds: {fitted.reason}")
        stay = _moved_thresholds(decision, old, new) or values
        known = [s is not None and t is not None for s, t in zip(fitted.sensitivity, fitted.specificity, strict=True)]
        values = tuple(v if k else s for v, k, s in zip(values, known, stay, strict=True))
    return Recalibrated(moved.with_(thresholds=values), tuple(new.tolist()), "; ".join(reasons) or None)


def _with_priors(decision: Decision, old: Floats, new: Floats, kind: str, cases: int) -> Decision:
    """The decision for other priors: a softmax's logits move by their log ratio, a sigmoid's by the log odds ratio.

    A shift that the decision already has stays in: the old priors are those that it is honest for with it.
    """
    move = special.logit(new) - special.logit(old) if kind == "multilabel" else np.log(new) - np.log(old)
    return decision.with_(
        prior_shift=tuple((shift_of(decision, len(old)) + move).tolist()),
        prevalence=decision.prevalence if decision.positive is None else float(new[decision.positive]),
        fitted_on={**decision.fitted_on, "priors": new.tolist(), "recalibrated_n": cases},
    )


def _moved_thresholds(decision: Decision, old: Floats, new: Floats) -> tuple[float, ...]:
    """The thresholds after a change of priors, each against the rest."""
    if not decision.thresholds or parse_target(decision.target).name in ("net_benefit", "largest_score"):
        return decision.thresholds
    if len(decision.thresholds) != len(old):
        raise UsageError("thresholds and logits do not fit", got=len(decision.thresholds), expected=len(old))
    move = special.logit(new) - special.logit(old)
    with np.errstate(divide="ignore"):
        return tuple(float(t) for t in special.expit(special.logit(np.array(decision.thresholds)) + move))


def _saerens(chance: Floats, old: Floats, kind: str, rounds: int = 1000) -> Floats:
    """(C,) priors that agree with the scores, by expectation maximisation; kept off 0 and 1."""
    tiny = 0.5 / len(chance)
    if kind == "multilabel":
        pairs = [np.stack([1 - chance[:, c], chance[:, c]], axis=1) for c in range(chance.shape[1])]
        found = [_saerens(pair, np.array([1 - p, p]), "binary", rounds)[1] for pair, p in zip(pairs, old, strict=True)]
        return np.array(found)
    new = old.copy()
    for _ in range(rounds):
        weighed = chance * (new / old)
        posterior = weighed / np.maximum(weighed.sum(axis=1, keepdims=True), 1e-300)
        last, new = new, posterior.mean(axis=0)
        if np.abs(new - last).max() < 1e-9:
            break
    new = np.maximum(new, tiny)
    return np.asarray(new / new.sum(), dtype=np.float64)
