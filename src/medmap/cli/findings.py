"""``medmap predict`` of a detector: the tables of all boxes, and which formats boxes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medmap.cli.resumed import Row
from medmap.errors import UsageError

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.dataset import Dataset
    from medmap.results import Prediction

TABLE = "boxes.csv"
TABLES = {"coco": "coco.json", "luna16": "luna16.csv"}  # format → the one file of all cases
MASKS = {
    "mask", "nifti", "png", "instances", "overlay", "stl", "obj", "dicom-seg", "dicom-seg-instances", "dicom-rtstruct",
}  # fmt: skip
FORMATS = ("json", "csv", *TABLES, "overlay", "dicom-sr", "dicom-seg", "dicom-gsps")


class Numbers(NamedTuple):
    """COCO's numbers: case → ``image_id``, class → ``category_id``."""

    images: Mapping[str, int]
    categories: Mapping[str, int]


def require_formats(formats: Sequence[str], bundle: Bundle) -> None:
    """Refuse, before anything is predicted, formats that no answer of a bundle can have.

    Raises:
        UsageError: COCO or LUNA16 of something else than boxes; an image format of boxes; COCO of volumes, LUNA16 of
            pictures or of several classes; a mask of a bundle of classes; a PNG of volumes, a surface of pictures.
    """
    from medmap.write.findings import require_one_class

    axes = len(next(iter(bundle.spec.inputs.values())).size or ())
    if bundle.spec.task != "detect":
        if ours := sorted(set(formats) & TABLES.keys()):
            raise UsageError("this format is made of boxes", got=f"{', '.join(ours)} of a {bundle.spec.task} bundle")
        if bundle.spec.task == "classify" and (ours := sorted(set(formats) & MASKS)):
            got = f"{', '.join(ours)} of a bundle of classes"
            raise UsageError("this format is made of a mask", got=got, remedy="choose json, csv or dicom-sr")
        _require_axes(formats, axes)
        return
    if strange := [name for name in formats if name not in FORMATS]:
        raise UsageError("boxes have no such format", got=", ".join(strange), expected=", ".join(FORMATS))
    for name, needed in (("coco", 2), ("luna16", 3)):
        if name in formats and axes not in (0, needed):
            raise UsageError(f"{name} holds boxes with {needed} axes", got=f"a bundle that finds boxes with {axes}")
    if "luna16" in formats:
        require_one_class([label.name for label in bundle.spec.labels])


def _require_axes(formats: Sequence[str], axes: int) -> None:
    """Refuse what no mask with this many axes (0: not known) can be written as."""
    for name, needed, instead in (("png", 2, "nifti or overlay"), ("stl", 3, "overlay"), ("obj", 3, "overlay")):
        if name in formats and axes not in (0, needed):
            raise UsageError(
                f"{name} holds masks with {needed} axes", got=f"a bundle whose masks have {axes}",
                remedy=f"choose {instead}",
            )  # fmt: skip


def coco_numbers(data: Dataset, inputs: Sequence[Path], bundle: Bundle) -> Numbers:
    """The numbers of a COCO dataset's own files; else cases and classes counted from 1, as ``convert`` counts them.

    Raises:
        DatasetError: COCO files that number different images alike.
    """
    from medmap.layouts.coco import coco_numbers as numbers_of

    names = [label.name for label in bundle.spec.labels]
    labels = [*data.label_names, *(name for name in names if name not in data.label_names)]
    if len(inputs) != 1 or not _is_coco(inputs[0]):
        images = {case.id: number for number, case in enumerate(data, 1)}
        return Numbers(images, {name: number for number, name in enumerate(labels, 1)})
    files, categories = numbers_of(inputs[0])
    paths = {case.id: next((ref.path for ref in case.inputs.values() if ref is not None), "") for case in data}
    largest = max(categories.values(), default=0)
    more = [name for name in names if name not in categories]
    categories = {**categories, **{name: largest + number for number, name in enumerate(more, 1)}}
    return Numbers({case: files[path] for case, path in paths.items()}, categories)


def _is_coco(path: Path) -> bool:
    from medmap.errors import LayoutError
    from medmap.layouts import layout_of

    try:
        return layout_of(path) == "coco"
    except LayoutError:  # an image, or a folder of images
        return False


def _misfit(format: str, boxes: Mapping[str, Any]) -> str | None:
    """Why boxes (as JSON) have no place in a table, or None."""
    from medmap.write.findings import require_planes, require_world

    rule = {"coco": require_planes, "luna16": require_world}[format]
    try:
        for box in boxes["boxes"]:
            rule(box)
    except UsageError as error:
        return str(error)
    return None


def add_misfits(answer: Prediction, formats: Sequence[str], unwritten: dict[str, str]) -> None:
    """Into ``unwritten``, format → why, where a case's boxes have no place in a table that was asked for."""
    from medmap.results import Boxes

    for output in answer.outputs.values():
        for name in TABLES.keys() & set(formats) if isinstance(output, Boxes) else ():
            if (why := _misfit(name, output.as_json())) is not None:
                unwritten[name] = why


def nothing_called(answer: Prediction) -> bool:
    """Whether an answer is boxes of which none is called: there is nothing to draw, and nothing amiss."""
    from medmap.results import Boxes

    found = list(answer.outputs.values())
    return bool(found) and all(isinstance(one, Boxes) and not one.called.any() for one in found)


def tables(rows: Sequence[Row], formats: Sequence[str], numbers: Numbers | None) -> dict[str, str]:
    """File name → text of every table of all boxes that was asked for.

    Args:
        rows: Of the index.
        formats: Asked for.
        numbers: For COCO.
    """
    from medmap.write.findings import boxes_table, coco_results, luna16_submission

    answers = [
        (row, output)
        for row in rows
        if row["error"] is None
        for output in row["outputs"].values()
        if output["type"] == "boxes"
    ]

    def fitting(format: str) -> list[tuple[str, Any]]:
        return [(row["case"], output) for row, output in answers if _misfit(format, output) is None]

    found = {}
    if "csv" in formats:
        found[TABLE] = boxes_table((row["case"], output, row["files"]) for row, output in answers)
    if numbers is not None:
        pairs = [(numbers.images[case], output) for case, output in fitting("coco")]
        found[TABLES["coco"]] = coco_results(pairs, numbers.categories)
    if "luna16" in formats:
        found[TABLES["luna16"]] = luna16_submission(fitting("luna16"))
    return found
