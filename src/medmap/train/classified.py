"""What is the classification's own in a training: whole images, numbers for each case, a calibrated decision."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap import augment
from medmap.dataset import Case, Dataset
from medmap.decision import Decision, fit_calibration, fit_thresholds
from medmap.evaluate import Circumstances, Failure, Report, operating_point, report_from_table, table_of
from medmap.feed import Progress, Store, build_store
from medmap.fit import FitState, logits
from medmap.plan import Run
from medmap.prepare import Recipe
from medmap.train.members import Member
from medmap.train.parts import Concluded, accepted, flow_of

if TYPE_CHECKING:
    import torch

    from medmap.train.parts import Trained, Work


def store(run: Run, dataset: Dataset, recipe: Recipe, folder: Path, progress: Progress) -> Store:
    """Every case prepared once; of the test cases training looks at the hashes alone."""
    return build_store(dataset, recipe, memory_bytes=run.memory_bytes, folder=folder, progress=progress)


def doubts(dataset: Dataset) -> tuple[str, ...]:
    """Nothing is said of truths beyond what `medmap check` says."""
    return ()


def learned(work: Work, member: Member, state: FitState) -> dict[str, torch.Tensor]:
    """``logits``: (len(judge), views, outputs) a member's numbers for the cases that judge it."""
    import torch

    views = augment.views(work.run.augment.flip_axes)
    numbers = np.zeros((0, len(views), work.task.outputs), dtype=np.float32)
    if len(member.judge):
        numbers = logits(state.fabric, state.judged, work.store, member.judge, work.run.fit, views)
    return {"logits": torch.from_numpy(numbers)}


def parity_examples(work: Work, rows: Sequence[int]) -> tuple[NDArray[np.float32], None]:
    """(rows, channels, spatial …) prepared cases on which engines are compared by their numbers."""
    return work.store.take(rows), None


def provenance(work: Work) -> dict[str, Any]:
    """What a bundle must know to read its numbers."""
    return {"target_scale": list(work.task.scale)}


def concluded(work: Work, done: Sequence[Trained]) -> Concluded:
    """The decision fitted on cases that the networks did not learn from, and their evaluation."""
    cases, numbers, fold = judged_cases(work, done)
    decision, notes = fit_decision(work, cases, numbers)
    return Concluded(decision, tuple(notes), _report(work, cases, numbers, fold, decision) if cases else None)


def judged_cases(work: Work, done: Sequence[Trained]) -> tuple[list[Case], list[NDArray[np.float32]], list[int | None]]:
    """Each judged case once, with the numbers of all members (and views) that did not learn from it, and its fold."""
    rows: dict[int, list[NDArray[np.float32]]] = defaultdict(list)
    fold: dict[int, int | None] = {}
    for one in done:
        for row, values in zip(one.member.judge, one.kept["logits"].numpy(), strict=True):
            rows[int(row)].append(values)
            fold.setdefault(int(row), one.member.fold)
    order = sorted(rows)
    numbers = [np.concatenate(rows[row]) for row in order]
    return [work.store.cases[row] for row in order], numbers, [fold[row] for row in order]


def fit_decision(
    work: Work, cases: Sequence[Case], numbers: Sequence[NDArray[np.float32]]
) -> tuple[Decision, list[str]]:
    """Temperature and thresholds from cases that the networks judged without having learned from them."""
    task, run = work.task, work.run
    accepts = accepted(work)
    how = "out of fold" if run.ensemble.folds else "validation split"
    fitted_on = {"cases": len(cases), "how": how if cases else "nothing"}
    plain = Decision(
        positive=work.dataset.positive if task.kind == "binary" else None, accepts=accepts, fitted_on=fitted_on
    )
    if not cases:
        return plain, ["no validation case: scores are not calibrated and no operating point is fitted"]
    if task.kind == "regression":
        return plain, []
    truth = task.truth(cases)
    together = np.stack([task.combine(rows) for rows in numbers])
    fitted = fit_calibration(together, truth, task.kind)
    if task.kind in ("binary", "multiclass"):
        counts = np.bincount(truth, minlength=len(task.labels))
        plain = plain.with_(fitted_on={**fitted_on, "priors": (counts / counts.sum()).tolist()})
    notes = [f"calibration: {fitted.reason}"] if fitted.reason else []
    decision = plain.with_(temperature=fitted.temperature, prior_shift=fitted.offsets)
    if task.kind == "ordinal":
        return decision, notes
    found = fit_thresholds(
        task.probabilities(together, decision),
        truth,
        task.kind,
        run.decision.target,
        positive=plain.positive,
        prevalence=run.decision.prevalence if task.kind == "binary" else None,
    )
    notes += [f"operating point: {found.reason}"] if found.reason else []
    return decision.with_(thresholds=found.values, target=found.target, prevalence=run.decision.prevalence), notes


def _report(
    work: Work,
    cases: Sequence[Case],
    numbers: Sequence[NDArray[np.float32]],
    fold: list[int | None],
    decision: Decision,
) -> Report:
    answers = {c.id: work.task.decode(row, decision=decision) for c, row in zip(cases, numbers, strict=True)}
    dealt = {c.id: part for c, part in zip(cases, fold, strict=True) if part is not None}
    judged = work.dataset.with_cases(cases)
    table = table_of(judged, answers, thresholds=operating_point(work.task.kind, decision), folds=dealt)
    split = "oof" if work.run.ensemble.folds else "val"
    failed = tuple(Failure(case, reason) for case, reason in work.store.failed.items())
    found = Circumstances(failed=failed, flow=flow_of(work, len(cases)), started=time.monotonic() - work.clock.spent_s)
    return report_from_table(
        table, split=split, dataset=work.dataset, warnings=list(work.warnings), circumstances=found
    )
