"""Sliding windows that stream: a patch network over a volume of any length, in memory that its length does not change.

Windows go along one axis. What no later window can touch is divided by its weights and handed to a sink at once, and
its memory is used again; so the weighted sums stand in memory for as many planes as a window has, and not for the
volume. A sink makes of the scores what is wanted of them (``medmap.runtime.sinks``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, NotFiniteError, UsageError
from medmap.runtime.machine import available_cores

Floats = NDArray[np.float32]
Network = Callable[[Floats], Floats]
Box = tuple[tuple[int, int], ...]
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)

# Isensee et al., Nature Methods 2021: the deviation of the weights is an eighth of the patch.
SIGMA_OF_PATCH = 1 / 8
# No voxel of a window counts for nothing: single precision would make of far corners a division by almost zero.
SMALLEST_WEIGHT = 1e-3
# Planes of a window that one thread adds at a time: as many values as a line of the processor's cache has.
PLANES_A_TASK = 16


@dataclass(frozen=True)
class Place:
    """Where a slab of scores lies on the network's grid.

    Args:
        axis: The axis along which slabs follow each other.
        start, stop: First voxel along it, and the one after the last.
        region: (first, after last) along every axis of all that will come; the slab is as wide along the others.
    """

    axis: int
    start: int
    stop: int
    region: Box

    @property
    def slices(self) -> tuple[slice, ...]:
        """The slab's voxels, to index an array on the network's grid."""
        return tuple(
            slice(self.start, self.stop) if axis == self.axis else slice(*ends) for axis, ends in enumerate(self.region)
        )


class Sink(Protocol[Answer_co]):
    """What takes scores as they are finished and gives an answer at the end."""

    def add(self, slab: Floats, where: Place) -> None:
        """Take (classes, *spatial) scores, in order along ``where.axis``; the memory is not the sink's to keep."""
        ...

    def finish(self) -> Answer_co:
        """The answer, once all slabs have come."""
        ...


