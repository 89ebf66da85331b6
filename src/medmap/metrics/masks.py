"""How good a mask is: overlap, surfaces, volumes and lesions of every structure of one case.

Missed and invented structures count. Both masks empty: Dice, IoU and NSD are 1, distances 0. One of them empty: Dice,
IoU and NSD are 0, distances the diagonal of the field of view. What cannot be defined is None: millimetres of an image
that has none, the volume of a plane, the sensitivity for lesions where there is none to find.

Sources: Maier-Hein et al., Nat. Methods 21:195–212 (2024); Taha and Hanbury, BMC Med. Imaging 15:29 (2015).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.metrics.lesions import Connectivity, LesionCounts, checked_matching, lesion_counts
from medmap.metrics.surfaces import Indices, checked_tolerance, distances_between, metric_of, surface_voxels

Labels = NDArray[np.unsignedinteger]
Bools = NDArray[np.bool_]
Box = tuple[slice, ...]

LARGEST_VALUE = 65_535
DEFAULT_TOLERANCE_MM = 2.0
_CHUNK_VOXELS = 250_000  # indices of a chunk stay near the processor
_NOWHERE: Indices = np.zeros(0, np.int64)


@dataclass(frozen=True)
class MaskRules:
    """What "near" and "found" mean.

    Args:
        tolerance_mm: NSD's tolerance, > 0; or one a structure by name (2 mm for those not named).
        lesion_overlap: Share of a lesion's voxels that must be exceeded for it to be found; 0: one voxel is enough.
        lesion_connectivity: ``corners`` (26 neighbours) or ``faces`` (6).
        workers: Threads that search distances.

    Raises:
        UsageError: A tolerance that is not positive, a share outside [0, 1), another connectivity.

    Example:
        >>> MaskRules({"vessel": 0.5}).tolerance_of("vessel"), MaskRules().tolerance_of("liver")
        (0.5, 2.0)
    """

    tolerance_mm: float | Mapping[str, float] = DEFAULT_TOLERANCE_MM
    lesion_overlap: float = 0.0
    lesion_connectivity: Connectivity = "corners"
    workers: int = 1

    def __post_init__(self) -> None:
        given = self.tolerance_mm
        if isinstance(given, Mapping):
            named = {str(name): checked_tolerance(value) for name, value in given.items()}
            object.__setattr__(self, "tolerance_mm", MappingProxyType(named))
        else:
            object.__setattr__(self, "tolerance_mm", checked_tolerance(given))
        checked_matching(self.lesion_overlap, self.lesion_connectivity)

    def tolerance_of(self, structure: str) -> float:
        """The tolerance for a structure, in mm."""
        given = self.tolerance_mm
        return given.get(structure, DEFAULT_TOLERANCE_MM) if isinstance(given, Mapping) else given


@dataclass(frozen=True)
class MaskScores:
    """One structure of one case: how the predicted mask compares with the true one.

    Args:
        structure: Its name.
        truth_voxels, prediction_voxels, common_voxels: Sizes of the two masks and of what they share.
        hd95_mm, assd_mm: Distances between surfaces (``SurfaceDistances``), or None without millimetres.
        nsd: Normalised surface Dice at ``tolerance_mm``, in [0, 1], or None without millimetres.
        tolerance_mm: Its tolerance, or None without millimetres.
        voxel_ml: Volume of a voxel in ml; None in a plane or without millimetres.
        lesions: Lesions counted and matched.

    Raises:
        UsageError: Counts that contradict each other, a measure that is negative or not finite.

    Example:
        >>> MaskScores("liver", 10, 12, 9, None, None, None, None, 0.5, LesionCounts(1, 1, 1, 1)).volume_error_ml
        1.0
    """

    structure: str
    truth_voxels: int
    prediction_voxels: int
    common_voxels: int
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    tolerance_mm: float | None
    voxel_ml: float | None
    lesions: LesionCounts

    def __post_init__(self) -> None:
        if not 0 <= self.common_voxels <= min(self.truth_voxels, self.prediction_voxels):
            got = f"{self.common_voxels} common of {self.truth_voxels} and {self.prediction_voxels}"
            raise UsageError(f"the voxels of {self.structure} contradict each other", got=got)
        for name in ("hd95_mm", "assd_mm", "nsd", "tolerance_mm", "voxel_ml"):
            number = getattr(self, name)
            if number is not None and not 0 <= number < np.inf:
                raise UsageError(f"{name} of {self.structure} is no measure", got=number, expected="a number ≥ 0")

    @property
    def dice(self) -> float:
        """Twice the common voxels over both masks' (Dice 1945); both empty 1."""
        both = self.truth_voxels + self.prediction_voxels
        return 2 * self.common_voxels / both if both else 1.0

    @property
    def iou(self) -> float:
        """Common voxels over those in either mask (Jaccard 1912); both empty 1."""
        either = self.truth_voxels + self.prediction_voxels - self.common_voxels
        return self.common_voxels / either if either else 1.0

    @property
    def volume_truth_ml(self) -> float | None:
        """Volume of the true mask."""
        return None if self.voxel_ml is None else self.truth_voxels * self.voxel_ml

    @property
    def volume_prediction_ml(self) -> float | None:
        """Volume of the predicted mask."""
        return None if self.voxel_ml is None else self.prediction_voxels * self.voxel_ml

    @property
    def volume_error_ml(self) -> float | None:
        """Predicted less true volume: positive where too much was drawn."""
        return None if self.voxel_ml is None else (self.prediction_voxels - self.truth_voxels) * self.voxel_ml

    @property
    def lesion_sensitivity(self) -> float | None:
        """Share of the true lesions found; None where there is none."""
        return self.lesions.sensitivity

    @property
    def lesion_precision(self) -> float | None:
        """Share of the predicted lesions that are there; None where none was predicted."""
        return self.lesions.precision

    @property
    def lesion_f1(self) -> float:
        """Harmonic mean of the two; neither mask has a lesion 1, only one has 0."""
        return self.lesions.f1


