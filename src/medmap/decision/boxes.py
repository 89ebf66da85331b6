"""What a box's score means, and from which score on a box is called."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
FEWEST = 10  # boxes that are findings, and that are none, from which on scores are calibrated
WARMEST = 20.0
_EDGE = 1e-6


class BoxCalibration(NamedTuple):
    """How a class's scores become probabilities: ``temperature`` and ``shift`` of their logits, as ``Decision`` has
    them in ``temperature`` and ``prior_shift``; ``reason`` where the scores stay as they are.
    """

    temperature: float = 1.0
    shift: float = 0.0
    reason: str | None = None


def fit_box_calibration(scores: ArrayLike, real: ArrayLike) -> BoxCalibration:
    """The line through the logits of scores under which it is likeliest which boxes are findings.

    Args:
        scores: (n,) in 0…1, of boxes that the networks found in cases they did not learn from.
        real: (n,) whether each is a finding.

    Source: Platt 1999, Probabilistic outputs for support vector machines, with its targets drawn in from 0 and 1;
    a line that falls is refused.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> chance = rng.random(4000)
        >>> real = rng.random(4000) < chance
        >>> timid = special.expit(special.logit(chance) / 2 - 1)
        >>> found = fit_box_calibration(timid, real)
        >>> round(found.temperature, 1), round(found.shift, 1)
        (0.5, 2.0)
    """
    from scipy import optimize

    z = _logits(scores)
    truth = np.asarray(real, dtype=np.bool_)
    yes, no = int(truth.sum()), int((~truth).sum())
    if min(yes, no) < FEWEST:
        return BoxCalibration(reason=f"{yes} boxes on findings and {no} beside them are too few")
    target = np.where(truth, (yes + 1) / (yes + 2), 1 / (no + 2))

    def loss(values: Floats) -> tuple[float, Floats]:
        line = values[0] * z + values[1]
        residual = special.expit(line) - target
        return float((np.logaddexp(0, line) - target * line).sum()), np.array([(residual * z).sum(), residual.sum()])

    bounds = [(1 / WARMEST, WARMEST), (-20.0, 20.0)]
    found = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds)
    if found.x[0] <= 1 / WARMEST + 1e-9:
        return BoxCalibration(reason="surer boxes are not findings more often")
    return BoxCalibration(float(1 / found.x[0]), float(found.x[1]))


def box_chances(scores: ArrayLike, temperature: ArrayLike, shift: ArrayLike) -> Floats:
    """Scores as the probability that a box is a finding.

    Args:
        scores: (n,) in 0…1.
        temperature, shift: Of each box's class, (n,) or one number.
    """
    return np.asarray(special.expit(_logits(scores) / np.asarray(temperature) + np.asarray(shift)), dtype=np.float64)


def fit_box_threshold(hits: ArrayLike, alarms: ArrayLike, findings: int) -> float:
    """The score from which on boxes are called, where F1 is largest; 0.5 where nothing was hit.

    Every score between the last box that is called and the next one below it gives that F1: the middle is taken, so
    that networks which are a little less sure of a new case still call it.

    Args:
        hits: Scores of the boxes that found a finding, one a finding.
        alarms: Scores of the boxes that found none.
        findings: How many there were to find.

    Example:
        >>> fit_box_threshold([0.9, 0.8, 0.3], [0.4, 0.2], 3)
        0.25
    """
    right, wrong = np.sort(np.asarray(hits, dtype=np.float64))[::-1], np.sort(np.asarray(alarms, dtype=np.float64))
    if not len(right):
        return 0.5
    above = len(wrong) - np.searchsorted(wrong, right, side="left")
    best = int(np.argmax(2 * np.arange(1, len(right) + 1) / (np.arange(1, len(right) + 1) + above + findings)))
    last = float(right[best])
    below = [float(part[part < last].max()) for part in (right, wrong) if (part < last).any()]
    return (last + max(below, default=0.0)) / 2


def _logits(scores: ArrayLike) -> Floats:
    return np.asarray(special.logit(np.clip(np.asarray(scores, dtype=np.float64), _EDGE, 1 - _EDGE)), dtype=np.float64)
