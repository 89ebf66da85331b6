"""Objects of an invented patient, made with pydicom alone."""

from __future__ import annotations

import io
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"
NAME = "Quixotely^Dulcinea^Zephyrine"
PATIENT_ID = "MRN-7741-XK"
BIRTH = "19480923"
ACCESSION = "ACC99182736"
STUDY_DATE = "20190817"
UIDS = ("1.2.826.0.1.3680043.9.7777.11", "1.2.826.0.1.3680043.9.7777.22", "1.2.826.0.1.3680043.9.7777.33")


def ct_slice(number: int = 1, **values: Any) -> Dataset:
    """A small conformant CT slice of the invented patient; keywords replace or add attributes, None removes."""
    ds = Dataset()
    plain = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SOPClassUID": CT, "SOPInstanceUID": f"{UIDS[2]}.{number}",
        "StudyDate": STUDY_DATE, "SeriesDate": STUDY_DATE, "AcquisitionDate": STUDY_DATE, "ContentDate": STUDY_DATE,
        "StudyTime": "101500", "SeriesTime": "101700", "AcquisitionTime": "101800", "ContentTime": "101800",
        "AccessionNumber": ACCESSION, "Modality": "CT", "Manufacturer": "ACME Imaging",
        "InstitutionName": "Vexillary Hospital",
        "ReferringPhysicianName": "Brontewick^Osgood", "StudyDescription": "CT thorax",
        "SeriesDescription": "lung 1.5 mm",
        "ManufacturerModelName": "Scanner 9", "PatientName": NAME, "PatientID": PATIENT_ID, "PatientBirthDate": BIRTH,
        "PatientSex": "F", "PatientAge": "070Y", "PatientWeight": "61", "BodyPartExamined": "CHEST",
        "SliceThickness": "1.5",
        "KVP": "120", "DeviceSerialNumber": "SN-445566", "ProtocolName": "Thorax", "PatientPosition": "HFS",
        "StudyInstanceUID": UIDS[0], "SeriesInstanceUID": UIDS[1], "StudyID": "S4471", "SeriesNumber": "3",
        "AcquisitionNumber": "1", "InstanceNumber": str(number), "ImagePositionPatient": ["0", "0", str(1.5 * number)],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.9.7777.44",
        "PositionReferenceIndicator": "", "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": 16,
        "Columns": 16, "PixelSpacing": ["0.7", "0.7"], "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "PixelRepresentation": 1, "RescaleIntercept": "-1024", "RescaleSlope": "1", "RescaleType": "HU",
        "PixelData": bytes(range(256)) * 2,
    }  # fmt: skip
    for keyword, value in (plain | values).items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def file_of(ds: Dataset, syntax: str = ExplicitVRLittleEndian, preamble: bytes = bytes(128)) -> bytes:
    """The object as a file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CT)
    meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = "1.2.3.4"
    meta.SourceApplicationEntityTitle = "QUIXOTELY_AE"
    ds.file_meta, ds.preamble = meta, preamble
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
