"""From a file to an ``Image``: the one way in for pixels.

>>> import medmap as mm
>>> image = mm.read("scan.nii.gz")             # doctest: +SKIP
>>> image.array.shape, image.spacing_mm        # doctest: +SKIP
"""

from medmap.read.arrays import Arrays, forget_arrays, open_arrays
from medmap.read.dicom.choose import choose
from medmap.read.dicom.contours import rasterised
from medmap.read.dicom.instances import Instance
from medmap.read.dicom.lattice import Problem
from medmap.read.dicom.report import MeasurementReport, read_report
from medmap.read.dicom.segmentation import read_segmentation, segments_of
from medmap.read.dicom.structures import StructureSet, read_structures
from medmap.read.dicom.studies import Part, Series, Study, studies
from medmap.read.door import (
    FORMATS,
    SUFFIXES,
    Format,
    Info,
    header,
    info,
    is_collection,
    open_header,
    read,
    read_ref,
    recognise,
    suffix_of,
)
from medmap.read.opened import DEFAULT_LIMIT_BYTES, Opened

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "FORMATS",
    "SUFFIXES",
    "Arrays",
    "Format",
    "Info",
    "Instance",
    "MeasurementReport",
    "Opened",
    "Part",
    "Problem",
    "Series",
    "StructureSet",
    "Study",
    "choose",
    "forget_arrays",
    "header",
    "info",
    "is_collection",
    "open_arrays",
    "open_header",
    "rasterised",
    "read",
    "read_ref",
    "read_report",
    "read_segmentation",
    "read_structures",
    "recognise",
    "segments_of",
    "studies",
    "suffix_of",
]
