"""YOLO written: ``data.yaml``, a folder of pictures and one of text files a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medmap.config import to_yaml
from medmap.dataset import SPLITS, Case, Dataset
from medmap.errors import DatasetError
from medmap.layouts.boxes import Corners, Fitting, edges_of_corners
from medmap.layouts.kept import KEPT_TABLE, kept_block, kept_table
from medmap.layouts.placing import Placing
from medmap.layouts.to_pictures import partly_annotated_note, place_picture, sizes_of_pictures

UNSPLIT = "all"  # a folder that stands under train: YOLO knows no picture without a split


def line_of_corners(corners: Corners, shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Centre and size (x, y, width, height) as parts of a picture of ``shape`` (rows, columns).

    Example:
        >>> line_of_corners((0.0, 0.0, 1.0, 9.0), (4, 10))
        (0.5, 0.25, 1.0, 0.5)
    """
    (top, left), (bottom, right) = edges_of_corners(corners)
    rows, columns = shape
    x, y = (left + right + 1) / 2 / columns, (top + bottom + 1) / 2 / rows
    return x, y, (right - left) / columns, (bottom - top) / rows


def write_yolo(dataset: Dataset, placing: Placing) -> list[str]:
    """Place a dataset of pictures and boxes as YOLO; a box that reaches beyond its picture is cut at the edge.

    Raises:
        DatasetError: Volumes, several inputs, a case without its picture; boxes to ignore; cases that nobody has looked
            at beside others of their split, which YOLO would take for empty ones.
    """
    spared = [case.id for case in dataset if case.truth.ignored]
    if spared:
        raise DatasetError(
            "YOLO knows no box that is neither found nor missed", remedy="export to coco or voc", case=spared[0]
        )
    _require_all_or_none(dataset)
    name, shapes = sizes_of_pictures(dataset, "YOLO")
    fitting = Fitting(dataset.name)
    for case, shape in zip(dataset, shapes, strict=True):
        folder = case.split or UNSPLIT
        file = place_picture(case, name, placing, f"images/{folder}")
        if case.truth.boxes is not None:
            text = f"labels/{folder}/{file.rsplit('.', 1)[0]}.txt"
            placing.text(text, "".join(_lines(case, shape, fitting)))
    fitting.warn()
    placing.text("data.yaml", to_yaml(_described(dataset)))
    placing.text(KEPT_TABLE, kept_table(dataset))
    notes = partly_annotated_note(dataset)
    if any(case.split is None for case in dataset):
        notes.append("cases without a split stand under train; that they have none is kept in medmap.csv")
    return notes


def _part(case: Case) -> str:
    return case.split or "train"


def _require_all_or_none(dataset: Dataset) -> None:
    looked_at = {_part(case) for case in dataset if case.truth.boxes is not None}
    unseen = [case for case in dataset if case.truth.boxes is None and _part(case) in looked_at]
    if unseen:
        raise DatasetError(
            "YOLO takes a picture without a text file for one that was looked at and is empty",
            got=f"{len(unseen)} cases that nobody has looked at",
            remedy="export to coco or voc, or leave these cases out",
            case=unseen[0].id,
        )


def _lines(case: Case, shape: Sequence[int], fitting: Fitting) -> list[str]:
    lines = []
    for corners, label in case.truth.boxes or ():
        fitted = fitting.fit(corners, shape, f"case {case.id}", case.id)
        if fitted is not None:
            lines.append(" ".join([str(label), *(repr(v) for v in line_of_corners(fitted, shape))]) + "\n")
    return lines


def _described(dataset: Dataset) -> dict[str, Any]:
    have = {case.split for case in dataset}
    folders: dict[str, Any] = {split: f"images/{split}" for split in SPLITS if split in have}
    if None in have:
        folders["train"] = [f"images/{name}" for name in ("train", UNSPLIT) if name in have or name == UNSPLIT]
    return {
        "path": ".",
        "train": folders.get("train"),
        "val": folders.get("val"),
        **({"test": folders["test"]} if "test" in folders else {}),
        "nc": len(dataset.labels),
        "names": {i: label.name for i, label in enumerate(dataset.labels)},
        **({"licence": dataset.licence} if dataset.licence else {}),
        "medmap": kept_block(dataset),
    }
