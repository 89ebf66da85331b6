"""Can something that is no medicine predict the label? Then a network will use it, and fail where it is absent.

Each candidate (a column, a property of the file, the border of the picture) predicts the label out of fold, by
patient; what it reaches is stated as AUROC with its interval. Known from DeGrave, Janizek & Lee 2021: networks read
laterality tokens and borders of radiographs rather than lungs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.check.facts import Facts
from medmap.check.issue import Issue, Severity
from medmap.dataset import Case, Dataset, folds
from medmap.metrics import Estimate, auroc

Floats = NDArray[np.float64]

CLEARLY = 0.55  # the interval's lower end from which a prediction is no chance
BORDER_CLEARLY = 0.65  # borders show some anatomy: more is asked of them
STRONG = 0.75
GIVEN_AWAY = 0.97  # an AUROC that is too good to be a property of the patient
FEWEST = 10  # cases on each side, below which nothing is said
MOST_CASES = 4000  # drawn by seed from more: the interval is narrow enough
MOST_CLASSES = 12
FOLDS = 5
BINS = 10
SMOOTHING = 5.0  # cases' worth of the overall share that a rare category is drawn towards
COMPONENTS = 24
# What a person is may well go along with a disease: that is no mistake of the data, unless it gives the label away.
DEMOGRAPHIC = ("age", "sex", "gender", "race", "ethnicity", "bmi", "height", "weight")


@dataclass(frozen=True, eq=False)
class Question:
    """A yes-or-no question that a label answers for each of some cases."""

    name: str
    cases: tuple[Case, ...]
    yes: NDArray[np.bool_]


Asked = tuple[Question, NDArray[np.int64]]


def questions(dataset: Dataset) -> list[Question]:
    """One question for a binary dataset, one a class for several, whether something was found for boxes."""
    rows: list[tuple[str, list[tuple[Case, bool]]]] = []
    cases = list(dataset)
    if dataset.task == "detect":
        rows.append(("a finding", [(c, bool(c.truth.boxes)) for c in cases if c.truth.boxes is not None]))
    elif dataset.task == "classify" and dataset.kind != "regression":
        classes = [dataset.positive] if dataset.kind == "binary" else range(len(dataset.labels))
        for index in classes:
            if index is None:
                continue
            known = [(c, answer) for c in cases if (answer := _answer(c, index)) is not None]
            rows.append((dataset.label_names[index], known))
    found = []
    for name, known in rows:
        yes = np.array([answer for _, answer in known], bool)
        if min(int(yes.sum()), int((~yes).sum())) >= FEWEST:
            found.append(Question(name, tuple(case for case, _ in known), yes))
    found.sort(key=lambda q: -min(int(q.yes.sum()), int((~q.yes).sum())))
    return [_drawn(q) for q in found[:MOST_CLASSES]]


def _answer(case: Case, index: int) -> bool | None:
    truth = case.truth
    if truth.label is not None:
        return truth.label == index
    if truth.values is None or math.isnan(truth.values[index]):
        return None
    return truth.values[index] == 1


def _drawn(question: Question) -> Question:
    if len(question.cases) <= MOST_CASES:
        return question
    keep = np.sort(np.random.default_rng(0).choice(len(question.cases), MOST_CASES, replace=False))
    return Question(question.name, tuple(question.cases[i] for i in keep), question.yes[keep])


def fold_numbers(cases: Sequence[Case]) -> NDArray[np.int64] | None:
    """(n,) the part in which each case is held out, by patient; None for too few patients."""
    if len({case.patient for case in cases}) < 2 * FOLDS:
        return None
    place = {case.id: number for number, part in enumerate(folds(cases, FOLDS, seed=0)) for case in part}
    return np.array([place[case.id] for case in cases])


# -- two small predictors, out of fold --------------------------------------------------------------------------------


def categorised(values: Sequence[str | float | None]) -> NDArray[np.int64]:
    """(n,) category numbers: text as it is, numbers in at most ten bins of equal count, what is missing by itself."""
    numeric = [v for v in values if isinstance(v, int | float) and not math.isnan(v)]
    edges: Floats = np.zeros(0)
    if len(set(numeric)) > BINS:
        edges = np.unique(np.quantile(numeric, np.linspace(0, 1, BINS + 1)[1:-1]))
    keys: dict[Hashable, int] = {}
    numbers = []
    for value in values:
        key: Hashable = value
        if isinstance(value, int | float):
            key = "missing" if math.isnan(value) else float(value)
            if len(edges) and not math.isnan(value):
                key = ("bin", int(np.searchsorted(edges, value, "right")))
        numbers.append(keys.setdefault(key, len(keys)))
    return np.array(numbers)


def rates_out_of_fold(category: NDArray[np.int64], yes: NDArray[np.bool_], fold: NDArray[np.int64]) -> Floats:
    """(n,) share of yes in a case's category among the other folds, drawn towards the overall share."""
    count = int(category.max()) + 1
    scores = np.empty(len(yes))
    for number in range(FOLDS):
        held, rest = fold == number, fold != number
        overall = float(yes[rest].mean())
        total = np.bincount(category[rest], minlength=count)
        hits = np.bincount(category[rest], weights=yes[rest], minlength=count)
        # relative to what the other folds say of everybody: folds stay comparable
        scores[held] = ((hits + SMOOTHING * overall) / (total + SMOOTHING))[category[held]] - overall
    return scores


