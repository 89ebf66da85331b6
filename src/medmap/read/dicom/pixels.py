"""The pixels of a series: frames decoded side by side into one array, each with its own file's meaning.

What a stored value means is decided where a single file's is (``meaning``), so that a slice read alone and a slice
read in its series hold the same numbers. The way there is short: the scan knows where the pixels lie, a file is read
with one call, and whole numbers are shifted where they were read to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import LimitError, ReadError
from medmap.image import Quantity, Source
from medmap.read.archive import held
from medmap.read.dicom.codecs import EXPLICIT_BIG, NATIVE, PixelSpec, decode_frame
from medmap.read.dicom.elements import DEFLATED, Elements, ReadAt
from medmap.read.dicom.file import open_dicom
from medmap.read.dicom.frames import Frames
from medmap.read.dicom.header import header_of
from medmap.read.dicom.instances import Instance
from medmap.read.dicom.lattice import Lattice
from medmap.read.dicom.meaning import Meaning
from medmap.read.dicom.place import Over
from medmap.read.dicom.sorting import Frame, seconds
from medmap.read.opened import Opened, at_the_door, heard

_TABLES = ("PALETTE COLOR",)
# what of a frame's own header its meaning depends on
_OWN = ("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit")
_STORED = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation")
MAX_THREADS = 16


@dataclass(frozen=True)
class Plan:
    """How stored values become the volume's.

    Args:
        dtype: Of the volume.
        opened: The first frame's file, opened: channels, source.
        quantity: What the values are.
        meanings: Of each frame; None where the file's own reader is asked for every frame.
    """

    dtype: np.dtype[Any]
    opened: Opened
    quantity: Quantity
    meanings: tuple[Meaning, ...] | None

    @property
    def trailing(self) -> tuple[int, ...]:
        """The axis of channels, where there are several."""
        return (len(self.opened.channels),) if len(self.opened.channels) > 1 else ()


def member_of(frame: Frame) -> str | None:
    """The frame or frames in the file's own words; the tiles of a mosaic are one frame."""
    if "Run" in frame.values:
        return str(frame.values["Run"]) or None
    return None if frame.index is None or "MosaicTile" in frame.values else str(frame.index)


def tile(picture: NDArray[Any], frame: Frame) -> NDArray[Any]:
    """The part of a mosaic that a slice is; anything else as it is."""
    corner = frame.values.get("MosaicTile")
    if corner is None:
        return picture
    rows, columns = size_of(frame)
    return picture[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns]


def size_of(frame: Frame) -> tuple[int, int]:
    """(rows, columns)."""
    return int(frame.values["Rows"]), int(frame.values["Columns"])


# -- what the values mean --------------------------------------------------------------------------------------------


def planned(frames: Sequence[Frame]) -> Plan:
    """The meaning of every frame, by the header of the first and what each frame states itself.

    Raises:
        ReadError: Some slices have a rescale that cannot be used, and some have one that can.
    """
    first = frames[0]
    with first.instance.as_file() as path, at_the_door(path, "DICOM"):
        opened = open_dicom(path, member_of(first))
        if not _direct(frames):
            return Plan(opened.dtype, opened, opened.quantity, None)
        with heard([], "pydicom"):
            header, _ = header_of(path)
            shared = Over(header, _first_moment(frames))
            known: dict[tuple[Any, ...], Meaning] = {}
            unusable: set[tuple[Any, ...]] = set()
            keys = [_key(frame) for frame in frames]
            for key, frame in zip(keys, frames, strict=True):
                if key not in known:
                    notes: list[str] = []
                    own = {name: frame.values[name] for name in _OWN if name in frame.values}
                    spec = PixelSpec.of(frame.instance.header, frame.instance.transfer_syntax)
                    known[key] = Meaning.of(Over(shared, own), spec, notes)
                    unusable.update({key} if any("unusable" in note for note in notes) else ())
    if unusable and len(unusable) < len(known):
        raise ReadError("some slices of the series have a rescale slope or intercept that cannot be used, others not")
    if any(meaning.table is not None for meaning in known.values()):
        return Plan(opened.dtype, opened, opened.quantity, None)
    dtype = np.result_type(*(meaning.dtype for meaning in known.values()))
    return Plan(dtype, opened, known[keys[0]].quantity, tuple(known[key] for key in keys))


def _direct(frames: Sequence[Frame]) -> bool:
    """Whether all pixels lie where the scan said, plainly enough to be taken from there."""
    for frame in frames:
        instance, header = frame.instance, frame.instance.header
        place, depth = instance.pixels, header.get("BitsAllocated")
        if place is None or place.name != "PixelData" or depth not in (8, 16, 32):
            return False
        if instance.transfer_syntax == DEFLATED or (instance.transfer_syntax == EXPLICIT_BIG and depth == 8):
            return False
        if header.get("PhotometricInterpretation") in _TABLES or "ModalityLUTSequence" in header:
            return False
        if header.get("SamplesPerPixel", 1) != frames[0].instance.header.get("SamplesPerPixel", 1):
            return False
        if (instance.transfer_syntax in NATIVE) != (place.length is not None):
            return False
    return True


