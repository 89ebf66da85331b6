"""Boxes that a layout's reader refused, as findings: which, in which file, and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from medmap.check.issue import Issue, Severity, worst_first
from medmap.dataset import Dataset
from medmap.errors import BoxError, counted

ROWS = 100

# code → severity, what was found, its effect, its remedy
_FINDINGS: Mapping[str, tuple[Severity, str, str, str]] = MappingProxyType(
    {
        "box_unreadable": (
            "error",
            "cannot be read as a box",
            "The dataset is not opened for training.",
            "Write each box as its layout has it; the place in the file is named.",
        ),
        "box_swapped_corners": (
            "error",
            "has swapped corners",
            "Which corner is meant is a guess; the dataset is not opened for training.",
            "Put the low corner first. Where the last numbers are width and height, add them to the first.",
        ),
        "box_without_size": (
            "error",
            "has no positive size",
            "Nothing lies in it; the dataset is not opened for training.",
            "Remove it, or give it its size; a point with a diameter comes in by medmap import --points.",
        ),
        "box_outside_image": (
            "error",
            "lies outside the image",
            "Its object goes without a box and would be learned as background; the dataset is not opened for training.",
            "See whether the boxes belong to another image or another resolution of it, or have x and y exchanged.",
        ),
        "box_wrong_unit": (
            "error",
            "is in another unit than its layout has",
            "Every such box would lie in a corner of its image; the dataset is not opened for training.",
            "Bring them into the layout's unit: pixels (COCO, Pascal VOC), or parts of the picture's size (YOLO).",
        ),
        "box_corners_as_size": (
            "error",
            "is one of boxes that seem to be written as two corners, where its layout has a corner, width and height",
            "Every such box would be too large and reach into other objects; the dataset is not opened for training.",
            "Subtract the first two numbers from the last two: COCO has x, y, width, height.",
        ),
        "box_unknown_class": (
            "error",
            "is of an unknown class",
            "An object without a class would be learned as background; the dataset is not opened for training.",
            "Name the class in the list of classes, or mend its spelling in the box.",
        ),
        "box_partly_outside": (
            "warning",
            "reaches beyond the image and is cut at its edge",
            "A box that is cut has another size and centre than was meant.",
            "Cut them where an object reaches beyond the image; else look for a shift or a scale.",
        ),
    }
)


def _ids(dataset: Dataset) -> dict[str, str]:
    """Each case's identifier by itself and by the paths of its images."""
    ids = {case.id: case.id for case in dataset}
    for case in dataset:
        ids.update({ref.path: case.id for ref in case.inputs.values() if ref is not None})
    return ids


def cases_refused(errors: Sequence[BoxError], dataset: Dataset) -> frozenset[str]:
    """Identifiers of the cases of which boxes were left out while a dataset was opened; one that was cut is there.

    Args:
        errors: As ``refused_boxes`` takes them.
        dataset: What was opened.
    """
    ids = _ids(dataset)
    left_out = (error.case for error in errors if _FINDINGS[error.code][0] == "error")
    return frozenset(ids[case] for case in left_out if case in ids)


def refused_boxes(errors: Sequence[BoxError], dataset: Dataset) -> list[Issue]:
    """Findings for boxes that were refused or cut while a dataset was opened (``medmap.layouts.gathering``).

    Args:
        errors: In the order in which they were met.
        dataset: What was opened, without the refused boxes.

    Returns:
        A finding a kind, the worst first; each lists the first hundred boxes with their places.
    """
    ids = _ids(dataset)
    by_code: dict[str, list[BoxError]] = defaultdict(list)
    for error in errors:
        by_code[error.code].append(error)
    found = []
    for code, rows in by_code.items():
        severity, what, effect, remedy = _FINDINGS[code]
        cases = tuple(dict.fromkeys(ids[e.case] for e in rows if e.case in ids))
        found.append(
            Issue(
                code,
                severity,
                f"{counted(len(rows), 'box', 'boxes')}: each {what}; the first: {rows[0]}"
                if len(rows) > 1
                else f"1 box {what}: {rows[0]}",
                effect,
                remedy,
                cases,
                {"rows": [{"case": ids.get(e.case or ""), "place": e.what, "got": _plain(e.got)} for e in rows[:ROWS]]},
            )
        )
    return worst_first(found)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
