"""From the table of detections to the rows of ``metrics.json``: average precision, FROC, the operating point, sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.evaluate.detections import DetectionTable
from medmap.evaluate.groups import FEWEST, groups_of
from medmap.metrics import Bootstrap, Estimate, average_precisions, match_boxes
from medmap.metrics.boxes import COCO_IOU, Range
from medmap.metrics.estimate import undefined
from medmap.metrics.froc import ALARM, RATES, RankedFindings, rank_findings
from medmap.metrics.inputs import Bools, Patients
from medmap.metrics.intervals import bounded_estimate, bounded_mean_fallback, proportion, replicate_interval
from medmap.metrics.means import NOT_MOVED
from medmap.metrics.ranking import auroc_of

Floats = NDArray[np.float64]

DRAWS = Bootstrap(1000)
GROUP_DRAWS = Bootstrap(500)
LOOSE_IOU = 0.1  # of volumes beside 0.5: small lesions in thick slices (nnDetection)
LADDER = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)  # ends of size ranges to choose from
COCO_EDGES = (32.0, 96.0)  # px, where there are no millimetres
MOST_EDGES = 3
NOTHING = "nothing to find"
AT_THE_EDGE = 0.5  # patients' worth of a share from 0 or 1, below which draws of patients hardly move it
NONE_SEEN = 3.6889  # upper 97.5 % limit of a count of which none was seen
IN_GROUPS = ("ap50", "froc_cpm", "sensitivity")


@dataclass(frozen=True)
class SizeRange:
    """Findings of some sizes.

    Args:
        name: ``size<5mm``, ``size=5–10mm``, ``size≥10mm``.
        low, high: Both included; the next range begins just above ``high``.
    """

    name: str
    low: float
    high: float

    def holds(self, diameters: Floats) -> Bools:
        """(n,) which sizes lie in it."""
        return np.asarray((diameters >= self.low) & (diameters <= self.high))

    @property
    def both(self) -> Range:
        """Its two ends."""
        return self.low, self.high


def size_ranges(table: DetectionTable, edges: Sequence[float] | None = None) -> tuple[SizeRange, ...]:
    """Ranges of size: in mm, of round numbers between which the findings lie; COCO's three in pixels without mm.

    Args:
        table: Its findings choose the ranges.
        edges: Where one range ends and the next begins, rising; chosen from the data when absent.
    """
    sizes = table.true.diameters[table.findings]
    if edges is None:
        if not table.sized:
            edges = COCO_EDGES if table.ndim == 2 else ()
        elif len(sizes):
            inside = [end for end in LADDER if sizes.min() < end <= sizes.max()]
            middle = float(np.median(sizes))
            edges = sorted(sorted(inside, key=lambda end: abs(np.log(end / middle)))[:MOST_EDGES])
    if not edges:
        return ()
    unit, below = table.unit, [float(np.nextafter(end, 0)) for end in edges]
    found = [SizeRange(f"size<{edges[0]:g}{unit}", 0.0, below[0])]
    for start, end, last in zip(edges, edges[1:], below[1:], strict=False):
        found.append(SizeRange(f"size={start:g}–{end:g}{unit}", start, last))
    return (*found, SizeRange(f"size≥{edges[-1]:g}{unit}", edges[-1], float(np.finfo(np.float64).max)))


def detection_rows(
    table: DetectionTable, bootstrap: Bootstrap | None = None, edges: Sequence[float] | None = None
) -> tuple[Estimate, ...]:
    """Every number of a detection, of all classes together and of each, then by size.

    ``all`` is the mean over the classes that are there to be found. Of ``sensitivity``, ``ppv`` and ``f1`` there is a
    row that pools the classes too (``average="micro"``); ``false_positives_per_image`` of ``all`` is their sum.

    Args:
        table: The judged boxes.
        bootstrap: Replicates and seed; 1,000 and 0 when absent.
        edges: Ends of size ranges, see ``size_ranges``.
    """
    draws = bootstrap or DRAWS
    rows = [*precision_rows(table, draws), *froc_rows(table, draws), *image_rows(table), *point_rows(table, draws)]
    for part in size_ranges(table, edges):
        rows += size_rows(table, part, GROUP_DRAWS if bootstrap is None else bootstrap)
    return tuple(rows)


def ratio_row(name: str, values: Floats, draws: Floats, table: DetectionTable, n: int) -> Estimate:
    """A mean over classes with its bootstrap interval; undefined where no class has a value.

    Within half a patient of 0 or 1, where the bootstrap calls nearly certain what it has hardly seen, Wilson's interval
    over the patients with a finding stands in.

    Args:
        name: The metric.
        values: (classes,) NaN for a class that is nowhere to be found.
        draws: (replicates, classes).
        table: Says how many patients have a finding.
        n: Findings that it rests on.
    """
    there = np.isfinite(values)
    if not there.any():
        return undefined(name, 0, NOTHING)
    value = float(values[there].mean())
    known = np.isfinite(draws[:, there])
    total = np.where(known, draws[:, there], 0).sum(axis=1)
    count = known.sum(axis=1)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    worth = len(np.unique(table.who.codes[table.true.cases[table.findings]]))
    (low, high), _ = bounded_mean_fallback(value, worth)
    if min(value, 1 - value) * worth < AT_THE_EDGE:  # what draws give there is nearly no interval at all
        row = Estimate(name, value, min(low, value), max(high, value), n, "Wilson over patients with a finding")
    else:
        drawn = Bootstrap(max(100, len(means)))
        row = bounded_estimate(name, value, means, n, drawn, ((low, high), "Wilson over patients with a finding"))
    missing = [label for label, yes in zip(table.labels, there, strict=True) if not yes] if len(values) > 1 else []
    why = "nothing called" if name in ("ppv", "precision") else NOTHING
    return row.with_(reason=f"without {', '.join(missing)}: {why}") if missing else row


def counts_of(table: DetectionTable, inside: Bools | None = None) -> NDArray[np.int64]:
    """(classes,) findings; of those among ``inside`` (true boxes)."""
    wanted = table.findings if inside is None else table.findings & inside
    return np.bincount(table.true.labels[wanted], minlength=len(table.labels))


def each_group(table: DetectionTable) -> list[tuple[str, list[int]]]:
    """``all`` with every class; then, of several, each alone."""
    several = list(range(len(table.labels)))
    return [("all", several), *((name, [c]) for c, name in enumerate(table.labels) if len(several) > 1)]


def precision_rows(table: DetectionTable, draws: Bootstrap, sizes: Range | None = None) -> list[Estimate]:
    """``ap50`` and ``ap50_95``; of volumes ``ap10`` too. With ``sizes``, ``ap50`` alone."""
    more = (LOOSE_IOU,) if table.ndim == 3 and sizes is None else ()
    thresholds = (*more, *COCO_IOU) if sizes is None else (0.5,)
    found, true = table.judged
    matches = match_boxes(found, true, thresholds, sizes=sizes)
    result = average_precisions(matches, len(table.labels), table.who, draws)
    drawn = np.zeros((*result.values.shape, 0)) if result.draws is None else result.draws
    inside = None if sizes is None else (table.true.diameters >= sizes[0]) & (table.true.diameters <= sizes[1])
    counts = counts_of(table, inside)
    at = [thresholds.index(0.5)]
    names = (
        [("ap50", at)] if sizes is not None else [("ap50", at), ("ap50_95", list(range(len(more), len(thresholds))))]
    )
    rows = []
    for group, classes in each_group(table):
        for name, which in [*names, *([("ap10", [0])] if more else [])]:
            values = result.values[which][:, classes].mean(axis=0)
            each = drawn[which][:, classes].mean(axis=0).T
            rows.append(ratio_row(name, values, each, table, int(counts[classes].sum())).with_(group=group))
    return rows


def ranked_classes(table: DetectionTable, inside: Bools | None = None) -> list[RankedFindings]:
    """What the FROC curve of each class is drawn from.

    Args:
        table: The judged boxes.
        inside: (true,) which findings count; the false alarms are those of all. None: all.
    """
    true = table.true if inside is None else table.true.at(inside)
    hits = table.hits
    if inside is not None:
        hits = type(hits)(hits.scores[inside], hits.by[inside], hits.outcomes, hits.truth)
    found = []
    for c in range(len(table.labels)):
        seen = np.zeros_like(table.seen)
        seen[:, c] = table.seen[:, c]
        found.append(rank_findings(hits, table.found, true, seen, table.who))
    return found


def froc_draws(
    ranks: Sequence[RankedFindings], table: DetectionTable, bootstrap: Bootstrap, rates: Sequence[float] = RATES
) -> tuple[Floats, Floats]:
    """(rates, classes) sensitivity of each class, and (replicates, rates, classes) of each draw of patients."""
    values = np.stack([rank.values(rates) for rank in ranks], axis=1)
    drawn = bootstrap.affordable(sum(rank.cells for rank in ranks))
    parts = [np.stack([rank.weighted(w, rates) for rank in ranks], axis=2) for w in drawn.weights(table.who.count)]
    return values, np.concatenate(parts)


def froc_rows(table: DetectionTable, bootstrap: Bootstrap, inside: Bools | None = None) -> list[Estimate]:
    """``froc_cpm`` and the sensitivities it is the mean of; with ``inside``, the mean alone."""
    values, draws = froc_draws(ranked_classes(table, inside), table, bootstrap)
    counts = counts_of(table, inside)
    rows = []
    for group, classes in each_group(table):
        n = int(counts[classes].sum())
        mean = ratio_row("froc_cpm", values[:, classes].mean(axis=0), draws[:, :, classes].mean(axis=1), table, n)
        rows.append(mean.with_(group=group))
        if inside is not None:
            continue
        for number, rate in enumerate(RATES):
            name = f"sensitivity_at_fppi_{rate:g}"
            rows.append(
                ratio_row(name, values[number, classes], draws[:, number, classes], table, n).with_(group=group)
            )
    return rows


def image_scores(table: DetectionTable, classes: Sequence[int]) -> tuple[NDArray[np.intp], Floats, Bools]:
    """Rows of cases, each one's largest score (0 without a box), and whether it has a finding.

    Cases in which not every class was looked for, or with nothing but boxes to ignore, are left out.
    """
    n = len(table)
    scores, yes, spared = np.zeros(n), np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    inside = np.isin(table.found.labels, classes)
    np.maximum.at(scores, table.found.cases[inside], table.found.scores[inside])
    of_class = np.isin(table.true.labels, classes)
    yes[table.true.cases[of_class & table.findings]] = True
    spared[table.true.cases[of_class & table.true.ignored]] = True
    rows = np.flatnonzero(table.seen[:, list(classes)].all(axis=1) & (yes | ~spared))
    return rows, scores[rows], yes[rows]


def image_rows(table: DetectionTable) -> list[Estimate]:
    """``auroc``: whether the images with a finding have the larger scores."""
    rows = []
    for group, classes in each_group(table):
        cases, scores, yes = image_scores(table, classes)
        who = Patients.of([table.patients[row] for row in cases], len(cases))
        rows.append(auroc_of(scores, yes, who).with_(group=group))
    return rows


@dataclass(frozen=True, eq=False)
class PointCounts:
    """What is found and called at the operating point, of each patient and class: (patients, classes) each."""

    found: Floats
    findings: Floats
    alarms: Floats
    cases: Floats

    @classmethod
    def of(cls, table: DetectionTable) -> PointCounts:
        """The counts of a table."""
        width = len(table.labels)

        def totals(cases: NDArray[np.int64], labels: NDArray[np.int64]) -> Floats:
            cells = np.bincount(table.who.codes[cases] * width + labels, minlength=table.who.count * width)
            return cells.reshape(-1, width).astype(np.float64)

        wanted = table.findings
        there = wanted & table.found_when_called
        alarms = (table.hits.outcomes == ALARM) & table.called
        case, label = np.nonzero(table.seen)
        return cls(
            totals(table.true.cases[there], table.true.labels[there]),
            totals(table.true.cases[wanted], table.true.labels[wanted]),
            totals(table.found.cases[alarms], table.found.labels[alarms]),
            totals(case, label),
        )


def _rates(sums: Floats) -> dict[str, Floats]:
    """Metric → (…, classes), from counts (…, 4, classes): found, findings, alarms, cases."""
    found, findings, alarms, cases = (sums[..., number, :] for number in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "sensitivity": found / findings,
            "ppv": found / (found + alarms),
            "f1": 2 * found / (findings + found + alarms),
            "false_positives_per_image": alarms / cases,
        }


def point_draws(table: DetectionTable, bootstrap: Bootstrap) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Sensitivity, predictive value, F1 and false alarms an image of what is called.

    Returns:
        Name → (classes,), and name → (replicates, classes); NaN where there is nothing to divide by.
    """
    stacked = _stacked(table)
    sums = bootstrap.affordable(stacked.size).sums(stacked.reshape(len(stacked), -1))
    return _rates(stacked.sum(axis=0)), _rates(sums.reshape(-1, *stacked.shape[1:]))