def _key(frame: Frame) -> tuple[Any, ...]:
    header, values = frame.instance.header, frame.values
    return (*(values.get(name) for name in _OWN), *(header.get(name) for name in _STORED))


def _first_moment(frames: Sequence[Frame]) -> dict[str, Any]:
    """Date and time of the earliest frame: one series has one uptake, whatever slice its header is taken from."""
    stated = [
        (date, at, time)
        for frame in frames
        if (date := frame.values.get("AcquisitionDate"))
        and (time := frame.values.get("AcquisitionTime"))
        and (at := seconds(time)) is not None
    ]
    if not stated:
        return {}
    date, _, time = min(stated)
    return {"AcquisitionDate": date, "AcquisitionTime": time}


# -- decoding --------------------------------------------------------------------------------------------------------


def decoded(frames: Sequence[Frame], grid: Lattice, plan: Plan) -> NDArray[Any]:
    """(slices, rows, columns[, channels]); slices that are missing are zero.

    Raises:
        ReadError: Truncated, damaged or changed files, or pictures that are not like their neighbours.
    """
    made = np.empty if len(frames) == grid.count else np.zeros
    array = made((grid.count, *size_of(frames[0]), *plan.trailing), plan.dtype)
    for instance in {id(f.instance): f.instance for f in frames}.values():
        instance.require_unchanged()
    with ExitStack() as stack:
        for zipped in {f.instance.path for f in frames if f.instance.member is not None}:
            stack.enter_context(held(zipped))
        located: dict[int, Frames] = {}
        if plan.meanings is not None:
            several = {id(f.instance): f.instance for f in frames if f.index is not None}
            for instance in several.values():  # found once, however many frames are read
                with _named(instance):
                    located[id(instance)] = _located(instance, stack)

        def one(number: int) -> None:
            frame, into = frames[number], array[grid.places[number]]
            with at_the_door(str(frame.instance.path), "DICOM"), _named(frame.instance):
                if plan.meanings is None:
                    _whole(frame, into)
                elif not _straight(frame, plan.meanings[number], into):
                    _fill(frame, plan.meanings[number], into, located.get(id(frame.instance)))

        if len(frames) == 1:
            one(0)
            return array
        with ThreadPoolExecutor(min(MAX_THREADS, _cores(), len(frames))) as pool:
            for _ in pool.map(one, range(len(frames))):
                pass
    return array


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _named(instance: Instance) -> Iterator[None]:
    """What is refused inside names the file."""
    try:
        yield
    except (ReadError, LimitError) as error:
        if str(instance.path) in error.what:
            raise
        where = str(instance.path) if instance.member is None else f"{instance.path}, {instance.member}"
        raise type(error)(
            f"{where}: {error.what}", got=error.got, expected=error.expected, remedy=error.remedy
        ) from error


def _straight(frame: Frame, meaning: Meaning, into: NDArray[Any]) -> bool:
    """Uncompressed whole numbers of the volume's width are read to where they belong and shifted there."""
    instance = frame.instance
    place = instance.pixels
    slope, intercept = meaning.transforms[0] if meaning.transforms else (1.0, 0.0)
    if (
        place is None
        or place.length is None
        or instance.member is not None
        or frame.index is not None
        or meaning.colour
        or slope != 1
        or into.dtype.kind not in "iu"
        or instance.transfer_syntax == EXPLICIT_BIG
    ):
        return False
    spec = PixelSpec.of(instance.header, instance.transfer_syntax)
    if spec.dtype.itemsize != into.dtype.itemsize or spec.shape != into.shape:
        return False
    room = memoryview(into.reshape(-1).view(np.uint8).data)
    descriptor = os.open(instance.path, os.O_RDONLY)
    try:
        have = os.preadv(descriptor, [room], place.offset)
    finally:
        os.close(descriptor)
    if min(have, place.length) < spec.nbytes:
        raise ReadError("the file is truncated", got=f"{min(have, place.length)} bytes of pixels",
                        expected=f"{spec.nbytes} bytes", remedy="copy the original file again")  # fmt: skip
    stored = decode_frame(room, spec)  # a view of what was read, unless bits had to be cut off
    if intercept:
        _shifted(stored, intercept, into)
    elif not np.may_share_memory(stored, into):
        into[...] = stored
    return True


