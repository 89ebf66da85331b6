"""Frames of one series to parts: one volume, phase, echo, b-value, stack or picture each.

Frames of one size, orientation and spacing make a stack. Where a stack holds several frames at each place it is split
by the attribute that tells them apart: component, echo, b-value, time. What no attribute tells apart are duplicates.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from medmap.geometry import Floats
from medmap.read.dicom.instances import Instance

SAME_MM = 0.01  # frames whose places along the normal differ by less stand at the same place
ENOUGH = 0.5  # a split whose parts hold fewer of the places than this is none


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture: an instance, or a frame of one.

    Args:
        instance: The object.
        index: Frame of a multi-frame object, from 0; None for a whole single-frame object.
        values: Header values that hold for this frame.
    """

    instance: Instance
    index: int | None
    values: Mapping[str, Any]

    @property
    def position(self) -> Floats | None:
        """(3,) LPS mm of the first voxel's centre; None when it is not stated."""
        return _vector(self.values.get("ImagePositionPatient"), 3)

    @property
    def plane(self) -> Floats | None:
        """(3, 2) steps to the next row and the next column, in mm; None when they are not stated validly."""
        return _plane(self.values.get("ImageOrientationPatient"), self.values.get("PixelSpacing"))[0]

    @property
    def normal(self) -> Floats | None:
        """(3,) unit vector along which slices are sorted (PS3.3 C.7.6.2.1.1)."""
        return _plane(self.values.get("ImageOrientationPatient"), self.values.get("PixelSpacing"))[1]


@dataclass(frozen=True, slots=True)
class Group:
    """Frames that belong into one part.

    Args:
        name: ``volume``, ``stack-2``, ``echo-1``, ``b-1000``, ``time-3``, ``picture-1`` …
        frames: Sorted by place, or by number.
        split: What told the parts apart: "", component, echo, b-value, direction, phase or time.
        value: Of that attribute: ms of an echo, s/mm² of a b-value, seconds of a time.
    """

    name: str
    frames: tuple[Frame, ...]
    split: str = ""
    value: float | None = None


def _vector(value: Any, count: int) -> Floats | None:
    if not isinstance(value, tuple) or len(value) != count or not all(map(math.isfinite, value)):
        return None
    return np.array(value, dtype=np.float64)


@lru_cache(maxsize=4096)  # the slices of a series share it
def _plane(orientation: Any, distances: Any) -> tuple[Floats | None, Floats | None]:
    """The steps in the plane, and its normal, of what a header states; both read-only."""
    cosines, spacing = _vector(orientation, 6), _vector(distances, 2)
    if cosines is None or spacing is None or spacing.min() <= 0:
        return None, None
    row, column = cosines[:3], cosines[3:]
    off = max(abs(float(row @ column)), abs(float(row @ row) - 1), abs(float(column @ column) - 1))
    if off > 0.02:
        return None, None
    plane = np.stack([column * spacing[0], row * spacing[1]], axis=1)
    normal = np.cross(plane[:, 1], plane[:, 0])
    normal /= np.linalg.norm(normal)
    plane.flags.writeable = normal.flags.writeable = False
    return plane, normal


def stacks(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames of one size, orientation, spacing and class, the largest stack first; those without a place apart."""
    found: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        plane, position = frame.plane, frame.position
        if plane is None or position is None:
            continue
        found[(stack_key(frame))].append(frame)
    return sorted(found.values(), key=len, reverse=True)


def stack_key(frame: Frame) -> tuple[Any, ...]:
    """What frames of one volume have in common; directions within about 0.1 degree count as one."""
    values = frame.values
    plane = frame.plane
    geometry = () if plane is None else tuple((np.round(plane, 3) + 0.0).ravel().tolist())
    return (
        frame.instance.sop_class_uid,
        values.get("Rows"),
        values.get("Columns"),
        values.get("SamplesPerPixel", 1),
        values.get("FrameOfReferenceUID", ""),
        values.get("StackID", ""),
        geometry,
    )


def along(frames: Sequence[Frame]) -> Floats:
    """(n,) place of each frame along the common normal, in mm."""
    normal = frames[0].normal
    places = [f.position for f in frames]
    found: Floats = np.array([0.0 if p is None or normal is None else float(p @ normal) for p in places])
    return found


def in_order(frames: Sequence[Frame]) -> list[Frame]:
    """Sorted along the normal; at one place by instance number and frame."""
    distances = along(frames)
    keys = [(round(d / SAME_MM), f.instance.number or 0, f.index or 0) for d, f in zip(distances, frames, strict=True)]
    return [frames[i] for i in sorted(range(len(frames)), key=keys.__getitem__)]


def _places(frames: Sequence[Frame]) -> list[int]:
    """A number for each frame's place; frames within ``SAME_MM`` of each other share it."""
    distances = along(frames)
    order = np.argsort(distances, kind="stable")
    numbers = np.empty(len(frames), np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(distances[order]) > SAME_MM)])
    return [int(n) for n in numbers]