def linear_out_of_fold(features: Floats, yes: NDArray[np.bool_], fold: NDArray[np.int64]) -> Floats | None:
    """(n,) ridge regression on principal components, out of fold; None where the features say nothing."""
    moving = features.std(axis=0) > 1e-9
    if not moving.any():
        return None
    features = features[:, moving]
    scores = np.empty(len(yes))
    for number in range(FOLDS):
        held, rest = fold == number, fold != number
        x, y = features[rest], yes[rest].astype(np.float64)
        mean, sd = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
        x = (x - mean) / sd
        _, directions = np.linalg.eigh(x.T @ x)
        basis = directions[:, ::-1][:, :COMPONENTS]
        z = x @ basis
        penalty = 1e-2 * np.trace(z.T @ z) / z.shape[1] + 1e-9
        weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean()))
        scores[held] = ((features[held] - mean) / sd) @ basis @ weights
    return scores


# -- the questions put to each candidate ------------------------------------------------------------------------------


def _prepared(facts: Facts) -> list[Asked]:
    """Every question, with the part in which each of its cases is held out."""
    pairs = [(q, fold_numbers(q.cases)) for q in questions(facts.dataset)]
    return [(q, fold) for q, fold in pairs if fold is not None]


def _reached(question: Question, scores: Floats) -> Estimate:
    patients = [case.patient for case in question.cases]
    return auroc(scores, question.yes, patients if len(set(patients)) < len(patients) else None)


def _best(
    asked: Sequence[Asked], values: Mapping[str, Any] | None, features: Mapping[str, Floats] | None = None
) -> tuple[str, Estimate] | None:
    """The class best predicted by one candidate (a value or a row of features a case), with its AUROC."""
    found: list[tuple[str, Estimate]] = []
    for question, fold in asked:
        if features is not None:
            have = np.array([case.id in features for case in question.cases])
            if not have.all():
                question = Question(  # noqa: PLW2901  (the question for the cases that were seen)
                    question.name, tuple(c for c, h in zip(question.cases, have, strict=True) if h), question.yes[have]
                )
            if min(int(question.yes.sum()), int((~question.yes).sum())) < FEWEST:
                continue
            table = np.stack([features[case.id] for case in question.cases])
            scores = linear_out_of_fold(table, question.yes, fold[have])
        else:
            category = categorised([(values or {}).get(case.id) for case in question.cases])
            usable = int(category.max()) > 0
            scores = rates_out_of_fold(category, question.yes, fold) if usable else None
        if scores is not None:
            estimate = _reached(question, scores)
            if estimate.value is not None and estimate.low is not None:
                found.append((question.name, estimate))
    return max(found, key=lambda row: row[1].low or 0.0, default=None)


def _words(name: str, estimate: Estimate) -> str:
    return f"{name} with an AUROC of {estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _details(candidate: str, name: str, e: Estimate) -> dict[str, Any]:
    return {"predictor": candidate, "class": name, "auroc": e.value, "low": e.low, "high": e.high, "n": e.n}


