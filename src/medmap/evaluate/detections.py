"""Boxes beside the true ones, case by case: the one table every number of a detection comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import COLUMN_TYPES, Case, Dataset
from medmap.errors import DataError, DatasetError
from medmap.evaluate.table import columns_of
from medmap.geometry import Geometry
from medmap.metrics import BoxList, HitRule, Hits, find_hits
from medmap.metrics.boxes import box_diameters
from medmap.metrics.froc import UNSEEN
from medmap.metrics.inputs import Patients
from medmap.results import Boxes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_PER_CASE = ("patients", "known", "frames", "splits", "folds", "sites")


@dataclass(frozen=True)
class Frame:
    """How a case's index axes lie in the patient.

    Args:
        spacing_mm: Step along each index axis; None for an image without millimetres.
        directions: Of each index axis its unit vector in LPS; empty without millimetres.
    """

    spacing_mm: tuple[float, ...] | None = None
    directions: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, geometry: Geometry) -> Frame:
        """The frame of a grid."""
        if not geometry.has_size:
            return cls()
        spacing = np.asarray(geometry.spacing_mm, dtype=np.float64)
        axes = (np.asarray(geometry.affine_lps_mm)[:3, : geometry.ndim] / spacing).T
        return cls(tuple(map(float, spacing)), tuple(tuple(map(float, axis)) for axis in axes))


@dataclass(frozen=True, eq=False)
class DetectionTable:
    """Cases with the boxes that were found in them and the true ones.

    A case that was looked at is a row whether anything is in it or not. Boxes name their case by its number here.

    Args:
        cases: (n,) identifiers, each once.
        patients: (n,) patient of each: the unit of every interval.
        labels: Names of the classes.
        found: Boxes with scores; positions and sizes in mm where every image has millimetres, else in voxels.
        called: (found,) whether each reaches the operating point.
        true: True boxes; those to ignore are neither found nor missed.
        thresholds: (labels,) score from which a box of each class is called; empty where there is no one such number.
        rule: When a box has found a finding.
        known: (n,) classes that were looked at, None for all.
        frames: (n,) how the index axes lie in the patient.
        splits: (n,) train, val, test or None.
        folds: (n,) which fold's network judged the case, None outside cross-validation.
        sites: (n,) hospital or scanner, None where unknown.
        columns: Clinical columns: name → (n,) values, None where not recorded.

    Raises:
        DataError: Lengths that differ, a case that stands twice, a box of an unknown case or class.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str, ...]
    found: BoxList
    called: Bools
    true: BoxList
    thresholds: tuple[float, ...] = ()
    rule: HitRule = field(default_factory=HitRule)
    known: tuple[tuple[int, ...] | None, ...] = ()
    frames: tuple[Frame, ...] = ()
    splits: tuple[str | None, ...] = ()
    folds: tuple[int | None, ...] = ()
    sites: tuple[str | None, ...] = ()
    columns: Mapping[str, tuple[COLUMN_TYPES, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.cases)
        plain: dict[str, Any] = {"known": None, "frames": Frame(), "splits": None, "folds": None, "sites": None}
        for name, value in plain.items():
            object.__setattr__(self, name, tuple(getattr(self, name)) or (value,) * n)
        frozen = MappingProxyType({str(name): tuple(values) for name, values in self.columns.items()})
        object.__setattr__(self, "columns", frozen)
        object.__setattr__(self, "called", np.asarray(self.called, dtype=np.bool_))
        lengths = {name: len(getattr(self, name)) for name in _PER_CASE}
        lengths |= {f"column {name}": len(values) for name, values in self.columns.items()}
        if wrong := [name for name, length in lengths.items() if length != n]:
            raise DataError(f"the detections' {wrong[0]} do not fit the cases", got=lengths[wrong[0]], expected=n)
        if twice := [case for case, count in Counter(self.cases).items() if count > 1]:
            raise DataError("a case stands twice among the detections", case=twice[0])
        if len(self.called) != len(self.found) or len(self.thresholds) not in (0, len(self.labels)):
            raise DataError(
                "the operating point does not fit the boxes", got=len(self.called), expected=len(self.found)
            )
        for boxes in (self.found, self.true):
            if len(boxes) and (boxes.cases.max() >= n or boxes.labels.max() >= len(self.labels)):
                raise DataError("a box of an unknown case or class", got=f"{boxes.cases.max()}, {boxes.labels.max()}")
        if self.found.ndim != self.true.ndim:
            raise DataError("found and true boxes have other axes", got=self.found.ndim, expected=self.true.ndim)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def ndim(self) -> int:
        """Axes of the images."""
        return self.true.ndim

    @property
    def sized(self) -> bool:
        """Whether every image has millimetres, so that positions and sizes are in mm."""
        return all(frame.spacing_mm is not None for frame in self.frames)

    @property
    def unit(self) -> str:
        """Of positions and sizes."""
        return "mm" if self.sized else "px" if self.ndim == 2 else "voxels"

    @cached_property
    def who(self) -> Patients:
        """The patient of each case."""
        return Patients.of(self.patients, len(self.cases))

    @cached_property
    def seen(self) -> Bools:
        """(cases, labels) whether a class was looked for in a case."""
        seen = np.ones((len(self.cases), len(self.labels)), dtype=np.bool_)
        for row, known in enumerate(self.known):
            if known is not None:
                seen[row] = np.isin(np.arange(len(self.labels)), known)
        return seen

    @cached_property
    def judged(self) -> tuple[BoxList, BoxList]:
        """Found and true boxes of classes that were looked at in their case."""
        found, true = (boxes.at(self.seen[boxes.cases, boxes.labels]) for boxes in (self.found, self.true))
        return found, true

    @cached_property
    def hits(self) -> Hits:
        """What became of every box, by the table's rule."""
        hits = find_hits(self.found, self.true, self.rule)
        unseen = ~self.seen[self.found.cases, self.found.labels]
        return replace(hits, outcomes=np.where(unseen, UNSEEN, hits.outcomes))

    @cached_property
    def findings(self) -> Bools:
        """(true,) which true boxes are to be found."""
        return np.asarray(~self.true.ignored & self.seen[self.true.cases, self.true.labels])

    @cached_property
    def found_when_called(self) -> Bools:
        """(true,) whether the surest box on each reaches the operating point."""
        by = self.hits.by
        return np.asarray((by >= 0) & (self.called[by] if len(self.called) else False))

    def at(self, where: NDArray[Any] | Sequence[int]) -> DetectionTable:
        """Some of the cases: a mask (n,) or row numbers, each once."""
        picked = np.asarray(where)
        rows = np.arange(len(self))[picked if picked.size else picked.astype(np.intp)]
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[int(row)] for row in rows)

        kept, true = place[self.found.cases] >= 0, place[self.true.cases] >= 0
        found = self.found.at(kept)
        truth = self.true.at(true)
        named: dict[str, Any] = {name: pick(getattr(self, name)) for name in ("cases", *_PER_CASE)}
        return replace(
            self,
            found=replace(found, cases=place[found.cases]),
            called=self.called[kept],
            true=replace(truth, cases=place[truth.cases]),
            columns={name: pick(values) for name, values in self.columns.items()},
            **named,
        )

    def factors(self) -> dict[str, tuple[COLUMN_TYPES, ...]]:
        """Everything that cases can be grouped by: the site where there are several, then the clinical columns."""
        named = {"site": self.sites} if len({s for s in self.sites if s is not None}) > 1 else {}
        return {**named, **{k: v for k, v in self.columns.items() if k != "site" or not named}}


