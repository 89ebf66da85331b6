"""95 % intervals: Wilson for proportions, plain and clustered, and the bootstrap over patients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medmap.errors import UsageError
from medmap.metrics.estimate import Estimate, undefined
from medmap.metrics.inputs import Bools, Floats, Patients

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
Interval = tuple[float, float]

_CHUNK_CELLS = 2_000_000  # weights held at once: 8 MB, stays near the processor
_MOST_CELLS = 500_000_000  # weights looked at in one bootstrap: seconds, not minutes
_FEWEST_REPLICATES = 200


def wilson(successes: float, n: float) -> Interval:
    """Wilson's 95 % score interval of a proportion.

    Args:
        successes: How often it happened, 0 … n; a fraction where n is an effective number.
        n: How often it could have happened, ≥ 0; 0 says nothing, so the interval is [0, 1].

    Raises:
        UsageError: Negative, or more successes than tries.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22:209–212 (1927).

    Examples:
        >>> [round(x, 3) for x in wilson(9, 10)]
        [0.596, 0.982]
    """
    if not 0 <= successes <= n * (1 + 1e-12) or not math.isfinite(n):
        raise UsageError("a proportion needs 0 ≤ successes ≤ n", got=f"{successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    p = min(successes / n, 1.0)
    centre = p + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    # at the ends the formula gives the estimate itself, up to rounding
    low = 0.0 if p == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if p == 1 else min(1.0, (centre + half) / scale)
    return min(low, p), max(high, p)


@lru_cache(maxsize=4096)
def student(degrees: int) -> float:
    """97.5 % quantile of Student's distribution."""
    return float(special.stdtrit(degrees, 0.975))


def effective_n(hits: Floats, sizes: Floats) -> float:
    """How many independent cases a proportion from clustered ones is worth.

    n divided by the design effect of the ratio estimate (never below 1), and by the squared ratio of Student quantiles
    for the few patients there are. Where every patient agrees, the number of patients.

    Args:
        hits: (patients,) successes of each patient.
        sizes: (patients,) tries of each patient, each > 0.

    Source: Korn and Graubard, Survey Methodology 24:193–201 (1998); with the score interval: Dean and Pagano,
    J. Surv. Stat. Methodol. 3:484–503 (2015).
    """
    patients, n = len(sizes), float(sizes.sum())
    p = float(hits.sum()) / n
    if patients < 2:
        return 1.0
    if p in (0.0, 1.0):
        return float(patients)
    variance = patients / (patients - 1) * float(((hits - p * sizes) ** 2).sum()) / n**2
    effect = max(1.0, variance / (p * (1 - p) / n))
    return max(1.0, n / effect * (student(max(round(n) - 1, 1)) / student(patients - 1)) ** 2)


def proportion_interval(hits: Bools | Floats, patients: Patients) -> tuple[Interval, str]:
    """95 % interval of the mean of ``hits`` (n,), n > 0, and its method."""
    if not patients.clustered:
        return wilson(float(hits.sum()), len(hits)), "Wilson"
    sizes = patients.sizes()
    there = sizes > 0
    worth = effective_n(patients.totals(hits)[there], sizes[there].astype(np.float64))
    return wilson(float(hits.mean()) * worth, worth), "Wilson clustered (Korn-Graubard)"


def proportion(name: str, hits: Bools, patients: Patients, empty: str) -> Estimate:
    """The share of ``hits`` (n,) that are true, with Wilson's interval; ``empty`` is the reason when n is 0."""
    if not len(hits):
        return undefined(name, 0, empty)
    value = float(hits.mean())
    (low, high), method = proportion_interval(hits, patients)
    return Estimate(name, value, min(low, value), max(high, value), len(hits), method)


