"""The door that every dataset comes through: which layout is it, and open it without reading a pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medmap.dataset import TASKS, Dataset, TaskName
from medmap.errors import LayoutError, ReadError, UsageError
from medmap.layouts.bids import open_bids, recognise_bids
from medmap.layouts.coco import open_coco, recognise_coco
from medmap.layouts.datalist import open_monai, open_msd, recognise_monai, recognise_msd
from medmap.layouts.described import open_described, recognise_described
from medmap.layouts.dicom import open_dicom_studies, recognise_dicom
from medmap.layouts.folders import open_folders, recognise_folders
from medmap.layouts.luna import open_luna, recognise_luna
from medmap.layouts.manifests import (
    open_cases,
    open_gandlf,
    open_innereye,
    recognise_cases,
    recognise_gandlf,
    recognise_innereye,
)
from medmap.layouts.medmnist import open_medmnist, recognise_medmnist
from medmap.layouts.nndetection import open_nndetection, recognise_nndetection
from medmap.layouts.nnunet import open_nnunet, recognise_nnunet
from medmap.layouts.pairs import open_pairs, recognise_pairs
from medmap.layouts.voc import open_voc, recognise_voc
from medmap.layouts.yolo import open_yolo, recognise_yolo


@dataclass(frozen=True)
class Layout:
    """One row of the table of layouts.

    Args:
        name: What ``--layout`` calls it.
        says: What it looks like, for people.
        recognises: Whether a path looks like it; reads names and first lines only.
        open: (path, task or None) → the dataset; reads no pixel.
    """

    name: str
    says: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, TaskName | None], Dataset]


# In the order in which they are tried: what the owner wrote down first, what names suggest last.
LAYOUTS: tuple[Layout, ...] = (
    Layout("yolo", "a data.yaml with names, train and val", recognise_yolo, open_yolo),
    Layout("nndetection", "dataset.json beside raw_splitted", recognise_nndetection, open_nndetection),
    Layout("medmap", "dataset.yaml beside cases.csv", recognise_described, open_described),
    Layout("nnunet", "dataset.json with channel_names beside imagesTr and labelsTr", recognise_nnunet, open_nnunet),
    Layout("msd", "dataset.json with modality, labels and training", recognise_msd, open_msd),
    Layout("coco", "JSON with images, annotations and categories", recognise_coco, open_coco),
    Layout("monai", "JSON with training: [{image, label}]", recognise_monai, open_monai),
    Layout("bids", "dataset_description.json beside sub-… folders", recognise_bids, open_bids),
    Layout("luna", "annotations.csv with coordX, coordY, coordZ, diameter_mm", recognise_luna, open_luna),
    Layout("voc", "Annotations/*.xml beside JPEGImages", recognise_voc, open_voc),
    Layout("innereye", "a CSV with subject, channel, filePath", recognise_innereye, open_innereye),
    Layout("gandlf", "a CSV with SubjectID, Channel_0 … and Label or ValueToPredict", recognise_gandlf, open_gandlf),
    Layout("csv", "a CSV with image and label, mask, boxes or target", recognise_cases, open_cases),
    Layout("medmnist", "one .npz file with train_images, train_labels …", recognise_medmnist, open_medmnist),
    Layout("dicom", "a folder of DICOM studies, one patient a folder", recognise_dicom, open_dicom_studies),
    Layout("pairs", "a folder images beside a folder masks, files of the same names", recognise_pairs, open_pairs),
    Layout("folders", "one folder a class, optionally below train, val and test", recognise_folders, open_folders),
)


_OTHER_NAMES = {"luna16": "luna"}


def open_dataset(path: str | Path, *, layout: str = "auto", task: TaskName | None = None) -> Dataset:
    """A dataset in any known layout, opened in place; 100,000 cases open in seconds and no pixel is read.

    Args:
        path: A folder, a ``dataset.yaml``, a CSV table or an ``.npz`` file.
        layout: A name from ``LAYOUTS``, or ``auto`` to recognise it.
        task: classify, detect, segment or enhance, where the layout leaves it open.

    Raises:
        LayoutError: In no known layout; says what was found.
        ReadError: Absent or unreadable.
        DatasetError: Parts that contradict each other.
        ConfigError: A ``dataset.yaml`` that is wrong.
        UsageError: An unknown layout or task was asked for.
    """
    path = Path(path)
    if task is not None and task not in TASKS:
        raise UsageError("unknown task", got=repr(task), expected=", ".join(TASKS))
    if "\0" in str(path) or not path.exists():
        raise ReadError(f"{str(path)!r} does not exist", expected="a folder, dataset.yaml, a CSV table or an .npz file")
    return _chosen(path, layout).open(path, task)


def layout_of(path: str | Path) -> str:
    """The name of the layout in which a dataset is.

    Raises:
        LayoutError: In no known layout.
    """
    return _chosen(Path(path), "auto").name


def _chosen(path: Path, layout: str) -> Layout:
    if layout == "auto":
        for row in LAYOUTS:
            if row.recognises(path):
                return row
        expected, remedy = _expected(path)
        raise LayoutError(f"{path} is in no known layout", got=_found(path), expected=expected, remedy=remedy)
    for row in LAYOUTS:
        if row.name == _OTHER_NAMES.get(layout, layout):
            return row
    raise UsageError("unknown layout", got=repr(layout), expected=", ".join(["auto", *(r.name for r in LAYOUTS)]))


def _expected(path: Path) -> tuple[str, str]:
    """What would have been opened in this place, and what most often helps."""
    names = ", ".join(row.name for row in LAYOUTS)
    known = f"one of {names} (see concepts/layouts in the documentation)"
    if path.suffix.lower() == ".zip":
        return known, "unpack it first; `medmap info` shows the DICOM studies in a zip, `medmap predict` answers for it"
    if path.suffix.lower() in (".csv", ".tsv", ".xlsx"):
        says = "a CSV with a column image (paths) and one of label, mask, boxes or target"
        return says, f"a spreadsheet on DICOM studies joins them: medmap import STUDIES DEST --labels {path.name}"
    if path.is_dir() and not any(path.iterdir()):
        return known, "name the folder that holds the data"
    remedy = (
        "put a CSV with the columns image and label (or mask) beside the images, sort them into a folder a class, or "
        "into the folders images and masks"
    )
    return known, remedy


def _found(path: Path) -> str:
    if not path.is_dir():
        return f"a file {path.name}"
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir() if not p.name.startswith("."))
    if not names:
        return "an empty folder"
    return f"{len(names)} entries: " + ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