def require_fitting(dataset: Dataset, case: Case, boxes: Boxes) -> None:
    """Refuse boxes that a case's true ones cannot be held against.

    Raises:
        DataError: Other classes than the dataset's, or an image of other axes than the true boxes'.
    """
    names = tuple(label.name for label in boxes.labels)
    if names != dataset.label_names:
        raise DataError(
            "found and true boxes are of different classes",
            got=", ".join(names),
            expected=", ".join(dataset.label_names),
            remedy="map the dataset's labels onto the bundle's (labels=)",
            case=case.id,
        )
    for corners, _ in (*(case.truth.boxes or ()), *case.truth.ignored):
        if len(corners) != 2 * boxes.geometry.ndim:
            raise DataError(
                "a true box has other axes than the image",
                got=len(corners) // 2,
                expected=boxes.geometry.ndim,
                case=case.id,
            )


def detection_table(
    dataset: Dataset,
    boxes: Iterable[tuple[Case, Boxes]],
    *,
    rule: HitRule | None = None,
    folds: Mapping[str, int] | None = None,
) -> DetectionTable:
    """The table of the annotated cases that were answered, in the dataset's order.

    Args:
        dataset: Gives classes; true boxes, patients, sites, splits and columns stand in the cases.
        boxes: Each case with what was found in it, on the case's own grid.
        rule: When a box has found a finding; the usual one of the images when absent (``HitRule.usual``).
        folds: Which fold's network judged a case.

    Raises:
        DatasetError: No case with boxes and truth.
        DataError: Boxes that do not fit their case (``require_fitting``), a case that comes twice.
    """
    order = {case.id: number for number, case in enumerate(dataset)}
    pairs = [(case, found) for case, found in boxes if case.truth.boxes is not None]
    pairs.sort(key=lambda pair: order.get(pair[0].id, len(order)))
    if not pairs:
        raise DatasetError(f"no case of {dataset.name} has both found and true boxes")
    for case, found in pairs:
        require_fitting(dataset, case, found)
    ndim = pairs[0][1].geometry.ndim
    if strange := [case.id for case, found in pairs if found.geometry.ndim != ndim]:
        raise DataError("planes and volumes are not judged together", case=strange[0])
    sized = all(found.geometry.has_size for _, found in pairs)
    cuts = {found.thresholds for _, found in pairs}
    cases = [case for case, _ in pairs]
    return DetectionTable(
        cases=tuple(case.id for case in cases),
        patients=tuple(case.patient for case in cases),
        labels=dataset.label_names,
        found=_found(pairs, ndim, sized),
        called=np.concatenate([found.called for _, found in pairs]),
        true=_true(pairs, ndim, sized),
        thresholds=cuts.pop() if len(cuts) == 1 else (),
        rule=rule or HitRule.usual(ndim, sized),
        known=tuple(case.truth.known for case in cases),
        frames=tuple(Frame.of(found.geometry) if sized else Frame() for _, found in pairs),
        splits=tuple(case.split for case in cases),
        folds=tuple((folds or {}).get(case.id) for case in cases),
        sites=tuple(case.site for case in cases),
        columns=columns_of(cases),
    )


