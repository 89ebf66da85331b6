"""What becomes of the scores that windows hand over: labels, regions, certainty, or the scores themselves.

``LabelSink`` and ``RegionSink`` interpolate class scores to the source grid and decide in the same loop, slab by slab:
the result is that of ``Trace.back`` on the scores followed by argmax (or a threshold), and the scores of all classes
never stand in memory at the source's resolution. Several resamplings in one trace are interpolated once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, UsageError
from medmap.geometry import Trace
from medmap.runtime.cells import Cells, cells_of
from medmap.runtime.machine import available_cores
from medmap.runtime.threads import side_by_side
from medmap.runtime.windows import Floats, Place, Sink

Labels = NDArray[Any]
Cell = tuple[int, int, int, int]
Measure = Literal["entropy", "region_entropy", "confidence"]


class _Export:
    """Planes of scores come in along one axis, voxels of the source between two of them go out.

    What differs between sinks is one plane's preparation (``_ready``) and what is done between two (``_between``).
    """

    def __init__(self, trace: Trace, threads: int | None = None) -> None:
        self.trace, self.threads = trace, threads or available_cores()
        self._cells: tuple[Cells, ...] = ()  # the streaming axis first; in 2-D a single cell stands for the missing one
        self._place: Place | None = None
        self._next = 0
        self._kept: tuple[NDArray[Any], ...] = ()
        self._waiting: list[Cell] = []

    def add(self, slab: Floats, where: Place) -> None:
        """Take a slab of scores; everything that lies below its last plane is decided.

        Args:
            slab: (classes, *spatial) float32.
            where: Its place; slabs follow each other without a gap.

        Raises:
            DataError: A slab that does not follow the last one, or does not fit the network's grid.
        """
        planes = self._streamed(slab, where)
        if self._place is None:
            self._begin(planes.shape[1], where)
        self._require_next(slab, where)
        ready = self._ready(planes)
        first = where.start - where.region[where.axis][0]
        due = [cell for cell in self._waiting if cell[1] < first + len(planes)]
        self._waiting = self._waiting[len(due) :]

        def plane(at: int) -> tuple[NDArray[Any], ...]:
            return self._kept if at < first else tuple(part[at - first] for part in ready)

        side_by_side(lambda cell: self._between(plane(cell[0]), plane(cell[1]), cell[2:]), due, self.threads)
        self._kept = tuple(part[-1].copy() for part in ready)
        self._next = where.stop

    def _streamed(self, slab: Floats, where: Place) -> Floats:
        """(planes, classes, A, B), contiguous; a view where the slab lies in memory as ``slide`` keeps it."""
        planes = np.moveaxis(slab, 1 + where.axis, 0)
        return np.ascontiguousarray(planes if planes.ndim == 4 else planes[:, :, None])

    def _begin(self, classes: int, where: Place) -> None:
        target = self.trace.target.shape
        if len(where.region) != len(target) or any(
            not 0 <= a < b <= n for (a, b), n in zip(where.region, target, strict=True)
        ):
            raise DataError("the scores do not lie on the prepared grid", got=where.region, expected=target)
        cells = cells_of(self.trace, where.region)
        others = [cells[a] for a in range(len(cells)) if a != where.axis]
        stream = cells[where.axis]
        self._cells = (stream, *([_ONE_CELL] if len(others) == 1 else []), *others)
        self._waiting = list(
            zip(*(v.tolist() for v in (stream.low, stream.high, stream.start, stream.stop)), strict=True)
        )
        self._place, self._next = where, where.start
        if where.start != where.region[where.axis][0]:
            raise DataError("the first slab is missing", got=where.start, expected=where.region[where.axis][0])
        self._allocate(classes)

    def _require_next(self, slab: Floats, where: Place) -> None:
        place = self._place
        shape = tuple(s.stop - s.start for s in where.slices)
        known = place is not None and (place.axis, place.region) == (where.axis, where.region)
        if not known or where.start != self._next or slab.shape[1:] != shape:
            raise DataError(
                "a slab of scores does not follow the last one",
                got=f"{slab.shape} from {where.start}",
                expected=self._next,
            )

    def _require_all(self) -> None:
        if self._place is None or self._next != self._place.region[self._place.axis][1]:
            raise DataError("slabs of scores are missing at the end", got=f"up to {self._next}")

    def _empty(self, dtype: Any, lead: tuple[int, ...] = ()) -> tuple[NDArray[Any], NDArray[Any]]:
        """Zeros on the source grid, and a view of the part with scores in the order of the stream.

        In memory the streaming axis is the slowest, so that a finished slab lies together.
        """
        order = [cells.source_axis for cells in self._cells if cells is not _ONE_CELL]
        source = self.trace.source.shape
        out = np.zeros((*lead, *(source[axis] for axis in order)), dtype)
        views = tuple(cells.view for cells in self._cells if cells is not _ONE_CELL)
        view = out[(*(slice(None) for _ in lead), *views)]
        if len(order) == 2:
            view = np.expand_dims(view, len(lead) + 1)
        back = [order.index(axis) for axis in range(len(order))]
        return out.transpose((*range(len(lead)), *(len(lead) + axis for axis in back))), view

    @property
    def _across(self) -> tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
        return self._cells[1].for_kernel, self._cells[2].for_kernel

    def _allocate(self, classes: int) -> None:
        raise NotImplementedError

    def _ready(self, planes: Floats) -> tuple[NDArray[Any], ...]:
        return (planes,)

    def _between(self, low: tuple[NDArray[Any], ...], high: tuple[NDArray[Any], ...], voxels: Sequence[int]) -> None:
        raise NotImplementedError


_ZERO, _ONE = np.zeros(1, np.int64), np.ones(1, np.int64)
_ONE_CELL = Cells(-1, slice(None), _ZERO, _ZERO, _ZERO, _ONE, np.zeros(1))


class LabelSink(_Export):
    """The label of the class with the largest score at each voxel of the source; of equal ones the first.

    Args:
        trace: How the source became the network's grid.
        values: The label of each class; None: 0, 1, 2 … What has no score (cropped away) gets 0.
        threads: None: as many as cores may be used.
    """

    def __init__(self, trace: Trace, values: Sequence[int] | None = None, threads: int | None = None) -> None:
        super().__init__(trace, threads)
        self._given = values

    def finish(self) -> Labels:
        """Labels on the source grid: uint8, or uint16 where a label is above 255."""
        self._require_all()
        return self._out

    def bytes_needed(self, classes: int, plane: int, planes: int) -> int:
        """Memory for an image with ``plane`` voxels in a plane, of which ``planes`` come at a time."""
        kept, best = classes * plane * 4, (planes + 1) * plane * 2
        return kept + best + math.prod(self.trace.source.shape) * _label_type(self._values(classes)).itemsize

    def _values(self, classes: int) -> NDArray[np.int64]:
        values = np.arange(classes) if self._given is None else np.asarray(self._given, np.int64)
        if len(values) != classes or values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
            raise UsageError(
                "each class needs a label of 0 to 65,535", got=f"{len(values)} labels", expected=f"{classes} labels"
            )
        return values

    def _allocate(self, classes: int) -> None:
        values = self._values(classes)
        self._table = values.astype(_label_type(values))
        self._out, self._view = self._empty(self._table.dtype)

    def _ready(self, planes: Floats) -> tuple[NDArray[Any], ...]:
        from medmap.runtime.kernels import best_class, compiled

        best = np.empty((len(planes), *planes.shape[2:]), np.uint16)
        choose = compiled(best_class)
        side_by_side(lambda z: choose(planes[z : z + 1], best[z : z + 1]), range(len(planes)), self.threads)
        return planes, best

    def _between(self, low: tuple[NDArray[Any], ...], high: tuple[NDArray[Any], ...], voxels: Sequence[int]) -> None:
        from medmap.runtime.kernels import compiled, fill_common, fill_contested

        some = slice(*voxels)
        labels, out, part, axes = (low[1], high[1]), self._view[some], self._cells[0].part[some], self._across
        common = np.empty([len(axis[0]) for axis in axes], np.int32)
        compiled(fill_common)(labels, out, self._table, common, axes)
        if common.min() < 0:
            compiled(fill_contested)((low[0], high[0]), labels, out, self._table, common, part, axes)


def _label_type(values: NDArray[np.int64]) -> np.dtype[Any]:
    return np.dtype(np.uint8 if values.max() <= np.iinfo(np.uint8).max else np.uint16)


class RegionSink(_Export):
    """For each region by itself, whether it covers a voxel of the source: regions may overlap.

    Args:
        trace: How the source became the network's grid.
        limits: The score above which a voxel belongs to the region, for each region or for all; 0 is a probability of
            0.5 where the scores are logits.
        threads: None: as many as cores may be used.
    """

    def __init__(self, trace: Trace, limits: float | Sequence[float] = 0.0, threads: int | None = None) -> None:
        super().__init__(trace, threads)
        self._given = limits

    def finish(self) -> NDArray[np.bool_]:
        """(*source, regions) bool."""
        self._require_all()
        return np.moveaxis(self._out, 0, -1)

    def bytes_needed(self, classes: int, plane: int, planes: int) -> int:
        """Memory for an image with ``plane`` voxels in a plane, of which ``planes`` come at a time."""
        return classes * (plane * 4 + math.prod(self.trace.source.shape))

    def _allocate(self, classes: int) -> None:
        limits = np.asarray(self._given, np.float32)
        if limits.shape not in ((), (classes,)) or np.isnan(limits).any():
            raise UsageError("each region needs a limit", got=limits.tolist(), expected=f"one, or {classes}")
        self._limits = np.array(np.broadcast_to(limits, (classes,)))
        self._out, self._view = self._empty(np.bool_, (classes,))

    def _between(self, low: tuple[NDArray[Any], ...], high: tuple[NDArray[Any], ...], voxels: Sequence[int]) -> None:
        from medmap.runtime.kernels import compiled, fill_regions

        some = slice(*voxels)
        part, axes = self._cells[0].part[some], self._across
        compiled(fill_regions)((low[0], high[0]), self._view[:, some], self._limits, part, axes)


class CertaintySink(_Export):
    """How sure the scores are at each voxel of the source, from their softmax on the network's grid.

    Args:
        trace: How the source became the network's grid.
        measure: ``entropy`` in parts of the largest possible one (0 sure, 1 all classes alike); ``region_entropy``,
            the largest of the regions' own, each by the logistic function of its score (1 at a probability of 0.5);
            or ``confidence``, the largest probability.
        threads: None: as many as cores may be used.
    """

    def __init__(self, trace: Trace, measure: Measure = "entropy", threads: int | None = None) -> None:
        super().__init__(trace, threads)
        if measure not in _MEASURES:
            raise UsageError("an unknown measure of certainty", got=measure, expected=", ".join(_MEASURES))
        self._measure = _MEASURES[measure]

    def finish(self) -> Floats:
        """(*source) float32; 0 where there are no scores."""
        self._require_all()
        return self._out

    def bytes_needed(self, classes: int, plane: int, planes: int) -> int:
        """Memory for an image with ``plane`` voxels in a plane, of which ``planes`` come at a time."""
        work = 3 * self.threads * classes * plane * 4
        return work + (planes + 1) * plane * 4 + math.prod(self.trace.source.shape) * 4

    def _allocate(self, classes: int) -> None:
        self._out, self._view = self._empty(np.float32)

    def _ready(self, planes: Floats) -> tuple[NDArray[Any], ...]:
        out = np.empty((len(planes), *planes.shape[2:]), np.float32)

        def one(z: int) -> None:
            out[z] = self._measure(planes[z])

        side_by_side(one, range(len(planes)), self.threads)
        return (out,)

    def _between(self, low: tuple[NDArray[Any], ...], high: tuple[NDArray[Any], ...], voxels: Sequence[int]) -> None:
        from medmap.runtime.kernels import compiled, interpolate

        some = slice(*voxels)
        compiled(interpolate)((low[0], high[0]), self._view[some], self._cells[0].part[some], self._across)


def _entropy(scores: Floats) -> Floats:
    """Shannon's entropy of the softmax over the first axis, by log(classes)."""
    if len(scores) == 1:
        return np.zeros(scores.shape[1:], np.float32)
    shifted = scores - scores.max(0)
    odds = np.exp(shifted)
    total = odds.sum(0)
    odds *= shifted
    return np.asarray((np.log(total) - odds.sum(0) / total) / math.log(len(scores)), np.float32)


