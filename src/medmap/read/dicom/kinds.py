"""What a series is, by its class (PS3.4 B.5), its modality, its image type and how its frames lie."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

SeriesKind = Literal[
    "volume", "picture", "cine", "localiser", "derived", "segmentation", "structures", "report", "presentation",
    "parametric map", "slide", "waveform", "document", "other",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(SeriesKind)
IMAGES = ("volume", "picture", "cine", "localiser", "derived")

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# by the class's UID below the storage root; the longest prefix wins
_CLASSES: Mapping[str, SeriesKind] = MappingProxyType(
    {
        "66.4": "segmentation",
        "66.7": "segmentation",
        "481.3": "structures",
        "88": "report",
        "11": "presentation",
        "30": "parametric map",
        "77.1.6": "slide",
        "9": "waveform",
        "104": "document",
        "66": "other",
        "481": "other",
        "91": "other",
        "67": "other",
        "68": "other",
    }
)
_LOCALISER = re.compile(r"\b(localizer|localiser|scout|topogram|surview|survey|scanogram|pilot)\b", re.IGNORECASE)
# third and later values of the image type of pictures that were computed from others
_COMPUTED = frozenset(
    {"MPR", "MIP", "MINIP", "PROJECTION IMAGE", "CSA MPR", "CSA MIP", "ADC", "FA", "TRACEW", "COLFA", "REFORMATTED",
     "AVERAGE", "SUBTRACT", "SUBTRACTION", "RESAMPLED", "SCREEN SAVE", "CSA BLACK IMAGE", "SECONDARY CAPTURE"}
)  # fmt: skip
_SECTIONS = ("CT", "MR", "PT", "NM")


def kind_of_class(uid: str) -> SeriesKind | None:
    """What an object of this class is when it is no plain image; None for images.

    Example:
        >>> kind_of_class("1.2.840.10008.5.1.4.1.1.66.4"), kind_of_class("1.2.840.10008.5.1.4.1.1.2")
        ('segmentation', None)
    """
    if uid.startswith("1.2.840.10008.5.1.4.39"):
        return "other"  # colour palettes
    parts = uid.removeprefix(_STORAGE).split(".") if uid.startswith(_STORAGE) else []
    for count in range(len(parts), 0, -1):
        found = _CLASSES.get(".".join(parts[:count]))
        if found is not None:
            return found
    return None


def is_localiser(header: Mapping[str, Any]) -> bool:
    """Whether a picture was made to plan others on: by its image type, or by what the series is called."""
    kinds = [str(k).upper() for k in header.get("ImageType", ())]
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return True
    return bool(_LOCALISER.search(f"{header.get('SeriesDescription', '')} {header.get('ProtocolName', '')}"))


def is_derived(header: Mapping[str, Any]) -> bool:
    """Whether a section image was computed from others (PS3.3 C.7.6.1.1.2); compressing alone does not count."""
    kinds = [str(k).upper() for k in header.get("ImageType", ())]
    if not kinds or header.get("Modality") not in _SECTIONS:
        return False
    return (kinds[0] == "DERIVED" and kinds[1:2] == ["SECONDARY"]) or bool(_COMPUTED.intersection(kinds[2:]))


def kind_of(
    headers: Sequence[Mapping[str, Any]], classes: Sequence[str], shapes: Sequence[str], crossing: bool
) -> SeriesKind:
    """The kind of a series.

    Args:
        headers: Of its instances, scanned.
        classes: Their SOP classes.
        shapes: Of its parts: volume, picture or cine.
        crossing: Whether it is a few slices in planes across each other.
    """
    special = {kind_of_class(uid) for uid in classes}
    if len(special) == 1 and (only := special.pop()) is not None:
        return only
    if not any("Rows" in header for header in headers):
        return "other"
    if is_localiser(headers[0]) or crossing:
        return "localiser"
    if is_derived(headers[0]):
        return "derived"
    for shape in ("volume", "cine"):
        if shape in shapes:
            return "volume" if shape == "volume" else "cine"
    return "picture"
