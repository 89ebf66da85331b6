"""Two evaluations by their files alone: which kind they are, and who compares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medmap.errors import DataError
from medmap.evaluate.compare import ComparisonReport, compare_tables
from medmap.evaluate.csvfile import read_predictions, read_rows
from medmap.evaluate.detections_compare import compare_detection_folders
from medmap.evaluate.structures_compare import compare_structure_folders

Paths = str | Path


def _score_folders(folder_a: Paths, folder_b: Paths) -> ComparisonReport:
    return compare_tables(read_predictions(folder_a), read_predictions(folder_b), str(folder_a), str(folder_b))


# what an evaluation is of: a column that only its table has, and what compares two
_KINDS: dict[str, tuple[str, Callable[[Paths, Paths], ComparisonReport]]] = {
    "masks": ("structure", compare_structure_folders),
    "boxes": ("box", compare_detection_folders),
    "scores": ("kind", _score_folders),
}


def compare(folder_a: Paths, folder_b: Paths) -> ComparisonReport:
    """Compare two evaluations, of scores, of masks or of boxes, by their ``predictions.csv`` alone.

    Args:
        folder_a: An evaluation's folder, or its ``predictions.csv``.
        folder_b: Another one.

    Raises:
        ReadError: A file that is absent or no table of predictions.
        DataError: Two of different kinds, nothing in common, other classes, or another truth for the same case.
    """
    first, second = _kind(folder_a), _kind(folder_b)
    if first != second:
        raise DataError(
            f"an evaluation of {' and one of '.join(sorted((first, second)))} cannot be compared",
            got=f"{folder_b}: {second}",
            expected=f"{first}, as in {folder_a}",
            remedy="give two evaluations of the same task",
        )
    return _KINDS[first][1](folder_a, folder_b)


def _kind(folder: Paths) -> str:
    """What an evaluation is of; a table that is none of them is taken for scores, whose reader says what is missing."""
    path = Path(folder)
    header, _ = read_rows(path / "predictions.csv" if path.is_dir() else path)
    return next((kind for kind, (column, _) in _KINDS.items() if column in header), "scores")
