"""nnU-Net raw data, version 2 and 1: opened, and the words of its ``dataset.json``.

::

    dataset.json       channel_names, labels (a list of values is a region; ignore), numTraining, file_ending
    imagesTr/          case_0000.nii.gz, case_0001.nii.gz: one file a channel; or one file for all (a colour PNG)
    labelsTr/          case.nii.gz
    imagesTs/ labelsTs/   the same for the test cases
    splits_final.json  folds, where it was put beside

(nnU-Net's documentation/dataset_format.md.)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from medmap.dataset import COLUMN_TYPES, Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import DatasetError, LayoutError, MedmapError, QualityWarning
from medmap.layouts.foreign import (
    Foreign,
    inside,
    json_object,
    modality_code,
    names_by_value,
    parsed,
    read_json,
    require_files,
    require_task,
)
from medmap.layouts.kept import with_kept_block, with_kept_table
from medmap.layouts.naming import natural_key
from medmap.results import Label

DATASET_JSON = "dataset.json"
SPLITS_JSON = "splits_final.json"
IGNORE = "ignore"
FOLD = "fold"
PARTS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))


class _Entry(Foreign):
    images: tuple[str, ...] = Field(min_length=1)
    label: str | None = None


class _Described(Foreign):
    channel_names: dict[int, str] | None = None
    modality: dict[int, str] | None = None  # version 1
    labels: dict[str, int | str | tuple[int, ...]] = Field(min_length=1)
    file_ending: str = Field(default=".nii.gz", pattern=r"^\.[A-Za-z0-9.]{1,20}$")
    numTraining: int | None = None  # noqa: N815  (its word)
    dataset: dict[str, _Entry] | None = None
    name: str | None = None
    licence: str | None = None
    license: str | None = None
    reference: str | None = None
    medmap: Any = None


class _Fold(Foreign):
    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    case: str
    files: Mapping[int, str]
    label: str | None
    split: str | None


def recognise_nnunet(path: Path) -> bool:
    """Whether ``path`` is a folder (or its ``dataset.json``) with channels as ``case_0000`` files."""
    folder = path if path.is_dir() else path.parent
    if (path.is_file() and path.name != DATASET_JSON) or not (folder / DATASET_JSON).is_file():
        return False
    try:
        said = json_object(folder / DATASET_JSON)
    except MedmapError:
        return False
    if "labels" not in said:
        return False
    if "channel_names" in said:
        return True
    if "modality" not in said or not (folder / "imagesTr").is_dir():
        return False
    ending = re.compile(r"_\d{4}\.[A-Za-z0-9.]+")
    names = [p.name for p in (folder / "imagesTr").iterdir() if not p.name.startswith(".")]
    return bool(names) and all(ending.search(name) for name in names) and not _listed_exist(said, folder)


def _listed_exist(said: Mapping[str, Any], folder: Path) -> bool:
    """Whether the images that version 1 lists exist under those names: then it is a Decathlon folder."""
    rows = said.get("training")
    first = rows[0].get("image") if isinstance(rows, list) and rows and isinstance(rows[0], dict) else None
    return isinstance(first, str) and "\0" not in first and (folder / first).is_file()


def open_nnunet(path: Path, task: TaskName | None = None) -> Dataset:
    """An nnU-Net raw folder as a dataset; reads names, no pixel.

    A channel that a case does not have is a missing input; a case without a label was not annotated. Folds of
    ``splits_final.json`` become the column ``fold`` (one fold alone: train and val).

    Raises:
        LayoutError: A ``dataset.json`` that cannot be understood.
        DatasetError: Labels without images, channels beyond those named, class numbers out of range.
    """
    require_task(task, "segment", "nnU-Net raw data")
    folder = path if path.is_dir() else path.parent
    where = str(folder / DATASET_JSON)
    said = parsed(_Described, json_object(folder / DATASET_JSON), where)
    channels = _channels(said, where)
    found = _listed(said, folder, where) if said.dataset else _seen(said, folder)
    if not found:
        raise LayoutError(f"{folder} holds no training images", expected=f"imagesTr/case_0000{said.file_ending}")
    if said.numTraining is not None and said.numTraining != sum(f.split == "train" for f in found):
        n = sum(f.split == "train" for f in found)
        warnings.warn(f"{where}: numTraining is {said.numTraining}, found were {n}", QualityWarning, stacklevel=3)
    together = len(channels) > 1 and all(set(f.files) == {0} for f in found)
    inputs = _inputs(channels, together)
    labels, regions, ignore = _labels(said.labels, where)
    with_test = any(f.split == "test" for f in found)
    cases = [_case(f, inputs, with_test, where) for f in found]
    dataset = Dataset(
        name=said.name or folder.resolve().name,
        task="segment",
        cases=tuple(cases),
        inputs=inputs,
        labels=labels,
        root=folder,
        regions=regions,
        ignore=ignore,
        licence=said.licence or said.license,
        source=said.reference,
        patients_known=False,
    )
    dataset = _with_folds(dataset, folder / SPLITS_JSON)
    return with_kept_table(with_kept_block(dataset, said.medmap, where), folder)


def _channels(said: _Described, where: str) -> tuple[str, ...]:
    names = said.channel_names or said.modality
    if not names:
        raise LayoutError(f"{where}: channel_names is missing", expected='{"0": "CT"}')
    if sorted(names) != list(range(len(names))):
        raise LayoutError(f"{where}: channels are not counted from 0 without gaps", got=sorted(names))
    return tuple(names[i] for i in range(len(names)))


def _inputs(channels: Sequence[str], together: bool) -> dict[str, InputSpec]:
    if together:
        return {"image": InputSpec(None, tuple(channels))}
    if len(channels) == 1:
        code = modality_code(channels[0])
        return {"image" if code else channels[0]: InputSpec(code)}
    twice = len(set(channels)) < len(channels)
    return {f"{c}_{i}" if twice else c: InputSpec(modality_code(c)) for i, c in enumerate(channels)}


def _seen(said: _Described, folder: Path) -> list[_Found]:
    found: list[_Found] = []
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(said.file_ending)}")
    for images, labels, split in PARTS:
        files: dict[str, dict[int, str]] = {}
        for name in _names(folder / images):
            match = pattern.fullmatch(name)
            if match:
                files.setdefault(match[1], {})[int(match[2])] = f"{images}/{name}"
        have = {n.removesuffix(said.file_ending) for n in _names(folder / labels) if n.endswith(said.file_ending)}
        strangers = sorted(have - files.keys(), key=natural_key)
        if strangers:
            raise DatasetError(
                f"{folder / labels} holds labels of cases that have no image", got=", ".join(strangers[:3])
            )
        for case in sorted(files, key=natural_key):
            label = f"{labels}/{case}{said.file_ending}" if case in have else None
            found.append(_Found(case, files[case], label, split))
    return found


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []


def _listed(said: _Described, folder: Path, where: str) -> list[_Found]:
    """Cases whose files ``dataset.json`` names itself (key ``dataset``)."""
    found = []
    for case, entry in (said.dataset or {}).items():
        files = {i: inside(text, where, absolute=True) for i, text in enumerate(entry.images)}
        label = inside(entry.label, where, absolute=True) if entry.label else None
        found.append(_Found(case, files, label, "train"))
    require_files(folder, [p for f in found for p in (*f.files.values(), *([f.label] if f.label else []))], where)
    listed = {f.case for f in found}
    return found + [f for f in _seen(said, folder) if f.split == "test" and f.case not in listed]


def _case(found: _Found, inputs: Mapping[str, InputSpec], with_test: bool, where: str) -> Case:
    if max(found.files) >= len(inputs):
        raise DatasetError(
            f"{where}: a case has more channels than channel_names",
            got=found.files[max(found.files)],
            expected=f"{len(inputs)} channels",
            case=found.case,
        )
    refs = {name: Ref(found.files[i]) if i in found.files else None for i, name in enumerate(inputs)}
    truth = Truth(True, masks=(Ref(found.label),)) if found.label else Truth()
    return Case(found.case, found.case, refs, truth, found.split if with_test else None)


def _labels(
    said: Mapping[str, int | str | tuple[int, ...]], where: str
) -> tuple[tuple[Label, ...], dict[str, tuple[int, ...]], int | None]:
    values: dict[int, str] = {}
    regions: dict[str, tuple[int, ...]] = {}
    ignore: int | None = None
    for name, value in said.items():
        if isinstance(value, str):  # version 1: number → name
            if not name.isdigit():
                raise LayoutError(f"{where}: labels map names to numbers", got=f"{name}: {value}")
            values[int(name)] = value
        elif isinstance(value, tuple):
            regions[name] = value
        elif name == IGNORE:
            ignore = value
        elif value in values:
            raise DatasetError(f"{where}: two classes have one number", got=f"{values[value]} and {name}: {value}")
        else:
            values[value] = name
    if ignore is not None and ignore <= max([*values, *(v for r in regions.values() for v in r)], default=0):
        raise DatasetError(f"{where}: ignore is not the highest label", got=ignore)
    for value in sorted({v for r in regions.values() for v in r} - values.keys()):
        values[value] = f"part_{value}"  # nnU-Net names regions, not what they are made of
    names = names_by_value(values, where)
    return tuple(Label(n) for n in names), regions, ignore


def _with_folds(dataset: Dataset, path: Path) -> Dataset:
    """The dataset with the folds of ``splits_final.json``."""
    if not path.is_file():
        return dataset
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise LayoutError(f"{path} is no list of folds", expected='[{"train": […], "val": […]}]')
    folds = [parsed(_Fold, row, str(path)) for row in rows]
    ids = {case.id for case in dataset}
    strangers = sorted({c for f in folds for c in (*f.train, *f.val)} - ids)
    if strangers:
        raise DatasetError(f"{path} names cases that have no image", got=", ".join(strangers[:3]))
    if len(folds) == 1:
        chosen = dict.fromkeys(folds[0].train, "train") | dict.fromkeys(folds[0].val, "val")
        return dataset.with_cases([replace(c, split=chosen.get(c.id, c.split)) for c in dataset])
    held = [c for f in folds for c in f.val]
    if len(set(held)) < len(held):
        warnings.warn(f"{path}: a case is held out in several folds; not used", QualityWarning, stacklevel=4)
        return dataset
    number = {case: float(n) for n, fold in enumerate(folds) for case in fold.val}
    return dataset.with_cases([_in_fold(c, number.get(c.id)) for c in dataset])


def _in_fold(case: Case, number: COLUMN_TYPES) -> Case:
    return replace(case, columns={**case.columns, FOLD: number})