@dataclass(frozen=True)
class Windows:
    """How windows cover an image.

    Args:
        patch: Voxels of a window along each axis; two or three.
        overlap: Part of a window that the next one shares, 0 to below 1.
        batch: Windows that the network sees together, at most.
        mirror: Axes along which the image is also shown flipped; the mean over all combinations counts.
        fill: Value around an image that is smaller than a window.
        axis: The axis to go along; None: the one that needs the least memory, of equals the first.

    Raises:
        UsageError: A setting outside its range.

    Example:
        >>> Windows((4, 4)).starts((10, 3))
        ((0, 2, 4, 6), (0,))
    """

    patch: tuple[int, ...]
    overlap: float = 0.5
    batch: int = 1
    mirror: tuple[int, ...] = ()
    fill: float = 0.0
    axis: int | None = None

    def __post_init__(self) -> None:
        if len(self.patch) not in (2, 3) or min(self.patch) < 1:
            raise UsageError("a window has two or three axes of at least one voxel", got=self.patch)
        if not 0 <= self.overlap < 1:
            raise UsageError("windows overlap by a part of themselves", got=self.overlap, expected="0 to below 1")
        if self.batch < 1:
            raise UsageError("a batch holds at least one window", got=self.batch)
        named = self.mirror if self.axis is None else (*self.mirror, self.axis)
        if len(set(self.mirror)) != len(self.mirror) or any(a not in range(len(self.patch)) for a in named):
            raise UsageError("windows have no such axis", got=named, expected=f"0 to {len(self.patch) - 1}, once")

    def starts(self, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """First voxels of the windows along each axis: even steps, the last one flush with the end."""
        return tuple(self._starts(size, patch) for size, patch in zip(shape, self.patch, strict=True))

    def _starts(self, size: int, patch: int) -> tuple[int, ...]:
        if size <= patch:
            return (0,)
        step = max(int(patch * (1 - self.overlap)), 1)
        return (*range(0, size - patch, step), size - patch)

    def along(self, shape: Sequence[int]) -> int:
        """The axis that windows go along over an image of this shape."""
        if self.axis is not None:
            return self.axis
        # the sums stand for a window's planes along it, and for the whole image along the others
        depth = [min(p, n) / n for p, n in zip(self.patch, shape, strict=True)]
        return depth.index(min(depth))

    def region(self, shape: Sequence[int], inside: Box | None = None) -> Box:
        """The part of the image that is covered: all of it, or ``inside``, grown to a window where that is smaller.

        Raises:
            UsageError: A box that does not lie in the image.
        """
        if len(shape) != len(self.patch):
            raise UsageError("the window has another number of axes than the image", got=self.patch, expected=shape)
        if inside is None:
            return tuple((0, int(size)) for size in shape)
        if len(inside) != len(shape) or any(not 0 <= a < b <= n for (a, b), n in zip(inside, shape, strict=True)):
            raise UsageError("the box does not lie in the image", got=inside, expected=f"within {tuple(shape)}")
        return tuple(_grown(ends, patch, size) for ends, patch, size in zip(inside, self.patch, shape, strict=True))

    def weights(self) -> Floats:
        """(*patch) float32: a Gaussian around the centre of a window, sigma an eighth of it; at least 0.001.

        Source: Isensee et al., nnU-Net, Nature Methods 2021 (online methods, inference).
        """
        out = np.ones((), np.float64)
        for size in self.patch:
            from_centre = np.arange(size) - (size - 1) / 2
            out = np.multiply.outer(out, np.exp(-0.5 * (from_centre / (size * SIGMA_OF_PATCH)) ** 2))
        return np.asarray(np.maximum(out, SMALLEST_WEIGHT), np.float32)


def _grown(ends: tuple[int, int], patch: int, size: int) -> tuple[int, int]:
    missing = max(patch - (ends[1] - ends[0]), 0)
    first = min(max(ends[0] - missing // 2, 0), max(size - patch, 0))
    return (first, max(ends[1], min(first + patch, size))) if missing else ends


def slide(
    network: Network,
    image: Floats,
    windows: Windows,
    sink: Sink[Answer],
    *,
    inside: Box | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Answer:
    """Run a patch network over an image, and hand its scores to a sink as they are finished.

    Overlapping windows are averaged with Gaussian weights. Windows in which the image is constant (air, padding) are
    computed once. Windows of one batch start at the same plane.

    Args:
        network: (N, channels, *patch) float32 to (N, classes, *patch) float32: an ``Engine``, or any function.
        image: (channels, *spatial) float32.
        windows: How to cover it.
        sink: What takes the scores.
        inside: (first, after last) voxel along each axis of the only part that is looked at; scores come for this part
            alone. None: everything.
        threads: Threads for what is done here, beside the network's own; None: as many as cores may be used.
        progress: Called with windows done and windows in all.

    Returns:
        What the sink makes of the scores.

    Raises:
        UsageError: Windows or a box that do not fit the image.
        DataError: The network's answer has another shape than its windows.
        NotFiniteError: The network's answer holds NaN or infinity.

    Example:
        >>> class Mean:
        ...     def __init__(self): self.total = 0.0
        ...     def add(self, slab, where): self.total += float(slab.sum())
        ...     def finish(self): return self.total / 60
        >>> slide(lambda batch: batch, np.ones((1, 6, 10), np.float32), Windows((4, 4)), Mean())
        1.0
    """
    shape = image.shape[1:]
    region = windows.region(shape, inside)
    axis = windows.along([stop - start for start, stop in region])
    run = _Run(network, image, windows, axis, region, threads or available_cores())
    total, done = run.count, 0
    for here, following in run.rows():
        for count in run.row(here):
            done += count
            if progress is not None:
                progress(done, total)
        for slab, where in run.finished(here, following):
            sink.add(slab, where)
        run.forget(here, following)
    return sink.finish()


def side_by_side(work: Callable[[Any], Any], items: Iterable[Any], threads: int) -> None:
    """Call ``work`` for each item, ``threads`` of them at a time; what one raises is raised."""
    if threads == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


@dataclass
class _Run:
    """The state of one call of ``slide``: a ring of planes, and the constant windows seen so far."""

    network: Network
    image: Floats
    windows: Windows
    axis: int
    region: Box
    threads: int
    sums: Floats | None = None
    weight: Floats | None = None
    constant: dict[bytes, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.others = tuple(a for a in range(len(self.region)) if a != self.axis)
        self.shape = tuple(stop - start for start, stop in self.region)
        self.starts = self.windows.starts(self.shape)
        self.kernel = np.ascontiguousarray(self._streamed(self.windows.weights()))
        self.buffer: Floats = np.empty((self.windows.batch, self.image.shape[0], *self.windows.patch), np.float32)

    @property
    def count(self) -> int:
        return int(np.prod([len(starts) for starts in self.starts]))

    def rows(self) -> Iterator[tuple[int, int]]:
        """Starts along the axis, each with the first plane that the next one touches."""
        starts = self.starts[self.axis]
        yield from zip(starts, (*starts[1:], self.shape[self.axis]), strict=True)

    def row(self, here: int) -> Iterator[int]:
        """Run the windows that start at plane ``here``; yields how many were done."""
        waiting: list[tuple[int, ...]] = []
        choices = [(here,) if a == self.axis else starts for a, starts in enumerate(self.starts)]
        for corner in itertools.product(*choices):
            window = self.buffer[len(waiting)]
            self._cut(corner, window)
            if _is_constant(window):
                self._add(self._constant_scores(window), [corner])
                yield 1
                continue
            waiting.append(corner)
            if len(waiting) == self.windows.batch:
                self._add(self._scores(self.buffer), waiting)
                yield len(waiting)
                waiting = []
        if waiting:
            self._add(self._scores(self.buffer[: len(waiting)]), waiting)
            yield len(waiting)

    def _cut(self, corner: tuple[int, ...], window: Floats) -> None:
        ends = [self._overlap(axis, first) for axis, first in enumerate(corner)]
        if any(count < patch for (_, _, count), patch in zip(ends, self.windows.patch, strict=True)):
            window[...] = self.windows.fill
        given = tuple(
            slice(first + begin, first + begin + count)
            for (first, _, count), (begin, _) in zip(ends, self.region, strict=True)
        )
        taken = tuple(slice(first, first + count) for _, first, count in ends)
        window[(slice(None), *taken)] = self.image[(slice(None), *given)]

    def _overlap(self, axis: int, first: int) -> tuple[int, int, int]:
        """First voxel in the region, first in the window, and how many: an image smaller than a window is centred."""
        missing = max(self.windows.patch[axis] - self.shape[axis], 0)
        return first, missing // 2, self.windows.patch[axis] - missing

    def _constant_scores(self, window: Floats) -> Floats:
        key = window.reshape(len(window), -1)[:, 0].tobytes()
        if key not in self.constant:
            self.constant.clear()  # one is enough: air is air everywhere
            self.constant[key] = self._scores(window[None]).copy()
        return self.constant[key]

    def _scores(self, batch: Floats) -> Floats:
        out = self._asked(batch)
        flips = [
            c for n in range(1, len(self.windows.mirror) + 1) for c in itertools.combinations(self.windows.mirror, n)
        ]
        if flips:
            out = np.array(out)
            for axes in flips:
                turned = tuple(axis + 2 for axis in axes)
                out += np.flip(self._asked(np.ascontiguousarray(np.flip(batch, turned))), turned)
            out /= len(flips) + 1
        return out

    def _asked(self, batch: Floats) -> Floats:
        out = np.asarray(self.network(batch), dtype=np.float32)
        classes = out.shape[1] if out.ndim == batch.ndim else 0
        expected = (len(batch), self.sums.shape[1] if self.sums is not None else classes, *self.windows.patch)
        if not classes or out.shape != expected:
            wanted = f"({len(batch)}, classes, {', '.join(map(str, self.windows.patch))})"
            raise DataError("the network does not answer each window with scores on it", got=out.shape, expected=wanted)
        return out

    def _streamed(self, array: NDArray[Any]) -> NDArray[Any]:
        """The last axes in the order of the ring: the streaming axis, then two others (in 2-D one of size 1)."""
        lead = array.ndim - len(self.region)
        moved = array.transpose((*range(lead), lead + self.axis, *(lead + a for a in self.others)))
        return moved if len(self.region) == 3 else np.expand_dims(moved, lead + 1)

    def _add(self, scores: Floats, corners: list[tuple[int, ...]]) -> None:
        from medmap.runtime.kernels import add_windows, compiled, turn

        depth = min(self.windows.patch[self.axis], self.shape[self.axis])
        if self.sums is None or self.weight is None:
            across = [self.shape[a] for a in self.others]
            across = across if len(across) == 2 else [1, *across]
            self.sums = np.zeros((depth, scores.shape[1], *across), np.float32)
            self.weight = np.zeros((depth, *across), np.float32)
        places = np.array([[self._overlap(a, c[a]) for a in (self.axis, *self.others)] for c in corners], np.int64)
        if places.shape[1] == 2:
            places = np.insert(places, 1, (0, 0, 1), axis=1)
        add, turned = compiled(add_windows), compiled(turn)
        sums, weight, windows = self.sums, self.weight, self._streamed(scores)
        patch = self.windows.patch[self.axis]

        def some(first: int) -> None:
            last = min(first + PLANES_A_TASK, patch)
            if self.axis == 0:
                add(sums, weight, windows, self.kernel, places, np.array((first, last, 0)))
                return
            part = np.empty((*windows.shape[:2], last - first, *windows.shape[3:]), np.float32)
            turned(windows[:, :, first:last], part)
            add(sums, weight, part, self.kernel, places, np.array((first, last, first)))

        side_by_side(some, range(0, patch, PLANES_A_TASK), self.threads)

    def _pieces(self, here: int, following: int) -> Iterator[tuple[int, slice]]:
        """The finished planes as runs of slots: (first plane, slots)."""
        if self.sums is None:
            return
        depth, plane = len(self.sums), here
        while plane < following:
            slot = plane % depth
            count = min(following - plane, depth - slot)
            yield plane, slice(slot, slot + count)
            plane += count

    def finished(self, here: int, following: int) -> Iterator[tuple[Floats, Place]]:
        """Slabs that no later window touches, divided by their weights."""
        from medmap.runtime.kernels import compiled, divide

        begin, divided = self.region[self.axis][0], compiled(divide)
        for plane, slots in self._pieces(here, following):
            if self.sums is None or self.weight is None:
                return
            sums, weight = self.sums[slots], self.weight[slots]
            finite = np.empty(len(sums), bool)

            def one(z: int, sums: Floats = sums, weight: Floats = weight, finite: NDArray[Any] = finite) -> None:
                divided(sums[z : z + 1], weight[z : z + 1], finite[z : z + 1])

            side_by_side(one, range(len(sums)), self.threads)
            if not finite.all():
                at = begin + plane + int(np.argmin(finite))
                raise NotFiniteError("the network's scores are not finite", got=f"NaN or infinity in plane {at}")
            yield self._slab(sums), Place(self.axis, begin + plane, begin + plane + len(sums), self.region)

    def _slab(self, planes: Floats) -> Floats:
        """(planes, classes, A, B) as (classes, *spatial), a view."""
        slab = (
            np.moveaxis(planes, 0, 1 + self.axis)
            if len(self.region) == 3
            else np.moveaxis(planes[:, :, 0], 0, 1 + self.axis)
        )
        slab = slab.view()
        slab.setflags(write=False)
        return slab

    def forget(self, here: int, following: int) -> None:
        """Make the slots of finished planes ready for others."""
        for _, slots in self._pieces(here, following):
            if self.sums is not None and self.weight is not None:
                self.sums[slots], self.weight[slots] = 0, 0


def _is_constant(window: Floats) -> bool:
    """Whether each channel has one value; a few voxels usually tell that it has not."""
    flat = window.reshape(len(window), -1)
    first = flat[:, :1]
    return bool((flat[:, :: max(flat.shape[1] // 64, 1)] == first).all()) and bool((flat == first).all())
