"""Segmentation objects (PS3.3 A.51, A.101) as masks: binary, fractional, label map; of volumes, pictures and slides.

A member of such a file says which segment becomes which value: ``seg.dcm#1>2,3>1`` makes segment 1 the value 2 and
segment 3 the value 1; a number alone (``seg.dcm#3``) is that segment, as 0 and 1 or as a probability. Without a
member the segments' own numbers are the values; segments that overlap become channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, ReadError
from medmap.geometry import Geometry
from medmap.image import Image, Source
from medmap.read.dicom.document import chosen_values, code_of, document, items
from medmap.read.dicom.place import groups, per_frame
from medmap.read.dicom.planes import Stacked, placed, stacked, stored_frames
from medmap.read.opened import DEFAULT_LIMIT_BYTES, Opened, require_room
from medmap.results import Label, Mask

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
CLASSES = (SEGMENTATION, LABEL_MAP)
BACKGROUND = "DCM:125040"  # "Background" (PS3.16 annex D): a label map describes it as a segment


@dataclass(frozen=True)
class Segment:
    """One segment as the object describes it.

    Args:
        number: From 1.
        label: Its name and the code of what it is.
        category: Code of what kind of thing it is, as ``scheme:value|meaning``.
        tracking_id: What it is called over several objects.
        tracking_uid: And its unique identifier.
        algorithm: AUTOMATIC, SEMIAUTOMATIC or MANUAL, with the algorithm's name where it is stated.
    """

    number: int
    label: Label
    category: str | None = None
    tracking_id: str | None = None
    tracking_uid: str | None = None
    algorithm: str | None = None


def segments_of(path: str | Path) -> tuple[Segment, ...]:
    """The segments that an object describes, without its background; no pixel is read.

    Raises:
        ReadError: No segmentation.
    """
    with document(Path(path), CLASSES, "segmentation", []) as header:
        return _segments(header)


def source_series_of(path: str | Path) -> tuple[str, ...]:
    """UIDs of the series that a segmentation was drawn on (PS3.3 C.7.6.16.2.1); no pixel is read.

    Raises:
        ReadError: No segmentation.
    """
    with document(Path(path), CLASSES, "segmentation", []) as header:
        return tuple(
            str(item.SeriesInstanceUID)
            for item in items(header, "ReferencedSeriesSequence")
            if item.get("SeriesInstanceUID")
        )


def _segments(header: Any) -> tuple[Segment, ...]:
    found = []
    for item in items(header, "SegmentSequence"):
        number = int(item.SegmentNumber)
        code = code_of(item, "SegmentedPropertyTypeCodeSequence")
        if number == 0 or (code or "").startswith(BACKGROUND):
            continue
        name = str(item.get("SegmentLabel") or (code or "").partition("|")[2] or f"segment {number}")
        made = " ".join(str(item.get(k) or "") for k in ("SegmentAlgorithmType", "SegmentAlgorithmName")).strip()
        found.append(
            Segment(
                number,
                Label(name, code),
                code_of(item, "SegmentedPropertyCategoryCodeSequence"),
                str(item.get("TrackingID") or "") or None,
                str(item.get("TrackingUID") or "") or None,
                made or None,
            )
        )
    return tuple(found)


def read_segmentation(
    path: str | Path,
    *,
    on: Geometry | None = None,
    threshold: float | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> Mask:
    """A segmentation object as a mask with coded labels.

    The grid is the object's own: the planes on which it has frames. ``on`` puts it on the grid of its source by exact
    steps; what the object leaves out there is background.

    Args:
        path: The file.
        on: The grid that the mask is wanted on, such as that of the image it was made from.
        threshold: Above which a probability counts (0…1); a fractional object that holds others than 0 and 1 is
            refused without.
        limit_bytes: Memory that the mask may take.

    Raises:
        ReadError: No segmentation, or damaged.
        DataError: Probabilities without a threshold.
        GeometryError: ``on`` is another grid, or in another frame of reference.
        LimitError: Larger than ``limit_bytes``.
    """
    path = Path(path)
    notes: list[str] = []
    with document(path, CLASSES, "segmentation", notes) as header:
        plan = _plan(path, header, notes)
        require_room(plan.nbytes, limit_bytes, str(path))
        labels = {s.number: s.label for s in plan.segments}
        if not labels:
            raise ReadError(f"{path} describes no segment")
        array = _mask(path, plan, list(labels), threshold, notes)
    mask = Mask(array, plan.where.geometry, labels)
    return mask if on is None else _put(mask, on)


def _put(mask: Mask, on: Geometry) -> Mask:
    several = mask.array.dtype == np.bool_ and len(mask.labels) > 1
    names = tuple(str(n) for n in mask.labels) if several else ("image",)
    array = mask.array[..., 0] if mask.array.dtype == np.bool_ and not several else mask.array
    geometry = mask.geometry
    if geometry.ndim == 2 and on.ndim == 3:
        geometry, array = Geometry((*geometry.shape, 1), geometry.affine_lps_mm, geometry.kind,
                                   geometry.frame_of_reference), array[:, :, None]  # fmt: skip
    moved = Image(array, geometry, "label", names).match(on).array
    return Mask(moved[..., None] if mask.array.dtype == np.bool_ and not several else moved, on, mask.labels)


# -- what the header says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a header says about where each frame goes."""

    kind: str  # BINARY, FRACTIONAL or LABELMAP
    segments: tuple[Segment, ...]
    where: Stacked
    numbers: NDArray[np.int64]  # segment of each frame; zeros for a label map
    size: tuple[int, int]
    bits: int
    most: int  # what stands for a probability of 1

    @property
    def nbytes(self) -> int:
        voxels = int(np.prod([int(n) for n in self.where.geometry.shape], dtype=object))
        channels = 1 if self.kind == "LABELMAP" else max(1, len(self.segments))
        each = 4 if self.kind == "FRACTIONAL" else 1
        return voxels * channels * each + len(self.numbers) * self.size[0] * self.size[1] * max(1, self.bits // 8)


def _plan(path: Path, header: Any, notes: list[str]) -> _Plan:
    size = (int(header.Rows), int(header.Columns))
    count, bits = int(header.get("NumberOfFrames") or 1), int(header.BitsAllocated)
    if min(*size, count) < 1 or bits not in (1, 8, 16):
        raise ReadError(f"{path} declares an impossible size", got=f"{count} frames of {size}, {bits} bits")
    kind = str(header.get("SegmentationType") or "BINARY")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise ReadError(f"{path} is a kind of segmentation that is not read", got=kind)
    described = len(per_frame(header))
    if described > count:
        notes.append(f"{described} frames are described and {count} stored; the first ones were taken")
    if 0 < described < count:
        raise ReadError(f"{path} does not say where each frame lies", got=f"{described} of {count} frames described")
    segments = _segments(header)
    where = stacked(path, header, count, notes)
    numbers = np.zeros(count, np.int64) if kind == "LABELMAP" else _numbers(path, header, count, segments, where)
    if str(header.get("SegmentationFractionalType") or "") == "OCCUPANCY":
        notes.append("the fractions say how much of a voxel is occupied, not how probable it is")
    most = int(header.get("MaximumFractionalValue") or 255)
    return _Plan(kind, segments, where, numbers, size, bits, most)


def _numbers(path: Path, header: Any, count: int, segments: Sequence[Segment], where: Stacked) -> NDArray[np.int64]:
    """The segment that each frame belongs to."""
    if not per_frame(header):
        # TILED_FULL (PS3.3 C.7.6.17.3): all tiles of the first segment, then of the next
        each = count // max(1, len(segments))
        if each * len(segments) != count:
            raise ReadError(f"{path} does not hold a whole picture a segment", got=f"{count} frames")
        return np.repeat([s.number for s in segments], each)
    shared = groups(header, "SharedFunctionalGroupsSequence")[:1]
    found = np.empty(count, np.int64)
    for frame, group in enumerate(per_frame(header)[:count]):
        for place in (group, *shared):
            identified = place.get("SegmentIdentificationSequence")
            if identified:
                found[frame] = int(identified[0].ReferencedSegmentNumber)
                break
        else:
            raise ReadError(f"{path} does not say which segment frame {frame} belongs to")
    unknown = sorted(set(found.tolist()) - {s.number for s in segments})
    if unknown:
        raise ReadError(f"{path} holds frames of segments that it does not describe", got=unknown[:10])
    return found


# -- what the pixels say -----------------------------------------------------------------------------------------------


def _frames(path: Path, plan: _Plan, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, NDArray[Any]]]:
    return stored_frames(path, len(plan.numbers), np.flatnonzero(wanted).tolist())


