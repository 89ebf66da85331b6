"""Baselines beside the network, on the same cases: what it has to beat to be worth its electricity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, Dataset
from medmap.errors import DataError
from medmap.evaluate.names import decimals, metric_name
from medmap.evaluate.outcome import Baseline
from medmap.evaluate.pictures import Small, small
from medmap.evaluate.rows import largest, regression_rows, stage_rows
from medmap.evaluate.simple import Features, fitted_scores, majority_scores
from medmap.evaluate.table import PredictionTable, known
from medmap.metrics import Bootstrap, Comparison, Estimate, auroc_value, compare_auroc, mcnemar, paired_bootstrap

Floats = NDArray[np.float64]
MOST_CASES = 2000  # a baseline learns from at most so many; a linear model has long stopped improving
HEADLINE = ("auroc", "accuracy", "mae", "quadratic_kappa")
SUSPICIOUS = 0.98
DRAWS = Bootstrap(1000)


def baselines(
    table: PredictionTable, dataset: Dataset, pictures: Mapping[str, Small], stored: Mapping[str, Small] | None = None
) -> tuple[Baseline, ...]:
    """Majority, thumbnails and clinical columns, fitted on the dataset's other cases, judged beside the network.

    Args:
        table: The network's predictions.
        dataset: The evaluated cases and those to learn from: its train and validation splits, less every patient that
            is evaluated.
        pictures: Thumbnails of the evaluated cases.
        stored: Thumbnails of cases to learn from that are at hand already.
    """
    judged = [dataset[case] for case in table.cases]
    learn = training_cases(table, dataset)
    if not learn:
        why = "the dataset has no labelled training cases of other patients to fit them on"
        return (Baseline("thumbnails", "logistic regression on thumbnails", reason=why),)
    scores = majority_scores(learn, dataset, table.kind, len(table))
    found = [_judged(table, "majority", _majority_words(table), scores, len(learn))]
    found.append(_thumbnails(table, dataset, learn, pictures, stored or {}))
    features = Features(learn)
    if features.names:
        given = fitted_scores(features.table(learn), learn, features.table(judged), dataset, table.kind)
        named = ", ".join(features.names[:6]) + (" …" if len(features.names) > 6 else "")
        found.append(_judged(table, "columns", f"{_model(table)} on clinical columns ({named})", given, len(learn)))
    return tuple(found)


def training_cases(table: PredictionTable, dataset: Dataset) -> list[Case]:
    """Labelled cases of the train and validation splits whose patient is not evaluated; at most 2,000, evenly."""
    evaluated = set(table.patients)
    found = [
        case
        for case in dataset
        if case.split in ("train", "val") and case.patient not in evaluated and known(case, dataset.kind)
    ]
    if len(found) <= MOST_CASES:
        return found
    picked = np.random.default_rng(0).permutation(len(found))[:MOST_CASES]
    return [found[row] for row in np.sort(picked)]


def _model(table: PredictionTable) -> str:
    return "ridge regression" if table.kind == "regression" else "logistic regression"


def _majority_words(table: PredictionTable) -> str:
    if table.kind == "regression":
        return "the training cases' mean for everybody"
    return "the training cases' commonest answer for everybody"


def _thumbnails(
    table: PredictionTable,
    dataset: Dataset,
    learn: Sequence[Case],
    pictures: Mapping[str, Small],
    stored: Mapping[str, Small],
) -> Baseline:
    what = f"{_model(table)} on thumbnails"
    rows: list[NDArray[np.float32]] = []
    cases = []
    for case in learn:
        try:
            rows.append((stored[case.id] if case.id in stored else small(dataset, case)).values)
        except DataError:  # the report names unreadable cases; here it is one fewer to learn from
            continue
        cases.append(case)
    judged = [pictures[case].values for case in table.cases if case in pictures]
    if len(judged) < len(table) or not rows or len({len(r) for r in (*rows, *judged)}) > 1:
        return Baseline("thumbnails", what, reason="the images have no thumbnails of one size")
    scores = fitted_scores(
        np.stack(rows).astype(np.float64), cases, np.stack(judged).astype(np.float64), dataset, table.kind
    )
    return _judged(table, "thumbnails", f"{what} ({len(rows[0])} numbers an image)", scores, len(cases))


def _judged(table: PredictionTable, name: str, what: str, scores: Floats, trained_on: int) -> Baseline:
    theirs = replace(
        table,
        scores=scores if table.kind == "regression" else np.clip(scores, 0, 1),
        uncalibrated=None,
        spread=None,
        thresholds=None,
        abstained=None,
        decided=(),
    )
    rows = [row.with_(stage=None, threshold=None) for row in headline_rows(theirs)]
    return Baseline(name, what, tuple(rows), tuple(compared(table, theirs)), trained_on)


def headline_rows(table: PredictionTable) -> list[Estimate]:
    """The metrics by which models are compared: AUROC, accuracy, kappa; mean absolute error."""
    if table.kind == "regression":
        return [row for row in regression_rows(table, DRAWS) if row.name == "mae"]
    rows = stage_rows(table, table.scores, "", DRAWS)
    return [
        row.with_(stage=None) for row in rows if row.name in HEADLINE and row.group == "all" and row.average is None
    ]


def compared(a: PredictionTable, b: PredictionTable) -> list[Comparison]:
    """Two tables of the same cases in the same order, a less b: AUROC, accuracy; kappa; mean absolute error.

    AUROC by DeLong's paired test (its mean over classes by a paired bootstrap), accuracy by McNemar's.
    """
    who = a.patients
    if a.kind == "regression":
        return [_error_compared(a, b, column) for column in range(len(a.labels))]
    if a.kind == "multilabel":
        return [*(_label_compared(a, b, c) for c in range(len(a.labels))), _macro_compared(a, b)]
    calls_a, calls_b = largest(a), largest(b)
    right = mcnemar(a.truth, calls_a, calls_b, who)
    if a.kind == "binary":
        return [compare_auroc(a.positive_scores, b.positive_scores, a.is_positive, who), right]
    rows = [_macro_compared(a, b), right]
    for c, name in enumerate(a.labels):
        rows.append(compare_auroc(a.scores[:, c], b.scores[:, c], a.truth == c, who).with_(group=name))
    return rows


def _label_compared(a: PredictionTable, b: PredictionTable, column: int) -> Comparison:
    rows = np.flatnonzero(~np.isnan(a.truth[:, column]))
    who = [a.patients[row] for row in rows]
    found = compare_auroc(a.scores[rows, column], b.scores[rows, column], a.truth[rows, column], who)
    return found.with_(group=a.labels[column])


def _macro_compared(a: PredictionTable, b: PredictionTable) -> Comparison:
    return paired_bootstrap(
        _macro_auroc, _one_hot(a), a.scores, b.scores, a.patients, name="auroc", bootstrap=Bootstrap(200)
    )


def _one_hot(table: PredictionTable) -> Floats:
    if table.kind == "multilabel":
        return np.asarray(table.truth, dtype=np.float64)
    return np.asarray(np.eye(len(table.labels))[table.truth], dtype=np.float64)


def _macro_auroc(truth: NDArray[np.generic], scores: NDArray[np.generic]) -> float:
    """Mean AUROC over the classes that a draw can define."""
    found = []
    for column in range(truth.shape[1]):
        yes = np.asarray(truth[:, column], dtype=np.float64)
        there = ~np.isnan(yes)
        if 0 < yes[there].sum() < there.sum():
            found.append(auroc_value(np.asarray(scores[there, column], dtype=np.float64), yes[there]))
    return float(np.mean(found)) if found else float("nan")


def _error_compared(a: PredictionTable, b: PredictionTable, column: int) -> Comparison:
    rows = np.flatnonzero(~np.isnan(a.truth[:, column]))
    who = [a.patients[row] for row in rows]
    found = paired_bootstrap(
        _mean_error,
        a.truth[rows, column],
        a.scores[rows, column],
        b.scores[rows, column],
        who,
        name="mae",
        bootstrap=DRAWS,
    )
    return found if len(a.labels) == 1 else found.with_(group=a.labels[column])


def _mean_error(truth: NDArray[np.generic], predicted: NDArray[np.generic]) -> float:
    return float(np.mean(np.abs(np.asarray(truth, np.float64) - np.asarray(predicted, np.float64))))


def not_beaten(found: Sequence[Baseline]) -> list[str]:
    """Sentences about baselines that the network does not beat, and about columns that give the truth away."""
    told = []
    for baseline in found:
        for row in baseline.against[:1]:
            better = row.name != "mae"
            if row.difference is None or row.a is None or row.b is None:
                continue
            gain = row.difference if better else -row.difference
            numbers = f"{metric_name(row.name)} {decimals(row.a)} against {decimals(row.b)}"
            if gain <= 0:
                told.append(f"The network does not beat {baseline.what}: {numbers}.")
            elif (
                baseline.name != "majority"
                and row.low is not None
                and row.high is not None
                and row.low <= 0 <= row.high
            ):
                told.append(
                    f"The network is not shown to beat {baseline.what}: {numbers}, "
                    f"difference {decimals(row.difference)} ({decimals(row.low)} to {decimals(row.high)})."
                )
            if baseline.name == "columns" and better and row.b >= SUSPICIOUS:
                told.append(
                    f"The clinical columns alone tell the truth (AUROC {row.b:.3f}): "
                    "does one of them record the diagnosis?"
                )
    return told
