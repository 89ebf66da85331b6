"""The figures of a detection report: how much is found at how many false alarms, how precise what is called is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medmap.evaluate import DetectionTable, Report
from medmap.evaluate.detections_rows import PointCounts, froc_draws, is_size_group, ranked_classes
from medmap.metrics import Bootstrap, Estimate, match_boxes
from medmap.metrics.average_precision import ranked
from medmap.metrics.froc import RATES
from medmap.report.figures import MOST_CLASSES, Figure
from medmap.report.svg import BLUE, GREY, ORANGE, Plot, short
from medmap.write.colours import paper_colour_of

Floats = NDArray[np.float64]
DRAWS = Bootstrap(500)
BAND_POINTS, LINE_POINTS = 49, 193
MOST_POINTS = 400
TICKS = ("⅛", "¼", "½", "1", "2", "4", "8")


def detection_figures(report: Report) -> list[Figure]:
    """All curves that the boxes allow."""
    table = report.detections
    there = [c for c in range(len(table.labels)) if (table.findings & (table.true.labels == c)).any()][:MOST_CLASSES]
    if not there:
        return []
    return [froc_figure(report, there), precision_figure(report, there), *_sizes(report)]


def _legend(report: Report, metric: str, table: DetectionTable, label: int) -> str:
    row = report.row(metric, table.labels[label] if len(table.labels) > 1 else "all")
    name = short(table.labels[label], 24)
    short_name = {"froc_cpm": "CPM", "ap50": "AP50"}[metric]
    return name if row is None or row.value is None else f"{name}: {short_name} {_with_interval(row)}"


def _colours(classes: list[int]) -> list[str]:
    """Of several classes each its own, as on every picture; a single one is drawn in blue."""
    return [paper_colour_of(c) for c in classes] if len(classes) > 1 else [BLUE]


def _with_interval(row: Estimate) -> str:
    text = f"{row.value:.2f}"
    return text if row.low is None or row.high is None else f"{text} ({row.low:.2f}–{row.high:.2f})"


def froc_figure(report: Report, classes: list[int]) -> Figure:
    """The FROC curve of each class, false alarms on a logarithmic axis; of a single class with its band.

    Args:
        report: What was found.
        classes: Those that are drawn.
    """
    table = report.detections
    plot = Plot("FROC curve", "false alarms an image", "sensitivity", x=(-3.15, 3.15))
    each = [ranked_classes(table)[c] for c in classes]
    across = np.linspace(-3, 3, LINE_POINTS)
    if len(classes) == 1:
        at = np.linspace(-3, 3, BAND_POINTS)
        _, draws = froc_draws(each, table, DRAWS, (2.0**at).tolist())
        known = draws[np.isfinite(draws[:, 0, 0]), :, 0]
        if len(known) and np.ptp(known):
            low, high = np.quantile(known, [0.025, 0.975], axis=0)
            plot.band(at.tolist(), low.tolist(), high.tolist(), BLUE, "95 % interval")
    for rank, c, colour in zip(each, classes, _colours(classes), strict=True):
        up = rank.values((2.0**across).tolist())
        plot.line(list(zip(across, up, strict=True)), colour, _legend(report, "froc_cpm", table, c))
        for rate, value in zip(RATES, rank.values(), strict=True):
            plot.dot(float(np.log2(rate)), float(value), colour, 2.6)
    beyond = _points(plot, table, classes)
    caption = (
        "How many findings are found when so many false alarms an image are put up with. The dots are the seven "
        "places whose mean is the CPM."
    )
    if table.thresholds:
        caption += " The operating point is the score from which on a box is called."
    if beyond:
        caption += f" Operating points beyond the axis, in false alarms an image: {', '.join(beyond)}."
    if len(classes) == 1:
        caption += " Band: bootstrap over patients."
    words = "; ".join(
        f"{table.labels[c]}: {', '.join(f'{v:.2f}' for v in rank.values())}"
        for rank, c in zip(each, classes, strict=True)
    )
    ticks = [(float(np.log2(rate)), text) for rate, text in zip(RATES, TICKS, strict=True)]
    return Figure("froc", plot.title, plot.svg(words, x_ticks=ticks), caption)


def _points(plot: Plot, table: DetectionTable, classes: list[int]) -> list[str]:
    """Where the operating point of each class stands; in words those that the axis does not reach."""
    if not table.thresholds:
        return []
    beyond = []
    counts = PointCounts.of(table)
    single = len(classes) == 1
    drawn = False
    for c, colour in zip(classes, _colours(classes), strict=True):
        found, findings, alarms, cases = (
            float(v[:, c].sum()) for v in (counts.found, counts.findings, counts.alarms, counts.cases)
        )
        if not findings or not cases:
            continue
        if alarms / cases > RATES[-1] * 2**0.1:
            beyond.append(f"{table.labels[c]} {alarms / cases:.3g} (sensitivity {found / findings:.2f})")
            continue
        x = max(-3.1, float(np.log2(alarms / cases))) if alarms else -3.1
        plot.dot(x, found / findings, ORANGE if single else colour, 5, hollow=not single)
        drawn = True
    if drawn:
        plot.named("operating point", ORANGE if single else GREY, "dot" if single else "ring")
    return beyond


def precision_figure(report: Report, classes: list[int]) -> Figure:
    """Precision against recall of each class, a box being right from an overlap of 0.5.

    Args:
        report: What was found.
        classes: Those that are drawn.
    """
    table = report.detections
    found, true = table.judged
    matches = match_boxes(found, true, (0.5,))
    plot = Plot("Precision-recall curve", "recall (share of the findings)", "precision (share of the boxes)")
    for c, colour in zip(classes, _colours(classes), strict=True):
        recall, precision = ranked(matches, 0, c, table.who).curve()
        label = _legend(report, "ap50", table, c)
        if not len(recall):
            plot.named(label, colour, "line")
            continue
        rows = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), MOST_POINTS)).round().astype(int))
        points = [(0.0, float(precision[0])), *zip(recall[rows].tolist(), precision[rows].tolist(), strict=True)]
        plot.line(points, colour, label)
        plot.whisker((points[-1][0], points[-1][0]), (0, points[-1][1]), colour)
    caption = (
        "A box is right from an intersection over union of 0.5. Where a curve ends, every box has been called: what is "
        "missing to the right is never found."
    )
    return Figure("precision_recall", plot.title, plot.svg("; ".join(table.labels[c] for c in classes)), caption)


def _sizes(report: Report) -> list[Figure]:
    """Sensitivity at the operating point and CPM of each range of size."""
    groups = list(dict.fromkeys(row.group for row in report.rows if is_size_group(row.group)))
    rows = {(row.group, row.name): row for row in report.rows if row.group in groups}
    if len([g for g in groups if (row := rows.get((g, "sensitivity"))) is not None and row.value is not None]) < 2:
        return []
    plot = Plot("Found, by size", "size of the finding", "sensitivity", x=(-0.5, len(groups) - 0.5))
    for shift, name, colour in ((-0.09, "sensitivity", ORANGE), (0.09, "froc_cpm", BLUE)):
        for place, group in enumerate(groups):
            row = rows.get((group, name))
            if row is None or row.value is None:
                continue
            if row.low is not None and row.high is not None:
                plot.whisker((place + shift, place + shift), (row.low, row.high), colour)
            plot.dot(place + shift, row.value, colour)
    plot.named("at the operating point", ORANGE, "dot")
    plot.named("CPM: mean over ⅛ to 8 false alarms", BLUE, "dot")
    names = [group.removeprefix("size").lstrip("=") for group in groups]
    counts = [rows[group, "sensitivity"].n if (group, "sensitivity") in rows else 0 for group in groups]
    ticks = [(float(place), f"{name} ({n})") for place, (name, n) in enumerate(zip(names, counts, strict=True))]
    caption = "In brackets the number of findings; bars are 95 % intervals. False alarms are those of all sizes."
    return [Figure("sizes", plot.title, plot.svg("; ".join(names), x_ticks=ticks), caption)]
