"""From masks beside the true ones to a report, and what a second observer makes of the same cases."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from medmap.dataset import Case, Dataset
from medmap.errors import DataError
from medmap.evaluate.compare import ComparisonReport
from medmap.evaluate.kept import WorstKept
from medmap.evaluate.outcome import Circumstances, Failure, Report
from medmap.evaluate.structures import PREDICTION, StructureTable, case_scores, structure_table
from medmap.evaluate.structures_compare import compare_structures
from medmap.evaluate.structures_rows import structure_rows, structure_subgroup_rows, volume_agreement
from medmap.evaluate.verdict import little_use
from medmap.metrics import Bootstrap, MaskRules, MaskScores
from medmap.read import read_ref
from medmap.results import Mask


def report_from_masks(
    dataset: Dataset,
    masks: Iterable[tuple[Case, Mask]],
    *,
    split: str,
    folds: Mapping[str, int] | None = None,
    rules: MaskRules | None = None,
    warnings: Sequence[str] = (),
    circumstances: Circumstances | None = None,
) -> Report:
    """The report of masks that are there already, one read and judged at a time.

    Args:
        dataset: The cases judged, with their true masks; a second observer's mask is judged beside the prediction.
        masks: Each case with its mask on the case's own grid; those of the worst cases are kept for the report's
            pictures, no other is held. A case without a true mask is counted and left out.
        split: Which cases these are; ``oof`` for out of fold.
        folds: Which fold's network judged a case.
        rules: Tolerance of surfaces, matching of lesions.
        warnings: What is known to be wrong already, worst first.
        circumstances: What happened while predicting.

    Raises:
        DatasetError: No case has both a mask and a true one.
    """
    found, given = circumstances or Circumstances(), rules or MaskRules()
    started = time.monotonic() if found.started is None else found.started
    scores: dict[str, Sequence[MaskScores]] = {}
    others: dict[str, dict[str, Sequence[MaskScores]]] = {}
    failed, kept, without = list(found.failed), WorstKept(), 0
    for case, mask in masks:
        if not case.truth.masks:
            without += 1
            continue
        try:
            mine, *second = _judged(dataset, case, mask, given)
        except DataError as error:
            failed.append(Failure(case.id, str(error)))
            continue
        scores[case.id] = mine
        kept.judged(case.id, mask, mine)
        for number, against in enumerate(second, start=2):
            others.setdefault(f"observer {number}", {})[case.id] = against
    table = structure_table(dataset, scores, observers=others, folds=folds)
    groups, notes = structure_subgroup_rows(table)
    gone = (("without a true mask", without), ("unreadable or refused", len(failed)))
    flow = (("supplied", len(dataset)), *(step for step in gone if step[1]), ("evaluated", table.case_count))
    rows = structure_rows(table)
    told = [*warnings, *failure_words(failed, table.case_count), *little_use(rows)]
    return Report(
        split=split,
        table=table,
        rows=(*rows, *volume_agreement(table), *groups),
        dataset_name=dataset.name,
        dataset_digest=found.dataset_digest or dataset.digest,
        task="segment",
        bundles=found.bundles,
        warnings=tuple(dict.fromkeys(told)),
        failed=tuple(failed),
        flow=found.flow or flow,
        seconds=time.monotonic() - started,
        looks=found.looks.count,
        notes=tuple(notes),
        rules=given,
        masks=kept,
    )


def _judged(dataset: Dataset, case: Case, mask: Mask, rules: MaskRules) -> Iterator[Sequence[MaskScores]]:
    """The prediction against the first observer, then every further observer against the first."""
    first, *further = (np.asarray(read_ref(dataset, ref).laid_on(mask.geometry).array) for ref in case.truth.masks)
    for other in (mask.array, *further):
        yield case_scores(dataset, case, first, other, mask.geometry, rules)


def beside_observers(table: StructureTable, bootstrap: Bootstrap | None = None) -> dict[str, ComparisonReport]:
    """Prediction less another observer, both against the first one, on the cases that this observer has drawn.

    Args:
        table: The judged masks.
        bootstrap: Replicates and seed.

    Returns:
        Rater (``observer 2``) → the differences with intervals over patients; empty where there is one observer.
    """
    found = {}
    for rater in dict.fromkeys(table.raters):
        if rater != PREDICTION and len(table.of()):
            other = table.of(rater)
            asked = replace(other, raters=(PREDICTION,) * len(other))
            found[rater] = compare_structures(table.of(), asked, PREDICTION, rater, bootstrap)
    return found


def failure_words(failed: Sequence[Failure], good: int) -> list[str]:
    """A sentence on cases that are missing from every number."""
    if not failed:
        return []
    count = len(failed)
    return [
        f"{count} of {count + good} cases could not be evaluated and are missing from every number: "
        f"{failed[0].case} ({failed[0].reason.rstrip('.')})" + (f" and {count - 1} more." if count > 1 else ".")
    ]