def _region_entropy(scores: Floats) -> Floats:
    """The largest binary entropy over the first axis, in bits."""
    far = np.abs(scores).min(0)  # entropy falls with the distance from a score of 0
    odds = np.exp(-far)
    return np.asarray((np.log1p(odds) + far * odds / (1 + odds)) / math.log(2), np.float32)


def _confidence(scores: Floats) -> Floats:
    return np.asarray(1 / np.exp(scores - scores.max(0)).sum(0), np.float32)


_MEASURES: dict[str, Callable[[Floats], Floats]] = {
    "entropy": _entropy,
    "region_entropy": _region_entropy,
    "confidence": _confidence,
}


class ScoreSink:
    """The scores themselves, on the network's grid: all of them in memory, for who needs them.

    Args:
        shape: The network's grid.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(int(n) for n in shape)
        self._out: Floats | None = None

    def add(self, slab: Floats, where: Place) -> None:
        """Keep a slab."""
        if self._out is None:
            self._out = np.zeros((len(slab), *self.shape), np.float32)
        self._out[(slice(None), *where.slices)] = slab

    def finish(self) -> Floats:
        """(classes, *grid) float32; zeros outside the region that was predicted."""
        if self._out is None:
            raise DataError("no slab of scores came")
        return self._out

    def bytes_needed(self, classes: int, plane: int, planes: int) -> int:
        """Memory for the scores."""
        return classes * math.prod(self.shape) * 4


class Several:
    """One pass for several sinks: labels and certainty, say.

    Args:
        sinks: By name.
    """

    def __init__(self, **sinks: Sink[Any]) -> None:
        self.sinks = sinks

    def add(self, slab: Floats, where: Place) -> None:
        """Hand the slab to each."""
        for sink in self.sinks.values():
            sink.add(slab, where)

    def finish(self) -> dict[str, Any]:
        """Each answer by name."""
        return {name: sink.finish() for name, sink in self.sinks.items()}

    def bytes_needed(self, classes: int, plane: int, planes: int) -> int:
        """Memory for all; of a sink that does not say, nothing."""
        return sum(s.bytes_needed(classes, plane, planes) for s in self.sinks.values() if hasattr(s, "bytes_needed"))
