"""The table of structures as ``predictions.csv``: one row a case and structure, read back to the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medmap.config import write_atomically
from medmap.errors import MedmapError, ReadError
from medmap.evaluate.csvfile import (
    cell_of,
    clinical_cell,
    clinical_columns,
    joined,
    optional_text,
    plain_text,
    read_rows,
    text_cell,
)
from medmap.evaluate.structures import PREDICTION, StructureTable
from medmap.metrics import LesionCounts, MaskScores

CASE = ("case", "patient", "split", "fold", "structure", "rater")
DERIVED = (
    "dice",
    "iou",
    "volume_truth_ml",
    "volume_prediction_ml",
    "volume_error_ml",
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
)
COUNTED = ("truth_voxels", "prediction_voxels", "common_voxels")
MEASURED = ("hd95_mm", "assd_mm", "nsd", "tolerance_mm", "voxel_ml")
LESIONS = ("truth", "prediction", "found", "confirmed")
NEEDED = (*CASE, *COUNTED, *MEASURED, *(f"lesions_{name}" for name in LESIONS))


def structures_text(table: StructureTable) -> str:
    """The text of ``predictions.csv`` of a segmentation."""
    header = [*CASE, *DERIVED, *MEASURED, *COUNTED, *(f"lesions_{name}" for name in LESIONS), "site"]
    lines = [[text_cell(name) for name in (*header, *(f"column_{name}" for name in table.columns))]]
    for row, score in enumerate(table.scores):
        of_case = (table.cases[row], table.patients[row], table.splits[row], table.folds[row])
        numbers = [getattr(score, name) for name in (*DERIVED, *MEASURED, *COUNTED)]
        counts = [getattr(score.lesions, name) for name in LESIONS]
        cells = [*of_case, score.structure, table.raters[row], *numbers, *counts, table.sites[row]]
        clinical = [clinical_cell(values[row]) for values in table.columns.values()]
        lines.append([*map(cell_of, cells), *clinical])
    return joined(lines)


def write_structures(table: StructureTable, path: str | Path) -> None:
    """Write ``predictions.csv``, whole or not at all.

    Columns: case, patient, split, fold, structure, rater; the measures; the counts they follow from; site, and each
    clinical column as ``column_<name>``.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    write_atomically(path, structures_text(table).encode("utf-8", "backslashreplace"))


def read_structures(path: str | Path) -> StructureTable:
    """Read the table back.

    Args:
        path: The file, or the folder that ``predictions.csv`` stands in.

    Raises:
        ReadError: Absent, unreadable, no such table, a cell that cannot be read, a measure that does not follow from
            its counts.
        DataError: Rows that contradict each other.
    """
    path = Path(path)
    path = path / "predictions.csv" if path.is_dir() else path
    header, rows = read_rows(path)
    missing = [name for name in NEEDED if name not in header]
    if missing or not rows:
        raise ReadError(
            f"{path} is no table of structures",
            got=f"{len(rows)} rows; missing columns: {', '.join(missing) or 'none'}",
            expected=", ".join(NEEDED),
            remedy="give the folder that medmap evaluate wrote for a segmentation",
        )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    scores = []
    for row in range(len(rows)):
        try:
            scores.append(_score({name: cells[row] for name, cells in columns.items()}))
        except (ValueError, MedmapError) as error:
            raise ReadError(f"{path}, row {row + 2} cannot be read", got=str(error)) from error
    absent = ("",) * len(rows)
    try:
        folds = tuple(int(cell) if cell else None for cell in columns["fold"])
    except ValueError as error:
        raise ReadError(f"{path} has a fold that is no number", got=str(error)) from error
    return StructureTable(
        cases=tuple(map(plain_text, columns["case"])),
        patients=tuple(map(plain_text, columns["patient"])),
        scores=tuple(scores),
        raters=tuple(plain_text(cell) or PREDICTION for cell in columns["rater"]),
        splits=tuple(map(optional_text, columns["split"])),
        folds=folds,
        sites=tuple(map(optional_text, columns.get("site", absent))),
        columns=clinical_columns(columns),
    )


def _score(cells: Mapping[str, str]) -> MaskScores:
    hd95_mm, assd_mm, nsd, tolerance_mm, voxel_ml = (float(cells[name]) if cells[name] else None for name in MEASURED)
    truth, prediction, common = (int(cells[name]) for name in COUNTED)
    lesions = LesionCounts(*(int(cells[f"lesions_{name}"]) for name in LESIONS))
    name = plain_text(cells["structure"])
    score = MaskScores(name, truth, prediction, common, hd95_mm, assd_mm, nsd, tolerance_mm, voxel_ml, lesions)
    for name in DERIVED:
        said = float(cells[name]) if cells.get(name) else None
        follows = getattr(score, name)
        if name in cells and (
            (said is None) != (follows is None)
            or (said is not None and follows is not None and not abs(said - follows) <= 1e-9 * max(1.0, abs(follows)))
        ):
            raise ValueError(f"{name} is {said}, but {follows} follows from the counts")
    return score
