"""The face taken out of a head CT or MR (PS3.15 E.3.2, Clean Recognizable Visual Features).

A rendered skin surface of a head scan can be matched with photographs (Schwarz et al., NEJM 2019), so the skin has to
go, not only the nose. The rule is geometric and simple on purpose: the head is what is not air, the brain is its core
deeper than skin and skull, everything in front of and below a plane under the brain's front is emptied, and a shell
of the skin around the rest of the head with the ears; the core with a margin around it is never touched.

It is not a segmentation of the brain. The limits: it needs an upright anatomical frame (patient coordinates) and a
field of view that shows the crown or the brain's core; teeth, sinuses and the back of the neck may stay; what stays of
a head's form (its size, a skull defect) can still be compared with another scan of the same patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.results import Label, Mask

AIR_HU = -400.0
CORE_DEPTH_MM = 16.0  # scalp and skull: the brain lies deeper (skin to brain 10 to 20 mm, Okamoto et al. 2004)
KEEP_MM = 8.0  # the core grows by this much before it is protected …
SKIN_MM = 8.0  # … and this much skin goes around the head, down to the protected core
HEAD_WIDTH_MM, HEAD_LENGTH_MM = (95.0, 260.0), (110.0, 330.0)
WORKING_MM = 3.0  # the head is found on a grid of about this spacing
Bools = NDArray[np.bool_]


class NoHead(DataError):
    """There is no head in the image, or none that the rule understands."""


def defaced(image: Image) -> tuple[Image, Mask]:
    """A head without its face and skin, and the mask of what was emptied.

    Args:
        image: A three-dimensional CT (HU) or MR image of a head in patient coordinates.

    Returns:
        The image with its least value where something was taken out, and a mask (1 is emptied) on the same grid.

    Raises:
        GeometryError: No patient coordinates: nobody knows where the front is.
        DataError: Not a volume of one channel.
        NoHead: No head in it.
    """
    if image.geometry.kind != "patient":
        raise GeometryError("a face is only found where the patient's front is known", got=image.geometry.kind)
    if image.ndim != 3 or image.time_s is not None or len(image.channels) != 1:
        raise DataError("a face is taken out of a volume of one channel", got=f"shape {image.array.shape}")
    emptied = face_mask(image.array, image.geometry, is_hu=image.quantity == "HU")
    values = np.array(image.array)
    values[emptied] = values.min()
    mask = Mask(emptied.astype(np.uint8), image.geometry, {1: Label("taken out with the face")})
    return image.with_array(values, "face taken out"), mask


def face_mask(array: NDArray[Any], geometry: Geometry, *, is_hu: bool) -> Bools:
    """Which voxels go: face, skin and ears.

    Args:
        array: The volume's values, in the geometry's axes.
        geometry: Three-dimensional, in patient coordinates.
        is_hu: Whether values are Hounsfield units; otherwise air is told apart by Otsu's threshold.

    Raises:
        NoHead: No head in it.
    """
    from scipy import ndimage

    steps = geometry.oriented("LPS")
    upright, turned = np.asarray(array, np.float32), geometry
    for step in steps:
        after = step.apply(turned)
        upright, turned = step.on_array(upright, turned), after
    stride = [max(1, int(WORKING_MM // s)) for s in turned.spacing_mm]
    small = upright[:: stride[0], :: stride[1], :: stride[2]]
    spacing = np.array(turned.spacing_mm) * stride
    head = _head(small, AIR_HU if is_hu else _otsu(small))
    core = _core(head, spacing)
    keep = ndimage.distance_transform_edt(~core, sampling=spacing) <= KEEP_MM
    going = (_in_front_and_below(core, spacing) | _skin(head, spacing)) & ~keep
    going = _enlarged(going, stride, upright.shape)
    for step, before in reversed(list(zip(steps, _grids(geometry, steps), strict=True))):
        going = step.inverse(before).on_array(going, step.apply(before))
    return np.ascontiguousarray(going)


def _grids(geometry: Geometry, steps: Sequence[Any]) -> list[Geometry]:
    grids = [geometry]
    for step in steps[:-1]:
        grids.append(step.apply(grids[-1]))
    return grids[: len(steps)]


def _otsu(values: NDArray[Any]) -> float:
    """The threshold between dark and bright that parts a histogram best (Otsu 1979), outliers apart."""
    top = float(np.percentile(values, 99))
    low = float(values.min())
    if not top > low:
        raise NoHead("there is no head in the image", got="one value everywhere")
    count, edges = np.histogram(np.clip(values, low, top), bins=128)
    middle = (edges[:-1] + edges[1:]) / 2
    below, weighted = np.cumsum(count), np.cumsum(count * middle)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (weighted / below - (weighted[-1] - weighted) / above) ** 2
    return float(middle[int(np.nanargmax(between[:-1]))]) * 0.7 + low * 0.3


def _head(values: NDArray[np.float32], threshold: float) -> Bools:
    """The largest thing that is not air, without its holes (sinuses, dark skull in MR)."""
    from scipy import ndimage

    # closed first: in MR the skull is as dark as air, and the scalp around it only a voxel or two thick
    reach = 3
    inside = np.pad(values > threshold, reach + 1, mode="edge")
    inside = ndimage.binary_closing(inside, iterations=reach)[(slice(reach + 1, -reach - 1),) * 3]
    inside = np.stack([ndimage.binary_fill_holes(inside[:, :, z]) for z in range(inside.shape[2])], axis=2)
    labels, count = ndimage.label(ndimage.binary_opening(np.pad(inside, 2, mode="edge"))[2:-2, 2:-2, 2:-2])
    if not count:
        raise NoHead("there is no head in the image", got="only air")
    return np.asarray(labels == 1 + int(np.bincount(labels.ravel())[1:].argmax()))


def _depth_mm(head: Bools, spacing: NDArray[Any]) -> NDArray[Any]:
    """How deep under the skin each voxel lies; where the field of view cuts the head there is no skin."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(head, 6, mode="edge"), sampling=spacing)
    return np.asarray(depth[(slice(6, -6),) * 3])