@dataclass(frozen=True)
class Bootstrap:
    """How often, and from which seed, patients are drawn again.

    Args:
        replicates: Draws, 100 … 100,000. Above 500 million drawn cases there are fewer, at least 200; the number
            done stands in ``Estimate.method``.
        seed: The same seed gives the same interval.

    Raises:
        UsageError: A number out of range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993); whole patients are drawn: Field and Welsh,
    J. R. Stat. Soc. B 69:369–390 (2007).

    Example:
        >>> Bootstrap(500).method
        'bootstrap over patients (500)'
    """

    replicates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 100 <= self.replicates <= 100_000:
            raise UsageError(
                "the bootstrap's replicates are out of range", got=self.replicates, expected="100 … 100000"
            )
        if self.seed < 0:
            raise UsageError("a seed is not negative", got=self.seed)

    @property
    def method(self) -> str:
        """The name that stands beside an interval."""
        return f"bootstrap over patients ({self.replicates})"

    def affordable(self, cells: int) -> Bootstrap:
        """Fewer replicates where one of them looks at very many cases (``cells``)."""
        most = max(_FEWEST_REPLICATES, _MOST_CELLS // max(cells, 1))
        return self if self.replicates <= most else Bootstrap(most, self.seed)

    def weights(self, patients: int, width: int | None = None) -> Iterator[NDArray[np.float32]]:
        """How often each patient was drawn, (replicates of this chunk, patients), until all replicates are done.

        Args:
            patients: Number of patients.
            width: Largest number of cases that one replicate is spread over; bounds the memory.
        """
        rng = np.random.default_rng(self.seed)
        chunk = max(1, _CHUNK_CELLS // max(patients, width or 1, 1))
        for start in range(0, self.replicates, chunk):
            rows = min(chunk, self.replicates - start)
            drawn = rng.integers(0, patients, size=(rows, patients))
            drawn += np.arange(rows)[:, None] * patients
            counts = np.bincount(drawn.ravel(), minlength=rows * patients)
            yield counts.reshape(rows, patients).astype(np.float32)

    def sums(self, totals: Floats) -> Floats:
        """(replicates, k): the columns of ``totals`` (patients, k) summed over each draw."""
        return np.concatenate([weights @ totals for weights in self.weights(len(totals))])


def replicate_interval(value: float, replicates: Floats, *, bias_corrected: bool = False) -> Interval | None:
    """95 % interval from bootstrap replicates, widened to hold the value where it stands outside.

    Args:
        value: The estimate.
        replicates: (replicates,) of it; NaN where a draw could not define it.
        bias_corrected: Shift the percentiles by the share of replicates below the value (Efron 1987, without
            acceleration): for a value that each resampling pushes up, as a calibration error.

    Returns:
        None where the replicates say nothing: all alike, or most of them undefined.
    """
    known = replicates[np.isfinite(replicates)]
    if known.size < max(2, replicates.size / 2) or np.ptp(known) <= 1e-12 * max(1.0, abs(value)):
        return None
    levels = [0.025, 0.975]
    if bias_corrected:
        below = float(np.mean(known < value) + np.mean(known == value) / 2)
        shift = 2 * float(special.ndtri(np.clip(below, 1 / (known.size + 1), known.size / (known.size + 1))))
        levels = [float(special.ndtr(shift - Z95)), float(special.ndtr(shift + Z95))]
    low, high = np.quantile(known, levels)
    return min(float(low), value), max(float(high), value)


def bounded_estimate(
    name: str, value: float, replicates: Floats, n: int, bootstrap: Bootstrap, fallback: tuple[Interval, str]
) -> Estimate:
    """An estimate with its bootstrap interval, or with ``fallback`` (interval, method) where the draws say nothing."""
    corrected = name == "ece"
    interval = replicate_interval(value, replicates, bias_corrected=corrected)
    method = bootstrap.method + (", bias-corrected" if corrected else "")
    if interval is None:
        interval, method = fallback
    return Estimate(name, value, min(interval[0], value), max(interval[1], value), n, method)


def bounded_mean_fallback(value: float, patients: int) -> tuple[Interval, str]:
    """For a mean of values in [0, 1] that no resampling moves: their variance is at most a proportion's, so Wilson's
    interval over patients is on the safe side.
    """
    return wilson(min(max(value, 0.0), 1.0) * patients, patients), "Wilson over patients (nothing to resample)"


def drawn_patients(patients: Patients) -> int:
    """Patients with at least one case."""
    return int((patients.sizes() > 0).sum())
