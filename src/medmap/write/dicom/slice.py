"""One picture as one DICOM file: what a phantom, a converted photograph or an enhanced slice needs to enter a PACS.

Attributes by PS3.3: Patient, General Study, General Series, Frame of Reference, Image Plane, Image Pixel, SOP Common
and what CT, MR, US and CR add to them. Segmentations and reports are another matter.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.config import write_atomically
from medmap.errors import DataError, GeometryError, UsageError
from medmap.image import Image

# modality → storage class (PS3.4 B.5); what is none of these is a secondary capture
STORAGE: Mapping[str, str] = MappingProxyType(
    {
        "CT": "1.2.840.10008.5.1.4.1.1.2",
        "MR": "1.2.840.10008.5.1.4.1.1.4",
        "US": "1.2.840.10008.5.1.4.1.1.6.1",
        "CR": "1.2.840.10008.5.1.4.1.1.1",
    }
)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
IMPLEMENTATION = "2.25.165911320174561013476512870127"
SYNTHETIC = "Synthetic image computed by medmap; no patient was imaged"
HU_OFFSET = -1024  # CT is stored without sign, as scanners do


def uid(*names: object) -> str:
    """A unique identifier that follows from names: the same names give the same one (PS3.5 B.2, the root 2.25).

    Example:
        >>> uid("study", "P0001") == uid("study", "P0001") != uid("study", "P0002")
        True
    """
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big') | 1 << 127}"


def write_dicom_slice(
    image: Image,
    path: str | Path,
    *,
    patient_id: str,
    study: str,
    number: int = 1,
    attributes: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Write one picture as one uncompressed DICOM file (explicit VR little endian).

    Study, series and instance UIDs follow from the names, so that slices of one study belong together and the same
    call writes the same bytes. A picture of a phantom is named synthetic in the file.

    Args:
        image: (rows, columns): HU from −1024 to 3071 for CT, else whole numbers from 0 to 65535; or RGB of 8 bits.
        path: The file; must not exist.
        patient_id: A pseudonym.
        study: A name for the study, unique for the patient.
        number: Instance number, from 1.
        attributes: Further attributes by DICOM keyword, such as ``PatientSex`` or ``ManufacturerModelName``.

    Raises:
        UsageError: The file exists or cannot be written.
        DataError: Not one picture, or values that the file would change.
        GeometryError: CT or MR without a place in the patient.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise UsageError(f"{path} exists", remedy="choose another name")
    data = _encoded(_dataset(image, patient_id, study, number, attributes))
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written", got=error.strerror or str(error), remedy="check space and permission"
        ) from error
    return path


def _encoded(header: Any) -> bytes:
    from pydicom.filewriter import dcmwrite

    buffer = io.BytesIO()
    dcmwrite(buffer, header, enforce_file_format=True)
    return buffer.getvalue()


def _dataset(image: Image, patient_id: str, study: str, number: int, attributes: Mapping[str, Any]) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    if image.ndim != 2 or image.time_s is not None or len(image.channels) not in (1, 3):
        raise DataError(
            "a DICOM slice holds one picture, grey or coloured",
            got=f"shape {image.array.shape}",
            remedy="write the slices of a volume one by one",
        )
    if number < 1 or not patient_id or not study:
        raise UsageError("a DICOM file needs a patient, a study and a number from 1", got=(patient_id, study, number))
    modality = image.source.modality or "OT"
    header: Any = Dataset()
    header.SOPClassUID = STORAGE.get(modality, SECONDARY_CAPTURE)
    header.SOPInstanceUID = uid(patient_id, study, modality, number)
    header.StudyInstanceUID = uid(patient_id, study)
    header.SeriesInstanceUID = uid(patient_id, study, modality)
    # Type 2 attributes stand in the file even when nothing is known (PS3.5 section 7.4.3)
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
                    "PatientBirthDate", "PatientSex", "Manufacturer", "PatientName"):  # fmt: skip
        setattr(header, keyword, "")
    header.PatientID, header.Modality = patient_id, modality
    header.SeriesNumber, header.InstanceNumber = 1, number
    header.ImageType = ["DERIVED", "SECONDARY"] + (["AXIAL"] if modality == "CT" else [])
    if image.source.format == "phantom":
        header.PatientName, header.Manufacturer = "Phantom^Synthetic", "medmap phantom (synthetic)"
        header.ImageComments = SYNTHETIC
    _modality_attributes(header, modality)
    _place(header, image, modality, (patient_id, study))
    _pixels(header, image, modality)
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, IMPLEMENTATION
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    header.file_meta = meta
    return header


def _modality_attributes(header: Any, modality: str) -> None:
    """What is required of a modality, empty where it may be (PS3.3 C.8.2, C.8.3, C.8.5.6, C.8.1)."""
    empty = {
        "CT": ("KVP", "AcquisitionNumber"),
        "MR": ("EchoTime", "EchoTrainLength", "RepetitionTime", "MRAcquisitionType", "ScanOptions"),
        "CR": ("BodyPartExamined", "ViewPosition", "PatientOrientation"),
        "US": ("PatientOrientation",),
    }.get(modality, ("PatientOrientation",))
    for keyword in empty:
        setattr(header, keyword, None)
    if modality == "MR":
        header.ScanningSequence, header.SequenceVariant = "SE", "NONE"
    if modality not in STORAGE:
        header.ConversionType = "SYN"


def _place(header: Any, image: Image, modality: str, names: tuple[str, str]) -> None:
    geometry = image.geometry
    if geometry.kind == "patient":
        steps = geometry.affine_lps_mm[:3, :2]
        spacing = np.linalg.norm(steps, axis=0)
        down, along = (steps / spacing).T
        if abs(float(down @ along)) > 1e-4:
            raise GeometryError("a DICOM slice has rows and columns at right angles", got=steps.tolist())
        header.FrameOfReferenceUID = geometry.frame_of_reference or uid(*names, "frame of reference")
        header.PositionReferenceIndicator = ""
        header.ImagePositionPatient = [decimal(v) for v in geometry.affine_lps_mm[:3, 3]]
        header.ImageOrientationPatient = [decimal(v) for v in (*along, *down)]
        header.PixelSpacing = [decimal(v) for v in spacing]
        header.SliceThickness = None
        return
    if modality in ("CT", "MR"):
        raise GeometryError(f"a {modality} slice has a place in the patient", got=f"geometry of kind {geometry.kind}")
    if geometry.kind == "detector":
        header.ImagerPixelSpacing = [decimal(v) for v in geometry.spacing_mm]


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 section 6.2, DS), as exact as that allows."""
    text = repr(float(value) + 0.0)
    digits = 15
    while len(text) > 16:
        text = f"{float(value):.{digits}g}"
        digits -= 1
    return text


