"""Prepared examples of a bundle's inputs: what engines are compared on, and 8-bit scales are set on."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.bundle import Bundle
from medmap.bundle.boxes import task_of as boxes_of
from medmap.dataset import Dataset, Truth
from medmap.errors import DatasetError
from medmap.feed import build_box_store, build_patch_store
from medmap.predict.accept import images_of
from medmap.predict.masks import task_of
from medmap.prepare import Recipe

STORE_BYTES = 2**31


def examples(bundle: Bundle, dataset: Dataset, count: int) -> tuple[NDArray[np.float32], Any]:
    """(count, channels, spatial …) inputs as the network sees them, and their truth where that is masks or boxes.

    Args:
        bundle: Says how images are prepared; of members with recipes of their own, the first.
        dataset: Cases in the bundle's terms; patches around structures and boxes are drawn, so truths help.
        count: At most so many cases.

    Raises:
        DatasetError: No case has an image, or an input of the bundle is not in the dataset.
        DataError: No case can be read.
    """
    recipe = Recipe.from_json(bundle.spec.members[0].recipe)
    if bundle.spec.task in ("segment", "detect"):
        return _patches(bundle, dataset, recipe, count)
    cases = [case for case in dataset if any(case.inputs.values())]
    if not cases:
        raise DatasetError(f"no case of {dataset.name} has an image")
    images = [next(iter(images_of(bundle, dataset, case).values())) for case in cases[:count]]
    return np.stack([recipe.apply(image).tensors["image"] for image in images]), None


def _patches(bundle: Bundle, dataset: Dataset, recipe: Recipe, count: int) -> tuple[NDArray[np.float32], Any]:
    boxes = bundle.spec.task == "detect"
    labelled = [case for case in dataset if (case.truth.boxes if boxes else case.truth.masks)]
    task: Any = boxes_of(bundle) if boxes else task_of(bundle, recipe.section.shape)
    same = _names(dataset) == [label.name for label in bundle.labels]
    same &= boxes or dict(dataset.regions) == dict(task.regions)
    chosen = labelled[:count] if labelled and same else list(dataset)[:count]
    if not chosen:
        raise DatasetError(f"no case of {dataset.name} has an image")
    known = bool(labelled) and same
    cases = chosen if known else [replace(case, truth=Truth()) for case in chosen]
    with tempfile.TemporaryDirectory(prefix="medmap-examples-") as folder:
        some = dataset.with_cases(cases)
        if len(bundle.spec.inputs) > 1:  # the channels in the bundle's order
            if missing := [name for name in bundle.spec.inputs if name not in dataset.inputs]:
                raise DatasetError(f"{dataset.name} lacks an input of the bundle", got=f"no {missing[0]}")
            some = replace(some, inputs={name: dataset.inputs[name] for name in bundle.spec.inputs})
        build = build_box_store if boxes else build_patch_store
        store = build(some, recipe, memory_bytes=STORE_BYTES, folder=Path(folder))
        images, truths = task.examples(store, range(len(store)), seed=0)
    return images, truths if known else None


def _names(dataset: Dataset) -> list[str]:
    """Of what is learned: the regions, where there are any, else the classes."""
    return list(dataset.regions) or list(dataset.label_names)
