"""An ``Image`` to a file of each format; every function gets a path that is not yet the final one.

No function loses a value: what a format cannot hold is refused with the format that can.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError
from medmap.geometry import Floats
from medmap.image import Image

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI_TYPES = frozenset(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
NIFTI_1_MAX = 32767  # voxels along one axis


def _require_size(image: Image, what: str) -> None:
    if not image.geometry.has_size:
        raise GeometryError(
            f"a {what} file states millimetres and this image has none",
            got="an image without pixel spacing",
            remedy="write png, tiff or npy",
        )


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers and floats that files know; every value stays what it is."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.newbyteorder("=").str[1:] not in _NIFTI_TYPES:
        raise DataError("an image of this type cannot be written", got=array.dtype, expected="whole numbers or floats")
    return array


def files_order(image: Image) -> NDArray[Any]:
    """The array with the axis that runs along a row first, as volume formats list them (2-D: columns, then rows)."""
    return image.array.swapaxes(0, 1) if image.ndim == 2 else image.array


def _files_columns(image: Image) -> Floats:
    """(3, 3) steps in mm in the order of ``files_order``; of a 2-D image the third is the plane's normal."""
    columns = image.geometry.affine_lps_mm[:3, :3]
    return columns[:, [1, 0, 2]] if image.ndim == 2 else columns


def write_nifti(image: Image, path: Path) -> None:
    """NIfTI-1 (NIfTI-2 beyond 32,767 voxels an axis); channels or times are the fourth axis.

    Raises:
        GeometryError: No millimetres.
        DataError: A type that NIfTI does not know, channels and times at once, or times that are not equally spaced.
    """
    import nibabel

    _require_size(image, "NIfTI")
    array = _numbers(files_order(image))
    if len(image.channels) > 1 and image.time_s is not None:
        raise DataError("a NIfTI file holds channels or times, not both", remedy="write one channel, or npy")
    if array.ndim > image.ndim and image.ndim == 2:
        array = array[:, :, None]  # channels are the fourth axis of a file
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = _files_columns(image), image.geometry.affine_lps_mm[:3, 3]
    ras = LPS_TO_RAS @ affine
    kind: Any = nibabel.Nifti1Image if max(array.shape) <= NIFTI_1_MAX else nibabel.Nifti2Image
    made: Any = kind(np.asarray(array), None, dtype=array.dtype)
    head: Any = made.header
    spacing = np.linalg.norm(ras[:3, :3], axis=0)
    zooms = [*spacing[: min(array.ndim, 3)], *([1.0] if array.ndim > 3 else [])]
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
    nibabel.save(made, path)


def _time_step(image: Image) -> float:
    times = np.asarray(image.time_s, dtype=np.float64)
    steps = np.diff(times)
    if not steps.size or steps.min() <= 0 or not np.allclose(steps, steps[0], rtol=1e-3):
        raise DataError("a NIfTI file states one step of time", got=steps.tolist()[:5], remedy="write npy")
    return float(steps.mean())


def write_itk(image: Image, path: Path) -> None:
    """NRRD or MetaImage, compressed, by the path's suffix; a 2-D image of a patient becomes a volume of one slice.

    Raises:
        GeometryError: No millimetres.
        DataError: Times, which these files do not state.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    _require_size(image, "NRRD or MetaImage")
    if image.time_s is not None:
        raise DataError("NRRD and MetaImage files are written without times", remedy="write nifti or npy")
    array = _numbers(files_order(image))
    ndim = image.ndim
    columns, origin = _files_columns(image), image.geometry.affine_lps_mm[:3, 3]
    if ndim == 2 and image.geometry.kind == "patient":
        array, ndim = array[:, :, None], 3
    slow_first = np.ascontiguousarray(array.transpose((*range(ndim - 1, -1, -1), *range(ndim, array.ndim))))
    made = sitk.GetImageFromArray(slow_first, isVector=len(image.channels) > 1)
    spacing = np.linalg.norm(columns, axis=0)
    if ndim == 3:
        made.SetDirection((columns / spacing).ravel().tolist())
        made.SetOrigin(origin.tolist())
    made.SetSpacing(spacing[:ndim].tolist())
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    try:
        writer.Execute(made)
    except RuntimeError as error:
        raise OSError(" ".join(str(error).split())[-200:]) from error


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
    """PNG of 1, 8 or 16 bits; the geometry is left behind.

    Raises:
        DataError: Not a picture, or values that a PNG would change.
    """
    array = _as_picture(image)
    if array.dtype == np.bool_ and array.ndim == 2:
        from PIL import Image as Pillow

        Pillow.fromarray(array).save(path, format="PNG")
        return
    import imagecodecs

    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))


def write_tiff(image: Image, path: Path) -> None:
    """TIFF of any depth; a volume becomes an OME stack of its slices; the geometry is left behind.

    Raises:
        DataError: Times, or channels of a volume.
    """
    import tifffile

    array = _numbers(image.array)
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
