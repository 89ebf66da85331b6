"""The frames of an object: one, or those of an enhanced multi-frame object with what its groups say of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from medmap.read.dicom import nuclear
from medmap.read.dicom.instances import Instance
from medmap.read.dicom.kinds import kind_of_class
from medmap.read.dicom.mosaic import is_mosaic, tiles
from medmap.read.dicom.place import floats, groups, per_frame, within
from medmap.read.dicom.sorting import Frame
from medmap.read.opened import at_the_door, heard

# (sequence, its attribute, the classic attribute that says the same) (PS3.3 C.7.6.16, C.8.13, C.8.15)
_SAME: tuple[tuple[str, str, str], ...] = (
    ("PlanePositionSequence", "ImagePositionPatient", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness", "SliceThickness"),
    ("PixelMeasuresSequence", "SpacingBetweenSlices", "SpacingBetweenSlices"),
    ("FrameContentSequence", "StackID", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("FrameContentSequence", "FrameAcquisitionDateTime", "AcquisitionDateTime"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    ("PixelValueTransformationSequence", "RescaleSlope", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept", "RescaleIntercept"),
    ("PixelValueTransformationSequence", "RescaleType", "RescaleType"),
)
# axes of a gated reconstruction, and how sorting calls them
_GATES: Mapping[str, str] = MappingProxyType({"interval": "RRInterval", "slot": "TimeSlot"})
_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


def frames_of(instance: Instance) -> list[Frame] | None:
    """The placed frames of an object; None where its own reader reads it whole (a cine, a projection, a slide)."""
    if kind_of_class(instance.sop_class_uid) is not None:
        return None
    if is_mosaic(instance):
        return tiles(instance)
    if instance.frames == 1 and "PerFrameFunctionalGroupsSequence" not in instance.header:
        return [Frame(instance, None, instance.header)]
    if "PerFrameFunctionalGroupsSequence" not in instance.header:
        return _rebuilt(instance)
    with _header(instance) as header:
        if len(per_frame(header)) != instance.frames:
            return None
        found = [Frame(instance, n, _values(header, n, instance.header)) for n in range(instance.frames)]
    return found if all(f.plane is not None and f.position is not None for f in found) else None


@contextmanager
def _header(instance: Instance) -> Iterator[Any]:
    """The whole header, by pydicom; what is wrong with values that are asked for inside is told as with the file."""
    import pydicom

    with instance.as_file() as path, at_the_door(path, "DICOM"), heard([], "pydicom"):
        yield pydicom.dcmread(path, stop_before_pixels=True)


# -- nuclear medicine ------------------------------------------------------------------------------------------------


def runs_of(instance: Instance) -> tuple[nuclear.Run, ...]:
    """The images that a nuclear medicine object holds; none for other objects."""
    if instance.sop_class_uid not in nuclear.CLASSES or instance.frames < 2:
        return ()
    with _header(instance) as header:
        return nuclear.runs(header, instance.frames)


def _rebuilt(instance: Instance) -> list[Frame] | None:
    """The slices of a reconstruction with their places, and slots of the heart beat; None for any other object."""
    if instance.sop_class_uid not in nuclear.CLASSES or instance.frames < 2:
        return None
    with _header(instance) as header:
        where = nuclear.placed(header, instance.frames)
        position = floats(where.get("ImagePositionPatient"), 3)
        cosines = floats(where.get("ImageOrientationPatient"), 6)
        offsets = where.get("SliceOffsets")
        if offsets is None or position is None or cosines is None or not nuclear.runs(header, instance.frames):
            return None
        normal = np.cross(cosines[:3], cosines[3:])
        axes = nuclear.axes_of(header, instance.frames)
        found = []
        for number, offset in enumerate(offsets):
            own: dict[str, Any] = {
                "ImagePositionPatient": tuple(float(v) for v in position + normal * offset),
                "ImageOrientationPatient": tuple(float(v) for v in cosines),
            }
            interval = axes["interval"][number] if "interval" in axes else 1
            own |= {name: axes[axis][number] for axis, name in _GATES.items() if axis in axes}
            step_s = nuclear.slot_s(header, interval)
            if "slot" in axes and step_s is not None:
                own["TriggerTime"] = (axes["slot"][number] - 1) * step_s * 1000
            found.append(Frame(instance, number, MappingProxyType({**instance.header, **own})))
    return found


# -- enhanced multi-frame --------------------------------------------------------------------------------------------


def _values(header: Any, number: int, scanned: Mapping[str, Any]) -> Mapping[str, Any]:
    values = dict(scanned)
    for sequence, name, classic in _SAME:
        value = within(header, number, sequence, name)
        if value is not None:
            values[classic] = _plain(value)
    direction = within(header, number, "MRDiffusionSequence", "DiffusionGradientDirectionSequence")
    if direction:
        value = direction[0].get("DiffusionGradientOrientation")
        if value is not None:
            values["DiffusionGradientOrientation"] = _plain(value)
    for sequence in _TYPES:
        kinds = within(header, number, sequence, "FrameType")
        if kinds is not None and groups(header, "PerFrameFunctionalGroupsSequence"):
            values["ImageType"] = tuple(str(k).strip() for k in kinds)
    return MappingProxyType(values)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "__len__"):
        return tuple(float(v) for v in value)
    return float(value)
