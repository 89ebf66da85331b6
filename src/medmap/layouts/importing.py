"""Any known layout to a dataset folder: ``dataset.yaml`` and ``cases.csv``, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from medmap.config import write_atomically
from medmap.dataset import Case, Dataset, Ref, TaskName, Truth
from medmap.errors import DatasetError, ReadError
from medmap.layouts.described import DESCRIPTION, TABLE, root_text, texts
from medmap.layouts.door import open_dataset
from medmap.layouts.hashes import HASHES, hashed, hashes_text, truth_files
from medmap.layouts.instances import open_for_boxes
from medmap.layouts.placing import DETACHED, require_free, whole_folder
from medmap.read import forget_arrays, recognise
from medmap.read.dicom.kept import series_in

COPIED = "images"


def import_dataset(
    source: str | Path | Dataset,
    dest: str | Path,
    *,
    layout: str = "auto",
    task: TaskName | None = None,
    copy: bool = False,
    replaces: str | Path | None = None,
) -> Dataset:
    """A dataset in any known layout as a folder of medmap's own.

    Args:
        source: What ``open_dataset`` opens; or a dataset that is open already.
        dest: A folder that does not exist yet, or is empty.
        layout: A name from ``LAYOUTS``, or ``auto``.
        task: Where the layout leaves it open; ``detect`` makes boxes of masks (``boxes_from_masks``).
        copy: Copy the images into the folder (of a DICOM series all its files); else they are referenced where they
            are.
        replaces: The dataset of which this is the corrected one: the new ``dataset.yaml`` counts one version more and
            names the old one's digest. Masks are hashed in either case, so that a changed one is seen.

    Raises:
        UsageError: ``dest`` is not empty, or cannot be written; nothing is left behind.
        LayoutError: ``source`` is in no known layout.
        DatasetError: A file to be copied is no image, or lies outside the source through a link.
    """
    dest = Path(dest)
    require_free(dest)
    if isinstance(source, Dataset):
        dataset = source
    elif task == "detect":
        dataset = open_for_boxes(source, layout=layout)
    else:
        dataset = open_dataset(source, layout=layout, task=task)
    if replaces is not None:
        old = open_dataset(replaces)
        if old.task != dataset.task:
            raise DatasetError("a new version has the task of the old one", got=dataset.task, expected=old.task)
        dataset = replace(dataset, version=old.version + 1, parent=old.digest)
    with whole_folder(dest) as aside:
        if copy:
            dataset = _copied(dataset, aside)
        if truth_files(dataset):
            dataset = replace(dataset, hashes=hashed(dataset))
            write_atomically(aside / HASHES, hashes_text(dataset.hashes))
        yaml_text, table_text = texts(dataset, "." if copy else root_text(dataset.root, dest))
        write_atomically(aside / TABLE, table_text)
        write_atomically(aside / DESCRIPTION, yaml_text)
    return open_dataset(dest)


def _copied(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with every referenced file copied below ``folder/images``."""
    places: dict[str, str] = {}
    folders: set[str] = set()
    root = dataset.root.resolve()
    for case in dataset:
        for ref in (*case.inputs.values(), *case.truth.masks, case.truth.target):
            if ref is None or (ref.path in places and ref.path not in folders):
                continue
            path = dataset.resolve(ref)
            place = places.setdefault(ref.path, _place(path, ref, len(places)))
            if path.is_dir():
                folders.add(ref.path)  # it may hold other series, which other cases name
                _copy_series(path, ref, root, folder / place)
            else:
                _copy(path, ref, root, folder / place)
    forget_arrays()

    def moved(ref: Ref | None) -> Ref | None:
        return None if ref is None else Ref(places[ref.path], ref.member)

    return replace(dataset, root=folder, cases=tuple(_with_refs(case, moved) for case in dataset))


def _place(path: Path, ref: Ref, number: int) -> str:
    """Where a copy lies in the dataset's folder."""
    if Path(ref.path).is_absolute():
        return f"{COPIED}/outside/{number:06d}_{path.resolve().name}"
    return f"{COPIED}/{Path(os.path.normpath(ref.path)).as_posix()}"


def _copy(path: Path, ref: Ref, root: Path, target: Path) -> None:
    if path.suffix.lower() in DETACHED:
        raise DatasetError(
            f"{path} keeps its voxels in another file and is not copied",
            remedy="import without copying, or convert it to one file (.mha, .nrrd, .nii.gz)",
        )
    real = _inside(path, ref, root)
    try:
        recognise(path)  # only images are copied, whatever the table says
    except ReadError as error:
        raise DatasetError(f"{path} is not copied: it is no image that can be read", got=str(error)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(real, target)


def _copy_series(path: Path, ref: Ref, root: Path, target: Path) -> None:
    """The files of one DICOM series, as they lie in its folder; nothing else that lies there."""
    try:
        series, _ = series_in(path, ref.member)
    except ReadError as error:
        raise DatasetError(f"{path} is not copied: no series can be read there", got=str(error)) from error
    for file in dict.fromkeys(instance.path for instance in series.instances):
        place = target / file.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_inside(file, ref, root), place)


def _inside(path: Path, ref: Ref, root: Path) -> Path:
    """The file itself, which a relative reference finds below the dataset's folder."""
    real = path.resolve()
    if root not in real.parents and not Path(ref.path).is_absolute():
        raise DatasetError(
            f"{path} is a link out of the dataset's folder and is not copied", remedy="import without copying"
        )
    return real


def _with_refs(case: Case, moved: Callable[[Ref | None], Ref | None]) -> Case:
    inputs: Mapping[str, Ref | None] = {name: moved(ref) for name, ref in case.inputs.items()}
    masks = tuple(found for ref in case.truth.masks if (found := moved(ref)) is not None)
    truth: Truth = replace(case.truth, masks=masks, target=moved(case.truth.target))
    return replace(case, inputs=inputs, truth=truth)
