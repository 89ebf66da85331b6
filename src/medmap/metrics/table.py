"""All rows of ``metrics.json`` for one classification, with one bootstrap shared by everything that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import DatasetError, UsageError
from medmap.metrics.classification import (
    BINS,
    balanced_accuracy_of,
    binned_excess,
    bins_for,
    ece_of,
    equal_mass_bins,
    f1_of,
    largest_scores,
    npv_of,
    ppv_of,
    sensitivity_of,
    specificity_of,
)
from medmap.metrics.continuous import ordinal_rows
from medmap.metrics.estimate import Estimate, undefined
from medmap.metrics.inputs import ROUNDING, Bools, Classes, Floats, Ints, Patients, whole_numbers
from medmap.metrics.intervals import (
    Bootstrap,
    bounded_estimate,
    bounded_mean_fallback,
    drawn_patients,
    proportion,
    proportion_interval,
    replicate_interval,
)
from medmap.metrics.ranking import Ranking, auprc_fallback, auroc_of, missing_class

_AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv", "f1")
_NAMES = ("auroc", "auprc", *_AT_THRESHOLD, "brier", "ece")
_OF_LABEL = ("accuracy", "balanced_accuracy")  # of each yes-or-no question; of all classes together otherwise
_ORDER = ("auroc", "auprc", *_OF_LABEL, *_AT_THRESHOLD, "brier", "ece")


@dataclass(frozen=True, eq=False)
class _Question:
    """One yes-or-no question: is it this class?

    Args:
        group: The class, or ``all``.
        chance: (n,) its probability.
        yes: (n,) whether it is.
        called: (n,) whether it was called so at the operating threshold.
        largest: (n,) whether it was called so by the largest score, or at 0.5.
        patients: Whose cases they are.
        threshold: The operating threshold; None where the largest score decides.
    """

    group: str
    chance: Floats
    yes: Bools
    called: Bools
    largest: Bools
    patients: Patients
    threshold: float | None

    @property
    def n(self) -> int:
        return len(self.yes)

    def at_threshold(self) -> list[Estimate]:
        """The metrics that have an interval in closed form at the operating point."""
        each = (sensitivity_of, specificity_of, ppv_of, npv_of, f1_of)
        rows = [of(self.yes, self.called, self.patients) for of in each]
        return [row.with_(threshold=self.threshold) for row in rows]

    def totals(self) -> Floats:
        """(patients, 10 + bins) sums that the linear metrics are made of: TP FP FN TN twice, n, squared error, bins."""
        columns: list[NDArray[np.generic]] = []
        for call in (self.called, self.largest):
            columns += [self.yes & call, ~self.yes & call, self.yes & ~call, ~self.yes & ~call]
        excess = self.chance - self.yes
        columns += [np.ones(self.n), excess**2]
        sums = np.stack([self.patients.totals(column) for column in columns], axis=1)
        bins = equal_mass_bins(self.chance, bins_for(self.n)) if self.n else np.zeros(0, dtype=np.int64)
        return np.concatenate([sums, binned_excess(excess, bins, BINS, self.patients)], axis=1)


def _linear_metrics(sums: Floats) -> dict[str, Floats]:
    """Metrics of each draw from its sums (draws, 10 + bins); NaN where a draw cannot define one."""
    tp, fp, fn, tn, tp5, fp5, fn5, tn5, n, squared = sums[:, :10].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "accuracy": (tp5 + tn5) / n,
            "balanced_accuracy": (tp5 / (tp5 + fn5) + tn5 / (tn5 + fp5)) / 2,
            "brier": squared / n,
            "ece": np.abs(sums[:, 10:]).sum(axis=1) / n,
        }


def classification_table(
    probabilities: ArrayLike,
    truth: ArrayLike,
    classes: Classes,
    *,
    patients: Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
    stage: str | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[Estimate]:
    """Every metric of a classification that ``metrics.json`` names, with 95 % intervals over patients.

    Binary: the rows speak of the positive class and their group is ``all``. Otherwise each class has its rows against
    the others; ``all`` is their mean (macro), and rows with ``average="micro"`` pool all decisions. ``accuracy`` and
    ``balanced_accuracy`` are at the largest score (binary and multi-label: at 0.5; multi-label: of each label, then
    the mean, as MedMNIST publishes it); sensitivity, specificity, PPV, NPV and F1 at the thresholds, a score at the
    threshold counting as positive. ``ece`` with ``average="top_label"`` judges the largest probability of several
    classes (Guo et al. 2017). ``ordinal`` adds ``quadratic_kappa`` and ``mae`` in grades.

    Args:
        probabilities: (n, C), each in [0, 1].
        truth: (n,) class indices; multi-label: (n, C) of 0, 1 and NaN for unknown, which is left out of its label.
        classes: What the columns mean.
        patients: (n,) patient of each case; None when each case is another patient.
        thresholds: (C,) operating point of each class, in [0, 1]. None: 0.5, and for several classes the largest
            score, then the rows carry no threshold.
        stage: What is written into the rows, as ``raw`` or ``calibrated``.
        bootstrap: Replicates and seed; 2,000 and 0 when absent. Very large tables take fewer, and say so.

    Returns:
        The rows, ``all`` first; what cannot be defined has value None and a reason. A mean over fewer classes than
        there are says which are missing.

    Raises:
        UsageError: Shapes that do not fit together, a threshold outside [0, 1].
        DatasetError: A probability that is NaN or outside [0, 1], a truth outside the classes.

    Source: each metric's own function; macro intervals by the bootstrap over patients, see ``Bootstrap``.

    Examples:
        >>> rows = classification_table([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], [0, 1, 1],
        ...                             Classes("binary", ("benign", "malignant"), positive=1))
        >>> [(r.name, r.value) for r in rows][:3]
        [('auroc', 1.0), ('auprc', 1.0), ('accuracy', 0.6666666666666666)]
    """
    chance, true = _checked(probabilities, truth, classes)
    limits = _checked_thresholds(thresholds, classes)
    who = Patients.of(patients, len(chance))
    questions, pooled = _questions(chance, true, classes, limits, who)
    cells = sum(q.n for q in questions) + (pooled.n if pooled else 0)
    draws = (bootstrap or Bootstrap()).affordable(cells)
    replicates = _replicates([*questions, *([pooled] if pooled else [])], who.count, draws)
    per_label = classes.kind in ("binary", "multilabel")
    wanted = [name for name in _ORDER if per_label or name not in _OF_LABEL]
    own = [_rows(q, wanted, r, draws) for q, r in zip(questions, replicates, strict=False)]
    if classes.kind == "binary":
        return [row.with_(stage=stage) for row in own[0]]
    rows = [
        _macro(i, own, [r[name] for r in replicates[: len(own)]], len(chance), draws) for i, name in enumerate(wanted)
    ]
    if not per_label:
        called = largest_scores(chance) if len(chance) else np.zeros(0, dtype=np.int64)
        rows += _of_all_classes(chance, true.astype(np.int64), called, who, draws)
        if classes.kind == "ordinal":
            rows += ordinal_rows(called, true.astype(np.int64), who, draws)
    if pooled:
        micro = _rows(pooled, ["auroc", "auprc", *_AT_THRESHOLD], replicates[-1], draws)
        rows += [row.with_(average="micro") for row in micro]
    return [row.with_(stage=stage) for row in [*rows, *(row for group in own for row in group)]]


def _checked(probabilities: ArrayLike, truth: ArrayLike, classes: Classes) -> tuple[Floats, Floats]:
    """(n, C) probabilities; (n,) truth, or (n, C) with NaN for multi-label."""
    width = len(classes.labels)
    try:
        chance = np.asarray(probabilities, dtype=np.float64)
        true = np.asarray(truth, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError("probabilities or truth are not numbers", got=type(probabilities).__name__) from error
    if chance.ndim != 2 or chance.shape[1] != width:
        raise UsageError("probabilities have the wrong shape", got=chance.shape, expected=f"(cases, {width})")
    outside = ~((chance >= -ROUNDING) & (chance <= 1 + ROUNDING))
    if outside.any():
        raise DatasetError(
            "probabilities are not all in [0, 1]",
            got=f"{int(outside.sum())} outside or NaN",
            remedy="give probabilities, not logits",
        )
    chance = np.clip(chance, 0, 1)
    shape = chance.shape if classes.kind == "multilabel" else chance.shape[:1]
    if true.shape != shape:
        raise UsageError("truth has the wrong shape", got=true.shape, expected=shape)
    if classes.kind != "multilabel":
        whole_numbers("truth", true, width)
    elif not np.isin(true[~np.isnan(true)], (0.0, 1.0)).all():
        raise DatasetError(
            "a multi-label truth is 0, 1 or NaN (unknown)", got=f"{np.nanmin(true):g} … {np.nanmax(true):g}"
        )
    return chance, true


def _checked_thresholds(thresholds: Sequence[float] | None, classes: Classes) -> Sequence[float | None]:
    width = len(classes.labels)
    if thresholds is None:
        return [0.5 if classes.kind in ("binary", "multilabel") else None] * width
    if len(thresholds) != width:
        raise UsageError("every class needs its threshold", got=f"{len(thresholds)}", expected=f"{width}")
    if not all(0 <= t <= 1 for t in thresholds):
        raise UsageError("a threshold is outside [0, 1]", got=list(thresholds))
    return [float(t) for t in thresholds]


def _questions(
    chance: Floats, true: Floats, classes: Classes, limits: Sequence[float | None], who: Patients
) -> tuple[list[_Question], _Question | None]:
    """One question for the positive class, or one for each class and all of them pooled."""
    columns = range(len(classes.labels)) if classes.positive is None else [classes.positive]
    single = classes.kind in ("multiclass", "ordinal")
    best: Ints | None = largest_scores(chance) if single and len(chance) else None
    questions = []
    for c in columns:
        known = ~np.isnan(true[:, c]) if classes.kind == "multilabel" else np.ones(len(chance), dtype=np.bool_)
        column = chance[known, c]
        yes = true[known, c] == 1 if classes.kind == "multilabel" else true == c
        largest = column >= 0.5 if best is None else best == c
        limit = limits[c]
        called = largest if limit is None else column >= limit
        group = "all" if classes.kind == "binary" else classes.labels[c]
        questions.append(_Question(group, column, yes, called, largest, who.at(known), limit))
    if len(questions) == 1:
        return questions, None
    pooled = _Question(
        "all",
        chance=np.concatenate([q.chance for q in questions]),
        yes=np.concatenate([q.yes for q in questions]),
        called=np.concatenate([q.called for q in questions]),
        largest=np.concatenate([q.largest for q in questions]),
        patients=Patients(np.concatenate([q.patients.codes for q in questions]), who.count),
        threshold=_common([q.threshold for q in questions]),
    )
    return questions, pooled


def _common(limits: Sequence[float | None]) -> float | None:
    """The threshold that all classes share, if they do."""
    return limits[0] if len(set(limits)) == 1 else None


def _replicates(questions: Sequence[_Question], patients: int, draws: Bootstrap) -> list[dict[str, Floats]]:
    """Every metric of every question in every draw: name -> (replicates,)."""
    empty = {name: np.full(draws.replicates, np.nan) for name in (*_NAMES, *_OF_LABEL)}
    if not patients:
        return [empty for _ in questions]
    totals = [question.totals() for question in questions]
    rankings = [None if missing_class(q.yes) else Ranking(q.chance, q.yes, q.patients) for q in questions]
    found: list[dict[str, list[Floats]]] = [{} for _ in questions]
    for weights in draws.weights(patients, max(q.n for q in questions)):
        wide = weights.astype(np.float64)
        for sums, ranking, parts in zip(totals, rankings, found, strict=True):
            here = _linear_metrics(wide @ sums)
            if ranking is not None:
                here["auroc"], here["auprc"] = ranking.weighted(weights)
            for name, values in here.items():
                parts.setdefault(name, []).append(values)
    return [{**empty, **{name: np.concatenate(values) for name, values in parts.items()}} for parts in found]


def _rows(
    question: _Question, wanted: Sequence[str], replicates: dict[str, Floats], draws: Bootstrap
) -> list[Estimate]:
    """The wanted metrics of one question, in that order."""
    yes, who, n = question.yes, question.patients, question.n
    rows = {row.name: row for row in question.at_threshold()}
    rows["auroc"] = auroc_of(question.chance, yes, who)
    if reason := missing_class(yes):
        rows["auprc"] = undefined("auprc", n, reason)
    else:
        value = Ranking(question.chance, yes, who).average_precision()
        rows["auprc"] = bounded_estimate("auprc", value, replicates["auprc"], n, draws, auprc_fallback(value, yes, who))
    rows["accuracy"] = proportion("accuracy", yes == question.largest, who, "no case")
    rows["balanced_accuracy"] = _balanced(question, replicates["balanced_accuracy"], draws)
    excess = question.chance - yes
    if n:
        brier = float((excess**2).mean())
        binned = np.bincount(equal_mass_bins(question.chance, bins_for(len(question.chance))), weights=excess)
        for name, value in (("brier", brier), ("ece", float(np.abs(binned).sum()) / n)):
            fallback = bounded_mean_fallback(value, drawn_patients(who))
            rows[name] = bounded_estimate(name, value, replicates[name], n, draws, fallback)
    else:
        rows.update({name: undefined(name, 0, "no case") for name in ("brier", "ece")})
    return [rows[name].with_(group=question.group) for name in wanted]


def _balanced(question: _Question, replicates: Floats, draws: Bootstrap) -> Estimate:
    yes, call, who = question.yes, question.largest, question.patients
    if reason := missing_class(yes):
        return undefined("balanced_accuracy", question.n, reason)
    ends = [proportion_interval((call == c)[yes == c], who.at(yes == c))[0] for c in (True, False)]
    low, high = np.mean(ends, axis=0)
    value = float((call[yes].mean() + (~call[~yes]).mean()) / 2)
    fallback = ((float(low), float(high)), "mean of the classes' Wilson intervals")
    return bounded_estimate("balanced_accuracy", value, replicates, question.n, draws, fallback)


def _macro(
    index: int, own: Sequence[Sequence[Estimate]], replicates: Sequence[Floats], n: int, draws: Bootstrap
) -> Estimate:
    """The mean of one metric (by its place in the rows) over the classes that define it.

    A class that a draw leaves undefined keeps its estimate there: dropping it would shift the mean. Where no draw moves
    the mean (perfect separation), the classes' own intervals are averaged, which is on the safe side.
    """
    rows = [group[index] for group in own]
    name = rows[0].name
    there = [i for i, row in enumerate(rows) if row.value is not None]
    missing = [row.group for row in rows if row.value is None]
    if not there:
        return undefined(name, n, f"no class defines it: {rows[0].reason}")
    values = np.array([rows[i].value for i in there], dtype=np.float64)
    known = np.stack([replicates[i] for i in there], axis=1)
    drawn = np.where(np.isfinite(known), known, values)
    value = float(values.mean())
    interval = replicate_interval(value, drawn.mean(axis=1), bias_corrected=name == "ece")
    method = draws.method + (", bias-corrected" if name == "ece" else "")
    if interval is None:
        ends = np.array([[rows[i].low, rows[i].high] for i in there], dtype=np.float64).mean(axis=0)
        interval, method = (float(ends[0]), float(ends[1])), "mean of the classes' intervals"
    reason = None
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        reason = f"mean of {len(there)} of {len(rows)} classes; undefined for {', '.join(missing[:3])}{more}"
    return Estimate(
        name,
        value,
        min(interval[0], value),
        max(interval[1], value),
        n,
        method,
        threshold=_common([row.threshold for row in rows]),
        reason=reason,
    )


def _of_all_classes(chance: Floats, true: Ints, called: Ints, who: Patients, draws: Bootstrap) -> list[Estimate]:
    """What several exclusive classes have together: accuracy, balanced accuracy, calibration of the largest score."""
    rows = [
        proportion("accuracy", true == called, who, "no case"),
        balanced_accuracy_of(true, called, who, draws),
    ]
    if len(chance):
        rows.append(ece_of(chance.max(axis=1), true == called, who, draws).with_(average="top_label"))
    return rows
