"""An enhanced picture as a series of images: classic slices, or one enhanced multi-frame object made of them.

The slices keep what the source says about the patient, the study and the acquisition, in the source's frame of
reference; series, instances and equipment are new, the source images are referenced (PS3.3 C.7.6.1.1.4) and the
derivation is described. Whole numbers are stored as they are. Other numbers get one slope and intercept for the whole
series; the largest error that makes, half a step of 1/65535 of their range, is written into the derivation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError
from medmap.geometry import Floats
from medmap.image import Image
from medmap.write.dicom.slice import decimal
from medmap.write.dicom.source import About, Laid, Origin, Plane, cut_frames, equipment, laid_on, new_uid, version_of

# modality → classic storage class (PS3.4 B.5) of slices in the patient
CLASSIC = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
SERIES_NUMBER = 400
MOST = 65535
SMALLEST_SLOPE = 1e-30
# groups of attributes that described the source's pixels, series or instance and would be wrong of ours
_DROPPED = (
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", "SmallestImagePixelValue", "LargestImagePixelValue",
    "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "IconImageSequence", "ModalityLUTSequence", "VOILUTSequence", "WindowCenterWidthExplanation", "RescaleType",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "SliceLocation", "DigitalSignaturesSequence",
    "MACParametersSequence", "ReferencedImageSequence", "RealWorldValueMappingSequence", "PresentationLUTShape",
    "SeriesDescriptionCodeSequence", "SourceImageSequence", "DerivationCodeSequence", "PixelPresentation",
)  # fmt: skip
_ORIENTED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


@dataclass(frozen=True)
class Stored:
    """How values are written as 16-bit whole numbers: ``value = slope · stored + intercept``.

    Args:
        slope: As the file writes it.
        intercept: As the file writes it.
        signed: Whether the stored numbers have a sign.
        error: Largest difference between a value and what the file says.
    """

    slope: float
    intercept: float
    signed: bool
    error: float


def storing(array: NDArray[Any], quantity: str) -> Stored:
    """The slope and intercept that keep whole numbers exactly and others as well as 16 bits can.

    Raises:
        DataError: A value that is not finite, or whole numbers that span more than 16 bits.

    Example:
        >>> storing(np.array([-1000, 3000]), "HU")
        Stored(slope=1.0, intercept=-1024.0, signed=False, error=0.0)
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("a DICOM image holds finite numbers", got="NaN or infinity", remedy="replace them first")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind != "f" or (array == np.rint(array)).all():
        if quantity == "HU" and low >= -1024 and high <= MOST - 1024:
            return Stored(1.0, -1024.0, False, 0.0)
        if low >= 0 and high <= MOST:
            return Stored(1.0, 0.0, False, 0.0)
        if low >= -32768 and high <= 32767:
            return Stored(1.0, 0.0, True, 0.0)
        if high - low > MOST:
            if array.dtype.kind != "f":
                raise DataError(
                    "whole numbers that span more than 16 bits would be changed", got=f"{low:g} to {high:g}",
                    remedy="make them floating point, so that the file may round them and say so",
                )  # fmt: skip
        else:
            return Stored(1.0, low, False, 0.0)
    # both are rounded to what a decimal string holds, the slope upwards so that the largest value still fits
    intercept = float(decimal(low))
    if intercept > low:
        intercept = float(decimal(low - max(abs(low) * 1e-8, SMALLEST_SLOPE)))
    slope = float(decimal(max((high - intercept) / MOST * (1 + 1e-9), SMALLEST_SLOPE)))
    return Stored(slope, intercept, False, slope / 2)


def classic_series(image: Image, origin: Origin, about: About) -> Sequence[Any]:
    """The slices of a picture as CT, MR or PET images, one data set each, in the order of the grid.

    Args:
        image: (rows, columns[, slices]) on the source's frames, or on a grid of its own in the same frame of reference.
        origin: The series it was made from.
        about: Title, number, algorithm.

    Raises:
        DataError: Colours, times, or numbers that cannot be stored.
        GeometryError: A grid that does not lie on the source and cannot be said in DICOM.
    """
    modality = str(origin.first.get("Modality", ""))
    if image.time_s is not None or len(image.channels) > 1:
        raise DataError("a series of images holds one number a voxel", got=image.channels, remedy="select one channel")
    if modality not in CLASSIC:
        raise DataError(
            "only CT, MR and PET are written as a series of slices", got=modality or "no modality",
            remedy="write dicom-sc (secondary capture)",
        )  # fmt: skip
    laid = laid_on(image.geometry, origin)
    if laid:
        frames = cut_frames(image.array, image.geometry, laid, origin.size)
        places = [_affine(one) for one in laid]
    else:
        frames, places = _own_slices(image, origin)
    stored = storing(frames, image.quantity)
    series, made = new_uid(), []
    for number, (frame, affine) in enumerate(zip(frames, places, strict=True), 1):
        under = laid[number - 1] if laid else None
        header = _header(origin, under, about, (series, number))
        _place(header, affine, under, image, modality)
        _pixels(header, frame, stored, image.quantity, modality)
        header.DerivationDescription = _derivation(about, image, stored)
        made.append(header)
    return made


