"""Called boxes as DICOM objects know findings: numbered, tracked, as polygons and as filled regions.

What is below the operating point is kept for curves alone and reaches no object that a person reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Floats
from medmap.results import Boxes, Label, Mask
from medmap.write.dicom.slice import uid
from medmap.write.dicom.source import About


@dataclass(frozen=True)
class Finding:
    """One called box.

    Args:
        row: Which of the given boxes.
        label: Its class.
        name: Class and number among the called boxes: ``nodule 1``.
        tracking_uid: What it is known by in report and segmentation alike.
        score: 0…1.
    """

    row: int
    label: Label
    name: str
    tracking_uid: str
    score: float


def findings(boxes: Boxes, series_uid: str, about: About) -> list[Finding]:
    """The called boxes in their order.

    Args:
        boxes: All of them.
        series_uid: Series Instance UID of the source.
        about: The algorithm and its bundle.
    """
    found = []
    for number, row in enumerate(np.flatnonzero(boxes.called).tolist(), 1):
        label = boxes.labels[int(boxes.label_ids[row])]
        corners = boxes.corners[row].tolist()
        known = uid("finding", series_uid, about.algorithm, about.version, about.bundle, label.name, number, corners)
        found.append(Finding(row, label, f"{label.name[:56]} {number}", known, float(boxes.scores[row])))
    return found


def not_found(boxes: Boxes) -> list[Label]:
    """The classes that were looked for and of which no box is called."""
    there = set(boxes.label_ids[boxes.called].tolist())
    return [label for number, label in enumerate(boxes.labels) if number not in there]


def box_polygons(boxes: Boxes, which: int) -> list[Floats]:
    """A box as closed rectangles in LPS millimetres, one on each of its slices, along the outer edges of its voxels.

    The slices are those of the third axis, from the low corner to the high one; a box within one slice has one.
    """
    n = boxes.geometry.ndim
    low, high = boxes.corners[which, :n], boxes.corners[which, n:]
    (r0, c0), (r1, c1) = low[:2] - 0.5, high[:2] + 0.5
    rectangle = np.array([(r0, c0), (r0, c1), (r1, c1), (r1, c0), (r0, c0)])
    if n == 2:
        return [boxes.geometry.to_world(rectangle)]
    between = [float(k) for k in range(int(np.floor(low[2])) + 1, int(np.ceil(high[2])))]
    heights = dict.fromkeys((float(low[2]), *between, float(high[2])))
    return [boxes.geometry.to_world(np.insert(rectangle, 2, height, axis=1)) for height in heights]


def box_regions(boxes: Boxes) -> Mask:
    """The called boxes as filled regions, a value or (where boxes overlap) a channel each, from 1 in their order.

    The grid is cut to the slices that a box reaches into. Without any called box each class has a value and no voxel.

    Args:
        boxes: All of them.
    """
    called = boxes.taken(boxes.called)
    shape, n = boxes.geometry.shape, boxes.geometry.ndim
    spans = np.stack([called.slices(axis) for axis in range(n)], axis=1)  # (boxes, axes, 2)
    spans = np.clip(spans, 0, np.array(shape)[None, :, None] - 1)
    start = [0] * n
    size = list(shape)
    if n == 3:  # of a volume in which nothing is called, the middle slice stands for it
        first, last = (spans[:, 2, 0].min(), spans[:, 2, 1].max()) if len(spans) else (shape[2] // 2, shape[2] // 2)
        start[2], size[2] = int(first), int(last - first) + 1
    geometry = boxes.geometry.crop(start, size) if n == 3 else boxes.geometry
    where = [tuple(slice(a - o, b - o + 1) for (a, b), o in zip(one, start, strict=True)) for one in spans.tolist()]
    if not where:
        labels = dict(enumerate(boxes.labels, 1))
        return Mask(np.zeros(tuple(size), np.uint8), geometry, labels, boxes.calibrated)
    labels = {number: called.labels[i] for number, i in enumerate(called.label_ids.tolist(), 1)}
    return Mask(_filled(tuple(size), where), geometry, labels, boxes.calibrated)


def _filled(shape: tuple[int, ...], where: list[tuple[slice, ...]]) -> NDArray[Any]:
    """Numbers while no two boxes share a voxel: a whole CT a finding would be much memory; else a channel each."""
    numbered: NDArray[Any] = np.zeros(shape, np.uint8 if len(where) < 256 else np.uint16)
    for number, place in enumerate(where, 1):
        if numbered[place].any():
            break
        numbered[place] = number
    else:
        return numbered
    channels = np.zeros((*shape, len(where)), np.bool_)
    for number, place in enumerate(where):
        channels[..., number][place] = True
    return channels
