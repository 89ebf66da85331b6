"""Slices to a volume: decoded side by side into one array, each with its own rescale; mended only where asked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.geometry import Geometry
from medmap.image import Image, Quantity, Source
from medmap.read.dicom.file import open_dicom
from medmap.read.dicom.instances import frame_bytes
from medmap.read.dicom.lattice import Lattice, Problem, lattice, require_known
from medmap.read.dicom.sorting import Frame
from medmap.read.opened import Opened, at_the_door, bytes_of, require_room
from medmap.read.rescale import rescaled, rescaled_type

_GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class _Plan:
    """How stored values become the volume's.

    Args:
        dtype: Of the volume.
        opened: The first frame's file, opened: quantity, channels, source.
        direct: Whether own decoding and linear rescaling say all (else each file is read whole).
    """

    dtype: np.dtype[Any]
    opened: Opened
    direct: bool


def read_volume(frames: Sequence[Frame], name: str, *, mend: Collection[str] = (), limit_bytes: int) -> Image:
    """Frames in order as one image: (rows, columns, slices), or (rows, columns) for one frame.

    Args:
        frames: Of one size and orientation, sorted along the normal.
        name: How messages call it.
        mend: What may be mended: duplicates (one of each place is kept), missing-slices (filled from the neighbours),
            uneven-spacing and gantry-tilt (resampled).
        limit_bytes: Memory that it may take.

    Raises:
        ReadError: A problem that ``mend`` does not name, or damaged pixels.
        LimitError: More memory than allowed.
    """
    require_known(mend)
    grid = lattice(frames)
    _require_mended(frames, grid, mend, name)
    notes = [problem.message for problem in grid.problems if not problem.stops]
    kept, grid = _without_doubles(frames, grid, notes)
    plan = _plan(kept)
    shape = (*_size(kept[0]), grid.count, *((len(plan.opened.channels),) if len(plan.opened.channels) > 1 else ()))
    mended = bool(set(mend) & {"uneven-spacing", "gantry-tilt"})
    require_room(bytes_of(shape, plan.dtype) * (4 if mended else 1), limit_bytes, name)
    array = np.moveaxis(_decoded(kept, grid, plan), 0, 2)
    geometry = Geometry(
        array.shape[:3], grid.affine_lps_mm, "patient", kept[0].values.get("FrameOfReferenceUID") or None
    )
    steps: tuple[str, ...] = ()
    from medmap.read.dicom import mending

    for problem in grid.problems:
        if problem.code == "missing-slices":
            array = mending.filled(array, grid)
            steps += ("missing slices filled",)
            notes.append(f"{problem.message}; they were filled from their neighbours, as asked")
        if problem.code == "uneven-spacing":
            array, geometry = mending.evened(array, geometry, grid.distances_mm)
            steps += ("slices resampled to even spacing",)
            notes.append(f"{problem.message}; the volume was resampled to even spacing, as asked")
    if "gantry-tilt" in mend and any(p.code == "gantry-tilt" for p in grid.problems):
        array, geometry = mending.straightened(array, geometry)
        steps += ("gantry tilt resampled away",)
        notes = [n for n in notes if "gantry tilt" not in n]
        notes.append("slices were shifted within their planes to undo the gantry tilt, as asked")
    if grid.count == 1:
        array, geometry = array[:, :, 0], replace(geometry, shape=geometry.shape[:2])
    return Image(
        array=array, geometry=geometry, quantity=plan.opened.quantity, channels=plan.opened.channels,
        source=_source(kept, plan, notes), steps=steps,
    )  # fmt: skip


def open_volume(frames: Sequence[Frame], name: str) -> Opened:
    """The header of a volume that needs no mending; ``pixels`` reads it.

    Raises:
        ReadError: It is no even volume.
    """
    grid = lattice(frames)
    _require_mended(frames, grid, (), name)
    plan = _plan(frames)
    notes = [problem.message for problem in grid.problems]
    shape: tuple[int, ...] = (*_size(frames[0]), grid.count)
    flat = grid.count == 1

    def pixels(notes: list[str]) -> NDArray[Any]:
        array = np.moveaxis(_decoded(frames, grid, plan), 0, 2)
        return array[:, :, 0] if flat else array

    return Opened(
        geometry=Geometry(
            shape[:2] if flat else shape, grid.affine_lps_mm, "patient",
            frames[0].values.get("FrameOfReferenceUID") or None,
        ),
        dtype=plan.dtype,
        pixels=pixels,
        quantity=plan.opened.quantity,
        channels=plan.opened.channels,
        source=_source(frames, plan, notes),
    )  # fmt: skip


def open_single(frame: Frame) -> Opened:
    """The header of one object that its own reader reads whole."""
    instance = frame.instance
    instance.require_unchanged()
    with instance.as_file() as path, at_the_door(path, "DICOM"):
        opened = open_dicom(path, None)
    if instance.member is None:
        return opened

    def pixels(notes: list[str]) -> NDArray[Any]:
        with instance.as_file() as path, at_the_door(path, "DICOM"):
            return open_dicom(path, None).pixels(notes)

    source = replace(opened.source, path=f"{instance.path}#{instance.member}")
    return replace(opened, pixels=pixels, source=source)


def _require_mended(frames: Sequence[Frame], grid: Lattice, mend: Collection[str], name: str) -> None:
    open_problems = [p for p in grid.problems if p.stops and p.mend not in mend]
    if not open_problems:
        return
    said = "; ".join(p.message for p in open_problems)
    if any(p.code == "duplicate-slices" for p in open_problems):
        said += f" ({_compared(frames, grid)})"
    words = tuple(dict.fromkeys(p.mend for p in open_problems if p.mend != "-"))
    fixable = len(words) == len({p.mend for p in open_problems})
    raise ReadError(
        f"{name} is no even volume ({', '.join(p.code for p in open_problems)})",
        got=said,
        remedy=f"look at the series; to have it mended, pass mend={words!r}" if fixable and words else None,
    )


def _compared(frames: Sequence[Frame], grid: Lattice) -> str:
    same = differ = 0
    for n in range(1, len(frames)):
        if grid.places[n] == grid.places[n - 1]:
            equal = _same_pixels(frames[n - 1], frames[n])
            same, differ = same + equal, differ + (not equal)
    return f"{same} identical, {differ} of other content"


def _same_pixels(first: Frame, second: Frame) -> bool:
    return bool(np.array_equal(_stored_or_read(first), _stored_or_read(second)))


def _stored_or_read(frame: Frame) -> NDArray[Any]:
    with frame.instance.as_file() as path, at_the_door(path, "DICOM"):
        return _tile(open_dicom(path, _member(frame)).pixels([]), frame)


def _without_doubles(frames: Sequence[Frame], grid: Lattice, notes: list[str]) -> tuple[list[Frame], Lattice]:
    """One frame a place: the first by instance number; what was left out is said."""
    kept: dict[int, int] = {}
    conflicts = 0
    for number, place in enumerate(grid.places):
        if place in kept:
            conflicts += not _same_pixels(frames[kept[place]], frames[number])
        else:
            kept[place] = number
    dropped = len(frames) - len(kept)
    if not dropped:
        return list(frames), grid
    notes.append(
        f"{dropped} duplicate slices were left out, as asked"
        + (f"; {conflicts} of them differed from the slice of lower number that was kept" if conflicts else "")
    )
    numbers = list(kept.values())
    problems = tuple(p for p in grid.problems if p.mend != "duplicates")
    return [frames[n] for n in numbers], replace(
        grid, places=tuple(kept), distances_mm=grid.distances_mm[numbers], problems=problems
    )


def _member(frame: Frame) -> str | None:
    """The frame in the file's own words; the tiles of a mosaic are one frame."""
    return None if frame.index is None or "MosaicTile" in frame.values else str(frame.index)


