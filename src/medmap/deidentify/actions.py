"""Action codes made one action, and what each puts in place of a value.

Codes are those of PS3.15 E.3: ``X`` remove, ``Z`` empty, ``D`` a dummy, ``U`` another UID, ``C`` clean, ``K`` keep.
A compound code says what to do by the type the attribute has in its object: remove it where it is optional, empty it
where it must be there, a dummy where it must have a value.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

REMOVE, EMPTY, DUMMY, MAP, CLEAN, KEEP = "X", "Z", "D", "U", "C", "K"

# A value that says nothing, by value representation (PS3.5 6.2); numbers are 0 and bytes are zeros.
_DUMMIES: dict[str, object] = {
    **dict.fromkeys(["LO", "SH", "ST", "LT", "UT", "UC", "PN"], "ANONYMIZED"),
    **dict.fromkeys(["CS", "AE"], "ANON"),
    **dict.fromkeys(["DS", "IS"], "0"),
    **dict.fromkeys(["US", "SS", "UL", "SL", "UV", "SV"], 0),
    **dict.fromkeys(["FL", "FD"], 0.0),
    **dict.fromkeys(["OB", "OW", "UN", "OL", "OD", "OF", "OV"], bytes(8)),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "urn:anonymized",
    "AT": 0,
}
FIRST_VALUE = ("1", "1C")
MUST_BE_THERE = ("2", "2C")
_TIME = re.compile(r"(?:(?:[01]\d|2[0-4])(?::?[0-5]\d(?::?[0-6]\d(?:\.\d{1,6})?)?)?)?")
_DIGITS = re.compile(r"(\d{4})(\d{2})?(\d{2})?(.*)", re.DOTALL)


def resolved(code: str, kind: str) -> str:
    """The one action of a code for an attribute of a type.

    Args:
        code: Of the table, e.g. ``X/Z/D``.
        kind: ``1``, ``1C``, ``2``, ``2C`` or ``3``.

    Example:
        >>> resolved("X/Z/D", "2"), resolved("X/D", "3"), resolved("Z", "1"), resolved("X/Z/U*", "1C")
        ('Z', 'X', 'D', 'U')
    """
    choices = code.replace("*", "").split("/")
    if choices == [EMPTY]:
        return DUMMY if kind in FIRST_VALUE else EMPTY
    if len(choices) == 1:
        return choices[0]
    if kind in FIRST_VALUE:
        return MAP if MAP in choices else DUMMY
    if kind in MUST_BE_THERE:
        return EMPTY if EMPTY in choices else DUMMY
    return choices[0]


def dummy(vr: str) -> Any:
    """A value of a representation that says nothing about anybody.

    Example:
        >>> dummy("DA"), dummy("PN")
        ('19000101', 'ANONYMIZED')
    """
    return _DUMMIES[vr]


def shifted(text: str, vr: str, days: int) -> str | None:
    """Dates moved by whole days; times of day and their precision stay, so that every interval stays.

    Args:
        text: The value as it stands in the file, several separated by backslashes.
        vr: ``DA``, ``DT`` or ``TM``.
        days: How far; negative into the past.

    Returns:
        The moved dates, or None where one cannot be understood.

    Example:
        >>> shifted("20200301", "DA", -1), shifted("20200301120000.5+0100", "DT", 1), shifted("20", "DA", 1)
        ('20200229', '20200302120000.5+0100', None)
    """
    if vr == "TM":
        return text if all(is_time(word) for word in text.split("\\")) else None
    found = [_moved(word.strip(" \0"), vr, days) for word in text.split("\\")]
    return None if None in found else "\\".join(word or "" for word in found)


def is_time(text: str) -> bool:
    """Whether a text is a time of day (PS3.5 6.2, TM; also the old one with colons): a date in its place is none.

    Example:
        >>> is_time("101500.25"), is_time("10:15"), is_time("19480923")
        (True, True, False)
    """
    return _TIME.fullmatch(text.strip(" \0")) is not None


def _moved(text: str, vr: str, days: int) -> str | None:
    if not text:
        return ""
    if vr == "DA" and re.fullmatch(r"\d{4}\.\d{2}\.\d{2}", text):
        text = text.replace(".", "")
    match = _DIGITS.fullmatch(text)
    if match is None or (vr == "DA" and (match[4] or not match[3])):
        return None
    try:
        date = datetime.date(int(match[1]), int(match[2] or 7), int(match[3] or 1)) + datetime.timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    known = date.strftime("%Y%m%d").rjust(8, "0")
    if match[3]:
        return known + match[4]
    return (known[:6] if match[2] else known[:4]) + match[4]
