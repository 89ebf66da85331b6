"""From a file to an ``Image``: the one way in for pixels.

>>> import medmap as mm
>>> image = mm.read("scan.nii.gz")             # doctest: +SKIP
>>> image.array.shape, image.spacing_mm        # doctest: +SKIP
"""

from medmap.read.arrays import Arrays, forget_arrays, open_arrays
from medmap.read.door import (
    FORMATS,
    SUFFIXES,
    Format,
    Info,
    header,
    info,
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
    "Opened",
    "forget_arrays",
    "header",
    "info",
    "open_arrays",
    "open_header",
    "read",
    "read_ref",
    "recognise",
    "suffix_of",
]
