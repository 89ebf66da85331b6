"""How far apart two surfaces are, in millimetres, on any grid: oblique, anisotropic, sheared.

The surface of a mask is the centres of its voxels that share a face with a voxel outside it; what lies outside the grid
is outside. Distances run from each of these centres to the nearest one of the other mask, both ways. Other tools
measure other things (surface elements between voxels, both directions pooled before the percentile): their numbers
differ from these by up to a voxel where masks are alike, and by more where only one of them strays.

Sources: Maier-Hein et al., Nat. Methods 21:195–212 (2024); Taha and Hanbury, BMC Med. Imaging 15:29 (2015); Nikolov et
al., J. Med. Internet Res. 23:e26151 (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.errors import GeometryError, UsageError
from medmap.geometry import Geometry

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

TOLERANCE_ROUNDING_MM = 1e-6  # a distance of exactly the tolerance is within it, also after rounding
_SLAB_VOXELS = 2_000_000
# Wide leaves and plain middle cuts: surfaces are evenly spread, and far queries open a third of the nodes.
_LEAF = 32


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From every surface voxel of one mask to the nearest of the other, both ways; neither mask is empty.

    Args:
        truth_to_prediction_mm: (surface voxels of the truth,) ≥ 0.
        prediction_to_truth_mm: (surface voxels of the prediction,) ≥ 0.
    """

    truth_to_prediction_mm: Floats
    prediction_to_truth_mm: Floats

    @property
    def hd95_mm(self) -> float:
        """The larger of the two directed 95th percentiles, linearly interpolated between ranks.

        Source: Huttenlocher et al., IEEE Trans. Pattern Anal. Mach. Intell. 15:850–863 (1993), with the percentile in
        place of the maximum.
        """
        both = (self.truth_to_prediction_mm, self.prediction_to_truth_mm)
        return max(float(np.percentile(distances, 95)) for distances in both)

    @property
    def hausdorff_mm(self) -> float:
        """The largest distance of all: one stray voxel decides it."""
        return max(float(self.truth_to_prediction_mm.max()), float(self.prediction_to_truth_mm.max()))

    @property
    def assd_mm(self) -> float:
        """Average symmetric surface distance: the mean over the surface voxels of both masks together."""
        total = float(self.truth_to_prediction_mm.sum() + self.prediction_to_truth_mm.sum())
        return total / (len(self.truth_to_prediction_mm) + len(self.prediction_to_truth_mm))

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice: which share of both surfaces' voxels lies within the tolerance of the other.

        Args:
            tolerance_mm: > 0: what two good observers differ by.

        Raises:
            UsageError: A tolerance that is not positive.

        Source: Nikolov et al. (2021); surface voxels are counted, where they weigh surface elements by area.
        """
        limit = checked_tolerance(tolerance_mm) + TOLERANCE_ROUNDING_MM
        near = np.count_nonzero(self.truth_to_prediction_mm <= limit)
        near += np.count_nonzero(self.prediction_to_truth_mm <= limit)
        return float(near) / (len(self.truth_to_prediction_mm) + len(self.prediction_to_truth_mm))


def checked_tolerance(tolerance_mm: float) -> float:
    """The tolerance, when it is a positive finite number.

    Raises:
        UsageError: It is not.
    """
    if not (np.isfinite(tolerance_mm) and tolerance_mm > 0):
        raise UsageError("a tolerance is a positive number of millimetres", got=tolerance_mm)
    return float(tolerance_mm)


def surface_distances(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], geometry: Geometry, workers: int = 1
) -> SurfaceDistances:
    """The distances between the surfaces of two masks on one grid.

    Args:
        truth: (*shape) bool, not empty.
        prediction: (*shape) bool, not empty.
        geometry: The grid; two or three axes, oblique or sheared.
        workers: Threads that search.

    Raises:
        GeometryError: A shape that differs from the grid's, or a grid without millimetres.
        UsageError: An empty mask, which has no surface.

    Example:
        >>> truth, prediction = np.zeros((2, 9, 9), bool)
        >>> truth[2:5, 2:5] = prediction[2:5, 4:7] = True
        >>> found = surface_distances(truth, prediction, Geometry.from_spacing((9, 9), (1.0, 0.5)))
        >>> found.hd95_mm, found.nsd(0.5)
        (1.0, 0.625)
    """
    geometry.require_size("a distance between surfaces")
    for mask in (truth, prediction):
        if mask.shape != geometry.shape:
            raise GeometryError("the mask does not fit its grid", got=mask.shape, expected=geometry.shape)
        if not mask.any():
            raise UsageError("an empty mask has no surface", remedy="use mask_scores, which says what counts then")
    first, second = (surface_voxels(mask.astype(np.uint8))[0] for mask in (truth, prediction))
    return distances_between(first, second, geometry.shape, metric_of(geometry), workers)


def metric_of(geometry: Geometry, order: Sequence[int] | None = None) -> Floats:
    """(axes, axes) matrix L: ``index @ L`` are coordinates in which straight distances are millimetres.

    Distances need no more of a grid than the scalar products of its axes; L is their Cholesky factor. Where axes are at
    right angles it is the diagonal of spacings.

    Args:
        geometry: A grid with millimetres.
        order: Its axes in another order; their own when absent.
    """
    axes = geometry.affine_lps_mm[:3, list(range(geometry.ndim) if order is None else order)]
    return np.asarray(np.linalg.cholesky(axes.T @ axes), dtype=np.float64)


def surface_voxels(labels: NDArray[np.unsignedinteger]) -> tuple[Indices, NDArray[np.unsignedinteger]]:
    """All surface voxels of a label map, of every label in one pass.

    Args:
        labels: 0 is the background.

    Returns:
        (n,) flat indices in C order, ascending; (n,) the label of each.
    """
    rows = max(1, _SLAB_VOXELS // max(1, labels[0].size))
    found, values = [], []
    for start in range(0, len(labels), rows):
        slab = labels[start : start + rows]
        edge = _edges(slab, labels[start - 1 : start], labels[start + rows : start + rows + 1])
        flat = np.flatnonzero(edge)
        found.append(flat + start * labels[0].size)
        values.append(slab.reshape(-1)[flat])
    return np.concatenate(found), np.concatenate(values)


def _edges(slab: NDArray[np.generic], before: NDArray[np.generic], after: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Labelled voxels with another label, or the grid's end, across a face; ``before`` and ``after`` are the
    neighbouring rows (or none).
    """
    edge = np.zeros(slab.shape, dtype=np.bool_)
    edge[0] = slab[0] != before[0] if len(before) else True
    edge[-1] |= slab[-1] != after[0] if len(after) else True
    everything = (slice(None),) * slab.ndim
    for axis in range(slab.ndim):
        low = (*everything[:axis], slice(None, -1))
        high = (*everything[:axis], slice(1, None))
        change = slab[low] != slab[high]
        edge[low] |= change
        edge[high] |= change
        if axis:  # the grid's ends; those of axis 0 may be a neighbouring slab
            edge[(*everything[:axis], slice(None, None, max(1, slab.shape[axis] - 1)))] = True
    edge &= slab != 0
    return edge


