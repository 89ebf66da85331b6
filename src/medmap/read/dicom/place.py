"""Where the pixels of a file lie: the plane of a frame, frames as a volume or as a cine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmap.errors import ReadError
from medmap.geometry import Floats, Geometry

UNIFORM = 0.01  # slices are uniform when none is off its place by more than this part of their distance


class Over:
    """A file's header with some values replaced: those of another slice, or those that stand elsewhere in it."""

    def __init__(self, header: Any, own: Mapping[str, Any]) -> None:
        self._header, self._own = header, own

    def get(self, name: Any, default: Any = None) -> Any:
        """A value by its keyword."""
        return self._own[name] if name in self._own else self._header.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._header


def groups(header: Any, name: str) -> Sequence[Any]:
    """The items of a functional group sequence; none where it is absent."""
    return header.get(name) or []


def per_frame(header: Any) -> Sequence[Any]:
    """One item a frame of an enhanced object."""
    return groups(header, "PerFrameFunctionalGroupsSequence")


def within(header: Any, frame: int, sequence: str, name: str) -> Any:
    """An attribute of a frame: from its functional group, the shared one, or the data set itself."""
    own = per_frame(header)
    places = [own[frame]] if frame < len(own) else []
    for place in (*places, *groups(header, "SharedFunctionalGroupsSequence")[:1]):
        items = place.get(sequence) or []
        if items and items[0].get(name) is not None:
            return items[0].get(name)
    return header.get(name)


def floats(value: Any, count: int) -> Floats | None:
    """``count`` finite numbers; None for anything else."""
    if value is None:
        return None
    values = np.array([float(v) for v in (value if hasattr(value, "__len__") else [value])], dtype=np.float64)
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def place_of(
    path: Path, header: Any, size: tuple[int, int], picked: Sequence[int], notes: list[str]
) -> tuple[Geometry, tuple[float, ...] | None]:
    """The grid of the frames ``picked``, and their times in seconds when they are a cine.

    Frames without places and times are the third axis of a grid without millimetres.

    Raises:
        ReadError: Frames of different orientation, or at uneven distances.
    """
    plane = _plane(header, picked[0], notes)
    times = None
    positions = [floats(within(header, f, "PlanePositionSequence", "ImagePositionPatient"), 3) for f in picked]
    offsets = _offsets(header, picked)
    if plane is not None and offsets is not None and positions[0] is not None:
        normal = np.cross(plane[:, 1], plane[:, 0])
        normal /= np.linalg.norm(normal)
        places = positions[0] + offsets[:, None] * normal
        if len(picked) > 1:
            return _volume(path, header, size, picked, (plane, places), notes), None
        positions = [places[0]]
    if len(picked) == 1:
        return _flat(header, size, plane, positions[0], notes), None
    has_places = bool(per_frame(header)) and all(p is not None for p in positions)
    if plane is not None and has_places and len({tuple(p) for p in positions if p is not None}) == len(picked):
        return _volume(path, header, size, picked, (plane, np.array(positions)), notes), None
    times = _times(header, len(picked))
    if times is None:
        notes.append(
            f"the {len(picked)} frames have neither places of their own nor times: they are counted, and the image "
            f"has no millimetres; a frame read alone ({path.name}#0) keeps those of its plane"
        )
        return Geometry.without_size((*size, len(picked))), None
    return _flat(header, size, plane, positions[0], notes), times


def _offsets(header: Any, picked: Sequence[int]) -> Floats | None:
    """Distances of frames along the normal, in mm, of a dose grid (PS3.3, C.8.8.3.2) or another that states them."""
    stated = header.get("SliceOffsets")  # of no object, but of a header that was put together
    if stated is not None:
        found = np.array([stated[frame] for frame in picked], np.float64)
        return found if len(set(found)) == len(picked) and np.isfinite(found).all() else None
    given = header.get("GridFrameOffsetVector")
    if given is None or not hasattr(given, "__len__") or len(given) <= max(picked):
        return None
    offsets = floats([given[frame] for frame in picked], len(picked))
    if offsets is None or len(set(offsets)) < len(picked):
        return None
    return offsets - float(given[0])  # relative to the first plane, or the patient's z where that is not zero


