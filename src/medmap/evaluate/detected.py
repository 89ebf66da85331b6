"""From boxes beside the true ones to a report."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medmap.dataset import Case, Dataset
from medmap.errors import DataError, UsageError
from medmap.evaluate.detections import DetectionTable, detection_table, require_fitting
from medmap.evaluate.detections_rows import detection_rows, detection_subgroup_rows
from medmap.evaluate.outcome import Circumstances, Failure, Report
from medmap.evaluate.segmented import failure_words
from medmap.evaluate.verdict import little_use
from medmap.metrics import Bootstrap, HitRule
from medmap.results import Boxes

FEW_FINDINGS = 20


@dataclass(frozen=True)
class DetectionRules:
    """How boxes are judged.

    Args:
        hit: When a box has found a finding; None: by the centre in volumes with millimetres, else by overlap.
        size_edges: Where one range of size ends and the next begins, rising, in mm (px without millimetres); None:
            chosen from the data.
        bootstrap: Replicates and seed of intervals; None: 1,000 and 0.

    Raises:
        UsageError: Edges that are not above 0 or do not rise.
    """

    hit: HitRule | None = None
    size_edges: tuple[float, ...] | None = None
    bootstrap: Bootstrap | None = None

    def __post_init__(self) -> None:
        edges = (0.0, *(self.size_edges or ()))
        if not all(math.isfinite(high) and low < high for low, high in itertools.pairwise(edges)):
            raise UsageError("ranges of size rise, above 0", got=self.size_edges, expected="for example 5, 10")

    @classmethod
    def parse(cls, hit: str | None, sizes: str | None) -> DetectionRules | None:
        """What a command line says; None where it says nothing.

        Args:
            hit: ``centre``, ``iou`` or ``iou`` and a share, as in ``iou 0.3``.
            sizes: Edges with commas between, as in ``5,10``.

        Raises:
            UsageError: No such rule, no numbers, edges that do not rise.
        """
        if hit is None and sizes is None:
            return None
        try:
            edges = None if sizes is None else tuple(float(word) for word in sizes.split(","))
        except ValueError as error:
            raise UsageError("ranges of size are numbers", got=repr(sizes), expected="for example 5,10") from error
        return cls(None if hit is None else HitRule.parse(hit.replace(":", " ")), edges)


def report_from_boxes(
    dataset: Dataset,
    boxes: Iterable[tuple[Case, Boxes]],
    *,
    split: str,
    folds: Mapping[str, int] | None = None,
    rules: DetectionRules | None = None,
    warnings: Sequence[str] = (),
    circumstances: Circumstances | None = None,
) -> Report:
    """The report of boxes that are there already: no image is read.

    Args:
        dataset: The cases judged, with their true boxes.
        boxes: Each case with what was found in it, on the case's own grid; boxes below the operating point belong to
            it, for the curves. A case that nobody has looked at is counted and left out; one in which nothing was
            found by those who looked is judged.
        split: Which cases these are; ``oof`` for out of fold.
        folds: Which fold's network judged a case.
        rules: When a box is a hit, ranges of size, replicates.
        warnings: What is known to be wrong already, worst first.
        circumstances: What happened while predicting.

    Raises:
        DatasetError: No case has both boxes and a truth.
    """
    found, given = circumstances or Circumstances(), rules or DetectionRules()
    started = time.monotonic() if found.started is None else found.started
    failed, pairs, without = list(found.failed), [], 0
    for case, one in boxes:
        if case.truth.boxes is None:
            without += 1
            continue
        try:
            require_fitting(dataset, case, one)
        except DataError as error:
            failed.append(Failure(case.id, str(error)))
            continue
        pairs.append((case, one))
    table = detection_table(dataset, pairs, rule=given.hit, folds=folds)
    groups, notes = detection_subgroup_rows(table)
    gone = (("that nobody has looked at", without), ("unreadable or refused", len(failed)))
    flow = (("supplied", len(dataset)), *(step for step in gone if step[1]), ("evaluated", len(table)))
    rows = detection_rows(table, given.bootstrap, given.size_edges)
    told = [
        *warnings,
        *failure_words(failed, len(table)),
        *little_use(rows),
        *unannotated_words(without),
        *_told(table, split),
    ]
    patients = () if dataset.patients_known else (NO_PATIENTS,)
    return Report(
        split=split,
        table=table,
        rows=(*rows, *groups),
        dataset_name=dataset.name,
        dataset_digest=found.dataset_digest or dataset.digest,
        task="detect",
        bundles=found.bundles,
        warnings=tuple(dict.fromkeys([*told, *patients])),
        failed=tuple(failed),
        flow=found.flow or flow,
        seconds=time.monotonic() - started,
        looks=found.looks.count,
        notes=(*notes, *_notes(table)),
    )


NO_PATIENTS = (
    "The dataset names no patients: each case counts as a patient of its own. Where patients have several cases, "
    "intervals are too narrow and splits may leak."
)


def unannotated_words(count: int) -> list[str]:
    """A sentence on cases that nobody has looked at."""
    if not count:
        return []
    which = "case that nobody has looked at is" if count == 1 else "cases that nobody has looked at are"
    return [f"{count} {which} left out: a box there is neither right nor wrong."]


def _told(table: DetectionTable, split: str) -> list[str]:
    """What a reader must know of the cases."""
    findings = int(table.findings.sum())
    told = []
    if not findings:
        told.append("No case has a finding: nothing can be said about what is found, only about false alarms.")
    elif findings < FEW_FINDINGS:
        told.append(
            f"There are fewer than {FEW_FINDINGS} findings ({findings}). What is said is hardly certain; mind the "
            "intervals."
        )
    if not len(table.found):
        told.append("Not one box was found.")
    if "train" in table.splits and split != "oof":
        told.append("Some cases are of the training split: they say nothing about new patients.")
    return told


def _notes(table: DetectionTable) -> list[str]:
    notes = []
    if bool(np.all(table.called)) and not table.thresholds:
        notes.append("No operating point was given: every box counts as called.")
    if not table.sized and any(frame.spacing_mm is not None for frame in table.frames):
        notes.append("Some images have no millimetres: sizes and positions of all are in voxels.")
    return notes