def shortcut_column(facts: Facts) -> Iterator[Issue]:
    """A site or any other column that predicts the label by itself."""
    dataset = facts.dataset
    names = list(dict.fromkeys(name for case in dataset for name in case.columns))
    candidates: dict[str, dict[str, Any]] = {name: {c.id: c.columns.get(name) for c in dataset} for name in names}
    if any(case.site for case in dataset):
        candidates["site"] = {case.id: case.site for case in dataset}
    asked = _prepared(facts)
    for name, values in candidates.items():
        best = _best(asked, values)
        if best is None or (best[1].low or 0) < CLEARLY:
            continue
        wanted, estimate = best
        person = name.lower() in DEMOGRAPHIC and (estimate.value or 0) < 0.9
        severity: Severity = "info" if person else "warning"
        yield Issue(
            "shortcut_column",
            severity,
            f"The column {name} alone predicts {_words(wanted, estimate)}",
            _column_effect(name, person, estimate.value or 0),
            f"Look at the metrics within each value of {name}; match or weight the cases by it; test on data from "
            "elsewhere.",
            details=_details(name, wanted, estimate),
        )


def _column_effect(name: str, person: bool, value: float) -> str:
    if person:
        return "A network can gain from it without seeing the disease; subgroup rows of the report show whether it did."
    if value >= GIVEN_AWAY and name != "site":
        return "It may be the answer written down: what is known only after the diagnosis must not be an input."
    return (
        "A network can learn to recognise it in the images instead of the disease, and fails where it is "
        "distributed otherwise."
    )


_ACQUISITION: tuple[tuple[str, Any], ...] = (
    ("the image's size", lambda i: "×".join(map(str, i.shape))),
    ("the number of rows", lambda i: float(i.shape[0])),
    ("the number of columns", lambda i: float(i.shape[1])),
    ("the shape of the picture", lambda i: round(i.shape[1] / i.shape[0], 3)),
    ("the pixel spacing", lambda i: None if i.spacing_mm is None else float(i.spacing_mm[0])),
    ("the slice spacing", lambda i: None if i.spacing_mm is None or len(i.spacing_mm) < 3 else i.spacing_mm[2]),
    ("the orientation", lambda i: i.orientation),
    ("the number of channels", lambda i: str(i.channels)),
    ("the bit depth", lambda i: f"{i.dtype} {i.bits or ''}"),
    ("the polarity", lambda i: i.photometric),
    ("the file's format", lambda i: i.format),
    ("the compression", lambda i: i.transfer_syntax),
)


def shortcut_acquisition(facts: Facts) -> Iterator[Issue]:
    """Size, spacing, depth, format: how an image was made predicts the label. The strongest is named first."""
    asked = _prepared(facts)
    for name, images in facts.by_input.items():
        found: list[tuple[str, str, Estimate]] = []
        for candidate, of in _ACQUISITION:
            values = {image.case: of(image) for image in images}
            if len(Counter(map(str, values.values()))) < 2:
                continue
            best = _best(asked, values)
            if best is not None and (best[1].low or 0) >= CLEARLY:
                found.append((candidate, *best))
        if not found:
            continue
        found.sort(key=lambda row: -(row[2].low or 0))
        candidate, wanted, estimate = found[0]
        others = f" (so do {', '.join(row[0] for row in found[1:4])})" if len(found) > 1 else ""
        of_input = f" of the input {name}" if len(facts.dataset.inputs) > 1 else ""
        yield Issue(
            "shortcut_acquisition",
            "warning",
            f"{candidate[0].upper()}{candidate[1:]}{of_input} alone predicts {_words(wanted, estimate)}{others}",
            "The classes were made in different ways; a network recognises the way and not the disease.",
            "Export all images alike; mix devices within each class; test on data from elsewhere.",
            details={**_details(candidate, wanted, estimate), "others": [row[0] for row in found[1:]]},
        )


def shortcut_border(facts: Facts) -> Iterator[Issue]:
    """The border and corners of the picture, where burned-in text and markers stand, predict the label."""
    asked = _prepared(facts)
    for name, images in facts.by_input.items():
        best = _best(asked, None, {image.case: image.border.astype(np.float64) for image in images})
        if best is None or (best[1].low or 0) < BORDER_CLEARLY:
            continue
        wanted, estimate = best
        of_input = f" of the input {name}" if len(facts.dataset.inputs) > 1 else ""
        strong = (estimate.low or 0) >= STRONG
        yield Issue(
            "shortcut_border",
            "warning",
            f"The border and corners{of_input} alone predict {_words(wanted, estimate)}",
            "Markers, text, collimation or framing go along with the class"
            + (": " if strong else ", or anatomy that reaches the border does: ")
            + "a network may look there and not at the disease.",
            "Look at images of each class side by side; crop or cover the border and compare the result; "
            "ask medmap explain where the network looks.",
            details=_details("border and corners", wanted, estimate),
        )