def _stacked(table: DetectionTable) -> Floats:
    """(patients, 4, classes): found, findings, alarms, cases."""
    counts = PointCounts.of(table)
    return np.stack([counts.found, counts.findings, counts.alarms, counts.cases], axis=1)


def point_rows(table: DetectionTable, bootstrap: Bootstrap) -> list[Estimate]:
    """``sensitivity``, ``ppv``, ``f1`` and ``false_positives_per_image`` of the boxes that are called."""
    stacked, (values, drawn) = _stacked(table), point_draws(table, bootstrap)
    rows = []
    for group, classes in each_group(table):
        cut = table.thresholds[classes[0]] if table.thresholds and len(classes) == 1 else None
        for name in ("sensitivity", "ppv", "f1"):
            n = _resting_on(name, stacked[:, :, classes])
            row = ratio_row(name, values[name][classes], drawn[name][:, classes], table, n)
            row = _proportion(table, classes[0], row) if len(classes) == 1 else row
            rows.append(row.with_(group=group, threshold=cut))
        name = "false_positives_per_image"
        alarms = _alarms(table, classes, values[name][classes], drawn[name][:, classes])
        rows.append(alarms.with_(group=group, threshold=cut))
    return rows + (_pooled(table, stacked, bootstrap) if len(table.labels) > 1 else [])


