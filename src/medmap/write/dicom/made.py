"""What every object made from a patient's images has in common: whose it is, of which study, made by what."""

from __future__ import annotations

import datetime
from typing import Any

from medmap.write.dicom.slice import IMPLEMENTATION
from medmap.write.dicom.source import About, Origin, Plane, equipment, new_uid

# PS3.3 C.7.1.1, C.7.2.1 and C.7.2.2: the first ten stand in the file even when nothing is known
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
IF_KNOWN = ("StudyDescription", "PatientAge", "PatientSize", "PatientWeight", "IssuerOfPatientID")
# a report's place beside the segmentations and images that medmap makes
SERIES_NUMBERS = {"RTSTRUCT": 310, "SR": 320, "PR": 330}
TITLES = {"RTSTRUCT": "Structures", "SR": "Measurements", "PR": "Annotations"}


def series_of(about: About, modality: str) -> dict[str, Any]:
    """Series and instance of a new object, as highdicom's arguments."""
    return {
        "series_instance_uid": new_uid(),
        "series_number": about.series_number or SERIES_NUMBERS[modality],
        "series_description": about.title or TITLES[modality],
        "sop_instance_uid": new_uid(),
        "instance_number": 1,
    }


def made_from(origin: Origin, about: About, sop_class: str, modality: str) -> Any:
    """A data set with patient and study of the source, and series, equipment and instance of its own.

    For objects that highdicom does not make.
    """
    from pydicom.dataset import Dataset

    header: Any = Dataset()
    now = datetime.datetime.now()
    named = series_of(about, modality)
    header.SpecificCharacterSet = "ISO_IR 192"  # the origin's texts are decoded
    header.SOPClassUID, header.SOPInstanceUID = sop_class, named["sop_instance_uid"]
    header.InstanceCreationDate, header.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    for keyword in PATIENT_AND_STUDY:
        value = origin.first.get(keyword)
        setattr(header, keyword, "" if value is None else value)
    for keyword in IF_KNOWN:
        if origin.first.get(keyword):
            setattr(header, keyword, origin.first.get(keyword))
    header.Modality, header.OperatorsName = modality, ""
    header.SeriesInstanceUID, header.SeriesNumber = named["series_instance_uid"], named["series_number"]
    header.SeriesDescription, header.InstanceNumber = named["series_description"], 1
    device = equipment(about)
    header.Manufacturer, header.ManufacturerModelName = device["manufacturer"], device["manufacturer_model_name"]
    header.SoftwareVersions, header.DeviceSerialNumber = device["software_versions"], device["device_serial_number"]
    return header


def image_reference(origin: Origin, plane: Plane) -> Any:
    """An item that refers to one frame of the source; the frame is named where its image has several."""
    from pydicom.dataset import Dataset

    image = origin.images[plane.image]
    item: Any = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if int(image.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = plane.frame + 1
    return item


def part_10(header: Any, *, implicit: bool = False) -> Any:
    """The data set with file meta information, ready to be written."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    header.file_meta = meta
    return header
