"""Siemens mosaics: all slices of one time tiled into one picture; unpacked into slices with their places.

The number of slices and the direction in which they follow each other stand in Siemens' private header (CSA, the
element "CSA Image Header Info"); the position in the file is that of the corner of the whole mosaic as if it were one
slice, so the first slice lies half the difference of the two sizes further in. The rule is checked against dcm2niix.
"""

from __future__ import annotations

import math
import struct
from types import MappingProxyType
from typing import Any

import numpy as np

from medmap.read.dicom.instances import Instance
from medmap.read.dicom.sorting import Frame
from medmap.read.opened import at_the_door, heard

MAX_TAGS = 1000
MAX_ITEMS = 1000


def is_mosaic(instance: Instance) -> bool:
    """Whether a picture is tiled from slices."""
    return "MOSAIC" in instance.header.get("ImageType", ())


def tiles(instance: Instance) -> list[Frame]:
    """The slices of a mosaic, or the mosaic as it is with the reason why it cannot be taken apart (``Mosaic``)."""
    count, normal = _private(instance)
    whole = Frame(instance, None, instance.header)
    plane, corner = whole.plane, whole.position
    distance = instance.header.get("SpacingBetweenSlices") or instance.header.get("SliceThickness")
    rows, columns = int(instance.header["Rows"]), int(instance.header["Columns"])
    side = math.ceil(math.sqrt(count)) if count else 0
    if not count or normal is None or plane is None or corner is None or not distance or rows % side or columns % side:
        said = "a Siemens mosaic whose private header does not tell how many slices it holds, and in which direction"
        return [Frame(instance, None, MappingProxyType({**instance.header, "Mosaic": said}))]
    size = rows // side, columns // side
    # the centre of the mosaic and the centre of a slice are one point (see above)
    origin = corner + plane @ ((np.array([rows, columns]) - size) / 2)
    found = []
    for number in range(count):
        at = (number // side * size[0], number % side * size[1])
        values: dict[str, Any] = {
            **instance.header,
            "Rows": size[0],
            "Columns": size[1],
            "ImagePositionPatient": tuple(float(v) for v in origin + normal * (float(distance) * number)),
            "MosaicTile": at,
        }
        found.append(Frame(instance, number, MappingProxyType(values)))
    return found


def _private(instance: Instance) -> tuple[int, np.ndarray | None]:
    """(number of slices, unit vector from slice to slice) as far as they are stated."""
    import pydicom

    with instance.as_file() as path, at_the_door(path, "DICOM"), heard([], "pydicom"):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[(0x0029, 0x0010), (0x0029, 0x1010)])
        owner = str(header.get((0x0029, 0x0010), "") and header[0x0029, 0x0010].value)
        raw = header[0x0029, 0x1010].value if (0x0029, 0x1010) in header and "SIEMENS CSA" in owner else b""
        csa = csa_values(bytes(raw))
    count = int(instance.header.get("SiemensMosaicImages", 0) or (csa.get("NumberOfImagesInMosaic") or ["0"])[0])
    vector = np.array([float(v) for v in csa.get("SliceNormalVector", [])[:3]])
    if vector.shape != (3,) or not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 0.01:
        return count, None
    return count, vector / np.linalg.norm(vector)


def csa_values(data: bytes) -> dict[str, list[str]]:
    """The texts of a CSA header of the second kind ("SV10"), by name; nothing where it is no such header."""
    if data[:4] != b"SV10" or len(data) < 16:
        return {}
    count, at = struct.unpack_from("<I", data, 8)[0], 16
    found: dict[str, list[str]] = {}
    for _ in range(min(count, MAX_TAGS)):
        if at + 84 > len(data):
            break
        name = data[at : at + 64].split(b"\0")[0].decode("latin-1")
        items = struct.unpack_from("<i", data, at + 76)[0]
        at += 84
        values = []
        for _ in range(max(0, min(items, MAX_ITEMS))):
            if at + 16 > len(data):
                return found
            length = struct.unpack_from("<i", data, at)[0]
            at += 16
            if length < 0 or at + length > len(data):
                return found
            text = data[at : at + length].split(b"\0")[0].decode("latin-1").strip()
            if text:
                values.append(text)
            at += -(-length // 4) * 4
        found[name] = values
    return found
