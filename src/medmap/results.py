"""What a network says about an image: scores, boxes, a mask, a picture; each can move between grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError, ReadError, UsageError
from medmap.geometry import Geometry, Trace
from medmap.image import Image

Floats = NDArray[np.float64]
ScoreKind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression"]


def _readonly(array: Any, dtype: Any = None) -> NDArray[Any]:
    out = np.array(array, dtype=dtype)
    out.setflags(write=False)
    return out


LARGEST_LABEL = 2**24


@dataclass(frozen=True)
class Label:
    """A class or structure: its name and, where known, its code in a terminology (``SCT:…``)."""

    name: str
    code: str | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """One number for each class (or one predicted value for a regression).

    Args:
        labels: The classes.
        values: (classes,) probabilities in 0…1; for a regression the values in the target's unit.
        kind: How the numbers hang together: they sum to one, or each stands for itself.
        calibrated: Whether they were calibrated on cases the network did not learn from.
        uncalibrated: (classes,) probabilities before calibration, or None when nothing was calibrated.
        spread: (classes,) standard deviation over ensemble members and test-time views, or None.
        decided: Names of the classes decided on; empty when left to a person.
        abstained: True when the decision rule leaves the case to a person.

    Raises:
        DataError: Lengths differ, or a value is not finite or (but for regression) outside 0…1.
    """

    labels: tuple[Label, ...]
    values: Floats
    kind: ScoreKind = "multiclass"
    calibrated: bool = False
    uncalibrated: Floats | None = None
    spread: Floats | None = None
    decided: tuple[str, ...] = ()
    abstained: bool = False

    def __post_init__(self) -> None:
        values = _readonly(self.values, np.float64)
        if values.shape != (len(self.labels),) or not self.labels:
            raise DataError("one score for each class is needed", got=values.shape, expected=(len(self.labels),))
        if not np.isfinite(values).all():
            raise DataError("a score is not a finite number", got=values.tolist())
        if self.kind != "regression" and (values.min() < 0 or values.max() > 1 + 1e-9):
            raise DataError("a probability lies outside 0…1", got=values.tolist())
        object.__setattr__(self, "values", values)
        for name in ("spread", "uncalibrated"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _readonly(getattr(self, name), np.float64))

    def moved(self, trace: Trace) -> Scores:
        """Scores have no place: the same scores."""
        return self

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        spread = None if self.spread is None else [float(v) for v in self.spread]
        return {
            "type": "scores",
            "kind": self.kind,
            "scores": {label.name: float(v) for label, v in zip(self.labels, self.values, strict=True)},
            "codes": {label.name: label.code for label in self.labels if label.code},
            "spread": spread,
            "calibrated": self.calibrated,
            "decided": list(self.decided),
            "abstained": self.abstained,
        }


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes found in an image, in index coordinates of ``geometry`` (integers at voxel centres).

    Args:
        corners: (boxes, 2·ndim): the low corner's indices, then the high corner's; low ≤ high.
        label_ids: (boxes,) index into ``labels``.
        scores: (boxes,) in 0…1.
        labels: The classes.
        geometry: The grid the indices speak of.
        calibrated: Whether the scores were calibrated.
        thresholds: (labels,) score from which a box of each class is called, the operating point; empty: all are.

    Raises:
        DataError: Counts that differ, an unknown class, a score outside 0…1.
        GeometryError: Corners that are swapped or not finite.
    """

    corners: Floats
    label_ids: NDArray[np.int64]
    scores: Floats
    labels: tuple[Label, ...]
    geometry: Geometry
    calibrated: bool = False
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n, count = self.geometry.ndim, np.size(self.scores)
        sizes = (np.size(self.corners), np.size(self.label_ids))
        if sizes != (count * 2 * n, count):
            raise DataError("each box has its corners, a class and a score", got=(*sizes, count), expected=2 * n)
        corners = _readonly(np.reshape(self.corners, (count, 2 * n)), np.float64)
        ids = _readonly(np.reshape(self.label_ids, (count,)), np.int64)
        scores = _readonly(np.reshape(self.scores, (count,)), np.float64)
        if not ((scores >= 0) & (scores <= 1 + 1e-9)).all():
            raise DataError("a box's score lies outside 0…1", got=scores.tolist())
        if not np.isfinite(corners).all() or (corners[:, :n] > corners[:, n:]).any():
            raise GeometryError("a box has swapped or undefined corners", expected="low ≤ high along each axis")
        if count and (ids.min() < 0 or ids.max() >= len(self.labels)):
            raise DataError("a box has an unknown class", got=sorted(set(ids.tolist())), expected=len(self.labels))
        if self.thresholds and len(self.thresholds) != len(self.labels):
            raise DataError("each class has its threshold", got=len(self.thresholds), expected=len(self.labels))
        for name, value in (("corners", corners), ("label_ids", ids), ("scores", scores)):
            object.__setattr__(self, name, value)

    @property
    def called(self) -> NDArray[np.bool_]:
        """(boxes,) whether each score reaches its class's threshold; what is below is kept for curves alone."""
        if not self.thresholds:
            return np.ones(len(self.scores), dtype=np.bool_)
        return np.asarray(self.scores >= np.array(self.thresholds)[self.label_ids], dtype=np.bool_)

    def taken(self, which: NDArray[Any]) -> Boxes:
        """Some of the boxes: by a boolean for each, or by their numbers in a new order."""
        return replace(self, corners=self.corners[which], label_ids=self.label_ids[which], scores=self.scores[which])

    def moved(self, trace: Trace) -> Boxes:
        """The boxes taken from the prepared grid back to the trace's source grid.

        The outer edges are moved (half a voxel beyond the corners), so that a box keeps its millimetres when the grid
        was resampled; one that is smaller than a voxel of the source becomes that voxel.

        Raises:
            GeometryError: The boxes are not on the prepared grid.
        """
        if self.geometry.shape != trace.target.shape:
            raise GeometryError("the boxes are not on the prepared grid", got=self.geometry.shape)
        n = self.geometry.ndim
        back = np.linalg.inv(trace.index_matrix)
        edges = (self.corners[:, :n] - 0.5, self.corners[:, n:] + 0.5)
        ends = [edge @ back[:n, :n].T + back[:n, n] for edge in edges]
        low, high = np.minimum(*ends) + 0.5, np.maximum(*ends) - 0.5
        middle = (low + high) / 2
        corners = np.concatenate([np.minimum(low, middle), np.maximum(high, middle)], axis=1)
        return replace(self, corners=corners, geometry=trace.source)

    def inside(self) -> Boxes:
        """The boxes cut at the image's border; those that lie wholly beyond it (in what was padded) are left out."""
        n, shape = self.geometry.ndim, np.array(self.geometry.shape)
        low, high = self.corners[:, :n], self.corners[:, n:]
        there = np.all((high >= -0.5) & (low <= shape - 0.5), axis=1)
        cut = np.concatenate([np.clip(low, 0, shape - 1), np.clip(high, 0, shape - 1)], axis=1)
        return replace(self, corners=cut).taken(there)

    def centres_mm(self) -> Floats:
        """(boxes, 3) centres in LPS millimetres."""
        n = self.geometry.ndim
        self.geometry.require_size("a position")
        return self.geometry.to_world((self.corners[:, :n] + self.corners[:, n:]) / 2)

    def sizes_mm(self) -> Floats:
        """(boxes, ndim) edge lengths along the index axes, in mm, whole voxels counted."""
        n = self.geometry.ndim
        return np.asarray((self.corners[:, n:] - self.corners[:, :n] + 1) * np.array(self.geometry.spacing_mm))

    def slices(self, axis: int = 2) -> NDArray[np.int64]:
        """(boxes, 2) the first and the last slice along an index axis that each box reaches into.

        By the centres of its corner voxels: a box of one voxel at 4 lies in slice 4 alone.

        Args:
            axis: Which index axis runs across the slices.
        """
        n = self.geometry.ndim
        first = np.floor(self.corners[:, axis] + 0.5)
        last = np.maximum(first, np.ceil(self.corners[:, n + axis] - 0.5))
        return np.stack([first, last], axis=1).astype(np.int64)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file; millimetres only where the image has them, slices (the third axis) of volumes."""
        sized = self.geometry.has_size
        slices = self.slices().tolist() if self.geometry.ndim == 3 else [(None, None)] * len(self.scores)
        centres = self.centres_mm().tolist() if sized else [None] * len(self.scores)
        sizes = self.sizes_mm().tolist() if sized else [None] * len(self.scores)
        rows = [
            {
                "index": corners.tolist(),
                "centre_mm": centre,
                "size_mm": size,
                "label": self.labels[int(i)].name,
                "code": self.labels[int(i)].code,
                "score": float(score),
                "called": bool(called),
                "first_slice": first,
                "last_slice": last,
            }
            for corners, centre, size, i, score, called, (first, last) in zip(
                self.corners, centres, sizes, self.label_ids, self.scores, self.called, slices, strict=True
            )
        ]
        thresholds = {label.name: t for label, t in zip(self.labels, self.thresholds, strict=False)}
        return {"type": "boxes", "calibrated": self.calibrated, "thresholds": thresholds, "boxes": rows}


def _require_labels(labels: Any) -> None:
    """Labels as a mask takes them.

    Raises:
        DataError: No mapping of whole numbers from 1 on to labels.
    """
    if not isinstance(labels, Mapping):
        raise DataError("a mask's labels are a mapping", got=type(labels).__name__, expected="{1: Label('liver')}")
    for value, label in labels.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= LARGEST_LABEL:
            raise DataError("a label's value is a whole number", got=repr(value), expected=f"1 to {LARGEST_LABEL}")
        if not isinstance(label, Label):
            raise DataError("a label has a name", got=repr(label), expected="Label('liver')")
        if value == 0:
            raise DataError("0 is the background and has no label", got=label.name)


@dataclass(frozen=True, eq=False)
class Mask:
    """A label for every voxel: 0 is background, n stands for ``labels[n]``.

    Args:
        array: Unsigned integers, the geometry's shape; or bool with one trailing channel a label, when regions overlap.
        geometry: The grid.
        labels: value → label; never 0.
        calibrated: Whether the probabilities behind it were calibrated.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: Mapping[int, Label]
    calibrated: bool = False

    def __post_init__(self) -> None:
        array = _readonly(self.array)
        overlapping = array.dtype == np.bool_
        expected = (*self.geometry.shape, len(self.labels)) if overlapping else self.geometry.shape
        if array.shape != expected:
            raise GeometryError("the mask does not fit its geometry", got=array.shape, expected=expected)
        if not overlapping and array.dtype.kind != "u":
            raise DataError("a mask holds unsigned integers or booleans", got=array.dtype)
        _require_labels(self.labels)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    @classmethod
    def of(cls, image: Image, labels: Mapping[int, Label] | None = None) -> Mask:
        """A label map that was read as an image, or a channel a structure, as a mask.

        Args:
            image: Whole numbers, 0 is background; or channels of 0 and one other value each.
            labels: value → label; None: each value by its number, each channel by its name.

        Raises:
            UsageError: No image.
            ReadError: Other values than a mask's, colours, or times.
        """
        if not isinstance(image, Image):
            raise UsageError("a mask is made of an image", got=type(image).__name__, remedy="mm.read(path)")
        array, other = np.asarray(image.array), "give a label map; where its image is asked for too, that comes first"
        if image.quantity == "colour":
            raise ReadError(
                "a mask in colour has no labels: a palette becomes colours as it is read", got="colour",
                remedy="save the labels as grey values, 0 for background",
            )  # fmt: skip
        if image.time_s is not None:
            raise ReadError("a mask has no times", got=f"{len(image.time_s)} times", remedy=other)
        whole = bool(np.isfinite(array).all() and (array == np.rint(array)).all())
        if len(image.channels) > 1:
            if not whole or any(np.count_nonzero(np.unique(array[..., n])) > 1 for n in range(array.shape[-1])):
                raise ReadError(
                    "a mask's channels hold whole numbers, 0 and one other value each", got=array.dtype, remedy=other
                )
            named = {number: Label(name) for number, name in enumerate(image.channels, start=1)}
            return cls(array > 0, image.geometry, named if labels is None else labels)
        if not whole:
            raise ReadError("a mask holds whole numbers", got=array.dtype, remedy=other)
        values = np.unique(array)
        if values[0] < 0 or values[-1] > np.iinfo(np.uint16).max:
            raise ReadError("a mask's values lie in 0…65535", got=f"{values[0]}…{values[-1]}", remedy=other)
        named = {int(v): Label(str(int(v))) for v in values if v}
        return cls(array.astype(np.uint16), image.geometry, named if labels is None else labels)

    def moved(self, trace: Trace) -> Mask:
        """The mask taken back to the trace's source grid: exact for flips, crops and pads, nearest for resampling."""
        return replace(self, array=trace.back(self.array, fill=0, order=0), geometry=trace.source)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file: voxels and, where there is a size, millilitres of each structure."""
        rows = []
        for channel, (value, label) in enumerate(self.labels.items()):
            count = int(self.array[..., channel].sum() if self.array.dtype == np.bool_ else (self.array == value).sum())
            sized = self.geometry.has_size and self.geometry.ndim == 3
            volume = count * self.geometry.voxel_volume_mm3 / 1000 if sized else None
            rows.append({"value": value, "label": label.name, "code": label.code, "voxels": count, "volume_ml": volume})
        return {"type": "mask", "calibrated": self.calibrated, "structures": rows}


@dataclass(frozen=True, eq=False)
class Picture:
    """An image made from an image."""

    image: Image

    def moved(self, trace: Trace) -> Picture:
        """The picture on the trace's source grid.

        Raises:
            GeometryError: The preparation changed intensities in a way that cannot be undone.
        """
        if trace.lossy_intensity:
            raise GeometryError("the picture cannot be taken back to the source", got=trace.lossy_intensity)
        array = trace.back(self.image.array, order=1)
        return Picture(replace(self.image, array=array, geometry=trace.source, steps=(*self.image.steps, "back")))

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"type": "picture", "shape": list(self.image.array.shape), "quantity": self.image.quantity}


Output = Scores | Boxes | Mask | Picture


@dataclass(frozen=True, eq=False)
class Prediction:
    """All that a bundle says about one case, in the geometry of the source image.

    Args:
        case: The case's identifier.
        outputs: By name; a task may give several (a mask and a class).
        source: The input images' grids by input name.
        bundle: Hash of the bundle(s) that said so.
        warnings: What a reader must know, in sentences.
        expected_dice: Of a mask, the Dice to expect with a truth that nobody has drawn; None where it is not foretold.
        probable_dice: Of a mask, the Dice that its probabilities alone say: cases in the order of it are in the order
            of doubt, but the number was fitted to no truth; None where no structure is there.
    """

    case: str
    outputs: Mapping[str, Output]
    source: Mapping[str, Geometry] = field(default_factory=dict)
    bundle: str = ""
    warnings: tuple[str, ...] = ()
    expected_dice: float | None = None
    probable_dice: float | None = None

    @property
    def uncertainty(self) -> float | None:
        """0 sure to 1: one less the expected Dice, or the probable one where none is foretold; None without either."""
        dice = self.probable_dice if self.expected_dice is None else self.expected_dice
        return None if dice is None else 1 - dice

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", MappingProxyType(dict(self.outputs)))
        object.__setattr__(self, "source", MappingProxyType(dict(self.source)))

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "case": self.case,
            "bundle": self.bundle,
            "outputs": {name: output.as_json() for name, output in self.outputs.items()},
            "geometry": {name: g.as_json() for name, g in self.source.items()},
            "warnings": list(self.warnings),
            **({} if self.expected_dice is None else {"expected_dice": round(self.expected_dice, 4)}),
            **({} if self.probable_dice is None else {"probable_dice": round(self.probable_dice, 4)}),
        }
