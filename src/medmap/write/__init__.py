"""From an ``Image`` or a ``Prediction`` to a file: whole or not at all, and no value changed."""

from medmap.write.dicom import About, write_dicom_slice
from medmap.write.door import FORMATS, Format, write

__all__ = ["FORMATS", "About", "Format", "write", "write_dicom_slice"]
