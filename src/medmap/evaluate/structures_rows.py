"""From the table of structures to the rows of ``metrics.json``: means over cases, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medmap.evaluate.groups import FEWEST, groups_of
from medmap.evaluate.structures import PREDICTION, StructureTable
from medmap.metrics import Bootstrap, Estimate
from medmap.metrics.agreement import bland_altman
from medmap.metrics.means import mean_estimates

Floats = NDArray[np.float64]

METRICS = (
    "dice",
    "iou",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "volume_error_ml",
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
)
BOUNDED = ("dice", "iou", "nsd", "lesion_sensitivity", "lesion_precision", "lesion_f1")
IN_GROUPS = ("dice", "hd95_mm", "nsd")  # the few that a small group can bear
GROUP_DRAWS = Bootstrap(500)
_WITHOUT = {
    **dict.fromkeys(("hd95_mm", "assd_mm", "nsd"), "the images have no millimetres"),
    "volume_error_ml": "the images have no volume: planes, or without millimetres",
    "lesion_sensitivity": "no case has one to find",
    "lesion_precision": "none was predicted",
}


def structure_rows(table: StructureTable, bootstrap: Bootstrap | None = None) -> tuple[Estimate, ...]:
    """Every measure of the predictions: over all structures, then of each; then the same of other observers.

    ``all`` is the mean over cases of each case's mean over its structures, so that no case weighs more for having many.
    A structure that the truth does not speak of is left out of its case; missed and invented ones never are. Rows of
    another observer have the stage ``observer 2``: that mask against the first observer's.

    Args:
        table: The judged masks.
        bootstrap: Replicates and seed.
    """
    rows: list[Estimate] = []
    for rater in dict.fromkeys(table.raters):
        part = table.of(rater)
        found = [row for name in ("all", *part.structures) for row in _group(part, name, METRICS, bootstrap)]
        rows += [row.with_(stage=None if rater == PREDICTION else rater) for row in found]
    return tuple(rows)


def structure_subgroup_rows(table: StructureTable) -> tuple[list[Estimate], list[str]]:
    """Rows over all structures for every value of the site and of each clinical column, and what was left out and why.

    A group of fewer than ten cases has no value and says why.
    """
    part = table.of()
    rows: list[Estimate] = []
    notes = []
    cases = _Cases(part)
    for column, values in part.factors().items():
        found, why = groups_of(column, [values[row] for row in cases.first])
        if why is not None:
            notes.append(f"No subgroups: {why}.")
        for group in found:
            names = [cases.names[number] for number in np.flatnonzero(group.inside)]
            inside = np.isin(np.array(part.cases, dtype=object), names)
            some = [row.with_(group=group.name) for row in _group(part.at(inside), "all", IN_GROUPS, GROUP_DRAWS)]
            rows += some if len(names) >= FEWEST else [_too_few(row, len(names)) for row in some]
    return rows, notes


def volume_agreement(table: StructureTable, bootstrap: Bootstrap | None = None) -> tuple[Estimate, ...]:
    """Bias and limits of agreement of volumes, in ml, of each structure and rater (Bland and Altman 1986, 1999).

    The names are ``volume_bias_ml``, ``volume_limit_low_ml`` and ``volume_limit_high_ml``; measured less true volume.
    Structures without a volume (planes, images without millimetres) have none.
    """
    rows: list[Estimate] = []
    for rater in dict.fromkeys(table.raters):
        for structure in table.of(rater).structures:
            true, found, patients = volumes(table, structure, rater)
            if not len(true):
                continue
            three = bland_altman(true, found, patients, unit="ml", bootstrap=bootstrap)
            stage = None if rater == PREDICTION else rater
            rows += [row.with_(name=f"volume_{row.name}", group=structure, stage=stage) for row in three]
    return tuple(rows)


def volumes(table: StructureTable, structure: str, rater: str = PREDICTION) -> tuple[Floats, Floats, tuple[str, ...]]:
    """(n,) true volumes in ml, (n,) measured ones, (n,) patients: the cases in which a structure has a volume."""
    part = table.of(rater, structure)
    true, found = part.values("volume_truth_ml"), part.values("volume_prediction_ml")
    known = np.flatnonzero(np.isfinite(true))
    return true[known], found[known], tuple(part.patients[row] for row in known)


def case_means(table: StructureTable, metrics: Sequence[str] = METRICS) -> tuple[tuple[str, ...], Floats]:
    """Each case's mean over its structures: case identifiers, and (cases, metrics), NaN where none has a value.

    Args:
        table: Of one rater.
        metrics: Names of measures.
    """
    cases = _Cases(table)
    columns = []
    for metric in metrics:
        values = table.values(metric)
        known = np.isfinite(values)
        total = np.bincount(cases.codes, weights=np.where(known, values, 0.0), minlength=len(cases.names))
        count = np.bincount(cases.codes, weights=known, minlength=len(cases.names))
        columns.append(total / np.where(count > 0, count, np.nan))
    return cases.names, np.stack(columns, axis=1)


class _Cases:
    """The cases of a table in the order in which they first occur: names, first rows, and each row's case."""

    def __init__(self, table: StructureTable) -> None:
        first = {case: row for row, case in reversed(list(enumerate(table.cases)))}
        self.names = tuple(sorted(first, key=lambda case: first[case]))
        self.first = [first[case] for case in self.names]
        place = {case: number for number, case in enumerate(self.names)}
        self.codes = np.array([place[case] for case in table.cases], dtype=np.int64)


def _group(table: StructureTable, name: str, metrics: Sequence[str], bootstrap: Bootstrap | None) -> list[Estimate]:
    part = table if name == "all" else table.at(np.array([score.structure == name for score in table.scores]))
    cases, values = case_means(part, metrics)
    owner = dict(zip(part.cases, part.patients, strict=True))
    patients = [owner[case] for case in cases]
    rows = mean_estimates(metrics, values, patients, bounded=BOUNDED, bootstrap=bootstrap)
    return [_placed(row, name, part, len(cases)) for row in rows]


def _placed(row: Estimate, group: str, part: StructureTable, cases: int) -> Estimate:
    """The row with its group, its reason in the words of masks, and with NSD its tolerance where it is one."""
    row = row.with_(group=group)
    if row.value is None and cases:
        row = row.with_(reason=_WITHOUT.get(row.name, row.reason))
    if row.name == "nsd" and row.value is not None:
        tolerances = {score.tolerance_mm for score in part.scores if score.tolerance_mm is not None}
        row = row.with_(tolerance_mm=tolerances.pop() if len(tolerances) == 1 else None)
    return row


def _too_few(row: Estimate, cases: int) -> Estimate:
    why = f"only {cases} case{'' if cases == 1 else 's'}: fewer than {FEWEST} say nothing"
    return row.with_(value=None, low=None, high=None, method=None, reason=why)