def _shifted(stored: NDArray[Any], intercept: float, into: NDArray[Any]) -> None:
    # of one width: two's complement makes the sum right where the result fits, and the type was chosen so that it does
    np.add(stored.view(into.dtype), np.array(int(intercept)).astype(into.dtype), out=into)


def _fill(frame: Frame, meaning: Meaning, into: NDArray[Any], located: Frames | None) -> None:
    instance = frame.instance
    if located is None:
        with ExitStack() as stack:
            data, skip = _located(instance, stack).stored(0)
    else:
        data, skip = located.stored(0 if "MosaicTile" in frame.values else frame.index or 0)
    spec = PixelSpec.of(instance.header, instance.transfer_syntax) if located is None else located.spec
    stored = tile(decode_frame(data, spec, skip), frame)
    _require_like(frame, stored, into)
    transforms = meaning.transforms or ((1.0, 0.0),)
    slope, intercept = transforms[0] if len(transforms) == 1 else transforms[frame.index or 0]
    if into.dtype.kind in "iu" and slope == 1 and stored.dtype.itemsize == into.dtype.itemsize:
        _shifted(stored, intercept, into)
    else:
        into[...] = meaning.apply(stored, frame.index)


def _located(instance: Instance, stack: ExitStack) -> Frames:
    """Where the frames lie in the bytes of an object; a file of one frame is read at once, others stay open."""
    place = instance.pixels
    if place is None:
        raise ReadError("where the pixels lie is not known")
    spec = PixelSpec.of(instance.header, instance.transfer_syntax)
    if instance.member is None and instance.frames > 1:
        descriptor = os.open(instance.path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        size = instance.stamp[0]
        read_at: ReadAt = partial(_pread, descriptor)
    else:
        base = 0 if instance.member is not None else place.offset
        data = instance.content(base)
        size = base + len(data)
        read_at = _from(data, base)
    elements = Elements(
        read_at, b"", instance.transfer_syntax, False, instance.transfer_syntax == EXPLICIT_BIG, 0, 0x7FE00010, True,
        place.offset, place.length, size,
    )  # fmt: skip
    return Frames.of(elements, instance.header, spec, instance.frames, [])


def _pread(descriptor: int, offset: int, count: int) -> bytes:
    return os.pread(descriptor, count, offset)


def _from(data: bytes, base: int) -> ReadAt:
    return lambda offset, count: data[offset - base : offset - base + count]


def _whole(frame: Frame, into: NDArray[Any]) -> None:
    with frame.instance.as_file() as path:
        picture = tile(open_dicom(path, member_of(frame)).pixels([]), frame)
    _require_like(frame, picture, into)
    if not np.can_cast(picture.dtype, into.dtype, "same_kind"):
        raise ReadError("a picture holds other values than its neighbours", got=str(picture.dtype),
                        expected=str(into.dtype))  # fmt: skip
    into[...] = picture


def _require_like(frame: Frame, picture: NDArray[Any], into: NDArray[Any]) -> None:
    if picture.shape != into.shape:
        raise ReadError("a file holds another picture than its neighbours", got=picture.shape, expected=into.shape)


# -- what was not measured -------------------------------------------------------------------------------------------


def measured(array: NDArray[Any], frames: Sequence[Frame], grid: Lattice, plan: Plan) -> NDArray[np.bool_] | None:
    """Where something was measured, of (rows, columns, slices[, channels]); None where everything was."""
    found: dict[int, NDArray[np.bool_]] = {}
    for number, frame in enumerate(frames):
        place = grid.places[number]
        if plan.meanings is not None:
            valid = plan.meanings[number].measured(array[:, :, place], frame.index)
        elif "PixelPaddingValue" not in frame.values:
            continue
        else:
            with frame.instance.as_file() as path, at_the_door(path, "DICOM"):
                own = open_dicom(path, member_of(frame))
                whole = None if own.measured is None else own.measured(own.pixels([]))
            valid = None if whole is None else tile(whole, frame)
        if valid is not None:
            found[place] = valid
    if not found:
        return None
    out = np.ones((grid.count, *array.shape[:2]), np.bool_)
    for place, valid in found.items():
        out[place] = valid
    return np.moveaxis(out, 0, 2)


def transform_of(plan: Plan) -> tuple[float, float] | None:
    """(slope, intercept) that held for every frame; None where they differ, or where there is none."""
    if plan.meanings is None:
        return plan.opened.source.rescale
    pairs = {meaning.transforms for meaning in plan.meanings}
    only = pairs.pop() if len(pairs) == 1 else ()
    return only[0] if len(set(only)) == 1 else None


def source_of(plan: Plan) -> Source:
    """The first file's source, as far as it holds for all of them."""
    return replace(plan.opened.source, rescale=transform_of(plan))
