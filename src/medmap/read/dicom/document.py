"""DICOM objects that are no images (structure sets, reports, presentations): opened, checked, taken apart safely."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medmap.errors import LimitError, ReadError
from medmap.read.opened import at_the_door, heard

# A structure set of a whole body with fine contours has some 100 MB; the parsed form takes several times the file.
LIMIT_BYTES = 2**30
MOST_VALUE = 65535  # of a label map of two bytes
MEMBER_CHARACTERS = 16  # of one number>value: numbers that fit into a DICOM integer string, not a text without end


@contextmanager
def document(path: Path, classes: Sequence[str], what: str, notes: list[str]) -> Iterator[Any]:
    """The data set of one file of one of some storage classes; whatever its elements raise becomes one sentence.

    Args:
        path: The file.
        classes: SOP Class UIDs that are wanted.
        what: What such an object is called.
        notes: Gets what was odd, in sentences.

    Raises:
        ReadError: Absent, damaged or an object of another class.
        LimitError: Larger than such an object is.
    """
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    with at_the_door(path, what):
        if path.is_dir():
            raise ReadError(f"{path} is a folder, not one {what}")
        size = path.stat().st_size
        if size > LIMIT_BYTES:
            raise LimitError(f"{path} is too large for a {what}", got=f"{size} bytes", expected=f"≤ {LIMIT_BYTES}")
        try:
            with heard(notes, "pydicom"):
                data = pydicom.dcmread(path, stop_before_pixels=True, force=not _has_prefix(path))
                found = data.get("SOPClassUID")
                if str(found) not in classes:
                    raise ReadError(f"{path} is no {what}", got=str(getattr(found, "name", "") or "no SOP class"))
                yield data
        except (BytesLengthException, InvalidDicomError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ReadError(f"{path} is damaged DICOM", got=reason, remedy="copy the original file again") from error


def _has_prefix(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def items(data: Any, keyword: str) -> Sequence[Any]:
    """The items of a sequence; none when it is absent or empty.

    Raises:
        ReadError: The element is no sequence.
    """
    value = data.get(keyword)
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise ReadError(f"{keyword} is no sequence", got=repr(value)[:60])
    return list(value)


def code_of(data: Any, keyword: str) -> str | None:
    """The first code of a code sequence as ``scheme:value|meaning`` (PS3.3 8.8); None when there is none."""
    for item in items(data, keyword):
        value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
        if value:
            meaning = str(item.get("CodeMeaning") or "")
            code = f"{item.get('CodingSchemeDesignator') or ''}:{value}"
            return f"{code}|{meaning}" if meaning else code
    return None


def chosen_values(path: Path, member: str, known: Collection[int], what: str) -> dict[int, int]:
    """Which of an object's numbered parts becomes which value of a label map: the one home of ``seg.dcm#1>2,3>1``.

    Args:
        path: The file, for messages.
        member: ``number>value`` for each part, or one number alone, which becomes 1.
        known: Numbers that the object has.
        what: What a part is called: segment, region.

    Raises:
        ReadError: Another form, a part that is not there or is named twice, a value beyond 65535.

    Example:
        >>> chosen_values(Path("seg.dcm"), "1>2,3>1", (1, 2, 3), "segment")
        {1: 2, 3: 1}
    """
    chosen: dict[int, int] = {}
    for part in member.split(","):
        number, arrow, value = part.strip().partition(">")
        plain = number.isascii() and number.isdigit() and (not arrow or (value.isascii() and value.isdigit()))
        if not plain or len(part) > MEMBER_CHARACTERS or (not arrow and "," in member):
            raise ReadError(
                f"{path} has no member {member!r}", expected=f"a {what}'s number, or number>value for each: 1>2,3>1"
            )
        if int(number) not in known:
            raise ReadError(f"{path} has no {what} {number}", expected=", ".join(map(str, sorted(known))))
        if int(number) in chosen:
            raise ReadError(f"{path}: a {what} is named twice", got=member)
        if int(value or 1) > MOST_VALUE:
            raise ReadError(f"{path}: a value beyond what a label map holds", got=member, expected=f"≤ {MOST_VALUE}")
        chosen[int(number)] = int(value or 1)
    return chosen
