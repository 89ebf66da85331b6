"""Rows of a spreadsheet to studies of an archive: by series, study, accession number or patient.

Both sides are listed where nothing matched; what could mean two things is never guessed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from medmap.errors import DatasetError, UsageError
from medmap.layouts.table import Table

Level = Literal["series", "study", "accession", "patient"]
LEVELS: tuple[Level, ...] = get_args(Level)  # the most exact first

# What hospitals call the columns, without case, blanks and punctuation.
KEY_COLUMNS: Mapping[Level, tuple[str, ...]] = {
    "series": ("seriesinstanceuid", "seriesuid", "series"),
    "study": ("studyinstanceuid", "studyuid", "study"),
    "accession": ("accessionnumber", "accession", "accessionno", "accno", "acc", "orderid", "examid"),
    "patient": ("patientid", "patient", "mrn", "pid", "subject", "subjectid", "patientnumber"),
}
_CALLED = {
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "patient": "PatientID",
}
SHORTEST_NEAR = 4  # letters from which two keys that differ in one are called near
MOST_NEAR = 5_000  # different keys left on a side up to which near ones are looked for: more are another list, no slips
LABEL_COLUMNS = ("label", "class", "diagnosis", "target", "outcome", "finding", "grade")


@dataclass(frozen=True)
class Keys:
    """By what a row may speak of an acquisition; empty where the archive does not say."""

    series: str
    study: str
    accession: str
    patient: str

    def at(self, level: Level) -> str:
        """The key of one level."""
        return str(getattr(self, level))


@dataclass(frozen=True)
class Joined:
    """Which rows belong to which acquisitions.

    Args:
        level: By what they were joined.
        column: The table's column.
        row_of: Position of an acquisition → position of its row.
        rows_left: Rows without an acquisition.
        found_left: Acquisitions without a row.
        loosely: Rows that matched only after leading zeros or letter case were left aside.
    """

    level: Level
    column: str
    row_of: Mapping[int, int]
    rows_left: tuple[int, ...]
    found_left: tuple[int, ...]
    loosely: tuple[int, ...] = ()


def plain_name(name: str) -> str:
    """A column's name without case, blanks and punctuation.

    Example:
        >>> plain_name("Accession No.")
        'accessionno'
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def key_columns(header: Iterable[str]) -> dict[Level, str]:
    """The column of each level that a table has."""
    found: dict[Level, str] = {}
    for level in LEVELS:
        for wanted in KEY_COLUMNS[level]:
            name = next((column for column in header if plain_name(column) == wanted), None)
            if name is not None:
                found[level] = name
                break
    return found


def label_column(table: Table, wanted: str | None) -> str | None:
    """The column that holds the label: the one asked for, else the one whose name says so.

    Raises:
        DatasetError: The column asked for is not there.
    """
    if wanted is not None:
        if wanted not in table.header:
            raise DatasetError(
                f"{table.path.name} has no such column", got=repr(wanted), expected=", ".join(table.header[:20])
            )
        return wanted
    return next((c for name in LABEL_COLUMNS for c in table.header if plain_name(c) == name), None)


def join(table: Table, found: Sequence[Keys], on: str | None = None) -> Joined:
    """Which row speaks of which acquisition.

    Args:
        table: One row a series, study or patient; several equal rows count once.
        found: The acquisitions.
        on: series, study, accession or patient; when None, the most exact level by which any row matches.

    Raises:
        DatasetError: No key column; no row matches; rows that contradict each other, or could mean two patients.
        UsageError: ``on`` is no key.
    """
    columns = key_columns(table.header)
    if on is not None:
        if on not in LEVELS:
            raise UsageError("tables are joined by a key", got=repr(on), expected=", ".join(LEVELS))
        columns = {level: column for level, column in columns.items() if level == on}
    if not columns:
        by = f" by {on}" if on else ""
        raise DatasetError(
            f"{table.path.name} has no column by which its rows can be joined with the images{by}",
            got=", ".join(table.header[:12]),
            expected=f"a column {_CALLED[on] if on else ', '.join(_CALLED.values())}",
            remedy="rename the column that holds " + ("it, or leave out --on" if on else "one of them"),
        )
    tried = []
    for level, column in columns.items():
        joined = _joined_by(table, found, level, column)
        if joined.row_of:
            return joined
        tried.append(f"{column} ({level})")
    keys = [k for level in columns for k in _examples(found, level)]
    raise DatasetError(
        f"no row of {table.path.name} matches an image",
        got="by " + ", ".join(tried),
        expected="values such as those of the images" + (f" ({len(keys)} different ones there)" if keys else ""),
        remedy="compare a value of the table with medmap info of the folder; they may be pseudonyms of another list",
    )


