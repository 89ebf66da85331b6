"""Two evaluations by their files alone: which kind they are, and who compares them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medmap.errors import DataError
from medmap.evaluate.compare import ComparisonReport, compare_tables
from medmap.evaluate.csvfile import read_predictions, read_rows
from medmap.evaluate.detections import DetectionTable
from medmap.evaluate.detections_compare import compare_detections
from medmap.evaluate.detections_csv import read_detections
from medmap.evaluate.outcome import Table
from medmap.evaluate.structures import StructureTable
from medmap.evaluate.structures_compare import compare_structures
from medmap.evaluate.structures_csv import read_structures
from medmap.evaluate.table import PredictionTable

Paths = str | Path

# what an evaluation is of: a column that only its table has, and what reads it
_KINDS: dict[str, tuple[str, Callable[[Paths], Table]]] = {
    "masks": ("structure", read_structures),
    "boxes": ("box", read_detections),
    "scores": ("kind", read_predictions),
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
        raise _unlike(f"{folder_b}: {second}", f"{first}, as in {folder_a}", (first, second))
    found = compare_any(read_table(folder_a), read_table(folder_b), str(folder_a), str(folder_b))
    one, other = _bundle(folder_a), _bundle(folder_b)
    if one is None or one != other:
        return found
    said = (
        f"Both evaluations are of the same bundle ({one}): a difference comes from rounding in another engine or "
        "precision, or from another way of asking it, not from another model. A small p says that such a difference "
        "repeats from patient to patient, not that it matters."
    )
    return replace(found, warnings=(said, *found.warnings))


def read_table(folder: Paths) -> Table:
    """The table of an evaluation, of whichever kind it is.

    Args:
        folder: An evaluation's folder, or its ``predictions.csv``.

    Raises:
        ReadError: Absent, or no table of predictions.
        DataError: Rows that contradict each other.
    """
    return _KINDS[_kind(folder)][1](folder)


def compare_any(a: Table, b: Table, name_a: str = "a", name_b: str = "b") -> ComparisonReport:
    """Compare two tables of one kind on the cases that both have, each metric by its paired test.

    Raises:
        DataError: Two of different kinds, nothing in common, other classes, or another truth for the same case.
    """
    if isinstance(a, PredictionTable) and isinstance(b, PredictionTable):
        return compare_tables(a, b, name_a, name_b)
    if isinstance(a, StructureTable) and isinstance(b, StructureTable):
        return compare_structures(a, b, name_a, name_b)
    if isinstance(a, DetectionTable) and isinstance(b, DetectionTable):
        return compare_detections(a, b, name_a, name_b)
    first, second = _kind_of(a), _kind_of(b)
    raise _unlike(f"{name_b}: {second}", f"{first}, as in {name_a}", (first, second))


def _unlike(got: str, expected: str, kinds: tuple[str, str]) -> DataError:
    return DataError(
        f"an evaluation of {' and one of '.join(sorted(kinds))} cannot be compared",
        got=got,
        expected=expected,
        remedy="give two evaluations of the same task",
    )


def _kind_of(table: Table) -> str:
    return "masks" if isinstance(table, StructureTable) else "boxes" if isinstance(table, DetectionTable) else "scores"


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
