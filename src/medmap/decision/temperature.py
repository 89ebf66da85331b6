"""How sure the network may be: one temperature, fitted on cases it did not learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from medmap.decision.inputs import Floats, Kind, table_of, truth_of
from medmap.errors import UsageError

_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures beyond these are no calibration
_FEWEST_CASES = 10


class Temperature(NamedTuple):
    """A fitted temperature.

    ``value`` as ``Decision.temperature`` has it; ``before`` and ``after`` are the mean negative log-likelihood (nats)
    without and with it, None without a case; ``n`` counts the cases; ``reason`` says why a value stayed at 1.
    """

    value: float | tuple[float, ...]
    before: float | None
    after: float | None
    n: int
    reason: str | None = None


def apply_temperature(logits: ArrayLike, temperature: float | Sequence[float], kind: Kind) -> Floats:
    """Logits to probabilities.

    Args:
        logits: (n, C) finite; ordinal: (n, C − 1), one for each "is the grade above k?".
        temperature: > 0; multi-label: one, or one for each label.
        kind: ``binary`` and ``multiclass``: softmax; ``multilabel``: sigmoid; ``ordinal``: differences of sigmoids.

    Returns:
        (n, C) probabilities in [0, 1].

    Raises:
        UsageError: A shape or temperature that does not fit.
        DatasetError: A logit that is not finite.

    Source: Guo et al., ICML (2017); ordinal: Frank and Hall, ECML (2001).

    Example:
        >>> apply_temperature([[0.0, 2.0]], 2.0, "binary").round(3).tolist()
        [[0.269, 0.731]]
    """
    z = table_of("logits", logits, kind)
    return probabilities_of(z / warmth(temperature, z.shape[1], kind), kind)


def warmth(temperature: float | Sequence[float], width: int, kind: str) -> Floats:
    """The temperature as an array that divides (n, C) logits: () or (C,)."""
    warm = np.asarray(temperature, dtype=np.float64)
    if warm.shape not in (((), (width,)) if kind == "multilabel" else ((),)):
        raise UsageError("the temperatures do not fit the logits", got=warm.shape, expected="one, or one a label")
    if not ((warm > 0) & np.isfinite(warm)).all():
        raise UsageError("a temperature is positive", got=temperature)
    return warm


def probabilities_of(z: Floats, kind: str) -> Floats:
    """Scaled logits to (n, C) probabilities."""
    if kind in ("binary", "multiclass"):
        return np.asarray(special.softmax(z, axis=1), dtype=np.float64)
    chance = np.asarray(special.expit(z), dtype=np.float64)
    if kind == "multilabel":
        return chance
    above = np.minimum.accumulate(chance, axis=1)  # P(grade > k) cannot grow with k
    padded = np.concatenate([np.ones((len(z), 1)), above, np.zeros((len(z), 1))], axis=1)
    return np.asarray(padded[:, :-1] - padded[:, 1:], dtype=np.float64)


def _losses(z: Floats, truth: Floats, kind: str) -> Floats:
    """(n,) or, for multi-label, (known,) negative log-likelihood."""
    if kind in ("binary", "multiclass"):
        rows = np.arange(len(z))
        return np.asarray(special.logsumexp(z, axis=1) - z[rows, truth.astype(np.int64)], dtype=np.float64)
    if kind == "multilabel":
        known = ~np.isnan(truth)
        return np.asarray(np.logaddexp(0, np.where(truth == 1, -z, z)[known]), dtype=np.float64)
    chance = probabilities_of(z, kind)[np.arange(len(z)), truth.astype(np.int64)]
    return np.asarray(-np.log(np.maximum(chance, 1e-300)), dtype=np.float64)


def fit_temperature(logits: ArrayLike, truth: ArrayLike, kind: Kind) -> Temperature:
    """The temperature under which the truth is likeliest; 1 with a reason where the data cannot tell.

    The search is over its logarithm between 0.05 and 20: the likelihood of a softmax or a sigmoid has one maximum.
    Cases that are all ranked right would drive it to 0, and useless scores to infinity; both leave it at 1.

    Args:
        logits: (n, C) finite, of cases that the network did not learn from; ordinal: (n, C − 1).
        truth: (n,) class indices; multi-label: (n, C) of 0, 1 and NaN for unknown.
        kind: As ``apply_temperature``; multi-label fits one for each label.

    Raises:
        UsageError: Shapes that do not fit together.
        DatasetError: A logit that is not finite, a truth outside the classes.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML (2017).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.integers(0, 2, 2000)
        >>> honest = np.log(np.where(np.eye(2)[truth], 0.8, 0.2))
        >>> honest[rng.random(2000) < 0.2] *= -1
        >>> abs(fit_temperature(honest * 3, truth, "binary").value - 3) < 0.5
        True
    """
    z = table_of("logits", logits, kind)
    width = z.shape[1] + (kind == "ordinal")
    true = truth_of(truth, kind, len(z), width)
    if kind != "multilabel":
        value, reason = one_temperature(z, true, kind)
        return _fitted(z, true, kind, value, reason)
    values, reasons = [], []
    for c in range(width):
        value, reason = one_temperature(z[:, c : c + 1], true[:, c : c + 1], kind)
        values.append(value)
        reasons += [f"label {c}: {reason}"] if reason else []
    return _fitted(z, true, kind, tuple(values), "; ".join(reasons) or None)


def _fitted(z: Floats, true: Floats, kind: str, value: float | tuple[float, ...], reason: str | None) -> Temperature:
    if not np.isfinite(true).any():
        return Temperature(value, None, None, 0, reason)
    before, after = (float(_losses(z / t, true, kind).mean()) for t in (1.0, np.asarray(value)))
    return Temperature(value, before, after, int(_known(true).sum()), reason)


def _known(true: Floats) -> NDArray[np.bool_]:
    """(n,) cases with some truth."""
    known = np.isfinite(true)
    return np.asarray(known if true.ndim == 1 else known.any(axis=1))


def one_temperature(z: Floats, true: Floats, kind: str, shift: Floats | float = 0.0) -> tuple[float, str | None]:
    """The temperature of one softmax or one label, or 1 and why; ``shift`` is added to the scaled logits."""
    known = _known(true)
    z, true = z[known], true[known]
    if len(z) < _FEWEST_CASES:
        return 1.0, f"{len(z)} cases are too few"
    if len(np.unique(true)) < 2:
        return 1.0, "all cases are of one class"
    if np.ptp(z, axis=1 if kind in ("binary", "multiclass") else 0).max() == 0:
        return 1.0, "the scores do not differ"

    from scipy import optimize  # heavy, and not needed to decide

    def loss(log_temperature: float) -> float:
        return float(_losses(z / math.exp(log_temperature) + shift, true, kind).mean())

    ends = math.log(_COLDEST), math.log(_HOTTEST)
    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6})
    best = float(found.x)
    if not found.success or not math.isfinite(float(found.fun)):
        return 1.0, "the search did not end"
    if loss(ends[0]) <= float(found.fun) + 1e-12:  # all right: colder is never worse
        return 1.0, "the scores separate these cases too well to say how sure they should be"
    if loss(ends[1]) <= float(found.fun) + 1e-12:
        return 1.0, "the scores say nothing about these cases"
    return (math.exp(best), None) if loss(best) <= loss(0.0) else (1.0, None)
