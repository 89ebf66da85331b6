"""The tables of a report: as they are read on the page, and with full precision as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import COLUMN_TYPES
from medmap.evaluate import DetectionTable, PredictionTable, Report, StructureTable, csv_text
from medmap.evaluate.detections_rows import is_size_group
from medmap.evaluate.names import decimals, group_name, metric_name
from medmap.metrics import Comparison, Estimate
from medmap.report.words import interval, mean_and_deviation, shown

Cell = str | float | int | None
MOST_VALUES = 8
MOST_CLASSES = 6


@dataclass(frozen=True)
class Table:
    """A table for the page and for a file.

    Args:
        name: File name without ending.
        title: What it shows.
        header: Column titles on the page.
        rows: Texts on the page.
        csv: The same with full precision, as the text of a CSV file.
        heads: Rows that are headings of those below them.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    csv: str
    heads: frozenset[int] = frozenset()


_RAW = ("name", "group", "average", "stage", "value", "low", "high", "n", "method", "threshold", "reason")


def raw_rows(rows: Sequence[Estimate], more: Sequence[str] = ()) -> str:
    """Estimates with full precision as the text of a CSV file; ``more`` names further fields of theirs."""
    fields = (*_RAW, *more)
    cells = [[getattr(row, name) for name in fields] for row in rows]
    return csv_text(["metric", *fields[1:]], cells)