def _tile(picture: NDArray[Any], frame: Frame) -> NDArray[Any]:
    """The part of a mosaic that a slice is; anything else as it is."""
    corner = frame.values.get("MosaicTile")
    if corner is None:
        return picture
    rows, columns = _size(frame)
    return picture[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns]


def _size(frame: Frame) -> tuple[int, int]:
    return int(frame.values["Rows"]), int(frame.values["Columns"])


# -- pixels ----------------------------------------------------------------------------------------------------------


def _plan(frames: Sequence[Frame]) -> _Plan:
    first = frames[0]
    with first.instance.as_file() as path, at_the_door(path, "DICOM"):
        opened = open_dicom(path, _member(first))
    pairs = {_pair(frame) for frame in frames}
    sound = all(np.isfinite(pair).all() and pair[0] != 0 for pair in pairs)
    values = first.values
    kinds = {_kind(frame) for frame in frames}
    direct = (
        sound
        and len(kinds) == 1
        and all(frame.instance.pixels is not None for frame in frames)
        and values.get("PhotometricInterpretation") in _GREY
        and values.get("SamplesPerPixel", 1) == 1
        and "ModalityLUTSequence" not in values
        and opened.source.rescale in (_pair(first), None if _pair(first) == (1.0, 0.0) else _pair(first))
    )
    if not direct:
        return _Plan(opened.dtype, opened, False)
    from medmap.read.dicom.codecs import PixelSpec

    spec = PixelSpec.of(first.instance.header, first.instance.transfer_syntax)
    types = {rescaled_type(spec.dtype, *pair, bits=spec.bits_stored) for pair in pairs}
    return _Plan(np.result_type(*types), opened, True)


