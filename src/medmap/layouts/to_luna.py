"""LUNA16 written: volumes as ``.mha``, boxes as the balls they hold, in world millimetres."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from medmap.dataset import Case, Dataset
from medmap.errors import DatasetError
from medmap.geometry import Geometry
from medmap.layouts.boxes import Corners
from medmap.layouts.kept import KEPT_TABLE, kept_table
from medmap.layouts.luna import ANNOTATIONS, EXCLUDED, corners_of_ball
from medmap.layouts.placing import Placing, safe_name
from medmap.layouts.to_pictures import partly_annotated_note
from medmap.read import open_header

ENDING = ".mha"
HEADER = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
CLASS, INPUT, MODALITY = "nodule", "image", "CT"  # what the layout's reader calls them
EXACT = 1e-6  # voxels
SCANS = "scans"  # folder of cases without a fold, beside subset0 …


def ball_of_corners(geometry: Geometry, corners: Corners) -> tuple[tuple[float, float, float], float, bool]:
    """Centre (LPS mm) and diameter (mm) of the ball in a box, and whether the box is the ball's own.

    A box that is no ball's gives the ball whose diameter is the geometric mean of its edges in mm.

    Example:
        >>> grid = Geometry.from_spacing((20, 20, 20), (1.0, 1.0, 2.0))
        >>> centre, diameter, exact = ball_of_corners(grid, corners_of_ball(grid, (8.0, 9.0, 20.0), 6.0))
        >>> [round(v, 6) for v in (*centre, diameter)], exact
        ([8.0, 9.0, 20.0, 6.0], True)
    """
    low, high = np.asarray(corners[:3]), np.asarray(corners[3:])
    x, y, z = (float(v) for v in geometry.to_world([(low + high) / 2])[0])
    reach = np.linalg.norm(np.linalg.inv(geometry.affine_lps_mm)[:3, :3], axis=1)  # voxels a mm reaches along each axis
    edges_mm = (high - low + 1) / reach
    seen = edges_mm[high > low]  # a ball below a voxel leaves no trace along that axis
    diameter = float(seen.mean()) if len(seen) else float(edges_mm.min())
    again = np.asarray(corners_of_ball(geometry, (x, y, z), diameter))
    if np.abs(again - np.asarray(corners)).max() <= EXACT:
        return (x, y, z), diameter, True
    return (x, y, z), float(np.prod(edges_mm) ** (1 / 3)), False


def write_luna(dataset: Dataset, placing: Placing) -> list[str]:
    """Place a dataset of volumes and boxes of one class in LUNA16's layout. Ignored boxes are excluded annotations.

    Raises:
        DatasetError: Several classes or inputs, a case without its volume or that nobody has looked at, pictures.
    """
    if len(dataset.inputs) != 1 or len(dataset.labels) != 1:
        raise DatasetError(
            "LUNA16 holds one volume a case and one class",
            got=f"inputs {', '.join(dataset.inputs)}; classes {', '.join(dataset.label_names)}",
            remedy="choose one of each, or export to coco, nndetection's masks or medmap's own",
        )
    ((name, spec),) = dataset.inputs.items()
    tables: dict[str, list[tuple[object, ...]]] = {ANNOTATIONS: [HEADER], EXCLUDED: [HEADER]}
    changed = 0
    for case in dataset:
        grid = _placed(case, name, placing, _folder(case))
        for file, boxes in ((ANNOTATIONS, case.truth.boxes or ()), (EXCLUDED, case.truth.ignored)):
            for corners, _ in boxes:
                centre, diameter, exact = ball_of_corners(grid, corners)
                changed += not exact
                tables[file].append((case.id, *(repr(v) for v in (*centre, diameter))))
    placing.text(ANNOTATIONS, _csv(tables[ANNOTATIONS]))
    if len(tables[EXCLUDED]) > 1:
        placing.text(EXCLUDED, _csv(tables[EXCLUDED]))
    placing.text(KEPT_TABLE, kept_table(dataset))
    notes = partly_annotated_note(dataset)
    if changed:
        total = sum(len(rows) - 1 for rows in tables.values())
        notes.append(f"{changed} of {total} boxes are no ball's: each became the ball of its mean edge")
    label = dataset.labels[0]
    if (label.name, label.code) != (CLASS, None) or name != INPUT or spec.modality not in (None, MODALITY):
        notes.append(f"opened again, the class is {CLASS} and the input {INPUT} ({MODALITY}), as the layout has them")
    return notes


def _folder(case: Case) -> str:
    fold = case.columns.get("fold")
    return f"subset{int(fold)}" if isinstance(fold, float) and fold == int(fold) and fold >= 0 else SCANS


def _placed(case: Case, name: str, placing: Placing, folder: str) -> Geometry:
    """Place a case's volume and give its grid."""
    ref = case.inputs.get(name)
    if ref is None:
        raise DatasetError("a case without its volume cannot be in LUNA16's layout", case=case.id)
    if case.truth.boxes is None:
        raise DatasetError(
            "in LUNA16's layout every scan was looked at", got="a case that nobody has annotated",
            remedy="leave it out, or write [] where somebody looked and found nothing", case=case.id,
        )  # fmt: skip
    grid = open_header(placing.dataset.resolve(ref), ref.member).geometry
    if grid.ndim != 3 or grid.kind != "patient":
        raise DatasetError("LUNA16 holds volumes of patients", got=f"{grid.ndim} axes, {grid.kind}", case=case.id)
    target = f"{folder}/{safe_name(case.id, case.id)}{ENDING}"
    if placing.fits(ref, ENDING):
        placing.same(ref, target)
    else:
        placing.image(placing.read(ref), target)
    return grid


def _csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
