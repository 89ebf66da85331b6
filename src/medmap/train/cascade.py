"""Coarse to fine in a training: where the coarse network finds something is what the other learns from and judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medmap.bundle import Bundle
from medmap.errors import counted
from medmap.feed import PatchStore, PreparedCase
from medmap.plan import Run
from medmap.predict.masks import component_rules, task_of
from medmap.predict.within import box_on_prepared
from medmap.prepare import Recipe
from medmap.runtime import Box, occupied
from medmap.tasks.protocol import IGNORED
from medmap.tasks.segment import SegmentSection, voxel_size

COARSE = "coarse"
JUDGED = "judged"


@dataclass(frozen=True, eq=False)
class Coarse:
    """The coarse network, trained.

    Args:
        bundle: What it is.
        boxes: Case → where it says to look on the grid of the fine network, found by networks that did not learn from
            the case; a case is absent where they found nothing or none judged it: then everything is looked at.
        cut: Cases with such a box that leaves part of a structure out.
    """

    bundle: Bundle
    boxes: Mapping[str, Box]
    cut: tuple[str, ...] = ()

    @property
    def doubt(self) -> str | None:
        """What its boxes leave out, in a sentence; None where they hold every structure."""
        if not self.cut:
            return None
        named = ", ".join(self.cut[:5]) + (" …" if len(self.cut) > 5 else "")
        some = f"{len(self.cut)} of {counted(len(self.boxes), 'case')}"
        remedy = "give it more time (coarse.fit.epochs) or more room (task.around_mm)"
        return f"the coarse network cuts a structure off in {some} that it did not learn from ({named}): {remedy}"


def looked_at(store: Any, run: Run, bundle: Bundle | None, folder: Path) -> tuple[Any, Coarse | None]:
    """The store looked at where the coarse network of a run says, and that; without one as it is.

    Args:
        store: The cases as the network of ``run`` sees them.
        run: With ``task.around_mm``.
        bundle: The coarse network's; None without one.
        folder: Its run's folder.
    """
    if bundle is None:
        return store, None
    around_mm = cast("SegmentSection", run.task).around_mm  # a run with ``coarse`` is for masks
    coarse = found(bundle, folder, store, around_mm)
    return around(store, coarse, around_mm), coarse


def found(bundle: Bundle, folder: Path, store: PatchStore, around_mm: float) -> Coarse:
    """What a coarse run found in the cases of a store.

    Args:
        bundle: The run's.
        folder: The run's, with the masks of cases that its networks did not learn from.
        store: The cases as the fine network sees them.
        around_mm: How far around what was found is looked.
    """
    task = task_of(bundle, Recipe.from_json(bundle.spec.members[0].recipe).section.shape)
    structures, rules = task.structures, component_rules(bundle, task.structures)
    boxes: dict[str, Box] = {}
    cut: list[str] = []
    masks = _judged(folder)
    for row in store.prepared:
        if (mask := masks.get(row.case.id)) is None:
            continue
        with np.load(mask) as held:
            labels: NDArray[np.generic] = held["labels"]
        grid = row.trace.source
        kept = structures.kept(labels, rules, voxel_size(grid))
        ends = occupied(kept > 0, len(grid.shape))
        box = None if ends is None else box_on_prepared(ends, row.trace, around_mm)
        if box is not None:
            boxes[row.case.id] = box
            there = _structures(row)
            if there and any(a < c or d < b for (a, b), (c, d) in zip(there, box, strict=True)):
                cut.append(row.case.id)
    return Coarse(bundle, boxes, tuple(cut))


def _judged(folder: Path) -> dict[str, Path]:
    """Case → the file with its mask, of the first network that judged it."""
    masks: dict[str, Path] = {}
    for path in sorted((folder / JUDGED).glob("*.npz")):
        with np.load(path) as held:
            masks.setdefault(str(held["case"]), path)
    return masks


def around(store: PatchStore, coarse: Coarse, around_mm: float) -> PatchStore:
    """The store whose cases are looked at where a structure is or the coarse network found one, and around.

    What the coarse network took for a structure belongs to it: the fine one must learn to say no.
    """
    rows = [replace(row, inside=_inside(row, coarse.boxes.get(row.case.id), around_mm)) for row in store.prepared]
    return replace(store, prepared=tuple(rows))


def _structures(row: PreparedCase) -> Box | None:
    truth = np.asarray(row.truth[:])
    return occupied((truth > 0) & (truth != IGNORED), truth.ndim)


def _inside(row: PreparedCase, box: Box | None, around_mm: float) -> Box | None:
    there, grid = _structures(row), row.trace.target
    if there is None:
        return box
    steps = grid.spacing_mm if grid.has_size else (1.0,) * len(there)
    more = [int(np.ceil(around_mm / step)) for step in steps]
    own = [
        (max(0, first - by), min(side, after + by))
        for (first, after), by, side in zip(there, more, grid.shape, strict=True)
    ]
    if box is None:
        return tuple(own)
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(own, box, strict=True))
