"""What is measured of a region or a box for a report: number, coded concept, unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Geometry
from medmap.image import Image
from medmap.measure import largest_diameter_mm, plane_axes_mm, slice_axis_of
from medmap.results import Boxes

Row = tuple[str, str, str]
MILLIMETRE: Row = ("mm", "UCUM", "millimeter")
MILLILITRE: Row = ("ml", "UCUM", "milliliter")
VOLUME: Row = ("118565006", "SCT", "Volume")
LARGEST_DIAMETER: Row = ("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
LONG_AXIS: Row = ("103339001", "SCT", "Long Axis")
SHORT_AXIS: Row = ("103340004", "SCT", "Short Axis")
# along rows downward, along columns, across slices
EDGES: tuple[Row, ...] = (("121207", "DCM", "Height"), ("103355008", "SCT", "Width"), ("131197000", "SCT", "Depth"))
MEAN: Row = ("373098007", "SCT", "Mean")
DEVIATION: Row = ("386136009", "SCT", "Standard Deviation")
MINIMUM: Row = ("255605001", "SCT", "Minimum")
MAXIMUM: Row = ("56851009", "SCT", "Maximum")
# what voxel values are called, and their unit; by quantity, then by modality
INTENSITIES: Mapping[str, tuple[Row, Row]] = MappingProxyType(
    {
        "HU": (("112031", "DCM", "Attenuation Coefficient"), ("[hnsf'U]", "UCUM", "Hounsfield unit")),
        "SUVbw": (("126401", "DCM", "SUVbw"), ("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight")),
        "MR": (("110852", "DCM", "MR signal intensity"), ("1", "UCUM", "no units")),
    }
)
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Measure:
    """One number.

    Args:
        concept: What was measured: code, scheme, meaning.
        value: The number.
        unit: UCUM.
        derivation: How many values became one, or None.
    """

    concept: Row
    value: float
    unit: Row
    derivation: Row | None = None


def of_region(region: Bools, geometry: Geometry, image: Image | None) -> list[Measure]:
    """Volume, largest diameter, axes in a plane; mean, deviation, minimum and maximum of the image inside.

    The deviation is that of the voxels (divided by their number, not by one less). What the voxels measure is reported
    only where DICOM has a word for it: HU, SUV, and the signal of MR.

    Args:
        region: (grid's shape) where it is.
        geometry: The grid, three axes.
        image: What lies under it, on the same grid, or None.
    """
    volume_ml = float(np.count_nonzero(region)) * geometry.voxel_volume_mm3 / 1000
    found = [Measure(VOLUME, volume_ml, MILLILITRE)]
    if not region.any():
        return found
    found.append(Measure(LARGEST_DIAMETER, largest_diameter_mm(region, geometry.affine_lps_mm), MILLIMETRE))
    axes = plane_axes_mm(region, geometry.affine_lps_mm, slice_axis_of(geometry))
    found += [Measure(name, length, MILLIMETRE) for name, length in zip((LONG_AXIS, SHORT_AXIS), axes, strict=True)]
    if image is None:
        return found
    known = INTENSITIES.get(image.quantity) or INTENSITIES.get(image.source.modality or "")
    values = image.array[region].astype(np.float64)
    if known is None or not np.isfinite(values).all():
        return found
    concept, unit = known
    numbers = ((MEAN, values.mean()), (DEVIATION, values.std()), (MINIMUM, values.min()), (MAXIMUM, values.max()))
    return found + [Measure(concept, float(number), unit, how) for how, number in numbers]


def of_box(boxes: Boxes, which: int) -> list[Measure]:
    """The edge lengths of a box, whole voxels counted."""
    sizes = boxes.sizes_mm()[which]
    return [Measure(concept, float(size), MILLIMETRE) for concept, size in zip(EDGES, sizes, strict=False)]