def _pooled(table: DetectionTable, stacked: Floats, bootstrap: Bootstrap) -> list[Estimate]:
    """The findings of all classes taken together."""
    whole = stacked.sum(axis=2, keepdims=True)
    sums = bootstrap.affordable(whole.size).sums(whole[:, :, 0])[:, :, None]
    values, drawn = _rates(whole.sum(axis=0)), _rates(sums)
    rows = []
    for name in ("sensitivity", "ppv", "f1"):
        row = ratio_row(name, values[name], drawn[name], table, _resting_on(name, stacked))
        rows.append(row.with_(average="micro"))
    return rows


def _resting_on(name: str, stacked: Floats) -> int:
    """Findings, or for the predictive value what is called."""
    found, findings, alarms, _ = stacked.sum(axis=(0, 2))
    return int(found + alarms if name == "ppv" else findings)


def _proportion(table: DetectionTable, label: int, row: Estimate) -> Estimate:
    """Sensitivity and predictive value of one class with Wilson's interval, clustered by patient."""
    wanted = table.findings & (table.true.labels == label)
    right = table.found_when_called[wanted]
    if row.name == "sensitivity":
        return proportion("sensitivity", right, table.who.at(table.true.cases[wanted]), NOTHING)
    if row.name != "ppv":
        return row
    alarms = (table.hits.outcomes == ALARM) & table.called & (table.found.labels == label)
    cases = np.concatenate([table.true.cases[wanted][right], table.found.cases[alarms]])
    yes = np.concatenate([np.ones(int(right.sum()), np.bool_), np.zeros(int(alarms.sum()), np.bool_)])
    return proportion("ppv", yes, table.who.at(cases), "nothing is called")


