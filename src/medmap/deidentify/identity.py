"""What the removed attributes of one object said about a person, and where it still stands.

Names are taken apart, dates are spelled in the ways people spell them, and each is looked for as bytes, in the
encodings that DICOM uses. A value is found only as a word of its own: ``Ann`` is not found in ``Annotation``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from medmap.deidentify.secrets import WELL_KNOWN

# Parts of a person's name that are no name, and what test objects have in its place.
_NO_NAMES = frozenset(
    [
        *("dr", "prof", "professor", "mr", "mrs", "ms", "miss", "md", "phd", "frcr", "msc", "bsc", "rt", "jr", "sr"),
        *("sir", "dame", "van", "von", "der", "den", "del", "della", "dos", "das", "the", "and", "anonymous"),
        *("anonymized", "anonymised", "anon", "unknown", "unnamed", "none", "null", "not", "available", "patient"),
        *("doctor", "physician", "name", "test", "testing", "phantom", "volunteer", "subject", "case", "study"),
        *("operator", "technologist", "technician"),
    ]
)
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le")
_SPLIT = re.compile(r"[\^=\s,;.\\/_()'’\-]+")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FULL_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)  # fmt: skip
LONG = 8  # a value this long is looked for in pixel data too; shorter ones stand there by chance
_SHORT_DIGITS = 6  # a number shorter than this is looked for in text alone


@dataclass
class Identity:
    """The identifying values of one object.

    Args:
        names: Parts of persons' names, in lower case.
        values: Identifiers and addresses, in lower case.
        dates: Dates as ``YYYYMMDD``.
        uids: UIDs that were mapped.
        raw: Undecoded bytes of names that are not ASCII.
    """

    names: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    raw: set[bytes] = field(default_factory=set)

    def add_name(self, text: str) -> None:
        """Take a person's name apart (PS3.5 6.2.1: components by ``^``, spellings by ``=``)."""
        for person in text.split("\\"):
            for spelling in person.split("="):
                parts = [p.lower() for p in _SPLIT.split("^".join(spelling.split("^")[:3])) if p]
                parts = [p for p in parts if p not in _NO_NAMES]
                self.names.update(p for p in parts if _tells(p))
                if len(parts) > 1 and not all(_tells(p) for p in parts):
                    # parts too short to be looked for alone are looked for together
                    self.values.update(
                        joined for s in ("^", " ", ", ") for joined in (s.join(parts), s.join(parts[::-1]))
                    )

    def add_value(self, text: str) -> None:
        """An identifier, address or number."""
        for word in text.split("\\"):
            value = " ".join(word.split()).lower()
            if len(value) >= 4 and value not in _NO_NAMES and len(set(value)) > 1:
                self.values.add(value)

    def add_date(self, text: str) -> None:
        """A date, or the date of a date and time (PS3.5 6.2: DA, DT; also the old ``YYYY.MM.DD``)."""
        for word in text.split("\\"):
            digits = word.strip().replace(".", "", 2)[:8] if word[4:5] == "." else word.strip()[:8]
            if len(digits) == 8 and digits.isdigit() and digits[:4] > "1850" and digits[4:] != "0101":
                self.dates.add(digits)

    def add_uid(self, text: str) -> None:
        """A UID of an object; the standard's own are nobody's."""
        self.uids.update(
            w for w in (word.strip(" \0") for word in text.split("\\")) if w and not w.startswith(WELL_KNOWN)
        )

    def add_raw(self, name: bytes) -> None:
        """A person's name in the bytes of the file, whose encoding is the file's own."""
        for part in re.split(rb"[\^= ]+", name):
            if len(part) >= 3 and not part.isascii():
                self.raw.add(lowered(part))

    def needles(self) -> Iterator[tuple[str, bytes]]:
        """Kind (``name``, ``value``, ``date``, ``uid``) and the bytes to look for, in lower case."""
        yield from _text_needles(tuple(sorted(self.names)), tuple(sorted(self.values)), tuple(sorted(self.dates)))
        yield from (("uid", uid.encode("latin-1", "replace")) for uid in self.uids if len(uid) > LONG)
        yield from (("name", raw) for raw in self.raw)

    def words(self) -> list[str]:
        """Everything as text: for looking at pictures."""
        return sorted(self.names | self.values | self.dates)


def _tells(part: str) -> bool:
    return len(part) >= 3 if part.isascii() else len(part) >= 2


@lru_cache(maxsize=256)
def _text_needles(
    names: tuple[str, ...], values: tuple[str, ...], dates: tuple[str, ...]
) -> tuple[tuple[str, bytes], ...]:
    found: dict[bytes, str] = {}
    for kind, texts in (("name", names), ("value", values), ("date", [s for d in dates for s in spellings(d)])):
        for text in texts:
            wide = len(text) >= 4 and not text.isdigit() and kind != "date"
            for encoding in _ENCODINGS if wide else _ENCODINGS[:-1]:
                needle = text.encode(encoding, "ignore")
                if len(needle) >= len(text) >= 2:
                    found.setdefault(lowered(needle), kind)
    return tuple((kind, needle) for needle, kind in found.items())


def spellings(date: str) -> list[str]:
    """How people write a date.

    Example:
        >>> spellings("19500612")[:4]
        ['19500612', '1950-06-12', '1950/06/12', '1950.06.12']
    """
    year, month, day = date[:4], date[4:6], date[6:8]
    found = [date, f"{year}-{month}-{day}", f"{year}/{month}/{day}", f"{year}.{month}.{day}"]
    for s in ("/", ".", "-", ""):
        found += [f"{day}{s}{month}{s}{year}", f"{month}{s}{day}{s}{year}"]
    if 1 <= int(month) <= 12:
        for name in {_MONTHS[int(month) - 1], _FULL_MONTHS[int(month) - 1]}:
            for d in {day, str(int(day))}:
                found += [f"{d} {name} {year}", f"{d}-{name}-{year}", f"{name} {d}, {year}", f"{name} {d} {year}"]
                found += [f"{d}{name}{year}", f"{d}. {name} {year}"]
    return found


def lowered(data: bytes) -> bytes:
    """Bytes with ASCII letters in lower case; others as they are."""
    return data.lower()


def _is_word(data: bytes, start: int, end: int) -> bool:
    before, after = data[start - 1 : start], data[end : end + 1]
    if data[start] == 0 or data[start + 1 : start + 2] == b"\0":  # UTF-16
        return True
    return not (before.isalnum() and data[start : start + 1].isalnum()) and not (
        after.isalnum() and data[end - 1 : end].isalnum()
    )


def hits(data: bytes, needles: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The needles that stand in data (in lower case) as words of their own."""
    found = []
    for kind, needle in needles:
        start = data.find(needle)
        while start >= 0:
            if _is_word(data, start, start + len(needle)):
                found.append((kind, needle))
                break
            start = data.find(needle, start + 1)
    return found


def is_weak(needle: bytes) -> bool:
    """Whether a needle is so short a number that measured values show it by chance."""
    return needle.isdigit() and len(needle) < _SHORT_DIGITS
