"""An ``Image`` to a picture or an array file; every function gets a path that is not yet the final one.

No function loses a value: what a format cannot hold is refused with the format that can.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError
from medmap.image import Image

_TYPES = frozenset(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])


def storable(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers and floats that files know; every value stays what it is."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.newbyteorder("=").str[1:] not in _TYPES:
        raise DataError("an image of this type cannot be written", got=array.dtype, expected="whole numbers or floats")
    return array


_PNG_HEADER = 33  # bytes of the signature and the IHDR chunk


def _as_picture(image: Image) -> NDArray[Any]:
    """(rows, columns) or (rows, columns, 3) of bool, uint8 or uint16, each value kept.

    Raises:
        DataError: Not a picture, or values that 16 bits without sign do not hold.
    """
    if image.ndim != 2 or image.time_s is not None or len(image.channels) not in (1, 3):
        raise DataError(
            "a PNG holds one picture, grey or coloured",
            got=f"shape {image.array.shape}",
            remedy="write nifti, tiff or npy, or one slice",
        )
    array = image.array
    if array.dtype in (np.bool_, np.uint8, np.uint16):
        return array
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 65535 or (array != np.rint(array)).any():
        raise DataError(
            "a PNG would change the values",
            got=f"{array.dtype} from {array.min()} to {array.max()}",
            expected="whole numbers from 0 to 65535",
            remedy="write tiff or npy, or window the image first",
        )
    return array.astype(np.uint8 if array.max() <= 255 else np.uint16)


def write_png(image: Image, path: Path) -> None:
    """PNG of 1, 8 or 16 bits; of the geometry only the pixel spacing is kept, as whole pixels a metre.

    Raises:
        DataError: Not a picture, or values that a PNG would change.
    """
    array = _as_picture(image)
    if array.dtype == np.bool_ and array.ndim == 2:
        from PIL import Image as Pillow

        buffer = io.BytesIO()
        Pillow.fromarray(array).save(buffer, format="PNG")
        data: bytes | bytearray = buffer.getvalue()
    else:
        import imagecodecs

        array = array.astype(np.uint8) if array.dtype == np.bool_ else array
        data = imagecodecs.png_encode(np.ascontiguousarray(array))
    path.write_bytes(_with_spacing(data, image))


def _with_spacing(png: bytes | bytearray, image: Image) -> bytes | bytearray:
    """The file with a ``pHYs`` chunk after its header (W3C PNG specification, third edition, section 11.3.4.3)."""
    if not image.geometry.has_size:
        return png
    row_mm, column_mm = image.spacing_mm
    across, down = round(1000 / column_mm), round(1000 / row_mm)
    if not (0 < across < 2**31 and 0 < down < 2**31):
        return png
    body = b"pHYs" + struct.pack(">IIB", across, down, 1)
    return png[:_PNG_HEADER] + struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body)) + png[_PNG_HEADER:]


def write_tiff(image: Image, path: Path) -> None:
    """TIFF of any depth; a volume becomes an OME stack of its slices; the geometry is left behind.

    Raises:
        DataError: Times, or channels of a volume.
    """
    import tifffile

    array = storable(image.array)
    if image.time_s is not None or (image.ndim == 3 and len(image.channels) > 1):
        raise DataError(
            "a TIFF is written of one picture or one grey volume", got=f"shape {array.shape}", remedy="write npy"
        )
    coloured = image.quantity == "colour" and len(image.channels) == 3
    if image.ndim == 3:
        stack = np.ascontiguousarray(np.moveaxis(array, 2, 0))
        tifffile.imwrite(path, stack, ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    else:
        planar: dict[str, Any] = {"planarconfig": "contig"} if len(image.channels) > 1 else {}
        tifffile.imwrite(path, array, photometric="rgb" if coloured else "minisblack", metadata=None, **planar)


def write_npy(image: Image, path: Path) -> None:
    """The array alone, as it is."""
    with path.open("wb") as file:
        np.save(file, image.array, allow_pickle=False)
