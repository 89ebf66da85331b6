"""Simple models that a network has to beat: logistic regression on thumbnails and on clinical columns, the majority.

All learn from the dataset's own training cases alone. The strength of the penalty is chosen by cross-validation over
their patients, so that nobody can say the simple model was made to lose.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import COLUMN_TYPES, Case, Dataset, folds
from medmap.evaluate.table import truth_of
from medmap.results import ScoreKind

Floats = NDArray[np.float64]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 3
MOST_CATEGORIES = 20


class Features:
    """Clinical columns as numbers, fitted on training cases: medians and one-hot codes, gaps marked.

    Args:
        cases: Training cases.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self.numeric: dict[str, float] = {}
        self.named: dict[str, list[str]] = {}
        for name in dict.fromkeys(n for case in cases for n in case.columns):
            values = [case.columns.get(name) for case in cases]
            recorded = [v for v in values if v is not None and not _absent(v)]
            if not recorded:
                continue
            if all(isinstance(v, (int, float)) for v in recorded):
                self.numeric[name] = float(np.median([float(v) for v in recorded]))
                continue
            words = sorted({str(v) for v in recorded})
            if len(words) <= min(MOST_CATEGORIES, len(recorded) / 2):  # more is an identifier, not a property
                self.named[name] = words

    @property
    def names(self) -> list[str]:
        """The columns that are used."""
        return [*self.numeric, *self.named]

    def table(self, cases: Sequence[Case]) -> Floats:
        """(cases, features)."""
        features: list[list[float]] = []
        for name, median in self.numeric.items():
            values = [_as_number(case.columns.get(name)) for case in cases]
            features.append([median if v is None else v for v in values])
            features.append([float(v is None) for v in values])
        for name, words in self.named.items():
            cells = [case.columns.get(name) for case in cases]
            features += [[float(cell is not None and str(cell) == word) for cell in cells] for word in words]
        return np.array(features, dtype=np.float64).reshape(-1, len(cases)).T


def _as_number(value: COLUMN_TYPES) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not _absent(value) else None


def _absent(value: COLUMN_TYPES) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def fitted_scores(learn: Floats, cases: Sequence[Case], judge: Floats, dataset: Dataset, kind: ScoreKind) -> Floats:
    """(judged, labels) scores of a penalised linear model.

    Args:
        learn: (training cases, features).
        cases: The training cases.
        judge: (judged cases, features).
        dataset: Gives the classes.
        kind: What the truth is like: logistic regression, one a label, or ridge regression.
    """
    mean, deviation = learn.mean(axis=0), learn.std(axis=0)
    scale = np.where(deviation > 1e-12, deviation, 1.0)
    learn, judge = (learn - mean) / scale, (judge - mean) / scale
    truth = truth_of(cases, kind)
    count = len(dataset.labels)
    if kind in ("multilabel", "regression"):
        columns = [_one_column(learn, truth[:, c], cases, judge, kind == "regression") for c in range(count)]
        return np.stack(columns, axis=1)
    return _fit_best(learn, truth, cases, judge, count)


def _one_column(learn: Floats, target: Floats, cases: Sequence[Case], judge: Floats, number: bool) -> Floats:
    there = ~np.isnan(target)
    known = [case for case, yes in zip(cases, there, strict=True) if yes]
    if not known:
        return np.full(len(judge), np.nan if number else 0.5)
    if number:
        return _ridge_best(learn[there], target[there], known, judge)
    return _fit_best(learn[there], target[there].astype(np.int64), known, judge, 2)[:, 1]


def _parts(cases: Sequence[Case]) -> list[NDArray[np.intp]] | None:
    """Rows of each fold, by patient; None where there are too few patients."""
    if len({case.patient for case in cases}) < 2 * FOLDS:
        return None
    at = {case.id: row for row, case in enumerate(cases)}
    return [np.array([at[case.id] for case in part], dtype=np.intp) for part in folds(cases, FOLDS, seed=0)]


def _best(cases: Sequence[Case], loss: Any) -> float:
    """The strength with the least held-out loss; ``loss(strength, learned rows, held-out rows)``."""
    parts = _parts(cases)
    if parts is None:
        return STRENGTHS[1]
    rows = np.arange(len(cases))
    sums = [sum(float(loss(s, np.setdiff1d(rows, part), part)) for part in parts) for s in STRENGTHS]
    return STRENGTHS[int(np.argmin(sums))]


def _fit_best(learn: Floats, truth: NDArray[Any], cases: Sequence[Case], judge: Floats, count: int) -> Floats:
    def loss(strength: float, inside: NDArray[np.intp], outside: NDArray[np.intp]) -> float:
        chance = _logistic(learn[inside], truth[inside], learn[outside], count, strength)
        return float(-np.log(np.clip(chance[np.arange(len(outside)), truth[outside]], 1e-6, 1)).sum())

    return _logistic(learn, truth, judge, count, _best(cases, loss))


def _logistic(learn: Floats, truth: NDArray[Any], judge: Floats, count: int, strength: float) -> Floats:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    chance = np.zeros((len(judge), count))
    classes = np.unique(truth)
    if len(classes) == 1:
        chance[:, classes[0]] = 1
        return chance
    model = LogisticRegression(C=strength, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a model that stops early is still a model
        model.fit(learn, truth)
    chance[:, classes] = model.predict_proba(judge)
    return chance


def _ridge_best(learn: Floats, target: Floats, cases: Sequence[Case], judge: Floats) -> Floats:
    def loss(strength: float, inside: NDArray[np.intp], outside: NDArray[np.intp]) -> float:
        return float(np.sum((_ridge(learn[inside], target[inside], learn[outside], strength) - target[outside]) ** 2))

    return _ridge(learn, target, judge, _best(cases, loss))


def _ridge(learn: Floats, target: Floats, judge: Floats, strength: float) -> Floats:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength)
    model.fit(learn, target)
    return np.asarray(model.predict(judge), dtype=np.float64)


def majority_scores(cases: Sequence[Case], dataset: Dataset, kind: ScoreKind, judged: int) -> Floats:
    """(judged, labels): for everybody the training cases' shares, or their mean."""
    truth = truth_of(cases, kind)
    if kind in ("multilabel", "regression"):
        known = ~np.isnan(truth)
        shares = np.where(known, np.nan_to_num(truth), 0).sum(0) / np.maximum(known.sum(0), 1)
    else:
        shares = np.bincount(truth, minlength=len(dataset.labels)) / len(truth)
    return np.tile(shares, (judged, 1))