def _found(pairs: Sequence[tuple[Case, Boxes]], ndim: int, sized: bool) -> BoxList:
    counts = [len(boxes.scores) for _, boxes in pairs]
    corners = np.concatenate([boxes.corners for _, boxes in pairs])
    return BoxList(
        np.repeat(np.arange(len(pairs)), counts),
        corners,
        np.concatenate([boxes.label_ids for _, boxes in pairs]),
        np.concatenate([boxes.scores for _, boxes in pairs]),
        **_placed([(boxes.geometry, boxes.corners) for _, boxes in pairs], ndim, sized),
    )


def _true(pairs: Sequence[tuple[Case, Boxes]], ndim: int, sized: bool) -> BoxList:
    rows = [
        (number, corners, label, ignored)
        for number, (case, _) in enumerate(pairs)
        for boxes, ignored in ((case.truth.boxes or (), False), (case.truth.ignored, True))
        for corners, label in boxes
    ]
    corners = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 2 * ndim)
    of = np.array([row[0] for row in rows], dtype=np.int64)
    parts = np.split(corners, np.searchsorted(of, np.arange(1, len(pairs))))
    grids = [(boxes.geometry, part) for (_, boxes), part in zip(pairs, parts, strict=True)]
    return BoxList(
        of,
        corners,
        np.array([row[2] for row in rows], dtype=np.int64),
        ignored=np.array([row[3] for row in rows], dtype=np.bool_),
        **_placed(grids, ndim, sized),
    )


def _placed(grids: Sequence[tuple[Geometry, Floats]], ndim: int, sized: bool) -> dict[str, Any]:
    """Centres and diameters in mm, where the images have any."""
    if not sized:
        return {}
    centres = [grid.to_world((corners[:, :ndim] + corners[:, ndim:]) / 2) for grid, corners in grids]
    edges = [(c[:, ndim:] - c[:, :ndim] + 1) * np.array(grid.spacing_mm) for grid, c in grids]
    return {"centres": np.concatenate(centres).reshape(-1, 3), "diameters": box_diameters(np.concatenate(edges))}
