"""What a report of boxes says in sentences: what is found, what is missed, how every number was made."""

from __future__ import annotations

from medmap.errors import counted
from medmap.evaluate import DetectionTable, Report
from medmap.evaluate.detections_rows import is_size_group
from medmap.evaluate.names import decimals, metric_name
from medmap.metrics import Estimate
from medmap.metrics.boxes import MOST_DETECTIONS
from medmap.report.tables import subgroup_rows_of
from medmap.report.words import named_split, percent

UNSAID = "These cases do not allow a result to be stated."
FEWEST_OF_SIZE = 5  # findings of a size from which it is worth a sentence
RULE = (
    "Findings that were missed count, and so do images in which there is nothing to find. An image that nobody has "
    "looked at is left out: a box there is neither right nor wrong."
)
_PRECISION = (
    f"Average precision is that of COCO (Lin et al. 2014): of a class and image the {MOST_DETECTIONS} surest boxes are "
    "matched from the surest down, each with the free true box that it covers best, from an intersection over union "
    "of 0.5 (AP50) or on average of 0.5, 0.55 … 0.95; a second box on a true one is wrong; precision is interpolated "
    "at 101 recalls. Boxes on a true box that is to be ignored are neither right nor wrong."
)
_FROC = (
    "The FROC curve (Bunch et al. 1977) sets the share of findings that are found against false alarms an image; the "
    "CPM is its mean at ⅛, ¼, ½, 1, 2, 4 and 8, linear between the corners (Setio et al. 2017, LUNA16). {rule}"
)
_CENTRE = (
    "A box has found a finding when its centre lies nearer to the finding's centre than half the finding's diameter; "
    "further boxes on it count neither as hits nor as false alarms (LUNA16)."
)
_OVERLAP = (
    "A box has found a finding from an intersection over union of {iou:g}, the surest box first, each finding once; a "
    "second box on it is a false alarm."
)
_INTERVALS = (
    "Intervals are 95 % intervals over patients: a bootstrap in which whole patients are drawn (percentiles, Efron and "
    "Tibshirani 1993), for sensitivity and predictive value of one class Wilson's, clustered by patient, for AUROC "
    "DeLong's. AUROC asks of whole images: is the largest score larger where there is a finding?"
)
_SUBGROUPS = (
    "Subgroups: numeric columns are cut at their quartiles (tertiles below 80 cases); groups of fewer than 10 cases "
    "have no value. Nothing is adjusted for the number of groups."
)


def detection_summary(report: Report) -> str:
    """The result in plain words, as one would tell it to a colleague."""
    table = report.detections
    found, alarms = report.row("sensitivity"), report.row("false_positives_per_image")
    at_one = report.row("sensitivity_at_fppi_1")
    parts = []
    average = ""
    if len(table.labels) > 1 and table.findings.any():
        pooled = float(table.found_when_called[table.findings].mean())
        average = f", on average over the classes ({100 * pooled:.0f} when all findings count alike)"
    if found is not None and found.value is not None:
        parts.append(f"Of 100 findings like these, about {percent(found)} are found{average},")
        parts.append(f"with {_plain(alarms)} false alarms an image.")
    elif alarms is not None and alarms.value is not None:
        parts.append(f"There is nothing to find in these images; {_plain(alarms)} false alarms an image are called.")
    if at_one is not None and at_one.value is not None and table.thresholds:
        each = " of each class" if len(table.labels) > 1 else ""
        parts.append(f"Where one false alarm{each} an image may be, {percent(at_one)} of 100 are found.")
    parts += [_weakest_class(report), _smallest(report), _missed(table)]
    return " ".join(part for part in parts if part) or UNSAID


def _plain(row: Estimate | None) -> str:
    if row is None or row.value is None:
        return "an unknown number of"
    if row.low is None or row.high is None:
        return f"{row.value:.2g}"
    return f"{row.value:.2g} (95 % CI {row.low:.2g}–{row.high:.2g})"


