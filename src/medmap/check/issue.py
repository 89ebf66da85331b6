"""One thing that is wrong with a dataset: what, which cases, what it will do to the result, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[str, ...] = get_args(Severity)
SHOWN = 3  # how many identifiers a sentence names before it says how many more there are


@dataclass(frozen=True)
class Issue:
    """One finding of ``check``.

    Args:
        code: Short name that scripts can rely on, such as ``duplicate_across_splits``.
        severity: ``error`` (results would be wrong), ``warning`` (results may mislead), ``info`` (worth knowing).
        message: What was found, with numbers.
        effect: What it will do to the result.
        remedy: What can be done about it.
        cases: Identifiers of the cases concerned; empty when it concerns the dataset as a whole.
        details: Numbers behind the message, as plain values.

    Examples:
        >>> issue = Issue("constant_image", "warning", "1 image is blank", "it teaches nothing", "remove it", ("c7",))
        >>> issue.as_json()["cases"]
        ['c7']
    """

    code: str
    severity: Severity
    message: str
    effect: str
    remedy: str
    cases: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "code": self.code,
            "severity": self.severity,
            "cases": list(self.cases),
            "message": self.message,
            "effect": self.effect,
            "remedy": self.remedy,
            "details": dict(self.details),
        }


def worst_first(issues: Iterable[Issue]) -> list[Issue]:
    """Errors, then warnings, then information; otherwise in the order found."""
    return sorted(issues, key=lambda issue: SEVERITIES.index(issue.severity))


def named(names: Sequence[str]) -> str:
    """The first few of many names.

    Example:
        >>> named(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
