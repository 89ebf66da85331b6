"""What the removed attributes of one object said about a person, and where it still stands.

Names are taken apart, dates are spelled in the ways people spell them, and each is looked for as bytes, in the
encodings that DICOM uses. A value is found only as a word of its own: ``Ann`` is not found in ``Annotation``, but it
is in ``Ann1950`` and ``scan_Ann``, and an identifier with digits also within a longer word.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

from medmap.deidentify.secrets import is_standard

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
# What stands before and after names (the fourth and fifth component) and is a word of its own.
_TITLES = frozenset(
    [
        *("captain", "major", "colonel", "general", "sergeant", "lieutenant", "reverend", "father", "mother", "sister"),
        *("brother", "mister", "madame", "mademoiselle", "junior", "senior", "esquire", "baron", "baroness", "count"),
        *("countess", "gräfin", "freiherr", "prince", "princess", "second", "third", "fourth", "maître", "senor"),
        *("senora", "señor", "señora", "signor", "signora"),
    ]
)
_LEAST_ASIDE = 5  # letters of a name in such a component: shorter words there are titles and degrees
_ENCODINGS = ("utf-8", "latin-1")
_WIDE_ENCODINGS = (*_ENCODINGS, "utf-16-le", "utf-16-be")
_TIME = re.compile(rb"(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?(?!\d)")
_SPLIT = re.compile(r"[\^=\s,;.\\/_()'’\-]+")
# Months in English, German, Spanish, French, Italian, Portuguese and Dutch.
MONTHS = tuple(
    tuple(names.split())
    for names in (
        "jan january januar enero janvier gennaio janeiro januari",
        "feb february februar febrero février fevrier febbraio fevereiro februari",
        "mar march märz maerz marzo mars março maart",
        "apr april abril avril aprile",
        "may mai mayo maggio maio mei",
        "jun june juni junio juin giugno junho",
        "jul july juli julio juillet luglio julho",
        "aug august agosto août aout augustus",
        "sep sept september septiembre septembre settembre setembro",
        "oct october okt oktober octubre octobre ottobre outubro",
        "nov november noviembre novembre",
        "dec december dez dezember diciembre décembre dicembre dezembro",
    )
)
_LETTERS = str.maketrans(
    {
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "ß": "ss",
        "æ": "ae",
        "ø": "oe",
        "å": "aa",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ı": "i",
    }
)
LONG = 8  # a value this long is looked for in pixel data too; shorter ones stand there by chance
_LONG_SURNAME = 5  # a shorter one with an initial is often another word: X-ray is no Mr X. Ray
_LEAST_BINARY = 7  # digits of a number that is looked for among binary numbers: shorter ones are measured
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
                components = _components(spelling)
                parts = [p for c in components for p in _SPLIT.split(c) if p and p not in _NO_NAMES]
                for part in parts:
                    self.names.update(w for w in _ways_to_write(part) if _tells(w))
                self.names.update(w for c in components for w in _run_together(c) if _tells(w))
                if len(parts) > 1 and not all(_tells(p) for p in parts):
                    # parts too short to be looked for alone are looked for together
                    self.values.update(
                        joined
                        for s in ("^", " ", ", ", "_", "-", ".")
                        for joined in (s.join(parts), s.join(parts[::-1]))
                    )
                self.names.update(_joined(parts))

    def add_value(self, text: str) -> None:
        """An identifier, address or number."""
        for word in text.split("\\"):
            value = " ".join(word.split()).lower()
            if len(value) >= 4 and value not in _NO_NAMES and len(set(value)) > 1:
                self.values.add(value)
                # "PID 774411" is also written "774411", and "12-345-678" also "12345678"
                runs = {*re.findall(r"\d+", value), re.sub(r"[\W_]+", "", value)}
                self.values.update(
                    r for r in runs if len(r) >= _SHORT_DIGITS and len(set(r)) > 1 and any(c.isdigit() for c in r)
                )

    def add_date(self, text: str) -> None:
        """A date, or the date of a date and time (PS3.5 6.2: DA, DT; also the old ``YYYY.MM.DD``)."""
        for word in text.split("\\"):
            digits = word.strip().replace(".", "", 2)[:8] if word[4:5] == "." else word.strip()[:8]
            if len(digits) == 8 and digits.isdigit() and digits[:4] > "1850" and digits[4:] != "0101":
                self.dates.add(digits)

    def add_uid(self, text: str) -> None:
        """A UID of an object; the standard's own are nobody's."""
        self.uids.update(w for w in (word.strip(" \0") for word in text.split("\\")) if w and not is_standard(w))

    def add_raw(self, name: bytes) -> None:
        """A person's name in the bytes of the file: as they are, and as UTF-8, which few files declare."""
        with suppress(UnicodeDecodeError):  # the encoding that the file declares has been asked already
            self.add_name(name.decode("utf-8"))
        for part in re.split(rb"[\^= ]+", name):
            if len(part) >= 3 and not part.isascii():
                self.raw.add(lowered(part))

    def needles(self) -> Iterator[tuple[str, bytes]]:
        """Kind (``name``, ``value``, ``date``, ``uid``) and the bytes to look for, in lower case."""
        yield from _text_needles(tuple(sorted(self.names)), tuple(sorted(self.values)), tuple(sorted(self.dates)))
        yield from (("uid", uid.encode("latin-1", "replace")) for uid in self.uids if len(uid) > LONG)
        yield from (("name", raw) for raw in self.raw)

    def numbers(self, little: bool) -> tuple[tuple[str, bytes], ...]:
        """Kind and bytes of long numbers and dates as binary numbers hold them: integers of 32 and 64 bits, doubles."""
        return _binary(frozenset(self.values), frozenset(self.dates), little)

    def words(self) -> list[str]:
        """Everything as text: for looking at pictures."""
        return sorted(self.names | self.values | self.dates)


