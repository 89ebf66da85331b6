"""Synthetic series for tests: the oblique phantom's slices as DICOM files, each attribute at hand to be broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from grids import oblique_image
from medmap.geometry import Flip, Geometry
from medmap.image import Image

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def phantom() -> Image:
    """The oblique phantom with its slices along DICOM's normal (row × column direction, PS3.3 C.7.6.2.1.1)."""
    return replace(oblique_image().moved(Flip((2,))), steps=())


def header(geometry: Geometry, number: int, **attributes: Any) -> Dataset:
    """One slice's header: slice ``number`` of the grid, with attributes by DICOM keyword replaced (None: left out)."""
    affine, (rows, columns, _) = geometry.affine_lps_mm, geometry.shape
    spacing = np.linalg.norm(affine[:3, :2], axis=0)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"2.25.10.{number + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.1", "2.25.2", "1.2.3"
    ds.PatientID, ds.AccessionNumber, ds.StudyDate, ds.Modality = "P1", "A1", "20260102", "CT"
    ds.SeriesDescription, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "thorax", "medmap", 3, number + 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient = [float(v) for v in affine[:3, 3] + affine[:3, 2] * number]
    ds.ImageOrientationPatient = [float(v) for v in (*(affine[:3, 1] / spacing[1]), *(affine[:3, 0] / spacing[0]))]
    ds.PixelSpacing, ds.SliceThickness = [float(v) for v in spacing], 2.9
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    for name, value in attributes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def save(ds: Dataset, pixels: np.ndarray, path: Path) -> Path:
    """The header with stored pixels as a file."""
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write(
    folder: Path,
    image: Image | None = None,
    numbers: Sequence[int] | None = None,
    changes: Mapping[int, Mapping[str, Any]] | None = None,
    **attributes: Any,
) -> Path:
    """The slices ``numbers`` of an image (HU) as a series; ``changes`` by slice number; names in no order of slices."""
    image = phantom() if image is None else image
    for number in range(image.geometry.shape[2]) if numbers is None else numbers:
        ds = header(image.geometry, number, **{**attributes, **(changes or {}).get(number, {})})
        slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
        stored = np.rint((image.array[:, :, number] - intercept) / slope).astype(np.uint16)
        save(ds, stored, folder / f"{(number * 7) % 11:02d}-{ds.SOPInstanceUID[-12:]}.dcm")
    return folder
