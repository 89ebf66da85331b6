"""The tables of a detection report: all numbers, class by class, size by size, what was found and what was missed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medmap.evaluate import DetectionTable, Report, csv_text
from medmap.evaluate.detections_rows import is_size_group
from medmap.evaluate.names import decimals, metric_name
from medmap.metrics.froc import ALARM, DOUBLE, SPARED
from medmap.report.tables import Cell, Table, column_lines, raw_rows, subgroup_metrics, with_interval
from medmap.report.words import interval, mean_and_deviation, shown

BY_CLASS = ("ap50", "froc_cpm", "sensitivity", "ppv", "false_positives_per_image")  # what fits a page
BY_SIZE = ("sensitivity", "froc_cpm", "ap50")
_SHORT = {
    "ap50": "AP50",
    "froc_cpm": "CPM",
    "ppv": "predictive value",
    "false_positives_per_image": "false alarms an image",
}


def detection_tables(report: Report) -> list[Table]:
    """All tables of an evaluation of boxes."""
    several = (
        main_numbers(report),
        class_numbers(report),
        size_numbers(report),
        found_numbers(report),
        characteristics_of_findings(report),
        subgroup_metrics(report),
    )
    return [table for table in several if table is not None]


def _title(name: str) -> str:
    return _SHORT.get(name, metric_name(name))


def main_numbers(report: Report) -> Table:
    """Every number of all classes together."""
    rows = [row for row in report.rows if row.group == "all"]
    lines = []
    for row in rows:
        name = metric_name(row.name) + (", classes pooled" if row.average == "micro" else "")
        note = row.reason or ""
        cut = "" if row.threshold is None else f"score from {decimals(row.threshold)}"
        lines.append([name, shown(row), interval(row), str(row.n), note or cut])
    header = ["all classes" if len(report.detections.labels) > 1 else "", "value", "95 % interval", "n", "note"]
    if not any(line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    title = "All numbers; n counts findings (of the predictive value called boxes, of AUROC and false alarms images)"
    return Table("metrics", title, tuple(header), tuple(map(tuple, lines)), raw_rows(rows))


def class_numbers(report: Report) -> Table | None:
    """A row a class; None where there is but one."""
    labels = report.detections.labels
    if len(labels) < 2:
        return None
    rows = [row for row in report.rows if row.group in labels]
    at = {(row.group, row.name): row for row in rows}
    counts = _counts(report.detections)
    lines = [
        (name, str(counts[c]), *(with_interval(at.get((name, metric))) for metric in BY_CLASS))
        for c, name in enumerate(labels)
    ]
    header = ("class", "findings", *map(_title, BY_CLASS))
    return Table("classes", "Class by class", header, tuple(lines), raw_rows(rows))


def _counts(table: DetectionTable) -> NDArray[np.int64]:
    return np.bincount(table.true.labels[table.findings], minlength=len(table.labels))


def size_numbers(report: Report) -> Table | None:
    """A row a range of size; None where there is none."""
    rows = [row for row in report.rows if is_size_group(row.group)]
    if not rows:
        return None
    at = {(row.group, row.name): row for row in rows}
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        n = at[group, "sensitivity"].n
        lines.append(
            (group.removeprefix("size").lstrip("="), str(n), *(with_interval(at.get((group, m))) for m in BY_SIZE))
        )
    header = ("size", "findings", *map(_title, BY_SIZE))
    what = "the root of a box's area" if report.detections.ndim == 2 else "the median of a box's three edges"
    title = f"Size by size ({what}); sensitivity at the operating point"
    return Table("sizes", title, header, tuple(lines), raw_rows(rows))


def found_numbers(report: Report) -> Table:
    """What became of every finding and of every box that is called, class by class."""
    table = report.detections
    hits = table.hits
    header = (
        "class", "images", "with a finding", "findings", "found", "missed", "boxes called", "false alarms",
        "doubles", "on ignored",
    )  # fmt: skip
    lines, raw = [], []
    for c, name in enumerate(table.labels):
        wanted = table.findings & (table.true.labels == c)
        mine = (table.found.labels == c) & table.called & table.seen[table.found.cases, table.found.labels]
        found = int(table.found_when_called[wanted].sum())
        kinds = [int((mine & (hits.outcomes == kind)).sum()) for kind in (ALARM, DOUBLE, SPARED)]
        numbers: list[Cell] = [
            int(table.seen[:, c].sum()),
            len(np.unique(table.true.cases[wanted])),
            int(wanted.sum()),
            found,
            int(wanted.sum()) - found,
            int(mine.sum()),
            *kinds,
        ]
        raw.append([name, *numbers])
        lines.append((name, *map(str, numbers)))
    title = "Found, missed and called at the operating point"
    return Table("found", title, header, tuple(lines), csv_text(header, raw))


def characteristics_of_findings(report: Report) -> Table:
    """Who was evaluated: images, patients, findings and their sizes, clinical columns."""
    table = report.detections
    with_finding = len(np.unique(table.true.cases[table.findings]))
    lines = [["images", str(len(table))]]
    if report.patients != report.cases:
        lines.append(["patients", str(report.patients)])
    lines.append(["images with a finding", f"{with_finding} ({100 * with_finding / max(len(table), 1):.0f} %)"])
    lines.append(["findings", str(int(table.findings.sum()))])
    heads = set()
    for c, name in enumerate(table.labels):
        sizes = table.true.diameters[table.findings & (table.true.labels == c)]
        if len(sizes):
            spread = f"{mean_and_deviation(sizes.tolist())} ({sizes.min():.3g}–{sizes.max():.3g})"
            lines.append([f"{name}: size in {table.unit}, mean ± SD (range)", spread])
    everyone = np.ones(len(table), dtype=np.bool_)
    for column, values in table.factors().items():
        added = column_lines(column, list(values), [everyone])
        heads |= {len(lines)} if len(added) > 1 else set()
        lines += added
    header = ("", "all")
    rows = tuple(map(tuple, lines))
    return Table("characteristics", "Characteristics", header, rows, csv_text(header, lines), frozenset(heads))
