"""How good an answer will be, said without its truth: a line fitted on cases that the network did not learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medmap.errors import UsageError, counted

FEWEST_CASES = 5
GOOD_ORDER, LOOSE_ORDER = 0.6, 0.3  # rank correlations from which worse cases mostly, or sometimes, come first


@dataclass(frozen=True)
class ExpectedDice:
    """Expected Dice = intercept + slope · what the probabilities say, within 0 and 1.

    Args:
        slope: 0 or more.
        intercept: Any finite number.
        error: Mean absolute error on the cases it was fitted on, in Dice.
        rank_correlation: Spearman's, between what was said and what was: whether the worst cases come first. None
            where all cases are alike.
        cases: How many.

    Raises:
        UsageError: A number that is not finite, or a slope below 0.
    """

    slope: float
    intercept: float
    error: float
    rank_correlation: float | None
    cases: int

    def __post_init__(self) -> None:
        numbers = (self.slope, self.intercept, self.error, self.cases, self.rank_correlation or 0.0)
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or self.slope < 0:
            raise UsageError("an expected Dice needs finite numbers and a slope of 0 or more", got=asdict(self))

    def of(self, said: float) -> float:
        """The Dice to expect where the probabilities say ``said``."""
        return min(max(self.intercept + self.slope * said, 0.0), 1.0)

    def in_words(self) -> str:
        """What an expected Dice is and how well it did, for a reader of the report."""
        cases = counted(self.cases, "case")
        return (
            "Expected Dice: beside each new mask the bundle says which Dice to expect of it, by the network's own "
            f"probabilities and without a true mask. On the {cases} judged here it was off by {self.error:.3f} on "
            f"average; it was fitted to these, so expect somewhat more of new ones. {self._order_in_words()}"
        )

    def _order_in_words(self) -> str:
        rank = self.rank_correlation
        if rank is None:
            return "Whether it tells bad masks from good ones these cases cannot show: they are all alike."
        scale = f"(rank correlation {rank:.2f}; 1 is the same order, 0 none)".replace("-", "−")
        if rank >= GOOD_ORDER:
            return f"Masks of which it expects little mostly were the worse ones {scale}."
        if rank >= LOOSE_ORDER:
            return f"It only loosely tells the worse masks from the better ones {scale}."
        return f"It does not tell the worse masks from the better ones {scale}: do not sort cases by it."

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a decision has them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ExpectedDice | None:
        """What ``to_json`` wrote; None for nothing.

        Raises:
            UsageError: Other fields.
        """
        if not values:
            return None
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError("this is no expected Dice", got=f"{dict(values)!r:.200}") from error


def fit_expected_dice(said: Sequence[float], found: Sequence[float]) -> ExpectedDice | None:
    """Least squares of the Dice found on the Dice that the probabilities said; None for fewer than five cases.

    Args:
        said: Of each case, between 0 and 1.
        found: The case's Dice with its truth.

    Example:
        >>> line = fit_expected_dice([0.9, 0.8, 0.7, 0.6, 0.5], [0.85, 0.7, 0.55, 0.4, 0.25])
        >>> round(line.of(0.75), 3), round(line.error, 3), line.rank_correlation
        (0.625, 0.0, 1.0)
    """
    from scipy import stats

    x, y = np.asarray(said, dtype=np.float64), np.asarray(found, dtype=np.float64)
    if len(x) < FEWEST_CASES:
        return None
    spread = float(x.var())
    slope = max(float(((x - x.mean()) * (y - y.mean())).mean()) / spread, 0.0) if spread > 1e-12 else 0.0
    intercept = float(y.mean()) - slope * float(x.mean())
    told = np.clip(intercept + slope * x, 0, 1)
    alike = spread <= 1e-12 or float(y.var()) <= 1e-12
    rank = None if alike else round(float(stats.spearmanr(x, y).statistic), 4)
    return ExpectedDice(slope, intercept, float(np.abs(told - y).mean()), rank, len(x))
