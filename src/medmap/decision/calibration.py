"""How sure, and how often: a temperature and class offsets fitted together on cases the network did not learn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medmap.decision.inputs import Floats, Kind, table_of, truth_of
from medmap.decision.temperature import fit_temperature

# The offsets' prior: a class is rarely called more than half a unit of log odds too often or too seldom. With few cases
# it keeps them near zero; with many the data decides.
OFFSET_DEVIATION = 0.5


class Calibration(NamedTuple):
    """A fitted calibration: ``temperature`` as in ``Decision``, ``offsets`` (C,) its ``prior_shift`` or None, and the
    ``reason`` where something stayed as it was.
    """

    temperature: float | tuple[float, ...]
    offsets: tuple[float, ...] | None
    reason: str | None = None


def fit_calibration(logits: ArrayLike, truth: ArrayLike, kind: Kind) -> Calibration:
    """The temperature and, for classes that exclude each other, the offsets under which the truth is likeliest.

    A temperature alone never changes which class scores highest. Networks trained with smoothing and augmentation call
    the common class too seldom or too often; an offset a class puts that right (Guo et al. 2017, vector scaling with
    one scale; the offsets have a Gaussian prior of deviation 0.5 around zero).

    Args:
        logits: (n, C) finite; ordinal: (n, C − 1).
        truth: (n,) class indices; multi-label: (n, C) of 0, 1 and NaN for unknown.
        kind: ``binary``, ``multiclass``, ``multilabel`` or ``ordinal``; only the first two have offsets.

    Raises:
        UsageError: Shapes that do not fit together.
        DatasetError: A logit that is not finite, a truth outside the classes.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = (rng.random(4000) < 0.8).astype(int)
        >>> z = np.stack([np.zeros(4000), rng.normal(truth * 2.0 - 1.0)], axis=1)  # honest at a prevalence of one half
        >>> offsets = fit_calibration(z, truth, "binary").offsets
        >>> 1.0 < offsets[1] - offsets[0] < 1.6  # log(0.8 / 0.2) = 1.39, less the prior's pull
        True
    """
    from scipy import optimize, special

    plain = fit_temperature(logits, truth, kind)
    if kind not in ("binary", "multiclass") or plain.reason is not None:
        return Calibration(plain.value, None, plain.reason)
    z = table_of("logits", logits, kind)
    classes = truth_of(truth, kind, len(z), z.shape[1]).astype(np.int64)
    width = z.shape[1]
    if len(np.unique(classes)) < width:
        return Calibration(plain.value, None, "a class without a case has no offset")

    def loss(values: Floats) -> tuple[float, Floats]:
        scaled = z * np.exp(-values[0])
        total = scaled + values[1:]
        log_norm = special.logsumexp(total, axis=1)
        pull = values[1:] / OFFSET_DEVIATION**2
        nll = float((log_norm - total[np.arange(len(z)), classes]).sum() + 0.5 * (pull * values[1:]).sum())
        residual = np.exp(total - log_norm[:, None])
        residual[np.arange(len(z)), classes] -= 1
        slope = np.concatenate([[-(residual * scaled).sum()], residual.sum(0) + pull])
        return nll, slope

    start = np.concatenate([[np.log(float(np.asarray(plain.value)))], np.zeros(width)])
    bounds = [(np.log(0.05), np.log(20.0)), *[(-5.0, 5.0)] * width]
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    offsets = found.x[1:] - found.x[1:].mean()
    return Calibration(float(np.exp(found.x[0])), tuple(float(v) for v in offsets))
