"""From a table of predictions to the rows of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DatasetError
from medmap.evaluate.groups import FEWEST, groups_of
from medmap.evaluate.names import LOWER_IS_BETTER, group_name, metric_name
from medmap.evaluate.outcome import Aggregated
from medmap.evaluate.table import PredictionTable
from medmap.metrics import (
    Bootstrap,
    Estimate,
    accuracy,
    aggregate,
    auroc,
    classification_table,
    mae,
    regression_table,
    sensitivity,
    specificity,
)

Floats = NDArray[np.float64]
# the operating point speaks of calibrated scores; without it only these say something
WITHOUT_THRESHOLD = ("auroc", "auprc", "accuracy", "balanced_accuracy", "brier", "ece", "quadratic_kappa", "mae")
GROUP_DRAWS = Bootstrap(500)


def all_rows(table: PredictionTable, bootstrap: Bootstrap | None = None) -> tuple[Estimate, ...]:
    """Every metric of a table: before and after calibration, the cases decided on when some were left to a person.

    Args:
        table: The predictions.
        bootstrap: Replicates and seed.
    """
    if table.kind == "regression":
        return tuple(regression_rows(table, bootstrap))
    rows = stage_rows(
        table, table.scores, "calibrated" if table.uncalibrated is not None else "uncalibrated", bootstrap
    )
    if table.uncalibrated is not None:
        before = stage_rows(replace(table, thresholds=None), table.uncalibrated, "uncalibrated", bootstrap)
        rows += [row.with_(threshold=None) for row in before if row.name in WITHOUT_THRESHOLD]
    return (*rows, *abstention_rows(table))


def stage_rows(
    table: PredictionTable, scores: Floats, stage: str, bootstrap: Bootstrap | None = None
) -> list[Estimate]:
    """The metrics of one set of scores."""
    return classification_table(
        scores,
        table.truth,
        table.classes,
        patients=table.patients,
        thresholds=table.thresholds,
        stage=stage,
        bootstrap=bootstrap,
    )


def regression_rows(table: PredictionTable, bootstrap: Bootstrap | None = None) -> list[Estimate]:
    """The metrics of predicted numbers, one set a target; a case without a truth is left out of its target."""
    rows = []
    for column, name in enumerate(table.labels):
        known = np.flatnonzero(~np.isnan(table.truth[:, column]))
        rows += regression_table(
            table.scores[known, column],
            table.truth[known, column],
            patients=[table.patients[row] for row in known],
            group="all" if len(table.labels) == 1 else name,
            bootstrap=bootstrap,
        )
    return rows


def abstention_rows(table: PredictionTable) -> list[Estimate]:
    """Which share of the cases is decided on, and how often rightly; nothing where no case is left to a person."""
    left = np.asarray(table.abstained)
    if not left.any() or table.kind not in ("binary", "multiclass"):
        return []
    coverage = accuracy(np.ones(len(table)), (~left).astype(np.int64), table.patients).with_(name="coverage")
    kept = table.at(~left)
    right = accuracy(kept.truth, largest(kept), kept.patients).with_(name="accuracy_when_decided")
    return [
        row.with_(stage="calibrated" if table.uncalibrated is not None else "uncalibrated") for row in (coverage, right)
    ]


def largest(table: PredictionTable) -> NDArray[np.int64]:
    """(n,) class index of the largest score; binary: the positive class from 0.5 on, as ``accuracy`` has it."""
    if table.positive is not None:
        return np.where(table.positive_scores >= 0.5, table.positive, 1 - table.positive)
    return np.asarray(table.scores.argmax(axis=1), dtype=np.int64)


def subgroup_rows(table: PredictionTable) -> tuple[list[Estimate], list[str]]:
    """Rows for every value of the site and of each clinical column, and what was left out, with the reason.

    A group of fewer than ten cases, or of one class where two are needed, has no value and says why.
    """
    rows: list[Estimate] = []
    notes = []
    for column, values in table.factors().items():
        found, why = groups_of(column, values)
        if why is not None:
            notes.append(f"No subgroups: {why}.")
        for group in found:
            part = table.at(group.inside)
            rows += [row.with_(group=group.name) for row in group_rows(part)]
    return rows, notes


def group_rows(table: PredictionTable) -> list[Estimate]:
    """The few metrics that a small group can bear."""
    stage = "calibrated" if table.uncalibrated is not None else "uncalibrated"
    if table.kind == "regression":
        rows = [row for row in regression_rows(table, GROUP_DRAWS) if row.name == "mae"][:1] if len(table) else []
        rows = rows or [mae([], [])]
        stage = ""
    elif table.kind == "binary":
        yes, patients = table.is_positive, table.patients
        cut = 0.5 if table.threshold is None else table.threshold
        called = table.positive_scores >= cut
        rows = [
            auroc(table.positive_scores, yes, patients),
            sensitivity(yes, called, patients).with_(threshold=cut),
            specificity(yes, called, patients).with_(threshold=cut),
            accuracy(yes, table.positive_scores >= 0.5, patients),
        ]
    else:
        several = stage_rows(table, table.scores, stage, GROUP_DRAWS)
        wanted = [r for r in several if r.group == "all" and r.average is None]
        rows = [r for name in ("auroc", "accuracy", "quadratic_kappa") for r in wanted if r.name == name]
    if len(table) < FEWEST:
        rows = [_too_few(row, len(table)) for row in rows]
    return [row.with_(stage=stage or None) for row in rows]


def _too_few(row: Estimate, cases: int) -> Estimate:
    why = f"only {cases} case{'' if cases == 1 else 's'}: fewer than {FEWEST} say nothing"
    return row.with_(value=None, low=None, high=None, method=None, reason=why)


def weak_groups(rows: Sequence[Estimate], headline: Estimate | None) -> list[str]:
    """Sentences about groups whose whole interval lies on the worse side of the result for all.

    Of many groups some do so by chance, so their number is said.
    """
    if headline is None or headline.value is None:
        return []
    looked = sum(row.name == headline.name and row.value is not None for row in rows)
    worse_up = headline.name in LOWER_IS_BETTER
    found = []
    for row in rows:
        if row.name != headline.name or row.value is None or row.low is None or row.high is None:
            continue
        if row.low > headline.value if worse_up else row.high < headline.value:
            found.append(
                f"The model does worse in the group {group_name(row.group)}: {metric_name(row.name)} {row.value:.2f} "
                f"({row.low:.2f} to {row.high:.2f}, n = {row.n}) against {headline.value:.2f} for all "
                f"({looked} groups were looked at)."
            )
    return found


def aggregated(table: PredictionTable, by: str, bootstrap: Bootstrap | None = None) -> Aggregated:
    """The evaluation with the cases of a patient, or of a column's value within a patient, taken together.

    Scores are averaged. The truth of binary and multi-label cases is positive where one of them is; of several classes
    they must agree. Numbers and grades are averaged.

    Args:
        table: The predictions.
        by: ``patient`` or the name of a column (an eye, a breast).
        bootstrap: Replicates and seed.

    Raises:
        DatasetError: No such column, or cases of one group with different classes.
    """
    together = taken_together(table, by)
    rule = "scores averaged; " + {
        "binary": f"{table.positive_name} where one of them is",
        "multilabel": "each finding there where one of them has it",
        "regression": "truth averaged",
    }.get(table.kind, "all of one class")
    return Aggregated(by, len(together), all_rows(together, bootstrap), rule)


def taken_together(table: PredictionTable, by: str) -> PredictionTable:
    """One row a patient, or a column's value within a patient; see ``aggregated``.

    Raises:
        DatasetError: No such column, or cases of one group with different classes.
    """
    if by != "patient" and by not in table.factors():
        raise DatasetError(
            "there is no such column to take cases together by",
            got=by,
            expected=", ".join(("patient", *table.factors())),
        )
    values = table.patients if by == "patient" else table.factors()[by]
    names = [p if by == "patient" else f"{p}, {by} {v}" for p, v in zip(table.patients, values, strict=True)]
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    units = sorted(first, key=lambda name: first[name])
    row_of = {name: row for row, name in enumerate(units)}
    codes = np.array([row_of[name] for name in names])
    plain = table.at([first[name] for name in units])
    return replace(
        plain,
        cases=tuple(units),
        truth=_joined_truth(table, codes, len(units)),
        scores=_joined_scores(table, table.scores, names, units),
        uncalibrated=None if table.uncalibrated is None else _joined_scores(table, table.uncalibrated, names, units),
        spread=None,
        abstained=None,
        decided=(),
        columns={} if by == "patient" else {by: plain.factors()[by]},
    )


def _joined_scores(table: PredictionTable, scores: Floats, names: Sequence[str], units: Sequence[str]) -> Floats:
    if table.kind == "regression":
        codes = {name: row for row, name in enumerate(units)}
        sums = np.zeros((len(units), scores.shape[1]))
        np.add.at(sums, [codes[name] for name in names], scores)
        return sums / np.bincount([codes[name] for name in names])[:, None]
    found = aggregate(scores, names)
    at = {name: row for row, name in enumerate(found.groups)}
    return found.probabilities[[at[name] for name in units]]


def _joined_truth(table: PredictionTable, codes: NDArray[np.intp], count: int) -> NDArray[np.generic]:
    if table.kind == "regression":
        known = ~np.isnan(table.truth)
        sums, n = np.zeros((2, count, table.truth.shape[1]))
        np.add.at(sums, codes, np.nan_to_num(table.truth))
        np.add.at(n, codes, known.astype(np.float64))
        return np.where(n > 0, sums / np.maximum(n, 1), np.nan)
    if table.kind == "multilabel":
        most = np.full((count, table.truth.shape[1]), -np.inf)
        np.fmax.at(most, codes, table.truth)
        return np.where(np.isinf(most), np.nan, most)
    if table.positive is not None:
        any_positive = np.bincount(codes, weights=table.is_positive, minlength=count) > 0
        return np.where(any_positive, table.positive, 1 - table.positive)
    truth = np.zeros(count, dtype=np.int64)
    truth[codes] = table.truth
    if (strange := np.flatnonzero(truth[codes] != table.truth)).size:
        raise DatasetError(
            "the cases to be taken together have different classes",
            got=f"patient {table.patients[int(strange[0])]}",
            remedy="take them together by a column within which the class is one",
        )
    return truth
