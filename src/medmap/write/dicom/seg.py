"""Masks, boxes and probabilities as DICOM Segmentation objects (PS3.3 A.51, A.101), through highdicom.

Binary: one bit a pixel, segments may overlap. Fractional: a probability in steps of 1/255. Label map: one number a
pixel. Frames without a marked pixel are left out of the file; a structure that was looked for and not found keeps its
segment, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.results import Boxes, Label, Mask
from medmap.write.colours import colour_of
from medmap.write.dicom.boxed import box_regions, findings
from medmap.write.dicom.codes import category_of, coded, laterality
from medmap.write.dicom.slice import decimal, uid
from medmap.write.dicom.source import (
    About,
    Laid,
    Origin,
    cut_frames,
    equipment,
    identification,
    laid_on,
    new_uid,
)

Kind = Literal["BINARY", "FRACTIONAL", "LABELMAP"]
MAKERS = {"algorithm": "AUTOMATIC", "person": "MANUAL", "both": "SEMIAUTOMATIC"}
NOT_FOUND = "Looked for; no voxel of it was found"
MOST_SEGMENTS = 65535
STEPS = 255  # a probability p is stored as round(255 p)


def _short(name: str) -> str:
    """A name as DICOM's short texts hold it: 64 characters, none of which parts values."""
    return name.replace("\\", "/")[:64]


def segmentation(value: Mask | Boxes | Image, origin: Origin, about: About, kind: Kind = "BINARY") -> Any:
    """A segmentation object (a pydicom data set, not yet written).

    Segments are numbered from 1 in the order of the mask's values; a label map keeps the values themselves. Of boxes
    each that is called is a segment, filled.

    Args:
        value: A mask, or boxes; for FRACTIONAL also an image of probabilities in 0…1, a channel each structure.
        origin: The series it was made from.
        about: Title, algorithm, codes of channels.
        kind: How pixels are stored.

    Raises:
        DataError: Overlapping regions for a label map; an image that holds no probabilities; no label at all.
        GeometryError: The mask does not lie on the source: another frame of reference, or a grid that cannot be said
            in DICOM.

    Example:
        >>> segmentation(mask, origin_of("series/"), About())    # doctest: +SKIP
    """
    series = str(origin.first.SeriesInstanceUID)
    boxed = findings(value, series, about) if isinstance(value, Boxes) else []
    value = box_regions(value) if isinstance(value, Boxes) else value
    array, labels = _planned(value, about, kind)
    tracked = {n: _Tracked(label.name, tracking_uid(series, about, label)) for n, label in labels.items()}
    tracked |= {n: _Tracked(f.name, f.tracking_uid, f"Box, score {f.score:.3f}") for n, f in enumerate(boxed, 1)}
    laid = laid_on(value.geometry, origin)
    numbers = {n: n if kind == "LABELMAP" else i for i, n in enumerate(labels, 1)}
    array = _renumbered(array, numbers) if array.ndim == value.geometry.ndim else array
    found = _present(array, value.geometry.ndim, numbers)
    segments = [_segment(numbers[n], label, tracked[n], about, n in found) for n, label in labels.items()]
    where = _on_source(array, value.geometry, laid, origin) if laid else _on_own_grid(array, value.geometry, origin)
    grid = value.geometry
    distance = grid.spacing_mm[laid[0].axes[2] if laid else 2] if grid.ndim == 3 and grid.kind == "patient" else None
    return _made(where, segments, about, kind, distance)


def _planned(value: Mask | Image, about: About, kind: Kind) -> tuple[NDArray[Any], dict[int, Label]]:
    if isinstance(value, Mask):
        return _of_mask(value, kind)
    if value.time_s is not None:
        raise DataError("a segmentation has no time", got=f"{len(value.time_s)} times", remedy="write one of them")
    names = value.channels
    labels = {i: about.labels.get(name, Label(name)) for i, name in enumerate(names, 1)}
    array = value.array if len(names) > 1 else value.array[..., None]
    if kind != "FRACTIONAL":
        raise DataError("this kind of segmentation is made of a mask", got="an image", remedy="decide on labels first")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise DataError(
            "a fractional segmentation holds probabilities", got=f"{array.min()} to {array.max()}", expected="0 to 1"
        )
    return array.astype(np.float32, copy=False), labels


