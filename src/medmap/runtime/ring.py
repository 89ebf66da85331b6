"""The sums of overlapping windows, for as many planes as a window has: the memory of ``slide``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import NotFiniteError
from medmap.runtime.threads import side_by_side

Floats = NDArray[np.float32]
Part = tuple[int, int, int]
"""Along one axis: first voxel in the image, first in the window, and how many."""

# Planes that are added at a time: as many values as a line of the processor's cache has.
PLANES_A_TASK = 16


class Ring:
    """Weighted sums of windows in planes along one axis; plane z is in slot z modulo the number of slots.

    Args:
        axis: The axis of the planes.
        shape: The image's, or the part of it that is covered.
        weights: (*patch) float32.
        classes: Scores at each voxel.
        threads: For all that is done here.
    """

    def __init__(self, axis: int, shape: Sequence[int], weights: Floats, classes: int, threads: int) -> None:
        self.axis, self.threads, self.dimensions = axis, threads, len(shape)
        self.patch = weights.shape[axis]
        self._kernel = np.ascontiguousarray(self._in_order(weights))
        across = [n for a, n in enumerate(shape) if a != axis]
        across = across if self.dimensions == 3 else [1, *across]
        depth = min(self.patch, shape[axis])
        self._sums = np.zeros((depth, classes, *across), np.float32)
        self._weight = np.zeros((depth, *across), np.float32)

    @staticmethod
    def bytes_needed(axis: int, shape: Sequence[int], patch: Sequence[int], classes: int) -> int:
        """What a ring of these arguments holds."""
        plane = math.prod(n for a, n in enumerate(shape) if a != axis)
        return 4 * (min(patch[axis], shape[axis]) * plane * (classes + 1) + math.prod(patch))

    def _in_order(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view with the last axes as they are here: the streaming axis, then two others (in 2-D one of size 1)."""
        lead = array.ndim - self.dimensions
        others = (a for a in range(self.dimensions) if a != self.axis)
        moved = array.transpose((*range(lead), lead + self.axis, *(lead + a for a in others)))
        return moved if self.dimensions == 3 else np.expand_dims(moved, lead + 1)

    def add(self, scores: Floats, parts: Sequence[Sequence[Part]]) -> None:
        """Add windows.

        Args:
            scores: (count, classes, *patch), contiguous.
            parts: For each window and each axis, where it lies.
        """
        from medmap.runtime.kernels import add_windows, compiled, turn

        order = [self.axis, *(a for a in range(self.dimensions) if a != self.axis)]
        places = np.array([[window[a] for a in order] for window in parts], np.int64)
        if self.dimensions == 2:
            places = np.insert(places, 1, (0, 0, 1), axis=1)
        add, turned, windows = compiled(add_windows), compiled(turn), self._in_order(scores)

        def some(first: int) -> None:
            last, held, base = min(first + PLANES_A_TASK, self.patch), windows, 0
            if self.axis:  # in memory the windows' axes stand in another order
                held = np.empty((*windows.shape[:2], last - first, *windows.shape[3:]), np.float32)
                turned(windows[:, :, first:last], held)
                base = first
            add(self._sums, self._weight, held, self._kernel, places, np.array((first, last, base)))

        side_by_side(some, range(0, self.patch, PLANES_A_TASK), self.threads)

    def take(self, start: int, stop: int) -> Iterator[tuple[int, Floats]]:
        """The means of planes that are finished, in one piece or two: (first plane, (classes, *spatial) scores).

        Their memory is empty and used again when the next piece is asked for.

        Raises:
            NotFiniteError: A sum that is NaN or infinite.
        """
        depth = len(self._sums)
        while start < stop:
            slot = start % depth
            count = min(stop - start, depth - slot)
            sums, weight = self._sums[slot : slot + count], self._weight[slot : slot + count]
            self._divide(sums, weight, start)
            yield start, self._slab(sums)
            sums[...], weight[...] = 0, 0
            start += count

    def _divide(self, sums: Floats, weight: Floats, start: int) -> None:
        from medmap.runtime.kernels import compiled, divide

        divided, finite = compiled(divide), np.empty(len(sums), bool)

        def one(z: int) -> None:
            divided(sums[z : z + 1], weight[z : z + 1], finite[z : z + 1])

        side_by_side(one, range(len(sums)), self.threads)
        if not finite.all():
            at = start + int(np.argmin(finite))
            raise NotFiniteError(
                "the network's scores are not finite", got=f"NaN or infinity in plane {at} of what is covered"
            )

    def _slab(self, planes: Floats) -> Floats:
        """(planes, classes, A, B) as (classes, *spatial): a view that nobody writes to."""
        planes = planes if self.dimensions == 3 else planes[:, :, 0]
        slab = np.moveaxis(planes, 0, 1 + self.axis)
        slab.setflags(write=False)
        return slab
