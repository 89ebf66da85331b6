"""The tables of a report of masks: structure by structure, what was missed, volumes, another observer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmap.evaluate import Report, StructureTable, beside_observers, csv_text
from medmap.evaluate.names import decimals, metric_name
from medmap.evaluate.structures import PREDICTION
from medmap.evaluate.structures_rows import METRICS
from medmap.metrics import Bootstrap, Comparison, Estimate
from medmap.report.structure_words import Found, found_of, measure
from medmap.report.tables import Cell, Table, column_lines, raw_rows, subgroup_metrics, with_interval
from medmap.report.words import bits, interval, shown

MOST_TABLES = 6  # structures with a table of their own; more are a row each
IN_ROWS = ("dice", "nsd", "hd95_mm", "assd_mm", "volume_error_ml")  # what fits a page; the file has all
BESIDE = ("dice", "iou", "hd95_mm", "nsd")
DRAWS = Bootstrap(1000)
_MORE = ("tolerance_mm",)
_VOLUME = ("volume_bias_ml", "volume_limit_low_ml", "volume_limit_high_ml")


def structure_tables(report: Report) -> list[Table]:
    """All tables of an evaluation of masks."""
    several = (
        *each_structure(report),
        structures_in_rows(report),
        found_table(report),
        characteristics_of_structures(report),
        volume_table(report),
        observer_table(report),
        subgroup_metrics(report),
    )
    return [table for table in several if table is not None]


def groups_of_page(report: Report) -> list[str]:
    """``all`` and the structures, where both say something."""
    names = report.structures.structures
    return list(names) if len(names) == 1 else ["all", *names]


def each_structure(report: Report) -> list[Table]:
    """A table of every measure for all structures together and for each, another observer's beside it.

    Where there are too many structures, all of them together alone.
    """
    groups = groups_of_page(report)
    shown_groups = groups if len(groups) <= MOST_TABLES + 1 else groups[:1]
    return [_measures(report, group, number) for number, group in enumerate(shown_groups)]


def _measures(report: Report, group: str, number: int) -> Table:
    at = {(row.name, row.stage): row for row in report.rows if row.group == group}
    others = [rater for rater in dict.fromkeys(report.structures.raters) if rater != PREDICTION]
    lines = []
    for name in METRICS:
        row = at.get((name, None))
        if row is None or (row.value is None and not row.reason):
            continue
        words = row.reason or "" if row.value is None else interval(row)
        line = [measure(row), shown(row), words, str(row.n)]
        for rater in others:
            other = at.get((name, rater))
            line += [shown(other), interval(other)]
        lines.append(line)
    name = "All structures" if group == "all" else group
    header = [name, "value", "95 % interval", "n"]
    for rater in others:
        header += [rater, "95 % interval" + " " * (others.index(rater) + 1)]
    title = f"{name}: mean over cases" if group != "all" else "All structures: mean over cases of each case's mean"
    rows = [row for row in report.rows if row.group == group and row.name in METRICS]
    file = "metrics" if number == 0 else f"structure_{number}"
    return Table(file, title, tuple(header), tuple(map(tuple, lines)), raw_rows(rows, _MORE))


def structures_in_rows(report: Report) -> Table | None:
    """A row a structure, where they are too many for a table each."""
    names = report.structures.structures
    if len(names) <= MOST_TABLES:
        return None
    at = {(row.group, row.name): row for row in report.rows if row.stage is None}
    wanted = [name for name in IN_ROWS if any((row := at.get((s, name))) and row.value is not None for s in names)]
    lines = []
    for structure in sorted(names, key=lambda s: _dice(at.get((s, "dice")))):
        n = at.get((structure, "dice"))
        cells = (with_interval(at.get((structure, name))) for name in wanted)
        lines.append((structure, "0" if n is None else str(n.n), *cells))
    header = ("structure", "cases", *(_titled(name, names, at) for name in wanted))
    rows = [row for row in report.rows if row.group in names and row.name in METRICS]
    return Table("structures", "Structure by structure, worst first", header, tuple(lines), raw_rows(rows, _MORE))


def _dice(row: Estimate | None) -> float:
    return 2.0 if row is None or row.value is None else row.value


def _titled(name: str, structures: Sequence[str], at: dict[tuple[str, str], Estimate]) -> str:
    """A measure's name; NSD's tolerance where it is one for all structures."""
    different = {row.tolerance_mm for s in structures if (row := at.get((s, name))) is not None}
    first = next((row for s in structures if (row := at.get((s, name))) is not None), None)
    return metric_name(name) if first is None or len(different) != 1 else measure(first)


def found_table(report: Report) -> Table:
    """How often each structure was found, missed and invented; its connected parts likewise."""
    table = report.structures
    header = (
        "structure", "cases", "in the truth", "found", "missed", "invented", "drawn elsewhere", "parts found",
        "parts drawn wrongly",
    )  # fmt: skip
    raw: list[list[Cell]] = []
    lines = []
    for structure in table.structures:
        for rater in dict.fromkeys(table.raters):
            part = table.of(rater, structure)
            if len(part):
                found = found_of(part)
                lines.append((structure if rater == PREDICTION else f"    {rater}", *_counts(found)))
                raw.append([structure, rater, *vars(found).values()])
    text = csv_text(["structure", "rater", *Found.__dataclass_fields__], raw)
    title = "Found, missed and invented: cases. “Drawn elsewhere” are those found without a voxel in common"
    return Table("found", title, header, tuple(lines), text)


def _counts(found: Found) -> tuple[str, ...]:
    return (
        *(str(n) for n in (found.cases, found.true, found.both, found.missed, found.invented, found.apart)),
        f"{found.lesions_found} of {found.lesions}",
        f"{found.called_wrongly} of {found.called}",
    )


def characteristics_of_structures(report: Report) -> Table:
    """Who was evaluated: cases, patients, sizes of the structures, clinical columns."""
    table = report.structures.of()
    first = {case: row for row, case in reversed(list(enumerate(table.cases)))}
    lines = [["cases", str(report.cases)]]
    if report.patients != report.cases:
        lines.append(["patients", str(report.patients)])
    heads = set()
    if len(table):
        for structure in table.structures:
            unit, sizes = _sizes(table.of(structure=structure))
            lines.append([f"{structure}, {unit}", sizes])
        everyone = np.ones(len(first), dtype=np.bool_)
        for column, values in table.factors().items():
            added = column_lines(column, [values[row] for row in sorted(first.values())], [everyone])
            heads |= {len(lines)} if len(added) > 1 else set()
            lines += added
    header = ("", "all")
    title = "Characteristics; sizes are of the true masks that are not empty, mean ± SD (range)"
    return Table("characteristics", title, header, tuple(map(tuple, lines)), csv_text(header, lines), frozenset(heads))


def _sizes(table: StructureTable) -> tuple[str, str]:
    """Unit, and mean ± SD (range) of the true masks of a structure that are not empty."""
    volumes, voxels = table.values("volume_truth_ml"), table.values("truth_voxels")
    there = voxels > 0
    known = np.isfinite(volumes) & there
    values, unit = (volumes[known], "ml") if known.any() else (voxels[there], "voxels")
    if not len(values):
        return unit, "in no case"
    spread = f" ± {_size(float(values.std(ddof=1)))}" if len(values) > 1 else ""
    return unit, f"{_size(float(values.mean()))}{spread} ({_size(float(values.min()))}–{_size(float(values.max()))})"


def _size(value: float) -> str:
    return bits(round(value)) if value >= 1000 else f"{value:.3g}"


def volume_table(report: Report) -> Table | None:
    """Bias and limits of agreement of the volumes, of each structure and rater."""
    rows = [row for row in report.rows if row.name in _VOLUME]
    if not rows:
        return None
    at = {(row.group, row.stage, row.name): row for row in rows}
    lines: list[tuple[str, ...]] = []
    order = {name: number for number, name in enumerate(report.structures.structures)}
    pairs = dict.fromkeys((row.group, row.stage) for row in rows)
    for group, stage in sorted(pairs, key=lambda pair: order.get(pair[0], len(order))):  # a stable order: raters last
        three = [at.get((group, stage, name)) for name in _VOLUME]
        n = next((row.n for row in three if row is not None), 0)
        name = group if stage is None else f"    {stage}"
        reason = next((row.reason for row in three if row is not None and row.value is None and row.reason), "")
        lines.append((name, str(n), *(_signed_interval(row) for row in three), reason))
    header: tuple[str, ...] = ("structure", "n", "bias (ml)", "lower limit (ml)", "upper limit (ml)", "note")
    if not any(line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    title = (
        "Agreement of volumes, measured less true: bias and limits of 95 % of single differences, with 95 % intervals"
    )
    return Table("volumes", title, header, tuple(lines), raw_rows(rows))


def _signed_interval(row: Estimate | None) -> str:
    if row is None or row.value is None:
        return "–"
    if row.low is None or row.high is None:
        return _signed(row.value)
    return f"{_signed(row.value)} ({_signed(row.low)} to {_signed(row.high)})"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + decimals(value)


def observer_table(report: Report) -> Table | None:
    """The prediction beside every other observer, on the cases that this one has drawn."""
    reports = beside_observers(report.structures, DRAWS)
    if not reports:
        return None
    groups = groups_of_page(report)
    groups = groups if len(groups) <= MOST_TABLES + 1 else groups[:1]
    lines: list[tuple[str, ...]] = []
    heads: set[int] = set()
    raw: list[list[Cell]] = []
    for rater, found in reports.items():
        at = {(row.group, row.name): row for row in found.rows}
        raw += [_cells(rater, row) for row in found.rows]
        for group in groups:
            rows = [row for name in BESIDE if (row := at.get((group, name))) and row.difference is not None]
            if not rows:
                continue
            heads.add(len(lines))
            beside = f", beside {rater}" if len(reports) > 1 else ""
            lines.append((("All structures" if group == "all" else group) + beside, *("" for _ in range(6))))
            lines += [(f"    {metric_name(row.name)}", *_beside(row)) for row in rows]
    header = ("", "n", "prediction", "other observer", "difference", "95 % interval", "p")
    text = csv_text(["rater", "metric", "group", "prediction", "other", "difference", "low", "high", "p", "n"], raw)
    title = f"Prediction and {', '.join(reports)} against the first observer, on the same cases"
    return Table("observers", title, header, tuple(lines), text, frozenset(heads))


def _cells(rater: str, row: Comparison) -> list[Cell]:
    return [rater, row.name, row.group, row.a, row.b, row.difference, row.low, row.high, row.p, row.n]


def _beside(row: Comparison) -> tuple[str, ...]:
    def text(value: float | None) -> str:
        return "–" if value is None else decimals(value)

    span = "–" if row.low is None or row.high is None else f"{_signed(row.low)} to {_signed(row.high)}"
    p = "–" if row.p is None else "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
    return str(row.n), text(row.a), text(row.b), _signed(row.difference or 0.0), span, p
