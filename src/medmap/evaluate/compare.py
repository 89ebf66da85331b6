"""Two tables of scores of the same cases, side by side: is one model better, and could it be chance?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medmap.errors import DataError, counted
from medmap.evaluate.baselines import compared
from medmap.evaluate.table import PredictionTable
from medmap.metrics import Bootstrap, Comparison, paired_bootstrap
from medmap.metrics.flips import least_p

DRAWS = Bootstrap(1000)
FEW_PATIENTS = 10
NOTABLE = 0.05  # a p that is commonly asked for


@dataclass(frozen=True)
class ComparisonReport:
    """What a comparison found; differences are a less b.

    Args:
        a, b: What was compared.
        cases: Cases in both.
        patients: Their patients.
        only_in_a, only_in_b: Cases that only one has; they take no part.
        rows: The differences with their intervals and p values.
        warnings: What a reader must know, in sentences.
    """

    a: str
    b: str
    cases: int
    patients: int
    only_in_a: int
    only_in_b: int
    rows: tuple[Comparison, ...]
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "medmap_comparison": 1,
            "a": self.a,
            "b": self.b,
            "cases": self.cases,
            "patients": self.patients,
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "comparisons": [row.as_json() for row in self.rows],
            "warnings": list(self.warnings),
        }

    def as_text(self) -> str:
        """A table for the terminal."""
        lines = [
            f"a: {self.a}",
            f"b: {self.b}",
            f"{counted(self.cases, 'case')} of {counted(self.patients, 'patient')} in both",
        ]
        lines += [f"warning: {text}" for text in self.warnings]
        head = ("metric", "group", "a", "b", "a − b", "95 % interval", "p", "n", "method")
        return "\n".join([*lines, "", *aligned([head, *(_cells(row) for row in self.rows)])])


def _cells(row: Comparison) -> tuple[str, ...]:
    why = row.method or row.reason or ""
    return row.name, row.group, shown(row.a), shown(row.b), *difference_cells(row), str(row.n), why


def difference_cells(row: Comparison) -> tuple[str, str, str]:
    """A difference, its interval and its p value in words; a dash for what there is not."""
    interval = "–" if row.low is None else f"{row.low:+.3f} to {row.high:+.3f}"
    p = "–" if row.p is None else ("< 0.001" if row.p < 0.001 else f"{row.p:.3f}")
    return shown(row.difference, "+"), interval, p


def shown(value: float | None, sign: str = "") -> str:
    """A number with three decimals, or a dash."""
    return "–" if value is None else f"{value:{sign}.3f}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def compare_tables(a: PredictionTable, b: PredictionTable, name_a: str = "a", name_b: str = "b") -> ComparisonReport:
    """Compare two tables on the cases that both have: DeLong, McNemar, bootstrap, each paired.

    Raises:
        DataError: No common case, other classes, or another truth for the same case.
    """
    if (a.kind, a.positive_name, set(a.labels)) != (b.kind, b.positive_name, set(b.labels)):
        raise DataError(
            "the two evaluations do not answer the same question",
            got=f"{b.kind}: {', '.join(b.labels)}",
            expected=f"{a.kind}: {', '.join(a.labels)}",
        )
    b = _in_order(b, a.labels)
    row_a, row_b = ({case: row for row, case in enumerate(t.cases)} for t in (a, b))
    both = sorted(row_a.keys() & row_b.keys())  # an order of its own: a against b is b against a
    if not both:
        raise DataError("the two evaluations have no case in common", got=f"{len(a)} and {len(b)} cases")
    one, two = a.at([row_a[case] for case in both]), b.at([row_b[case] for case in both])
    different = [
        c for c, x, y in zip(both, one.truth, two.truth, strict=True) if not np.array_equal(x, y, equal_nan=True)
    ]
    if different:
        raise DataError(
            f"{len(different)} cases have another truth in the two evaluations",
            case=different[0],
            remedy="evaluate both models on the same labels",
        )
    if one.patients != two.patients:
        raise DataError("the same cases belong to other patients in the two evaluations")
    only_a, only_b = len(a) - len(both), len(b) - len(both)
    return ComparisonReport(
        name_a,
        name_b,
        len(both),
        len(set(one.patients)),
        only_a,
        only_b,
        (*compared(one, two), *_more(one, two)),
        tuple(_told(only_a, only_b, one, two)),
    )


def few_patients_words(patients: int) -> list[str]:
    """A sentence where so few patients are compared that hardly any difference can be told from chance."""
    if patients >= FEW_PATIENTS:
        return []
    least = least_p(patients)
    of = counted(patients, "patient")
    if least > NOTABLE:
        return [
            f"Only {of}: no p can be below {least:.2g}, so no difference can be told from chance, however large, and "
            "the intervals are likely too narrow."
        ]
    return [f"Only {of}: no p can be below {least:.2g}, and the intervals are likely too narrow."]


def _in_order(table: PredictionTable, labels: tuple[str, ...]) -> PredictionTable:
    """The table with its classes in another order."""
    if table.labels == labels:
        return table
    order = [table.labels.index(name) for name in labels]
    place = np.argsort(order)
    return replace(
        table,
        labels=labels,
        scores=table.scores[:, order],
        uncalibrated=None if table.uncalibrated is None else table.uncalibrated[:, order],
        spread=None if table.spread is None else table.spread[:, order],
        truth=table.truth[:, order] if table.truth.ndim == 2 else place[table.truth],
        positive=None if table.positive is None else int(place[table.positive]),
        thresholds=None if table.thresholds is None else tuple(table.thresholds[i] for i in order),
    )


def _told(only_a: int, only_b: int, a: PredictionTable, b: PredictionTable) -> list[str]:
    told = []
    for count, name in ((only_a, "first"), (only_b, "second")):
        if count:
            told.append(f"{count} case{'s are' if count > 1 else ' is'} in the {name} evaluation only and left out.")
    if "train" in (*a.splits, *b.splits):
        told.append("Some cases are of the training split: they say nothing about new patients.")
    return [*told, *few_patients_words(len(set(a.patients)))]


def _more(a: PredictionTable, b: PredictionTable) -> list[Comparison]:
    """Brier score, and sensitivity and specificity each at its own operating point, for binary tables."""
    if a.kind != "binary":
        return []
    yes = a.is_positive
    rows = [
        paired_bootstrap(_brier, yes, a.positive_scores, b.positive_scores, a.patients, name="brier", bootstrap=DRAWS)
    ]
    calls = [t.positive_scores >= (0.5 if t.threshold is None else t.threshold) for t in (a, b)]
    for name, metric in (("sensitivity", _sensitivity), ("specificity", _specificity)):
        rows.append(paired_bootstrap(metric, yes, calls[0], calls[1], a.patients, name=name, bootstrap=DRAWS))
    return rows


def _brier(truth: Any, chance: Any) -> float:
    return float(np.mean((chance - truth) ** 2))


def _sensitivity(truth: Any, called: Any) -> float:
    return float(called[truth].mean()) if truth.any() else float("nan")


def _specificity(truth: Any, called: Any) -> float:
    return float(1 - called[~truth].mean()) if not truth.all() else float("nan")