def mask_scores(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    geometry: Geometry,
    structures: Mapping[int, str],
    *,
    known: Collection[str] | None = None,
    ignore: Bools | int | None = None,
    rules: MaskRules | None = None,
) -> tuple[MaskScores, ...]:
    """Judge the prediction of one case, structure by structure.

    Overlaps of all structures come from one confusion matrix, and surfaces of all of them from one pass, so that many
    structures cost little more than one; memory beyond the two maps is that of a slab and of the surfaces.

    Args:
        truth: (*shape) unsigned labels, or bool with one trailing channel a structure where regions overlap.
        prediction: On the same grid, in the same form.
        geometry: The grid; without millimetres (``kind="none"``) what needs them is None.
        structures: Label → name; of boolean masks, the channels in order.
        known: Structures that the truth speaks of (partial annotation); None: all. Others get no row.
        ignore: (*shape) bool, or the truth's label for voxels nobody knows: they are outside both masks, so a surface
            that runs into them ends there for both.
        rules: Tolerance, and when a lesion counts as found; the defaults of ``MaskRules`` when absent.

    Returns:
        One for each known structure, in the order of ``structures``.

    Raises:
        GeometryError: Arrays that do not fit the grid.
        DataError: Neither labels nor booleans, or labels that no structure has.
        UsageError: Names that repeat, a ``known`` structure that is not there.

    Example:
        >>> truth = np.zeros((4, 4, 4), np.uint8)
        >>> truth[1:3, 1:3, 1:3] = 1
        >>> grid = Geometry.from_spacing((4, 4, 4), (1.0, 1.0, 5.0))
        >>> score = mask_scores(truth, np.roll(truth, 1, axis=0), grid, {1: "nodule"})[0]
        >>> score.dice, score.hd95_mm, score.nsd, score.volume_error_ml
        (0.5, 1.0, 1.0, 0.0)
    """
    given = rules or MaskRules()
    _check_structures(structures, known)
    first, second = np.asarray(truth), np.asarray(prediction)
    if isinstance(ignore, int) and not isinstance(ignore, bool):
        if first.dtype.kind == "b":
            raise UsageError("boolean masks have no label to ignore", got=ignore, remedy="give the ignored voxels")
        ignore = first == ignore
    if ignore is not None:
        first, second = _without(first, ignore, geometry), _without(second, ignore, geometry)
    wanted = [name for name in structures.values() if known is None or name in known]
    if first.dtype.kind == "b" and second.dtype.kind == "b":
        first, second = (_channels(array, geometry, len(structures)) for array in (first, second))
        rows = []
        for channel, name in enumerate(structures.values()):
            if name in wanted:
                one, two = (np.ascontiguousarray(array[..., channel]).view(np.uint8) for array in (first, second))
                rows += _scores(one, two, geometry, {1: name}, given)
        return tuple(rows)
    for array, which in ((first, "truth"), (second, "prediction")):
        _check_labels(array, which, geometry)
    rows = _scores(first, second, geometry, structures, given, wanted)
    return tuple(rows)


