"""Nuclear medicine: which frames of an object belong together, when they were taken, and where rebuilt slices lie.

Each frame is counted along several axes at once: energy window, detector, phase, rotation, heart beat, and so on
(PS3.3, C.8.4.8). One axis runs within a picture, a cine or a volume; the others tell such runs apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medmap.errors import ReadError
from medmap.read.dicom.place import Over, floats

CLASSES = ("1.2.840.10008.5.1.4.1.1.20", "1.2.840.10008.5.1.4.1.1.5")  # the second is retired
# Vectors in the order of PS3.3, table C.8-8, the fastest last, and how an axis is called.
AXES: Mapping[str, str] = MappingProxyType(
    {
        "EnergyWindowVector": "energy-window",
        "DetectorVector": "detector",
        "PhaseVector": "phase",
        "RotationVector": "rotation",
        "RRIntervalVector": "interval",
        "TimeSlotVector": "slot",
        "AngularViewVector": "view",
        "SliceVector": "slice",
        "TimeSliceVector": "time",
    }
)
RUNNING = ("slice", "view", "time", "slot")  # the first of them that frames are counted by runs within an image
_TAGS = {0x00540010: "EnergyWindowVector", 0x00540020: "DetectorVector", 0x00540030: "PhaseVector",
         0x00540050: "RotationVector", 0x00540060: "RRIntervalVector", 0x00540070: "TimeSlotVector",
         0x00540080: "SliceVector", 0x00540090: "AngularViewVector", 0x00540100: "TimeSliceVector"}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Frames that are one image.

    Args:
        name: ``energy-window-1-detector-2``; empty where they are all there is.
        frames: Their numbers in the object, from 0, in order of the axis that runs.
        split: Axes that tell the runs of the object apart, joined by ``+``.
        times_s: When each began, after the first frame of the acquisition or of the beat; None where nothing runs in
            time.
    """

    name: str
    frames: Sequence[int]
    split: str = ""
    times_s: tuple[float, ...] | None = None


def runs(header: Any, count: int) -> tuple[Run, ...]:
    """The runs of a nuclear medicine object; none for others, and where its vectors do not tell its frames apart.

    Args:
        header: A pydicom data set.
        count: Number of frames.
    """
    if str(header.get("SOPClassUID", "")) not in CLASSES or count < 2:
        return ()
    axes = axes_of(header, count)
    if not axes:
        return ()
    running = next((name for name in RUNNING if name in axes), "")
    apart = [name for name in axes if name != running]
    found: dict[tuple[int, ...], list[int]] = {}
    for number in range(count):
        found.setdefault(tuple(axes[name][number] for name in apart), []).append(number)
    order = axes.get(running)
    if any(len({order[n] for n in group} if order else {0}) < len(group) for group in found.values()):
        return ()
    varying = [i for i, name in enumerate(apart) if len(set(axes[name])) > 1]
    split = "+".join(apart[i] for i in varying)
    made = []
    for key, group in sorted(found.items()):
        frames = tuple(sorted(group, key=order.__getitem__)) if order else tuple(group)
        counted = [order[n] for n in frames] if order else []
        name = "-".join(f"{apart[i]}-{key[i]}" for i in varying)
        times = _times(header, running, dict(zip(apart, key, strict=True)), counted)
        made.append(Run(name, frames, split, times))
    return tuple(made)


def axes_of(header: Any, count: int) -> dict[str, tuple[int, ...]]:
    """Each frame's number along every axis that is there; none at all where one that is pointed to is damaged."""
    pointed = header.get("FrameIncrementPointer")
    tags = [] if pointed is None else pointed if hasattr(pointed, "append") else [pointed]
    named = {_TAGS.get(int(tag)) for tag in tags}
    found = {}
    for vector, name in AXES.items():
        given = header.get(vector)
        values = () if given is None else tuple(int(v) for v in (given if hasattr(given, "__len__") else [given]))
        if len(values) == count and min(values) >= 1:
            found[name] = values
        elif vector in named:
            return {}
    return found


