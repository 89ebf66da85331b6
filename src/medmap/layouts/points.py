"""Boxes from points: a table of centres in world millimetres and diameters, beside images that are opened otherwise.

::

    case,x,y,z,diameter_mm[,label]
    CT_001,-61.2,14.9,-310.5,6.4,nodule
    CT_002,,,,,

``x, y, z`` are LPS millimetres, as DICOM has them. ``radius_mm`` may stand for ``diameter_mm``. A row with a case alone
says that somebody looked and found nothing; a case without a row was not looked at. LUNA16's own names of columns
(``seriesuid, coordX …``) are known; its whole folders are a layout (``luna.py``), in which every scan was looked at.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medmap.dataset import Case, Dataset, Truth
from medmap.errors import DatasetError
from medmap.geometry import Geometry
from medmap.layouts.boxes import Corners, Fitting
from medmap.layouts.luna import corners_of_ball
from medmap.layouts.naming import natural_key
from medmap.layouts.table import Table, read_table
from medmap.read import open_header
from medmap.results import Label

_ALIASES = {
    "seriesuid": "case", "coordx": "x", "coordy": "y", "coordz": "z", "class": "label", "diameter": "diameter_mm",
}  # fmt: skip
_PLACE = ("x", "y", "z")
FINDING = "finding"
MOST_MM = 1000.0

Point = tuple[tuple[float, float, float], float, str, str]  # centre, diameter, class, place in the table


def boxes_from_points(dataset: Dataset, table: str | Path) -> Dataset:
    """The dataset with a box around each ball of a table; reads the table and the headers of images with points.

    Args:
        dataset: Volumes with a patient's millimetres; what truth it has is replaced.
        table: A CSV file as above.

    Raises:
        DatasetError: Columns that are missing, cases that are not there, coordinates that are no numbers, a class that
            the dataset does not name, an image without millimetres, a ball outside its image.
        ReadError: A table or header that cannot be read.
    """
    rows = read_table(Path(table))
    found = _points(rows)
    have = {case.id for case in dataset}
    strangers = [name for name in found if name not in have]
    if strangers:
        raise DatasetError(
            f"{rows.path} has points of {len(strangers)} cases that are not in the dataset",
            got=", ".join(strangers[:3]),
            expected=", ".join(sorted(have, key=natural_key)[:3]) + " …",
        )
    labels = dataset.labels if dataset.task == "detect" else ()
    if not labels:
        named = {name or FINDING for points in found.values() for _, _, name, _ in points}
        labels = tuple(Label(name) for name in sorted(named, key=natural_key)) or (Label(FINDING),)
    index = {label.name: i for i, label in enumerate(labels)}
    if len(labels) == 1:
        index[""] = 0  # a table without classes
    elif FINDING in index:
        index[""] = index[FINDING]
    fitting = Fitting(str(rows.path))
    cases = tuple(_told(dataset, case, found.get(case.id), index, fitting) for case in dataset)
    fitting.warn()
    return replace(
        dataset, task="detect", cases=cases, labels=labels, kind="multiclass", positive=None, regions={}, ignore=None,
        mirror_pairs=(), hashes={},
    )  # fmt: skip


def _points(table: Table) -> dict[str, list[Point]]:
    names = [_ALIASES.get(name.lower(), name.lower()) for name in table.header]
    at = {name: i for i, name in enumerate(names)}
    size = "diameter_mm" if "diameter_mm" in at else "radius_mm"
    missing = [name for name in ("case", *_PLACE, size) if name not in at]
    if missing:
        raise DatasetError(
            f"{table.path} lacks columns",
            got=", ".join(table.header[:20]),
            expected="case, x, y, z, diameter_mm (or radius_mm)",
        )
    found: dict[str, list[Point]] = defaultdict(list)
    for n, row in enumerate(table.rows):
        cells = [row[at[name]] for name in (*_PLACE, size)]
        points = found[row[at["case"]]]
        if not any(cells):
            continue  # looked at, nothing found
        try:
            x, y, z, given = map(float, cells)
        except ValueError as error:
            raise DatasetError(f"{table.where(n)}: a coordinate is no number", got=str(error)) from error
        diameter = given if size == "diameter_mm" else 2 * given
        if not all(map(math.isfinite, (x, y, z))) or not 0 < diameter < MOST_MM:
            raise DatasetError(f"{table.where(n)}: no position and size in mm", got=(x, y, z, given))
        name = row[at["label"]] if "label" in at else ""
        points.append(((x, y, z), diameter, name, table.where(n)))
    return found


def _told(
    dataset: Dataset, case: Case, points: Sequence[Point] | None, index: dict[str, int], fitting: Fitting
) -> Case:
    if points is None:
        return replace(case, truth=Truth())
    if not points:
        return replace(case, truth=Truth(True, boxes=()))
    ref = next((r for name in dataset.inputs if (r := case.inputs.get(name)) is not None), None)
    if ref is None:
        raise DatasetError("points of a case that has no image", case=case.id)
    grid = open_header(dataset.resolve(ref), ref.member).geometry
    boxes = tuple(box for point in points if (box := _box(case, grid, point, index, fitting)) is not None)
    return replace(case, truth=Truth(True, boxes=boxes))


def _box(
    case: Case, grid: Geometry, point: Point, index: dict[str, int], fitting: Fitting
) -> tuple[Corners, int] | None:
    centre, diameter, name, where = point
    if grid.ndim != 3 or grid.kind != "patient":
        raise DatasetError(
            "points in a patient's millimetres need a volume of a patient",
            got=f"{grid.ndim} axes, {grid.kind} coordinates",
            remedy="write boxes in index coordinates into cases.csv",
            case=case.id,
        )
    if name not in index:
        raise DatasetError(f"{where}: unknown class", got=name or "none", expected=", ".join(filter(None, index)))
    corners = fitting.fit(corners_of_ball(grid, centre, diameter), grid.shape, f"{case.id}, {where}", case.id)
    return None if corners is None else (corners, index[name])
