"""What is the detection's own in a training: cases with boxes, the boxes of judged cases, the operating point."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap import augment
from medmap.config import write_atomically
from medmap.dataset import Case, Dataset
from medmap.decision import Decision, box_chances, fit_box_calibration, fit_box_threshold
from medmap.errors import counted
from medmap.evaluate import Circumstances, Failure, Report
from medmap.evaluate.detected import report_from_boxes
from medmap.evaluate.detections import DetectionTable, detection_table
from medmap.feed import PatchStore, Progress, build_box_store
from medmap.fit import FitState, forwarding
from medmap.metrics.froc import ALARM, HIT
from medmap.plan import Run
from medmap.prepare import Recipe
from medmap.results import Boxes
from medmap.tasks.box_reading import Found, decided
from medmap.train.events import Event
from medmap.train.members import Member
from medmap.train.parts import Concluded, accepted, flow_of

if TYPE_CHECKING:
    import torch

    from medmap.train.parts import Trained, Work

JUDGED = "judged"


def store(run: Run, dataset: Dataset, recipe: Recipe, folder: Path, progress: Progress) -> PatchStore:
    """Every case with its boxes, prepared once; of the test cases training looks at the hashes alone."""
    return build_box_store(dataset, recipe, memory_bytes=run.memory_bytes, folder=folder, progress=progress)


def doubts(dataset: Dataset) -> tuple[str, ...]:
    """Boxes that are learned as they stand and hardly meant so, in a sentence; `medmap check` lists them."""
    single, twice = [], []
    for case in dataset:
        boxes = [*(case.truth.boxes or ())]
        sides = [
            np.array(corners[len(corners) // 2 :]) - np.array(corners[: len(corners) // 2]) for corners, _ in boxes
        ]
        single += [case.id] * sum(bool((side <= 0).all()) for side in sides)
        twice += [case.id] * (len(boxes) - len(set(boxes)))
    with_one = {label for case in dataset for _, label in case.truth.boxes or ()}
    without = [label.name for n, label in enumerate(dataset.labels) if n not in with_one]
    told = [f"there is no box of {name} to learn from" for name in without]
    for cases, what in ((single, "of a single voxel"), (twice, "given more than once")):
        if cases:
            told.append(f"{counted(len(cases), 'box', 'boxes')} {what}: learned as written (first in {cases[0]})")
    return tuple(told)


def learned(work: Work, member: Member, state: FitState) -> dict[str, torch.Tensor]:
    """Nothing to keep with the member: the boxes of each case that judges it, on its own grid, become a file."""
    folder = work.output / JUDGED
    folder.mkdir(parents=True, exist_ok=True)
    views = augment.views(work.run.augment.flip_axes if work.task.section.views else ())
    with forwarding(state.fabric, state.judged, work.run.fit) as forward:
        for done, row in enumerate(member.judge):
            held = work.store.prepared[int(row)]
            found = work.task.reading.viewed(forward, np.asarray(held.image, dtype=np.float32), views)
            boxes = work.task.boxes(found, held.trace.target).moved(held.trace).inside()
            buffer = io.BytesIO()
            np.savez_compressed(buffer, corners=boxes.corners, scores=boxes.scores, labels=boxes.label_ids)
            write_atomically(folder / _file(int(row), member), buffer.getvalue())
            work.listen(Event("progress", f"network {member.number + 1}, its cases", done + 1, len(member.judge)))
    return {}


def _file(row: int, member: Member) -> str:
    return f"{row:06d}_{member.number:03d}.npz"


def parity_examples(work: Work, rows: Sequence[int]) -> tuple[NDArray[np.float32], Any]:
    """(rows, channels, patch …) patches on which engines are compared, and the boxes in each."""
    images, truths = work.task.examples(work.store, rows, work.run.seed)
    return images, truths


def provenance(work: Work) -> dict[str, Any]:
    """Nothing beyond what every bundle states."""
    return {}


def concluded(work: Work, done: Sequence[Trained]) -> Concluded:
    """The operating point and the evaluation of cases that the networks did not learn from."""
    how = "out of fold" if work.run.ensemble.folds else "validation split"
    judges: dict[int, list[Member]] = {}
    for one in done:
        for row in one.member.judge:
            judges.setdefault(int(row), []).append(one.member)
    first = {row: members[0] for row, members in judges.items()}
    decision = Decision(accepts=accepted(work), fitted_on={"cases": len(first), "how": how if first else "nothing"})
    if not first:
        return Concluded(decision, ("no validation case: nothing was judged, no operating point is fitted",), None)
    found = {row: _boxes(work, row, members) for row, members in sorted(judges.items())}
    decision, notes = fit_decision(decision, _table(work, found))
    for label, threshold in zip(work.task.labels, decision.thresholds, strict=True):
        work.listen(Event("line", f"{label.name}: called from a score of {threshold:.2f} on (largest F1, {how})"))
    report = _report(work, first, {row: decided(boxes, decision) for row, boxes in found.items()})
    return Concluded(decision, tuple(notes), report)


def _table(work: Work, found: dict[int, Boxes]) -> DetectionTable:
    pairs = [(work.store.cases[row], boxes) for row, boxes in found.items()]
    return detection_table(work.dataset.with_cases([case for case, _ in pairs]), pairs)


def fit_decision(decision: Decision, table: DetectionTable) -> tuple[Decision, list[str]]:
    """What scores mean and from where boxes are called, for each class, from boxes of cases not learned from.

    Returns:
        The decision with ``temperature``, ``prior_shift`` and ``thresholds``, and what could not be fitted, in words.
    """
    fitted, thresholds, notes = [], [], []
    for label, name in enumerate(table.labels):
        mine = table.found.labels == label
        hit, alarm = ((table.hits.outcomes == outcome) & mine for outcome in (HIT, ALARM))
        counted = hit | alarm
        one = fit_box_calibration(table.found.scores[counted], hit[counted])
        notes += [f"{name} is not calibrated: {one.reason}"] if one.reason else []
        fitted.append(one)
        wanted = table.findings & (table.true.labels == label)
        by = table.hits.by[wanted]
        scores = box_chances(table.found.scores, one.temperature, one.shift)
        thresholds.append(fit_box_threshold(scores[by[by >= 0]], scores[alarm], int(wanted.sum())))
    changes = {
        "temperature": tuple(one.temperature for one in fitted),
        "prior_shift": tuple(one.shift for one in fitted),
        "thresholds": tuple(thresholds),
        "target": "f1",
    }
    return decision.with_(**changes), notes


def _boxes(work: Work, row: int, members: Sequence[Member]) -> Boxes:
    """What the networks that judge a case found in it together."""
    each = []
    for member in members:
        with np.load(work.output / JUDGED / _file(row, member)) as held:
            each.append(Found(held["corners"], held["scores"], held["labels"]))
    together: Boxes = work.task.boxes(work.task.reading.fused(each), work.store.prepared[row].trace.source)
    return together


def _report(work: Work, first: dict[int, Member], found: dict[int, Boxes]) -> Report:
    cases = {row: work.store.cases[row] for row in found}
    folds = {case.id: fold for row, case in cases.items() if (fold := first[row].fold) is not None}

    def boxes() -> Iterator[tuple[Case, Boxes]]:
        for row, case in cases.items():
            yield case, found[row]

    failed = tuple(Failure(case, reason) for case, reason in work.store.failed.items())
    circumstances = Circumstances(
        failed=failed,
        flow=flow_of(work, len(cases)),
        started=time.monotonic() - work.clock.spent_s,
        dataset_digest=work.dataset.digest,
    )
    return report_from_boxes(
        work.dataset.with_cases(list(cases.values())),
        boxes(),
        split="oof" if work.run.ensemble.folds else "val",
        folds=folds,
        warnings=list(work.warnings),
        circumstances=circumstances,
    )
