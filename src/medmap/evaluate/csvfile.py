"""``predictions.csv``: the prediction table as a file that people open in a spreadsheet and ``compare`` reads back.

A cell of text that a spreadsheet could take for a formula is written with a leading apostrophe, the spreadsheets' own
sign for text, and read back without it; so is a clinical column's text that looks like a number. Numbers are written so
that reading gives the same bits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from medmap.config import write_atomically
from medmap.dataset import COLUMN_TYPES
from medmap.errors import DataError, ReadError
from medmap.evaluate.table import SCORE_KINDS, TRUTH_BY_LABEL, PredictionTable
from medmap.results import ScoreKind

FIXED = ("case", "patient", "split", "fold", "truth", "predicted", "threshold")
EXTRA = ("kind", "positive", "abstained", "site")
# what spreadsheets take for the start of a formula (OWASP, CSV injection), full-width forms too; ' is the escape itself
_FORMULA = tuple("=+-@\t\r\n'＝＋－＠")
LIMIT_BYTES = 2**30


def text_cell(text: str) -> str:
    """Text as a cell that no spreadsheet calculates.

    Example:
        >>> text_cell("=1+1"), text_cell("0017"), text_cell("left eye")
        ("'=1+1", '0017', 'left eye')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def plain_text(cell: str) -> str:
    """The text of a cell, without the sign that kept a spreadsheet from calculating it.

    Example:
        >>> plain_text("'=1+1"), plain_text("left eye")
        ('=1+1', 'left eye')
    """
    return cell.removeprefix("'")


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]) -> str:
    """A CSV file's text (RFC 4180, LF): text cells made safe, numbers exact, None empty."""
    return joined([[text_cell(name) for name in header], *([cell_of(value) for value in row] for row in rows)])