# -- what tells frames at one place apart ----------------------------------------------------------------------------


def b_value(values: Mapping[str, Any]) -> float | None:
    """s/mm²: DiffusionBValue, or what Siemens, Philips, GE and UIH write in private elements."""
    for name in ("DiffusionBValue", "SiemensBValue", "PhilipsBValue", "UIHBValue"):
        if name in values:
            return float(values[name])
    coded = values.get("GEBValue")
    # GE adds a large round number to mark the value as valid
    return float(coded[0] % 100_000) if coded else None


def seconds(text: object) -> float | None:
    """Seconds since midnight of a DICOM time (TM), or since the day began of a date and time (DT)."""
    said = str(text or "").strip()
    if len(said.split(".")[0]) >= 14:
        said = said[8:].split("+")[0].split("-")[0]
    digits = said.replace(":", "")
    try:
        return int(digits[:2]) * 3600 + int(digits[2:4] or 0) * 60 + float(digits[4:] or 0)
    except ValueError:
        return None


def _number(name: str, scale: float = 1.0) -> Callable[[Frame], float | None]:
    def read(frame: Frame) -> float | None:
        value = frame.values.get(name)
        return None if value is None else float(value) * scale

    return read


def _time(name: str) -> Callable[[Frame], float | None]:
    return lambda frame: seconds(frame.values.get(name)) if frame.values.get(name) else None


def _component(frame: Frame) -> str | None:
    kinds = frame.values.get("ImageType", ())
    return "/".join(kinds[2:]).lower() or None


def _direction(frame: Frame) -> tuple[float, ...] | None:
    value = frame.values.get("DiffusionGradientOrientation")
    return tuple(round(float(v), 3) for v in value) if value else None


# In the order in which they are tried. The first word is the split's name; times come last, for the clock of a scanner
# tells everything apart.
SPLITS: tuple[tuple[str, Callable[[Frame], Any]], ...] = (
    ("component", _component),
    ("interval", _number("RRInterval")),
    ("echo", _number("EchoTime")),
    ("echo", _number("EchoNumbers")),
    ("b", lambda frame: b_value(frame.values)),
    ("direction", _direction),
    ("time", _number("TemporalPositionIdentifier")),
    ("inversion", _number("InversionTime")),
    ("phase", _number("TriggerTime", 1e-3)),
    ("slot", _number("TimeSlot")),
    ("time", _number("FrameReferenceTime", 1e-3)),
    ("acquisition", _number("AcquisitionNumber")),
    ("time", _time("AcquisitionTime")),
    ("time", _time("ContentTime")),
)
# For times that differ from slice to slice: at each place the frames are taken in order
RANKS: tuple[tuple[str, Callable[[Frame], Any]], ...] = (
    ("phase", _number("TriggerTime", 1e-3)),
    ("time", _number("FrameReferenceTime", 1e-3)),
    ("time", _time("AcquisitionDateTime")),
    ("time", _time("AcquisitionTime")),
    ("time", _time("ContentTime")),
)
TIMED = ("time", "phase", "acquisition")