def _alarms(table: DetectionTable, classes: list[int], each: Floats, drawn: Floats) -> Estimate:
    """False alarms an image: of several classes their sum."""
    name = "false_positives_per_image"
    cases = int(table.seen[:, classes].any(axis=1).sum())
    if not cases:
        return undefined(name, 0, "no image was looked at")
    value, sums = float(np.nansum(each)), np.nansum(drawn, axis=1)
    if value > 0 and replicate_interval(value, sums) is None:
        return Estimate(name, value, None, None, cases, None, reason=NOT_MOVED)
    # Poisson's exact upper limit of none (Garwood 1936), with patients as what was counted
    fallback = ((0.0, NONE_SEEN / table.who.count), "Poisson over patients (none called)")
    return bounded_estimate(name, value, sums, cases, Bootstrap(max(100, len(sums))), fallback)


def size_rows(table: DetectionTable, part: SizeRange, bootstrap: Bootstrap) -> list[Estimate]:
    """``ap50``, ``froc_cpm`` and ``sensitivity`` of the findings of some sizes; all classes."""
    inside = part.holds(table.true.diameters)
    rows = [*precision_rows(table, bootstrap, part.both)[:1], *froc_rows(table, bootstrap, inside)[:1]]
    wanted = table.findings & inside
    right = table.found_when_called[wanted]
    rows.append(proportion("sensitivity", right, table.who.at(table.true.cases[wanted]), NOTHING))
    return [row.with_(group=part.name) for row in rows]


