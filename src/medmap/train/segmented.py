"""What is the segmentation's own in a training: cases with masks, the masks of judged cases, their evaluation."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.config import write_atomically
from medmap.dataset import Case, Dataset
from medmap.decision import Decision
from medmap.evaluate import Circumstances, Failure, Report, report_from_masks
from medmap.feed import PatchStore, Progress, build_patch_store
from medmap.fit import FitState, forwarding
from medmap.plan import Run
from medmap.prepare import Recipe
from medmap.results import Mask
from medmap.train.events import Event
from medmap.train.members import Member
from medmap.train.parts import Concluded, accepted, flow_of

if TYPE_CHECKING:
    import torch

    from medmap.train.parts import Trained, Work

JUDGED = "judged"


def store(run: Run, dataset: Dataset, recipe: Recipe, folder: Path, progress: Progress) -> PatchStore:
    """Every case with its mask, prepared once; of the test cases training looks at the hashes alone."""
    return build_patch_store(dataset, recipe, memory_bytes=run.memory_bytes, folder=folder, progress=progress)


def learned(work: Work, member: Member, state: FitState) -> dict[str, torch.Tensor]:
    """Nothing to keep with the member: the mask of each case that judges it, on its own grid, becomes a file."""
    folder = work.output / JUDGED
    folder.mkdir(parents=True, exist_ok=True)
    with forwarding(state.fabric, state.judged, work.run.fit) as forward:
        for done, row in enumerate(member.judge):
            found = work.store.prepared[int(row)]
            labels = work.task.labelled(forward, np.asarray(found.image, dtype=np.float32), found.trace)
            write_atomically(folder / _file(int(row), member), _packed(labels))
            work.listen(Event("progress", f"network {member.number + 1}, its cases", done + 1, len(member.judge)))
    return {}


def _file(row: int, member: Member) -> str:
    return f"{row:06d}_{member.number:03d}.npz"


def _packed(labels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=labels)
    return buffer.getvalue()


def parity_examples(work: Work, rows: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(rows, channels, patch …) patches on which engines are compared, and their truth."""
    images, truths = work.task.examples(work.store, rows, work.run.seed)
    return images, truths


def provenance(work: Work) -> dict[str, Any]:
    """Nothing beyond what every bundle states."""
    return {}


def concluded(work: Work, done: Sequence[Trained]) -> Concluded:
    """The evaluation of cases that the networks did not learn from, each by the first network that judged it."""
    how = "out of fold" if work.run.ensemble.folds else "validation split"
    first: dict[int, Member] = {}
    for one in done:
        for row in one.member.judge:
            first.setdefault(int(row), one.member)
    fitted_on = {"cases": len(first), "how": how if first else "nothing"}
    decision = Decision(accepts=accepted(work), fitted_on=fitted_on)
    if not first:
        return Concluded(decision, ("no validation case: nothing was judged",), None)
    return Concluded(decision, (), _report(work, first))


def _report(work: Work, first: dict[int, Member]) -> Report:
    cases = {row: work.store.cases[row] for row in sorted(first)}
    folds = {case.id: fold for row, case in cases.items() if (fold := first[row].fold) is not None}

    def masks() -> Iterator[tuple[Case, Mask]]:
        for row, case in cases.items():
            with np.load(work.output / JUDGED / _file(row, first[row])) as held:
                labels = held["labels"]
            yield case, work.task.mask(labels, work.store.prepared[row].trace.source)

    failed = tuple(Failure(case, reason) for case, reason in work.store.failed.items())
    found = Circumstances(failed=failed, flow=flow_of(work, len(cases)), started=time.monotonic() - work.clock.spent_s)
    return report_from_masks(
        work.dataset.with_cases(list(cases.values())),
        masks(),
        split="oof" if work.run.ensemble.folds else "val",
        folds=folds,
        warnings=list(work.warnings),
        circumstances=found,
    )
