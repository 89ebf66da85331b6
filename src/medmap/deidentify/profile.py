"""What is asked for: the Basic Application Level Confidentiality Profile and its options, as one code an attribute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from medmap.deidentify.table import OPTIONS, by_tag, pattern
from medmap.errors import UsageError

KEEP = ("dates", "dates-modified", "patient", "device", "uids", "institution", "safe-private")
CLEAN = ("descriptors", "graphics", "structured", "pixels", "face")

# CID 7050, De-identification Method (PS3.16)
BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
METHOD_CODES = {
    "pixels": ("113101", "Clean Pixel Data Option"),
    "face": ("113102", "Clean Recognizable Visual Features Option"),
    "graphics": ("113103", "Clean Graphics Option"),
    "structured": ("113104", "Clean Structured Content Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "dates-modified": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "safe-private": ("113111", "Retain Safe Private Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}

# UIDs that name a class, a scheme or a piece of software: the table leaves them out, and nobody's object is meant.
_CLASS_UIDS = frozenset(
    [
        *("00000002", "00000003", "00020002", "00020010", "00020012", "00020032", "00020100", "00041510", "00041512"),
        *("0004151A", "00080016", "0008001A", "0008001B", "00080062", "0008010C", "0008010D", "00080117", "00080118"),
        *("0008040E", "00081150", "0008115A", "00083002", "00089123", "00340003", "04000010", "04000510", "3010001F"),
        *("30100052", "30100053"),
    ]
)
_DATES = frozenset(["DA", "DT", "TM"])


@dataclass(frozen=True)
class Profile:
    """The Basic Profile with its options.

    Args:
        keep: Options that retain, of ``KEEP``.
        clean: Options that clean instead of removing, of ``CLEAN``.

    Raises:
        UsageError: An unknown option, or both ways to keep dates.

    Example:
        >>> profile = Profile.of(keep=["patient"])
        >>> profile.code(0x00101010, "AS"), profile.code(0x00100010, "PN"), profile.code(0x00280010, "US")
        ('K', 'Z', '')
    """

    keep: frozenset[str] = frozenset()
    clean: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for word, given, known in (("keep", self.keep, KEEP), ("clean", self.clean, CLEAN)):
            if unknown := sorted(given - set(known)):
                raise UsageError(f"unknown option to {word}", got=", ".join(unknown), expected=", ".join(known))
        if {"dates", "dates-modified"} <= self.keep:
            raise UsageError("dates cannot be kept both as they are and modified", remedy="keep one of the two")

    @classmethod
    def of(cls, *, name: str = "basic", keep: Iterable[str] = (), clean: Iterable[str] = ()) -> Profile:
        """A profile by its words.

        Raises:
            UsageError: An unknown profile or option.
        """
        if name != "basic":
            raise UsageError("unknown profile", got=repr(name), expected="basic")
        return cls(frozenset(keep), frozenset(clean))

    @property
    def options(self) -> tuple[str, ...]:
        """The options in the order of CID 7050."""
        return tuple(name for name in METHOD_CODES if name in self.keep | self.clean)

    @property
    def method_codes(self) -> tuple[tuple[str, str], ...]:
        """Code value and meaning of everything that was done, of coding scheme DCM."""
        return (BASIC_CODE, *(METHOD_CODES[name] for name in self.options))

    @property
    def dates_modified(self) -> str:
        """Value of Longitudinal Temporal Information Modified (0028,0303)."""
        if "dates" in self.keep:
            return "UNMODIFIED"
        return "MODIFIED" if "dates-modified" in self.keep else "REMOVED"

    def code(self, tag: int, vr: str) -> str:
        """The action code of an attribute under this profile; empty where it stays.

        An option that retains goes before one that cleans, and both before the Basic Profile. The table says nothing
        of some attributes; of those, persons' names are emptied, UIDs of objects mapped, addresses of services
        removed, and dates treated as the table treats dates.

        Args:
            tag: The attribute.
            vr: Its value representation.
        """
        return _code(self, pattern(tag), vr)


@cache
def _code(profile: Profile, place: str, vr: str) -> str:
    row = by_tag().get(place)
    if row is None:
        return _unlisted(profile, place, vr)
    asked = profile.keep | profile.clean
    codes = [row.options[name] for name in OPTIONS if name in asked and name in row.options]
    if "K" in codes:
        return "K"
    return f"C:{row.basic}" if codes else row.basic


def _unlisted(profile: Profile, place: str, vr: str) -> str:
    if vr == "PN":
        return "Z"
    if vr == "UR":
        return "X"
    if vr == "UI" and place not in _CLASS_UIDS:
        return "K" if "uids" in profile.keep else "U"
    if vr in _DATES:
        if "dates" in profile.keep:
            return "K"
        return "C:X" if "dates-modified" in profile.keep else "X"
    return ""


def names_a_class(tag: int) -> bool:
    """Whether a UID names a class, a coding scheme or software, never an object.

    Example:
        >>> names_a_class(0x00080016), names_a_class(0x00080018)
        (True, False)
    """
    return pattern(tag) in _CLASS_UIDS