def _mask(path: Path, plan: _Plan, order: Sequence[int], threshold: float | None, notes: list[str]) -> NDArray[Any]:
    """(grid) of segment numbers, or (grid, segments) of booleans where segments overlap."""
    every = np.ones(len(plan.numbers), bool)
    flat = np.zeros(plan.where.geometry.shape, np.uint8 if max(order) < 256 else np.uint16)
    if plan.kind == "LABELMAP":
        placed(list(_frames(path, plan, every)), plan.where, flat)
        return _only(flat, order, notes)
    overlapping = False
    for number, frame in _frames(path, plan, every):
        here = _decided(path, frame, plan, threshold)
        segment = flat.dtype.type(plan.numbers[number])
        part = _part(flat, plan, number)
        inside = here[: part.shape[0], : part.shape[1]]
        overlapping = overlapping or bool((part[inside] != 0).any())
        part[inside] = segment
    if not overlapping:
        return flat
    out = np.zeros((*flat.shape, len(order)), bool)
    channel_of = {segment: channel for channel, segment in enumerate(order)}
    for number, frame in _frames(path, plan, every):
        here = _decided(path, frame, plan, threshold)
        placed([(number, here)], plan.where, out[..., channel_of[int(plan.numbers[number])]], np.logical_or)
    return out


