"""Groups of patients: the values of a column, a numeric one cut into ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import COLUMN_TYPES

FEWEST = 10  # cases below which no number is given for a group
MOST_VALUES = 20
NOT_RECORDED = "not recorded"


@dataclass(frozen=True, eq=False)
class Group:
    """Some of the cases.

    Args:
        name: ``column=value``.
        inside: (n,) which cases.
    """

    name: str
    inside: NDArray[np.bool_]


def groups_of(column: str, values: Sequence[COLUMN_TYPES]) -> tuple[list[Group], str | None]:
    """The groups of a column, and why there are none.

    A column of numbers with more than six different ones is cut at its quartiles (at its tertiles below 80 cases), and
    each range named by the smallest and the largest value in it; any
    other has a group a value. Cases without a value are a group of their own.

    Args:
        column: Its name.
        values: (n,) None where not recorded.

    Examples:
        >>> [g.name for g in groups_of("sex", ["f", "m", "f", None])[0]]
        ['sex=f', 'sex=m', 'sex=not recorded']
    """
    recorded = [v for v in values if v is not None]
    different = set(recorded)
    if len(different) < 2:
        return [], f"{column} has the same value everywhere" if different else f"{column} is not recorded"
    if len(different) > 6 and all(isinstance(v, (int, float)) for v in recorded):
        found = _ranges(column, values)
    elif len(different) > MOST_VALUES:
        return [], f"{column} has {len(different)} different values: too many for groups"
    else:
        words = np.array([_word(v) for v in values], dtype=object)
        ordered = sorted(
            different, key=lambda v: (not isinstance(v, (int, float)), v if isinstance(v, (int, float)) else 0, str(v))
        )
        found = [Group(f"{column}={_word(v)}", words == _word(v)) for v in ordered]
    absent = np.array([v is None for v in values])
    if absent.any():
        found.append(Group(f"{column}={NOT_RECORDED}", absent))
    return found, None


def _ranges(column: str, values: Sequence[COLUMN_TYPES]) -> list[Group]:
    numbers = np.array([np.nan if v is None else float(v) for v in values])
    known = numbers[~np.isnan(numbers)]
    parts = 4 if len(known) >= 80 else 3
    cuts = np.unique(np.quantile(known, np.arange(1, parts) / parts, method="inverted_cdf"))
    cuts = cuts[cuts < known.max()]
    edges = [-np.inf, *cuts.tolist(), np.inf]
    found = []
    for low, high in pairwise(edges):
        inside = (numbers > low) & (numbers <= high)
        found.append(Group(f"{column}={numbers[inside].min():g}–{numbers[inside].max():g}", inside))
    return found


def _word(value: COLUMN_TYPES) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
