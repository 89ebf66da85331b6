"""Two segmentations of the same cases: is one better, and could it be chance?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmap.errors import DataError
from medmap.evaluate.compare import ComparisonReport, few_patients_words
from medmap.evaluate.structures import StructureTable
from medmap.evaluate.structures_csv import read_structures
from medmap.evaluate.structures_rows import METRICS, case_means
from medmap.metrics import Bootstrap, Comparison
from medmap.metrics.means import mean_differences


def compare_structures(
    a: StructureTable, b: StructureTable, name_a: str = "a", name_b: str = "b", bootstrap: Bootstrap | None = None
) -> ComparisonReport:
    """The differences a − b of every measure, over all structures and of each, on what both have judged.

    Patients are drawn again, the same for both; ``all`` compares each case's mean over its structures. NSD is compared
    only where both have the same tolerance.

    Args:
        a: The predictions of one.
        b: The predictions of the other.
        name_a, name_b: What they are called.
        bootstrap: Replicates and seed.

    Raises:
        DataError: No structure of a case in common, another truth, or another patient for the same case.
    """
    a, b = a.of(), b.of()
    rows_a, rows_b = (
        {(case, score.structure): row for row, (case, score) in enumerate(zip(t.cases, t.scores, strict=True))}
        for t in (a, b)
    )
    both = sorted(rows_a.keys() & rows_b.keys())  # an order of its own: a against b is b against a
    if not both:
        raise DataError("the two evaluations have no structure of a case in common", got=f"{len(a)} and {len(b)} rows")
    one, two = a.at([rows_a[key] for key in both]), b.at([rows_b[key] for key in both])
    _same_truth(one, two)
    metrics = [name for name in METRICS if name != "nsd" or _tolerances(one) == _tolerances(two)]
    found: list[Comparison] = []
    names = np.array([score.structure for score in one.scores], dtype=object)
    for group in ("all", *one.structures):
        inside = np.full(len(one), True) if group == "all" else names == group
        left, right = one.at(inside), two.at(inside)
        cases, values = case_means(left, metrics)
        owner = dict(zip(left.cases, left.patients, strict=True))
        patients = [owner[case] for case in cases]
        rows = mean_differences(metrics, values, case_means(right, metrics)[1], patients, bootstrap=bootstrap)
        found += [row.with_(group=group) for row in rows]
    cases_a, cases_b, shared = set(a.cases), set(b.cases), set(one.cases)
    told = _told(len(cases_a - shared), len(cases_b - shared), one, two, len(metrics) < len(METRICS))
    return ComparisonReport(
        name_a,
        name_b,
        len(shared),
        len(set(one.patients)),
        len(cases_a - shared),
        len(cases_b - shared),
        tuple(found),
        tuple(told),
    )


def compare_structure_folders(folder_a: str | Path, folder_b: str | Path) -> ComparisonReport:
    """Compare two evaluations of segmentations by their ``predictions.csv`` alone.

    Raises:
        ReadError: A file that is absent or no table of structures.
        DataError: Nothing in common, or another truth.
    """
    return compare_structures(read_structures(folder_a), read_structures(folder_b), str(folder_a), str(folder_b))


def _tolerances(table: StructureTable) -> list[float | None]:
    return [score.tolerance_mm for score in table.scores]


def _same_truth(a: StructureTable, b: StructureTable) -> None:
    for case, one, two in zip(a.cases, a.scores, b.scores, strict=True):
        if (one.truth_voxels, one.voxel_ml is None) != (two.truth_voxels, two.voxel_ml is None):
            raise DataError(
                f"{one.structure} has another truth in the two evaluations",
                got=f"{two.truth_voxels} voxels",
                expected=f"{one.truth_voxels}",
                case=case,
                remedy="evaluate both models on the same masks and grids",
            )
    if a.patients != b.patients:
        raise DataError("the same cases belong to other patients in the two evaluations")


def _told(only_a: int, only_b: int, a: StructureTable, b: StructureTable, without_nsd: bool) -> list[str]:
    told = []
    for count, name in ((only_a, "first"), (only_b, "second")):
        if count:
            told.append(f"{count} case{'s are' if count > 1 else ' is'} in the {name} evaluation only and left out.")
    if "train" in (*a.splits, *b.splits):
        told.append("Some cases are of the training split: they say nothing about new patients.")
    if without_nsd:
        told.append("NSD is left out: the two evaluations have other tolerances.")
    return [*told, *few_patients_words(len(set(a.patients)))]