def confusion(truth: Labels, prediction: Labels, values: Collection[int]) -> NDArray[np.int64]:
    """How many voxels of each label were given each label: one matrix that every overlap follows from.

    Args:
        truth: (*shape) unsigned labels.
        prediction: On the same grid.
        values: The labels, none 0.

    Returns:
        (labels + 1, labels + 1) counts, background first, then ``values`` in order; rows are the truth.

    Raises:
        DataError: Shapes or types that do not fit, or a label that is not among ``values``.

    Example:
        >>> confusion(np.array([0, 1, 2], np.uint8), np.array([1, 1, 2], np.uint8), [1, 2]).tolist()
        [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    if truth.shape != prediction.shape or truth.dtype.kind != "u" or prediction.dtype.kind != "u":
        got = f"{truth.dtype} {truth.shape} and {prediction.dtype} {prediction.shape}"
        raise DataError("two label maps of one grid are needed", got=got)
    size = len(values) + 2  # the last row and column are of labels that nobody named
    place = np.full(LARGEST_VALUE + 1, size - 1, dtype=np.intp)
    place[[0, *values]] = np.arange(size - 1)
    counts = np.zeros(size * size, dtype=np.int64)
    rows = max(1, _CHUNK_VOXELS // max(1, truth[0].size))
    for start in range(0, len(truth), rows):
        here, there = (labels[start : start + rows].reshape(-1) for labels in (truth, prediction))
        if max(here.max(), there.max()) > LARGEST_VALUE:
            raise _unnamed(truth, prediction, values)
        counts += np.bincount(place[here] * size + place[there], minlength=counts.size)
    table = counts.reshape(size, size)
    if table[-1].any() or table[:, -1].any():
        raise _unnamed(truth, prediction, values)
    return table[:-1, :-1]


def _unnamed(truth: Labels, prediction: Labels, values: Collection[int]) -> DataError:
    strange = {
        which: sorted(set(np.unique(labels).tolist()) - {0, *values})
        for which, labels in (("truth", truth), ("prediction", prediction))
    }
    which = "truth" if strange["truth"] else "prediction"
    return DataError(
        f"the {which} has labels that no structure has",
        got=", ".join(map(str, strange[which][:10])),
        expected=", ".join(map(str, values)),
        remedy="name them among the structures, or say which voxels to ignore",
    )


def as_regions(labels: Labels, regions: Mapping[str, Collection[int]]) -> Bools:
    """A label map as overlapping regions: each the union of some labels.

    Args:
        labels: (*shape).
        regions: Name → its labels.

    Returns:
        (*shape, regions) bool.

    Example:
        >>> as_regions(np.array([0, 1, 2], np.uint8), {"whole": (1, 2), "core": (2,)}).tolist()
        [[False, False], [True, False], [True, True]]
    """
    return np.stack([np.isin(labels, list(values)) for values in regions.values()], axis=-1)


# -- what goes in -------------------------------------------------------------------------------------------------


def _check_structures(structures: Mapping[int, str], known: Collection[str] | None) -> None:
    names = list(structures.values())
    if not names or len(set(names)) < len(names) or "all" in names or not all(names):
        raise UsageError("structures need names that differ and are not 'all'", got=names)
    if any(not 0 < value <= LARGEST_VALUE for value in structures):
        raise UsageError("a structure's label is out of range", got=list(structures), expected=f"1 … {LARGEST_VALUE}")
    if strange := sorted(set(known or ()) - set(names)):
        raise UsageError("the truth speaks of a structure that is not there", got=strange, expected=names)


def _check_labels(array: NDArray[Any], which: str, geometry: Geometry) -> None:
    if array.dtype.kind != "u":
        raise DataError(
            f"the {which} is no label map",
            got=array.dtype,
            expected="unsigned integers; or booleans with a channel a structure, in truth and prediction alike",
        )
    if array.shape != geometry.shape:
        raise GeometryError(f"the {which} does not fit its grid", got=array.shape, expected=geometry.shape)


def _channels(array: NDArray[Any], geometry: Geometry, count: int) -> Bools:
    if array.shape == geometry.shape and count == 1:
        array = array[..., None]
    if array.shape != (*geometry.shape, count):
        raise GeometryError("the mask does not fit its grid", got=array.shape, expected=(*geometry.shape, count))
    return array


def _without(array: NDArray[Any], ignore: Any, geometry: Geometry) -> NDArray[Any]:
    """The mask with ignored voxels outside it."""
    away = np.asarray(ignore)
    if away.dtype.kind != "b" or away.shape != geometry.shape:
        got = f"{away.dtype} {away.shape}"
        raise GeometryError("the ignored voxels do not fit the grid", got=got, expected=f"bool {geometry.shape}")
    out = array.copy(order="K")
    if array.shape[: away.ndim] == away.shape:  # otherwise the mask itself is refused, with its own words
        out[away] = 0
    return out


# -- scoring ------------------------------------------------------------------------------------------------------


def _scores(
    truth: Labels,
    prediction: Labels,
    geometry: Geometry,
    structures: Mapping[int, str],
    rules: MaskRules,
    wanted: Collection[str] | None = None,
) -> list[MaskScores]:
    """The scores of the wanted structures of two label maps whose form was looked at."""
    axes = list(range(geometry.ndim))
    if truth.flags.f_contiguous and not truth.flags.c_contiguous:
        # walked in the order in which it lies in memory: no number depends on the order of the axes
        truth, prediction, axes = truth.T, prediction.T, axes[::-1]
    metric = metric_of(geometry, axes) if geometry.has_size else None
    box = _foreground(truth, prediction)
    truth, prediction = truth[box], prediction[box]
    counts = confusion(truth, prediction, list(structures))
    surfaces = [_by_label(labels) for labels in (truth, prediction)]
    voxel_ml = geometry.voxel_volume_mm3 / 1000 if geometry.has_size and geometry.ndim == 3 else None
    rows = []
    for number, (value, name) in enumerate(structures.items(), start=1):
        if wanted is not None and name not in wanted:
            continue
        sets = [found.get(value, _NOWHERE) for found in surfaces]
        hd95_mm = assd_mm = nsd = tolerance_mm = None
        if metric is not None:
            tolerance_mm = rules.tolerance_of(name)
            hd95_mm, assd_mm, nsd = _distances(sets, truth.shape, geometry, metric, tolerance_mm, rules.workers)
        row, column, common = (int(n) for n in (counts[number].sum(), counts[:, number].sum(), counts[number, number]))
        lesions = _lesions(truth, prediction, value, sets, rules)
        rows.append(MaskScores(name, row, column, common, hd95_mm, assd_mm, nsd, tolerance_mm, voxel_ml, lesions))
    return rows


def _distances(
    surfaces: list[Indices],
    shape: tuple[int, ...],
    geometry: Geometry,
    metric: NDArray[np.float64],
    tolerance_mm: float,
    workers: int,
) -> tuple[float, float, float]:
    """HD95, ASSD and NSD, with what stands for them where a mask is empty."""
    truth, prediction = surfaces
    if not len(truth) and not len(prediction):
        return 0.0, 0.0, 1.0
    if not len(truth) or not len(prediction):
        far = geometry.field_of_view_diagonal_mm
        return far, far, 0.0
    found = distances_between(truth, prediction, shape, metric, workers)
    return found.hd95_mm, found.assd_mm, found.nsd(tolerance_mm)


def _foreground(truth: Labels, prediction: Labels) -> Box:
    """The box around all labels of both maps; outside it there is nothing to compare."""
    box = []
    for axis in range(truth.ndim):
        others = tuple(a for a in range(truth.ndim) if a != axis)
        used = np.flatnonzero(truth.any(axis=others) | prediction.any(axis=others))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return tuple(box)


def _by_label(labels: Labels) -> dict[int, Indices]:
    """Label → flat indices of its surface voxels, ascending."""
    flat, values = surface_voxels(labels)
    order = np.argsort(values, kind="stable")
    different, starts = np.unique(values[order], return_index=True)
    parts = np.split(flat[order], starts[1:]) if len(different) else []
    return {int(value): part for value, part in zip(different, parts, strict=True)}


def _lesions(truth: Labels, prediction: Labels, value: int, surfaces: list[Indices], rules: MaskRules) -> LesionCounts:
    """Lesions of one structure, looked at within its own box."""
    both = np.concatenate(surfaces)
    if not len(both):
        return LesionCounts(0, 0, 0, 0)
    box = tuple(slice(int(index.min()), int(index.max()) + 1) for index in np.unravel_index(both, truth.shape))
    return lesion_counts(
        truth[box] == value,
        prediction[box] == value,
        overlap=rules.lesion_overlap,
        connectivity=rules.lesion_connectivity,
    )
