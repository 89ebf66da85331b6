"""Which connected parts of a mask are kept: rules fitted on cases that the network did not learn from, then applied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, UsageError

LEAST_GAIN = 0.001  # mean Dice that a rule must be better by: less is what a handful of voxels makes
MOST_SIZES = 40
FEWEST_CASES = 5
LARGEST = 1e15  # mm³: more than any body


@dataclass(frozen=True)
class ComponentRule:
    """What is kept of one structure.

    Args:
        largest_only: Whether only the largest part is kept.
        smallest: Parts smaller than this are dropped: mm³, in a plane mm², voxels where the grid has no size; ≥ 0.
        always: Whether the largest part stays whatever its size: the structure is there in everybody.

    Raises:
        UsageError: A size below 0 or not finite.
    """

    largest_only: bool = False
    smallest: float = 0.0
    always: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.smallest, bool) or not 0 <= self.smallest <= LARGEST:
            raise UsageError("the smallest part is out of range", got=self.smallest, expected="0 or more")
        for name in ("largest_only", "always"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is true or false", got=getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a decision has them."""
        return asdict(self)

    def in_words(self, unit: str) -> str:
        """The rule for a reader: whole voxels, or three digits of a size.

        Args:
            unit: Of ``smallest``: mm³, mm² or voxels.

        Example:
            >>> ComponentRule(smallest=7.5).in_words("voxels"), ComponentRule(smallest=1234.5).in_words("mm³")
            ('parts below 8 voxels are dropped', 'parts below 1230 mm³ are dropped')
        """
        if self.largest_only:
            return "only the largest part is kept"
        least = math.ceil(self.smallest) if unit == "voxels" else float(f"{self.smallest:.3g}")
        but = ", but never the largest" if self.always else ""
        return f"parts below {least:.15g} {unit} are dropped{but}"

    def keeps(self, sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of a structure's parts in one case stay, by their sizes; of equally large ones the first."""
        kept = np.asarray(sizes >= self.smallest)
        if len(sizes) and (self.largest_only or self.always):
            largest = np.arange(len(sizes)) == int(np.argmax(sizes))
            kept = kept & largest if self.largest_only else kept
            kept = kept | largest if self.always else kept
        return kept


@dataclass(frozen=True, eq=False)
class Parts:
    """The connected parts of one structure in one case, beside the truth.

    Args:
        sizes: (n,) of each part, in the rule's unit.
        counted: (n,) voxels of each part that the truth speaks of.
        hits: (n,) those of them that are the structure.
        truth: Voxels of the structure in the truth.
    """

    sizes: NDArray[np.float64]
    counted: NDArray[np.float64]
    hits: NDArray[np.float64]
    truth: float

    def dice(self, rule: ComponentRule) -> float:
        """Dice with what the rule keeps; both empty is 1."""
        kept = rule.keeps(self.sizes)
        both = float(self.counted[kept].sum()) + self.truth
        return 1.0 if not both else 2 * float(self.hits[kept].sum()) / both


def parts_of(
    labels: NDArray[np.integer[Any]],
    truth: NDArray[np.integer[Any]],
    value: int,
    voxel: float,
    ignored: int | None = None,
) -> Parts:
    """Find one structure's connected parts (neighbours by a face, an edge or a corner).

    Args:
        labels: (spatial …) the network's label map.
        truth: (spatial …) the true one.
        value: The structure's label.
        voxel: Size of a voxel: mm³, mm² or 1.
        ignored: A value of the truth that nothing is said of.

    Raises:
        DataError: Maps of different shapes.
    """
    if labels.shape != truth.shape:
        raise DataError("a mask and its truth have different shapes", got=labels.shape, expected=truth.shape)
    total = float((truth == value).sum())
    box = boxes_of(labels, (value,))[value]
    if box is None:
        nothing = np.zeros(0)
        return Parts(nothing, nothing, nothing, total)
    found, count = _connected(labels[box] == value)
    inside, beside = found > 0, truth[box]
    known = inside if ignored is None else inside & (beside != ignored)
    sizes, counted, hits = (
        np.bincount(found[where], minlength=count + 1)[1:].astype(np.float64)
        for where in (inside, known, inside & (beside == value))
    )
    return Parts(sizes * voxel, counted, hits, total)


def boxes_of(labels: NDArray[np.integer[Any]], values: Iterable[int]) -> dict[int, tuple[slice, ...] | None]:
    """The smallest box around each value of a label map; None where it does not occur."""
    from scipy import ndimage

    found = ndimage.find_objects(labels)
    return {value: found[value - 1] if 0 < value <= len(found) else None for value in values}


def _connected(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    from scipy import ndimage

    found, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return found, int(count)


def fit_rule(cases: Sequence[Parts]) -> ComponentRule | None:
    """The rule with the largest mean Dice over cases; None where none is clearly better than keeping everything.

    Clearly: by 0.001, and by more than the gain's own standard error, so that one case alone sets no rule. Of a
    structure that is there in every case the largest part is never dropped.

    Args:
        cases: One a case, of networks that did not learn from it; fewer than five tell too little.
    """
    if len(cases) < FEWEST_CASES:
        return None
    everything = np.array([case.dice(ComponentRule()) for case in cases])
    best, gain = None, LEAST_GAIN
    for rule in _candidates(cases):
        better = np.array([case.dice(rule) for case in cases]) - everything
        error = float(better.std(ddof=1)) / math.sqrt(len(cases))
        if better.mean() > max(gain, error) + 1e-9:
            best, gain = rule, float(better.mean())
    return best


def _candidates(cases: Sequence[Parts]) -> Iterable[ComponentRule]:
    """Least sizes between the sizes that occur, small ones first, then the largest part alone."""
    sizes = np.unique(np.concatenate([case.sizes for case in cases]))
    limits = (sizes[1:] + sizes[:-1]) / 2
    if len(limits) > MOST_SIZES:
        limits = np.unique(np.quantile(limits, np.linspace(0, 1, MOST_SIZES)))
    always = all(case.truth > 0 for case in cases)
    yield from (ComponentRule(smallest=float(limit), always=always) for limit in limits)
    yield ComponentRule(largest_only=True)


def kept_parts(
    labels: NDArray[np.uint8], rules: Mapping[int, ComponentRule], voxel: float
) -> tuple[NDArray[np.uint8], int]:
    """A label map with what the rules keep, and how many parts were dropped; what is dropped becomes background.

    Args:
        labels: (spatial …) label map; not changed.
        rules: Value → rule.
        voxel: Size of a voxel: mm³, mm² or 1.
    """
    out, dropped = labels, 0
    for value, box in boxes_of(labels, rules).items():
        if box is None:
            continue
        found, count = _connected(labels[box] == value)
        sizes = np.bincount(found[found > 0], minlength=count + 1)[1:].astype(np.float64)
        kept = rules[value].keeps(sizes * voxel)
        if kept.all():
            continue
        out = np.array(labels) if out is labels else out
        out[box][np.concatenate([[False], ~kept])[found]] = 0
        dropped += int((~kept).sum())
    return out, dropped
