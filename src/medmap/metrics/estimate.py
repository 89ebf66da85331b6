"""The values that metrics give back: an estimate with its interval, and a comparison of two."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from medmap.errors import UsageError


def _refuse_not_finite(value: object) -> None:
    for field in fields(value):  # type: ignore[arg-type]
        number = getattr(value, field.name)
        if isinstance(number, float) and not math.isfinite(number):
            raise UsageError(
                f"{type(value).__name__}.{field.name} is not a number",
                got=number,
                expected="a finite value, or None with a reason",
            )


@dataclass(frozen=True)
class Estimate:
    """One row of ``metrics.json``: a value with its 95 % interval, or None with the reason.

    Args:
        name: The metric, as the interface names it.
        value: The estimate, or None where it cannot be defined; never NaN.
        low: Lower end of the 95 % interval, or None.
        high: Upper end, or None.
        n: Cases that the value rests on; for a proportion, its denominator.
        method: How the interval was made, or None without one.
        group: ``all``, a class, or ``column=value``.
        average: ``micro`` or another way of pooling the classes; None for the class itself or the macro average.
        stage: ``raw``, ``calibrated`` …; None when nothing is said.
        threshold: The score from which a case was called positive, in [0, 1].
        reason: Why there is no value or no interval, or which classes are missing from an average.
        tolerance_mm: How far a surface may be off, for a normalised surface Dice.

    Raises:
        UsageError: A number that is NaN or infinite.

    Example:
        >>> Estimate("auroc", 0.91, 0.86, 0.95, 156, "DeLong").as_json()["value"]
        0.91
        >>> Estimate("auroc", None, None, None, 3, None, reason="no negative case").as_json()["reason"]
        'no negative case'
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str | None
    group: str = "all"
    average: str | None = None
    stage: str | None = None
    threshold: float | None = None
    reason: str | None = None
    tolerance_mm: float | None = None

    def __post_init__(self) -> None:
        _refuse_not_finite(self)

    def as_json(self) -> dict[str, Any]:
        """The row as ``metrics.json`` has it; ``threshold``, ``tolerance_mm`` and ``reason`` only when there is one."""
        row: dict[str, Any] = {
            "name": self.name,
            "group": self.group,
            "average": self.average,
            "stage": self.stage,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "method": self.method,
        }
        if self.threshold is not None:
            row["threshold"] = self.threshold
        if self.tolerance_mm is not None:
            row["tolerance_mm"] = self.tolerance_mm
        if self.reason is not None:
            row["reason"] = self.reason
        return row

    def with_(self, **changes: Any) -> Estimate:
        """A copy with other fields.

        Example:
            >>> Estimate("f1", 0.5, 0.2, 0.8, 10, "bootstrap").with_(group="site=A").group
            'site=A'
        """
        return replace(self, **changes)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same cases: the difference with its 95 % interval and p value.

    Args:
        name: The metric.
        group: ``all``, a class, or ``column=value``.
        a: The first model's value, or None where it cannot be defined.
        b: The second model's value.
        difference: a − b.
        low: Lower end of the difference's 95 % interval, or None.
        high: Upper end, or None.
        p: Two-sided p value of "no difference", in [0, 1], or None.
        n: Cases compared.
        method: How interval and p were made.
        reason: Why something is None.

    Raises:
        UsageError: A number that is NaN or infinite.

    Example:
        >>> Comparison("auroc", "all", 0.9, 0.8, 0.1, 0.02, 0.18, 0.014, 156, "DeLong paired").as_json()["p"]
        0.014
    """

    name: str
    group: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    method: str | None
    reason: str | None = None

    def __post_init__(self) -> None:
        _refuse_not_finite(self)

    def as_json(self) -> dict[str, Any]:
        """All fields by name; ``reason`` only when there is one."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.reason is None:
            del row["reason"]
        return row

    def with_(self, **changes: Any) -> Comparison:
        """A copy with other fields."""
        return replace(self, **changes)


def undefined(name: str, n: int, reason: str) -> Estimate:
    """An estimate without a value, and why."""
    return Estimate(name, None, None, None, n, None, reason=reason)
