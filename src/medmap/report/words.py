"""What a report says in sentences: the result in one, the methods in a paragraph, numbers as a reader expects them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmap.evaluate import PredictionTable, Report
from medmap.evaluate.names import decimals, metric_name
from medmap.metrics import Estimate

SPLITS = {
    "train": "training split",
    "val": "validation split",
    "test": "test split",
    "all": "all cases",
    "oof": "out-of-fold predictions",
}


def shown(row: Estimate | None) -> str:
    """The value, or a dash."""
    return "–" if row is None or row.value is None else decimals(row.value)


def interval(row: Estimate | None) -> str:
    """The 95 % interval, or a dash."""
    return "–" if row is None or row.low is None or row.high is None else f"{decimals(row.low)} to {decimals(row.high)}"


def percent(row: Estimate) -> str:
    """``86 (95 % CI 72–94)``, of a share."""
    value, low, high = (100 * (v or 0.0) for v in (row.value, row.low, row.high))
    if row.low is None or row.high is None:
        return f"{value:.0f}"
    return f"{value:.0f} (95 % CI {low:.0f}–{high:.0f})"


def score_summary(report: Report) -> str:
    """The result in plain words, as one would tell it to a colleague."""
    table = report.predictions
    if table.kind == "binary":
        return _binary(report, table)
    if table.kind == "regression":
        return _regression(report, table)
    accuracy, area = report.row("accuracy"), report.row("auroc")
    parts = []
    if accuracy is not None and accuracy.value is not None and table.kind != "multilabel":
        parts.append(
            f"Of 100 cases like these, about {percent(accuracy)} are given the right one of "
            f"{len(table.labels)} classes."
        )
    if area is not None and area.value is not None:
        what, several = ("finding", "findings") if table.kind == "multilabel" else ("certain class", "classes")
        parts.append(
            f"Given a case with a {what} and one without it, the right one has the higher score about "
            f"{percent(area)} times in 100, on average over the {several}."
        )
    worst = _weakest(report, table)
    return " ".join([*parts, *([worst] if worst else [])]) or "These cases do not allow a result to be stated."


def _weakest(report: Report, table: PredictionTable) -> str:
    rows = [row for name in table.labels if (row := report.row("auroc", name)) is not None and row.value is not None]
    if len(rows) < 2:
        return ""
    least = min(rows, key=lambda row: row.value or 0.0)
    return f"It is weakest for {least.group} (AUROC {shown(least)}, {interval(least)})."


def _binary(report: Report, table: PredictionTable) -> str:
    name = table.positive_name
    found, spared, ppv = report.row("sensitivity"), report.row("specificity"), report.row("ppv")
    parts = []
    if found is not None and found.value is not None:
        parts.append(f"Of 100 {name} cases like these, about {percent(found)} are found;")
    if spared is not None and spared.value is not None:
        parts.append(f"of 100 cases that are not {name}, about {percent(spared)} are rightly left alone.")
    if ppv is not None and ppv.value is not None:
        share = float(table.is_positive.mean())
        parts.append(
            f"When it says {name}, it is right about {percent(ppv)} times in 100, "
            f"where {100 * share:.0f} % of the cases are {name}."
        )
    return " ".join(parts) or "These cases do not allow a result to be stated."


def _regression(report: Report, table: PredictionTable) -> str:
    rows = [
        r
        for r in report.rows
        if r.name == "mae" and r.value is not None and (r.group == "all" or r.group in table.labels)
    ]
    if not rows:
        return "These cases do not allow a result to be stated."
    parts = []
    for row in rows[:4]:
        name = table.labels[0] if row.group == "all" else row.group
        span = (
            f" (95 % CI {decimals(row.low)}–{decimals(row.high)})"
            if row.low is not None and row.high is not None
            else ""
        )
        parts.append(f"For {name}, a prediction is off by {shown(row)}{span} on average.")
    return " ".join(parts)


def score_methods(report: Report) -> list[str]:
    """How every number was made: the paragraph a paper needs."""
    table = report.predictions
    unit = "each case is another patient" if report.patients == report.cases else "patients have several cases"
    parts = [
        f"{report.cases} cases of {report.patients} patients were evaluated ({named_split(report)} of "
        f"{report.dataset_name}). All intervals are 95 % intervals over patients; here {unit}"
        + ("." if report.patients == report.cases else ", so intervals are clustered by patient."),
    ]
    if table.kind == "regression":
        parts.append(
            "Intervals of errors come from a bootstrap over patients (percentiles, Efron and Tibshirani 1993)."
        )
        return parts
    parts.append(
        "AUROC has DeLong's interval on the logit scale (DeLong et al. 1988; Obuchowski 1997 for clustered cases), "
        "proportions have Wilson's (1927; clustered: Korn and Graubard 1998), everything else a bootstrap over "
        "patients. AUPRC is average precision. The calibration error has ten bins of equally many cases."
    )
    parts.append(_decision_words(report))
    if table.uncalibrated is not None:
        parts.append(
            "Probabilities were calibrated by temperature scaling (Guo et al. 2017) on cases the network did not learn "
            "from."
        )
    if any(b.rows for b in report.baselines):
        parts.append(
            "Baselines learned from the dataset's training and validation cases only, the penalty chosen by "
            "cross-validation over patients; differences are tested on the same cases (DeLong; McNemar, exact)."
        )
    if any("=" in row.group for row in report.rows):
        parts.append(
            "Subgroups: numeric columns are cut at their quartiles (tertiles below 80 cases); groups of fewer than 10 "
            "cases have no value. Nothing is adjusted for the number of groups."
        )
    return parts


# What a threshold has to do with the cases that are judged at it, by split; nothing is claimed of the others.
_CHOSEN = {
    "test": ", fixed before these cases were seen",
    "val": ", chosen on these cases",
    "oof": ", chosen on these cases",
}


def _decision_words(report: Report) -> str:
    table = report.predictions
    if table.kind == "binary":
        fitted = _CHOSEN.get(report.split, ", as the bundle has it")
        cut = "0.5 (none was fitted)" if table.threshold is None else f"{table.threshold:.3f}{fitted}"
        return (
            f"The positive class is {table.positive_name}. Sensitivity, specificity, PPV, NPV and F1 are at a score of "
            f"{cut}; accuracy is at 0.5."
        )
    if table.kind == "multilabel":
        return (
            "Each label has its own operating point; accuracy is at 0.5. Cases whose label is unknown take no part "
            "in it."
        )
    point = " Sensitivity to F1 of a class are at its operating point against the rest." if table.thresholds else ""
    return (
        "Accuracy is at the largest score. The row “all” is the mean over classes (macro); micro pools all "
        f"decisions.{point}"
    )


def named_split(report: Report) -> str:
    """The split in words."""
    return SPLITS.get(report.split, report.split)


def score_headline(report: Report) -> list[tuple[str, Estimate]]:
    """The few numbers that stand at the top."""
    wanted: Sequence[str] = {
        "binary": ("auroc", "sensitivity", "specificity", "accuracy"),
        "multiclass": ("auroc", "accuracy", "balanced_accuracy", "ece"),
        "ordinal": ("auroc", "accuracy", "quadratic_kappa", "mae"),
        "multilabel": ("auroc", "auprc", "sensitivity", "specificity"),
        "regression": ("mae", "rmse", "r2"),
    }[report.predictions.kind]
    rows = [(name, report.row(name)) for name in wanted]
    return [(metric_name(name), row) for name, row in rows if row is not None]


def bits(count: int) -> str:
    """A count with thin spaces between thousands.

    Example:
        >>> bits(12345).replace(chr(8239), " ")
        '12 345'
    """
    return f"{count:,}".replace(",", "\u202f")


def mean_and_deviation(values: Sequence[float]) -> str:
    """``61.2 ± 11.9``."""
    array = np.asarray(values, dtype=np.float64)
    return (
        f"{array.mean():.1f} ± {array.std(ddof=1):.1f}"
        if len(array) > 1
        else f"{array.mean():.1f}"
        if len(array)
        else "–"
    )