def _examples(found: Sequence[Keys], level: Level) -> set[str]:
    return {k.at(level) for k in found if k.at(level)}


def _joined_by(table: Table, found: Sequence[Keys], level: Level, column: str) -> Joined:
    at: dict[str, list[int]] = defaultdict(list)
    for i, keys in enumerate(found):
        if keys.at(level):
            at[keys.at(level)].append(i)
    loose: dict[str, set[str]] = defaultdict(set)
    for key in at:
        loose[_loosened(key)].add(key)
    row_of: dict[int, int] = {}
    left: list[int] = []
    loosely: list[int] = []
    exact = {cell for cell in table.column(column) if cell in at}
    for n, cell in enumerate(table.column(column)):
        key = cell
        if cell and cell not in at:
            candidates = loose.get(_loosened(cell), set()) - exact
            if len(candidates) > 1:
                raise DatasetError(
                    f"{table.where(n)}: the key could mean two keys of the images, which differ in leading zeros alone",
                    remedy="write the key as the images have it",
                )
            key = next(iter(candidates), "")
            if key:
                loosely.append(n)
        if key not in at or not cell:
            left.append(n)
            continue
        for i in at[key]:
            if i in row_of and table.rows[row_of[i]] != table.rows[n]:
                raise DatasetError(
                    f"two rows of {table.path.name} speak of the same {level} and differ",
                    got=f"{table.where(row_of[i])} and {table.where(n)}",
                    remedy="keep one of them, or join by a more exact key (study or series)",
                )
            row_of.setdefault(i, n)
    free = tuple(i for i in range(len(found)) if i not in row_of)
    return Joined(level, column, row_of, tuple(left), free, tuple(loosely))


def near_keys(keys: Iterable[str], others: Iterable[str]) -> dict[str, list[str]]:
    """For keys without a partner, the others that one slip of the hand makes: a letter wrong, moved, left out, added.

    Two words do exactly when they can be made equal by leaving out at most one letter of each, whatever their case;
    so the words with a letter left out are looked up, which costs no more than the tables' length.

    Returns:
        Key → near ones in order, for those that have any.

    Example:
        >>> near_keys(["P0070", "P00007", "X1"], ["P0007", "P0812", "X2"])
        {'P0070': ['P0007'], 'P00007': ['P0007']}
    """
    keys, others = dict.fromkeys(keys), dict.fromkeys(others)
    if max(len(keys), len(others)) > MOST_NEAR:
        return {}
    by_rest: dict[str, set[str]] = defaultdict(set)
    for other in others:
        for rest in _shortened(other):
            by_rest[rest].add(other)
    found = {key: set[str]().union(*(by_rest.get(rest, ()) for rest in _shortened(key))) for key in keys}
    return {key: sorted(near) for key, near in found.items() if near}


def _shortened(key: str) -> set[str]:
    """A key as it is and without each of its letters; nothing of a key so short that many are alike."""
    text = key.strip().lower()
    return {text, *(text[:n] + text[n + 1 :] for n in range(len(text)))} if len(text) >= SHORTEST_NEAR else set()


def _loosened(key: str) -> str:
    """A key without what spreadsheets change: leading zeros, letter case, surrounding blanks, a final ``.0``."""
    text = re.sub(r"\.0$", "", key.strip()).lower()
    return text.lstrip("0") or "0"