def detection_subgroup_rows(table: DetectionTable) -> tuple[list[Estimate], list[str]]:
    """Rows for every value of the site and of each clinical column, and what was left out and why.

    A group of fewer than ten cases has no value and says why.
    """
    rows: list[Estimate] = []
    notes = []
    for column, values in table.factors().items():
        found, why = groups_of(column, values)
        if why is not None:
            notes.append(f"No subgroups: {why}.")
        for group in found:
            part = table.at(group.inside)
            some = [*precision_rows(part, GROUP_DRAWS), *froc_rows(part, GROUP_DRAWS), *point_rows(part, GROUP_DRAWS)]
            some = [row for row in some if row.name in IN_GROUPS and row.group == "all" and row.average is None]
            some = some if len(part) >= FEWEST else [_too_few(row, len(part)) for row in some]
            rows += [row.with_(group=group.name, threshold=None) for row in some]
    return rows, notes


def _too_few(row: Estimate, cases: int) -> Estimate:
    why = f"only {cases} case{'' if cases == 1 else 's'}: fewer than {FEWEST} say nothing"
    return row.with_(value=None, low=None, high=None, method=None, reason=why)


def is_size_group(name: str) -> bool:
    """Whether a row's group is a range of size (and no column that happens to be called so).

    Example:
        >>> [is_size_group(name) for name in ("size<5mm", "size=5–10mm", "size≥96px", "size=large", "all")]
        [True, True, True, False, False]
    """
    return re.fullmatch(r"size[<=≥][\d.e+]+(–[\d.e+]+)?(mm|px|voxels)", name) is not None