def joined(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as the text of a file."""
    return "\n".join(",".join(map(_quoted, row)) for row in rows) + "\n"


def cell_of(value: str | float | int | None) -> str:
    """A value as a cell: text made safe, numbers exact, None empty."""
    if value is None:
        return ""
    return text_cell(value) if isinstance(value, str) else repr(value)


def clinical_cell(value: COLUMN_TYPES) -> str:
    """A clinical column's value as a cell: text that looks like a number is marked as text."""
    if isinstance(value, str) and (not value or _number(value) is not None):
        return f"'{value}"
    return cell_of(value)


def _quoted(cell: str) -> str:
    doubled = cell.replace('"', '""')
    return f'"{doubled}"' if any(sign in cell for sign in '",\r\n\0') or cell != cell.strip() else cell


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def write_predictions(table: PredictionTable, path: str | Path) -> None:
    """Write ``predictions.csv``, whole or not at all.

    Columns: case, patient, split, fold, truth, predicted, threshold; then per class ``score_<label>``; then
    ``uncalibrated_<label>``, ``spread_<label>`` and (multi-label, regression) ``truth_<label>`` where there are such;
    then kind, positive, abstained, site, and each clinical column as ``column_<name>``.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    text = predictions_text(table)
    # a lone surrogate (an undecodable file name) becomes readable instead of stopping the writing
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def predictions_text(table: PredictionTable) -> str:
    """The text of ``predictions.csv``."""
    per_label: list[tuple[str, np.ndarray[Any, Any]]] = [("score_", table.scores)]
    per_label += [(f"{k}_", v) for k in ("uncalibrated", "spread") if (v := getattr(table, k)) is not None]
    if table.kind in TRUTH_BY_LABEL:
        per_label.append(("truth_", table.truth))
    header = [*FIXED, *(prefix + name for prefix, _ in per_label for name in table.labels), *EXTRA]
    header += [f"column_{name}" for name in table.columns]
    threshold = _threshold(table)
    rows = []
    for row in range(len(table)):
        numbers = [None if np.isnan(v) else float(v) for _, values in per_label for v in values[row]]
        rows.append(
            [
                table.cases[row],
                table.patients[row],
                table.splits[row],
                table.folds[row],
                _truth(table, row),
                _predicted(table, row),
                threshold,
                *numbers,
                table.kind,
                table.positive_name,
                "yes" if np.asarray(table.abstained)[row] else "no",
                table.sites[row],
            ]
        )
    clinical = [[clinical_cell(values[row]) for values in table.columns.values()] for row in range(len(table))]
    cells = [[*map(cell_of, row), *more] for row, more in zip(rows, clinical, strict=True)]
    return joined([[text_cell(name) for name in header], *cells])


def _threshold(table: PredictionTable) -> str | float | None:
    if table.thresholds is None:
        return None
    return ";".join(map(repr, table.thresholds)) if table.threshold is None else table.threshold


def _truth(table: PredictionTable, row: int) -> str | float | None:
    if table.kind not in TRUTH_BY_LABEL:
        return table.labels[int(table.truth[row])]
    if table.kind == "multilabel":
        return ";".join(n for n, v in zip(table.labels, table.truth[row], strict=True) if v == 1) or None
    return None if len(table.labels) > 1 or np.isnan(table.truth[row, 0]) else float(table.truth[row, 0])


def _predicted(table: PredictionTable, row: int) -> str | float | None:
    if table.kind == "regression":
        return float(table.scores[row, 0]) if len(table.labels) == 1 else None
    return ";".join(table.decided[row]) or None


def read_predictions(path: str | Path) -> PredictionTable:
    """Read ``predictions.csv`` back.

    Args:
        path: The file, or the folder it stands in.

    Raises:
        ReadError: Absent, unreadable, no such table, a cell that cannot be read.
        DataError: Its values contradict each other.
    """
    path = Path(path)
    path = path / "predictions.csv" if path.is_dir() else path
    header, rows = read_rows(path)
    labels = tuple(name.removeprefix("score_") for name in header if name.startswith("score_"))
    missing = [name for name in (*FIXED, "kind") if name not in header]
    if missing or not labels or not rows:
        raise ReadError(
            f"{path} is no table of predictions",
            got=f"{len(rows)} rows; missing columns: {', '.join(missing) or 'none'}; {len(labels)} scores",
            expected=f"{', '.join((*FIXED, 'kind', 'score_<label>'))}",
            remedy="give the folder that medmap evaluate wrote",
        )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    kind = columns["kind"][0]
    if kind not in SCORE_KINDS or len(set(columns["kind"])) > 1:
        raise ReadError(f"{path} has an unknown kind of scores", got=sorted(set(columns["kind"])), expected=SCORE_KINDS)
    try:
        return _table(columns, labels, cast(ScoreKind, kind))
    except (KeyError, ValueError) as error:
        raise ReadError(f"{path} has a cell that cannot be read", got=str(error)) from error


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of a file's columns, and its rows of cells.

    Raises:
        ReadError: Absent, too large, unreadable, empty, or with rows of different lengths.
    """
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ReadError(f"{path} is too large", got=f"{path.stat().st_size} bytes", expected=LIMIT_BYTES)
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        lines = [row for row in reader if row]
    except FileNotFoundError as error:
        raise ReadError(f"{path} does not exist", remedy="run medmap evaluate first") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError(f"{path} cannot be read as CSV", got=str(error)) from error
    if not lines or len(set(lines[0])) < len(lines[0]):
        raise ReadError(f"{path} is empty or names a column twice")
    for number, row in enumerate(lines[1:], start=2):
        if len(row) != len(lines[0]):
            raise ReadError(f"{path}, row {number} has {len(row)} cells", expected=len(lines[0]))
    return [plain_text(name) for name in lines[0]], lines[1:]


def _table(columns: Mapping[str, Sequence[str]], labels: tuple[str, ...], kind: ScoreKind) -> PredictionTable:
    n = len(columns["case"])

    def numbers(prefix: str) -> Any:
        if f"{prefix}_{labels[0]}" not in columns:
            return None
        return np.array(
            [[float(cell or "nan") for cell in columns[f"{prefix}_{name}"]] for name in labels], dtype=np.float64
        ).T

    index = {name: number for number, name in enumerate(labels)}

    def optional(name: str) -> list[str | None]:
        return [optional_text(cell) for cell in columns.get(name, [""] * n)]

    truth = numbers("truth") if kind in TRUTH_BY_LABEL else np.array([index[plain_text(c)] for c in columns["truth"]])
    if truth is None:
        raise DataError("the truth of each label is missing", expected=f"columns truth_{labels[0]} …")
    positive = {p for p in optional("positive") if p is not None}
    if len(positive) > 1 or len(set(columns["threshold"])) > 1:
        raise DataError("the operating point or the positive class differs from row to row")
    cut = columns["threshold"][0]
    decided = _decided(columns["predicted"], numbers("score"), labels, kind)
    return PredictionTable(
        cases=tuple(plain_text(c) for c in columns["case"]),
        patients=tuple(plain_text(c) for c in columns["patient"]),
        truth=truth,
        scores=numbers("score"),
        labels=labels,
        kind=kind,
        positive=index[positive.pop()] if positive else None,
        thresholds=tuple(float(v) for v in plain_text(cut).split(";")) * (2 if kind == "binary" else 1)
        if cut
        else None,
        uncalibrated=numbers("uncalibrated"),
        spread=numbers("spread"),
        decided=decided,
        abstained=np.array([c == "yes" for c in columns.get("abstained", [""] * n)]),
        sites=tuple(optional("site")),
        splits=tuple(optional("split")),
        folds=tuple(int(c) if c else None for c in columns["fold"]),
        columns={
            k.removeprefix("column_"): tuple(map(clinical_value, v))
            for k, v in columns.items()
            if k.startswith("column_")
        },
    )


def clinical_columns(columns: Mapping[str, Sequence[str]]) -> dict[str, tuple[COLUMN_TYPES, ...]]:
    """The clinical columns of a file: name → values."""
    found = {name.removeprefix("column_"): cells for name, cells in columns.items() if name.startswith("column_")}
    return {name: tuple(map(clinical_value, cells)) for name, cells in found.items()}


def _decided(
    cells: Sequence[str], scores: Any, labels: tuple[str, ...], kind: ScoreKind
) -> tuple[tuple[str, ...], ...]:
    if kind == "regression":
        return ()
    return tuple(_names(plain_text(cell), labels) if cell else () for cell in cells)


def _names(text: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Label names joined by ``;``, taken apart again; a name may hold a ``;`` itself."""
    found: list[str] = []
    rest = text
    while rest:
        fits = [n for n in labels if n not in found and (rest == n or rest.startswith(f"{n};"))]
        if not fits:
            raise ValueError(f"unknown class {rest!r:.100}")
        longest = max(fits, key=len)
        found.append(longest)
        rest = rest[len(longest) + 1 :]
    return tuple(found)


def optional_text(cell: str) -> str | None:
    """The text of a cell; None where it is empty."""
    return plain_text(cell) if cell else None


def clinical_value(cell: str) -> COLUMN_TYPES:
    """The value of a clinical column's cell."""
    if not cell:
        return None
    number = None if cell.startswith("'") else _number(cell)
    return plain_text(cell) if number is None else number
