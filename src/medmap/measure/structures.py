"""What is measured of each structure of a mask: size, diameters, surface, place, and the image inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.measure.diameters import largest_diameter_mm, plane_axes_mm, slice_axis_of
from medmap.measure.intensity import CODES, statistics
from medmap.measure.parts import Instances
from medmap.measure.regions import Bools, regions, require_mask
from medmap.measure.surface import surface_area_mm2
from medmap.results import Label, Mask

# what a table has in its columns, in this order
COLUMNS: tuple[str, ...] = (
    "parts", "area_mm2", "surface_mm2", "long_axis_mm", "short_axis_mm", "largest_diameter_mm", "centroid_lps_mm",
    "first_index", "last_index", "quantity", "intensity_values", *(f"intensity_{name}" for name in CODES),
)  # fmt: skip


@dataclass(frozen=True)
class StructureMeasurements:
    """One structure, measured; what an image without a size cannot tell, and what an empty structure has not, is None.

    Args:
        value: Of the mask; of an instance its number.
        label: The structure.
        voxels: How many (pixels of a picture).
        parts: Connected parts; voxels that share a corner belong together (26 neighbours, 8 in a plane).
        volume_ml: Voxels times their volume; of a volume (IBSI YEKZ).
        area_mm2: Pixels times their area; of a plane.
        surface_mm2: Area of the mesh around it (IBSI C0JK); of a volume.
        long_axis_mm: Longest diameter of a connected part in one plane of the acquisition (RECIST 1.1).
        short_axis_mm: The widest extent at a right angle to it, in the same plane.
        largest_diameter_mm: The largest distance between two points of the surface (IBSI L0JK).
        centroid_lps_mm: Mean of the voxels' centres; in a patient.
        first_index: Lowest index along each axis.
        last_index: Highest index along each axis, itself inside.
        quantity: What the intensities are: HU, SUVbw, arbitrary …; None without an image.
        intensity: ``statistics`` of the image inside, by IBSI's names; None without an image.
    """

    value: int
    label: Label
    voxels: int
    parts: int = 0
    volume_ml: float | None = None
    area_mm2: float | None = None
    surface_mm2: float | None = None
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    largest_diameter_mm: float | None = None
    centroid_lps_mm: tuple[float, float, float] | None = None
    first_index: tuple[int, ...] | None = None
    last_index: tuple[int, ...] | None = None
    quantity: str | None = None
    intensity: Mapping[str, float | None] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file; of the intensities one entry a statistic, ``intensity_mean`` …"""
        found: dict[str, Any] = {"value": self.value, "label": self.label.name, "code": self.label.code}
        found |= {"voxels": self.voxels, "volume_ml": self.volume_ml}
        inside = {f"intensity_{name}": value for name, value in (self.intensity or {}).items()}
        for name in COLUMNS:
            value = inside.get(name) if name.startswith("intensity_") else getattr(self, name)
            found[name] = list(value) if isinstance(value, tuple) else value
        return found


def measure(mask: Mask | Instances, image: Image | None = None) -> tuple[StructureMeasurements, ...]:
    """Measure every structure of a mask, in the order of its labels, those that are empty too; or every instance.

    Args:
        mask: On any grid: oblique, anisotropic, a plane; of a picture without a size only pixels are counted. Of
            instances ``value`` is the number and ``label`` the structure's.
        image: What lies under it, of one channel, on the mask's grid or one that differs by turns, flips or a crop.

    Raises:
        UsageError: No mask; ``Mask.of`` makes one of an image that was read.
        GeometryError: The image does not lie under the mask.
        DataError: The image has several channels or times.

    Example:
        >>> geometry = Geometry.from_spacing((4, 4, 4), (1.0, 1.0, 2.0))
        >>> array = np.zeros((4, 4, 4), np.uint8)
        >>> array[1:3, 1:3, 1:3] = 1
        >>> found = measure(Mask(array, geometry, {1: Label("cyst")}))[0]
        >>> found.voxels, found.volume_ml, found.first_index, found.last_index
        (8, 0.016, (1, 1, 1), (2, 2, 2))
    """
    if not isinstance(mask, Instances):
        require_mask(mask)
    if image is not None and not isinstance(image, Image):
        raise UsageError("intensities are those of an image", got=type(image).__name__, remedy="mm.read(path)")
    under = None if image is None else _under(image, mask.geometry)
    found = mask.regions() if isinstance(mask, Instances) else regions(mask)
    return tuple(_measured(value, label, region, box, mask.geometry, under) for value, label, region, box in found)


def _under(image: Image, grid: Geometry) -> Image:
    if len(image.channels) > 1 or image.time_s is not None:
        raise DataError(
            "intensities are measured of one channel",
            got=f"{len(image.channels)} channels" if image.time_s is None else f"{len(image.time_s)} times",
            remedy="choose one: image.select([name]), or measure without the image",
        )
    if image.geometry.same_grid(grid):
        return image
    matched = image.match(grid)
    if matched.geometry.shape != grid.shape or any(step == "pad" for step in matched.steps[len(image.steps) :]):
        raise GeometryError("the image covers only a part of the mask", got=image.geometry.in_words,
                            expected=grid.in_words)  # fmt: skip
    return matched


def _measured(
    value: int, label: Label, region: Bools, box: tuple[slice, ...], grid: Geometry, image: Image | None
) -> StructureMeasurements:
    from scipy import ndimage

    voxels = int(np.count_nonzero(region))
    found: dict[str, Any] = {}
    if image is not None:
        inside = region if image.valid is None else region & image.valid[box]
        found = {"quantity": image.quantity, "intensity": statistics(image.array[box][inside])}
    if grid.has_size:
        per_voxel = _voxel_size(grid)
        found |= {"volume_ml": voxels * per_voxel / 1000} if grid.ndim == 3 else {"area_mm2": voxels * per_voxel}
    if not voxels:
        return StructureMeasurements(value, label, 0, **found)
    parts = int(ndimage.label(region, np.ones((3,) * grid.ndim, int))[1])
    start = np.array([s.start for s in box])
    last = tuple(s.stop - 1 for s in box)
    found |= {"first_index": tuple(int(s) for s in start), "last_index": last}
    if grid.has_size:
        affine = grid.affine_lps_mm
        long, short = plane_axes_mm(region, affine, slice_axis_of(grid) if grid.ndim == 3 else None)
        found |= {"long_axis_mm": long, "short_axis_mm": short}
        if grid.ndim == 3:
            found["surface_mm2"] = surface_area_mm2(region, affine)
        found["largest_diameter_mm"] = largest_diameter_mm(region, affine)
        if grid.kind == "patient":
            centre = grid.to_world((_centroid(region) + start)[None])[0]
            found["centroid_lps_mm"] = tuple(float(v) for v in centre)
    return StructureMeasurements(value, label, voxels, parts, **found)


def _voxel_size(grid: Geometry) -> float:
    """mm³ of a voxel, mm² of a pixel."""
    if grid.ndim == 3:
        return grid.voxel_volume_mm3
    return float(np.linalg.norm(np.cross(grid.affine_lps_mm[:3, 0], grid.affine_lps_mm[:3, 1])))


def _centroid(region: Bools) -> NDArray[np.float64]:
    """Mean index along each axis."""
    total = np.count_nonzero(region)
    means = []
    for axis, n in enumerate(region.shape):
        counts = np.count_nonzero(region, axis=tuple(a for a in range(region.ndim) if a != axis))
        means.append(float(counts @ np.arange(n)) / total)
    return np.array(means)
