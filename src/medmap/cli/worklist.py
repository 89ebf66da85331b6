"""``worklist.csv``: predicted cases for a person to look through, the least sure first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "worklist.csv"
COLUMNS = (
    "rank", "case", "uncertainty", "expected_dice", "probable_dice", "structures", "volume_ml", "input", "files",
    "warnings",
)  # fmt: skip


def worklist(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of the table; None where fewer than two cases were answered, or none says how sure it is.

    Args:
        rows: Of the index: ``case``, ``input``, ``files``, ``outputs``, ``warnings``, ``error`` and, of masks whose
            Dice is foretold, ``expected_dice``; where a bundle foretells none, ``probable_dice`` gives the order.
            Cases whose mask is empty have neither: they come first, for nothing was found to be sure of.

    Example:
        >>> row = {"error": None, "outputs": {}}
        >>> rows = [{**row, "case": "a", "expected_dice": 0.9}, {**row, "case": "b", "expected_dice": 0.7}]
        >>> print((worklist(rows) or "").splitlines()[1])
        1,b,0.3,0.7,,,,,,
    """
    answered = [row for row in rows if not row["error"]]
    known = any(row.get("expected_dice") is not None for row in answered)
    by = "expected_dice" if known else "probable_dice"
    if len(answered) < 2 or all(row.get(by) is None for row in answered):
        return None
    order = sorted(answered, key=lambda row: -1.0 if row.get(by) is None else row[by])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, row in enumerate(order, start=1):
        found = [one for output in row["outputs"].values() for one in output.get("structures", ())]
        there = [one for one in found if one.get("voxels")]
        volumes = [one["volume_ml"] for one in there if one.get("volume_ml") is not None]
        dice = row.get(by)
        sure = [_number(None if dice is None else 1 - dice)]
        sure += [_number(row.get(name)) for name in ("expected_dice", "probable_dice")]
        volume = f"{sum(volumes):.6g}" if volumes else ""
        names = ";".join(str(one["label"]) for one in there)
        told = [" | ".join(row.get(key) or ()) for key in ("files", "warnings")]
        writer.writerow([rank, row["case"], *sure, names, volume, row.get("input", ""), *told])
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
