"""Masks judged, case by case and structure by structure: the one table every number of a segmentation comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import COLUMN_TYPES, Case, Dataset
from medmap.errors import DataError, DatasetError
from medmap.evaluate.table import columns_of
from medmap.geometry import Geometry
from medmap.metrics import MaskRules, MaskScores, as_regions, mask_scores
from medmap.metrics.masks import LARGEST_VALUE

PREDICTION = "prediction"
_PER_ROW = ("patients", "scores", "splits", "folds", "sites", "raters")


@dataclass(frozen=True, eq=False)
class StructureTable:
    """One row a case, structure and rater: how a mask compares with the first observer's.

    A structure that the truth of a case does not speak of has no row; one that was missed or invented has.

    Args:
        cases: (n,) identifiers.
        patients: (n,) patient of each: the unit of every interval.
        scores: (n,) the measures of each structure.
        raters: (n,) whose mask was judged: ``prediction``, or another observer (``observer 2``).
        splits: (n,) train, val, test or None.
        folds: (n,) which fold's network judged the case, None outside cross-validation.
        sites: (n,) hospital or scanner, None where unknown.
        columns: Clinical columns: name → (n,) values, None where not recorded.

    Raises:
        DataError: Lengths that differ, a structure that stands twice in a case, one case of two patients.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    scores: tuple[MaskScores, ...]
    raters: tuple[str, ...] = ()
    splits: tuple[str | None, ...] = ()
    folds: tuple[int | None, ...] = ()
    sites: tuple[str | None, ...] = ()
    columns: Mapping[str, tuple[COLUMN_TYPES, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.cases)
        plain: dict[str, Any] = {"raters": PREDICTION, "splits": None, "folds": None, "sites": None}
        for name, value in plain.items():
            object.__setattr__(self, name, tuple(getattr(self, name)) or (value,) * n)
        frozen = MappingProxyType({str(name): tuple(values) for name, values in self.columns.items()})
        object.__setattr__(self, "columns", frozen)
        lengths = {name: len(getattr(self, name)) for name in _PER_ROW}
        lengths |= {f"column {name}": len(values) for name, values in self.columns.items()}
        if wrong := [name for name, length in lengths.items() if length != n]:
            raise DataError(f"the structures' {wrong[0]} do not fit the cases", got=lengths[wrong[0]], expected=n)
        counts = Counter(zip(self.cases, (score.structure for score in self.scores), self.raters, strict=True))
        if twice := [key for key, count in counts.items() if count > 1]:
            raise DataError(f"{twice[0][1]} stands twice among the structures of {twice[0][2]}", case=twice[0][0])
        owner: dict[str, str] = {}
        for case, patient in zip(self.cases, self.patients, strict=True):
            if not patient or owner.setdefault(case, patient) != patient:
                raise DataError("a case has no patient, or two", case=case)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def structures(self) -> tuple[str, ...]:
        """Names, in the order in which they first occur."""
        return tuple(dict.fromkeys(score.structure for score in self.scores))

    @property
    def case_count(self) -> int:
        """Number of cases."""
        return len(set(self.cases))

    def values(self, metric: str) -> NDArray[np.float64]:
        """(n,) a measure of each row by its name (``dice``, ``hd95_mm`` …), NaN where it has none."""
        found = [getattr(score, metric) for score in self.scores]
        return np.array([np.nan if value is None else value for value in found], dtype=np.float64)

    def at(self, where: NDArray[np.bool_] | NDArray[np.intp] | Sequence[int]) -> StructureTable:
        """Some of the rows: a mask (n,) or row numbers."""
        picked = np.asarray(where)
        rows = np.arange(len(self))[picked if picked.size else picked.astype(np.intp)]

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[int(row)] for row in rows)

        named = {name: pick(getattr(self, name)) for name in ("cases", *_PER_ROW)}
        return replace(self, **named, columns={name: pick(values) for name, values in self.columns.items()})

    def of(self, rater: str = PREDICTION, structure: str | None = None) -> StructureTable:
        """The rows of one rater, and of one structure where that is named."""
        names = np.array([score.structure for score in self.scores], dtype=object)
        inside = np.array(self.raters, dtype=object) == rater
        return self.at(inside if structure is None else inside & (names == structure))

    def factors(self) -> dict[str, tuple[COLUMN_TYPES, ...]]:
        """Everything that cases can be grouped by: the site where there are several, then the clinical columns."""
        named = {"site": self.sites} if len({s for s in self.sites if s is not None}) > 1 else {}
        return {**named, **{k: v for k, v in self.columns.items() if k != "site" or not named}}


def structures_of(dataset: Dataset) -> dict[int, str]:
    """Label → name of what is judged: the dataset's regions (1, 2 … in order) where it has any, else its labels.

    Raises:
        DatasetError: The dataset names no structure.
    """
    if dataset.regions:
        return dict(enumerate(dataset.regions, start=1))
    names = {value: name for value, name in enumerate(dataset.label_names) if value and value != dataset.ignore}
    if not names:
        raise DatasetError(f"the dataset {dataset.name} names no structure", remedy="give labels beside the background")
    return names


