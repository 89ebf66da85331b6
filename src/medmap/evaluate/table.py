"""What was predicted, case by case, beside what is true: the one value every number of a report is computed from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import COLUMN_TYPES, Case, Dataset
from medmap.errors import DataError, DatasetError
from medmap.metrics import Classes
from medmap.results import ScoreKind, Scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SCORE_KINDS: tuple[str, ...] = get_args(ScoreKind)
TRUTH_BY_LABEL = ("multilabel", "regression")  # kinds whose truth is one number a label


def _fixed(array: Any, dtype: Any) -> NDArray[Any]:
    out = np.array(array, dtype=dtype)
    out.setflags(write=False)
    return out


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """Predictions with their truth, in a fixed order; what ``predictions.csv`` holds.

    Args:
        cases: Identifiers, each once.
        patients: (n,) patient of each case: the unit of every interval.
        truth: (n,) class index; multi-label and regression: (n, labels), NaN where unknown.
        scores: (n, labels) calibrated probabilities; regression: values in the target's unit.
        labels: Name of each column of ``scores``.
        kind: How the classes hang together.
        positive: Index of the class that a binary score speaks of; None otherwise.
        thresholds: (labels,) operating point of each class, in [0, 1], or None. Binary: that of the positive class
            counts, the other is its complement.
        uncalibrated: (n, labels) probabilities before calibration, or None when nothing was calibrated.
        spread: (n, labels) standard deviation over members and views, or None.
        decided: (n,) names of the classes decided on; empty where the case is left to a person.
        abstained: (n,) True where the case is left to a person.
        sites: (n,) hospital or scanner, None where unknown.
        splits: (n,) train, val, test or None.
        folds: (n,) which fold's network judged the case, None outside cross-validation.
        columns: Clinical columns: name → one value a case, None where not recorded.

    Raises:
        DataError: Lengths that differ, a case that stands twice, a score that is no probability, an unknown class.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    truth: NDArray[Any]
    scores: Floats
    labels: tuple[str, ...]
    kind: ScoreKind
    positive: int | None = None
    thresholds: tuple[float, ...] | None = None
    uncalibrated: Floats | None = None
    spread: Floats | None = None
    decided: tuple[tuple[str, ...], ...] = ()
    abstained: Bools | None = None
    sites: tuple[str | None, ...] = ()
    splits: tuple[str | None, ...] = ()
    folds: tuple[int | None, ...] = ()
    columns: Mapping[str, tuple[COLUMN_TYPES, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.cases)
        if self.kind not in SCORE_KINDS:
            raise DataError("unknown kind of scores", got=repr(self.kind), expected=", ".join(SCORE_KINDS))
        if twice := [case for case, count in Counter(self.cases).items() if count > 1]:
            raise DataError("a case stands twice among the predictions", case=twice[0])

        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("sites", "splits", "folds"):
            put(name, tuple(getattr(self, name)) or (None,) * n)
        put("columns", MappingProxyType({str(k): tuple(v) for k, v in self.columns.items()}))
        if self.thresholds is not None:
            put("thresholds", self._operating_point(tuple(float(t) for t in self.thresholds)))
        put("abstained", _fixed(np.zeros(n) if self.abstained is None else self.abstained, np.bool_))
        for name in ("scores", "uncalibrated", "spread"):
            if getattr(self, name) is not None:
                put(name, _fixed(getattr(self, name), np.float64).reshape(-1, len(self.labels)))
        if self.kind != "regression":  # rounding may leave 1 + 1e-16, which no metric takes for a probability
            for name in ("scores", "uncalibrated"):
                values = getattr(self, name)
                if values is not None and len(values) and _chances(values):
                    put(name, _fixed(np.clip(values, 0, 1), np.float64))
        put("truth", _fixed(self.truth, np.float64 if self.kind in TRUTH_BY_LABEL else np.int64))
        self._check(n)
        put("decided", tuple(map(tuple, self.decided)) if self.decided else self._largest())

    def _operating_point(self, given: tuple[float, ...]) -> tuple[float, ...]:
        if self.kind in ("regression", "ordinal") or len(given) != len(self.labels):
            raise DataError("the thresholds do not fit the classes", got=given, expected=f"{len(self.labels)} of them")
        if not all(0 <= t <= 1 for t in given):
            raise DataError("a threshold lies outside 0…1", got=given)
        if self.kind != "binary" or self.positive not in (0, 1):
            return given
        cut = given[self.positive]
        return (1 - cut, cut) if self.positive else (cut, 1 - cut)

    def _check(self, n: int) -> None:
        per_case: dict[str, Sequence[Any]] = {
            name: getattr(self, name)
            for name in ("patients", "truth", "scores", "abstained", "sites", "splits", "folds")
        }
        per_case |= {f"column {k}": v for k, v in self.columns.items()}
        per_case |= {k: v for k in ("uncalibrated", "spread") if (v := getattr(self, k)) is not None}
        per_case |= {"decided": self.decided} if self.decided else {}
        for name, values in per_case.items():
            if len(values) != n:
                raise DataError(f"the predictions' {name} do not fit the cases", got=len(values), expected=n)
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise DataError("the predictions' labels are absent or repeat", got=list(self.labels))
        for name in ("scores", "uncalibrated"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
                raise DataError("a score is not a finite number", case=self.cases[bad])
            if values is not None and self.kind != "regression" and len(values) and not _chances(values):
                raise DataError("a probability lies outside 0…1", got=f"{values.min():g} … {values.max():g}")
        wide = (n, len(self.labels)) if self.kind in TRUTH_BY_LABEL else (n,)
        if self.truth.shape != wide:
            raise DataError("the truth does not fit the predictions", got=self.truth.shape, expected=wide)
        if self.kind not in TRUTH_BY_LABEL and n and not 0 <= self.truth.min() <= self.truth.max() < len(self.labels):
            raise DataError("the truth names an unknown class", got=int(self.truth.max()), expected=list(self.labels))
        if self.kind == "binary" and (len(self.labels) != 2 or self.positive not in (0, 1)):
            raise DataError(
                "binary scores have two classes and say which is positive", got=(self.labels, self.positive)
            )

    def _largest(self) -> tuple[tuple[str, ...], ...]:
        """The classes the operating point says, the largest score where there is none; nothing where abstained."""
        return tuple(
            () if self.abstained[row] else names  # type: ignore[index]
            for row, names in enumerate(called(self.scores, self))
        )

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def positive_name(self) -> str | None:
        """The class a binary score speaks of."""
        return None if self.positive is None else self.labels[self.positive]

    @property
    def threshold(self) -> float | None:
        """The score from which a case is called positive; None where there is no such number."""
        return None if self.positive is None or self.thresholds is None else self.thresholds[self.positive]

    @property
    def classes(self) -> Classes:
        """What the columns mean, in the words of the metrics.

        Raises:
            DataError: The table is of predicted numbers.
        """
        if self.kind == "regression":
            raise DataError("predicted numbers have no classes")
        return Classes(self.kind, self.labels, self.positive)

    @property
    def positive_scores(self) -> Floats:
        """(n,) the binary score.

        Raises:
            DataError: The table is not binary.
        """
        return self.scores[:, self._binary("a score of the positive class")]

    @property
    def is_positive(self) -> Bools:
        """(n,) whether the positive class is the truth.

        Raises:
            DataError: The table is not binary.
        """
        return np.asarray(self.truth == self._binary("a positive class"))

    def _binary(self, what: str) -> int:
        if self.positive is None:
            raise DataError(f"only binary predictions have {what}", got=self.kind)
        return self.positive

    def at(self, where: Bools | NDArray[np.intp] | Sequence[int]) -> PredictionTable:
        """Some of the cases: a mask (n,) or row numbers."""
        picked = np.asarray(where)
        rows = np.arange(len(self))[picked if picked.size else picked.astype(np.intp)]

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[int(row)] for row in rows)

        return replace(
            self,
            cases=pick(self.cases),
            patients=pick(self.patients),
            truth=self.truth[rows],
            scores=self.scores[rows],
            uncalibrated=None if self.uncalibrated is None else self.uncalibrated[rows],
            spread=None if self.spread is None else self.spread[rows],
            decided=pick(self.decided),
            abstained=np.asarray(self.abstained)[rows],
            sites=pick(self.sites),
            splits=pick(self.splits),
            folds=pick(self.folds),
            columns={name: pick(values) for name, values in self.columns.items()},
        )

    def with_scores(
        self, scores: Floats, thresholds: tuple[float, ...] | None, abstained: Bools | None = None
    ) -> PredictionTable:
        """The same cases with other scores and another operating point; the decisions follow from them."""
        return replace(self, scores=scores, thresholds=thresholds, decided=(), abstained=abstained)

    def factors(self) -> dict[str, tuple[COLUMN_TYPES, ...]]:
        """Everything that cases can be grouped by: the site where there are several, then the clinical columns."""
        named = {"site": self.sites} if len({s for s in self.sites if s is not None}) > 1 else {}
        return {**named, **{k: v for k, v in self.columns.items() if k != "site" or not named}}


def _chances(values: Floats) -> bool:
    return bool(values.min() >= -1e-9 and values.max() <= 1 + 1e-9)


def called(scores: Floats, table: PredictionTable) -> list[tuple[str, ...]]:
    """The classes that scores say at the table's operating point; the largest score where there is none.

    Args:
        scores: (n, labels), calibrated or not.
        table: Gives labels, kind and thresholds.
    """
    labels, cut = table.labels, table.thresholds
    if table.kind == "regression":
        return [()] * len(scores)
    if table.kind == "multilabel":
        over = scores >= (np.full(len(labels), 0.5) if cut is None else np.asarray(cut))
        return [tuple(name for name, yes in zip(labels, row, strict=True) if yes) for row in over]
    if table.positive is not None and cut is not None:
        names = (labels[1 - table.positive], labels[table.positive])
        return [(names[int(score >= cut[table.positive])],) for score in scores[:, table.positive]]
    return [(labels[int(best)],) for best in scores.argmax(axis=1)] if len(scores) else []


def table_of(
    dataset: Dataset,
    scores: Mapping[str, Scores],
    *,
    thresholds: Sequence[float] | None = None,
    folds: Mapping[str, int] | None = None,
) -> PredictionTable:
    """The table of a dataset's annotated cases that were scored, in the dataset's order.

    Args:
        dataset: Gives truth, patients, sites, splits and clinical columns.
        scores: By case identifier.
        thresholds: The operating point the scores were decided at, as ``PredictionTable.thresholds``.
        folds: Which fold's network judged a case, by case identifier.

    Raises:
        DatasetError: No scored case has a truth, or its classes are not the scores'.
    """
    kept = [case for case in dataset if case.id in scores and known(case, dataset.kind)]
    if not kept:
        raise DatasetError(f"no case of {dataset.name} has both a prediction and a truth")
    each = [scores[case.id] for case in kept]
    names = tuple(label.name for label in each[0].labels)
    if names != dataset.label_names or each[0].kind != dataset.kind:
        raise DatasetError(
            "predictions and truth are of different classes",
            got=f"{each[0].kind}: {', '.join(names)}",
            expected=f"{dataset.kind}: {', '.join(dataset.label_names)}",
            remedy="map the dataset's labels onto the bundle's (labels=)",
        )
    return PredictionTable(
        cases=tuple(case.id for case in kept),
        patients=tuple(case.patient for case in kept),
        truth=truth_of(kept, dataset.kind),
        scores=np.stack([s.values for s in each]),
        labels=names,
        kind=dataset.kind,
        positive=dataset.positive if dataset.kind == "binary" else None,
        thresholds=None if thresholds is None else tuple(map(float, thresholds)),
        uncalibrated=_stacked([s.uncalibrated for s in each]),
        spread=_stacked([s.spread for s in each]),
        decided=tuple(s.decided for s in each) if dataset.kind != "regression" else (),
        abstained=np.array([s.abstained for s in each]),
        sites=tuple(case.site for case in kept),
        splits=tuple(case.split for case in kept),
        folds=tuple((folds or {}).get(case.id) for case in kept),
        columns=columns_of(kept),
    )


def _stacked(rows: Sequence[Floats | None]) -> Floats | None:
    there = [row for row in rows if row is not None]
    return np.stack(there) if len(there) == len(rows) else None


def known(case: Case, kind: ScoreKind) -> bool:
    """Whether the case has a truth of this kind to be judged by."""
    if not case.truth.annotated:
        return False
    if kind in TRUTH_BY_LABEL:
        return case.truth.values is not None and not np.isnan(case.truth.values).all()
    return case.truth.label is not None


def truth_of(cases: Sequence[Case], kind: ScoreKind) -> NDArray[Any]:
    """(n,) class indices, or (n, labels) numbers for multi-label and regression."""
    if kind in TRUTH_BY_LABEL:
        return np.array([case.truth.values for case in cases], dtype=np.float64)
    return np.array([case.truth.label for case in cases], dtype=np.int64)


def columns_of(cases: Sequence[Case]) -> dict[str, tuple[COLUMN_TYPES, ...]]:
    """The clinical columns of some cases, in the order in which they first occur."""
    names = dict.fromkeys(name for case in cases for name in case.columns)
    return {name: tuple(_recorded(case.columns.get(name)) for case in cases) for name in names}


def _recorded(value: COLUMN_TYPES) -> COLUMN_TYPES:
    return None if value == "" or (isinstance(value, float) and np.isnan(value)) else value