def _weakest_class(report: Report) -> str:
    labels = report.detections.labels
    rows = [row for name in labels if (row := report.row("sensitivity", name)) is not None and row.value is not None]
    if len(rows) < 2:
        return ""
    least = min(rows, key=lambda row: row.value or 0.0)
    return f"It is weakest for {least.group}: {percent(least)} of 100."


def _smallest(report: Report) -> str:
    """The smallest findings, where there are enough of them to say something."""
    rows = [row for row in report.rows if row.name == "sensitivity" and is_size_group(row.group)]
    if len(rows) < 2 or rows[0].value is None or rows[0].n < FEWEST_OF_SIZE:
        return ""
    size = rows[0].group.removeprefix("size<").replace("mm", " mm").replace("px", " px")
    return f"Of findings below {size}, {percent(rows[0])} of 100 are found."


def _missed(table: DetectionTable) -> str:
    findings = int(table.findings.sum())
    if not findings:
        return ""
    missed = findings - int(table.found_when_called[table.findings].sum())
    never = int((table.findings & (table.hits.by < 0)).sum())
    if not missed:
        return f"None of the {findings} findings was missed."
    more = f", {never} of them at any score" if 0 < never < missed else ", all of them at any score" if never else ""
    return f"Of {counted(findings, 'finding')} {missed} {'was' if missed == 1 else 'were'} missed{more}."


def detection_headline(report: Report) -> list[tuple[str, Estimate]]:
    """The few numbers that stand at the top."""
    by_centre = report.detections.rule.by == "centre"
    first = ("froc_cpm", "ap50") if by_centre else ("ap50", "froc_cpm")
    names = (*first, "sensitivity", "false_positives_per_image")
    rows = [(name, report.row(name)) for name in names]
    titles = {"ap50": "AP50", "froc_cpm": "FROC score (CPM)"}
    return [(titles.get(name, metric_name(name)), row) for name, row in rows if row is not None]


def detection_methods(report: Report) -> list[str]:
    """How every number was made: the paragraphs a paper needs."""
    table = report.detections
    parts = [
        f"Evaluated: {counted(report.cases, 'image')} of {counted(report.patients, 'patient')} ({named_split(report)} "
        f"of {report.dataset_name}), {counted(int(table.findings.sum()), 'finding')}. {RULE}",
        _PRECISION,
        _FROC.format(rule=rule_words(table)),
        _point_words(report),
        _INTERVALS,
    ]
    if len(table.labels) > 1:
        parts.append(
            "A value of all classes is the mean over those that are there to be found; false alarms are their sum, and "
            "what is “pooled” takes all findings together."
        )
    parts += [_SUBGROUPS] if subgroup_rows_of(report) else []
    return parts


def rule_words(table: DetectionTable) -> str:
    """When a box has found a finding, in a sentence."""
    return _CENTRE if table.rule.by == "centre" else _OVERLAP.format(iou=table.rule.iou)


def _point_words(report: Report) -> str:
    table = report.detections
    if not table.thresholds:
        return "No operating point was given: sensitivity, predictive value and false alarms are of every box."
    chosen = {
        "test": ", fixed before these cases were seen",
        "val": ", chosen on these cases",
        "oof": ", chosen on these cases",
    }
    cuts = ", ".join(f"{name} {decimals(cut)}" for name, cut in zip(table.labels, table.thresholds, strict=True))
    return (
        f"Sensitivity, predictive value, F1 and false alarms are at the operating point: boxes are called from "
        f"these scores: {cuts}{chosen.get(report.split, ', as the bundle has it')}."
    )


def detection_facts(report: Report) -> list[tuple[str, str]]:
    """What was evaluated, a line each."""
    table = report.detections
    counts = [int((table.findings & (table.true.labels == c)).sum()) for c in range(len(table.labels))]
    rows = [("Findings", ", ".join(f"{n} {name}" for n, name in zip(counts, table.labels, strict=True)))]
    rows.append(("Boxes", f"{len(table.found)} found, {int(table.called.sum())} of them called"))
    rows.append(
        ("A hit", "centre within half the diameter" if table.rule.by == "centre" else f"IoU from {table.rule.iou:g}")
    )
    rows.append(("Positions", f"in {table.unit}"))
    return rows
