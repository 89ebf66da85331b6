"""A short trial on this machine: how long the real training step takes, and which precision is fastest."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medmap import augment
from medmap.dataset import Dataset
from medmap.errors import DataError
from medmap.fit import FitSection, batch_to, start, step
from medmap.plan.run import Run
from medmap.tasks import Batch, Task, task_module

if TYPE_CHECKING:
    import torch

STEPS = 3
# Slower steps than this are not tried again: one look is enough to know that they are slow.
PATIENCE_S = 8.0
# Feature maps of the first stage that a backward pass keeps, about.
KEPT_MAPS = 12
# Another way must win by this much over plain float32 to be worth its rounding.
WORTHWHILE = 0.9
OF_ANY_WIDTH = ("small_resnet", "unet", "residual_unet", "fcos", "retinanet", "faster_rcnn")


@dataclass(frozen=True)
class Measured:
    """What the trial found.

    Args:
        precision, channels_last: The fastest way.
        step_s: Seconds of a step that way, making the batch included.
        float32_s: Seconds of a plain float32 step.
        batch_s: Seconds of augmenting one batch (part of ``step_s``).
    """

    precision: str
    channels_last: bool
    step_s: float
    float32_s: float
    batch_s: float

    @property
    def reason(self) -> str:
        """In words."""
        plain = (self.float32_s - self.batch_s) * 1000
        if self.precision == "float32":
            return f"measured here: float32 takes {plain:.0f} ms a step and nothing else is clearly faster"
        way = f"{self.precision}{' with channels last' if self.channels_last else ''}"
        return f"measured here: {way} takes {(self.step_s - self.batch_s) * 1000:.0f} ms a step, float32 {plain:.0f} ms"


def phantom_batch(task: Task, run: Run, size: int) -> Batch:
    """Noise shaped like the real thing, with the task's own kind of truth."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn((size, run.prepare.channels, *run.prepare.shape), generator=generator)
    return Batch(images, task.pretended(images), tuple(str(n) for n in range(size)))


def measure(task: Task, run: Run, device: torch.device) -> Measured:
    """Time the training step of a run's network, batch and size on a device, in float32 and in bfloat16."""
    _require_room(run)
    batch = phantom_batch(task, run, run.fit.batch_size)
    ndim = len(run.prepare.shape)
    begin = time.perf_counter()
    drawn = [augment.draw(run.augment, np.random.default_rng([0, i]), ndim) for i in range(run.fit.batch_size)]
    augment.apply(batch.images, drawn)
    batch_s = time.perf_counter() - begin
    ways = {
        way: _seconds(
            task, run, batch, device, run.fit.model_copy(update={"precision": way[0], "channels_last": way[1]})
        )
        for way in (("float32", False), ("bfloat16", False), ("bfloat16", True))
    }
    plain = ways["float32", False]
    best = min(ways, key=lambda way: ways[way])
    if ways[best] >= WORTHWHILE * plain:
        best = ("float32", False)
    return Measured(best[0], best[1], ways[best] + batch_s, plain + batch_s, batch_s)


def _require_room(run: Run) -> None:
    """Refuse, before anything is allocated, images of which not even two can be learned from in the memory allowed.

    Raises:
        DataError: The smallest step needs more than ``memory_bytes``.
    """
    voxels = math.prod(run.prepare.shape)
    first_stage = 32 * run.network.width if run.network.name in OF_ANY_WIDTH else 16
    need = int(2 * voxels * first_stage * 4 * KEPT_MAPS)
    if need > run.memory_bytes:
        raise DataError(
            "images of this size cannot be learned from in the memory allowed",
            got=f"prepare.shape {list(run.prepare.shape)}, about {need / 2**30:.1f} GiB for two images",
            expected=f"at most {run.memory_bytes / 2**30:.1f} GiB",
            remedy="a smaller prepare.shape, or more --memory",
        )


def _seconds(task: Task, run: Run, batch: Batch, device: torch.device, section: FitSection) -> float:
    import torch

    net = build(task, run, seed=0)
    state = start(net, section, device)
    net.train()
    here = batch_to(batch, device, section.lays_last(device.type))
    times: list[float] = []
    while len(times) <= STEPS and not (times and sum(times) > PATIENCE_S):
        begin = time.perf_counter()
        step(task, here, section, state, 10)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return float(min(times[1:] or times))  # the fastest: what else runs on the machine is not the network's doing


def network_options(run: Run) -> dict[str, Any]:
    """What the run says of its network but the name, as ``NetworkSpec`` takes it and a bundle keeps it."""
    options = {
        "dimensions": len(run.prepare.shape),
        "in_channels": run.prepare.channels,
        "input_shape": list(run.prepare.shape),
        "dropout": run.network.dropout,
        "width": run.network.width,
        "stem": run.network.stem,
    }
    if run.task.kind in ("segment", "detect"):
        strides = run.network.strides
        given = None if strides is None else [list(step) for step in strides]
        options |= {"strides": given, "norm": run.network.norm}
    if run.task.kind == "detect":
        anchors = [[list(sides) for sides in row] for row in run.network.anchors]
        options |= {"boxes": True, "finest": run.network.finest, "anchors": anchors}
    if run.task.kind == "segment":
        options |= {"dense": True}
        if run.network.slices:
            options |= {"slices": run.network.slices, "slice_axis": run.network.slice_axis}
    return options


def make_task(run: Run, dataset: Dataset) -> Any:
    """The task of a run for a dataset (give the training cases)."""
    network = {"name": run.network.name, **network_options(run)}
    return task_module(run.task.kind).make(run.task, dataset, run.prepare.shape, network)


def build(task: Task, run: Run, seed: int) -> torch.nn.Module:
    """The untrained network of a run."""
    return task.network(run.network.name, seed=seed, **network_options(run))