def _only(flat: NDArray[Any], order: Sequence[int], notes: list[str]) -> NDArray[Any]:
    """A label map without the values that no segment describes (its background may have any number)."""
    table = np.zeros(int(flat.max(initial=0)) + 1, flat.dtype)
    known = [n for n in order if n < len(table)]
    table[known] = known
    lost = int(np.count_nonzero(flat)) - int(np.count_nonzero(table[flat]))
    if lost:
        notes.append(f"{lost} voxels hold values that no segment describes and were taken as background")
    return np.asarray(table[flat])


def _decided(path: Path, frame: NDArray[Any], plan: _Plan, threshold: float | None) -> NDArray[np.bool_]:
    if plan.kind == "BINARY":
        return np.asarray(frame != 0)
    if threshold is not None:
        return np.asarray(frame > threshold * plan.most)
    if not np.isin(frame, (0, plan.most)).all():
        raise DataError(
            f"{path} holds probabilities, not a mask", got="values between 0 and 1",
            remedy="give a threshold, or read it as an image of probabilities",
        )  # fmt: skip
    return np.asarray(frame == plan.most)


# -- as an image -------------------------------------------------------------------------------------------------------


def open_segmentation(path: Path, member: str | None, header: Any, notes: list[str]) -> Opened:
    """A segmentation as an image of labels (or of probabilities, when it is fractional and no values are chosen).

    Raises:
        ReadError: Damaged, or a member that names no segment.
    """
    plan = _plan(path, header, notes)
    chosen = None if member is None else chosen_values(path, member, [s.number for s in plan.segments], "segment")
    values = chosen or {s.number: s.number for s in plan.segments}
    picked = [s for s in plan.segments if s.number in values]
    small = np.dtype(np.uint8 if max(values.values(), default=0) < 256 else np.uint16)
    pixels, dtype = _map_of(path, plan, values, small), small
    channels: tuple[str, ...] = ("image",)
    if plan.kind == "FRACTIONAL" and (member is None or member.isdigit()):
        pixels, channels, dtype = _probabilities(path, plan, picked), _names(picked), np.dtype(np.float32)
    elif member is None and plan.kind == "BINARY" and _may_overlap(header, plan):
        require_room(plan.nbytes, DEFAULT_LIMIT_BYTES, str(path))
        array = _mask(path, plan, list(values), None, notes)
        if array.dtype == np.bool_:
            notes.append("segments overlap; each is a channel of its own")
            pixels, channels, dtype = _ready(array.astype(np.uint8)), _names(picked), np.dtype(np.uint8)
    return Opened(
        geometry=plan.where.geometry,
        dtype=dtype,
        pixels=pixels,
        quantity="probability" if dtype.kind == "f" else "label",
        channels=channels,
        source=_source(path, header, member, notes),
        working_bytes=plan.nbytes,
    )


