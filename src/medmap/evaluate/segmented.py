"""From masks beside the true ones to a report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from medmap.dataset import Case, Dataset
from medmap.errors import DataError
from medmap.evaluate.outcome import Circumstances, Failure, Report
from medmap.evaluate.structures import case_scores, structure_table
from medmap.evaluate.structures_rows import structure_rows, structure_subgroup_rows, volume_agreement
from medmap.metrics import MaskRules, MaskScores
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
        masks: Each case with its mask on the case's own grid.
        split: Which cases these are; ``oof`` for out of fold.
        folds: Which fold's network judged a case.
        rules: Tolerance of surfaces, matching of lesions.
        warnings: What is known to be wrong already, worst first.
        circumstances: What happened while predicting.

    Raises:
        DatasetError: No case has both a mask and a true one.
    """
    found = circumstances or Circumstances()
    started = time.monotonic() if found.started is None else found.started
    scores: dict[str, Sequence[MaskScores]] = {}
    others: dict[str, dict[str, Sequence[MaskScores]]] = {}
    failed = list(found.failed)
    for case, mask in masks:
        try:
            drawn = [np.asarray(read_ref(dataset, ref).match(mask.geometry).array) for ref in case.truth.masks]
            scores[case.id] = case_scores(dataset, case, drawn[0], mask.array, mask.geometry, rules)
            for number, other in enumerate(drawn[1:], start=2):
                against = case_scores(dataset, case, drawn[0], other, mask.geometry, rules)
                others.setdefault(f"observer {number}", {})[case.id] = against
        except DataError as error:
            failed.append(Failure(case.id, str(error)))
            scores.pop(case.id, None)
    table = structure_table(dataset, scores, observers=others, folds=folds)
    groups, notes = structure_subgroup_rows(table)
    rows = (*structure_rows(table), *volume_agreement(table), *groups)
    report = Report(
        split=split,
        table=table,
        rows=rows,
        dataset_name=dataset.name,
        dataset_digest=dataset.digest,
        task="segment",
        bundles=found.bundles,
        failed=tuple(failed),
        flow=found.flow or (("supplied", len(dataset)), ("evaluated", table.case_count)),
        looks=found.looks.count,
        notes=tuple(notes),
    )
    told = [*warnings, *failure_words(failed, table.case_count)]
    return replace(report, warnings=tuple(dict.fromkeys(told)), seconds=time.monotonic() - started)


def failure_words(failed: Sequence[Failure], good: int) -> list[str]:
    """A sentence on cases that are missing from every number."""
    if not failed:
        return []
    count = len(failed)
    return [
        f"{count} of {count + good} cases could not be evaluated and are missing from every number: "
        f"{failed[0].case} ({failed[0].reason.rstrip('.')})" + (f" and {count - 1} more." if count > 1 else ".")
    ]
