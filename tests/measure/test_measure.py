"""Measurements against the standard's phantom, against shapes with known sizes, and against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import medmap as mm
from grids import oblique_geometry
from medmap.errors import DataError, GeometryError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.measure import CODES, mesh_of, statistics, surface_area_mm2
from medmap.results import Label, Mask

NAN = np.nan
# The digital phantom of the IBSI reference manual, section 5.1: 2 mm voxels; NaN is outside the region.
DIGITAL = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [NAN, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, NAN, NAN], [1, 1, 1, 1, 1], [1, 1, NAN, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, NAN, NAN], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)
# Reference values of the manual, to the digits it gives.
REFERENCE = {
    "mean": 2.15, "variance": 3.05, "skewness": 1.08, "kurtosis": -0.355, "median": 1, "minimum": 1,
    "percentile_10": 1, "percentile_90": 4, "maximum": 6, "interquartile_range": 3, "range": 5,
    "mean_absolute_deviation": 1.55, "robust_mean_absolute_deviation": 1.11, "median_absolute_deviation": 1.15,
    "coefficient_of_variation": 0.812, "quartile_coefficient_of_dispersion": 0.6, "energy": 567,
    "root_mean_square": 2.77,
}  # fmt: skip


def finer(shape: tuple[int, int, int], scale: float = 1.0) -> Geometry:
    """The oblique anisotropic grid with more and smaller voxels."""
    affine = oblique_geometry().affine_lps_mm.copy()
    affine[:3, :3] *= scale
    return Geometry(shape, affine)


def ball(geometry: Geometry, radii_mm: tuple[float, float, float]) -> np.ndarray:
    """An ellipsoid along the grid's own axes, around its middle."""
    middle = (np.array(geometry.shape) - 1) / 2
    away = np.indices(geometry.shape).reshape(3, -1).T - middle
    steps = np.array(geometry.spacing_mm) / np.array(radii_mm)
    return (((away * steps) ** 2).sum(axis=1) <= 1).reshape(geometry.shape)


def test_intensities_and_shape_are_those_of_the_standards_phantom() -> None:
    geometry = Geometry.from_spacing(DIGITAL.shape, (2, 2, 2))
    region = ~np.isnan(DIGITAL)
    image = Image(np.nan_to_num(DIGITAL).astype(np.float32), geometry, "arbitrary")
    found = mm.measure(Mask(region.astype(np.uint8), geometry, {1: Label("roi")}), image)[0]
    assert found.intensity is not None
    assert set(REFERENCE) == set(CODES)
    for name, expected in REFERENCE.items():
        assert found.intensity[name] == pytest.approx(expected, rel=4e-3), name
    assert found.volume_ml == pytest.approx(0.592)
    assert found.surface_mm2 == pytest.approx(388, abs=3)  # the tolerances are the manual's
    assert found.largest_diameter_mm == pytest.approx(13.1, rel=2e-3)
    assert mesh_of(region, geometry).volume_mm3 == pytest.approx(556, abs=4)


@given(arrays.arrays(np.int16, st.integers(1, 40), elements=st.integers(-1000, 1000)))
def test_whole_numbers_and_decimals_give_the_same_statistics(values: np.ndarray) -> None:
    counted, sorted_ = statistics(values), statistics(values.astype(np.float64))
    assert counted.keys() == sorted_.keys()
    for name, value in counted.items():
        assert (value is None) == (sorted_[name] is None)
        assert value is None or value == pytest.approx(sorted_[name], rel=1e-9, abs=1e-9)
    assert counted["percentile_10"] == pytest.approx(np.percentile(values, 10))
    assert counted["mean"] == pytest.approx(values.mean(), abs=1e-9)


def test_statistics_leave_out_what_is_not_finite() -> None:
    found = statistics(np.array([1.0, np.nan, 3.0, np.inf]))
    assert (found["values"], found["mean"]) == (2, 2.0)
    assert statistics(np.array([np.nan]))["mean"] is None