def _components(spelling: str) -> list[str]:
    """Family, given and middle name; what stands before and after them only where it is a name too (PS3.5 6.2.1.1)."""
    parts = [component.strip(" \0").lower() for component in spelling.split("^")]
    aside = [c for c in parts[3:5] if len(c) >= _LEAST_ASIDE and c not in _TITLES | _NO_NAMES]
    return [*parts[:3], *(aside if any(parts[:3]) else parts[3:])]


def _tells(part: str) -> bool:
    return len(part) >= 3 if part.isascii() else len(part) >= 2


def _ways_to_write(part: str) -> set[str]:
    """A part of a name with its letters, with their accents apart, without accents, and with what stands for them."""
    if part.isascii():
        return {part}
    apart = unicodedata.normalize("NFD", part)
    bare = "".join(c for c in apart if not unicodedata.combining(c))
    return {unicodedata.normalize("NFC", part), apart, bare, unicodedata.normalize("NFC", part).translate(_LETTERS)}


def _run_together(component: str) -> set[str]:
    """``o'neil`` as ``oneil``, ``smith-jones`` as ``smithjones``."""
    parts = [p for p in _SPLIT.split(component) if p and p not in _NO_NAMES]
    return _ways_to_write("".join(parts)) if len(parts) == 2 else set()


def _joined(parts: list[str]) -> set[str]:
    """``janedoe``, ``doejane``, and of longer surnames with an initial ``jmeier`` and ``meierj``."""
    found = set()
    for one in parts[:3]:
        for other in parts[:3]:
            if one != other and len(one) + len(other) >= 4:
                found |= {a + b for a in _ways_to_write(one) for b in _ways_to_write(other)}
    if len(parts) > 1 and len(parts[0]) >= _LONG_SURNAME:
        for surname in _ways_to_write(parts[0]):
            found |= {w for i in _ways_to_write(parts[1][0]) for w in (i + surname, surname + i)}
    return found


@lru_cache(maxsize=256)
def _text_needles(
    names: tuple[str, ...], values: tuple[str, ...], dates: tuple[str, ...]
) -> tuple[tuple[str, bytes], ...]:
    found: dict[bytes, str] = {}
    for kind, texts in (("name", names), ("value", values), ("date", [s for d in dates for s in spellings(d)])):
        for text in texts:
            wide = len(text) >= 4 and not text.isdigit() and kind != "date"
            # letters outside ASCII are not put in lower case where they are looked for
            for spelled in {text, text.upper(), text.title()} if not text.isascii() else {text}:
                for encoding in _WIDE_ENCODINGS if wide else _ENCODINGS:
                    needle = spelled.encode(encoding, "ignore")
                    if len(needle) >= len(spelled) >= 2:
                        found.setdefault(lowered(needle), kind)
    return tuple((kind, needle) for needle, kind in found.items())


@lru_cache(maxsize=256)
def _binary(values: frozenset[str], dates: frozenset[str], little: bool) -> tuple[tuple[str, bytes], ...]:
    order = "<" if little else ">"
    found = []
    for kind, texts in (("value", values), ("date", dates)):
        for text in sorted(texts):
            if text.isascii() and text.isdigit() and _LEAST_BINARY <= len(text.lstrip("0")) <= 15:
                number = int(text)
                found += [(kind, struct.pack(f"{order}L", number))] if number < 1 << 32 else []
                found += [(kind, struct.pack(f"{order}Q", number)), (kind, struct.pack(f"{order}d", number))]
    return tuple(found)


