"""Coarse to fine in a training: where the coarse network finds something is what the other learns from and judges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medmap.bundle import Bundle
from medmap.config import write_atomically
from medmap.decision import ComponentRule
from medmap.errors import BundleError, counted
from medmap.feed import PatchStore, PreparedCase
from medmap.plan import Run
from medmap.predict.masks import task_of
from medmap.predict.within import box_of, box_on_prepared
from medmap.prepare import Recipe
from medmap.runtime import Box, occupied
from medmap.tasks.protocol import IGNORED
from medmap.tasks.segment import SegmentSection, voxel_size
from medmap.tasks.structures import Structures

JUDGED = "judged"
MOST_MISSED = 0.1  # share of cases whose structures a coarse network may miss or cut and still be relied on
RULES = "rules.json"  # case → which parts of each structure count in it, fitted without its fold
FINISHED = "finished.json"


@dataclass(frozen=True, eq=False)
class Coarse:
    """The coarse network, trained.

    Args:
        bundle: What it is.
        boxes: Case → where it says to look on the grid of the fine network, found by networks that did not learn from
            the case; None where they found nothing: then everything is looked at. A case that none judged is absent.
        missed: Cases with a structure of which the box leaves part out, or for which there is none.
    """

    bundle: Bundle
    boxes: Mapping[str, Box | None]
    missed: tuple[str, ...] = ()

    @property
    def reliable(self) -> bool:
        """Whether so few structures are missed that the fine network may look there alone."""
        return len(self.missed) <= MOST_MISSED * len(self.boxes)

    def as_json(self) -> dict[str, Any]:
        """Where is looked, for a digest."""
        return {case: box and [list(ends) for ends in box] for case, box in self.boxes.items()}

    @property
    def doubt(self) -> str | None:
        """What its boxes leave out, in a sentence; None where they hold every structure."""
        if not self.missed:
            return None
        named = ", ".join(self.missed[:5]) + (" …" if len(self.missed) > 5 else "")
        some = f"{len(self.missed)} of {counted(len(self.boxes), 'case')} that it did not learn from ({named})"
        so = "" if self.reliable else ": it is left out, and structures are looked for everywhere"
        remedy = "more time (coarse.time_share, coarse.fit.epochs) or more room (task.around_mm) may help"
        return f"the coarse network misses or cuts a structure in {some}{so}; {remedy}"


def finish(folder: Path, bundle: Bundle) -> Bundle:
    """Note in its run's folder that the coarse network is done, and return its bundle."""
    write_atomically(folder / FINISHED, json.dumps({"bundle": bundle.digest}))
    return bundle


def finished(folder: Path) -> Bundle | None:
    """The coarse network of a run that was stopped after it was done; None where it is not.

    Raises:
        BundleError: It was done, and another bundle stands there now.
    """
    note = folder / FINISHED
    if not note.exists():
        return None
    bundle = Bundle.load(folder)
    if json.loads(note.read_text(encoding="utf-8")).get("bundle") != bundle.digest:
        raise BundleError(f"{folder} is not the coarse network of this run", remedy="start anew in another folder")
    return bundle


def looked_at(store: Any, run: Run, bundle: Bundle | None, folder: Path) -> tuple[Any, Coarse | None]:
    """The store looked at where the coarse network of a run says, and that; as it is without one, or a bad one.

    Args:
        store: The cases as the network of ``run`` sees them.
        run: With ``task.around_mm``.
        bundle: The coarse network's; None without one.
        folder: Its run's folder.
    """
    if bundle is None:
        return store, None
    around_mm = cast("SegmentSection", run.task).around_mm  # a run with ``coarse`` is for masks
    structures = task_of(bundle, Recipe.from_json(bundle.spec.members[0].recipe).section.shape).structures
    boxes = found(structures, folder, store, around_mm)
    there = {row.case.id: _occupied(structures, row) for row in store.prepared}
    missed = tuple(case for case, box in boxes.items() if _beyond(there[case], box))
    coarse = Coarse(bundle, boxes, missed)
    if not coarse.reliable:
        return store, coarse
    rows = [_around(row, there[row.case.id], boxes.get(row.case.id), around_mm) for row in store.prepared]
    return replace(store, prepared=tuple(rows)), coarse


def found(structures: Structures, folder: Path, store: PatchStore, around_mm: float) -> dict[str, Box | None]:
    """Where a coarse run's networks say to look in the cases that they did not learn from; see ``Coarse.boxes``.

    Which parts count is fitted without the case's fold, as the coarse run itself is judged.

    Args:
        structures: What the coarse masks hold.
        folder: The coarse run's.
        store: The cases as the fine network sees them.
        around_mm: How far around what was found is looked.
    """
    masks, rules = _judged(folder), _rules(folder)
    boxes: dict[str, Box | None] = {}
    for row in store.prepared:
        if (mask := masks.get(row.case.id)) is None:
            continue
        with np.load(mask) as held:
            labels: NDArray[Any] = held["labels"]
        grid = row.trace.source
        kept = structures.kept(labels, rules.get(row.case.id, {}), voxel_size(grid))
        ends = box_of(structures.mask(kept, grid))
        boxes[row.case.id] = None if ends is None else box_on_prepared(ends, row.trace, around_mm)
    return boxes


def _judged(folder: Path) -> dict[str, Path]:
    """Case → the file with its mask, of the first network that judged it."""
    masks: dict[str, Path] = {}
    for path in sorted((folder / JUDGED).glob("*.npz")):
        with np.load(path) as held:
            masks.setdefault(str(held["case"]), path)
    return masks


def write_rules(folder: Path, rules: Mapping[str, Mapping[int, ComponentRule]]) -> None:
    """Keep beside the judged masks which parts count in each case."""
    data = {case: {str(n): rule.to_json() for n, rule in some.items()} for case, some in rules.items()}
    (folder / JUDGED).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / JUDGED / RULES, json.dumps(data))


def _rules(folder: Path) -> dict[str, dict[int, ComponentRule]]:
    path = folder / JUDGED / RULES
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {case: {int(n): ComponentRule(**rule) for n, rule in some.items()} for case, some in data.items()}


def _occupied(structures: Structures, row: PreparedCase) -> Box | None:
    """Where there is some structure on the prepared grid."""
    truth = np.asarray(row.truth[:])
    inside = np.zeros(truth.shape, dtype=bool)
    for number in structures.named:
        inside |= structures.true(truth, number)
    return occupied(inside & (truth != IGNORED), truth.ndim)


def _beyond(there: Box | None, box: Box | None) -> bool:
    """Whether part of a structure lies outside of a box, or there is no box for it."""
    if there is None or box is None:
        return there is not None
    return any(a < c or d < b for (a, b), (c, d) in zip(there, box, strict=True))


def _around(row: PreparedCase, there: Box | None, box: Box | None, around_mm: float) -> PreparedCase:
    """The case judged within the coarse box, and learned from there and where a structure is, and around it.

    What the coarse network took for a structure belongs to it: the fine one must learn to say no.
    """
    if there is None:
        return replace(row, inside=box, judged_inside=box)
    grid = row.trace.target
    steps = grid.spacing_mm if grid.has_size else (1.0,) * len(there)
    more = [int(np.ceil(around_mm / step)) for step in steps]
    ends = [
        (max(0, first - by), min(side, after + by))
        for (first, after), by, side in zip(there, more, grid.shape, strict=True)
    ]
    if box is not None:
        ends = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(ends, box, strict=True)]
    return replace(row, inside=tuple(ends), judged_inside=box)
