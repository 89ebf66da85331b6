"""RT structure sets out: every region of a mask as closed planar contours on the slices it was made from.

PS3.3 A.19 (IOD), C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour), C.8.8.8 (RT ROI Observations). highdicom writes no
structure sets, so the data set is put together here. The contours pass midway between voxels (``outlines``), holes are
joined by a keyhole; so filling them by the even-odd rule gives the mask again, voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError
from medmap.geometry import Floats
from medmap.results import Label, Mask
from medmap.write.colours import colour_of
from medmap.write.dicom.codes import category_of, coded
from medmap.write.dicom.made import image_reference, made_from, part_10
from medmap.write.dicom.outlines import keyholed, outlined
from medmap.write.dicom.seg import MAKERS
from medmap.write.dicom.source import About, Laid, Origin, cut_frames, laid_on

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"  # retired, yet what PS3.3 C.8.8.5 asks for in RT Referenced Study Sequence
# PS3.3 C.8.8.8.1; what a lesion is in a treatment plan is for a person to say
INTERPRETED = (
    "EXTERNAL", "PTV", "CTV", "GTV", "TREATED_VOLUME", "IRRAD_VOLUME", "OAR", "BOLUS", "AVOIDANCE", "ORGAN", "MARKER",
    "REGISTRATION", "ISOCENTER", "CONTRAST_AGENT", "CAVITY", "SUPPORT", "FIXATION", "DOSE_REGION", "CONTROL",
)  # fmt: skip
Bools = NDArray[np.bool_]


def structure_set(
    mask: Mask, origin: Origin, about: About, interpreted: Mapping[int, str] = MappingProxyType({})
) -> Any:
    """An RT structure set of a mask (a pydicom data set, not yet written).

    Regions are numbered by the mask's label values; each contour lies on a slice of the source and refers to it.

    Args:
        mask: Regions, overlapping or not, on the source's grid (any order and direction of axes, cropped or not).
        origin: The series it was made from.
        about: Title, algorithm, bundle.
        interpreted: Label value → RT ROI Interpreted Type; by default ``ORGAN`` for anatomy, else empty.

    Raises:
        GeometryError: The mask lies in another frame of reference, off the source's slices, or has voxels on a slice
            that the source lacks.
        DataError: No label, or an interpreted type that DICOM does not know.
    """
    if not mask.labels:
        raise DataError("the mask has no label, so there is no region to draw")
    wrong = sorted(set(interpreted.values()) - set(INTERPRETED))
    if wrong:
        raise DataError("unknown RT ROI interpreted type", got=", ".join(wrong), expected=", ".join(INTERPRETED))
    laid = laid_in_patient(mask, origin)
    header = made_from(origin, about, STRUCTURE_SET, "RTSTRUCT")
    header.StructureSetLabel = (about.title or "medmap")[:16].strip()
    header.StructureSetDate, header.StructureSetTime = header.InstanceCreationDate, header.InstanceCreationTime
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = origin.frame_of_reference, ""
    header.ReferencedFrameOfReferenceSequence = [_frame_of_reference(origin)]
    header.ApprovalStatus = "UNAPPROVED"
    rois, contours, observations = [], [], []
    for number, (value, label) in enumerate(mask.labels.items()):
        region = region_of(mask, value)
        rois.append(_roi(value, label, region, mask, (origin, about)))
        contours.append(_drawn(value, number, cut_frames(region, mask.geometry, laid, origin.size), (origin, laid)))
        observations.append(_observed(value, label, interpreted.get(value)))
    header.StructureSetROISequence, header.ROIContourSequence = rois, contours
    header.RTROIObservationsSequence = observations
    # implicit VR: with explicit VR a contour of more than 65,534 bytes has no place (PS3.5 section 7.1.2)
    return part_10(header, implicit=True)


def laid_in_patient(mask: Mask, origin: Origin) -> list[Laid]:
    """The source's slices under a mask.

    Raises:
        GeometryError: None lies under it, or it has no place in the patient.
    """
    if mask.geometry.kind != "patient" or origin.frame_of_reference is None:
        raise GeometryError(
            "a structure set lies in the patient's space", got=f"a grid of kind {mask.geometry.kind}",
            remedy="give a mask and a series that have a position and an orientation",
        )  # fmt: skip
    laid = laid_on(mask.geometry, origin)
    if not laid:
        raise GeometryError(
            "the mask does not lie on the slices of the source", got=f"grid of {mask.geometry.shape}",
            expected=f"slices of {origin.size}", remedy="take the mask back to the grid of its source first",
        )  # fmt: skip
    return laid


def region_of(mask: Mask, value: int) -> Bools:
    """The voxels of one label, whether regions overlap or not."""
    if mask.array.dtype == np.bool_:
        channel: Bools = mask.array[..., list(mask.labels).index(value)]
        return channel
    region: Bools = mask.array == value
    return region


def _frame_of_reference(origin: Origin) -> Any:
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = origin.first.SeriesInstanceUID
    series.ContourImageSequence = [image_reference(origin, plane) for plane in origin.planes]
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY
    study.ReferencedSOPInstanceUID = origin.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = origin.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(value: int, label: Label, region: Bools, mask: Mask, made: tuple[Origin, About]) -> Any:
    from pydicom.dataset import Dataset

    origin, about = made
    item = Dataset()
    item.ROINumber, item.ReferencedFrameOfReferenceUID = value, origin.frame_of_reference
    item.ROIName = (label.name or f"region {value}")[:64]
    item.ROIGenerationAlgorithm = MAKERS[about.made_by]
    if mask.geometry.ndim == 3:
        item.ROIVolume = f"{np.count_nonzero(region) * mask.geometry.voxel_volume_mm3 / 1000:.9g}"  # cm³
    return item


def _observed(value: int, label: Label, interpreted: str | None) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = value
    item.ROIObservationLabel = (label.name or f"region {value}")[:16]
    item.RTROIIdentificationCodeSequence = [coded(label)]
    anatomy = category_of(label).value == "91723000"
    item.RTROIInterpretedType = interpreted if interpreted is not None else "ORGAN" if anatomy else ""
    item.ROIInterpreter = ""
    return item


def _drawn(value: int, number: int, frames: Bools, where: tuple[Origin, list[Laid]]) -> Any:
    from pydicom.dataset import Dataset

    origin, laid = where
    item = Dataset()
    item.ROIDisplayColor = list(colour_of(number))
    item.ReferencedROINumber = value
    contours: list[Any] = []
    for one, frame in zip(laid, frames, strict=True):
        affine = one.plane.affine_lps_mm
        if affine is None:
            continue  # not laid in the patient: laid_in_patient has refused it
        for area in outlined(frame):
            points = keyholed(area) @ affine[:3, :2].T + affine[:3, 3]
            contours.append(_contour(points, len(contours) + 1, image_reference(origin, one.plane)))
    if contours:
        item.ContourSequence = contours
    return item


def _contour(points_mm: Floats, number: int, image: Any) -> Any:
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    item = Dataset()
    item.ContourImageSequence = [image]
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points_mm)
    item.ContourNumber = number
    text = "\\".join(map(millimetres, points_mm.ravel().tolist())).encode("ascii")
    text += b" " * (len(text) % 2)
    # the bytes as they shall stand: a value object for each of some 10^6 numbers would take most of the time
    tag = Tag("ContourData")
    item[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)
    return item


def millimetres(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 section 6.2), to 10⁻⁹ mm where the patient is.

    Example:
        >>> millimetres(-123.4567890123456), millimetres(-0.0)
        ('-123.456789012', '0.0')
    """
    text = repr(round(value, 9) + 0.0)
    return text if len(text) <= 16 else f"{value:.9g}"
