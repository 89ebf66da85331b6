"""Boxes from masks: each connected part of a label is one object, and its box is what a detector learns."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, Dataset, Truth
from medmap.errors import DatasetError, MedmapError, QualityWarning, UsageError, counted
from medmap.layouts.boxes import Corners
from medmap.layouts.door import open_dataset
from medmap.layouts.placing import Placing
from medmap.results import Label

_AT_ONCE = 2
BACKGROUND = 0

Part = tuple[int, Corners, int]  # value, corners, voxels


def component_boxes(mask: NDArray[Any]) -> list[Part]:
    """The parts of each label: its value, the corners of its box and its voxels; in the order of values, then of index.

    Voxels that touch by a face, an edge or a corner belong together, as when lesions are counted.

    Args:
        mask: (*shape) whole numbers, 0 for the background; two or three axes.

    Example:
        >>> component_boxes(np.array([[1, 0, 2], [0, 1, 0], [0, 0, 0], [0, 0, 2]]))
        [(1, (0.0, 0.0, 1.0, 1.0), 2), (2, (0.0, 2.0, 0.0, 2.0), 1), (2, (3.0, 2.0, 3.0, 2.0), 1)]
    """
    from scipy import ndimage

    found: list[Part] = []
    whole = np.asarray(mask)
    around = ndimage.find_objects(whole.astype(np.int32))
    for value, window in enumerate(around, 1):
        if window is None:
            continue
        parts, count = ndimage.label(whole[window] == value, np.ones((3,) * whole.ndim))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        for number, inner in enumerate(ndimage.find_objects(parts), 1):
            low = [w.start + s.start for w, s in zip(window, inner, strict=True)]
            high = [w.start + s.stop - 1 for w, s in zip(window, inner, strict=True)]
            found.append((value, (*map(float, low), *map(float, high)), int(sizes[number])))
    return found


def boxes_from_masks(dataset: Dataset, *, min_voxels: int = 1) -> Dataset:
    """A segmentation as a detection: a box around each connected part of each label; reads every mask.

    A case without a mask stays one that nobody has looked at; one whose mask is empty was looked at and nothing was
    found. Parts of the ignore value become boxes that are neither found nor missed. Of several observers the first
    counts. Overlapping regions are left out: their labels are the classes.

    Args:
        dataset: With masks.
        min_voxels: Smaller parts are specks and left out; a warning counts them.

    Raises:
        UsageError: A number below one.
        DatasetError: No masks, values that name no class, masks that do not lie on their image.
        ReadError: A mask that cannot be read.
    """
    if min_voxels < 1:
        raise UsageError("a part has at least one voxel", got=min_voxels)
    if not any(case.truth.masks for case in dataset):
        raise DatasetError(f"{dataset.name} has no masks to take boxes from")
    placing = Placing(dataset, Path(), link=False)  # only for its way to lay a mask on its image

    def parts(case: Case) -> list[Part]:
        if not case.truth.masks:
            return []
        return component_boxes(placing.label_map(case, case.truth.masks[0]).channels_first()[0])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(parts, dataset))
    labels = _classes(dataset, found)
    cases = tuple(
        replace(case, truth=_truth(dataset, case, rows, len(labels), min_voxels))
        for case, rows in zip(dataset, found, strict=True)
    )
    _say_what_is_lost(dataset, found, min_voxels)
    names = {label.name for label in labels}
    return replace(
        dataset,
        task="detect",
        cases=cases,
        labels=labels,
        kind="multiclass",
        positive=None,
        regions={},
        ignore=None,
        mirror_pairs=tuple(pair for pair in dataset.mirror_pairs if set(pair) <= names),
        hashes={},
    )


def open_for_boxes(source: str | Path, *, layout: str = "auto", min_voxels: int = 1) -> Dataset:
    """A dataset opened for detection, whatever its truth: boxes as they stand, or boxes around the parts of masks.

    Raises:
        MedmapError: As ``open_dataset`` for detection, where the truth is neither boxes nor masks.
    """
    try:
        dataset = open_dataset(source, layout=layout, task="detect")
    except DatasetError as error:
        try:
            dataset = open_dataset(source, layout=layout, task="segment")
        except MedmapError:
            raise error from None
    masks = any(case.truth.masks for case in dataset)
    if masks and not any(case.truth.boxes is not None for case in dataset):
        return boxes_from_masks(dataset, min_voxels=min_voxels)
    return dataset


def _classes(dataset: Dataset, found: list[list[Part]]) -> tuple[Label, ...]:
    """The labels but the background; where masks have no names, a name for each value up to the largest."""
    if dataset.labels:
        return dataset.labels[1:]
    values = {value for rows in found for value, _, _ in rows} - {dataset.ignore}
    return tuple(Label(f"label_{value}") for value in range(1, max(values, default=1) + 1))


def _truth(dataset: Dataset, case: Case, rows: list[Part], count: int, min_voxels: int) -> Truth:
    if not case.truth.masks:
        return Truth()
    boxes, ignored = [], []
    for value, corners, voxels in rows:
        if value == dataset.ignore:
            ignored += [(corners, label) for label in range(count)]
        elif value > count:
            raise DatasetError(
                "a mask holds a value that names no class", got=value, expected=f"1 to {count}", case=case.id,
                remedy="name it in dataset.yaml; medmap check lists such values",
            )  # fmt: skip
        elif voxels >= min_voxels:
            boxes.append((corners, value - 1))
    known = case.truth.known
    looked_at = None if known is None else tuple(value - 1 for value in known if value != BACKGROUND)
    if looked_at == ():
        return Truth()
    return Truth(True, boxes=tuple(boxes), known=looked_at, ignored=tuple(ignored))


def _say_what_is_lost(dataset: Dataset, found: list[list[Part]], min_voxels: int) -> None:
    small = sum(v < min_voxels and value != dataset.ignore for rows in found for value, _, v in rows)
    several = sum(len(case.truth.masks) > 1 for case in dataset)
    told = []
    if small:
        told.append(f"{counted(small, 'part')} of fewer than {min_voxels} voxels became no box")
    if several:
        told.append(f"{counted(several, 'case')} with several observers: the first one's mask counts")
    if dataset.regions:
        told.append("overlapping regions are left out; their labels are the classes")
    if told:
        warnings.warn(f"{dataset.name}: {'; '.join(told)}", QualityWarning, stacklevel=3)
