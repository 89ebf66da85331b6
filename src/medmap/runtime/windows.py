"""Sliding windows that stream: a patch network over a volume of any length, in memory that its length does not change.

Windows go along one axis. What no later window can touch is divided by its weights and handed to a sink at once, and
its memory is used again; so the weighted sums stand in memory for as many planes as a window has, and not for the
volume. A sink makes of the scores what is wanted of them (``medmap.runtime.sinks``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, UsageError
from medmap.runtime.machine import available_cores
from medmap.runtime.ring import Part, Ring

Floats = NDArray[np.float32]
Network = Callable[[Floats], Floats]
Box = tuple[tuple[int, int], ...]
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)

# Isensee et al., Nature Methods 2021: the deviation of the weights is an eighth of the patch.
SIGMA_OF_PATCH = 1 / 8
# No voxel of a window counts for nothing: single precision would make of far corners a division by almost zero.
SMALLEST_WEIGHT = 1e-3


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
        axis: The axis to go along; None: the first, or another one that needs at most half as much memory.

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
        # The sums stand for a window's planes along it, and for the whole image along the others. Along the first axis
        # windows lie in memory as they are added; another one costs a copy and is worth it only for much less memory.
        needs = [min(p, n) / n for p, n in zip(self.patch, shape, strict=True)]
        return needs.index(min(needs)) if min(needs) <= needs[0] / 2 else 0

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


def occupied(there: NDArray[np.bool_], axes: int) -> Box | None:
    """(first, after last) along each of the first ``axes`` axes of what is True; None where nothing is.

    Example:
        >>> occupied(np.eye(5, dtype=bool)[1:3], 2)
        ((0, 2), (1, 3))
    """
    spans = [np.flatnonzero(there.any(tuple(a for a in range(there.ndim) if a != axis))) for axis in range(axes)]
    return tuple((int(span[0]), int(span[-1]) + 1) for span in spans) if len(spans[0]) else None


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
    return sink.finish()


@dataclass
class _Run:
    """The state of one call of ``slide``: a ring of planes, and the scores of a constant window."""

    network: Network
    image: Floats
    windows: Windows
    axis: int
    region: Box
    threads: int
    ring: Ring | None = None
    classes: int = 0
    constant: dict[bytes, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shape = tuple(stop - start for start, stop in self.region)
        self.starts = self.windows.starts(self.shape)
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

    def _overlap(self, axis: int, first: int) -> Part:
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
        if self.ring is None and classes:
            self.classes = classes
            self.ring = Ring(self.axis, self.shape, self.windows.weights(), classes, self.threads)
        if not classes or out.shape != (len(batch), self.classes, *self.windows.patch):
            wanted = f"({len(batch)}, classes, {', '.join(map(str, self.windows.patch))})"
            raise DataError("the network does not answer each window with scores on it", got=out.shape, expected=wanted)
        return out

    def _add(self, scores: Floats, corners: list[tuple[int, ...]]) -> None:
        if self.ring is not None:
            parts = [[self._overlap(axis, first) for axis, first in enumerate(corner)] for corner in corners]
            self.ring.add(np.ascontiguousarray(scores), parts)

    def finished(self, here: int, following: int) -> Iterator[tuple[Floats, Place]]:
        """Slabs that no later window touches, divided by their weights."""
        if self.ring is None:
            return
        begin = self.region[self.axis][0]
        for first, slab in self.ring.take(here, following):
            planes = slab.shape[1 + self.axis]
            yield slab, Place(self.axis, begin + first, begin + first + planes, self.region)


def _is_constant(window: Floats) -> bool:
    """Whether each channel has one value; a few voxels usually tell that it has not."""
    flat = window.reshape(len(window), -1)
    first = flat[:, :1]
    return bool((flat[:, :: max(flat.shape[1] // 64, 1)] == first).all()) and bool((flat == first).all())
