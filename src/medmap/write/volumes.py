"""An ``Image`` to NIfTI, NRRD or MetaImage; every function gets a path that is not yet the final one.

Headers are small and written here or by nibabel; the voxels go past a block at a time and are packed by ISA-L into
one ordinary deflate stream, which any reader unpacks. The same image gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError, counted
from medmap.geometry import Floats
from medmap.image import Image
from medmap.measure import Instances, instances
from medmap.results import Mask
from medmap.write.images import storable, write_png

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MOST_IN_PNG = 65535
NIFTI_1_MAX = 32767  # voxels along one axis
LEVEL = 1  # of ISA-L: as small as zlib's first level in a fifth of its time; level 3 doubles the time for 5 %
MAX_THREADS = 4
_BLOCK_BYTES = 2**20
_TILE = 32

_NRRD_TYPES = {
    "i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32", "i8": "int64",
    "u8": "uint64", "f4": "float", "f8": "double",
}  # fmt: skip
_MET_TYPES = {
    "i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT", "i8": "LONG_LONG",
    "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE",
}  # fmt: skip


def _require_size(image: Image, what: str) -> None:
    if not image.geometry.has_size:
        raise GeometryError(
            f"a {what} file states millimetres and this image has none",
            got="an image without pixel spacing",
            remedy="write png, tiff or npy",
        )


def files_order(image: Image) -> NDArray[Any]:
    """The array with the axis that runs along a row first, as volume formats list them (2-D: columns, then rows)."""
    return image.array.swapaxes(0, 1) if image.ndim == 2 else image.array


def _files_columns(image: Image) -> Floats:
    """(3, 3) steps in mm in the order of ``files_order``; of a 2-D image the third is the plane's normal."""
    columns = image.geometry.affine_lps_mm[:3, :3]
    return columns[:, [1, 0, 2]] if image.ndim == 2 else columns


# -- voxels ----------------------------------------------------------------------------------------------------------


def blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """The array's bytes, little-endian with the first axis fastest, in blocks; only one block is copied at a time.

    Example:
        >>> [bytes(b) for b in blocks(np.array([[1, 2], [3, 4]], np.uint8))]
        [b'\\x01\\x03\\x02\\x04']
    """
    little = array.dtype.newbyteorder("<")
    if array.flags.f_contiguous and array.dtype == little:
        flat = array.reshape(-1, order="F").view(np.uint8)
        for start in range(0, flat.size, _BLOCK_BYTES):
            yield memoryview(flat[start : start + _BLOCK_BYTES].data)
        return
    if array.ndim > 3:  # a slow axis of channels or times
        for i in range(array.shape[-1]):
            yield from blocks(array[..., i])
        return
    # thick slabs: along the last axis neighbours in memory lie side by side, and copying a few of them costs as much
    # as copying all
    thick = max(1, min(32, 2**26 // max(1, array[..., 0].nbytes)))
    for start in range(0, array.shape[-1], thick):
        yield memoryview(_first_fastest(array[..., start : start + thick], little).view(np.uint8).data)


def _first_fastest(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """All values in ``dtype``, the first axis fastest; tile by tile, so that both orders stay in a core's cache."""
    flat = np.empty(array.size, dtype)
    turned = flat.reshape(array.shape, order="F")
    for i in range(0, array.shape[0], _TILE):
        for j in range(0, array.shape[1], _TILE):
            turned[i : i + _TILE, j : j + _TILE] = array[i : i + _TILE, j : j + _TILE]
    return flat


def _even(head: bytes, array: NDArray[Any]) -> Iterator[bytearray]:
    """``head`` and the voxels in parts of one size, so that the order in memory does not change what is packed."""
    kept = bytearray()
    for block in chain([memoryview(head)], blocks(array)):
        at = 0
        while at < len(block):
            part = block[at : at + _BLOCK_BYTES - len(kept)]
            kept += part
            at += len(part)
            if len(kept) == _BLOCK_BYTES:
                yield kept
                kept = bytearray()
    if kept:
        yield kept


def _threads() -> int:
    return max(1, min(MAX_THREADS, os.cpu_count() or 1))


def _write_plain(file: BinaryIO, head: bytes, array: NDArray[Any]) -> None:
    file.write(head)
    for block in blocks(array):
        file.write(block)


def _write_gzip(file: BinaryIO, head: bytes, array: NDArray[Any]) -> None:
    """One gzip member of ``head`` and the voxels, packed by several threads."""
    import isal.igzip_threaded

    module: Any = isal.igzip_threaded  # without types
    with module.open(file, "wb", compresslevel=LEVEL, threads=_threads(), block_size=_BLOCK_BYTES) as stream:
        for part in _even(head, array):
            stream.write(part)


def _write_zlib(file: BinaryIO, array: NDArray[Any]) -> int:
    """One zlib stream of the voxels; how many bytes it took."""
    from isal import isal_zlib

    pack: Any = isal_zlib.compressobj(LEVEL)
    written = sum(file.write(pack.compress(part)) for part in _even(b"", array))
    return written + file.write(pack.flush())


# -- formats ---------------------------------------------------------------------------------------------------------


def write_nifti(image: Image, path: Path) -> None:
    """NIfTI-1 (NIfTI-2 beyond 32,767 voxels an axis); channels or times are the fourth axis.

    Raises:
        GeometryError: No millimetres.
        DataError: A type that NIfTI does not know, channels and times at once, or times that are not equally spaced.
    """
    _require_size(image, "NIfTI")
    if len(image.channels) > 1 and image.time_s is not None:
        raise DataError("a NIfTI file holds channels or times, not both", remedy="write one channel, or npy")
    array = storable(files_order(image))
    if array.ndim > image.ndim and image.ndim == 2:
        array = array[:, :, None]  # channels are the fourth axis of a file
    head = _nifti_header(image, array)
    with path.open("wb") as file:
        (_write_gzip if path.name.lower().endswith(".gz") else _write_plain)(file, head, array)


def write_instances(mask: Mask | Instances, path: Path) -> None:
    """The connected parts of a mask, each with a number of its own: NIfTI, or a PNG where the name says so.

    Raises:
        GeometryError: NIfTI of a mask without millimetres.
        DataError: A PNG of a volume, of overlapping structures, or of more than 65,535 instances.
    """
    found = mask if isinstance(mask, Instances) else instances(mask)
    if not path.name.lower().endswith(".png"):
        write_nifti(found.image, path)
        return
    if found.overlapping and len(found.structures) > 1:
        raise DataError("a PNG holds the numbers of one structure, or of several that do not overlap",
                        got=f"{len(found.structures)} overlapping", remedy="write nifti or npy")  # fmt: skip
    if len(found.labels) > MOST_IN_PNG:
        raise DataError(
            "a PNG holds numbers to 65,535", got=counted(len(found.labels), "instance"), remedy="write nifti"
        )
    write_png(found.image, path)


def _nifti_header(image: Image, array: NDArray[Any]) -> bytes:
    """The header's bytes and the four that say that no extension follows."""
    import nibabel

    kind: Any = nibabel.Nifti1Header if max(array.shape) <= NIFTI_1_MAX else nibabel.Nifti2Header
    head: Any = kind(endianness="<")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = _files_columns(image), image.geometry.affine_lps_mm[:3, 3]
    ras = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(ras[:3, :3], axis=0)
    zooms = [*spacing[: min(array.ndim, 3)], *([1.0] if array.ndim > 3 else [])]
    head.set_data_dtype(array.dtype.newbyteorder("<"))
    head.set_data_shape(array.shape)
    if image.time_s is not None:
        zooms[-1] = _time_step(image)
        head["toffset"] = image.time_s[0]
    head.set_zooms(zooms)
    head.set_xyzt_units("mm", "sec" if image.time_s is not None else None)
    if image.geometry.kind == "patient":
        head.set_sform(ras, code="scanner")
        rotation = ras[:3, :3] / spacing
        if np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-6):  # a quaternion knows no shear
            head.set_qform(ras, code="scanner")
    if image.quantity == "label":
        head.set_intent("label")
    head.set_slope_inter(1, 0)
    head.set_data_offset(len(head.binaryblock) + 4)
    return bytes(head.binaryblock) + bytes(4)


def _time_step(image: Image) -> float:
    times = np.asarray(image.time_s, dtype=np.float64)
    steps = np.diff(times)
    if not steps.size or steps.min() <= 0 or not np.allclose(steps, steps[0], rtol=1e-3):
        raise DataError("a NIfTI file states one step of time", got=steps.tolist()[:5], remedy="write npy")
    return float(steps.mean())


def _itk_parts(image: Image, what: str) -> tuple[NDArray[Any], int, Floats, Floats]:
    """The array (channels first), its number of spatial axes, (3, 3) steps in mm and the origin in mm.

    A 2-D image of a patient becomes a volume of one slice, for only a volume has a place there.
    """
    _require_size(image, what)
    if image.time_s is not None:
        raise DataError("NRRD and MetaImage files are written without times", remedy="write nifti or npy")
    array, ndim = storable(files_order(image)), image.ndim
    if ndim == 2 and image.geometry.kind == "patient":
        array, ndim = array[:, :, None], 3
    array = np.moveaxis(array, -1, 0) if len(image.channels) > 1 else array
    return array, ndim, _files_columns(image), image.geometry.affine_lps_mm[:3, 3]


def write_nrrd(image: Image, path: Path) -> None:
    """NRRD, attached and packed by gzip; a 2-D image of a patient becomes a volume of one slice.

    Raises:
        GeometryError: No millimetres.
        DataError: Times, or a type that NRRD does not know.
    """
    array, ndim, columns, origin = _itk_parts(image, "NRRD")
    several = len(image.channels) > 1
    kind = "RGB-color" if image.quantity == "colour" and len(image.channels) == 3 else "vector"
    if ndim == 2:  # a detector's own plane: spacing alone
        columns, origin = np.diag([*np.linalg.norm(columns[:, :2], axis=0), 1.0]), np.zeros(3)
    patient = image.geometry.kind == "patient"
    lines = [
        "NRRD0004",
        f"type: {_NRRD_TYPES[array.dtype.str[1:]]}",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior" if patient else f"space dimension: {ndim}",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {' '.join((['none'] if several else []) + [_vector(c[:ndim]) for c in columns.T[:ndim]])}",
        f"kinds: {' '.join(([kind] if several else []) + ['domain'] * ndim)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(origin[:ndim])}",
    ]
    with path.open("wb") as file:
        file.write("\n".join([*lines, "", ""]).encode("ascii"))
        _write_gzip(file, b"", array)


def _vector(values: Floats) -> str:
    return f"({','.join(repr(float(v)) for v in values)})"


def write_metaimage(image: Image, path: Path) -> None:
    """MetaImage in one file, packed by zlib; a 2-D image of a patient becomes a volume of one slice.

    Raises:
        GeometryError: No millimetres.
        DataError: Times, or a type that MetaImage does not know.
    """
    array, ndim, columns, origin = _itk_parts(image, "MetaImage")
    spacing = np.linalg.norm(columns, axis=0)[:ndim]
    directions = (columns / np.linalg.norm(columns, axis=0)).T if ndim == 3 else np.eye(2)
    several = len(image.channels) > 1
    lines = [
        "ObjectType = Image",
        f"NDims = {ndim}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
    ]
    rest = [
        f"TransformMatrix = {_numbers(directions.ravel())}",
        f"Offset = {_numbers(origin if ndim == 3 else np.zeros(2))}",
        f"CenterOfRotation = {_numbers(np.zeros(ndim))}",
        f"ElementSpacing = {_numbers(spacing)}",
        f"DimSize = {' '.join(str(n) for n in array.shape[several:])}",
        *([f"ElementNumberOfChannels = {len(image.channels)}"] if several else []),
        f"ElementType = MET_{_MET_TYPES[array.dtype.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    with path.open("wb") as file:
        file.write("\n".join([*lines, "CompressedDataSize = "]).encode("ascii"))
        place = file.tell()
        file.write("\n".join([" " * 20, *rest, ""]).encode("ascii"))
        written = _write_zlib(file, array)
        file.seek(place)  # the size is known only now
        file.write(f"{written:020d}".encode("ascii"))


def _numbers(values: Floats) -> str:
    return " ".join(repr(float(v)) for v in values)