def enhanced_series(image: Image, origin: Origin, about: About) -> Sequence[Any]:
    """The slices of ``classic_series`` in one Legacy Converted Enhanced object (PS3.3 A.70 to A.72), by highdicom."""
    import highdicom as hd

    classes = {
        CLASSIC["CT"]: hd.legacy.LegacyConvertedEnhancedCTImage,
        CLASSIC["MR"]: hd.legacy.LegacyConvertedEnhancedMRImage,
        CLASSIC["PT"]: hd.legacy.LegacyConvertedEnhancedPETImage,
    }
    slices = list(classic_series(image, origin, about))
    made = classes[str(slices[0].SOPClassUID)](
        slices,
        series_instance_uid=new_uid(),
        series_number=about.series_number or SERIES_NUMBER,
        sop_instance_uid=new_uid(),
        instance_number=1,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        skip_private_attributes=True,
    )
    made.SourceImageEvidenceSequence = evidence(origin)
    _refer_to_the_source(made, {str(s.SOPInstanceUID): s.SourceImageSequence for s in slices})
    return [made]


def evidence(origin: Origin) -> list[Any]:
    """The source's study, series and images (PS3.3 table 10-4, hierarchical references)."""
    from pydicom.dataset import Dataset

    study, series = Dataset(), Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = origin.first.StudyInstanceUID, [series]
    series.SeriesInstanceUID, series.ReferencedSOPSequence = origin.first.SeriesInstanceUID, []
    for image in origin.images:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series.ReferencedSOPSequence.append(item)
    return [study]


def _refer_to_the_source(made: Any, sources: Mapping[str, Any]) -> None:
    """The slices that were put together exist nowhere: each frame refers to the image under it instead."""
    for group in made.PerFrameFunctionalGroupsSequence:
        converted = group.get("ConversionSourceAttributesSequence") or []
        if not converted:
            continue
        under = sources[str(converted[0].ReferencedSOPInstanceUID)]
        if len(under) != 1:
            del group.ConversionSourceAttributesSequence
            continue
        converted[0].ReferencedSOPClassUID = under[0].ReferencedSOPClassUID
        converted[0].ReferencedSOPInstanceUID = under[0].ReferencedSOPInstanceUID
        if "ReferencedFrameNumber" in under[0]:
            converted[0].ReferencedFrameNumber = under[0].ReferencedFrameNumber


def _affine(one: Laid) -> Floats:
    if one.plane.affine_lps_mm is None:
        raise GeometryError("a slice has a place in the patient", got="a source without one")
    return one.plane.affine_lps_mm


def _own_slices(image: Image, origin: Origin) -> tuple[NDArray[Any], list[Floats]]:
    """Slices along the last axis of a grid of its own in the source's space."""
    grid = image.geometry
    if grid.kind != "patient" or grid.ndim != 3 or grid.frame_of_reference != origin.frame_of_reference:
        raise GeometryError(
            "the picture does not lie on the source series", got=f"{grid.kind} grid of {grid.shape}",
            expected=f"frames of {origin.size}, or the source's frame of reference",
            remedy="give the series that the image was read from",
        )  # fmt: skip
    steps = grid.affine_lps_mm[:3, :2] / np.array(grid.spacing_mm[:2])
    if abs(float(steps[:, 0] @ steps[:, 1])) > 1e-4:
        raise GeometryError("a DICOM slice has rows and columns at right angles", got=grid.affine_lps_mm.tolist())
    places = []
    for k in range(grid.shape[2]):
        affine = grid.affine_lps_mm.copy()
        affine[:3, 3] += k * affine[:3, 2]
        places.append(affine)
    return np.moveaxis(image.array, 2, 0), places