def _times(header: Any, running: str, at: Mapping[str, int], counted: Sequence[int]) -> tuple[float, ...] | None:
    """Seconds at which frames began.

    Args:
        header: A pydicom data set.
        running: The axis within the run.
        at: Where the run stands on the other axes.
        counted: The numbers of its frames along ``running``.
    """
    found: list[float] | None = None
    if running == "time":
        found = _dynamic_s(header, at.get("phase", 1), counted)
    elif running == "slot":
        step = slot_s(header, at.get("interval", 1))
        found = None if step is None else [(n - 1) * step for n in counted]
    return None if found is None else tuple(round(t, 6) for t in found)


def _dynamic_s(header: Any, phase: int, counted: Sequence[int]) -> list[float] | None:
    """PS3.3, C.8.4.14: phases follow each other, each after its delay, with pauses between its frames."""
    begin = 0.0
    for number, item in enumerate(header.get("PhaseInformationSequence") or [], 1):
        delay, each, pause = (
            _milliseconds(item, n) for n in ("PhaseDelay", "ActualFrameDuration", "PauseBetweenFrames")
        )
        if not each:
            return None
        begin += delay
        if number == phase:
            return [(begin + (n - 1) * (each + pause)) / 1000 for n in counted]
        begin += float(item.get("NumberOfFramesInPhase") or 0) * (each + pause)
    return None


def slot_s(header: Any, interval: int) -> float | None:
    """Seconds that a slot of the heart beat takes (PS3.3, C.8.4.13); None where it is not stated."""
    for gate in (header.get("GatedInformationSequence") or [])[:1]:
        data = gate.get("DataInformationSequence") or []
        step = _milliseconds(data[interval - 1], "FrameTime") if 1 <= interval <= len(data) else 0.0
        return step / 1000 if step else None
    return None


def _milliseconds(item: Any, name: str) -> float:
    value = floats(item.get(name) or 0.0, 1)
    return 0.0 if value is None or value[0] < 0 else float(value[0])


# -- choosing --------------------------------------------------------------------------------------------------------


def chosen(path: Path, member: str | None, header: Any, count: int, notes: list[str]) -> Run:
    """The frames that a member names: one by its number, those of a run by its name; all where there is none.

    Raises:
        ReadError: No such frame or run.
    """
    found = runs(header, count)
    if member is None:
        if len(found) == 1:
            return found[0]
        if found:
            said = ", ".join(f"{path.name}#{run.name} ({len(run.frames)})" for run in found[:4])
            notes.append(
                f"the {count} frames are {len(found)} images that differ in {found[0].split.replace('+', ', ')}; they "
                f"were read one after another; each can be read alone: {said}" + (", …" if len(found) > 4 else "")
            )
        return Run("", range(count))
    for run in found:
        if member == run.name:
            return run
    if member.isascii() and member.isdigit() and len(member) < 10 and int(member) < count:
        return Run("", range(int(member), int(member) + 1))
    named = "".join(f", {run.name}" for run in found[:8] if run.name)
    raise ReadError(f"{path} has no frame {member!r}", expected=f"0 to {count - 1}{named}")


# -- reconstructed slices --------------------------------------------------------------------------------------------


def placed(header: Any, count: int) -> Any:
    """The header with the place of reconstructed slices where other objects have theirs; any other as it is.

    The detector's item holds position and orientation of the first slice (PS3.3, C.8.4.11); the others follow along
    row × column direction, backwards where the spacing is negative (C.8.4.15).
    """
    if str(header.get("SOPClassUID", "")) not in CLASSES or "RECON" not in _kind(header):
        return header
    detector = (header.get("DetectorInformationSequence") or [{}])[0]
    own: dict[str, Any] = {}
    for name in ("ImagePositionPatient", "ImageOrientationPatient"):
        value = detector.get(name) or header.get(name)
        if not value:
            return header
        own[name] = value
    step = floats(header.get("SpacingBetweenSlices"), 1) if header.get("SpacingBetweenSlices") else None
    if step is None:
        step = floats(header.get("SliceThickness"), 1) if header.get("SliceThickness") else None
    numbers = axes_of(header, count).get("slice")
    if step is None or not step[0] or numbers is None:
        return Over(header, own) if count == 1 else header
    own["SliceOffsets"] = tuple((n - 1) * float(step[0]) for n in numbers)
    return Over(header, own)


def _kind(header: Any) -> str:
    kinds: Any = header.get("ImageType") or ()
    return str(kinds[2]) if not isinstance(kinds, str) and len(kinds) > 2 else ""