def _of_mask(mask: Mask, kind: Kind) -> tuple[NDArray[Any], dict[int, Label]]:
    labels = dict(sorted(mask.labels.items())) if mask.array.dtype != np.bool_ else dict(mask.labels)
    if not labels:
        raise DataError("a segmentation names at least one structure", got="a mask without labels")
    if max(labels) > MOST_SEGMENTS:
        raise DataError("a segment's number has 16 bits", got=max(labels), expected=f"at most {MOST_SEGMENTS}")
    if mask.array.dtype == np.bool_:
        if kind == "LABELMAP":
            return _flattened(mask, labels)
        return mask.array, labels
    unknown = sorted(set(np.unique(mask.array).tolist()) - {0, *labels})
    if unknown:
        raise DataError("the mask holds values without a label", got=unknown[:10], expected=sorted(labels))
    return mask.array, labels


def _flattened(mask: Mask, labels: Mapping[int, Label]) -> tuple[NDArray[Any], dict[int, Label]]:
    several = int(np.count_nonzero(mask.array.sum(axis=-1, dtype=np.uint16) > 1))
    if several:
        raise DataError(
            "a label map holds one structure a voxel and these overlap", got=f"{several} voxels in several",
            remedy="write dicom-seg (binary), where segments may overlap",
        )  # fmt: skip
    flat = np.zeros(mask.geometry.shape, np.uint16)
    for channel, number in enumerate(labels):
        flat[mask.array[..., channel]] = number
    return flat, dict(sorted(labels.items()))


def _renumbered(array: NDArray[Any], numbers: Mapping[int, int]) -> NDArray[Any]:
    small = np.uint8 if max(numbers.values()) < 256 else np.uint16
    if all(old == new for old, new in numbers.items()):
        return array.astype(small, copy=False)
    table = np.zeros(int(array.max(initial=0)) + 1, small)
    for old, new in numbers.items():
        if old < len(table):
            table[old] = new
    return np.asarray(table[array])


def _present(array: NDArray[Any], ndim: int, numbers: Mapping[int, int]) -> set[int]:
    """The label values of which at least one voxel is marked."""
    if array.ndim > ndim:
        return {value for channel, value in enumerate(numbers) if array[..., channel].any()}
    there = set(np.unique(array).tolist())
    return {value for value, number in numbers.items() if number in there}


class _Tracked(NamedTuple):
    """What a segment is called, known by, and described as."""

    name: str
    uid: str
    description: str = ""


def _segment(number: int, label: Label, tracked: _Tracked, about: About, found: bool) -> Any:
    import highdicom as hd

    concept, side = coded(label), laterality(label)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_short(tracked.name),
        segmented_property_category=category_of(label),
        segmented_property_type=concept,
        algorithm_type=MAKERS[about.made_by],
        algorithm_identification=None if about.made_by == "person" else identification(about),
        tracking_id=_short(tracked.name),
        tracking_uid=tracked.uid,
        display_color=hd.color.CIELabColor.from_rgb(*colour_of(number - 1)),
    )
    if side is not None:
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    if tracked.description or not found:
        segment.SegmentDescription = tracked.description if found else NOT_FOUND
    return segment


def tracking_uid(series_uid: str, about: About, label: Label) -> str:
    """What a structure is known by in every object made of one series by one algorithm: segmentation and report alike.

    Args:
        series_uid: Series Instance UID of the source.
        about: The algorithm, its version and bundle.
        label: The structure.

    Example:
        >>> first, again, other = (tracking_uid(series, About(), Label("liver")) for series in ("1.2", "1.2", "1.3"))
        >>> first == again, first == other
        (True, False)
    """
    return uid("tracking", series_uid, about.algorithm, about.version, about.bundle, label.name, label.code or "")


# -- where the pixels go ---------------------------------------------------------------------------------------------


def _on_source(array: NDArray[Any], grid: Geometry, laid: list[Laid], origin: Origin) -> dict[str, Any]:
    """Pixel for pixel on the source's own frames: highdicom copies places and references from them."""
    frames = cut_frames(array, grid, laid, origin.size)
    if len(origin.images) == 1 and len(origin.planes) > 1:
        whole = np.zeros((len(origin.planes), *frames.shape[1:]), frames.dtype)
        whole[[one.plane.frame for one in laid]] = frames
        return {"source_images": [origin.first], "pixel_array": whole}
    images = [origin.images[one.plane.image] for one in laid]
    return {"source_images": _alike(images), "pixel_array": frames}


