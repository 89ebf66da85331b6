"""Looking for what should be gone: every identifying value in the bytes of an output file, and the profile's own word.

The search knows nothing of how the output was made: it reads the bytes that go to disk. Only where something is found
does it look which attribute holds it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medmap.deidentify.identity import LONG, Identity, hits, is_weak, lowered, stand_in
from medmap.deidentify.profile import Profile
from medmap.deidentify.table import PRIVATE, pattern
from medmap.deidentify.walk import MOST_NESTED, TEXT, change_text, is_foreign

if TYPE_CHECKING:
    from pydicom import Dataset

_SLAB = 1 << 24
_NUMBERS = frozenset(
    ["DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "OB", "OW", "OF", "OD", "OL", "OV", "AT"]
)
_BINARY = frozenset(["UL", "SL", "UV", "SV", "FD"])
_SHORTEST_AMONG_NUMBERS = 6
_SHORTEST_PART = 3
_BETWEEN = b" ^,_=.-/"
_PIXELS = range(0x7FE00008, 0x7FE00011)
# Words of body parts and views that are also people's names; in a coded string they are what the code says.
_CODED_WORDS = frozenset(
    (
        b"head neck chest breast brain skull spine heart hand foot hip leg arm knee ankle elbow wrist shoulder abdomen "
        b"pelvis liver kidney pancreas prostate lung bladder axial sagittal coronal primary original derived secondary "
        b"left right bolt stone black white brown green young may june april august prone supine text code num "
        b"container image composite"
    ).split()
)


@dataclass(frozen=True)
class Residual:
    """Something identifying that is left.

    Args:
        place: The attribute, as tags from the top: ``00081140/00081150``; or ``pixels``, ``file``.
        kind: ``name``, ``value``, ``date``, ``uid``, or ``attribute`` where the profile wanted it gone.
    """

    place: str
    kind: str


def found_in(header: bytes, identity: Identity) -> list[tuple[str, bytes]]:
    """The identifying values that stand in the bytes of an object's header, or that seem to."""
    return stand_in(lowered(header), identity.needles())


def found_in_pixels(data: bytes, identity: Identity) -> list[Residual]:
    """What stands in the bytes of pixel data, as in a comment of a codestream: long values, and two names side by side.

    A short word alone is found in any picture by chance; two parts of a name with a sign between them are not.
    """
    needles = [(kind, needle) for kind, needle in identity.needles() if len(needle) >= LONG and not is_weak(needle)]
    parts = sorted({p.encode() for p in identity.names if len(p) >= _SHORTEST_PART and p.isascii() and p.isalpha()})
    found: list[Residual] = []
    for start in range(0, len(data) if needles or len(parts) > 1 else 0, _SLAB):
        slab = lowered(data[start : start + _SLAB + 256])
        found += [Residual("pixels", kind) for kind, _ in hits(slab, needles)]
        if _side_by_side(slab, parts):
            found.append(Residual("pixels", "name"))
    return list(dict.fromkeys(found))


def _side_by_side(slab: bytes, parts: list[bytes]) -> bool:
    """Whether two different parts of names stand next to each other, with one or two signs between them."""
    for part in parts:
        at = slab.find(part)
        while at >= 0:
            rest = slab[at + len(part) : at + len(part) + 2 + max(map(len, parts))]
            after = rest.lstrip(_BETWEEN)
            if 0 < len(rest) - len(after) <= 2 and any(after.startswith(p) for p in parts if p != part):
                return True
            at = slab.find(part, at + 1)
    return False


def located(
    dataset: Dataset, found: list[tuple[str, bytes]], profile: Profile
) -> Iterator[tuple[Any, int, str, str, str]]:
    """The attributes that hold found values: dataset, tag, representation, path and kind."""
    for holder, tag, vr, path in _leaves(dataset, "", 0):
        if tag in _PIXELS and "/" not in path:  # looked at apart, as pixels
            continue
        data = _bytes_of(holder, tag)
        if not data:
            continue
        data = lowered(data)
        for kind, needle in found:
            if not hits(data, [(kind, needle)]) or _is_ours(kind, needle, vr, profile):
                continue
            if vr == "CS" and kind == "name" and needle in _CODED_WORDS:
                continue
            yield holder, tag, vr, path, kind
            break


