"""The budget: from process start to exit, export and report included."""

from __future__ import annotations

import time
from dataclasses import dataclass

from medmap.plan import RESERVE_S, RESERVE_SHARE


@dataclass(frozen=True)
class Clock:
    """Knows when training has to end.

    Args:
        started: ``time.time()`` at process start.
        budget_s: Seconds from process start to exit, or None.
    """

    started: float
    budget_s: float | None

    @property
    def spent_s(self) -> float:
        """Seconds since process start."""
        return time.time() - self.started

    @property
    def left_s(self) -> float:
        """Seconds left for training, the time for finishing kept back; infinite without a budget."""
        if self.budget_s is None:
            return float("inf")
        return self.budget_s * (1 - RESERVE_SHARE / 2) - RESERVE_S - self.spent_s
