"""A phantom data set as files: images, masks and targets beside a ``dataset.yaml`` and a ``cases.csv``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from medmap.config import to_yaml, write_atomically
from medmap.dataset import TASKS, TaskName
from medmap.errors import UsageError
from medmap.geometry import Geometry, Permute
from medmap.image import Image
from medmap.phantom.cases import LABEL_NAMES, Modality, PhantomCase
from medmap.write import write
from medmap.write.dicom import write_dicom_slice

FileFormat = Literal["nifti", "png", "npy", "dicom"]
SUFFIXES: Mapping[FileFormat, str] = MappingProxyType(
    {"nifti": ".nii.gz", "png": ".png", "npy": ".npy", "dicom": ".dcm"}
)
SOURCE = "Synthetic phantom computed by medmap: no patient was imaged"
PNG_OFFSET = 1024  # a PNG knows no sign: HU are stored from 0, and the description says so


def write_study(
    folder: str | Path,
    cases: Sequence[PhantomCase],
    *,
    task: TaskName = "classify",
    format: FileFormat = "nifti",
    splits: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write phantom cases as a data set that ``open_dataset`` opens.

    Args:
        folder: New or empty.
        cases: From one of the phantom's functions, all of one modality.
        task: classify (label), detect (boxes), segment (masks) or enhance (clean images).
        format: nifti; png (16 bit, no geometry; 2-D only; CT stored as HU + 1024); npy (no geometry); dicom (of a
            volume a folder with a file a slice).
            Masks are written as nifti or, where there is no geometry, as npy.
        splits: Case → train, val or test; the others are left to medmap.

    Returns:
        The folder.

    Raises:
        UsageError: The folder is not empty, there are no cases, or task and format do not go together.
    """
    folder = Path(folder)
    _refusals(folder, cases, task, format)
    modality = _modality(cases[0])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [_row(folder, case, task, format, splits.get(case.id, "")) for case in cases]
    header = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, header, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    offset = f"; stored values are HU + {PNG_OFFSET}" if format == "png" and modality == "CT" else ""
    description: dict[str, Any] = {
        "medmap_dataset": 1,
        "name": f"synthetic {modality} phantom ({task})",
        "task": task,
        "inputs": {"image": {"modality": modality}},
        **_labels(cases[0], task, modality),
        "licence": "CC0-1.0",
        "source": SOURCE + offset,
    }
    write_atomically(folder / "cases.csv", buffer.getvalue())
    write_atomically(folder / "dataset.yaml", to_yaml(description))
    return folder


def _refusals(folder: Path, cases: Sequence[PhantomCase], task: str, format: str) -> None:
    if task not in TASKS:
        raise UsageError("unknown task", got=repr(task), expected=", ".join(TASKS))
    if format not in SUFFIXES:
        raise UsageError("the phantom is not written so", got=repr(format), expected=", ".join(SUFFIXES))
    if not cases:
        raise UsageError("a data set has at least one case", got="none")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", remedy="choose another folder")
    image = cases[0].image
    if format == "png" and image.ndim != 2:
        raise UsageError("a png file holds one slice", got=f"shape {image.array.shape}", remedy="write nifti")
    if format == "nifti" and not image.geometry.has_size:
        raise UsageError("an ultrasound phantom has no millimetres", remedy="write png, npy or dicom")


def _modality(case: PhantomCase) -> Modality:
    for modality in LABEL_NAMES:
        if case.image.source.modality == modality:
            return modality
    raise UsageError("no case of the phantom", got=case.image.source.modality, expected=", ".join(LABEL_NAMES))


def _labels(case: PhantomCase, task: str, modality: Modality) -> dict[str, Any]:
    if task == "classify":
        names = LABEL_NAMES[modality]
        return {"labels": dict(enumerate(names)), "kind": "binary", "positive": names[1]}
    if task == "detect":
        return {"labels": {0: case.structures[2]}}
    if task == "segment":
        return {"labels": {0: "background", 1: case.structures.get(1, "organ"), 2: case.structures[2]}}
    return {}


def _row(folder: Path, case: PhantomCase, task: str, format: FileFormat, split: str) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.id, "patient": case.patient, "site": case.site, "split": split}
    row["image"] = _written(folder, "images", case, case.image, format)
    if task == "classify":
        row["label"] = LABEL_NAMES[_modality(case)][case.label]
    elif task == "segment":
        mask = Image(case.mask, case.image.geometry, "label")
        kept: FileFormat = "nifti" if format in ("nifti", "dicom") and mask.geometry.has_size else "npy"
        row["mask"] = _written(folder, "masks", case, mask, kept)
    elif task == "detect":
        name = case.structures[2]
        row["boxes"] = json.dumps([{"corners": list(corners), "label": name} for corners, _ in case.boxes])
    else:
        row["target"] = _written(folder, "targets", case, case.clean, format)
    return {**row, **case.columns}


def _written(folder: Path, kind: str, case: PhantomCase, image: Image, format: FileFormat) -> str:
    series = format == "dicom" and image.ndim == 3
    name = f"{kind}/{case.id}{'' if series else SUFFIXES[format]}"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if format == "dicom":
        age = case.columns.get("age")
        extra = {
            "AccessionNumber": f"A{case.id.rsplit('-', 1)[-1]}",
            "PatientSex": case.columns.get("sex") or "",
            "PatientAge": f"{int(age):03d}Y" if isinstance(age, float) else "",
            "InstitutionName": f"synthetic site {case.site}",
            "ManufacturerModelName": f"synthetic {case.columns.get('scanner', 'scanner')}",
        }
        study = f"{case.id} {kind}"
        if series:
            path.mkdir()
        for number, (file, flat) in enumerate(_slices(image, path) if series else [(path, image)], start=1):
            write_dicom_slice(flat, file, patient_id=case.patient, study=study, number=number, attributes=extra)
        return name
    if format == "png" and image.array.dtype == np.int16:
        shift = PNG_OFFSET if image.quantity == "HU" else 0
        shifted = np.clip(image.array.astype(np.int32) + shift, 0, 65535).astype(np.uint16)
        image = replace(
            image, array=shifted, geometry=Geometry.without_size(image.geometry.shape), quantity="arbitrary"
        )
    write(image, path)
    return name


def _slices(image: Image, folder: Path) -> Iterator[tuple[Path, Image]]:
    """The slices of a volume as pictures where they lie, with the file for each; rows run along the second axis."""
    upright = image.moved(Permute((1, 0, 2)))  # a scanner's rows go from front to back
    for k in range(upright.geometry.shape[2]):
        affine = upright.geometry.affine_lps_mm.copy()
        affine[:3, 3] = upright.geometry.to_world([[0, 0, k]])[0]
        normal = np.cross(affine[:3, 1], affine[:3, 0])
        affine[:3, 2] = normal / np.linalg.norm(normal)
        grid = Geometry(upright.geometry.shape[:2], affine, "patient")
        yield folder / f"{k + 1:04d}.dcm", replace(upright, array=upright.array[:, :, k], geometry=grid)
