"""How much memory windows over an image will take, known before the first one runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from medmap.errors import LimitError, UsageError
from medmap.runtime.machine import available_cores
from medmap.runtime.ring import PLANES_A_TASK, Ring
from medmap.runtime.windows import Box, Windows

# What numba and its compiler hold while they compile, as measured; two thirds of it where compiled files are found.
COMPILER_BYTES = 208 * 2**20
_SINGLE = 4
_GIB = 2**30


class Measured(Protocol):
    """A sink that knows what it will hold."""

    def bytes_needed(self, classes: int, plane: int, planes: int) -> int:
        """Bytes for ``planes`` planes of ``plane`` voxels at a time."""
        ...


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will take.

    Args:
        windows: The windows to run with; their batch may be smaller than what was asked for.
        axis: The axis they will go along.
        parts: Bytes by what they are for.
    """

    windows: Windows
    axis: int
    parts: Mapping[str, int]

    @property
    def bytes_needed(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        largest = sorted(self.parts.items(), key=lambda part: -part[1])[:3]
        return f"{_gib(self.bytes_needed)} ({', '.join(f'{name} {_gib(size)}' for name, size in largest)})"


def plan_memory(
    windows: Windows,
    image_shape: Sequence[int],
    classes: int,
    sink: Measured,
    *,
    inside: Box | None = None,
    held_bytes: int = 0,
    limit_bytes: int | None = None,
) -> MemoryPlan:
    """What ``slide`` will take with this sink; within a limit, or refused at once.

    Args:
        windows: As for ``slide``; their batch is the most that is asked for.
        image_shape: (channels, *spatial) of the image, float32.
        classes: Classes the network has scores for.
        sink: What will take the scores.
        inside: As for ``slide``.
        held_bytes: What the process holds already, without the image, and what the network takes for one batch of
            itself (measured, or from its engine).
        limit_bytes: The most the process may take. A batch that does not fit is made smaller.

    Raises:
        LimitError: It does not fit even with one window at a time; the message says what it needs.
        UsageError: Windows or a box that do not fit the image, fewer classes than one.

    Example:
        >>> from medmap.geometry import Geometry, Resample, Trace
        >>> from medmap.runtime import LabelSink
        >>> way = Trace(Geometry.without_size((400, 512, 512)), (Resample((267, 267, 267)),))
        >>> plan = plan_memory(Windows((128, 128, 128)), (1, 267, 267, 267), 60, LabelSink(way, threads=2))
        >>> print(plan)
        3.5 GiB (sums 2.1 GiB, scores of a batch 0.5 GiB, scores of air 0.5 GiB)
    """
    if classes < 1:
        raise UsageError("scores need at least one class", got=classes)
    if len(image_shape) != len(windows.patch) + 1:
        raise UsageError(
            "the window has another number of axes than the image", got=windows.patch, expected=image_shape
        )
    region = windows.region(image_shape[1:], inside)
    axis = windows.along([stop - start for start, stop in region])
    for batch in range(windows.batch, 0, -1):
        fewer = replace(windows, batch=batch)
        parts = _parts(fewer, image_shape, classes, region, axis)
        plane = math.prod(stop - start for a, (start, stop) in enumerate(region) if a != axis)
        parts |= {"answer": sink.bytes_needed(classes, plane, windows.patch[axis]), "held already": held_bytes}
        plan = MemoryPlan(fewer, axis, MappingProxyType(parts))
        if limit_bytes is None or plan.bytes_needed <= limit_bytes:
            return plan
    raise LimitError(
        "this image does not fit into the memory that was allowed",
        got=str(plan),
        expected=f"at most {_gib(limit_bytes or 0)}",
        remedy=f"allow {_gib(plan.bytes_needed)}, or take windows that are smaller along axis {axis}",
    )


def _parts(windows: Windows, image_shape: Sequence[int], classes: int, region: Box, axis: int) -> dict[str, int]:
    patch = math.prod(windows.patch)
    shape = [stop - start for start, stop in region]
    scores = classes * patch * _SINGLE
    in_order = available_cores() * scores * windows.batch * PLANES_A_TASK // windows.patch[axis] if axis else 0
    return {
        "image": math.prod(image_shape) * _SINGLE,
        # twice: the windows, and their mirrored copy
        "windows": windows.batch * image_shape[0] * patch * _SINGLE * (2 if windows.mirror else 1),
        # mirrored: the sum, and the scores of one more view
        "scores of a batch": windows.batch * scores * (2 if windows.mirror else 1),
        "scores of air": scores,
        "scores in order": min(in_order, scores * windows.batch),
        "sums": Ring.bytes_needed(axis, shape, windows.patch, classes),
        "weights": 2 * patch * _SINGLE,
        "compiler": COMPILER_BYTES,
    }


def _gib(size: int) -> str:
    """At least what is meant: rounded up to a tenth."""
    return f"{math.ceil(size / _GIB * 10) / 10:.1f} GiB"