def _core(head: Bools, spacing: NDArray[Any]) -> Bools:
    """The inside of the skull's vault: the head deeper than scalp and skull, above the narrowing to the face.

    Raises:
        NoHead: What is there is not the size of a head.
    """
    from scipy import ndimage

    core = _depth_mm(head, spacing) >= CORE_DEPTH_MM
    labels, count = ndimage.label(core)
    if not count:
        raise NoHead("there is no head in the image", got="nothing as thick as a head")
    sizes = np.bincount(labels.ravel())[1:]
    core = labels == 1 + int(sizes.argmax())
    widths = [np.ptp(np.flatnonzero(head.any(axis=axes))) + 1 for axes in ((1, 2), (0, 2))]
    width, length = (float(w * s) for w, s in zip(widths, spacing[:2], strict=True))
    if not (HEAD_WIDTH_MM[0] <= width <= HEAD_WIDTH_MM[1] and HEAD_LENGTH_MM[0] <= length <= HEAD_LENGTH_MM[1]):
        raise NoHead(
            "there is no head in the image",
            got=f"a body {width:.0f} mm wide and {length:.0f} mm from front to back",
            expected=f"{HEAD_WIDTH_MM[0]:g}–{HEAD_WIDTH_MM[1]:g} mm and {HEAD_LENGTH_MM[0]:g}–{HEAD_LENGTH_MM[1]:g} mm",
        )
    # vertex to foramen magnum is about 150 mm; a tall head gets more: what is protected too much lies inside anyway
    top = int(np.flatnonzero(head.any(axis=(0, 1))).max())
    lowest = max(0, top - int(195 / spacing[2]))
    core[:, :, :lowest] = False
    # the front of the vault is where the head is widest, above the face: what lies before it further down is face
    vault = core[:, :, max(lowest, top - int(85 / spacing[2])) :]
    if not vault.any():
        raise NoHead("there is no head in the image", got="no core below the crown")
    front = int(np.flatnonzero(vault.any(axis=(0, 2)))[0])
    core[:, :front, :] = False
    # below the skull's base the front is jaw
    back = int(np.flatnonzero(vault.any(axis=(0, 2)))[-1])
    core[:, : front + (back - front) // 6, : max(0, top - int(150 / spacing[2]))] = False
    return np.asarray(core)


def _in_front_and_below(core: Bools, spacing: NDArray[Any]) -> Bools:
    """Everything before and below a plane from the brow down to the ears' height, under the front of the core."""
    x, y, z = (np.arange(n) * s for n, s in zip(core.shape, spacing, strict=True))
    rows, slices = np.flatnonzero(core.any(axis=(0, 2))), np.flatnonzero(core.any(axis=(0, 1)))
    front, back = y[rows[0]], y[rows[-1]]
    high = z[slices[-1]]
    low = max(z[slices[0]], high - 135)  # crown to skull base, however far down the core is protected
    # the brow: in front of the core, two thirds up; the ears: the middle of the core's lower end
    brow = (front - KEEP_MM - 2, low + 0.66 * (high - low))
    ears = (front + 0.5 * (back - front), low - KEEP_MM)
    slope = (ears[0] - brow[0]) / min(ears[1] - brow[1], -1e-6)
    limit = brow[0] + slope * (z - brow[1])  # y of the plane at each height
    limit = np.minimum(limit, front + 0.7 * (back - front))
    face = (y[:, None] < limit[None, :]) & (z[None, :] <= brow[1])
    return np.broadcast_to(face[None], (len(x), *face.shape)).copy()


def _skin(head: Bools, spacing: NDArray[Any]) -> Bools:
    """A shell of the head's surface: all around, with the air next to it (blur, the ears' edges)."""
    from scipy import ndimage

    outward = ndimage.distance_transform_edt(~head, sampling=spacing)
    return np.asarray((_depth_mm(head, spacing) <= SKIN_MM) & (outward <= 2 * SKIN_MM))


def _enlarged(small: Bools, stride: Sequence[int], shape: tuple[int, ...]) -> Bools:
    for axis, step in enumerate(stride):
        # each coarse voxel speaks for those around its centre
        index = np.clip(np.rint(np.arange(shape[axis]) / step).astype(int), 0, small.shape[axis] - 1)
        small = np.take(small, index, axis=axis)
    return small


# -- a DICOM series --------------------------------------------------------------------------------------------------


def deface_series(datasets: Sequence[Any]) -> int:
    """Take the face out of a series of single-frame CT or MR slices, in place.

    Stored values are overwritten by the least stored value of the series; Recognizable Visual Features becomes NO.

    Args:
        datasets: pydicom data sets of one series, uncompressed, in any order.

    Returns:
        How many voxels were emptied.

    Raises:
        NoHead: What is there is no head, or not the size of one.
        DataError: Compressed or unusual pixels, slices of several kinds of values, fewer than 8 slices.
        GeometryError: Slices without a place, of different directions, or at the same place.
    """
    ordered, geometry = _in_order(datasets)
    volume = np.stack([_stored(d) for d in ordered], axis=2)
    if len({_kind(d) for d in ordered}) > 1:
        raise DataError(
            "slices of several kinds of numbers are no volume", got=sorted({str(_kind(d)) for d in ordered})
        )
    # each slice has its own scale in MR, where none is the series' own
    slopes = np.array([float(d.get("RescaleSlope", 1) or 1) for d in ordered])
    intercepts = np.array([float(d.get("RescaleIntercept", 0) or 0) for d in ordered])
    is_hu = str(ordered[0].get("Modality", "")) == "CT"
    mask = face_mask(volume * slopes + intercepts, geometry, is_hu=is_hu)
    least = volume.min()
    for index, data in enumerate(ordered):
        values = volume[:, :, index].copy()
        values[mask[:, :, index]] = least
        if mask[:, :, index].any():
            data.PixelData = values.astype(_kind(data)).tobytes()
        data.RecognizableVisualFeatures = "NO"
    return int(mask.sum())


def _kind(data: Any) -> np.dtype[Any]:
    """How the values of a slice are stored.

    Raises:
        DataError: Compressed, coloured or packed in a way that is not dealt with.
    """
    from medmap.deidentify.stored import BIG_ENDIAN, NATIVE

    syntax = str(data.file_meta.TransferSyntaxUID)
    bits = int(data.BitsAllocated)
    if (
        syntax not in NATIVE
        or bits not in (8, 16)
        or int(data.get("SamplesPerPixel", 1)) != 1
        or (syntax == BIG_ENDIAN and bits == 8)
    ):
        raise DataError("a face is taken out of plain grey slices", got=f"{syntax}, {bits} bits", expected="native")
    signed = int(data.get("PixelRepresentation", 0) or 0)
    return np.dtype(f"{'>' if syntax == BIG_ENDIAN else '<'}{'i' if signed else 'u'}{bits // 8}")


def _stored(data: Any) -> NDArray[Any]:
    kind = _kind(data)
    count = int(data.Rows) * int(data.Columns)
    if len(data.PixelData) < count * kind.itemsize:
        raise DataError("the pixels are truncated", got=len(data.PixelData), expected=count * kind.itemsize)
    return np.frombuffer(data.PixelData, kind, count=count).reshape(int(data.Rows), int(data.Columns))


def _in_order(datasets: Sequence[Any]) -> tuple[list[Any], Geometry]:
    """Slices along their normal, and the grid they make (PS3.3 C.7.6.2.1.1)."""
    if len(datasets) < 8:
        raise DataError("a head needs more slices", got=len(datasets), expected="≥ 8")
    try:
        directions = [np.array(d.ImageOrientationPatient, float) for d in datasets]
        places = np.array([np.array(d.ImagePositionPatient, float) for d in datasets])
        rows_mm, columns_mm = (float(v) for v in datasets[0].PixelSpacing)
        sizes = {(int(d.Rows), int(d.Columns)) for d in datasets}
    except (AttributeError, TypeError, ValueError) as error:
        raise GeometryError("slices without a place in the patient") from error
    if len(sizes) > 1 or any(np.abs(d - directions[0]).max() > 1e-3 for d in directions):
        raise GeometryError("slices of different size or direction are no volume")
    along, down = directions[0][:3], directions[0][3:]
    normal = np.cross(along, down)
    order = np.argsort(places @ normal)
    steps = np.diff((places @ normal)[order])
    if not (steps > 1e-3).all() or np.ptp(steps) > 0.5 * np.median(steps):
        raise GeometryError("slices at the same place or with gaps are no volume", got=f"steps {np.unique(steps)[:4]}")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([down * rows_mm, along * columns_mm, normal * steps.mean()], axis=1)
    affine[:3, 3] = places[order[0]]
    shape = (*next(iter(sizes)), len(datasets))
    return [datasets[i] for i in order], Geometry(shape, affine)
