"""The frames of an object: one, or those of an enhanced multi-frame object with what its groups say of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from medmap.read.dicom.instances import Instance
from medmap.read.dicom.kinds import kind_of_class
from medmap.read.dicom.mosaic import is_mosaic, tiles
from medmap.read.dicom.place import groups, per_frame, within
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
        return None
    import pydicom

    with instance.as_file() as path, at_the_door(path, "DICOM"), heard([], "pydicom"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if len(per_frame(header)) != instance.frames:
            return None
        found = [Frame(instance, n, _values(header, n, instance.header)) for n in range(instance.frames)]
    return found if all(f.plane is not None and f.position is not None for f in found) else None


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
