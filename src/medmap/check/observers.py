"""Where several people drew the same case: how well they agree, which is as well as a network can be judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.issue import Issue
from medmap.check.masks import MOST_VALUES, related
from medmap.dataset import Dataset
from medmap.errors import counted
from medmap.image import Image

if TYPE_CHECKING:
    from medmap.check.facts import Facts

STRUCTURES_TOLD = 4
FEW_TOLD = 20  # structures and cases whose agreement is kept


def agreement(first: Image, other: Image) -> Mapping[int, float]:
    """Dice of each value (Dice 1945) between two masks of one image; empty where they do not lie on one grid.

    Values that neither mask holds are left out: that nobody saw a structure says nothing of how it is drawn.

    Args:
        first, other: Masks of one channel with whole numbers.
    """
    relation, _ = related(other.geometry, first.geometry)
    if relation not in ("same", "exact") or len(first.channels) > 1 or len(other.channels) > 1:
        return {}
    placed = other if relation == "same" else other.match(first.geometry)
    one, two = first.channels_first()[0], placed.channels_first()[0]
    counts = _counts(one), _counts(two), _counts(one[one == two])
    values = sorted(set(counts[0]) | set(counts[1]))
    if len(values) > MOST_VALUES:
        return {}
    return {v: 2 * counts[2].get(v, 0) / (counts[0].get(v, 0) + counts[1].get(v, 0)) for v in values}


def _counts(labels: NDArray[Any]) -> dict[int, int]:
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def several_observers(facts: Facts) -> Iterator[Issue]:
    """Cases that more than one person drew, those first in which the first two agree least."""
    twice = [case for case in facts.dataset if len(case.truth.masks) > 1]
    if not twice:
        return
    by_value: dict[int, dict[str, float]] = defaultdict(dict)
    for mask in facts.masks:
        if mask.observer == 1:
            for value, dice in mask.agreement.items():
                if value != facts.dataset.ignore:
                    by_value[value][mask.case] = dice
    rows = [_row(facts.dataset, value, found) for value, found in sorted(by_value.items())]
    least = _least(by_value)
    yield Issue(
        "several_observers",
        "info",
        f"{counted(len(twice), 'case')} of {len(facts.dataset):,} {'has' if len(twice) == 1 else 'have'} masks of a "
        f"second observer{_told(rows)}",
        "Training and judging go by the first observer. A network that agrees with it as well as the second does "
        "cannot be told from a person by these masks.",
        "Compare a network's Dice with that of the second observer: evaluation reports both.",
        tuple(sorted((case.id for case in twice), key=lambda case: least.get(case, 2.0))),
        {
            "structures": rows[:FEW_TOLD],
            "observers": max(len(case.truth.masks) for case in twice),
            "captions": {case: f"Dice {dice:.3f}" for case, dice in list(least.items())[:FEW_TOLD]},
        },
    )


def _least(by_value: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """The least Dice of any structure by case, the case where observers differ most first."""
    least: dict[str, float] = {}
    for found in by_value.values():
        for case, dice in found.items():
            least[case] = min(dice, least.get(case, dice))
    return dict(sorted(least.items(), key=lambda pair: pair[1]))


def _row(dataset: Dataset, value: int, found: Mapping[str, float]) -> dict[str, Any]:
    name = dataset.label_names[value] if value < len(dataset.labels) else f"value {value}"
    worst = min(found, key=lambda case: found[case])
    return {
        "structure": name,
        "cases": len(found),
        "mean_dice": round(float(np.mean(list(found.values()))), 4),
        "least_dice": round(found[worst], 4),
        "least_in": worst,
    }


def _told(rows: list[dict[str, Any]]) -> str:
    """The agreement as the end of a sentence."""
    if not rows:
        return ""
    parts = [f"{r['structure']} {r['mean_dice']:.3f} (least {r['least_dice']:.3f} in {r['least_in']})" for r in rows]
    more = len(parts) - STRUCTURES_TOLD
    told = ", ".join(parts[:STRUCTURES_TOLD]) + (f" and {counted(more, 'more structure')}" if more > 0 else "")
    return f"; mean Dice between the first two: {told}"