def split(frames: Sequence[Frame]) -> list[Group]:
    """One stack as one or several groups, each with (where that is possible) one frame a place."""
    places = _places(frames)
    count = Counter(places)
    if len(count) == len(frames) or len(count) * (1 + ENOUGH) > len(frames):
        return [Group("volume", tuple(in_order(frames)))]
    for name, ask in SPLITS:
        found = _by(frames, places, ask)
        if found is not None:
            return _named(name, found)
    for first, ask_first in SPLITS[:7]:
        for second, ask_second in SPLITS:
            found = _by(frames, places, _both(ask_first, ask_second))
            if found is not None:
                return _named(f"{first}+{second}", found)
    for name, ask in RANKS:
        ranked = _by_rank(frames, places, ask)
        if ranked is not None:
            return _named(name, ranked)
    return [Group("volume", tuple(in_order(frames)))]


def _both(first: Callable[[Frame], Any], second: Callable[[Frame], Any]) -> Callable[[Frame], Any]:
    return lambda frame: None if second(frame) is None else (first(frame) is not None, first(frame), second(frame))


def _by(frames: Sequence[Frame], places: Sequence[int], ask: Callable[[Frame], Any]) -> dict[Any, list[Frame]] | None:
    found: dict[Any, list[Frame]] = defaultdict(list)
    where: dict[Any, set[int]] = defaultdict(set)
    for frame, place in zip(frames, places, strict=True):
        key = ask(frame)
        if key is None or place in where[key]:
            return None
        where[key].add(place)
        found[key].append(frame)
    whole = len(set(places))
    if len(found) < 2 or min(len(group) for group in found.values()) < ENOUGH * whole:
        return None
    try:
        return dict(sorted(found.items()))
    except TypeError:  # keys with parts that are absent have no order
        return dict(sorted(found.items(), key=lambda pair: repr(pair[0])))


def _by_rank(
    frames: Sequence[Frame], places: Sequence[int], ask: Callable[[Frame], Any]
) -> dict[Any, list[Frame]] | None:
    at: dict[int, list[tuple[Any, Frame]]] = defaultdict(list)
    for frame, place in zip(frames, places, strict=True):
        at[place].append((ask(frame), frame))
    counts = {len(group) for group in at.values()}
    if len(counts) != 1 or any(key is None for group in at.values() for key, _ in group):
        return None
    if any(len({key for key, _ in group}) < len(group) for group in at.values()):
        return None
    ranked = [sorted(group, key=lambda pair: pair[0]) for group in at.values()]
    return {
        float(np.median([group[n][0] for group in ranked])): [group[n][1] for group in ranked]
        for n in range(counts.pop())
    }


def _named(name: str, found: Mapping[Any, list[Frame]]) -> list[Group]:
    groups = []
    for number, (key, members) in enumerate(found.items(), 1):
        value = float(key) if isinstance(key, (int, float)) else None
        said = f"b-{value:g}" if name == "b" and value is not None else f"{name.replace('+', '-')}-{number}"
        if name == "component" and isinstance(key, str):
            said = "component-" + "-".join(part for part in key.replace(" ", "-").split("/") if part)
        groups.append(Group(said, tuple(in_order(members)), name, value))
    return groups


def times_of(groups: Iterable[Group]) -> tuple[float, ...] | None:
    """Seconds of each group after the first, where time is what told them apart; None otherwise.

    A temporal position is only a number: the acquisition or content times are taken, and where they do not
    rise, the number itself is no time and there is none.
    """
    groups = list(groups)
    if len(groups) < 2 or any(group.split not in TIMED for group in groups):
        return None
    asks = [_time("AcquisitionDateTime"), _time("AcquisitionTime"), _time("ContentTime")]
    if groups[0].split == "phase":
        asks = [_number("TriggerTime", 1e-3)]
    else:
        asks.insert(0, _number("FrameReferenceTime", 1e-3))
        asks.append(_number("TriggerTime", 1e-3))
    for ask in asks:
        found = [[value for f in group.frames if (value := ask(f)) is not None] for group in groups]
        if all(found):
            middle = [float(np.median(values)) for values in found]
            if all(a < b for a, b in pairwise(middle)):
                return tuple(round(m - middle[0], 6) for m in middle)
    return None
