"""Medical Segmentation Decathlon folders and MONAI datalists: one JSON that lists cases.

::

    {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"},
     "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}], "test": ["./imagesTs/b.nii.gz"]}

A Decathlon folder has such a ``dataset.json``; several modalities are the fourth axis of one file. A MONAI datalist may
have any name, ``validation`` and ``testing`` beside ``training``, a ``fold`` for each case, several files for one case,
and a number as label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medmap.dataset import COLUMN_TYPES, Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import DatasetError, LayoutError, MedmapError
from medmap.layouts.folders import is_image_name
from medmap.layouts.foreign import (
    MAX_VALUE,
    Foreign,
    inside,
    json_object,
    mentions,
    modality_code,
    names_by_value,
    parsed,
    require_files,
    require_task,
)
from medmap.layouts.kept import with_kept_block, with_kept_table
from medmap.layouts.naming import natural_key, positive_index, unique_ids
from medmap.results import Label, ScoreKind

DATASET_JSON = "dataset.json"
LISTS = {"training": "train", "train": "train", "validation": "val", "val": "val", "testing": "test", "test": "test"}
_KNOWN_KEYS = frozenset({"image", "label", "mask", "seg"})
_BOXES = frozenset({"box", "boxes", "bbox"})


class _Described(Foreign):
    name: str | None = None
    licence: str | None = None
    license: str | None = None
    reference: str | None = None
    modality: dict[int, str] | None = None
    labels: dict[int, str] | None = None
    medmap: Any = None


def _json_of(path: Path) -> Path | None:
    """The list: the file itself, ``dataset.json``, or the only JSON of a folder."""
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    if (path / DATASET_JSON).is_file():
        return path / DATASET_JSON
    found = [p for p in path.iterdir() if p.suffix.lower() == ".json" and not p.name.startswith(".")]
    return found[0] if len(found) == 1 else None


def _lists(path: Path) -> Mapping[str, Any] | None:
    file = _json_of(path)
    if file is None or not mentions(file, '"image"') or not mentions(file, '"train'):
        return None
    try:
        said = json_object(file)
    except MedmapError:
        return None
    rows = next((said[key] for key in ("training", "train") if isinstance(said.get(key), list)), None)
    return said if rows and isinstance(rows[0], dict) and "image" in rows[0] else None


def recognise_msd(path: Path) -> bool:
    """Whether ``path`` is a Decathlon folder or its ``dataset.json``."""
    said = _lists(path)
    return said is not None and {"modality", "labels"} <= said.keys() and _json_of(path) == _named(path)


def _named(path: Path) -> Path:
    return path / DATASET_JSON if path.is_dir() else path.with_name(DATASET_JSON)


def recognise_monai(path: Path) -> bool:
    """Whether ``path`` is a MONAI datalist, or a folder whose only JSON is one."""
    return _lists(path) is not None and not recognise_msd(path)


def open_msd(path: Path, task: TaskName | None = None) -> Dataset:
    """A Decathlon folder as a dataset; reads its ``dataset.json``, no pixel.

    Raises:
        LayoutError: A ``dataset.json`` that cannot be understood.
        DatasetError: Files that do not exist or lie elsewhere, class numbers out of range.
    """
    require_task(task, "segment", "a Decathlon folder")
    file = _named(path)
    raw, where = json_object(file), str(file)
    said = parsed(_Described, raw, where)
    if not said.modality or said.labels is None:
        raise LayoutError(f"{where}: modality and labels are both needed")
    cases = _cases(raw, file, absolute=False)
    words = [said.modality[i] for i in sorted(said.modality)]
    spec = InputSpec(modality_code(words[0])) if len(words) == 1 else InputSpec(None, tuple(words))
    name = "image" if len(words) > 1 or spec.modality else words[0]
    if any(list(case.inputs) != ["image"] for case in cases):
        raise LayoutError(f"{where}: a Decathlon case is one image", got="several files", expected="a 4-D image")
    cases = [replace(case, inputs={name: case.inputs["image"]}) for case in cases]
    labels = tuple(Label(n) for n in names_by_value(said.labels, where))
    dataset = _dataset(file, said, cases, "segment", {name: spec}, labels)
    return with_kept_table(with_kept_block(dataset, said.medmap, where), file.parent)


def open_monai(path: Path, task: TaskName | None = None) -> Dataset:
    """A MONAI datalist as a dataset; reads the list, no pixel.

    A label that is a file is a mask; a number or a word is a class.

    Raises:
        LayoutError: A list that cannot be understood, or boxes, whose convention it does not state.
        DatasetError: Files that do not exist, labels of both kinds, another task.
    """
    file = _json_of(path)
    if file is None:
        raise LayoutError(f"{path} is no datalist", expected="one JSON file")
    raw, where = json_object(file), str(file)
    said = parsed(_Described, raw, where)
    cases = _cases(raw, file, absolute=True)
    words = {str(case.columns["label"]) for case in cases if case.columns.get("label") is not None}
    masks = any(case.truth.masks for case in cases)
    if masks and words:
        raise DatasetError(f"{where}: some labels are files and some are classes", got=sorted(words)[0])
    have: TaskName = "classify" if words else "segment"
    require_task(task, have, f"{where}")
    inputs = _input_specs(cases, said.modality or {})
    renamed = [replace(c, inputs=dict(zip(inputs, _padded(c, len(inputs)), strict=True))) for c in cases]
    if have == "segment":
        labels = tuple(Label(n) for n in names_by_value(said.labels, where)) if said.labels else ()
        return with_kept_table(_dataset(file, said, renamed, have, inputs, labels), file.parent)
    renamed, names = _classified(renamed, words, said.labels or {}, where)
    kind: ScoreKind = "binary" if len(names) == 2 else "multiclass"
    dataset = _dataset(file, said, renamed, have, inputs, tuple(Label(n) for n in names), kind)
    return with_kept_table(dataset, file.parent)


def _padded(case: Case, count: int) -> list[Ref | None]:
    refs = list(case.inputs.values())
    return refs + [None] * (count - len(refs))


def _input_specs(cases: Sequence[Case], modality: Mapping[int, str]) -> dict[str, InputSpec]:
    count = max(len(case.inputs) for case in cases)
    words = [modality[i] for i in sorted(modality)]
    if count > 1:
        names = words if len(set(words)) == count else ["image", *(f"image_{i}" for i in range(2, count + 1))]
        return {name: InputSpec(modality_code(name)) for name in names}
    if len(words) == 1:
        return {"image": InputSpec(modality_code(words[0]))}
    return {"image": InputSpec(None, tuple(words))}


def _classified(
    cases: Sequence[Case], words: set[str], given: Mapping[int, str], where: str
) -> tuple[list[Case], list[str]]:
    """Cases with their class, and the names in order: as ``labels`` has them, else as people count."""
    if given:
        names = [given.get(i, f"unused_{i}") for i in range(min(max(given), MAX_VALUE) + 1)]
        index = {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    else:
        names = sorted(words, key=natural_key)
        index = {name: i for i, name in enumerate(names)}
    unknown = sorted(words - index.keys())
    if unknown:
        raise DatasetError(f"{where}: unknown label", got=unknown[0], expected=", ".join(names))
    found = []
    for case in cases:
        columns = dict(case.columns)
        word = columns.pop("label", None)
        truth = Truth() if word is None else Truth(annotated=True, label=index[str(word)])
        found.append(replace(case, truth=truth, columns=columns))
    return found, names


def _dataset(
    file: Path,
    said: _Described,
    cases: Sequence[Case],
    task: TaskName,
    inputs: Mapping[str, InputSpec],
    labels: tuple[Label, ...],
    kind: ScoreKind = "multiclass",
) -> Dataset:
    return Dataset(
        name=said.name or file.resolve().parent.name,
        task=task,
        cases=tuple(cases),
        inputs=inputs,
        labels=labels,
        kind=kind,
        root=file.parent,
        positive=positive_index([label.name for label in labels]) if kind == "binary" else None,
        licence=said.licence or said.license,
        source=said.reference,
        patients_known=False,
    )


def _cases(raw: Mapping[str, Any], file: Path, *, absolute: bool) -> list[Case]:
    """The listed cases; a class waits in the column ``label``. Files are looked for, not opened."""
    rows = [(LISTS[key], row) for key, value in raw.items() if key in LISTS for row in _rows(value, key, str(file))]
    with_splits = any(split != "train" for split, _ in rows)
    found = [_case(row, split if with_splits else None, str(file), absolute) for split, row in rows]
    if not found:
        raise LayoutError(f"{file} lists no cases", expected="training: [{image: …, label: …}]")
    firsts = [next(ref.path for ref in case.inputs.values() if ref) for case in found]
    refs = (ref for case in found for ref in (*case.inputs.values(), *case.truth.masks) if ref)
    require_files(file.parent, [ref.path for ref in refs], str(file))
    ids = unique_ids(firsts)
    if len(set(ids)) < len(ids):
        raise DatasetError(f"{file} lists an image twice", got=next(i for i in ids if ids.count(i) > 1))
    return [replace(case, id=i, patient=i) for i, case in zip(ids, found, strict=True)]


def _rows(value: Any, key: str, where: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise LayoutError(f"{where}: {key} is no list of cases", got=type(value).__name__)
    for n, row in enumerate(value):
        if isinstance(row, str):
            yield {"image": row}
        elif isinstance(row, dict) and "image" in row:
            yield row
        else:
            raise LayoutError(f"{where}: {key}[{n}] is no case", got=repr(row)[:80], expected="{image: …, label: …}")


def _case(row: Mapping[str, Any], split: str | None, where: str, absolute: bool) -> Case:
    images = row["image"] if isinstance(row["image"], list) else [row["image"]]
    if not images or not all(isinstance(text, str) for text in images):
        raise LayoutError(f"{where}: an image is no path", got=repr(row["image"])[:80])
    if _BOXES & row.keys():
        raise LayoutError(
            f"{where}: boxes in a datalist do not say whether they are voxels or millimetres, corners or centres",
            remedy="convert them to COCO, or to boxes of cases.csv",
        )
    names = ["image", *(f"image_{i}" for i in range(2, len(images) + 1))]
    inputs = {name: Ref(inside(text, where, absolute=absolute)) for name, text in zip(names, images, strict=True)}
    label = row.get("label", row.get("mask", row.get("seg")))
    columns: dict[str, COLUMN_TYPES] = {
        key: float(v) if isinstance(v, int | float) else v
        for key, v in row.items()
        if key not in _KNOWN_KEYS and isinstance(v, str | int | float) and not isinstance(v, bool)
    }
    truth = Truth()
    if isinstance(label, str) and is_image_name(label):
        truth = Truth(True, masks=(Ref(inside(label, where, absolute=absolute)),))
    elif isinstance(label, int | str) and not isinstance(label, bool):
        columns["label"] = str(label)
    elif label is not None:
        raise LayoutError(
            f"{where}: a label is one file or one class", got=repr(label)[:80], remedy="merge the files into one mask"
        )
    return Case("?", "?", inputs, truth, split, None, columns)