def distances_between(
    truth: Indices, prediction: Indices, shape: Sequence[int], metric: Floats, workers: int = 1
) -> SurfaceDistances:
    """The distances between two sets of voxels, both ways.

    Voxels in both sets are 0 mm apart and are not looked for; the others ask a k-d tree, which is exact on every grid.

    Args:
        truth: (n,) flat indices, ascending, n > 0.
        prediction: (m,) likewise.
        shape: The grid's.
        metric: As ``metric_of`` gives it.
        workers: Threads that search.
    """
    there, back = (
        _nearest(truth, prediction, shape, metric, workers),
        _nearest(prediction, truth, shape, metric, workers),
    )
    return SurfaceDistances(there, back)


def _nearest(asking: Indices, asked: Indices, shape: Sequence[int], metric: Floats, workers: int) -> Floats:
    from scipy.spatial import cKDTree

    place = np.minimum(np.searchsorted(asked, asking), len(asked) - 1)
    apart = np.flatnonzero(asked[place] != asking)
    distances = np.zeros(len(asking))
    if len(apart):
        tree = cKDTree(_points(asked, shape, metric), leafsize=_LEAF, balanced_tree=False, compact_nodes=False)
        distances[apart] = tree.query(_points(asking[apart], shape, metric), workers=workers)[0]
    return distances


def _points(flat: Indices, shape: Sequence[int], metric: Floats) -> Floats:
    index = np.stack(np.unravel_index(flat, tuple(shape)), axis=1)
    return np.asarray(index @ metric)
