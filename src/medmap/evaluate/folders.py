"""Two evaluations by their files alone: which kind they are, and who compares them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
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
    found = _KINDS[first][1](folder_a, folder_b)
    one, other = _bundle(folder_a), _bundle(folder_b)
    if one is None or one != other:
        return found
    said = (
        f"Both evaluations are of the same bundle ({one}): a difference comes from rounding in another engine or "
        "precision, or from another way of asking it, not from another model. A small p says that such a difference "
        "repeats from patient to patient, not that it matters."
    )
    return replace(found, warnings=(said, *found.warnings))


def _bundle(folder: Paths) -> str | None:
    """The digest of what was evaluated, as ``metrics.json`` beside the predictions has it; None where it does not."""
    path = Path(folder)
    path = (path if path.is_dir() else path.parent) / "metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the predictions alone are enough for a comparison
        return None
    digest = (found.get("bundles") or found.get("bundle")) if isinstance(found, dict) else None
    if isinstance(digest, list):
        return ", ".join(map(str, digest)) or None
    return digest if isinstance(digest, str) else None


def _kind(folder: Paths) -> str:
    """What an evaluation is of; a table that is none of them is taken for scores, whose reader says what is missing."""
    path = Path(folder)
    header, _ = read_rows(path / "predictions.csv" if path.is_dir() else path)
    return next((kind for kind, (column, _) in _KINDS.items() if column in header), "scores")