def _plane(header: Any, frame: int, notes: list[str]) -> Floats | None:
    """(3, 2): the steps to the next row and the next column, in mm; None when the plane is not known."""
    cosines = floats(within(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = floats(within(header, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
    if cosines is None or spacing is None:
        return None
    along_row, along_column = cosines[:3], cosines[3:]
    off = max(
        abs(float(along_row @ along_column)),
        abs(float(np.linalg.norm(along_row)) - 1),
        abs(float(np.linalg.norm(along_column)) - 1),
    )
    if off > 0.01 or spacing.min() <= 0:
        notes.append("the orientation or spacing in the header is no valid one and was not used")
        return None
    # the first triplet is the direction along a row, that is, of increasing column index
    return np.stack([along_column * spacing[0], along_row * spacing[1]], axis=1)


def _flat(
    header: Any, size: tuple[int, int], plane: Floats | None, origin: Floats | None, notes: list[str]
) -> Geometry:
    frame_of_reference = str(header.get("FrameOfReferenceUID", "") or "") or None
    if plane is not None and origin is not None:
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1], affine[:3, 3] = plane[:, 0], plane[:, 1], origin
        normal = np.cross(plane[:, 1], plane[:, 0])
        affine[:3, 2] = normal / np.linalg.norm(normal)
        return Geometry(size, affine, "patient", frame_of_reference)
    spacing = _detector_spacing(header, notes)
    if spacing is None:
        return Geometry.without_size(size)
    affine = np.eye(4)
    # the plane of a radiograph is unknown; rows are laid downward along y, columns along x
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (0, spacing[0], 0), (spacing[1], 0, 0), (0, 0, 1)
    return Geometry(size, affine, "detector")


def _detector_spacing(header: Any, notes: list[str]) -> Floats | None:
    """Row and column spacing in mm of an image whose place in the patient is not known."""
    at_detector = floats(header.get("ImagerPixelSpacing"), 2)
    stated = within(header, 0, "PixelMeasuresSequence", "PixelSpacing")
    given = floats(stated, 2)
    if stated and given is None:
        notes.append("the pixel spacing in the header is no pair of finite numbers and was not used")
    spacing = given if given is not None else at_detector
    if spacing is None:
        spacing = floats(header.get("NominalScannedPixelSpacing"), 2)
    if spacing is None:
        return _ultrasound_spacing(header, notes)
    if spacing.min() <= 0:
        notes.append("the pixel spacing in the header is not positive and was not used")
        return None
    if given is None and at_detector is not None:
        notes.append("the spacing is the detector's (ImagerPixelSpacing): what lies nearer the tube is magnified")
    elif at_detector is not None and not np.allclose(spacing, at_detector):
        notes.append("the spacing was corrected for magnification by the owner (PixelSpacing)")
    return spacing


def _ultrasound_spacing(header: Any, notes: list[str]) -> Floats | None:
    """PS3.3 C.8.5.5: regions with their step in cm; one value is taken only when all regions agree."""
    found = set()
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        if region.get("PhysicalUnitsXDirection") == 3 and region.get("PhysicalUnitsYDirection") == 3:
            steps = (float(region.get("PhysicalDeltaY") or 0), float(region.get("PhysicalDeltaX") or 0))
            found.add((round(abs(steps[0]) * 10, 9), round(abs(steps[1]) * 10, 9)))
    if len(found) > 1:
        notes.append("the ultrasound regions have different scales; no spacing was taken")
    good = len(found) == 1 and min(next(iter(found))) > 0
    return np.array(found.pop()) if good else None


def _volume(
    path: Path,
    header: Any,
    size: tuple[int, int],
    picked: Sequence[int],
    place: tuple[Floats, Floats],
    notes: list[str],
) -> Geometry:
    plane, positions = place
    for frame in picked:
        other = _plane(header, frame, notes)
        if other is None or not np.allclose(other, plane, atol=1e-4):
            raise ReadError(f"{path} holds frames of different orientation", remedy=f"read one: {path.name}#0")
    steps = np.diff(positions, axis=0)
    step = steps.mean(axis=0)
    length = float(np.linalg.norm(step))
    expected = positions[0] + np.arange(len(picked))[:, None] * step
    off = float(np.linalg.norm(positions - expected, axis=1).max())
    if length == 0 or off > UNIFORM * length:
        raise ReadError(
            f"{path} holds frames that are not equally spaced in one direction",
            got=f"one is {off:.3g} mm off its place",
            expected=f"at most {UNIFORM * length:.3g} mm",
            remedy=f"read one frame: {path.name}#0",
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = plane[:, 0], plane[:, 1], step, positions[0]
    return Geometry((*size, len(picked)), affine, "patient", str(header.get("FrameOfReferenceUID", "") or "") or None)


def _times(header: Any, count: int) -> tuple[float, ...] | None:
    """Times of the frames of a cine, in seconds (PS3.3 C.7.6.5)."""
    vector = header.get("FrameTimeVector")
    if vector is not None and hasattr(vector, "__len__") and len(vector) == count:
        return tuple(float(v) for v in np.cumsum([float(v) for v in vector]) / 1000)
    step = float(header.get("FrameTime") or 0) / 1000
    if step <= 0:
        rate = float(header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 0)
        step = 1 / rate if rate > 0 else 0.0
    return tuple(i * step for i in range(count)) if step > 0 and math.isfinite(step) else None