def _alike(images: list[Any]) -> list[Any]:
    """Orientations that differ in the last digit are one orientation: a copy of the headers says so.

    A slice without a thickness has one that is not known: highdicom asks every slice for it.
    """
    first = images[0]
    out = []
    for image in images:
        same = "ImageOrientationPatient" not in first or image.ImageOrientationPatient == first.ImageOrientationPatient
        thick = "ImagePositionPatient" not in image or "SliceThickness" in image
        out.append(image if same and thick else _shallow(image))
        if not same:
            out[-1].ImageOrientationPatient = first.ImageOrientationPatient
        if not thick:
            out[-1].SliceThickness = None
    return out


def _shallow(header: Any) -> Any:
    from pydicom.dataset import Dataset

    made = Dataset()
    for element in header:
        made.add(copy(element))  # a value set later must not reach the source
    made.file_meta = header.file_meta
    return made


def _on_own_grid(array: NDArray[Any], grid: Geometry, origin: Origin) -> dict[str, Any]:
    """On a grid of its own in the source's space: only where both say that they share it."""
    import highdicom as hd

    if grid.kind != "patient" or grid.ndim != 3 or origin.frame_of_reference is None:
        raise GeometryError(
            "the answer does not lie on the frames of the source series", got=f"{grid.kind} grid of {grid.shape}",
            expected=f"frames of {origin.size}", remedy="give the series that the image was read from",
        )  # fmt: skip
    if grid.frame_of_reference != origin.frame_of_reference:
        raise GeometryError(
            "the answer has another grid than the source series and does not say that it shares its space",
            got=f"frame of reference {grid.frame_of_reference}", expected=origin.frame_of_reference,
            remedy="give the series that the image was read from, or resample the answer onto it",
        )  # fmt: skip
    units = grid.affine_lps_mm[:3, :3] / np.array(grid.spacing_mm)
    if np.abs(units.T @ units - np.eye(3)).max() > 1e-4:
        raise GeometryError(
            "a segmentation has axes at right angles", got=grid.orientation, remedy="resample the mask onto its source"
        )
    # highdicom's volumes have slices first, in an order that makes the axes right-handed
    order = (2, 0, 1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.affine_lps_mm[:3, order], grid.affine_lps_mm[:3, 3]
    moved = array.transpose((*order, *range(3, array.ndim)))
    channels: dict[str, Any] = (
        {} if array.ndim == 3 else {"channels": {"SegmentNumber": list(range(1, array.shape[-1] + 1))}}
    )
    volume = hd.Volume(
        moved, affine, coordinate_system="PATIENT", frame_of_reference_uid=origin.frame_of_reference, **channels
    )
    images = list(origin.images) if len({i.get("NumberOfFrames", 1) for i in origin.images}) == 1 else [origin.first]
    return {"source_images": _alike(images), "pixel_array": volume}


def _made(where: Mapping[str, Any], segments: list[Any], about: About, kind: Kind, spacing_mm: float | None) -> Any:
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    pixels = where["pixel_array"]
    marked = bool(np.any(pixels if isinstance(pixels, np.ndarray) else pixels.array))
    made = hd.seg.Segmentation(
        **where,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=new_uid(),
        series_number=about.series_number or 300,
        sop_instance_uid=new_uid(),
        instance_number=1,
        **equipment(about),
        fractional_type="PROBABILITY" if kind == "FRACTIONAL" else None,
        max_fractional_value=STEPS,
        # probabilities and label maps are mostly zero: run lengths shrink them
        transfer_syntax_uid=ExplicitVRLittleEndian if kind == "BINARY" else RLELossless,
        omit_empty_frames=marked,
        content_label="SEGMENTATION",
        content_description=(about.title or "Segmentation")[:64],
        series_description=(about.title or "Segmentation")[:64],
        specific_character_set="ISO_IR 192",
    )
    _say_spacing(made, spacing_mm)
    return made


def _say_spacing(made: Any, spacing_mm: float | None) -> None:
    """The distance of slices, without which a reader of few planes cannot know how many lie between them.

    A series that does not state its thickness has voxels as thick as its slices are apart (PS3.3 C.7.6.16.2.1, 1C).
    """
    measures = made.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    if spacing_mm is not None and measures:
        measures[0].SpacingBetweenSlices = decimal(spacing_mm)
        if measures[0].get("SliceThickness") is None:
            measures[0].SliceThickness = decimal(spacing_mm)
