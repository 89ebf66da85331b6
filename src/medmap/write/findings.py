"""Boxes as tables: one row a box, COCO's results, LUNA16's submission.

All three are made of an answer's plain values (``Boxes.as_json``), so that answers read back from their files give the
same tables. They hold every box, the called ones and those below the operating point: whoever judges needs both.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medmap.errors import UsageError

CORNERS = ("i0", "j0", "k0", "i1", "j1", "k1")
COLUMNS = ("case", "label", "score", "called", *CORNERS, "centre_mm", "size_mm", "first_slice", "last_slice", "files")
LUNA16_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "probability")
_SCAN = re.compile(r"\.(mhd|mha)$", re.IGNORECASE)
Answer = Mapping[str, Any]


def boxes_table(answers: Iterable[tuple[str, Answer, Sequence[str]]]) -> str:
    """CSV, a row a box: corners in index, centre (LPS) and edges in mm, and the slices of volumes.

    Args:
        answers: Case, its boxes as JSON, and the names of the case's files. A case without a box has no row.

    Example:
        >>> box = {"index": [0, 1, 2, 3], "centre_mm": None, "size_mm": None, "label": "cell", "score": 0.5,
        ...        "called": True, "first_slice": None, "last_slice": None}
        >>> print(boxes_table([("a", {"boxes": [box]}, ["0.json"])]).splitlines()[1])
        a,cell,0.5,yes,0,1,,2,3,,,,,,0.json
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for case, answer, files in answers:
        for box in answer["boxes"]:
            n = len(box["index"]) // 2
            low, high = ([*map(_short, part), *[""] * (3 - n)] for part in (box["index"][:n], box["index"][n:]))
            more = [" ".join(map(_short, box[name] or ())) for name in ("centre_mm", "size_mm")]
            slices = ["" if box.get(name) is None else box[name] for name in ("first_slice", "last_slice")]
            called = "yes" if box["called"] else "no"
            told = [case, box["label"], repr(float(box["score"])), called]
            rows.writerow([*told, *low, *high, *more, *slices, " | ".join(files)])
    return text.getvalue()


def _short(value: float) -> str:
    """A coordinate to a thousandth of a voxel or of a millimetre; more is noise."""
    return f"{round(value, 3) + 0.0:.10g}"


def coco_results(answers: Iterable[tuple[int, Answer]], categories: Mapping[str, int]) -> str:
    """COCO's results (cocodataset.org, format-results): ``x, y, width, height`` in pixels from the outer corner.

    Args:
        answers: ``image_id`` and the boxes as JSON.
        categories: Class → ``category_id``.

    Raises:
        UsageError: Boxes of volumes.
    """
    rows = [
        {"image_id": image, "category_id": categories[box["label"]], "bbox": _bbox(box), "score": box["score"]}
        for image, answer in answers
        for box in answer["boxes"]
    ]
    return "[" + ",\n ".join(json.dumps(row, allow_nan=False) for row in rows) + "]\n"


def _bbox(box: Mapping[str, Any]) -> list[float]:
    require_planes(box)
    top, left, bottom, right = box["index"]
    return [left, top, right - left + 1, bottom - top + 1]


def require_planes(box: Mapping[str, Any]) -> None:
    """Refuse a box that COCO cannot hold.

    Raises:
        UsageError: It has three axes.
    """
    if len(box["index"]) != 4:
        raise UsageError(
            "COCO holds boxes of pictures", got=f"{len(box['index']) // 2} axes", remedy="choose csv or luna16"
        )


def luna16_submission(answers: Iterable[tuple[str, Answer]]) -> str:
    """LUNA16's submission (luna16.grand-challenge.org, evaluation): a row a finding, its centre in LPS mm.

    Args:
        answers: Case (the scan's series UID, as the layout names it) and the boxes as JSON.

    Raises:
        UsageError: Boxes of pictures, or without a place in millimetres.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(LUNA16_COLUMNS)
    for case, answer in answers:
        for box in answer["boxes"]:
            require_world(box)
            rows.writerow([_SCAN.sub("", case), *map(repr, box["centre_mm"]), repr(float(box["score"]))])
    return text.getvalue()


def require_world(box: Mapping[str, Any]) -> None:
    """Refuse a box that LUNA16 cannot hold.

    Raises:
        UsageError: It lies in a picture, or has no place in millimetres.
    """
    if len(box["index"]) != 6 or box["centre_mm"] is None:
        got = f"{len(box['index']) // 2} axes" + ("" if box["centre_mm"] else ", no millimetres")
        raise UsageError("LUNA16 holds findings of volumes in millimetres", got=got, remedy="choose csv or coco")


def require_one_class(labels: Sequence[str]) -> None:
    """Refuse several classes where LUNA16 has no column for them.

    Raises:
        UsageError: There are several.
    """
    if len(labels) != 1:
        raise UsageError("LUNA16's submission knows one class", got=", ".join(labels), remedy="choose csv or coco")