def known_structures(dataset: Dataset, case: Case) -> tuple[str, ...]:
    """Names of the structures that the truth of a case speaks of; a region needs all its labels known."""
    names = tuple(structures_of(dataset).values())
    if case.truth.known is None:
        return names
    looked_at = set(case.truth.known)
    if dataset.regions:
        return tuple(name for name in names if set(dataset.regions[name]) <= looked_at)
    return tuple(name for value, name in structures_of(dataset).items() if value in looked_at)


def as_labels(mask: NDArray[Any]) -> NDArray[Any]:
    """A mask as it was read, as unsigned labels: whole numbers of any type, or True for label 1.

    Args:
        mask: (*shape); already unsigned ones come back as they are.

    Raises:
        DataError: Fractions, negative or not finite numbers, labels above 65,535.

    Example:
        >>> as_labels(np.array([0.0, 2.0])).dtype, as_labels(np.array([False, True])).tolist()
        (dtype('uint8'), [0, 1])
    """
    if mask.dtype.kind == "u":
        return mask
    if mask.dtype.kind == "b":
        return mask.astype(np.uint8)
    if mask.dtype.kind not in "if":
        raise DataError("a mask holds whole numbers", got=mask.dtype)
    low, high = (float(mask.min()), float(mask.max())) if mask.size else (0.0, 0.0)
    if not (low >= 0 and high <= LARGEST_VALUE):  # NaN is neither
        raise DataError("a mask's labels are out of range", got=f"{low:g} … {high:g}", expected=f"0 … {LARGEST_VALUE}")
    labels = mask.astype(np.uint8 if high <= 255 else np.uint16)
    if mask.dtype.kind == "f" and not np.array_equal(labels, mask):
        raise DataError("a mask's labels are no whole numbers", remedy="give labels, not probabilities")
    return labels


def case_scores(
    dataset: Dataset,
    case: Case,
    truth: NDArray[Any],
    predicted: NDArray[Any],
    geometry: Geometry,
    rules: MaskRules | None = None,
) -> tuple[MaskScores, ...]:
    """Judge one case of a dataset: its regions, partial labels and ignored voxels are minded.

    Args:
        dataset: Gives structures, regions and the label to ignore.
        case: Gives the structures that were looked at.
        truth: (*shape) labels of the first observer, as read (``as_labels``); or bool with a channel a region.
        predicted: (*shape) labels (another observer's, or a prediction); or bool with a channel a region.
        geometry: The grid of both.
        rules: Tolerance and matching of lesions.

    Raises:
        GeometryError: Arrays that do not fit the grid.
        DataError: Labels that the dataset does not have, or that are no labels.
    """
    # with a trailing axis they are channels, one a region
    truth, predicted = (as_labels(mask) if mask.ndim == geometry.ndim else mask for mask in (truth, predicted))
    ignored = None
    if dataset.ignore is not None and truth.ndim == geometry.ndim:
        ignored = np.asarray(truth == dataset.ignore)
        if predicted.shape == truth.shape:
            ignored |= predicted == dataset.ignore  # a second observer marks what nobody knows, too
    masks = [truth, predicted]
    if dataset.regions:
        masks = [mask if mask.dtype.kind == "b" else as_regions(mask, dataset.regions) for mask in masks]
    names, known = structures_of(dataset), known_structures(dataset, case)
    return mask_scores(masks[0], masks[1], geometry, names, known=known, ignore=ignored, rules=rules)


def structure_table(
    dataset: Dataset,
    scores: Mapping[str, Sequence[MaskScores]],
    *,
    observers: Mapping[str, Mapping[str, Sequence[MaskScores]]] | None = None,
    folds: Mapping[str, int] | None = None,
) -> StructureTable:
    """The table of the cases that were judged, in the dataset's order.

    Args:
        dataset: Gives patients, sites, splits and clinical columns.
        scores: Case identifier → its structures, as ``case_scores`` gives them.
        observers: Rater (``observer 2``) → case identifier → that observer's mask against the first one's.
        folds: Which fold's network judged a case.

    Raises:
        DatasetError: No case was judged, or a case that the dataset does not have.
    """
    by_rater = {PREDICTION: scores, **(observers or {})}
    strange = {case for found in by_rater.values() for case in found} - {case.id for case in dataset}
    if strange:
        raise DatasetError(f"the dataset {dataset.name} has no such case", got=min(strange))
    rows: list[tuple[Case, str, MaskScores]] = [
        (case, rater, score)
        for rater, found in by_rater.items()
        for case in dataset
        for score in found.get(case.id, ())
    ]
    if not rows:
        raise DatasetError(f"no case of {dataset.name} has both a mask and a true one")
    each = [case for case, _, _ in rows]
    return StructureTable(
        cases=tuple(case.id for case in each),
        patients=tuple(case.patient for case in each),
        scores=tuple(score for _, _, score in rows),
        raters=tuple(rater for _, rater, _ in rows),
        splits=tuple(case.split for case in each),
        folds=tuple((folds or {}).get(case.id) if rater == PREDICTION else None for case, rater, _ in rows),
        sites=tuple(case.site for case in each),
        columns=columns_of(each),
    )