@lru_cache(maxsize=256)
def spellings(date: str) -> tuple[str, ...]:
    """How people write a date.

    Example:
        >>> spellings("19500612")[:4]
        ('19500612', '1950-06-12', '12-06-1950', '06-12-1950')
    """
    year, month, day = date[:4], date[4:6], date[6:8]
    m, d = month.lstrip("0"), day.lstrip("0")
    found = [date]
    for s in "-/._: ":
        found += [f"{year}{s}{month}{s}{day}", f"{day}{s}{month}{s}{year}", f"{month}{s}{day}{s}{year}"]
        found += [f"{year}{s}{m}{s}{d}", f"{d}{s}{m}{s}{year}", f"{m}{s}{d}{s}{year}"]
    for s in "/.-":
        found += [f"{day}{s}{month}{s}{year[2:]}", f"{month}{s}{day}{s}{year[2:]}"]
    found += [f"{day}{month}{year}", f"{month}{day}{year}", date[2:], f"{day}{month}{year[2:]}"]
    if 1 <= int(month) <= 12:
        found += [spelled for name in MONTHS[int(month) - 1] for spelled in _in_words(year, name, day)]
    return tuple(dict.fromkeys(found))


def _in_words(year: str, month: str, day: str) -> list[str]:
    found = []
    number = int(day)
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number // 10 != 1 else 0, "th")
    for d in dict.fromkeys((day, str(number), f"{number}{ending}")):
        found += [f"{d} {month} {year}", f"{d}-{month}-{year}", f"{d}{month}{year}", f"{d}. {month} {year}"]
        found += [f"{d} {month}, {year}", f"{d} {month}. {year}", f"{d}-{month}-{year[2:]}", f"{d} {month} {year[2:]}"]
        found += [f"{month} {d}, {year}", f"{month} {d} {year}", f"{month}-{d}-{year}", f"{month}/{d}/{year}"]
        found += [f"{year} {month} {d}", f"{year}-{month}-{d}", f"{d}/{month}/{year}", f"{d} de {month} de {year}"]
        found += [f"{d}.{month}.{year}", f"{d}.{month} {year}", f"{d}_{month}_{year}", f"{d} of {month} {year}"]
    return found


def lowered(data: bytes) -> bytes:
    """Bytes with ASCII letters in lower case; others as they are."""
    return data.lower()


def _is_word(data: bytes, start: int, end: int, kind: str) -> bool:
    if 0 in data[start : min(start + 2, end)]:  # UTF-16
        return True
    found = data[start:end]
    mixed = kind == "value" and has_letters_and_digits(found)
    opens = not _goes_on(data[start - 1 : start], found[:1], mixed)
    # digits after a date are a time of day
    timed = kind == "date" and end - start == 8 and found.isdigit() and bool(_TIME.match(data, end))
    return opens and (timed or not _goes_on(data[end : end + 1], found[-1:], mixed))


def has_letters_and_digits(value: bytes) -> bool:
    """Whether it is an identifier that no other word contains by chance: ``pid774411``."""
    return len(value) >= _SHORT_DIGITS and any(c in b"0123456789" for c in value) and any(c > 64 for c in value)


def _goes_on(beside: bytes, edge: bytes, mixed: bool) -> bool:
    return (beside.isdigit() and edge.isdigit()) or (not mixed and beside.isalpha() and edge.isalpha())


def stand_in(data: bytes, needles: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The needles that stand in data (in lower case), as words or within them: what to look at more closely.

    Between the attributes of a file there is no space: the letters of a tag may follow a value.
    """
    years: dict[bytes, bool] = {}
    found = []
    for kind, needle in needles:
        year = _year_of(needle) if kind == "date" else b""
        if year and year not in years:
            years[year] = year in data
        if (not year or years[year]) and needle in data:
            found.append((kind, needle))
    return found


@lru_cache(maxsize=16384)
def _year_of(date: bytes) -> bytes:
    """The year of a spelled date, without which none of a date's many spellings need be looked for."""
    match = re.search(rb"(?<!\d)(?:1[89]|2\d)\d\d(?!\d)", date)
    return match[0] if match else b""


def hits(data: bytes, needles: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The needles that stand in data (in lower case) as words of their own."""
    found = []
    for kind, needle in needles:
        start = data.find(needle)
        while start >= 0:
            if _is_word(data, start, start + len(needle), kind):
                found.append((kind, needle))
                break
            start = data.find(needle, start + 1)
    return found


def is_weak(needle: bytes) -> bool:
    """Whether a needle is so short a number that measured values show it by chance."""
    return needle.isdigit() and len(needle) < _SHORT_DIGITS
