"""What a bundle keeps of a fitted decision, and how a target is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from medmap.decision.components import ComponentRule
from medmap.decision.expected import ExpectedDice
from medmap.errors import BundleError, MedmapError, UsageError

RETIRED = "smallest_component_mm3"  # never fitted; bundles before 0.1 name it
TARGETS = "youden | f1 | largest_score | sensitivity>=x | specificity>=x | net_benefit@t"


class Target(NamedTuple):
    """How a threshold is chosen.

    ``name`` is ``youden``, ``f1``, ``largest_score``, ``sensitivity``, ``specificity`` or ``net_benefit``; ``value`` is
    the least rate, or the risk from which one would act, between 0 and 1; None for the first three.
    """

    name: str
    value: float | None = None


def parse_target(text: str) -> Target:
    """Read how a threshold is to be chosen.

    Args:
        text: ``youden``, ``f1``, ``largest_score``, ``sensitivity>=0.95``, ``specificity>=0.9`` or ``net_benefit@0.2``.

    Raises:
        UsageError: Anything else, or a number that is not between 0 and 1 (a rate may be 1).

    Example:
        >>> parse_target("sensitivity>=0.95")
        Target(name='sensitivity', value=0.95)
    """
    squeezed = text.replace(" ", "") if isinstance(text, str) else ""
    if squeezed in ("youden", "f1", "largest_score"):
        return Target(squeezed)
    match = re.fullmatch(r"(?:(sensitivity|specificity)>=|(net_benefit)@)(\d*\.?\d+)", squeezed)
    if not match:
        raise UsageError("unknown target of a threshold", got=text, expected=TARGETS)
    value = float(match[3])
    if not (0 < value < 1 or (value == 1 and match[1])):
        raise UsageError("the number of a target is not between 0 and 1", got=text, expected="as sensitivity>=0.95")
    return Target(match[1] or match[2], value)


@dataclass(frozen=True)
class Decision:
    """What turns a network's scores into an answer; part of the bundle.

    Args:
        temperature: What logits are divided by, > 0; one for each label of a multi-label task.
        thresholds: (C,) probability from which each class is called, in [0, 1]; empty where the task has none.
        target: How they were chosen, as ``parse_target`` reads it.
        positive: Column of the positive class of a binary task; None otherwise.
        prevalence: Share of positives that the thresholds are meant for, where it matters; None for the data's own.
        prior_shift: (C,) added to the scaled logits, for a site where classes are rarer or commoner; None for nothing.
        abstain_below: Largest probability below which a case is left to a person, in (0, 1]; None to always answer.
        components: Structure → which of its connected parts are kept, as ``ComponentRule.to_json`` has it.
        expected_dice: How the Dice of a mask is foretold, as ``ExpectedDice.to_json`` has it; empty for not at all.
        accepts: What inputs the bundle is for: {input: {"modality": "US", "channels": 1, "ndim": 2, "spacing_mm": …}}.
        fitted_on: Where the numbers come from: n, split, how.

    Raises:
        UsageError: A number out of range.

    Example:
        >>> d = Decision(temperature=1.5, thresholds=(0.3, 0.7), target="youden", positive=0)
        >>> Decision.from_json(d.to_json()) == d
        True
    """

    temperature: float | tuple[float, ...] = 1.0
    thresholds: tuple[float, ...] = ()
    target: str = "largest_score"
    positive: int | None = None
    prevalence: float | None = None
    prior_shift: tuple[float, ...] | None = None
    abstain_below: float | None = None
    components: dict[str, Any] = field(default_factory=dict)
    expected_dice: dict[str, Any] = field(default_factory=dict)
    accepts: dict[str, Any] = field(default_factory=dict)
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        warm: Any = self.temperature
        object.__setattr__(self, "temperature", float(warm) if _is_number(warm) else _row("temperature", warm))
        object.__setattr__(self, "thresholds", _row("thresholds", self.thresholds))
        if self.prior_shift is not None:
            object.__setattr__(self, "prior_shift", _row("prior_shift", self.prior_shift))
        each = (self.temperature,) if isinstance(self.temperature, float) else self.temperature
        if not each or not all(0 < t < math.inf for t in each):
            raise UsageError("a temperature is positive", got=self.temperature)
        if not all(0 <= t <= 1 for t in self.thresholds):
            raise UsageError("a threshold is outside [0, 1]", got=self.thresholds)
        parse_target(self.target)
        if self.positive is not None and (not _is_whole(self.positive) or self.positive not in (0, 1)):
            raise UsageError("the positive class of two is 0 or 1", got=self.positive)
        for name, lowest, highest in (
            ("prevalence", 0.0, 1.0),
            ("abstain_below", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and lowest <= value <= highest and math.isfinite(value)):
                raise UsageError(f"{name} is out of range", got=value, expected=f"{lowest:g} … {highest:g}")
        for name in ("accepts", "fitted_on", "components", "expected_dice"):
            if not isinstance(getattr(self, name), dict):
                raise UsageError(f"{name} is no mapping", got=type(getattr(self, name)).__name__)
        _ = self.component_rules, ExpectedDice.from_json(self.expected_dice)

    @property
    def component_rules(self) -> dict[str, ComponentRule]:
        """Structure → its rule.

        Raises:
            UsageError: No rule.
        """
        try:
            return {name: ComponentRule(**values) for name, values in self.components.items()}
        except TypeError as error:
            raise UsageError("components are no rules", got=f"{self.components!r:.200}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and names, as ``spec.json`` has it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Decision:
        """The decision that ``to_json`` wrote.

        Raises:
            BundleError: No mapping, a key that is unknown or missing, a value out of range.
        """
        if not isinstance(values, Mapping):
            raise BundleError("a decision is no mapping", got=type(values).__name__)
        known = [f.name for f in fields(cls)]
        values = {key: value for key, value in values.items() if key != RETIRED or value is not None}
        if unknown := sorted(str(key) for key in values if key not in known):
            raise BundleError(
                "the decision has a field that is unknown here", got=unknown[0], remedy="use a newer medmap"
            )
        if missing := [name for name in ("temperature", "thresholds", "target") if name not in values]:
            raise BundleError("the decision lacks a field", got=f"no {missing[0]}")
        try:
            return cls(**values)
        except (MedmapError, TypeError, ValueError) as error:
            raise BundleError("the decision holds a value that cannot be", got=str(error).rstrip(".")) from error

    def with_(self, **changes: Any) -> Decision:
        """A copy with other fields."""
        return replace(self, **changes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _row(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple | np.ndarray) or not all(_is_number(v) and math.isfinite(v) for v in values):
        raise UsageError(f"{name} are not finite numbers", got=values)
    return tuple(float(v) for v in values)
