"""nnDetection raw data: images as ``case_0000`` files, truth as a mask of instances with the class of each.

::

    dataset.json (or .yaml)         name, labels {"0": "nodule"}, modalities {"0": "CT"}
    raw_splitted/imagesTr/          case_0000.nii.gz
    raw_splitted/labelsTr/          case.nii.gz (0: background, 1, 2 …: instances), case.json {"instances": {"1": 0}}
    raw_splitted/imagesTs/ labelsTs/

Boxes are in the masks, so this is the one layout whose truth files are read when it is opened; import it once, and its
boxes stand in ``cases.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from medmap.config import parse_yaml, read_text
from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import DatasetError, LayoutError, MedmapError
from medmap.layouts.boxes import Corners
from medmap.layouts.foreign import Foreign, json_object, modality_code, parsed, require_task
from medmap.layouts.kept import with_kept_table
from medmap.layouts.naming import natural_key
from medmap.read import read
from medmap.read.door import SUFFIXES, suffix_of
from medmap.results import Label

SPLITTED = "raw_splitted"
PARTS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))


class _Described(Foreign):
    name: str | None = None
    labels: dict[int, str] = Field(min_length=1)
    modalities: dict[int, str] = Field(min_length=1)
    licence: str | None = None
    reference: str | None = None


class _Instances(Foreign):
    instances: dict[int, int]


def _described(path: Path) -> tuple[Path, dict[str, Any]] | None:
    if not path.is_dir() or not (path / SPLITTED).is_dir():
        return None
    for name in ("dataset.json", "dataset.yaml", "dataset.yml"):
        file = path / name
        if not file.is_file():
            continue
        try:
            said = json_object(file) if name.endswith("json") else parse_yaml(read_text(file), str(file))
        except MedmapError:
            return None
        if "modalities" in said and "labels" in said:
            return file, said
    return None


def recognise_nndetection(path: Path) -> bool:
    """Whether ``path`` is the folder of an nnDetection task with ``raw_splitted`` in it."""
    return _described(path) is not None


def open_nndetection(path: Path, task: TaskName | None = None) -> Dataset:
    """An nnDetection folder as a dataset; reads the masks of instances, no image.

    Raises:
        LayoutError: A description that cannot be understood.
        DatasetError: Masks without their JSON, instances that one of them does not know, unknown classes.
        ReadError: A mask that cannot be read.
    """
    require_task(task, "detect", "nnDetection raw data")
    found = _described(path)
    if found is None:
        raise LayoutError(f"{path} is no folder of nnDetection", expected="dataset.json beside raw_splitted")
    file, raw = found
    said = parsed(_Described, raw, str(file))
    if sorted(said.labels) != list(range(len(said.labels))):
        raise LayoutError(f"{file}: classes are not counted from 0 without gaps", got=sorted(said.labels))
    inputs = _inputs(said.modalities)
    rows = [row for part in PARTS for row in _part(path, *part, len(inputs))]
    if not rows:
        raise LayoutError(f"{path / SPLITTED} holds no images", expected="imagesTr/case_0000.nii.gz")
    with ThreadPoolExecutor(2) as pool:
        truths = list(pool.map(lambda row: _truth(path, row[2], len(said.labels)), rows))
    with_test = any(split == "test" for _, _, _, split in rows)
    cases = [
        Case(
            case,
            case,
            {name: Ref(files[i]) if i in files else None for i, name in enumerate(inputs)},
            truth,
            split if with_test else None,
        )
        for (case, files, _, split), truth in zip(rows, truths, strict=True)
    ]
    dataset = Dataset(
        name=said.name or path.resolve().name,
        task="detect",
        cases=tuple(cases),
        inputs=inputs,
        labels=tuple(Label(said.labels[i]) for i in range(len(said.labels))),
        root=path,
        licence=said.licence,
        source=said.reference,
        patients_known=False,
    )
    return with_kept_table(dataset, path)


def _inputs(modalities: Mapping[int, str]) -> dict[str, InputSpec]:
    words = [modalities[i] for i in sorted(modalities)]
    if len(words) == 1:
        code = modality_code(words[0])
        return {"image" if code else words[0]: InputSpec(code)}
    twice = len(set(words)) < len(words)
    return {f"{w}_{i}" if twice else w: InputSpec(modality_code(w)) for i, w in enumerate(words)}


Row = tuple[str, dict[int, str], str | None, str]


def _part(path: Path, images: str, labels: str, split: str, channels: int) -> list[Row]:
    files: dict[str, dict[int, str]] = {}
    for name in _names(path / SPLITTED / images):
        match = re.fullmatch(r"(.+)_(\d{4})(\..+)", name)
        if match and suffix_of(name) in SUFFIXES:
            files.setdefault(match[1], {})[int(match[2])] = f"{SPLITTED}/{images}/{name}"
    masks = {}
    for name in _names(path / SPLITTED / labels):
        if suffix_of(name) in SUFFIXES:
            masks[name[: -len(suffix_of(name))]] = f"{SPLITTED}/{labels}/{name}"
    strangers = sorted(masks.keys() - files.keys())
    if strangers:
        raise DatasetError(f"{labels} holds truth of cases that have no image", got=", ".join(strangers[:3]))
    wide = [case for case, have in files.items() if max(have) >= channels]
    if wide:
        raise DatasetError("a case has more channels than modalities", got=files[wide[0]], case=wide[0])
    return [(case, files[case], masks.get(case), split) for case in sorted(files, key=natural_key)]


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []


def _truth(path: Path, mask: str | None, count: int) -> Truth:
    """Boxes of a mask of instances."""
    if mask is None:
        return Truth()
    file = path / mask
    described = file.with_name(file.name[: -len(suffix_of(file.name))] + ".json")
    if not described.is_file():
        raise DatasetError(
            f"{file} has no JSON beside it that names the class of each instance", expected=described.name
        )
    classes = parsed(_Instances, json_object(described), str(described)).instances
    boxes = instance_boxes(read(file).array, str(file))
    if boxes.keys() != classes.keys():
        raise DatasetError(
            f"{file} and its JSON know different instances", got=sorted(boxes)[:10], expected=sorted(classes)[:10]
        )
    wrong = [c for c in classes.values() if not 0 <= c < count]
    if wrong:
        raise DatasetError(f"{described}: unknown class", got=wrong[0], expected=f"0 to {count - 1}")
    return Truth(True, boxes=tuple((boxes[i], classes[i]) for i in sorted(boxes)))


def instance_boxes(mask: np.ndarray[Any, Any], where: str) -> dict[int, Corners]:
    """Corner voxels of each instance of a mask.

    Raises:
        DatasetError: Values that are no numbers of instances.

    Example:
        >>> instance_boxes(np.array([[0, 2, 2], [0, 0, 2]]), "mask")
        {2: (0.0, 1.0, 1.0, 2.0)}
    """
    from scipy import ndimage

    whole = np.asarray(mask)
    if whole.size and (whole.min() < 0 or whole.max() > 100_000 or (whole != np.rint(whole)).any()):
        raise DatasetError(f"{where}: values are no numbers of instances", got=(whole.min(), whole.max()))
    slices = ndimage.find_objects(whole.astype(np.int32))
    return {
        n: (*(float(s.start) for s in found), *(float(s.stop - 1) for s in found))
        for n, found in enumerate(slices, 1)
        if found is not None
    }
