"""One folder a class, with or without train, val and test folders above, with or without a folder for each patient.

::

    study/malignant/a.png                    class / image
    study/train/malignant/a.png              split / class / image
    study/malignant/patient_7/a.png          class / patient / image (deeper folders belong to the patient)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medmap.dataset import Case, Dataset, InputSpec, Ref, TaskName, Truth
from medmap.errors import DatasetError, LayoutError, QualityWarning, ReadError
from medmap.layouts.naming import SPLIT_NAMES, natural_key, positive_index, unique_ids
from medmap.read.door import SUFFIXES, suffix_of
from medmap.results import Label, ScoreKind

MAX_DEPTH = 12
# what systems leave in folders
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "lost+found"})
# not images of a case, though a reader exists: tables of arrays are another layout
_NOT_CASES = frozenset({".npz"})


@dataclass(frozen=True)
class _Found:
    path: str  # relative to the root, with /
    split: str | None
    label: str
    patient: str | None


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            kept = [e for e in found if not e.name.startswith(".") and e.name.lower() not in _JUNK]
    except OSError as error:
        raise ReadError(f"the folder {folder} cannot be listed", got=error.strerror) from error
    return sorted(kept, key=lambda e: natural_key(e.name))


def _folders(folder: str | Path) -> list[os.DirEntry[str]]:
    return [e for e in _entries(str(folder)) if e.is_dir()]


def is_image_name(name: str) -> bool:
    """Whether a file's name promises an image of one case."""
    suffix = suffix_of(name)
    return suffix in SUFFIXES and suffix not in _NOT_CASES


def recognise_folders(path: Path) -> bool:
    """Whether ``path`` holds class folders with images (looked for no deeper than needed)."""
    if not path.is_dir():
        return False
    folders = _folders(path)
    return any(_has_image(e.path, 0) for e in folders) and not any(
        is_image_name(e.name) for e in _entries(str(path)) if e.is_file()
    )


def _has_image(folder: str, depth: int) -> bool:
    if depth > MAX_DEPTH:
        return False
    entries = _entries(folder)
    return any(e.is_file() and is_image_name(e.name) for e in entries) or any(
        _has_image(e.path, depth + 1) for e in entries if e.is_dir()
    )


def open_folders(path: Path, task: TaskName | None = None) -> Dataset:
    """A folder for each class as a dataset; reads names, no pixel.

    Classes are in the order in which people count. Hidden files and what systems leave behind are ignored; other
    files that are no images are skipped with a warning.

    Raises:
        LayoutError: No classes, only one class, or images beside the class folders.
        DatasetError: Another task than classification was asked for.
    """
    if task not in (None, "classify"):
        raise DatasetError("a folder for each class gives labels, nothing else", got=task, expected="classify")
    skipped: list[str] = []
    found = list(_walk(path, skipped))
    names = sorted({f.label for f in found}, key=natural_key)
    if len(names) < 2:
        raise LayoutError(
            f"{path} does not have a folder with images for each of at least two classes",
            got=", ".join(names) or _listed(path),
            expected="class folders, or train, val and test with class folders inside",
        )
    if skipped:
        shown = ", ".join(skipped[:3]) + (" …" if len(skipped) > 3 else "")
        warnings.warn(
            f"{len(skipped)} files under {path} are not images and were skipped: {shown}", QualityWarning, stacklevel=3
        )
    index = {name: i for i, name in enumerate(names)}
    ids = unique_ids([f.path for f in found])
    # two classes may each have a patient folder "1": the same folder name is the same patient
    cases = tuple(
        Case(
            id=case,
            patient=f.patient or case,
            inputs={"image": Ref(f.path)},
            truth=Truth(annotated=True, label=index[f.label]),
            split=f.split,
        )
        for case, f in zip(ids, found, strict=True)
    )
    kind: ScoreKind = "binary" if len(names) == 2 else "multiclass"
    return Dataset(
        name=path.resolve().name or "dataset",
        task="classify",
        cases=cases,
        inputs={"image": InputSpec()},
        labels=tuple(Label(name) for name in names),
        kind=kind,
        root=path,
        positive=positive_index(names) if kind == "binary" else None,
        patients_known=all(f.patient is not None for f in found),
    )


def _listed(path: Path) -> str:
    names = [e.name for e in _entries(str(path))]
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "") if names else "an empty folder"


def _walk(root: Path, skipped: list[str]) -> Iterator[_Found]:
    top = _folders(root)
    with_splits = bool(top) and all(e.name.lower() in SPLIT_NAMES for e in top)
    for entry in _entries(str(root)):
        if not entry.is_dir():
            skipped.append(entry.name)
        elif with_splits:
            for inner in _entries(entry.path):
                if inner.is_dir():
                    split = SPLIT_NAMES[entry.name.lower()]
                    yield from _images(inner, f"{entry.name}/{inner.name}", split, inner.name, skipped)
                else:
                    skipped.append(f"{entry.name}/{inner.name}")
        else:
            yield from _images(entry, entry.name, None, entry.name, skipped)


def _images(
    folder: os.DirEntry[str], relative: str, split: str | None, label: str, skipped: list[str]
) -> Iterator[_Found]:
    stack: list[tuple[str, str, str | None, int]] = [(folder.path, relative, None, 0)]
    while stack:
        where, prefix, patient, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise LayoutError(f"{where} is nested too deeply", expected=f"at most {MAX_DEPTH} folders below a class")
        for entry in _entries(where):
            path = f"{prefix}/{entry.name}"
            if entry.is_dir():
                stack.append((entry.path, path, patient or entry.name, depth + 1))
            elif is_image_name(entry.name):
                yield _Found(path, split, label, patient)
            else:
                skipped.append(path)
