"""Two detections of the same cases: is one better, and could it be chance?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError
from medmap.evaluate.compare import ComparisonReport, few_patients_words
from medmap.evaluate.detections import DetectionTable
from medmap.evaluate.detections_csv import read_detections
from medmap.evaluate.detections_rows import DRAWS, counts_of, each_group, froc_draws, point_draws, ranked_classes
from medmap.metrics import Bootstrap, Comparison, average_precisions, match_boxes
from medmap.metrics.boxes import COCO_IOU
from medmap.metrics.flips import within_least_p
from medmap.metrics.means import tested_difference

Floats = NDArray[np.float64]


def compare_detections(
    a: DetectionTable, b: DetectionTable, name_a: str = "a", name_b: str = "b", bootstrap: Bootstrap | None = None
) -> ComparisonReport:
    """The differences a − b of AP50, AP50:95 and CPM, on the cases that both have judged.

    Sensitivity and false alarms an image are compared too, each detector at its own operating point. Patients are drawn
    again, the same for both.

    Args:
        a: The boxes of one.
        b: The boxes of the other.
        name_a, name_b: What they are called.
        bootstrap: Replicates and seed; 1,000 and 0 when absent.

    Raises:
        DataError: Other classes, another rule of hits, no case in common, another truth or another patient for the same
            case.
    """
    if set(a.labels) != set(b.labels):
        raise DataError(
            "the two evaluations do not answer the same question",
            got=", ".join(b.labels),
            expected=", ".join(a.labels),
        )
    if a.rule != b.rule:
        raise DataError(
            "the two evaluations have different rules of hits",
            got=str(b.rule),
            expected=str(a.rule),
            remedy="judge both with one rule: medmap evaluate … --hit",
        )
    b = _in_order(b, a.labels)
    rows_a, rows_b = ({case: row for row, case in enumerate(table.cases)} for table in (a, b))
    both = sorted(rows_a.keys() & rows_b.keys())  # an order of its own: a against b is b against a
    if not both:
        raise DataError("the two evaluations have no case in common", got=f"{len(a)} and {len(b)} cases")
    one, two = a.at([rows_a[case] for case in both]), b.at([rows_b[case] for case in both])
    _same_truth(one, two)
    draws = bootstrap or DRAWS
    rows = [*_precisions(one, two, draws), *_curves(one, two, draws), *_points(one, two, draws)]
    patients = len(set(one.patients))
    rows = [within_least_p(row, patients) for row in rows]
    only_a, only_b = len(a) - len(both), len(b) - len(both)
    told = _told(only_a, only_b, one, two)
    return ComparisonReport(name_a, name_b, len(both), patients, only_a, only_b, tuple(rows), tuple(told))


def compare_detection_folders(folder_a: str | Path, folder_b: str | Path) -> ComparisonReport:
    """Compare two evaluations of detections by their ``predictions.csv`` alone.

    Raises:
        ReadError: A file that is absent or no table of boxes.
        DataError: Nothing in common, or another truth.
    """
    return compare_detections(read_detections(folder_a), read_detections(folder_b), str(folder_a), str(folder_b))


def _in_order(table: DetectionTable, labels: tuple[str, ...]) -> DetectionTable:
    """The table with its classes in another order."""
    if table.labels == labels:
        return table
    place = np.array([labels.index(name) for name in table.labels])
    cuts = dict(zip(table.labels, table.thresholds, strict=False))
    return replace(
        table,
        labels=labels,
        found=replace(table.found, labels=place[table.found.labels]),
        true=replace(table.true, labels=place[table.true.labels]),
        thresholds=tuple(cuts[name] for name in labels) if cuts else (),
        known=tuple(None if known is None else tuple(sorted(place[list(known)].tolist())) for known in table.known),
    )


def _same_truth(a: DetectionTable, b: DetectionTable) -> None:
    if a.ndim != b.ndim:
        raise DataError("one evaluation is of planes, the other of volumes")
    ours, theirs = (
        Counter(
            zip(t.cases.tolist(), t.labels.tolist(), t.ignored.tolist(), map(tuple, t.corners.tolist()), strict=True)
        )
        for t in (a.true, b.true)
    )
    if ours != theirs:
        raise DataError(
            "some cases have another truth in the two evaluations",
            case=a.cases[min(box[0] for box in (*(ours - theirs), *(theirs - ours)))],
            remedy="evaluate both models on the same boxes",
        )
    if a.patients != b.patients:
        raise DataError("the same cases belong to other patients in the two evaluations")
    if a.known != b.known:
        raise DataError("other classes were looked at in the two evaluations")


def _precisions(a: DetectionTable, b: DetectionTable, draws: Bootstrap) -> list[Comparison]:
    values, drawn = [], []
    for table in (a, b):
        found, true = table.judged
        # of both as many draws as the larger one can afford
        result = average_precisions(match_boxes(found, true), len(table.labels), table.who, _shared(a, b, draws))
        values.append(result.values)
        drawn.append(np.zeros((*result.values.shape, 0)) if result.draws is None else result.draws)
    rows = []
    for group, classes in each_group(a):
        n = int(counts_of(a)[classes].sum())
        for name, which in (("ap50", [0]), ("ap50_95", list(range(len(COCO_IOU))))):
            each = [_mean(value[which][:, classes].mean(axis=0)) for value in values]
            replicates = [_means(draw[which][:, classes].mean(axis=0).T) for draw in drawn]
            rows.append(_compared(name, group, (each, replicates), n, draws))
    return rows


def _curves(a: DetectionTable, b: DetectionTable, draws: Bootstrap) -> list[Comparison]:
    found = [froc_draws(ranked_classes(table), table, _shared(a, b, draws)) for table in (a, b)]
    rows = []
    for group, classes in each_group(a):
        n = int(counts_of(a)[classes].sum())
        each = [_mean(values[:, classes].mean(axis=0)) for values, _ in found]
        replicates = [_means(drawn[:, :, classes].mean(axis=1)) for _, drawn in found]
        rows.append(_compared("froc_cpm", group, (each, replicates), n, draws))
    return rows


def _points(a: DetectionTable, b: DetectionTable, draws: Bootstrap) -> list[Comparison]:
    found = [point_draws(table, draws) for table in (a, b)]
    rows = []
    for group, classes in each_group(a):
        n = int(counts_of(a)[classes].sum())
        each = [_mean(values["sensitivity"][classes]) for values, _ in found]
        replicates = [_means(drawn["sensitivity"][:, classes]) for _, drawn in found]
        rows.append(_compared("sensitivity", group, (each, replicates), n, draws))
        name = "false_positives_per_image"
        each = [float(np.nansum(values[name][classes])) for values, _ in found]
        replicates = [np.nansum(drawn[name][:, classes], axis=1) for _, drawn in found]
        rows.append(_compared(name, group, (each, replicates), int(a.seen[:, classes].any(axis=1).sum()), draws))
    return rows


def _shared(a: DetectionTable, b: DetectionTable, draws: Bootstrap) -> Bootstrap:
    """The same number of draws for both, however many boxes each has."""
    return draws.affordable(len(COCO_IOU) * max(len(a.found), len(b.found)))


def _mean(values: Floats) -> float:
    there = np.isfinite(values)
    return float(values[there].mean()) if there.any() else float("nan")


def _means(draws: Floats) -> Floats:
    """(replicates,) mean over the classes that a draw holds."""
    known = np.isfinite(draws)
    count = known.sum(axis=1)
    total = np.where(known, draws, 0).sum(axis=1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _compared(
    name: str, group: str, found: tuple[Sequence[float], Sequence[Floats]], n: int, draws: Bootstrap
) -> Comparison:
    (a, b), replicates = found
    plain = Comparison(name, group, None, None, None, None, None, None, n, None)
    if not np.isfinite([a, b]).all():
        return plain.with_(reason="nothing to find")
    differences = replicates[0] - replicates[1]
    used = Bootstrap(max(100, len(differences)), draws.seed)
    return tested_difference(plain.with_(a=a, b=b, difference=a - b), differences, used)


def _told(only_a: int, only_b: int, a: DetectionTable, b: DetectionTable) -> list[str]:
    told = []
    for count, name in ((only_a, "first"), (only_b, "second")):
        if count:
            told.append(f"{count} case{'s are' if count > 1 else ' is'} in the {name} evaluation only and left out.")
    if "train" in (*a.splits, *b.splits):
        told.append("Some cases are of the training split: they say nothing about new patients.")
    return [*told, *few_patients_words(len(set(a.patients)))]
