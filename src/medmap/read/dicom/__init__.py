"""DICOM in: one file as an image, what its numbers mean, where they lie."""

from medmap.read.dicom.file import is_dicom, open_dicom

__all__ = ["is_dicom", "open_dicom"]
