"""CSV tables as hospitals send them: with a byte order mark, Windows line ends, semicolons; damaged ones refused."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from medmap.errors import DatasetError, LimitError, ReadError

MAX_COLUMNS = 10_000
MAX_LINE_CHARACTERS = 2**20
MAX_ROWS = 20_000_000


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Args:
        path: The file.
        header: Column names, without surrounding blanks, each once.
        rows: Cells without surrounding blanks; every row is as long as the header.
        lines: The file's line on which each row ends, for messages.
    """

    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    def where(self, number: int) -> str:
        """The place of a row, for messages: file and line."""
        return f"{self.path.name}, line {self.lines[number]}"

    def column(self, name: str) -> list[str]:
        """The cells of one column."""
        index = self.header.index(name)
        return [row[index] for row in self.rows]


def read_header(path: Path) -> tuple[str, ...]:
    """The column names of a table.

    Raises:
        ReadError: Unreadable or not text.
        DatasetError: No header, a column without a name, or two of one name.
    """
    with _opened(path) as file:
        return _header(path, _rows(path, file))


def read_table(path: Path) -> Table:
    """A whole table.

    Raises:
        ReadError: Unreadable or not text.
        DatasetError: No header, a column without a name, two of one name, or a row of another length.
        LimitError: Far more columns or rows than a table of cases has.
    """
    with _opened(path) as file:
        reader = _rows(path, file)
        header = _header(path, reader)
        width = len(header)
        rows: list[list[str]] = []
        lines: list[int] = []
        for line, cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            while len(stripped) > width and not stripped[-1]:
                stripped.pop()  # spreadsheets leave empty cells at the end
            if len(stripped) != width:
                raise DatasetError(
                    f"{path}, line {line}: the row does not fit the header",
                    got=f"{len(stripped)} cells",
                    expected=f"{width} cells",
                    remedy="put cells that hold a comma in double quotes",
                )
            rows.append(stripped)
            lines.append(line)
            if len(rows) > MAX_ROWS:
                raise LimitError(f"{path} has too many rows for a table of cases", expected=f"at most {MAX_ROWS}")
    return Table(path, header, rows, lines)


def _opened(path: Path) -> TextIO:
    try:
        if not path.is_file():
            raise ReadError(f"{path} does not exist or is no file")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ReadError(f"{path} cannot be read", got=error.strerror) from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    try:
        while line := file.readline(MAX_LINE_CHARACTERS + 1):
            if len(line) > MAX_LINE_CHARACTERS:
                raise LimitError(
                    f"{path} has a line too long for a table", expected=f"{MAX_LINE_CHARACTERS} characters"
                )
            if "\0" in line:
                raise DatasetError(
                    f"{path} holds NUL bytes and is no text table", remedy="save it again as CSV in UTF-8"
                )
            yield line
    except UnicodeDecodeError as error:
        raise ReadError(
            f"{path} is not text in UTF-8", got=f"byte {error.object[error.start]:#04x}", remedy="save it as CSV UTF-8"
        ) from error
    except OSError as error:
        raise ReadError(f"{path} cannot be read", got=error.strerror) from error


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    lines = _lines(path, file)
    first = next(lines, "")
    while first and not first.strip():
        first = next(lines, "")
    # many spreadsheets outside the English-speaking world write semicolons
    separators = ("\t",) if path.suffix.lower() == ".tsv" else (",", ";", "\t")
    delimiter = next((d for d in separators if d in first), separators[0])

    def again() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(again(), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: no valid CSV", got=str(error)) from error


def _header(path: Path, reader: Iterator[tuple[int, list[str]]]) -> tuple[str, ...]:
    _, cells = next(reader, (0, []))
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DatasetError(f"{path} is empty", expected="a header line with column names")
    if len(names) > MAX_COLUMNS:
        raise LimitError(f"{path} has too many columns", got=len(names), expected=f"at most {MAX_COLUMNS}")
    if not all(names):
        raise DatasetError(f"{path}: a column has no name", got=f"column {names.index('') + 1}")
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DatasetError(f"{path}: two columns have the same name", got=", ".join(twice[:5]))
    return tuple(names)