@given(arrays.arrays(np.bool_, (4, 3, 4)))
def test_every_mesh_is_closed_and_turned_outward(region: np.ndarray) -> None:
    for flipped in (False, True):
        geometry = finer((4, 3, 4)).flip((0,)) if flipped else finer((4, 3, 4))
        mesh = mesh_of(region, geometry)
        pairs = np.concatenate([mesh.triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
        edges, times = np.unique(pairs, axis=0, return_counts=True)
        assert (times == 1).all()
        assert np.array_equal(edges, np.unique(edges[:, ::-1], axis=0))  # each side runs once in either direction
        assert mesh.area_mm2 == pytest.approx(surface_area_mm2(region, geometry.affine_lps_mm))
        voxels_mm3 = region.sum() * geometry.voxel_volume_mm3
        assert (mesh.volume_mm3 > 0) == bool(region.any())
        assert mesh.volume_mm3 <= voxels_mm3 + 1e-6


def test_an_ellipsoid_on_an_oblique_grid_has_the_sizes_of_geometry() -> None:
    geometry = finer((90, 60, 34), 0.5)
    radii = (14.0, 17.0, 21.0)
    array = ball(geometry, radii).astype(np.uint8)
    found = mm.measure(Mask(array, geometry, {1: Label("ball")}))[0]
    a, b, c = radii
    p = 1.6075  # Knud Thomsen's approximation, within 1.1 %
    area = 4 * np.pi * ((a**p * b**p + a**p * c**p + b**p * c**p) / 3) ** (1 / p)
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * a * b * c / 1000, rel=0.01)
    assert found.surface_mm2 == pytest.approx(area, rel=0.15)  # marching cubes on a mask are a staircase
    assert found.largest_diameter_mm == pytest.approx(2 * c, abs=1.5)
    assert found.long_axis_mm == pytest.approx(2 * b, abs=1.0)  # the third axis has the thick slices
    assert found.short_axis_mm == pytest.approx(2 * a, abs=1.0)
    middle = geometry.to_world([(np.array(geometry.shape) - 1) / 2])[0]
    assert found.centroid_lps_mm == pytest.approx(middle)
    assert found.parts == 1


def test_a_bar_is_as_long_as_its_voxels_and_axes_do_not_bridge_parts() -> None:
    geometry = oblique_geometry()
    array = np.zeros(geometry.shape, np.uint8)
    array[0:4, 1, 3] = 1
    array[4, 6, 3] = 1
    found = mm.measure(Mask(array, geometry, {1: Label("bar"), 2: Label("none")}))
    across = 1.3
    assert found[0].parts == 2
    assert found[0].long_axis_mm == pytest.approx(4 * 0.7)
    assert found[0].short_axis_mm == pytest.approx(across)
    assert (found[0].first_index, found[0].last_index) == ((0, 1, 3), (4, 6, 3))
    assert (found[1].voxels, found[1].volume_ml, found[1].long_axis_mm) == (0, 0.0, None)


@given(arrays.arrays(np.bool_, (5, 4, 3)))
def test_diameters_are_the_largest_of_all_pairs(region: np.ndarray) -> None:
    geometry = finer((5, 4, 3))
    found = mm.measure(Mask(region.astype(np.uint8), geometry, {1: Label("any")}))[0]
    if not region.any():
        assert found.largest_diameter_mm is None
        return
    vertices = mesh_of(region, geometry).vertices_mm
    pairs = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    assert found.largest_diameter_mm == pytest.approx(pairs.max())
    assert found.short_axis_mm <= found.long_axis_mm + 1e-9
    assert found.long_axis_mm <= found.largest_diameter_mm + 1e-9


def test_a_picture_without_a_size_is_counted_in_pixels_only() -> None:
    geometry = Geometry.without_size((6, 7))
    array = np.zeros((6, 7), np.uint8)
    array[1:3, 2:5] = 1
    image = Image(np.arange(42, dtype=np.uint8).reshape(6, 7), geometry, "arbitrary")
    found = mm.measure(Mask(array, geometry, {1: Label("spot")}), image)[0]
    assert (found.voxels, found.parts, found.volume_ml, found.area_mm2, found.long_axis_mm) == (6, 1, None, None, None)
    assert found.intensity is not None
    assert found.intensity["mean"] == pytest.approx(image.array[array > 0].mean())


def test_overlapping_regions_are_measured_each_by_itself(image: Image) -> None:
    array = np.zeros((*image.geometry.shape, 2), bool)
    array[1:4, 1:5, 2:6, 0] = array[2, 2, 2, 1] = True
    found = mm.measure(Mask(array, image.geometry, {1: Label("whole"), 2: Label("core")}), image)
    assert [one.voxels for one in found] == [48, 1]
    assert found[1].intensity is not None
    assert found[1].intensity["variance"] == 0


def test_an_image_that_lies_elsewhere_or_has_channels_is_refused(image: Image) -> None:
    mask = Mask(np.ones(image.geometry.shape, np.uint8), image.geometry, {1: Label("all")})
    colours = Image(np.zeros((*image.geometry.shape, 3), np.uint8), image.geometry, "colour", ("r", "g", "b"))
    with pytest.raises(DataError, match="one channel"):
        mm.measure(mask, colours)
    shape = tuple(n - 1 for n in image.geometry.shape)
    less = Image(np.zeros(shape), Geometry(shape, image.geometry.affine_lps_mm), "arbitrary")
    with pytest.raises(GeometryError):
        mm.measure(mask, less)
    turned = image.oriented("RAI")
    assert mm.measure(mask, turned)[0].intensity == pytest.approx(mm.measure(mask, image)[0].intensity)
