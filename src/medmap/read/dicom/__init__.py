"""DICOM in: one file as an image, what its numbers mean, where they lie."""

from medmap.read.dicom.file import is_dicom, open_dicom
from medmap.read.dicom.overlays import Overlay, read_overlays

__all__ = ["Overlay", "is_dicom", "open_dicom", "read_overlays"]