def _is_ours(kind: str, needle: bytes, vr: str, profile: Profile) -> bool:
    if kind == "date" and vr in ("DA", "DT"):
        return bool(profile.keep & {"dates", "dates-modified"}) or needle == b"19000101"
    # a short value stands among measured numbers by chance
    return vr in _NUMBERS and (is_weak(needle) or len(needle) < _SHORTEST_AMONG_NUMBERS)


def cleaned_where_found(
    dataset: Dataset, found: list[tuple[str, bytes]], identity: Identity, profile: Profile
) -> tuple[list[str], list[Residual]]:
    """Take found values out of texts; what holds one and is no text is left and said.

    Returns:
        The paths of the texts that were changed, and what is left.
    """
    from medmap.deidentify.texts import tidied, without_known

    changed, left = [], []
    for holder, tag, vr, path, kind in list(located(dataset, found, profile)):
        if vr in TEXT and change_text(holder, tag, vr, lambda text: _without(text, identity, without_known, tidied)):
            changed.append(path)
        else:
            left.append(Residual(path, kind))
    return changed, left


def _without(text: str, identity: Identity, without_known: Any, tidied: Any) -> str:
    after = without_known(text, identity)
    return text if after == text else str(tidied(after))


def examined(
    header: bytes, implicit: bool, little: bool, profile: Profile, identity: Identity
) -> tuple[Dataset, list[Residual]]:
    """Read an object's header again and ask of each attribute whether it may be there at all, and may say what it says.

    Args:
        header: The bytes that were written, without pixel data.
        implicit, little: How they are encoded.
        profile: What was asked for.
        identity: What must not stand in texts of foreign letters and in binary numbers, which no search for words sees.
    """
    from pydicom.filereader import read_dataset

    dataset = read_dataset(io.BytesIO(header), implicit, little)
    numbers = [(kind, needle) for kind, needle in identity.numbers(little) if needle in header]
    left = []
    for holder, tag, vr, path in _leaves(dataset, "", 0):
        if _must_be_gone(tag, vr, profile):
            left.append(Residual(path, "attribute"))
        elif vr in TEXT:
            if is_foreign(holder, tag) and _says(holder, tag, identity):
                left.append(Residual(path, "name"))
        elif numbers and vr in _BINARY:
            data = _bytes_in_file(holder, tag)
            left += [Residual(path, kind) for kind, needle in numbers if needle in data]
    return dataset, list(dict.fromkeys(left))


def _says(holder: Dataset, tag: int, identity: Identity) -> bool:
    from medmap.deidentify.texts import without_known

    value = holder[tag].value
    words = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
    return any(without_known(str(word), identity) != str(word) for word in words)


def _bytes_in_file(holder: Dataset, tag: int) -> bytes:
    raw = holder.get_item(tag)
    return raw.value if raw is not None and raw.is_raw and isinstance(raw.value, bytes) else b""


def _must_be_gone(tag: int, vr: str, profile: Profile) -> bool:
    row = pattern(tag)
    if row == PRIVATE:
        return "safe-private" not in profile.keep
    return profile.code(tag, vr) == "X" or tag >> 24 == 0x50


def _leaves(dataset: Dataset, prefix: str, depth: int) -> Iterator[tuple[Any, int, str, str]]:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    for tag in sorted(dataset.keys(), key=int):
        number = int(tag)
        raw = dataset.get_item(tag)
        vr = str(raw.VR or "") or (str(dictionary_VR(number)) if dictionary_has_tag(number) else "UN")
        path = f"{prefix}{number:08X}"
        if vr == "SQ" or (vr == "UN" and str(dataset[tag].VR) == "SQ"):
            yield dataset, number, "SQ", path
            for item in (dataset[tag].value or ()) if depth <= MOST_NESTED else ():
                yield from _leaves(item, path + "/", depth + 1)
        else:
            yield dataset, number, vr[:2], path


def _bytes_of(dataset: Dataset, tag: int) -> bytes:
    raw = dataset.get_item(tag)
    value = None if raw is None else raw.value
    if value is None or (raw is not None and raw.VR == "SQ"):
        return b""
    if isinstance(value, bytes):
        return value
    if hasattr(value, "__iter__") and not isinstance(value, str) and not hasattr(value, "components"):
        return "\\".join(map(str, value)).encode("utf-8", "replace")
    return str(value).encode("utf-8", "replace")
