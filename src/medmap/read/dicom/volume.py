"""Slices to a volume: decoded side by side into one array, each with its own rescale; mended only where asked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.geometry import Geometry
from medmap.image import Image, Quantity, Source
from medmap.read.dicom.file import open_dicom
from medmap.read.dicom.lattice import Lattice, Problem, lattice, require_known
from medmap.read.dicom.pixels import Plan, decoded, measured, member_of, planned, size_of, source_of, tile
from medmap.read.dicom.sorting import Frame
from medmap.read.opened import Opened, at_the_door, bytes_of, require_room

Mask = NDArray[np.bool_] | None
WHOLLY = 1 - 1e-6  # of a voxel: rounding leaves that much


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
    plan = planned(kept)
    shape = (*size_of(kept[0]), grid.count, *plan.trailing)
    mended = bool(set(mend) & {"uneven-spacing", "gantry-tilt"})
    require_room(bytes_of(shape, plan.dtype) * (4 if mended else 1), limit_bytes, name)
    array = np.moveaxis(decoded(kept, grid, plan), 0, 2)
    valid = measured(array, kept, grid, plan)
    geometry = Geometry(
        array.shape[:3], grid.affine_lps_mm, "patient", kept[0].values.get("FrameOfReferenceUID") or None
    )
    array, valid, geometry, steps = _mended(array, valid, geometry, (grid, mend, notes))
    if grid.count == 1:
        array, geometry = array[:, :, 0], replace(geometry, shape=geometry.shape[:2])
        valid = None if valid is None else valid[:, :, 0]
    return Image(
        array=array, geometry=geometry, quantity=plan.quantity, channels=plan.opened.channels,
        source=_source(kept, plan, notes), steps=steps, valid=valid,
    )  # fmt: skip


def _mended(
    array: NDArray[Any], valid: Mask, geometry: Geometry, how: tuple[Lattice, Collection[str], list[str]]
) -> tuple[NDArray[Any], Mask, Geometry, tuple[str, ...]]:
    """Filled, evened and straightened as far as asked; a voxel was measured where all that it was made of were."""
    from medmap.read.dicom import mending

    grid, mend, notes = how
    steps: tuple[str, ...] = ()
    weight = None if valid is None else valid.astype(np.float32)
    for problem in grid.problems:
        if problem.code == "missing-slices":
            array = mending.filled(array, grid)
            weight = None if weight is None else mending.filled(weight, grid)
            steps += ("missing slices filled",)
            notes.append(f"{problem.message}; they were filled from their neighbours, as asked")
        if problem.code == "uneven-spacing":
            weight = None if weight is None else mending.evened(weight, geometry, grid.distances_mm)[0]
            array, geometry = mending.evened(array, geometry, grid.distances_mm)
            steps += ("slices resampled to even spacing",)
            notes.append(f"{problem.message}; the volume was resampled to even spacing, as asked")
    if "gantry-tilt" in mend and any(p.code == "gantry-tilt" for p in grid.problems):
        # what comes into the field of view was not measured
        weight = np.ones(geometry.shape, np.float32) if weight is None else weight
        weight = mending.straightened(weight, geometry, outside=0.0)[0]
        array, geometry = mending.straightened(array, geometry)
        steps += ("gantry tilt resampled away",)
        notes[:] = [n for n in notes if "gantry tilt" not in n]
        notes.append("slices were shifted within their planes to undo the gantry tilt, as asked")
    return array, None if weight is None else weight > WHOLLY, geometry, steps


def open_volume(frames: Sequence[Frame], name: str) -> Opened:
    """The header of a volume that needs no mending; ``pixels`` reads it.

    Raises:
        ReadError: It is no even volume.
    """
    grid = lattice(frames)
    _require_mended(frames, grid, (), name)
    plan = planned(frames)
    notes = [problem.message for problem in grid.problems]
    shape: tuple[int, ...] = (*size_of(frames[0]), grid.count)
    flat = grid.count == 1

    def pixels(notes: list[str]) -> NDArray[Any]:
        array = np.moveaxis(decoded(frames, grid, plan), 0, 2)
        return array[:, :, 0] if flat else array

    def valid(array: NDArray[Any]) -> Mask:
        found = measured(array[:, :, None] if flat else array, frames, grid, plan)
        return found[:, :, 0] if flat and found is not None else found

    return Opened(
        geometry=Geometry(
            shape[:2] if flat else shape, grid.affine_lps_mm, "patient",
            frames[0].values.get("FrameOfReferenceUID") or None,
        ),
        dtype=plan.dtype,
        pixels=pixels,
        quantity=plan.quantity,
        channels=plan.opened.channels,
        source=_source(frames, plan, notes),
        measured=valid,
    )  # fmt: skip


def open_single(frame: Frame) -> Opened:
    """The header of one object that its own reader reads whole, or as far as the frame says."""
    instance, member = frame.instance, member_of(frame)
    instance.require_unchanged()
    with instance.as_file() as path, at_the_door(path, "DICOM"):
        opened = open_dicom(path, member)
    if instance.member is None:
        return opened

    def pixels(notes: list[str]) -> NDArray[Any]:
        with instance.as_file() as path, at_the_door(path, "DICOM"):
            return open_dicom(path, member).pixels(notes)

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
        return tile(open_dicom(path, member_of(frame)).pixels([]), frame)


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


def _source(frames: Sequence[Frame], plan: Plan, notes: list[str]) -> Source:
    syntaxes = Counter(frame.instance.transfer_syntax for frame in frames)
    folder = os.path.commonpath([str(frame.instance.path.parent) for frame in frames])
    first = source_of(plan)
    return replace(
        first,
        path=folder if frames[0].instance.member is None else str(frames[0].instance.path),
        transfer_syntax=syntaxes.most_common(1)[0][0] or None,
        warnings=tuple(dict.fromkeys((*notes, *first.warnings))),
    )


def problems_of(frames: Sequence[Frame]) -> tuple[Problem, ...]:
    """What is wrong with frames in order; nothing where they are not placed."""
    if frames[0].plane is None or frames[0].position is None:
        return ()
    return lattice(frames).problems


def stacked_in_time(volumes: Sequence[Image], times_s: tuple[float, ...], quantity: Quantity) -> Image:
    """Volumes on one grid as one image with time; measured is what was at every time."""
    first = volumes[0]
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.source.warnings))
    array = in_time([volume.array for volume in volumes], first.geometry.ndim)
    masks = [volume.valid for volume in volumes if volume.valid is not None]
    source = replace(first.source, warnings=notes)
    if len({volume.source.rescale for volume in volumes}) > 1:
        source = replace(source, rescale=None)
    valid = np.logical_and.reduce(masks) if masks else None
    return replace(first, array=array, time_s=times_s, quantity=quantity, source=source, valid=valid)


def in_time(arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
    """Arrays side by side along a new axis of time, which lies outermost in memory, as each of them was read."""
    if axis != 3:
        return np.stack(arrays, axis=axis)
    stacked = np.stack([np.moveaxis(array, 2, 0) for array in arrays])
    return np.transpose(stacked, (2, 3, 1, 0, *range(4, stacked.ndim)))
