"""From images to the breast, the eye, the patient; and from one prevalence to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medmap.errors import DatasetError, UsageError
from medmap.metrics.inputs import ROUNDING, Floats

How = Literal["mean", "max", "noisy_or"]


@dataclass(frozen=True, eq=False)
class Aggregated:
    """One row a group.

    Args:
        groups: (g,) names, in the order of their first case.
        probabilities: (g, C).
        sizes: (g,) cases of each group.
    """

    groups: tuple[str, ...]
    probabilities: Floats
    sizes: tuple[int, ...]


class PredictiveValues(NamedTuple):
    """PPV and NPV; None where nothing would be called positive, or negative."""

    ppv: float | None
    npv: float | None


def aggregate(
    probabilities: ArrayLike, groups: Sequence[str], how: How = "mean", *, positive: int | None = None
) -> Aggregated:
    """Probabilities of several images put together: of one breast, one eye, one patient.

    ``mean`` keeps the rows of exclusive classes summing to one. ``max`` and ``noisy_or`` (one finding suffices, images
    err independently) speak of findings: give ``positive`` for a binary table, and the other column becomes the
    complement. The truth of a group is its ``max`` likewise.

    Args:
        probabilities: (n, C), each in [0, 1].
        groups: (n,) the group of each row.
        how: ``mean``, ``max`` or ``noisy_or``.
        positive: Column of the finding in a table of two exclusive classes.

    Raises:
        UsageError: Not one group a row, an unknown ``how``, a positive column without two columns.
        DatasetError: A probability that is NaN or outside [0, 1].

    Source: noisy-or: Pearl, Probabilistic Reasoning in Intelligent Systems (1988), section 4.3.2.

    Example:
        >>> found = aggregate([[0.8, 0.2], [0.5, 0.5], [0.9, 0.1]], ["a", "a", "b"], "noisy_or", positive=1)
        >>> found.groups, found.probabilities.round(3).tolist()
        (('a', 'b'), [[0.4, 0.6], [0.9, 0.1]])
    """
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(groups):
        raise UsageError("every row of probabilities needs its group", got=f"{table.shape}, {len(groups)} groups")
    if how not in ("mean", "max", "noisy_or"):
        raise UsageError("unknown way of putting images together", got=how, expected="mean | max | noisy_or")
    if positive is not None and (table.shape[1] != 2 or positive not in (0, 1)):
        raise UsageError("a positive column needs two columns", got=f"{table.shape[1]} columns, positive {positive}")
    if not ((table >= -ROUNDING) & (table <= 1 + ROUNDING)).all():
        raise DatasetError("probabilities are not all in [0, 1]", remedy="give probabilities, not logits")
    table = np.clip(table, 0, 1)
    if not len(table):
        return Aggregated((), table, ())
    names, first, codes = np.unique(np.asarray(groups, dtype=np.str_), return_index=True, return_inverse=True)
    place = np.empty(len(names), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(names))
    codes = place[codes.reshape(-1)]
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = table[order]
    if how == "mean":
        # division may leave the last digit outside the range
        together = np.clip(np.add.reduceat(rows, starts, axis=0) / sizes[:, None], 0, 1)
    elif how == "max":
        together = np.maximum.reduceat(rows, starts, axis=0)
    else:
        together = 1 - np.multiply.reduceat(1 - rows, starts, axis=0)
    if positive is not None:
        together[:, 1 - positive] = 1 - together[:, positive]
    ordered = tuple(str(name) for name in names[np.argsort(place)])
    return Aggregated(ordered, together, tuple(int(size) for size in sizes))


def prevalence_adjusted_ppv_npv(sensitivity: float, specificity: float, prevalence: float) -> PredictiveValues:
    """PPV and NPV where the disease is as common as ``prevalence``, by Bayes' rule.

    Args:
        sensitivity: In [0, 1].
        specificity: In [0, 1].
        prevalence: In [0, 1].

    Raises:
        UsageError: A number outside [0, 1].

    Source: Altman and Bland, BMJ 309:102 (1994).

    Example:
        >>> values = prevalence_adjusted_ppv_npv(0.9, 0.9, 0.01)
        >>> round(values.ppv, 4), round(values.npv, 4)
        (0.0833, 0.9989)
    """
    given = {"sensitivity": sensitivity, "specificity": specificity, "prevalence": prevalence}
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name} is outside [0, 1]", got=value)
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    quiet, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return PredictiveValues(
        hits / (hits + alarms) if hits + alarms > 0 else None,
        quiet / (quiet + missed) if quiet + missed > 0 else None,
    )
