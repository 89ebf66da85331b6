"""A Decathlon folder written: one NIfTI a case, several channels as its fourth axis."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from medmap.dataset import Case, Dataset
from medmap.errors import DatasetError
from medmap.image import Image
from medmap.layouts.datalist import DATASET_JSON
from medmap.layouts.kept import KEPT_TABLE, kept_block, kept_table
from medmap.layouts.placing import Placing, safe_name
from medmap.layouts.to_nnunet import partial_notes

ENDING = ".nii.gz"
_WORDS = {"MR": "MRI", "PT": "PET"}


def write_msd(dataset: Dataset, placing: Placing) -> list[str]:
    """Place a dataset as a Decathlon folder.

    Raises:
        DatasetError: A missing input, or inputs on different grids: a 4-D file holds neither.
        GeometryError: Pictures without millimetres, which a NIfTI file cannot be.
    """
    rows: dict[str, list[Any]] = {"training": [], "test": []}
    for case in dataset:
        name = f"{safe_name(case.id, case.id)}{ENDING}"
        test = case.split == "test" or not case.truth.masks
        part = "Ts" if test else "Tr"
        _place_image(dataset, case, placing, f"images{part}/{name}")
        image, label = f"./images{part}/{name}", f"./labels{part}/{name}"
        if case.truth.masks:
            placing.mask(case, case.truth.masks[0], label.removeprefix("./"), ENDING)
            rows["test" if test else "training"].append({"image": image, "label": label})
        else:
            rows["test"].append(image)
    placing.text(DATASET_JSON, json.dumps(_described(dataset, placing, rows), indent=1, ensure_ascii=False) + "\n")
    placing.text(KEPT_TABLE, kept_table(dataset))
    notes = partial_notes(dataset)
    if any(case.split == "val" for case in dataset):
        notes.append("validation cases stand among the training cases; the split is kept in medmap.csv")
    if dataset.regions or dataset.ignore is not None:
        notes.append("regions and the ignore label are kept in the medmap block alone")
    return notes


def _place_image(dataset: Dataset, case: Case, placing: Placing, target: str) -> None:
    refs = [case.inputs.get(name) for name in dataset.inputs]
    present = [ref for ref in refs if ref is not None]
    if len(present) < len(refs):
        raise DatasetError(
            "a Decathlon file cannot lack a channel",
            remedy="export to nnunet or bids, or leave the case out",
            case=case.id,
        )
    if len(present) == 1 and placing.fits(present[0], ENDING):
        placing.same(present[0], target)
        return
    images = [placing.read(ref) for ref in present]
    placing.image(_joined(images, list(dataset.inputs), case.id), target)


def _joined(images: list[Image], names: list[str], case: str) -> Image:
    """Several inputs as channels of one image."""
    if len(images) == 1:
        return images[0]
    first = images[0]
    for image, name in zip(images, names, strict=True):
        if image.time_s is not None or len(image.channels) > 1:
            raise DatasetError("an input of several channels cannot be one channel of a file", got=name, case=case)
        if not image.geometry.same_grid(first.geometry):
            raise DatasetError(
                "inputs on different grids cannot share a file", got=name, remedy="resample them first", case=case
            )
    array = np.stack([image.array for image in images], axis=-1)
    return replace(first, array=array, channels=tuple(names))


def _described(dataset: Dataset, placing: Placing, rows: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        "name": dataset.name,
        **({"reference": dataset.source} if dataset.source else {}),
        **({"licence": dataset.licence} if dataset.licence else {}),
        "tensorImageSize": "4D" if len(_channels(dataset, placing)) > 1 else "3D",
        "modality": {str(i): name for i, name in enumerate(_channels(dataset, placing))},
        "labels": {str(i): label.name for i, label in enumerate(dataset.labels)},
        "numTraining": len(rows["training"]),
        "numTest": len(rows["test"]),
        **rows,
        "medmap": kept_block(dataset),
    }


def _channels(dataset: Dataset, placing: Placing) -> list[str]:
    if len(dataset.inputs) > 1:
        return list(dataset.inputs)
    ((name, spec),) = dataset.inputs.items()
    if spec.channels:
        return list(spec.channels)
    ref = next(r for case in dataset if (r := case.inputs.get(name)) is not None)
    found = placing.channels(ref)
    return list(found) if len(found) > 1 else [_WORDS.get(spec.modality or "", spec.modality) or name]