def _pixels(header: Any, image: Image, modality: str) -> None:
    array: NDArray[Any] = image.array
    offset = HU_OFFSET if image.quantity == "HU" else 0
    if not np.isfinite(array).all() or (array != np.rint(array)).any():
        raise DataError("a DICOM file holds whole numbers", got=f"{array.dtype} with fractions", remedy="round first")
    low, high = int(array.min()) - offset, int(array.max()) - offset
    most = 255 if array.ndim == 3 else 4095 if image.quantity == "HU" else 65535
    if low < 0 or high > most:
        raise DataError(
            "the file would change the values", got=f"{low + offset} to {high + offset}",
            expected=f"{offset} to {most + offset}", remedy="clip or shift the values first",
        )  # fmt: skip
    eight = most == 255 or array.dtype == np.uint8
    stored = (array.astype(np.int64) - offset).astype(np.uint8 if eight else "<u2")
    header.SamplesPerPixel = 3 if array.ndim == 3 else 1
    header.PhotometricInterpretation = "RGB" if array.ndim == 3 else "MONOCHROME2"
    if array.ndim == 3:
        header.PlanarConfiguration = 0
    header.Rows, header.Columns = array.shape[:2]
    header.BitsAllocated = 8 if eight else 16
    header.BitsStored = 8 if eight else 12 if image.quantity == "HU" else 16
    header.HighBit, header.PixelRepresentation = header.BitsStored - 1, 0
    if modality == "CT":
        header.RescaleIntercept, header.RescaleSlope = str(offset), "1"
        header.RescaleType = "HU" if image.quantity == "HU" else "US"
        header.WindowCenter, header.WindowWidth = ("-400", "1500")
    data = np.ascontiguousarray(stored).tobytes()
    header.PixelData = data + b"\0" * (len(data) % 2)
    header["PixelData"].VR = "OB" if eight else "OW"