def main_metrics(report: Report) -> Table:
    """Every metric of all cases, before and after calibration side by side."""
    rows = [
        r
        for r in report.rows
        if r.group == "all" and r.average is None and r.name not in ("coverage", "accuracy_when_decided")
    ]
    stages = [s for s in ("uncalibrated", "calibrated", "recalibrated") if any(r.stage == s for r in rows)]
    final: list[str | None] = [*([s for s in stages if s != "uncalibrated"] or stages)] or [None]
    both = "uncalibrated" in stages and len(stages) > 1
    header = ["metric", "before calibration"] if both else ["metric"]
    for stage in final:
        header += ["value", "95 % interval"] if stage != "recalibrated" else ["recalibrated here", "95 % interval "]
    header += ["n", "threshold"]
    lines = []
    for name in dict.fromkeys(r.name for r in rows):
        at = {r.stage: r for r in rows if r.name == name}
        line = [metric_name(name)]
        if both:
            line.append(shown(at.get("uncalibrated")))
        for stage in final:
            line += [shown(at.get(stage)), interval(at.get(stage))]
        last = at.get("calibrated") or next(iter(at.values()))
        reason = last.reason if last.value is None and last.reason else ""
        cut = "" if last.threshold is None else decimals(last.threshold)
        lines.append([*line, str(last.n), reason or cut])
    if not any(line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    whole = [r for r in report.rows if r.group == "all"]
    title = "All metrics" if report.predictions.kind == "regression" else "All metrics, all cases"
    return Table("metrics", title, tuple(header), tuple(map(tuple, lines)), raw_rows(whole))


def class_metrics(report: Report) -> Table | None:
    """A row a class with its main metrics."""
    labels = report.predictions.labels
    rows = [r for r in report.rows if r.group in labels and r.stage != "uncalibrated"] or [
        r for r in report.rows if r.group in labels
    ]
    if not rows:
        return None
    names = list(dict.fromkeys(r.name for r in rows))
    wanted = [n for n in ("auroc", "auprc", "sensitivity", "specificity", "ppv", "mae", "rmse", "r2") if n in names][:5]
    at = {(r.group, r.name): r for r in rows}
    header = ["class", "cases", *(metric_name(n) for n in wanted)]
    lines = []
    for c, label in enumerate(labels):
        cells = [with_interval(at.get((label, n))) for n in wanted]
        lines.append([label, str(int(_members(report.predictions, c).sum())), *cells])
    return Table("classes", "Class by class", tuple(header), tuple(map(tuple, lines)), raw_rows(rows))


def with_interval(row: Estimate | None) -> str:
    """``0.91 (0.86–0.95)``, or a dash."""
    if row is None or row.value is None:
        return "–"
    if row.low is None or row.high is None:
        return shown(row)
    return f"{row.value:.2f} ({row.low:.2f}{' to ' if row.low < 0 else '–'}{row.high:.2f})".replace("-", "−")


def _members(table: PredictionTable, c: int) -> NDArray[np.bool_]:
    """Which cases have a class; of predicted numbers, which have a truth."""
    if table.kind == "regression":
        return np.asarray(~np.isnan(table.truth[:, c]))
    return np.asarray(table.truth[:, c] == 1 if table.kind == "multilabel" else table.truth == c)


def subgroup_metrics(report: Report) -> Table | None:
    """Every subgroup with its metrics."""
    rows = subgroup_rows_of(report)
    if not rows:
        return None
    names = list(dict.fromkeys(r.name for r in rows))
    if not isinstance(report.table, PredictionTable):  # without millimetres no group has a distance
        names = [name for name in names if any(r.name == name and r.value is not None for r in rows)] or names
    at = {(r.group, r.name): r for r in rows}
    lines = []
    for group in dict.fromkeys(r.group for r in rows):
        found = [at.get((group, name)) for name in names]
        count = max(r.n for r in found if r is not None)
        reason = next((r.reason for r in found if r is not None and r.value is None and r.reason), "")
        lines.append([group_name(group), str(count), *map(with_interval, found), reason])
    header = ["group", counted_in(report), *(metric_name(n) for n in names), "note"]
    if not any(line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    more = ("tolerance_mm",) if isinstance(report.table, StructureTable) else ()
    return Table("subgroups", "Subgroups", tuple(header), tuple(map(tuple, lines)), raw_rows(rows, more))


def counted_in(report: Report) -> str:
    """What ``n`` of a subgroup's numbers counts."""
    return "findings" if isinstance(report.table, DetectionTable) else "cases"


def subgroup_rows_of(report: Report) -> list[Estimate]:
    """The rows that are of a part of the cases: neither of all, nor of a class, a structure or a range of size."""
    table = report.table
    named = table.structures if isinstance(table, StructureTable) else table.labels
    parts = [row for row in report.rows if row.group not in ("all", *named)]
    return [row for row in parts if not is_size_group(row.group)] if isinstance(table, DetectionTable) else parts


def baseline_table(report: Report) -> Table | None:
    """The network beside the simple models."""
    if not report.baselines:
        return None
    table = report.predictions
    names = [
        n
        for n in ("auroc", "accuracy", "quadratic_kappa", "mae")
        if any(r.name == n for b in report.baselines for r in b.rows)
    ]
    lines = [["the network", "", *(with_interval(report.row(n)) for n in names), ""]]
    raw: list[list[Cell]] = [["network", None, *(_value(report.row(n)) for n in names), None, None, None]]
    for baseline in report.baselines:
        at = {r.name: r for r in baseline.rows if r.group == "all" or len(table.labels) == 1}
        first = next((c for c in baseline.against if c.group == "all"), None)
        cells = [with_interval(at.get(n)) for n in names]
        lines.append([baseline.what, str(baseline.trained_on or ""), *cells, baseline.reason or difference(first)])
        raw.append([baseline.name, baseline.trained_on, *(_value(at.get(n)) for n in names), *_difference_cells(first)])
    titles = [metric_name(n) for n in names]
    header = ["model", "learned from (cases)", *titles, "network less baseline (95 % interval)"]
    text = csv_text(["model", "trained_on", *names, "difference", "low", "high"], raw)
    return Table("baselines", "Beside simple models", tuple(header), tuple(map(tuple, lines)), text)


def _value(row: Estimate | None) -> float | None:
    return None if row is None else row.value


def _difference_cells(row: Comparison | None) -> list[Cell]:
    return [None, None, None] if row is None else [row.difference, row.low, row.high]


def difference(row: Comparison | None) -> str:
    """``+0.061 (0.010 to 0.112), p = 0.02``."""
    if row is None or row.difference is None:
        return "" if row is None else row.reason or ""
    text = f"{metric_name(row.name)} {row.difference:+.3f}".replace("-", "−")
    if row.low is not None and row.high is not None:
        text += f" ({decimals(row.low)} to {decimals(row.high)})"
    if row.p is not None:
        text += ", p < 0.001" if row.p < 0.001 else f", p = {row.p:.3f}"
    return text


def aggregated_table(report: Report) -> Table | None:
    """Cases taken together: per eye, per patient."""
    if not report.aggregated:
        return None
    names = [
        n
        for n in ("auroc", "accuracy", "sensitivity", "specificity", "mae")
        if any(r.name == n for a in report.aggregated for r in a.rows)
    ]
    lines = [["case", str(report.cases), *(with_interval(report.row(n)) for n in names), ""]]
    raw: list[Estimate] = []
    for part in report.aggregated:
        rows = [r for r in part.rows if r.group == "all" and r.average is None and r.stage != "uncalibrated"]
        at = {r.name: r for r in rows or part.rows}
        lines.append([part.by, str(part.units), *(with_interval(at.get(n)) for n in names), part.rule])
        raw += [r.with_(group=part.by if r.group == "all" else f"{part.by}: {r.group}") for r in part.rows]
    header = ["per", "n", *(metric_name(n) for n in names), "how"]
    return Table("aggregated", "Cases taken together", tuple(header), tuple(map(tuple, lines)), raw_rows(raw))


def characteristics(report: Report) -> Table:
    """Who was evaluated, in all and class by class: the first table of a paper."""
    table = report.predictions
    groups: list[tuple[str, NDArray[np.bool_]]] = [("all", np.ones(len(table), dtype=np.bool_))]
    if table.kind != "regression" and len(table.labels) <= MOST_CLASSES:
        groups += [(name, _members(table, c)) for c, name in enumerate(table.labels)]
    lines = [["cases", *(str(int(mask.sum())) for _, mask in groups)]]
    if report.patients != report.cases:
        lines.append(["patients", *(str(len(_chosen(table.patients, mask))) for _, mask in groups)])
    heads = set()
    if table.kind == "regression":
        for c, name in enumerate(table.labels):
            known = table.truth[~np.isnan(table.truth[:, c]), c]
            lines.append([f"{name}, mean ± SD", mean_and_deviation(known.tolist())])
    for column, values in table.factors().items():
        added = column_lines(column, values, [mask for _, mask in groups])
        if len(added) > 1:
            heads.add(len(lines))
        lines += added
    header = ["", *(f"{name}" for name, _ in groups)]
    rows = tuple(tuple(line) for line in lines)
    return Table("characteristics", "Characteristics", tuple(header), rows, csv_text(header, rows), frozenset(heads))


def _chosen(values: Sequence[str], mask: NDArray[np.bool_]) -> set[str]:
    return {value for value, yes in zip(values, mask, strict=True) if yes}


def column_lines(column: str, values: Sequence[COLUMN_TYPES], masks: Sequence[NDArray[np.bool_]]) -> list[list[str]]:
    """The lines of a clinical column: its mean, or how many cases have each value, in each of some groups of cases.

    Args:
        column: Its name.
        values: (n,) None where not recorded.
        masks: (n,) each, the groups.
    """
    recorded = [v for v in values if v is not None]
    absent = np.array([v is None for v in values])
    numeric = bool(recorded) and all(isinstance(v, (int, float)) for v in recorded)
    gap = [["    not recorded", *(_share(absent & mask, mask) for mask in masks)]] if absent.any() else []
    different = sorted(set(map(_word, recorded)))
    if numeric and len(different) > 6:
        numbers = np.array([np.nan if v is None else float(v) for v in values])
        ranged = len(masks) <= 4  # more columns leave no room for it
        cells = [_spread(numbers[mask & ~absent], ranged) for mask in masks]
        return [[f"{column}, mean ± SD{' (range)' if ranged else ''}", *cells], *gap]
    if len(different) > MOST_VALUES * 3:
        return [[f"{column}: {len(different)} different values", *("" for _ in masks)], *gap]
    words = np.array([None if v is None else _word(v) for v in values], dtype=object)
    lines = [[column, *("" for _ in masks)]]
    lines += [[f"    {word}", *(_share((words == word) & mask, mask) for mask in masks)] for word in different]
    return [*lines, *gap]


def _word(value: COLUMN_TYPES) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _share(inside: NDArray[np.bool_], mask: NDArray[np.bool_]) -> str:
    count, of = int(inside.sum()), int(mask.sum())
    return f"{count} ({100 * count / of:.0f} %)" if of else "0"


def _spread(numbers: NDArray[np.float64], ranged: bool) -> str:
    if not len(numbers):
        return "–"
    middle = mean_and_deviation(numbers.tolist())
    return f"{middle} ({numbers.min():g}–{numbers.max():g})" if ranged else middle


def score_tables(report: Report) -> list[Table]:
    """All tables of an evaluation of scores."""
    several = (
        main_metrics(report),
        class_metrics(report),
        characteristics(report),
        subgroup_metrics(report),
        baseline_table(report),
        aggregated_table(report),
    )
    return [table for table in several if table is not None]
