"""From medmap's values to DICOM objects that open in a viewer, referring to the images they were made from."""

from medmap.write.dicom.slice import HU_OFFSET, IMPLEMENTATION, SECONDARY_CAPTURE, STORAGE, uid, write_dicom_slice
from medmap.write.dicom.source import About, Origin, origin_of

__all__ = [
    "HU_OFFSET",
    "IMPLEMENTATION",
    "SECONDARY_CAPTURE",
    "STORAGE",
    "About",
    "Origin",
    "origin_of",
    "uid",
    "write_dicom_slice",
]
