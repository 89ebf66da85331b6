"""nnU-Net raw data written: one file a channel, consecutive labels, regions, the ignore label, splits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from medmap.dataset import Case, Dataset, Ref
from medmap.errors import DatasetError
from medmap.layouts.kept import KEPT_TABLE, kept_block, kept_table
from medmap.layouts.nnunet import DATASET_JSON, FOLD, IGNORE, SPLITS_JSON
from medmap.layouts.placing import Placing, common_ending, safe_name, with_channels

ENDINGS = (".nii.gz", ".nrrd", ".mha", ".png", ".tif")
_WORDS = {"MR": "MRI", "PT": "PET"}
_FOLDER = re.compile(r"Dataset\d{3}_.+")
_COLOURS = ("red", "green", "blue")


def write_nnunet(dataset: Dataset, placing: Placing) -> list[str]:
    """Place a dataset as nnU-Net raw data.

    Raises:
        DatasetError: Identifiers that are no file names, inputs with a changing number of channels.
    """
    ending = common_ending(dataset, ENDINGS)
    widths = _widths(dataset, placing)
    together = ending == ".png" and list(widths.values()) == [list(_COLOURS)]
    notes: list[str] = []
    split_up = {name: () if together or len(names) < 2 else tuple(names) for name, names in widths.items()}
    for case in dataset:
        name = safe_name(case.id, case.id)
        test = _is_test(case)
        _place_inputs(case, placing, f"images{'Ts' if test else 'Tr'}/{name}", ending, split_up)
        if case.truth.masks:
            _place_mask(dataset, case, placing, f"labels{'Ts' if test else 'Tr'}/{name}{ending}", ending)
    placing.text(DATASET_JSON, json.dumps(_described(dataset, widths, ending), indent=1, ensure_ascii=False) + "\n")
    splits = _splits(dataset)
    if splits:
        placing.text(SPLITS_JSON, json.dumps(splits, indent=1) + "\n")
    placing.text(KEPT_TABLE, kept_table(dataset))
    return notes + _unsaid(dataset)


def handed_over(folder: Path) -> str | None:
    """What nnU-Net asks of a folder's name, where it has another one.

    Example:
        >>> handed_over(Path("Dataset012_Liver")), handed_over(Path("liver"))[:48]
        (None, 'nnU-Net itself finds a dataset by its folder: na')
    """
    if _FOLDER.fullmatch(folder.resolve().name):
        return None
    return (
        "nnU-Net itself finds a dataset by its folder: name it Dataset001_Name (three digits of your own, then a name) "
        "and put it into nnUNet_raw"
    )


def _is_test(case: Case) -> bool:
    """Test cases, and cases that nobody has annotated: training data without labels stop nnU-Net."""
    return case.split == "test" or not case.truth.masks


def _widths(dataset: Dataset, placing: Placing) -> dict[str, list[str]]:
    """Channel names of each input, from its first file's header."""
    found: dict[str, list[str]] = {}
    for name, spec in dataset.inputs.items():
        ref = next((r for case in dataset if (r := case.inputs.get(name)) is not None), None)
        if ref is None:
            raise DatasetError("no case has this input", got=name, remedy="leave the input out")
        channels = placing.channels(ref, spec.channels)
        word = _WORDS.get(spec.modality or "", spec.modality) or name
        names = [word if len(dataset.inputs) == 1 and spec.modality else name]
        if len(channels) > 1:
            names = list(channels)
            names = names if len(dataset.inputs) == 1 else [f"{name}_{c}" for c in names]
        found[name] = names
    return found


def _place_inputs(case: Case, placing: Placing, stem: str, ending: str, split_up: dict[str, tuple[str, ...]]) -> None:
    at = 0
    for name, channels in split_up.items():
        ref = case.inputs.get(name)
        if channels:
            _place_channels(ref, channels, placing, f"{stem}_{{:04d}}{ending}", at)
            at += len(channels)
            continue
        if ref is not None:
            target = f"{stem}_{at:04d}{ending}"
            if placing.fits(ref, ending) and len(placing.channels(ref)) in (1, 3):
                placing.same(ref, target)
            else:
                placing.image(placing.read(ref), target)
        at += 1