def _header(origin: Origin, under: Laid | None, about: About, numbered: tuple[str, int]) -> Any:
    """The source's header with what belongs to its own pixels, series and instance replaced."""
    import highdicom as hd
    from pydicom.dataset import Dataset, FileMetaDataset

    source = origin.images[under.plane.image if under else 0]
    header: Any = Dataset()
    for element in source:
        if not element.tag.is_private and element.keyword not in _DROPPED and not _foreign(element):
            header.add(copy(element))  # a value set later must not reach the source
    header.SOPClassUID = CLASSIC[str(source.Modality)]
    header.SOPInstanceUID, header.SeriesInstanceUID = new_uid(), numbered[0]
    header.SeriesNumber, header.InstanceNumber = about.series_number or SERIES_NUMBER, numbered[1]
    header.SeriesDescription = (about.title or "Enhanced")[:64]
    kinds = [str(v) for v in source.get("ImageType") or ()]
    header.ImageType = ["DERIVED", "PRIMARY", *(kinds[2:] or ["AXIAL" if source.Modality == "CT" else "OTHER"])]
    header.ContributingEquipmentSequence = [*source.get("ContributingEquipmentSequence", [])]
    if source.get("Manufacturer"):
        header.ContributingEquipmentSequence.append(hd.ContributingEquipment.for_image_acquisition(source))
    made_by = equipment(about)
    header.Manufacturer, header.ManufacturerModelName = made_by["manufacturer"], made_by["manufacturer_model_name"]
    header.SoftwareVersions, header.DeviceSerialNumber = made_by["software_versions"], made_by["device_serial_number"]
    header.SourceImageSequence = [
        reference(origin.images[p.image], p) for p in ([under.plane] if under else origin.planes)
    ]
    for keyword in ("PatientPosition", "PositionReferenceIndicator"):  # type 2: empty when not known
        header.setdefault(keyword, "")
    if not header.get("BodyPartExamined"):  # a paired organ may be meant
        header.setdefault("Laterality", "")
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    return header


def _foreign(element: Any) -> bool:
    """Overlays and curves (their groups), and the functional groups of a multi-frame source."""
    group = int(element.tag.group)
    return 0x5000 <= group <= 0x501E or 0x6000 <= group <= 0x601E or element.keyword in (
        "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
        "DimensionIndexSequence", "DimensionOrganizationSequence", "DimensionOrganizationType",
    )  # fmt: skip


def reference(image: Any, plane: Plane) -> Any:
    """An item of Source Image Sequence: the image, its frame when it has several, and what it was used for."""
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    purpose = codes.DCM.SourceImageForImageProcessingOperation
    item, code = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if int(image.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = plane.frame + 1
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = purpose.value, "DCM", purpose.meaning
    item.PurposeOfReferenceCodeSequence = [code]
    return item


def _place(header: Any, affine: Floats, under: Laid | None, image: Image, modality: str) -> None:
    exact = under is not None and all(word in header for word in _ORIENTED)
    if not exact:
        spacing = np.linalg.norm(affine[:3, :2], axis=0)
        down, along = (affine[:3, :2] / spacing).T
        header.ImageOrientationPatient = [decimal(v) for v in (*along, *down)]
        header.ImagePositionPatient = [decimal(v) for v in affine[:3, 3]]
        header.PixelSpacing = [decimal(v) for v in spacing]
        header.SliceThickness = decimal(image.spacing_mm[2]) if image.ndim == 3 else header.get("SliceThickness")
    if image.ndim == 3:
        axis = under.axes[2] if under else 2
        between = decimal(image.spacing_mm[axis])
        if header.get("SliceThickness") is None:  # not stated: a voxel is as thick as slices are apart
            header.SliceThickness = between
        if modality != "CT":
            header.SpacingBetweenSlices = between
    header.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or new_uid()


def _pixels(header: Any, frame: NDArray[Any], stored: Stored, quantity: str, modality: str) -> None:
    numbers = frame
    if (stored.slope, stored.intercept) != (1.0, 0.0):
        numbers = np.rint((frame.astype(np.float64) - stored.intercept) / stored.slope)
    header.Rows, header.Columns = frame.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, int(stored.signed)
    header.PixelData = np.ascontiguousarray(numbers.astype("<i2" if stored.signed else "<u2")).tobytes()
    header["PixelData"].VR = "OW"
    if modality in ("CT", "PT") or (stored.slope, stored.intercept) != (1.0, 0.0):
        header.RescaleSlope, header.RescaleIntercept = decimal(stored.slope), decimal(stored.intercept)
    if modality == "CT":
        header.RescaleType = "HU" if quantity == "HU" else "US"
    if modality == "PT":
        header.Units = "GML" if quantity == "SUVbw" else header.get("Units", "NONE")
    low, high = float(frame.min()), float(frame.max())
    centre, width = (40.0, 400.0) if quantity == "HU" else ((low + high) / 2, max(high - low, 1.0))
    header.WindowCenter, header.WindowWidth = decimal(centre), decimal(width)


def _derivation(about: About, image: Image, stored: Stored) -> str:
    exact = "values are exact" if stored.error == 0 else f"values are off by at most {stored.error:.3g}"
    done = ", ".join(image.steps)
    text = f"{about.algorithm} {version_of(about)}"
    text += f", bundle {about.bundle}" if about.bundle else ""
    return f"{text}: {exact}" + (f"; {done}" if done else "")[: 1024 - len(text) - len(exact) - 2]
