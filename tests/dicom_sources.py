"""Source series for tests: slices of the oblique grid as DICOM files, their instance numbers and names in no order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medmap.geometry import Geometry
from medmap.image import Image, Source

PATIENT = "Müller^Zoë"


def written_series(folder: Path, image: Image, *, modality: str = "CT", seed: int = 3, name: str = PATIENT) -> Path:
    """A classic CT or MR series of a volume (rows, columns, slices) with names and instance numbers shuffled."""
    folder.mkdir(parents=True, exist_ok=True)
    geometry = image.geometry
    count = geometry.shape[2]
    order = np.random.default_rng(seed).permutation(count)
    study, series = generate_uid(), generate_uid()
    for number, k in enumerate(order, 1):
        header = _slice(image, int(k), modality)
        header.PatientName, header.StudyInstanceUID, header.SeriesInstanceUID = name, study, series
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        header.InstanceNumber = number
        header.save_as(folder / f"{(number * 7919) % 10007:05d}.dcm", enforce_file_format=True)
    return folder


def _slice(image: Image, k: int, modality: str) -> Dataset:
    geometry = image.geometry
    spacing = geometry.spacing_mm
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = (
        CTImageStorage if modality == "CT" else MRImageStorage
    )
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientID, header.PatientBirthDate, header.PatientSex = "P-0001", "19700101", "O"
    header.StudyDate, header.StudyTime, header.AccessionNumber, header.StudyID = "20240102", "101500", "A77", "S1"
    header.ReferringPhysicianName, header.Modality, header.SeriesNumber = "", modality, 4
    header.PatientPosition, header.BodyPartExamined = "HFS", "HEAD"
    header.Manufacturer, header.PositionReferenceIndicator = "Scanner Works", ""
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    header.FrameOfReferenceUID = geometry.frame_of_reference or "1.2.3"
    affine = geometry.affine_lps_mm
    down, along = affine[:3, 0] / spacing[0], affine[:3, 1] / spacing[1]
    header.ImageOrientationPatient = [f"{v:.13f}"[:16] for v in (*along, *down)]
    header.ImagePositionPatient = [f"{v:.11f}"[:16] for v in affine[:3, 3] + k * affine[:3, 2]]
    header.PixelSpacing = [f"{spacing[0]:.10g}", f"{spacing[1]:.10g}"]
    header.SliceThickness = f"{spacing[2]:.10g}"
    header.AcquisitionDate, header.AcquisitionTime, header.AcquisitionNumber = "20240102", "101600", 1
    if modality == "CT":
        header.KVP, header.RescaleSlope, header.RescaleIntercept, header.RescaleType = "120", "1", "-1024", "HU"
    else:
        header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "SE", "NONE", ""
        header.MRAcquisitionType, header.EchoTime, header.EchoTrainLength, header.RepetitionTime = "2D", "20", 1, "500"
    offset = 1024 if modality == "CT" else 0
    stored = (image.array[:, :, k].astype(np.int64) + offset).astype("<u2")
    header.Rows, header.Columns = stored.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.PixelData = stored.tobytes()
    return header


def right_handed_image() -> Image:
    """The oblique grid with axes (rows, columns, slices) as a scanner has them; every voxel its own value."""
    from grids import oblique_image

    image = oblique_image()
    return Image(image.array, image.geometry, "HU", source=Source(modality="CT"))


def world_points(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(n, 3): the places of the marked voxels in LPS millimetres, in a fixed order."""
    points = geometry.to_world(np.argwhere(mask))
    return points[np.lexsort(np.round(points, 4).T)]