def _place_channels(ref: Ref | None, names: tuple[str, ...], placing: Placing, target: str, at: int) -> None:
    if ref is None:
        return
    image = placing.read(ref)
    image = with_channels(image, names if image.time_s is not None else image.channels)
    if len(image.channels) != len(names):
        raise DatasetError("an input has another number of channels", got=len(image.channels), expected=len(names))
    for i, channel in enumerate(image.channels):
        placing.image(image.select([channel]), target.format(at + i))


def _place_mask(dataset: Dataset, case: Case, placing: Placing, target: str, ending: str) -> None:
    top, ref = len(dataset.labels), case.truth.masks[0]
    if dataset.ignore is None or dataset.ignore == top:
        placing.mask(case, ref, target, ending)
        return
    mask = placing.label_map(case, ref)
    array = mask.array.astype(np.uint16)
    strangers = set(np.unique(array).tolist()) - {*range(top), dataset.ignore}
    if strangers:
        raise DatasetError("a mask holds values of no class", got=min(strangers), expected=f"0 to {top - 1}")
    # the ignore label is the highest one in nnU-Net
    array = np.where(array == dataset.ignore, top, array).astype(np.uint8 if top < 256 else np.uint16)
    placing.image(mask.with_array(array, "labels renumbered"), target)


def _described(dataset: Dataset, widths: dict[str, list[str]], ending: str) -> dict[str, Any]:
    channels = [channel for names in widths.values() for channel in names]
    labels: dict[str, Any] = {"background": 0}
    order: dict[str, Any] = {}
    if dataset.regions:
        labels |= {n: list(v) if len(v) > 1 else v[0] for n, v in dataset.regions.items()}
        order = {"regions_class_order": [max(v) for v in dataset.regions.values()]}
    else:
        labels = {label.name: i for i, label in enumerate(dataset.labels)}
    if dataset.ignore is not None:
        labels[IGNORE] = len(dataset.labels)
    block = kept_block(dataset)
    if dataset.ignore is not None:
        block["ignore"] = len(dataset.labels)
    return {
        "name": dataset.name,
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": labels,
        **order,
        "numTraining": sum(not _is_test(case) for case in dataset),
        "file_ending": ending,
        **({"licence": dataset.licence} if dataset.licence else {}),
        **({"reference": dataset.source} if dataset.source else {}),
        "medmap": block,
    }


def _splits(dataset: Dataset) -> list[dict[str, list[str]]]:
    """Folds from the column ``fold``, else one from train and val."""
    learnt = [case for case in dataset if not _is_test(case)]
    numbers = sorted({v for case in learnt if (v := case.columns.get(FOLD)) is not None}, key=str)
    if numbers:
        return [
            {
                "train": [c.id for c in learnt if c.columns.get(FOLD) != n],
                "val": [c.id for c in learnt if c.columns.get(FOLD) == n],
            }
            for n in numbers
        ]
    val = [case.id for case in learnt if case.split == "val"]
    return [{"train": [c.id for c in learnt if c.split == "train"], "val": val}] if val else []


def _unsaid(dataset: Dataset) -> list[str]:
    notes = []
    missing = [case.id for case in dataset if any(case.inputs.get(name) is None for name in dataset.inputs)]
    if missing:
        notes.append(f"{len(missing)} cases lack a channel, which nnU-Net itself refuses, first {missing[0]}")
    return notes + partial_notes(dataset)


def partial_notes(dataset: Dataset) -> list[str]:
    """What every layout of masks leaves to medmap's own table: partial labels, observers, training without truth."""
    notes = []
    partial = [case.id for case in dataset if case.truth.known is not None]
    if partial:
        notes.append(
            f"{len(partial)} cases are annotated for some structures only; other programs will take the rest for"
            f" background, first {partial[0]}"
        )
    several = [case.id for case in dataset if len(case.truth.masks) > 1]
    if several:
        notes.append(f"{len(several)} cases have several observers; the first one's masks are kept")
    loose = [case.id for case in dataset if not case.truth.masks and case.split != "test"]
    if loose:
        notes.append(f"{len(loose)} cases without annotation stand among the test cases, first {loose[0]}")
    return notes