def _ready(array: NDArray[Any]) -> Callable[[list[str]], NDArray[Any]]:
    return lambda _: array


def _map_of(
    path: Path, plan: _Plan, values: Mapping[int, int], small: np.dtype[Any]
) -> Callable[[list[str]], NDArray[Any]]:
    def pixels(notes: list[str]) -> NDArray[Any]:
        if plan.kind == "LABELMAP":
            return _mapped(_mask(path, plan, [s.number for s in plan.segments], None, notes), values, small)
        out = np.zeros(plan.where.geometry.shape, small)
        clash = 0
        for number, frame in _frames(path, plan, np.isin(plan.numbers, list(values))):
            value = small.type(values[int(plan.numbers[number])])
            here = _decided(path, frame, plan, None)
            part = _part(out, plan, number)
            inside = here[: part.shape[0], : part.shape[1]]
            clash += int(((part[inside] != 0) & (part[inside] != value)).sum())
            part[inside] = value
        if clash:
            raise ReadError(
                f"{path} holds overlapping segments, which one map of labels cannot hold", got=f"{clash} voxels in two",
                remedy="choose segments that do not overlap: file.dcm#1>1,3>2",
            )  # fmt: skip
        return out

    return pixels


def _part(array: NDArray[Any], plan: _Plan, number: int) -> NDArray[Any]:
    """A view of where a frame stands in an array on the grid."""
    target = array if array.ndim == 2 else array[:, :, int(plan.where.slices[number])]
    row, column = (int(v) for v in plan.where.corners[number])
    return target[row : row + plan.size[0], column : column + plan.size[1]]


def _source(path: Path, header: Any, member: str | None, notes: list[str]) -> Source:
    meta = getattr(header, "file_meta", None) or {}
    return Source(
        path=str(path) if member is None else f"{path}#{member}",
        format="dicom",
        transfer_syntax=str(meta.get("TransferSyntaxUID", "") or "") or None,
        bits_stored=int(header.get("BitsStored") or header.BitsAllocated),
        photometric=str(header.get("PhotometricInterpretation", "")) or None,
        modality="SEG",
        warnings=tuple(dict.fromkeys(notes)),
    )


def _names(segments: Sequence[Segment]) -> tuple[str, ...]:
    """Names of channels: the segments' labels, with their numbers where two are called alike."""
    if len(segments) == 1:
        return ("image",)
    names = [s.label.name for s in segments]
    return tuple(n if names.count(n) == 1 else f"{n} {s.number}" for n, s in zip(names, segments, strict=True))


def _probabilities(path: Path, plan: _Plan, picked: Sequence[Segment]) -> Callable[[list[str]], NDArray[Any]]:
    def pixels(notes: list[str]) -> NDArray[Any]:
        out = np.zeros((*plan.where.geometry.shape, len(picked)), np.float32)
        channel = {s.number: i for i, s in enumerate(picked)}
        for number, frame in _frames(path, plan, np.isin(plan.numbers, list(channel))):
            values = frame.astype(np.float32) / np.float32(plan.most)
            placed([(number, values)], plan.where, out[..., channel[int(plan.numbers[number])]])
        return out[..., 0] if len(picked) == 1 else out

    return pixels


def _mapped(flat: NDArray[Any], values: Mapping[int, int], small: np.dtype[Any]) -> NDArray[Any]:
    table = np.zeros(max(int(flat.max(initial=0)), *values) + 1, small)
    for number, value in values.items():
        table[number] = value
    return np.asarray(table[flat])


def _may_overlap(header: Any, plan: _Plan) -> bool:
    stated = str(header.get("SegmentsOverlap") or "UNDEFINED")
    if len(plan.segments) < 2 or stated == "NO":
        return False
    keys = np.concatenate([plan.where.slices[:, None], plan.where.corners], axis=1)
    return len(np.unique(keys, axis=0)) < len(keys)
