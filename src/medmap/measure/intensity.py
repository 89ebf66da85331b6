"""Statistics of the image inside a structure, as the Image Biomarker Standardisation Initiative defines them.

Source: IBSI reference manual, section 3.3 (Zwanenburg et al., Radiology 295:328–338, 2020; arXiv:1612.07003).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# name → code of the IBSI reference manual
CODES: Mapping[str, str] = MappingProxyType(
    {
        "mean": "Q4LE",
        "variance": "ECT3",
        "skewness": "KE2A",
        "kurtosis": "IPH6",
        "median": "Y12H",
        "minimum": "1GSF",
        "percentile_10": "QG58",
        "percentile_90": "8DWT",
        "maximum": "84IY",
        "interquartile_range": "SALO",
        "range": "2OJQ",
        "mean_absolute_deviation": "4FUA",
        "robust_mean_absolute_deviation": "1128",
        "median_absolute_deviation": "N72L",
        "coefficient_of_variation": "7TET",
        "quartile_coefficient_of_dispersion": "9S40",
        "energy": "N8CA",
        "root_mean_square": "5ZWQ",
    }
)
_MOST_LEVELS = 1 << 16


def statistics(values: NDArray[Any]) -> dict[str, float | None]:
    """Each statistic of ``CODES`` by its name, and ``values``, how many voxels took part; None where it is undefined.

    Variance is divided by the number of voxels; kurtosis is in excess of 3; both shape numbers are 0 where all values
    are equal. The median absolute deviation is the mean distance from the median, as IBSI has it. Percentiles are
    interpolated linearly between ranks. Values that are not finite take no part.

    Args:
        values: (any number,) real numbers.
    """
    levels, counts = _levels(values)
    n = int(counts.sum())
    if not n:
        return {"values": 0, **dict.fromkeys(CODES)}
    mean = float((levels * counts).sum() / n)
    away = levels - mean
    second, third, fourth = (float((away**power * counts).sum() / n) for power in (2, 3, 4))
    flat = levels[0] == levels[-1]
    p10, p25, median, p75, p90 = _percentiles(levels, counts, (10, 25, 50, 75, 90))
    robust = (levels >= p10) & (levels <= p90)
    middle, weights = levels[robust], counts[robust]
    middle_mean = (middle * weights).sum() / weights.sum() if len(middle) else 0.0
    energy = float((levels**2 * counts).sum())
    return {
        "values": n,
        "mean": mean,
        "variance": second,
        "skewness": 0.0 if flat else third / second**1.5,
        "kurtosis": 0.0 if flat else fourth / second**2 - 3,
        "median": median,
        "minimum": float(levels[0]),
        "percentile_10": p10,
        "percentile_90": p90,
        "maximum": float(levels[-1]),
        "interquartile_range": p75 - p25,
        "range": float(levels[-1] - levels[0]),
        "mean_absolute_deviation": float((np.abs(away) * counts).sum() / n),
        "robust_mean_absolute_deviation": float((np.abs(middle - middle_mean) * weights).sum() / weights.sum())
        if len(middle)
        else None,
        "median_absolute_deviation": float((np.abs(levels - median) * counts).sum() / n),
        "coefficient_of_variation": second**0.5 / mean if mean else None,
        "quartile_coefficient_of_dispersion": (p75 - p25) / (p75 + p25) if p75 + p25 else None,
        "energy": energy,
        "root_mean_square": (energy / n) ** 0.5,
    }


def _levels(values: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
    """The values in rising order and how often each occurs; whole numbers are counted, not sorted."""
    values = np.ravel(values)
    if values.dtype.kind in "bui" and values.size:
        low, high = int(values.min()), int(values.max())
        if high - low < _MOST_LEVELS:
            counts = np.bincount(values.astype(np.int64) - low)
            present = np.flatnonzero(counts)
            return (present + low).astype(np.float64), counts[present]
    sorted_values = np.sort(values[np.isfinite(values)])
    return sorted_values.astype(np.float64), np.ones(sorted_values.size, np.int64)


def _percentiles(levels: Floats, counts: NDArray[np.int64], wanted: tuple[int, ...]) -> list[float]:
    last = np.cumsum(counts) - 1  # the rank of each level's last voxel
    ranks = np.array(wanted) / 100 * last[-1]
    low, high = (levels[np.searchsorted(last, rank)] for rank in (np.floor(ranks), np.ceil(ranks)))
    return [float(v) for v in low + (high - low) * (ranks - np.floor(ranks))]
