"""The attributes of DICOM PS3.15 Table E.1-1 as rows, and the types that attributes have in each object (PS3.3).

Both are facts kept beside this file: ``table.tsv`` (edition 2024b, all 621 rows) and ``types.tsv``, which says for the
rows whose action depends on it whether an attribute must have a value (type 1), must be there (type 2) or may be left
out (type 3, PS3.5 section 7.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

EDITION = "DICOM PS3.15 2024b"
OPTIONS = (
    "dates",
    "dates-modified",
    "patient",
    "device",
    "uids",
    "institution",
    "safe-private",
    "descriptors",
    "structured",
    "graphics",
)
PRIVATE = "odd"
CURVE = "50xxxxxx"
OVERLAY_COMMENTS = "60xx4000"
OVERLAY_DATA = "60xx3000"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        tag: Eight hexadecimal digits, ``xx`` where a group repeats, ``odd`` for private attributes.
        name: The attribute's name.
        basic: Action code of the Basic Profile, e.g. ``X/Z/D``.
        options: Action codes of the options that say something, by name.
    """

    tag: str
    name: str
    basic: str
    options: Mapping[str, str]


@cache
def rows() -> tuple[Row, ...]:
    """All rows, by tag.

    Example:
        >>> len(rows())
        621
        >>> row_of(0x00100010)
        Row(tag='00100010', name="Patient's Name", basic='Z', options={})
    """
    lines = _lines("table.tsv")
    names = lines[0].split("\t")[3:]
    found = []
    for line in lines[1:]:
        tag, name, basic, *codes = line.split("\t")
        given = {option: code for option, code in zip(names, codes, strict=True) if code != "-"}
        found.append(Row(tag, name, basic, given))
    return tuple(found)


@cache
def by_tag() -> dict[str, Row]:
    """The rows by their tag or pattern."""
    return {row.tag: row for row in rows()}


def pattern(tag: int) -> str:
    """The row's tag that speaks of an attribute: its own, a repeating group's, or that of private attributes.

    Example:
        >>> pattern(0x60023000), pattern(0x50100005), pattern(0x00091001), pattern(0x00100010)
        ('60xx3000', '50xxxxxx', 'odd', '00100010')
    """
    group = tag >> 16
    if group % 2:
        return PRIVATE
    if group >> 8 == 0x50:
        return CURVE
    if group >> 8 == 0x60:
        return f"60xx{tag & 0xFFFF:04X}"
    return f"{tag:08X}"


def row_of(tag: int) -> Row | None:
    """The row of an attribute, or None where the table does not speak of it."""
    return by_tag().get(pattern(tag))


@cache
def _types() -> tuple[dict[str, dict[int, str]], dict[int, dict[int, str]], dict[int, str]]:
    objects: dict[str, dict[int, str]] = {}
    items: dict[int, dict[int, str]] = {}
    strictest: dict[int, str] = {}
    for line in _lines("types.tsv"):
        kind, owner, text = line.split("\t")
        types = {int(tag, 16): kind for tag, _, kind in (word.partition("=") for word in text.split())}
        for tag, found in types.items():
            strictest[tag] = min(found, strictest.get(tag, "3"))
        if kind == "root":
            objects |= dict.fromkeys(owner.split(), types)
        else:
            items[int(owner, 16)] = types
    return objects, items, strictest


def type_of(tag: int, sop_class: str, sequence: int | None) -> str:
    """The type of an attribute where it stands: ``1``, ``1C``, ``2``, ``2C`` or ``3``.

    Of an object class that the table of types does not know, the strictest type in any object is taken, so that
    nothing a reader may need is missing.

    Args:
        tag: The attribute.
        sop_class: SOP class UID of the object.
        sequence: Tag of the sequence whose item holds the attribute; None at the top.

    Example:
        >>> type_of(0x00080020, "1.2.840.10008.5.1.4.1.1.2", None)
        '2'
    """
    objects, items, strictest = _types()
    if sequence is not None:
        return items.get(sequence, {}).get(tag, "3")
    types = objects.get(sop_class)
    return (strictest if types is None else types).get(tag, "3")


def _lines(name: str) -> list[str]:
    text = resources.files("medmap.deidentify").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
