"""Figures that are no curves: who was evaluated, which class was taken for which, how each group fares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medmap.evaluate import PredictionTable, Report
from medmap.evaluate.names import group_name, metric_name
from medmap.evaluate.rows import largest
from medmap.metrics import Estimate, confusion_matrix
from medmap.report.figures import Figure
from medmap.report.svg import (
    BLUE,
    GREY,
    INK,
    LETTER,
    ORANGE,
    SOFT,
    box,
    drawing,
    label,
    number,
    rule,
    short,
    tick_text,
    ticks,
)
from medmap.report.tables import counted_in, subgroup_rows_of

MOST_CLASSES = 20
MOST_LETTERS = 44  # of a group's name or a reason in a figure; the table has the whole
SMALL_LETTER = LETTER * 11 / 12  # at 11 px
OF_VALUES = "value (95 % interval)"
IN_UNITS = ("mae", "rmse", "hd95_mm", "assd_mm")  # all others are shares


def flow(report: Report) -> Figure | None:
    """The way of the cases from those supplied to those evaluated (STARD 2015, item 19); None where it is not known."""
    if len(report.flow) < 2:
        return None
    (first, supplied), *gone, (last, evaluated) = report.flow
    width, row, wide = 640.0, 46.0, 230.0
    counts = class_counts(report.table) if isinstance(report.table, PredictionTable) else ""
    height = 44 + row * len(gone) + 60 + (24 if counts else 0)
    parts = []
    end = 44 + row * len(gone) + 14
    parts.append(_arrow(wide / 2 + 10, 46, end))
    parts.append(_box(10, 6, wide, f"{first}: {supplied}"))
    for number_, (what, count) in enumerate(gone):
        y = 44 + row * number_ + 10
        parts += [
            rule(wide / 2 + 10, y + 16, wide + 60, y + 16, SOFT),
            _box(wide + 60, y, 310, f"{what}: {count}", GREY),
        ]
    patients = f" of {report.patients} patients" if report.patients != evaluated else ""
    parts.append(_box(10, end, wide, f"{last}: {evaluated}{patients}"))
    words = f"{supplied} cases supplied; " + "; ".join(f"{n} {w}" for w, n in gone) + f"; {evaluated} evaluated"
    if counts:
        parts.append(label(10, end + 56, short(counts, 100), colour=SOFT))
    caption = "From the cases supplied to those evaluated; what left on the way stands at the side."
    return Figure("flow", "Flow of cases", drawing(width, height, "Flow of cases", words, parts), caption, wide=True)


def class_counts(table: PredictionTable) -> str:
    """How many cases each class has, in words; empty where there are no classes."""
    if table.kind == "regression":
        return ""
    if table.kind == "multilabel":
        counts = [(name, int(np.nansum(table.truth[:, c]))) for c, name in enumerate(table.labels)]
    else:
        counts = [(name, int((table.truth == c).sum())) for c, name in enumerate(table.labels)]
    return ", ".join(f"{count} {name}" for name, count in counts)


def _box(x: float, y: float, width: float, text: str, edge: str = BLUE) -> str:
    room = int((width - 16) / LETTER)
    return box(x, y, width, 34, "white", stroke=edge) + label(x + width / 2, y + 21, short(text, room), anchor="middle")


def _arrow(x: float, top: float, bottom: float) -> str:
    tip = f"M{number(x - 4)} {number(bottom - 8)}L{number(x)} {number(bottom)}L{number(x + 4)} {number(bottom - 8)}"
    return rule(x, top - 6, x, bottom, SOFT) + f'<path d="{tip}" fill="none" stroke="{SOFT}"/>'


def confusion(table: PredictionTable) -> Figure | None:
    """Which class was taken for which; binary at the operating point, several classes at the largest score."""
    if table.kind not in ("binary", "multiclass", "ordinal") or len(table.labels) > MOST_CLASSES or not len(table):
        return None
    called = largest(table)
    if table.threshold is not None and table.positive is not None:
        called = np.where(table.positive_scores >= table.threshold, table.positive, 1 - table.positive)
    counts = confusion_matrix(table.truth, called, table.labels).counts
    n = len(table.labels)
    side = 112.0 if n == 2 else max(26.0, min(60.0, 400.0 / n))
    left = 20 + min(max(len(name) for name in table.labels), 22) * LETTER + 20
    top = 40.0 if n <= 3 else 38 + min(max(len(name) for name in table.labels), 18) * LETTER * 0.75
    size = side * n
    parts = [
        label(left + size / 2, 14, "called", anchor="middle", bold=True),
        f'<g transform="translate(14 {number(top + size / 2)}) rotate(-90)">'
        f"{label(0, 0, 'truth', anchor='middle', bold=True)}</g>",
    ]
    for c, name in enumerate(table.labels):
        x, y = left + side * (c + 0.5), top + side * (c + 0.5)
        parts.append(label(left - 8, y + 4, short(name, 22), anchor="end"))
        if n <= 3:
            parts.append(label(x, top - 8, short(name, int(side / LETTER) + 2), anchor="middle"))
        else:
            slant = f"translate({number(x)} {number(top - 8)}) rotate(-45)"
            parts.append(f'<g transform="{slant}">{label(0, 0, short(name, 18))}</g>')
    for i in range(n):
        total = int(counts[i].sum())
        for j in range(n):
            share = counts[i, j] / total if total else 0.0
            x, y = left + side * j, top + side * i
            parts.append(box(x, y, side, side, BLUE if i == j else ORANGE, opacity=f"{share * 0.55:.3f}"))
            if counts[i, j] or n <= 6:
                parts.append(
                    label(
                        x + side / 2,
                        y + side / 2 + (0 if side > 50 else 4),
                        counts[i, j],
                        anchor="middle",
                        size=15 if side > 50 else 11,
                    )
                )
            if side > 50 and total:
                parts.append(label(x + side / 2, y + side / 2 + 18, f"{100 * share:.0f} %", anchor="middle", size=11))
    for k in range(n + 1):
        parts.append(rule(left + side * k, top, left + side * k, top + size, SOFT if k in (0, n) else "#cbd5e1"))
        parts.append(rule(left, top + side * k, left + size, top + side * k, SOFT if k in (0, n) else "#cbd5e1"))
    words = "; ".join(
        f"{table.labels[i]} called {table.labels[j]}: {counts[i, j]}"
        for i in range(n)
        for j in range(n)
        if counts[i, j]
    )
    how = "at the operating point" if table.threshold is not None else "by the largest score"
    caption = f"Rows are the truth, columns what was called {how}; percentages are of the row."
    width = left + size + (16 if n <= 3 else 18 * LETTER * 0.72)
    return Figure(
        "confusion", "Confusion matrix", drawing(width, top + size + 12, "Confusion matrix", words, parts), caption
    )


def forest(report: Report, name: str) -> Figure | None:
    """One metric in every subgroup with its interval, beside the result for all."""
    rows = [
        row for row in subgroup_rows_of(report) if row.name == name and "=" in row.group and row.stage != "uncalibrated"
    ]
    whole = report.row(name)
    if not rows or whole is None:
        return None
    every: list[Estimate] = [whole.with_(group="all"), *rows]
    values = [v for row in every for v in (row.low, row.value, row.high) if v is not None]
    if not values:
        return None
    low, high = _scale(name, values)
    names = [f"{short(group_name(row.group), MOST_LETTERS)} ({row.n})" for row in every]
    said = [short(_said(row), MOST_LETTERS) for row in every]
    counted = f"group ({counted_in(report)})"
    left = 24 + LETTER * max(len(text) for text in (*names, counted))
    right = 24 + SMALL_LETTER * max(len(text) for text in (*said, OF_VALUES))
    across, step, top = 290.0, 24.0, 26.0
    floor = top + step * len(every)

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * across

    parts = [
        label(left - 12, 14, counted, anchor="end", colour=SOFT, size=11),
        label(left + across + 16, 14, OF_VALUES, colour=SOFT, size=11),
    ]
    for value in ticks(low, high):
        parts += [
            rule(at(value), top, at(value), floor),
            label(at(value), floor + 16, tick_text(value), anchor="middle", colour=SOFT, size=11),
        ]
    if whole.value is not None:
        line = f"M{number(at(whole.value))} {number(top)}V{number(floor)}"
        parts.append(f'<path d="{line}" stroke="{BLUE}" stroke-dasharray="4 4"/>')
    last = ""
    for place, row in enumerate(every):
        y = top + step * (place + 0.5)
        column = row.group.partition("=")[0]
        if place and column != last:
            parts.append(rule(10, y - step / 2, left + across + right, y - step / 2, "#cbd5e1"))
        last = column
        parts.append(label(left - 12, y + 4, names[place], anchor="end", bold=place == 0))
        colour = SOFT if row.value is None else INK
        parts += [*_interval(row, at, y), label(left + across + 16, y + 4, said[place], colour=colour, size=11)]
    words = "; ".join(f"{r.group}: {'not defined' if r.value is None else f'{r.value:.2f}'}" for r in every)
    title = f"{metric_name(name)} in subgroups"
    svg = drawing(left + across + right + 8, floor + 40, title, words, parts)
    return Figure(
        f"subgroups_{name}",
        title,
        svg,
        "The dashed line is the result for all. Where intervals overlap, a difference may be chance.",
        wide=True,
    )


def _scale(name: str, values: Sequence[float]) -> tuple[float, float]:
    """From where to where the axis goes; of shares in steps of a tenth."""
    low, high = min(values), max(values)
    if name not in IN_UNITS:
        low, high = max(0.0, np.floor(low * 10) / 10), min(1.0, np.ceil(high * 10) / 10)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _said(row: Estimate) -> str:
    """A value with its interval in words, or why there is none."""
    if row.value is None:
        return row.reason or "not defined"
    span = "" if row.low is None or row.high is None else f" ({row.low:.2f} to {row.high:.2f})"
    return f"{row.value:.2f}{span}"


def _interval(row: Estimate, at: Callable[[float], float], y: float) -> list[str]:
    """The square of a value and the line of its interval."""
    if row.value is None:
        return []
    parts = []
    if row.low is not None and row.high is not None:
        parts.append(
            f'<path d="M{number(at(row.low))} {number(y)}H{number(at(row.high))}" stroke="{BLUE}" stroke-width="1.6"/>'
        )
    return [*parts, box(at(row.value) - 4, y - 4, 8, 8, BLUE)]
