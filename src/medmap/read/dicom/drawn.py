"""An RT structure set as an image of labels, on the grid of the series it was drawn on, which is found beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.geometry import Geometry
from medmap.image import Source
from medmap.read.dicom.contours import rasterised
from medmap.read.dicom.document import chosen_values
from medmap.read.dicom.structures import StructureSet, read_structures
from medmap.read.opened import DEFAULT_LIMIT_BYTES, Opened, bytes_of, require_room
from medmap.results import Mask


def open_structures(path: Path, member: str | None, notes: list[str]) -> Opened:
    """A structure set as labels: ``rt.dcm#1>2,3>1`` makes region 1 label 2, region 3 label 1, the rest background.

    Without a member the region numbers are the labels; regions that overlap then become a channel each.

    Raises:
        ReadError: Damaged, a member that names no region, chosen regions that overlap, or a series that is not there.
        GeometryError: Contours that do not lie on the series.
    """
    structures = read_structures(path)
    notes.extend(structures.warnings)
    numbers = [roi.number for roi in structures.rois]
    values = None if member is None else chosen_values(path, member, numbers, "region")
    geometry = grid_beside(path, structures)
    count = len(structures.rois) if values is None else len(set(values.values()))
    working = bytes_of((*geometry.shape, 2 * count), np.uint8)
    channels: tuple[str, ...] = ("image",)
    if values is None:
        # whether regions overlap decides the array's shape, and only filling them tells
        require_room(working, DEFAULT_LIMIT_BYTES, str(path))
        mask = rasterised(structures, geometry)
        if mask.array.dtype == np.bool_:
            notes.append("regions overlap; each is a channel of its own")
            channels = _names(mask)
            mask_array: NDArray[Any] = mask.array.astype(np.uint8)
        else:
            mask_array = mask.array
        dtype = mask_array.dtype

        def pixels(notes: list[str]) -> NDArray[Any]:
            return mask_array
    else:
        chosen: Mapping[int, int] = values
        dtype = np.dtype(np.uint8 if max(chosen.values()) < 256 else np.uint16)

        def pixels(notes: list[str]) -> NDArray[Any]:
            return _one_map(path, rasterised(structures, geometry, chosen))

    source = Source(
        path=str(path) if member is None else f"{path}#{member}",
        format="dicom",
        modality="RTSTRUCT",
        warnings=tuple(dict.fromkeys(notes)),
    )
    return Opened(geometry, dtype, pixels, "label", channels, None, source, working)


def _one_map(path: Path, mask: Mask) -> NDArray[Any]:
    if mask.array.dtype == np.bool_:
        several = int(np.count_nonzero(mask.array.sum(axis=-1, dtype=np.uint16) > 1))
        raise ReadError(
            f"{path} holds overlapping regions, which one map of labels cannot hold", got=f"{several} voxels in two",
            remedy="choose regions that do not overlap: file.dcm#1>1,3>2",
        )  # fmt: skip
    return mask.array


def _names(mask: Mask) -> tuple[str, ...]:
    """Names of channels: the regions' names, with their numbers where two are called alike."""
    names = [label.name for label in mask.labels.values()]
    return tuple(n if names.count(n) == 1 else f"{n} {v}" for v, n in zip(mask.labels, names, strict=True))


def grid_beside(path: Path, structures: StructureSet) -> Geometry:
    """The grid of the series that a structure set refers to, looked for in its folder, then in the folder above.

    Raises:
        ReadError: No series is referred to, or none of them lies there.
    """
    from medmap.read.dicom.kept import kept_studies, series_named

    if not structures.series_uids and not structures.image_uids:
        raise ReadError(
            f"{path} does not say which series it was drawn on",
            remedy="fill its contours on a grid of your choice: read_structures, then rasterised",
        )
    folder = path.absolute().parent
    for place in (folder, folder.parent):
        found = [series_named(place, uid) for uid in structures.series_uids]
        named = [one for one in found if one is not None and one.readable]
        if not named:
            images = set(structures.image_uids)
            every = [one for study in kept_studies(place) for one in study.series if one.readable]
            named = [s for s in every if any(i.sop_instance_uid in images for i in s.instances)]
        if named:
            return _grid(named[0], structures)
    raise ReadError(
        f"the series that {path.name} was drawn on is not beside it",
        got=f"no such series in {folder} or the folder above",
        expected=", ".join(structures.series_uids) or "its images",
        remedy="put the structure set into the folder of its series, or one below",
    )


def _grid(series: Any, structures: StructureSet) -> Geometry:
    """The grid of the part that the contours were drawn on: the one that holds most of the images referred to."""
    wanted = set(structures.image_uids) or {uid for r in structures.rois for c in r.contours for uid in c.image_uids}
    parts = list(series.parts)
    held = [sum(i.sop_instance_uid in wanted for i in part.instances) for part in parts]
    best = held.index(max(held))
    geometry: Geometry = series.open(parts[best].name).geometry
    return geometry
