"""Tables as hospitals keep them: CSV or a sheet of an .xlsx workbook, read as text cells."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

from medmap.errors import DatasetError, LimitError, ReadError, counted
from medmap.layouts.table import MAX_COLUMNS, MAX_ROWS, Table, read_table

XLSX = (".xlsx", ".xlsm")
SPREADSHEETS = (".csv", ".tsv", *XLSX)
MAX_UNPACKED_BYTES = 2**30  # a workbook is a zip of XML; a bomb is refused before it is opened


def read_spreadsheet(path: Path, sheet: str | None = None) -> Table:
    """A table from a CSV file or a workbook.

    Whole numbers lose the ``.0`` that a workbook gives them, dates become ``2024-05-31``; leading zeros that the
    spreadsheet has already dropped cannot be seen here (``join`` looks past them).

    Args:
        path: ``.csv``, ``.tsv`` or ``.xlsx``.
        sheet: Name of the sheet; the first one with two rows when None.

    Raises:
        ReadError: Absent, or no workbook.
        DatasetError: No header, a row of another length, no such sheet.
        LimitError: Far more data than a table of cases has.
    """
    if path.suffix.lower() not in XLSX:
        return read_table(path)
    return _workbook(path, sheet)


def _workbook(path: Path, sheet: str | None) -> Table:
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    _require_modest(path)
    try:
        book: Any = load_workbook(path, read_only=True, data_only=True, keep_links=False)
    except (InvalidFileException, KeyError, ValueError, TypeError, zipfile.BadZipFile, OSError) as error:
        raise ReadError(f"{path} is no workbook that can be read", remedy="save it again as .xlsx or .csv") from error
    try:
        names = list(book.sheetnames)
        if sheet is not None and sheet not in names:
            raise DatasetError(f"{path} has no such sheet", got=repr(sheet), expected=", ".join(map(repr, names[:10])))
        for name in [sheet] if sheet is not None else names:
            rows = _rows(path, book[name])
            if len(rows) > 1 or sheet is not None:
                return _table(path, rows)
    finally:
        book.close()
    raise DatasetError(f"{path} holds no table", got=f"{len(names)} sheets without rows", expected="a header and rows")


def _require_modest(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise ReadError(f"{path} is no workbook that can be read", remedy="save it again as .xlsx or .csv") from error
    if unpacked > MAX_UNPACKED_BYTES:
        raise LimitError(f"{path} unpacks to more than a table of cases has", expected=f"{MAX_UNPACKED_BYTES} bytes")


def _rows(path: Path, sheet: Any) -> list[tuple[int, list[str]]]:
    found = []
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [_text(value) for value in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            found.append((number, cells))
        if len(found) > MAX_ROWS or len(cells) > MAX_COLUMNS:
            raise LimitError(f"{path} has too many rows or columns for a table of cases")
    return found


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value).strip()


def _table(path: Path, rows: list[tuple[int, list[str]]]) -> Table:
    if not rows:
        raise DatasetError(f"{path} is empty", expected="a header line with column names")
    _, header = rows[0]
    if not all(header):
        raise DatasetError(f"{path}: a column has no name", got=f"column {header.index('') + 1}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DatasetError(f"{path}: two columns have the same name", got=", ".join(twice[:5]))
    cells = []
    for number, row in rows[1:]:
        if len(row) > len(header):
            raise DatasetError(
                f"{path}, row {number}: the row does not fit the header",
                got=counted(len(row), "cell"),
                expected=counted(len(header), "cell"),
                remedy="the first row holds the names of the columns; delete a title above it",
            )
        cells.append(row + [""] * (len(header) - len(row)))
    return Table(path, tuple(header), cells, [number for number, _ in rows[1:]])