def _kind(frame: Frame) -> tuple[Any, ...]:
    values = frame.values
    words = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
             "PhotometricInterpretation")  # fmt: skip
    return tuple(values.get(word) for word in words)


def _pair(frame: Frame) -> tuple[float, float]:
    return float(frame.values.get("RescaleSlope", 1.0)), float(frame.values.get("RescaleIntercept", 0.0))


def _decoded(frames: Sequence[Frame], grid: Lattice, plan: _Plan) -> NDArray[Any]:
    """(slices, rows, columns[, channels]); slices that are missing are zero."""
    rows, columns = _size(frames[0])
    trailing = (len(plan.opened.channels),) if len(plan.opened.channels) > 1 else ()
    made = np.empty if len(frames) == grid.count else np.zeros
    array = made((grid.count, rows, columns, *trailing), plan.dtype)
    for instance in {id(f.instance): f.instance for f in frames}.values():
        instance.require_unchanged()

    def one(number: int) -> None:
        frame = frames[number]
        with at_the_door(str(frame.instance.path), "DICOM"):
            (_direct if plan.direct else _whole)(frame, array[grid.places[number]])

    if len(frames) == 1:
        one(0)
        return array
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1, len(frames))) as pool:
        for _ in pool.map(one, range(len(frames))):
            pass
    return array


def _direct(frame: Frame, into: NDArray[Any]) -> None:
    from medmap.read.dicom.codecs import NATIVE, PixelSpec, decode_frame

    instance = frame.instance
    spec = PixelSpec.of(instance.header, instance.transfer_syntax)
    if spec.transfer_syntax not in NATIVE or spec.bits_allocated != 1:
        number = 0 if "MosaicTile" in frame.values else frame.index or 0
        data = frame_bytes(instance, number, spec.nbytes, spec.compressed)
        stored = _tile(decode_frame(data, spec), frame)
    else:
        raise ReadError(f"{instance.path} holds single bits", got="a bit mask", expected="an image")
    slope, intercept = _pair(frame)
    if into.dtype.kind == "i" and slope == 1 and stored.dtype.itemsize == into.dtype.itemsize:
        # whole numbers of one width: two's complement makes the sum right where the result fits, and it was sized to
        np.add(stored.view(into.dtype), into.dtype.type(int(intercept)), out=into)
        return
    into[...] = rescaled(stored, slope, intercept, into.dtype)


def _whole(frame: Frame, into: NDArray[Any]) -> None:
    with frame.instance.as_file() as path:
        pixels = _tile(open_dicom(path, _member(frame)).pixels([]), frame)
    if pixels.shape != into.shape:
        raise ReadError(f"{frame.instance.path} holds another picture than its neighbours", got=pixels.shape,
                        expected=into.shape)  # fmt: skip
    if not np.can_cast(pixels.dtype, into.dtype, "same_kind"):
        raise ReadError(f"{frame.instance.path} holds other values than its neighbours", got=str(pixels.dtype),
                        expected=str(into.dtype))  # fmt: skip
    into[...] = pixels


def _source(frames: Sequence[Frame], plan: _Plan, notes: list[str]) -> Source:
    pairs = {_pair(frame) for frame in frames}
    syntaxes = Counter(frame.instance.transfer_syntax for frame in frames)
    folder = os.path.commonpath([str(frame.instance.path.parent) for frame in frames])
    first = plan.opened.source
    return replace(
        first,
        path=folder if frames[0].instance.member is None else str(frames[0].instance.path),
        transfer_syntax=syntaxes.most_common(1)[0][0] or None,
        rescale=first.rescale if len(pairs) == 1 else None,
        warnings=tuple(dict.fromkeys((*notes, *first.warnings))),
    )


def problems_of(frames: Sequence[Frame]) -> tuple[Problem, ...]:
    """What is wrong with frames in order; nothing where they are not placed."""
    if frames[0].plane is None or frames[0].position is None:
        return ()
    return lattice(frames).problems


def stacked_in_time(volumes: Sequence[Image], times_s: tuple[float, ...], quantity: Quantity) -> Image:
    """Volumes on one grid as one image with time."""
    first = volumes[0]
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.source.warnings))
    array = np.stack([volume.array for volume in volumes], axis=first.ndim)
    return replace(first, array=array, time_s=times_s, quantity=quantity, source=replace(first.source, warnings=notes))
