"""Structures measured: volume, diameters, surface, place, the image inside; and the mesh around them."""

from medmap.measure.diameters import largest_diameter_mm, plane_axes_mm, slice_axis_of
from medmap.measure.intensity import CODES, statistics
from medmap.measure.parts import Instances, instances
from medmap.measure.structures import COLUMNS, StructureMeasurements, measure
from medmap.measure.surface import Mesh, mesh_of, surface_area_mm2

__all__ = [
    "CODES",
    "COLUMNS",
    "Instances",
    "Mesh",
    "StructureMeasurements",
    "instances",
    "largest_diameter_mm",
    "measure",
    "mesh_of",
    "plane_axes_mm",
    "slice_axis_of",
    "statistics",
    "surface_area_mm2",
]
