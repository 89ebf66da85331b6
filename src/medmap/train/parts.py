"""What the parts of a training hand each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmap import prepare
from medmap.dataset import Dataset
from medmap.decision import Decision
from medmap.evaluate import Report
from medmap.plan import Run, sample_images
from medmap.train.cascade import Coarse
from medmap.train.checkpoint import Checkpoints
from medmap.train.clock import Clock
from medmap.train.events import Listener
from medmap.train.members import Member
from medmap.train.record import Record

if TYPE_CHECKING:
    import torch

# Images this much coarser or finer than any seen in training are not what the bundle is for.
SPACING_MARGIN = 1.5


@dataclass(frozen=True, eq=False)
class Trained:
    """What one member left behind.

    Args:
        member: Which one.
        weights: Its state dictionary.
        kept: What its task keeps of the cases that judge it.
        rows: Its log, one row an epoch.
        epochs: How many it had.
        stopped: Why it ended before its last epoch, or None.
    """

    member: Member
    weights: dict[str, torch.Tensor]
    kept: dict[str, torch.Tensor]
    rows: list[dict[str, float]]
    epochs: int
    stopped: str | None


@dataclass(frozen=True, eq=False)
class Work:
    """Everything a member's training needs, made once.

    Args:
        craft: The module with what is the task's own in a training (``classified``, ``segmented``).
        coarse: The coarse network and where it says to look, where there is one.
    """

    run: Run
    dataset: Dataset
    output: Path
    task: Any
    craft: Any
    recipe: prepare.Recipe
    store: Any
    checkpoints: Checkpoints
    clock: Clock
    listen: Listener
    record: Record
    warnings: tuple[str, ...] = ()
    coarse: Coarse | None = None


@dataclass(frozen=True, eq=False)
class Concluded:
    """What is known after the last epoch.

    Args:
        decision: Fitted on cases that the networks did not learn from.
        notes: What could not be fitted, in sentences.
        report: Their evaluation; None without such cases.
    """

    decision: Decision
    notes: tuple[str, ...]
    report: Report | None


def accepted(work: Work) -> dict[str, dict[str, Any]]:
    """What images the bundle is for: modality, quantity, dimensions, channels, spacing within half as much again."""
    return {name: _accepted(work, spec.modality) for name, spec in work.dataset.inputs.items()}


def _accepted(work: Work, modality: str | None) -> dict[str, Any]:
    # of several inputs the joined image: it lies on the grid of the first
    images = list(sample_images(work.dataset.with_cases(work.store.cases), 50))
    flat = [value for image in images if image.geometry.has_size for value in image.spacing_mm]
    limits = [round(min(flat) / SPACING_MARGIN, 4), round(max(flat) * SPACING_MARGIN, 4)] if flat else None
    section = work.run.prepare
    quantities = sorted({image.quantity for image in images})
    shape = {"ndim": len(section.shape), "channels": section.channels, "spacing_mm": limits}
    return {"modality": modality, "quantities": quantities, **shape}


def flow_of(work: Work, judged: int) -> tuple[tuple[str, int], ...]:
    """From the cases supplied to those judged, and where the others went."""
    lost = set(work.store.failed)
    others = [case for case in work.dataset if case.id not in lost]
    test = sum(case.split == "test" for case in others)
    bare = sum(case.split != "test" and not case.truth.annotated for case in others)
    steps = (
        ("of the test split, not looked at", test),
        ("without a truth", bare),
        ("unreadable or refused", len(lost)),
        ("learned from, not judged", len(others) - test - bare - judged),
    )
    left = tuple(step for step in steps if step[1] > 0)
    return (("supplied", len(work.dataset)), *left, ("evaluated", judged))
