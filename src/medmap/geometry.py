"""Where the voxels are: grids in the patient's space and the exact ways to move between them.

The only home of axis and sign rules. Index order equals the order of the affine's columns: ``array[i, j, k]`` is at
``affine_lps_mm @ (i, j, k, 1)``. The world is DICOM's: x to the patient's Left, y to the Posterior, z to the Superior,
in millimetres (PS3.3 C.7.6.2.1.1). Index coordinates are integers at voxel centres. A two-dimensional image has two
index axes, rows (downward) first, and keeps the affine 4×4: its third column is the normal of the image plane.

An image without physical size (a PNG) has ``kind="none"``; every question about millimetres is then refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import GeometryError

Kind = Literal["patient", "detector", "slide", "none"]
KINDS: tuple[Kind, ...] = ("patient", "detector", "slide", "none")
Floats = NDArray[np.float64]

# Two affines describe the same grid when no corner of the field of view moves by more than this part of a voxel.
GRID_TOLERANCE_VOXELS = 1e-3


def _frozen(array: ArrayLike, shape: tuple[int, ...], what: str) -> Floats:
    out = np.array(array, dtype=np.float64)
    if out.shape != shape:
        raise GeometryError(f"{what} has the wrong shape", got=out.shape, expected=shape)
    if not np.isfinite(out).all():
        raise GeometryError(f"{what} has entries that are not finite numbers", got=out.tolist())
    out.setflags(write=False)
    return out


def _axes(values: Sequence[int], ndim: int, what: str) -> tuple[int, ...]:
    axes = tuple(int(v) for v in values)
    if len(set(axes)) != len(axes) or any(not 0 <= a < ndim for a in axes):
        raise GeometryError(
            f"{what} names axes that the grid does not have", got=axes, expected=f"0 to {ndim - 1}, once"
        )
    return axes


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxels in space.

    Args:
        shape: Number of voxels along each index axis; two or three entries, each at least 1.
        affine_lps_mm: (4, 4) float64, index to LPS millimetres; columns in index order; finite and invertible.
        kind: ``patient`` (a scanner's coordinates), ``detector`` (spacing known, position not: a radiograph),
            ``slide`` (a microscope's stage) or ``none`` (no physical size).
        frame_of_reference: DICOM Frame of Reference UID, when known.

    Raises:
        GeometryError: A shape or affine that describes no grid.

    Example:
        >>> g = Geometry.from_spacing((5, 7, 11), (0.7, 1.3, 2.9))
        >>> g.spacing_mm
        (0.7, 1.3, 2.9)
        >>> g.to_world([[1, 0, 0]]).tolist()
        [[0.7, 0.0, 0.0]]
    """

    shape: tuple[int, ...]
    affine_lps_mm: Floats
    kind: Kind = "patient"
    frame_of_reference: str | None = None

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) not in (2, 3) or any(n < 1 for n in shape):
            raise GeometryError("a grid has two or three axes of at least one voxel", got=shape)
        if self.kind not in KINDS:
            raise GeometryError("unknown kind of geometry", got=repr(self.kind), expected=", ".join(KINDS))
        affine = _frozen(self.affine_lps_mm, (4, 4), "the affine")
        if not np.array_equal(affine[3], (0.0, 0.0, 0.0, 1.0)):
            raise GeometryError("the affine's last row is not 0 0 0 1", got=affine[3].tolist())
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if lengths.min() <= 0:
            raise GeometryError(
                "the affine has an axis of zero spacing", got=lengths.tolist(), expected="spacing > 0 mm"
            )
        if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
            raise GeometryError("the affine's axes lie in one plane", got=affine[:3, :3].tolist())
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine_lps_mm", affine)

    # -- making ------------------------------------------------------------------------------------------------

    @classmethod
    def without_size(cls, shape: Sequence[int]) -> Geometry:
        """The grid of an image that has no millimetres, such as a PNG."""
        return cls(tuple(shape), np.eye(4), "none")

    @classmethod
    def from_spacing(
        cls, shape: Sequence[int], spacing_mm: Sequence[float], kind: Kind = "patient", origin_mm: Sequence[float] = ()
    ) -> Geometry:
        """An axis-aligned grid; ``origin_mm`` is the centre of voxel 0 (default: the world's origin)."""
        if len(spacing_mm) != len(shape) or len(origin_mm) not in (0, 3) or not all(s > 0 for s in spacing_mm):
            raise GeometryError(
                "a grid needs a positive spacing for each axis and an origin of three coordinates",
                got=f"spacing {tuple(spacing_mm)}, origin {tuple(origin_mm)} for shape {tuple(shape)}",
            )
        affine = np.eye(4)
        affine[range(len(spacing_mm)), range(len(spacing_mm))] = spacing_mm
        if len(origin_mm):
            affine[:3, 3] = origin_mm
        return cls(tuple(shape), affine, kind)

    # -- asking ------------------------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of index axes: 2 or 3."""
        return len(self.shape)

    @property
    def has_size(self) -> bool:
        """Whether millimetres mean something here."""
        return self.kind != "none"

    def require_size(self, what: str) -> None:
        """Refuse ``what`` (a noun: "HD95") for an image that has no millimetres.

        Raises:
            GeometryError: ``kind`` is ``none``.
        """
        if not self.has_size:
            raise GeometryError(
                f"{what} needs millimetres and this image has none",
                got="an image without pixel spacing (PNG, JPEG, npz …)",
                remedy="use a format that states the spacing (DICOM, NIfTI, NRRD, MHA), or a measure in voxels",
            )

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxel centres along each index axis, in mm; refused without a size."""
        self.require_size("spacing")
        return tuple(float(v) for v in np.linalg.norm(self.affine_lps_mm[:3, : self.ndim], axis=0))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel (3-D only), in mm³: the affine's determinant, so that sheared grids are right too."""
        self.require_size("a volume")
        if self.ndim != 3:
            raise GeometryError("a volume needs a three-dimensional image", got=f"shape {self.shape}")
        return float(abs(np.linalg.det(self.affine_lps_mm[:3, :3])))

    @property
    def field_of_view_diagonal_mm(self) -> float:
        """Distance between the outer corners of the field of view, in mm."""
        self.require_size("the field of view")
        edges = self.affine_lps_mm[:3, : self.ndim] * np.asarray(self.shape, dtype=np.float64)
        signs = np.array(np.meshgrid(*[(-1, 1)] * self.ndim)).reshape(self.ndim, -1)
        return float(np.linalg.norm(edges @ signs, axis=0).max())

    @property
    def orientation(self) -> str:
        """Letters of the directions in which each index axis grows, e.g. ``LPS``; ``none`` without a size."""
        if self.kind == "none":
            return "none"
        vectors = self._directions()
        along = _nearest_assignment(np.abs(vectors))
        return "".join("LPS"[w] if vectors[w, a] > 0 else "RAI"[w] for a, w in enumerate(along))

    def _directions(self) -> Floats:
        columns = self.affine_lps_mm[:3, : self.ndim]
        directions: Floats = columns / np.linalg.norm(columns, axis=0)
        return directions

    def to_world(self, index: ArrayLike) -> Floats:
        """Index coordinates (n, ndim) to LPS millimetres (n, 3)."""
        points = np.atleast_2d(np.asarray(index, dtype=np.float64))
        if points.shape[1] != self.ndim:
            raise GeometryError("wrong number of index coordinates", got=points.shape[1], expected=self.ndim)
        world: Floats = points @ self.affine_lps_mm[:3, : self.ndim].T + self.affine_lps_mm[:3, 3]
        return world

    def to_index(self, world_mm: ArrayLike) -> Floats:
        """LPS millimetres (n, 3) to index coordinates (n, ndim); of a 2-D grid, the foot on its plane."""
        points = np.atleast_2d(np.asarray(world_mm, dtype=np.float64))
        if points.shape[1] != 3:
            raise GeometryError("world points have three coordinates", got=points.shape[1])
        inverse = np.linalg.inv(self.affine_lps_mm)
        index: Floats = (points @ inverse[:3, :3].T + inverse[:3, 3])[:, : self.ndim]
        return index

    def same_grid(self, other: Geometry, tolerance_voxels: float = GRID_TOLERANCE_VOXELS) -> bool:
        """Whether both put every voxel at the same place, to ``tolerance_voxels`` at the farthest corner."""
        if self.shape != other.shape or self.has_size != other.has_size:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(self.ndim, -1).T
        # in all three world directions: two parallel slices are two grids
        moved = np.linalg.solve(self.affine_lps_mm[:3, :3], (other.to_world(corners) - self.to_world(corners)).T)
        return bool(np.abs(moved).max() <= tolerance_voxels) and self._same_frame(other)

    def _same_frame(self, other: Geometry) -> bool:
        ours, theirs = self.frame_of_reference, other.frame_of_reference
        return ours is None or theirs is None or ours == theirs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return (
            self.shape == other.shape
            and self.kind == other.kind
            and self.frame_of_reference == other.frame_of_reference
            and bool(np.array_equal(self.affine_lps_mm, other.affine_lps_mm))
        )

    def __hash__(self) -> int:
        # + 0.0: minus zero equals zero, so it must hash alike
        return hash((self.shape, self.kind, self.frame_of_reference, (self.affine_lps_mm + 0.0).tobytes()))

    # -- changing ----------------------------------------------------------------------------------------------

    def moved(self, index_matrix: Floats, shape: Sequence[int]) -> Geometry:
        """The grid whose index coordinates are ``index_matrix`` (ndim+1 square, old to new) times this grid's."""
        inverse = np.eye(4)
        n = self.ndim
        back = np.linalg.inv(index_matrix)
        inverse[:n, :n], inverse[:n, 3] = back[:n, :n], back[:n, n]
        return replace(self, shape=tuple(shape), affine_lps_mm=self.affine_lps_mm @ inverse)

    def flip(self, axes: Sequence[int]) -> Geometry:
        """The same voxels counted from the other end along ``axes``."""
        return Flip(tuple(axes)).apply(self)

    def permute(self, order: Sequence[int]) -> Geometry:
        """The same voxels with index axes in another order: new axis n is the old axis ``order[n]``."""
        return Permute(tuple(order)).apply(self)

    def crop(self, start: Sequence[int], shape: Sequence[int]) -> Geometry:
        """The part that begins at ``start`` with ``shape`` voxels."""
        return Crop(tuple(start), tuple(shape)).apply(self)

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Geometry:
        """The grid grown by whole voxels on each side."""
        return Pad(tuple(before), tuple(after)).apply(self)

    def resampled(self, shape: Sequence[int]) -> Geometry:
        """Another number of voxels over the same field of view (outer edges stay)."""
        return Resample(tuple(shape)).apply(self)

    @property
    def in_words(self) -> str:
        """Shape, spacing, axes and origin, for messages."""
        return _describe(self)

    def match(self, target: Geometry) -> tuple[Step, ...]:
        """The exact steps (permute, flip, crop, pad) from this grid to ``target``.

        Raises:
            GeometryError: The grids differ by more than that; resampling is another verb (``resampled``).
        """
        if self.ndim != target.ndim or self.has_size != target.has_size or not self._same_frame(target):
            raise GeometryError("the two images do not share a space", got=_describe(self), expected=_describe(target))
        if self.kind == "none" and self.shape != target.shape:
            raise GeometryError(
                "images without a size match only at equal shape", got=self.shape, expected=target.shape
            )
        n = self.ndim
        relative = np.linalg.inv(target.affine_lps_mm) @ self.affine_lps_mm  # index here -> index there
        linear, offset = relative[:n, :n], relative[:n, 3]
        rounded = np.rint(linear)
        out_of_plane = np.abs(relative[n:3, [*range(n), 3]]) @ (*self.shape, 1)  # of a 2-D grid; nothing in 3-D
        drift = max(np.abs(linear - rounded).max() * max(self.shape), out_of_plane.max(initial=0))
        exact = drift <= GRID_TOLERANCE_VOXELS * 10
        if not exact or not (np.abs(rounded).sum(0) == 1).all() or not (np.abs(rounded).sum(1) == 1).all():
            raise GeometryError(
                "the grids differ by more than permutation, flip, crop and pad",
                got=_describe(self),
                expected=_describe(target),
                remedy="resample one onto the other, knowingly",
            )
        return self._exact_steps(target, rounded, offset)

    def _exact_steps(self, target: Geometry, rounded: Floats, offset: Floats) -> tuple[Step, ...]:
        order = tuple(int(np.abs(row).argmax()) for row in rounded)
        flips = tuple(a for a in range(self.ndim) if rounded[a, order[a]] < 0)
        shape = [self.shape[o] for o in order]
        start = np.array([offset[a] - (shape[a] - 1 if a in flips else 0) for a in range(self.ndim)])
        if np.abs(start - np.rint(start)).max() > GRID_TOLERANCE_VOXELS * 10:
            raise GeometryError(
                "the grids are shifted by a part of a voxel", got=start.tolist(), expected="whole voxels"
            )
        begin = np.rint(start).astype(int)  # where our voxel 0 stands in the target
        end = begin + shape
        crop_start = np.maximum(-begin, 0)
        crop_stop = np.minimum(end, target.shape) - begin
        if (crop_stop <= crop_start).any():
            raise GeometryError(
                "the two fields of view do not overlap", got=_describe(self), expected=_describe(target)
            )
        kept = crop_stop - crop_start
        before = np.maximum(begin, 0)
        after = np.array(target.shape) - before - kept
        steps: list[Step] = []
        if order != tuple(range(self.ndim)):
            steps.append(Permute(order))
        if flips:
            steps.append(Flip(flips))
        if tuple(kept) != tuple(shape):
            steps.append(Crop(_ints(crop_start), _ints(kept)))
        if before.any() or after.any():
            steps.append(Pad(_ints(before), _ints(after)))
        return tuple(steps)

    def oriented(self, letters: str) -> tuple[Step, ...]:
        """The permutation and flips that make the axes grow towards ``letters`` (three of L/R, P/A, S/I)."""
        self.require_size("an orientation")
        pairs = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}
        if self.ndim != 3 or len(letters) != 3 or sorted(pairs.get(c, -1) for c in letters) != [0, 1, 2]:
            raise GeometryError("an orientation is three letters of L/R, P/A, S/I for a 3-D image", got=repr(letters))
        vectors = self._directions()
        world_of_axis = _nearest_assignment(np.abs(vectors))
        order = tuple(world_of_axis.index(pairs[c]) for c in letters)
        wanted = [1 if c in "LPS" else -1 for c in letters]
        flips = tuple(a for a in range(3) if vectors[pairs[letters[a]], order[a]] * wanted[a] < 0)
        return (Permute(order), Flip(flips))

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "shape": list(self.shape),
            "affine_lps_mm": self.affine_lps_mm.tolist(),
            "kind": self.kind,
            "frame_of_reference": self.frame_of_reference,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Geometry:
        """The inverse of ``as_json``."""
        try:
            shape, affine = tuple(int(n) for n in data["shape"]), np.array(data["affine_lps_mm"], dtype=np.float64)
            return cls(shape, affine, data["kind"], data.get("frame_of_reference"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GeometryError("a stored geometry cannot be understood", got=repr(data)[:200]) from error


def _nearest_assignment(strength: Floats) -> list[int]:
    """For each index axis (column) the world axis it runs along most, each used once, strongest first."""
    left, result = strength.copy(), [-1] * strength.shape[1]
    for _ in result:
        world, axis = np.unravel_index(int(left.argmax()), left.shape)
        result[int(axis)] = int(world)
        left[world, :] = left[:, axis] = -1
    return result


def _ints(values: ArrayLike) -> tuple[int, ...]:
    return tuple(int(v) for v in np.asarray(values))


def _describe(g: Geometry) -> str:
    if not g.has_size:
        return f"shape {g.shape}, no size"
    spacing = " × ".join(f"{s:.4g}" for s in g.spacing_mm)
    origin = ", ".join(f"{v:.2f}" for v in g.affine_lps_mm[:3, 3])
    return f"shape {g.shape}, {spacing} mm, {g.orientation}, origin ({origin}) mm"


# -- steps: plain values that say how one grid became another ---------------------------------------------------


@dataclass(frozen=True)
class Permute:
    """Index axes in another order: new axis n is the old axis ``order[n]``."""

    order: tuple[int, ...]

    def index_matrix(self, before: Geometry) -> Floats:
        """(ndim+1, ndim+1): old index coordinates to new ones."""
        if len(_axes(self.order, before.ndim, "a permutation")) != before.ndim:
            raise GeometryError("a permutation names every axis once", got=self.order, expected=f"{before.ndim} axes")
        matrix = np.eye(before.ndim + 1)
        matrix[: before.ndim, : before.ndim] = np.eye(before.ndim)[list(self.order)]
        return matrix

    def apply(self, before: Geometry) -> Geometry:
        """The grid after the step."""
        return before.moved(self.index_matrix(before), [before.shape[o] for o in self.order])

    def inverse(self, before: Geometry) -> Step:
        """The step back, for a grid ``before`` the step."""
        return Permute(_ints(np.argsort(self.order)))

    def on_array(self, array: NDArray[Any], before: Geometry, *, fill: float = 0, order: int = 1) -> NDArray[Any]:
        """The voxels after the step; trailing axes (time, channels) stay."""
        return array.transpose((*self.order, *range(before.ndim, array.ndim)))


@dataclass(frozen=True)
class Flip:
    """Voxels counted from the other end along ``axes``."""

    axes: tuple[int, ...]

    def index_matrix(self, before: Geometry) -> Floats:
        """(ndim+1, ndim+1): old index coordinates to new ones."""
        matrix = np.eye(before.ndim + 1)
        for axis in _axes(self.axes, before.ndim, "a flip"):
            matrix[axis, axis], matrix[axis, -1] = -1, before.shape[axis] - 1
        return matrix

    def apply(self, before: Geometry) -> Geometry:
        """The grid after the step."""
        return before.moved(self.index_matrix(before), before.shape)

    def inverse(self, before: Geometry) -> Step:
        """The step back, for a grid ``before`` the step."""
        return self

    def on_array(self, array: NDArray[Any], before: Geometry, *, fill: float = 0, order: int = 1) -> NDArray[Any]:
        """The voxels after the step; trailing axes (time, channels) stay."""
        return np.flip(array, _axes(self.axes, before.ndim, "a flip"))


@dataclass(frozen=True)
class Crop:
    """The part that begins at ``start`` with ``shape`` voxels; must lie inside."""

    start: tuple[int, ...]
    shape: tuple[int, ...]

    def index_matrix(self, before: Geometry) -> Floats:
        """(ndim+1, ndim+1): old index coordinates to new ones."""
        inside = len(self.start) == len(self.shape) == before.ndim and all(
            s >= 0 and n >= 1 and s + n <= m for s, n, m in zip(self.start, self.shape, before.shape, strict=True)
        )
        if not inside:
            raise GeometryError(
                "a crop lies outside the image", got=f"{self.start} + {self.shape}", expected=before.shape
            )
        matrix = np.eye(before.ndim + 1)
        matrix[:-1, -1] = [-s for s in self.start]
        return matrix

    def apply(self, before: Geometry) -> Geometry:
        """The grid after the step."""
        return before.moved(self.index_matrix(before), self.shape)

    def inverse(self, before: Geometry) -> Step:
        """The step back, for a grid ``before`` the step."""
        after = [m - s - n for m, s, n in zip(before.shape, self.start, self.shape, strict=True)]
        return Pad(self.start, tuple(after))

    def on_array(self, array: NDArray[Any], before: Geometry, *, fill: float = 0, order: int = 1) -> NDArray[Any]:
        """The voxels after the step; trailing axes (time, channels) stay."""
        return array[tuple(slice(s, s + n) for s, n in zip(self.start, self.shape, strict=True))]


@dataclass(frozen=True)
class Pad:
    """The grid grown by whole voxels ``before`` and ``after`` along each axis."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def index_matrix(self, before: Geometry) -> Floats:
        """(ndim+1, ndim+1): old index coordinates to new ones."""
        if len(self.before) != before.ndim or len(self.after) != before.ndim or min((*self.before, *self.after)) < 0:
            raise GeometryError("padding is a count of voxels at each side of each axis", got=(self.before, self.after))
        matrix = np.eye(before.ndim + 1)
        matrix[:-1, -1] = self.before
        return matrix

    def apply(self, before: Geometry) -> Geometry:
        """The grid after the step."""
        matrix = self.index_matrix(before)
        shape = [b + n + a for b, n, a in zip(self.before, before.shape, self.after, strict=True)]
        return before.moved(matrix, shape)

    def inverse(self, before: Geometry) -> Step:
        """The step back, for a grid ``before`` the step."""
        return Crop(self.before, before.shape)

    def on_array(self, array: NDArray[Any], before: Geometry, *, fill: float = 0, order: int = 1) -> NDArray[Any]:
        """The voxels after the step; new ones are ``fill``; trailing axes (time, channels) stay."""
        widths = [*zip(self.before, self.after, strict=True), *[(0, 0)] * (array.ndim - before.ndim)]
        return np.pad(array, widths, constant_values=fill)


@dataclass(frozen=True)
class Resample:
    """Another number of voxels over the same field of view; the outer edges stay where they are."""

    shape: tuple[int, ...]

    def index_matrix(self, before: Geometry) -> Floats:
        """(ndim+1, ndim+1): old index coordinates to new ones."""
        if len(self.shape) != before.ndim or min(self.shape) < 1:
            raise GeometryError(
                "resampling needs a count of voxels for each axis", got=self.shape, expected=before.ndim
            )
        scale = np.array(self.shape) / np.array(before.shape)
        matrix = np.diag([*scale, 1.0])
        matrix[:-1, -1] = (scale - 1) / 2
        return matrix

    def apply(self, before: Geometry) -> Geometry:
        """The grid after the step."""
        return before.moved(self.index_matrix(before), self.shape)

    def inverse(self, before: Geometry) -> Step:
        """The step back (the grid comes back exactly, the values approximately)."""
        return Resample(before.shape)

    def on_array(self, array: NDArray[Any], before: Geometry, *, fill: float = 0, order: int = 1) -> NDArray[Any]:
        """The values at the new voxel centres; ``order`` 0 nearest (labels), 1 linear; edges are extended."""
        if array.shape[: before.ndim] == self.shape:
            return array
        from scipy.ndimage import affine_transform

        back = np.linalg.inv(self.index_matrix(before))
        n = before.ndim
        flat = array.reshape((*array.shape[:n], -1))
        kept = array.dtype if order == 0 or array.dtype.kind == "f" else np.dtype(np.float32)
        kept = np.dtype(np.float32) if kept == np.float16 else kept  # scipy knows no half precision
        out = np.empty((*self.shape, flat.shape[-1]), dtype=kept)
        for channel in range(flat.shape[-1]):
            source = flat[..., channel].astype(kept, copy=False)
            affine_transform(
                source, np.diag(back)[:n], back[:n, n], self.shape, out[..., channel], order=order, mode="nearest"
            )
        # integers become float32 when interpolated; every other type comes back as it came
        kept = array.dtype if array.dtype.kind == "f" else kept
        return out.astype(kept, copy=False).reshape((*self.shape, *array.shape[n:]))


Step = Permute | Flip | Crop | Pad | Resample
_STEPS: dict[str, type[Step]] = {
    "permute": Permute,
    "flip": Flip,
    "crop": Crop,
    "pad": Pad,
    "resample": Resample,
}
EXACT_STEPS = (Permute, Flip, Crop, Pad)


@dataclass(frozen=True)
class Trace:
    """How a grid was prepared: where it started and the steps since, enough to take a result back.

    Args:
        source: The grid of the image as it was read.
        steps: What was done to it, in order.
        lossy_intensity: Why intensities cannot be taken back ("clipped to −1000…400 HU"), or None.

    Example:
        >>> t = Trace(Geometry.from_spacing((4, 6, 8), (1, 2, 3)), (Crop((1, 1, 1), (2, 4, 6)), Flip((0,))))
        >>> t.target.shape, t.back(t.forward(np.arange(192).reshape(4, 6, 8)))[1, 1, 1]
        ((2, 4, 6), np.int64(57))
    """

    source: Geometry
    steps: tuple[Step, ...] = ()
    lossy_intensity: str | None = None

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """The grid before the first step, and after each."""
        grids = [self.source]
        for step in self.steps:
            grids.append(step.apply(grids[-1]))
        return tuple(grids)

    @property
    def target(self) -> Geometry:
        """The prepared grid."""
        return self.geometries[-1]

    @property
    def exact(self) -> bool:
        """Whether no step resamples."""
        return all(isinstance(s, EXACT_STEPS) for s in self.steps)

    @property
    def index_matrix(self) -> Floats:
        """(ndim+1, ndim+1): index coordinates of the source to those of the target."""
        matrix = np.eye(self.source.ndim + 1)
        for step, before in zip(self.steps, self.geometries, strict=False):
            matrix = step.index_matrix(before) @ matrix
        return matrix

    def then(self, *steps: Step) -> Trace:
        """The trace with further steps."""
        return replace(self, steps=self.steps + steps)

    def forward(self, array: NDArray[Any], *, fill: float = 0, order: int = 1) -> NDArray[Any]:
        """An array on the source grid, moved to the target grid."""
        for step, before in zip(self.steps, self.geometries, strict=False):
            array = step.on_array(array, before, fill=fill, order=order)
        return array

    def back(self, array: NDArray[Any], *, fill: float = 0, order: int = 0) -> NDArray[Any]:
        """An array on the target grid, moved to the source grid; what was cropped away is ``fill``."""
        if array.shape[: self.source.ndim] != self.target.shape:
            raise GeometryError("the array is not on the prepared grid", got=array.shape, expected=self.target.shape)
        grids = self.geometries
        for number in range(len(self.steps) - 1, -1, -1):
            inverse = self.steps[number].inverse(grids[number])
            array = inverse.on_array(array, grids[number + 1], fill=fill, order=order)
        return array

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "source": self.source.as_json(),
            "steps": [
                {"step": type(s).__name__.lower(), **{k: [int(n) for n in v] for k, v in s.__dict__.items()}}
                for s in self.steps
            ],
            "lossy_intensity": self.lossy_intensity,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trace:
        """The inverse of ``as_json``."""
        try:
            steps = [
                _STEPS[row["step"]](**{k: tuple(int(n) for n in v) for k, v in row.items() if k != "step"})
                for row in data["steps"]
            ]
            source = Geometry.from_json(data["source"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GeometryError("a stored trace cannot be understood", got=repr(data)[:200]) from error
        return cls(source, tuple(steps), data.get("lossy_intensity"))


def angle_between_deg(first: ArrayLike, second: ArrayLike) -> float:
    """Angle between two direction vectors, in degrees."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not (math.isfinite(lengths) and lengths > 0):
        raise GeometryError("a vector without length has no direction", got=(a.tolist(), b.tolist()))
    cosine = float(a @ b / lengths)
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
