"""Synthetic anatomy: ellipsoids and tubes in LPS millimetres, whose volume and place are known exactly.

Shapes know their signed distance, so one drawing serves any grid: a voxel belongs to a shape when its centre lies
inside (that is the truth), and its intensity is the shape's share of the voxel (partial volume, as a scanner sees it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError
from medmap.geometry import Geometry

Floats = NDArray[np.float64]
Point = tuple[float, float, float]

CHEST_FIELD_OF_VIEW_MM = 330.0
HEAD_FIELD_OF_VIEW_MM = 240.0
# Hounsfield units as textbooks give them (Hofer, CT Teaching Manual); a nodule is sub-solid unless asked otherwise.
AIR_HU, FAT_HU, MUSCLE_HU, BLOOD_HU, BONE_HU, LUNG_HU = -1000.0, -95.0, 45.0, 40.0, 420.0, -840.0
# FLAIR-like signal, white matter near one half: fluid dark, fat and lesions bright.
FLUID, WHITE, GREY, SCALP, SKULL = 0.12, 0.50, 0.66, 0.85, 0.05


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned about the z axis.

    Args:
        centre_mm: Centre, LPS millimetres.
        semi_axes_mm: Half lengths before the turn, in mm.
        angle_deg: Turn about z.

    Example:
        >>> round(Ellipsoid((0, 0, 0), (3, 4, 5)).volume_mm3, 2)
        251.33
    """

    centre_mm: Point
    semi_axes_mm: Point
    angle_deg: float = 0.0

    @property
    def volume_mm3(self) -> float:
        """4/3 π a b c."""
        a, b, c = self.semi_axes_mm
        return 4 / 3 * math.pi * a * b * c

    def _scaled(self, points_mm: Floats) -> Floats:
        angle = math.radians(self.angle_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        p = points_mm - np.asarray(self.centre_mm)
        turned = np.stack([cos * p[..., 0] + sin * p[..., 1], cos * p[..., 1] - sin * p[..., 0], p[..., 2]], axis=-1)
        scaled: Floats = turned / np.asarray(self.semi_axes_mm)
        return scaled

    def inside(self, points_mm: Floats) -> NDArray[np.bool_]:
        """Which of the points (…, 3) lie inside."""
        result: NDArray[np.bool_] = (self._scaled(points_mm) ** 2).sum(-1) <= 1
        return result

    def distance_mm(self, points_mm: Floats) -> Floats:
        """Signed distance to the surface, negative inside: first order, exact on the surface and for a sphere."""
        q = self._scaled(points_mm)
        length = np.sqrt((q**2).sum(-1))
        slope = np.sqrt(((q / np.asarray(self.semi_axes_mm)) ** 2).sum(-1))
        with np.errstate(invalid="ignore", divide="ignore"):
            distance = (length - 1) * length / slope
        return np.where(length < 1e-9, -min(self.semi_axes_mm), distance)


@dataclass(frozen=True)
class Tube:
    """A vessel: everything within ``radius_mm`` of the segment from ``start_mm`` to ``end_mm``."""

    start_mm: Point
    end_mm: Point
    radius_mm: float

    def inside(self, points_mm: Floats) -> NDArray[np.bool_]:
        """Which of the points (…, 3) lie inside."""
        result: NDArray[np.bool_] = self.distance_mm(points_mm) <= 0
        return result

    def distance_mm(self, points_mm: Floats) -> Floats:
        """Exact signed distance to the surface, negative inside."""
        start, end = np.asarray(self.start_mm), np.asarray(self.end_mm)
        along = end - start
        t = np.clip((points_mm - start) @ along / max(float(along @ along), 1e-12), 0, 1)
        away: Floats = np.linalg.norm(points_mm - start - t[..., None] * along, axis=-1) - self.radius_mm
        return away


Shape = Ellipsoid | Tube


@dataclass(frozen=True)
class Anatomy:
    """What is painted, in order, and what of it is truth.

    Args:
        background: Value where nothing is.
        painted: (shape, value) from the back to the front.
        structures: Name and shapes of the organ that a mask labels 1.
        hosts: Ellipsoids in which a lesion may lie.
        keep_out: Shapes a lesion may not touch.
    """

    background: float
    painted: tuple[tuple[Shape, float], ...]
    structures: tuple[str, tuple[Shape, ...]]
    hosts: tuple[Ellipsoid, ...]
    keep_out: tuple[Shape, ...]


@dataclass(frozen=True)
class Lesion:
    """A lesion with exact size and place, and its own value (HU or signal)."""

    shape: Ellipsoid
    value: float


def axial_grid(shape: tuple[int, ...], field_of_view_mm: float, height_mm: float) -> Geometry:
    """The grid of an axial slice (rows to Posterior, columns to Left) or an LPS volume, centred on the origin.

    Raises:
        DataError: A shape of other than two or three axes, or one too small to show anything.
    """
    if len(shape) not in (2, 3) or min(shape) < 8 or max(shape) > 512:
        raise DataError("a phantom has two or three axes", got=shape, expected="8 to 512 voxels along each")
    spacing = field_of_view_mm / max(shape[:2])
    first = [-(n - 1) / 2 * spacing for n in shape[:2]]
    affine = np.eye(4)
    if len(shape) == 2:
        affine[:3, :3] = [[0, spacing, 0], [spacing, 0, 0], [0, 0, 1.0]]
        affine[:3, 3] = first[1], first[0], 0
        return Geometry(shape, affine)
    thickness = height_mm / shape[2]
    affine[:3, :3] = np.diag([spacing, spacing, thickness])
    affine[:3, 3] = first[0], first[1], -(shape[2] - 1) / 2 * thickness
    return Geometry(shape, affine)


def voxel_centres_mm(geometry: Geometry) -> Floats:
    """(*shape, 3) LPS millimetres of every voxel centre."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
    world: Floats = geometry.to_world(index.reshape(-1, geometry.ndim)).reshape(*geometry.shape, 3)
    return world


def render(anatomy: Anatomy, lesions: tuple[Lesion, ...], geometry: Geometry) -> Floats:
    """The noise-free image: shapes painted one over the other, edges shared between voxels by their partial volume."""
    points = voxel_centres_mm(geometry)
    width = float(np.mean(geometry.spacing_mm))
    canvas = np.full(geometry.shape, anatomy.background)
    for shape, value in (*anatomy.painted, *((x.shape, x.value) for x in lesions)):
        share = np.clip(0.5 - shape.distance_mm(points) / width, 0, 1)
        canvas += share * (value - canvas)
    return canvas


def label_map(anatomy: Anatomy, lesions: tuple[Lesion, ...], geometry: Geometry) -> NDArray[np.uint8]:
    """The truth: 1 for the organ, 2 for a lesion, 0 elsewhere; a voxel counts when its centre lies inside."""
    points = voxel_centres_mm(geometry)
    labels = np.zeros(geometry.shape, np.uint8)
    for shape in anatomy.structures[1]:
        labels[shape.inside(points)] = 1
    for painted, _ in anatomy.painted:  # what lies over the organ takes its place
        if painted in anatomy.keep_out and painted not in anatomy.structures[1]:
            labels[painted.inside(points)] = 0
    for lesion in lesions:
        labels[lesion.shape.inside(points)] = 2
    return labels


# -- chest and head, drawn from a generator ---------------------------------------------------------------------------


def chest(rng: np.random.Generator) -> Anatomy:
    """A chest: body wall, two lungs with vessels, heart, spine and ribs, in HU; people differ in width and depth."""
    wide, deep = rng.uniform(0.9, 1.06), rng.uniform(0.86, 1.14)
    lie = rng.uniform(-8, 8, 2)  # nobody lies exactly in the middle

    def at(x: float, y: float, z: float) -> Point:
        return float(x * wide + lie[0]), float(y * deep + lie[1]), float(z)

    body = Ellipsoid(at(0, 0, 0), (145 * wide, 106 * deep, 2000))
    wall = rng.uniform(6, 20)
    muscle = Ellipsoid(at(0, 0, 0), (145 * wide - wall, 106 * deep - wall, 2000))
    lungs = tuple(
        Ellipsoid(
            at(side * rng.uniform(60, 66), rng.uniform(-8, 3), 0),
            (rng.uniform(42, 52) * wide, rng.uniform(60, 74) * deep, 130),
            side * rng.uniform(0, 14),
        )
        for side in (-1, 1)
    )
    heart_size = rng.uniform(0.85, 1.15)
    heart = Ellipsoid(
        at(rng.uniform(14, 28), rng.uniform(-32, -20), -25),
        (46 * heart_size, 42 * heart_size, 62),
        float(rng.uniform(10, 50)),
    )
    spine = Ellipsoid(at(0, rng.uniform(64, 72), 0), (rng.uniform(17, 21), rng.uniform(14, 18), 2000))
    cord = Ellipsoid(at(0, 84, 0), (7, 6, 2000))
    ribs = []
    for angle in np.arange(0, 360, 36) + rng.uniform(0, 36):
        a = math.radians(float(angle))
        centre = at(127 * math.cos(a), 89 * math.sin(a), rng.uniform(-3, 3))
        ribs.append(Ellipsoid(centre, (13, 4.5, 40), float(angle) + 90))
    lung_hu = LUNG_HU + rng.uniform(-40, 40)
    painted: list[tuple[Shape, float]] = [(body, FAT_HU), (muscle, MUSCLE_HU)]
    painted += [(lung, lung_hu) for lung in lungs]
    painted += [(vessel, BLOOD_HU) for lung in lungs for vessel in _vessels(rng, lung)]
    painted += [(heart, BLOOD_HU), (spine, BONE_HU), (cord, MUSCLE_HU)]
    painted += [(rib, BONE_HU) for rib in ribs]
    return Anatomy(AIR_HU, tuple(painted), ("lung", lungs), lungs, (heart,))


def _vessels(rng: np.random.Generator, lung: Ellipsoid) -> list[Tube]:
    """Vessels of one lung: some run from the hilum outwards, some pierce the slice and look like a small nodule."""
    x, y, _ = lung.centre_mm
    a, b, c = lung.semi_axes_mm
    hilum = np.array([x - math.copysign(0.8 * a, x), y, 0.0])
    tubes = []
    for _ in range(int(rng.integers(4, 8))):
        angle = rng.uniform(0, 2 * math.pi)
        end = np.array([x + 0.8 * a * math.cos(angle), y + 0.8 * b * math.sin(angle), rng.uniform(-0.3, 0.3) * c])
        tubes.append(Tube(_point(hilum), _point(end), float(rng.uniform(1.2, 2.4))))
    for _ in range(int(rng.integers(3, 7))):
        angle, away = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 0.6))
        middle = np.array([x + away * a * math.cos(angle), y + away * b * math.sin(angle), rng.uniform(-0.6, 0.6) * c])
        along = rng.normal(size=3) * (0.35, 0.35, 0) + (0, 0, 1)
        along *= 45 / np.linalg.norm(along)
        tubes.append(Tube(_point(middle - along), _point(middle + along), float(rng.uniform(1.6, 3.4))))
    return tubes


def head(rng: np.random.Generator) -> Anatomy:
    """A head: scalp, skull, grey and white matter, ventricles and deep grey nuclei, in FLAIR-like signal."""
    size = rng.uniform(0.94, 1.06)
    a, b, c = 76 * size, 94 * size, 96 * size
    white = Ellipsoid((0, 0, 0), (a - 19, b - 19, c - 19))
    ventricles = tuple(
        Ellipsoid(
            (side * rng.uniform(10, 14), rng.uniform(-4, 6), 0),
            (rng.uniform(4, 8), rng.uniform(18, 28), 14),
            side * rng.uniform(4, 14),
        )
        for side in (-1, 1)
    )
    painted: list[tuple[Shape, float]] = [
        (Ellipsoid((0, 0, 0), (a, b, c)), SCALP),
        (Ellipsoid((0, 0, 0), (a - 5, b - 5, c - 5)), SKULL),
        (Ellipsoid((0, 0, 0), (a - 11, b - 11, c - 11)), GREY),
        (white, WHITE),
    ]
    for angle in rng.uniform(0, 2 * math.pi, 18):  # folds of the cortex reach into the white matter
        outer = np.array([(a - 17) * math.cos(angle), (b - 17) * math.sin(angle), rng.uniform(-40, 40)])
        fold = Tube(_point(outer), _point(outer * rng.uniform(0.72, 0.86)), float(rng.uniform(2, 3.5)))
        painted.append((fold, GREY))
    for side in (-1, 1):  # deep grey nuclei: brighter than white matter, and in everybody
        painted.append((Ellipsoid((side * 26 * size, 0, -4), (7, rng.uniform(12, 17), 12), side * 18), GREY))
    painted += [(v, FLUID) for v in ventricles]
    return Anatomy(0.0, tuple(painted), ("ventricle", ventricles), (white,), ventricles)


def _point(vector: Floats) -> Point:
    return float(vector[0]), float(vector[1]), float(vector[2])


# -- lesions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LesionWish:
    """What lesions are asked for.

    Args:
        radii_mm: Mean radius of each.
        value: Range of their HU or signal.
        flat: True for a slice: centres then lie so near z = 0 that the slice cuts the lesion.
        may_shrink: Whether a lesion that finds no room is drawn smaller rather than refused.
    """

    radii_mm: tuple[float, ...]
    value: tuple[float, float]
    flat: bool
    may_shrink: bool = False


def place_lesions(rng: np.random.Generator, anatomy: Anatomy, wish: LesionWish) -> tuple[Lesion, ...]:
    """Lesions wholly inside a host, clear of what they may not touch and of each other.

    Raises:
        DataError: There is no room.
    """
    placed: list[Lesion] = []
    for asked in wish.radii_mm:
        for shrink in (1.0, 0.8, 0.6, 0.4) if wish.may_shrink else (1.0,):
            shape = _placed(rng, anatomy, asked * shrink, wish.flat, placed)
            if shape is not None:
                placed.append(Lesion(shape, float(rng.uniform(*wish.value))))
                break
        else:
            raise DataError(
                "no room for the lesions",
                got=f"{len(wish.radii_mm)} of {max(wish.radii_mm):.0f} mm",
                remedy="ask for fewer or smaller ones",
            )
    return tuple(placed)


def _placed(
    rng: np.random.Generator, anatomy: Anatomy, radius: float, flat: bool, others: list[Lesion]
) -> Ellipsoid | None:
    """An ellipsoid of the given mean radius that fits, or None after many tries."""
    for _ in range(400):
        host = anatomy.hosts[int(rng.integers(len(anatomy.hosts)))]
        unit = rng.normal(size=3)
        unit *= rng.uniform() ** (1 / 3) / np.linalg.norm(unit)
        centre = np.asarray(host.centre_mm) + unit * np.asarray(host.semi_axes_mm)
        if flat:
            centre[2] = rng.uniform(-0.3, 0.3) * radius
        squeeze = rng.uniform(0.85, 1.15)
        shape = Ellipsoid(_point(centre), (radius * squeeze, radius / squeeze, radius), float(rng.uniform(0, 180)))
        if _fits(shape, radius * 1.2, host, anatomy, others):
            return shape
    return None


def _fits(shape: Ellipsoid, reach: float, host: Ellipsoid, anatomy: Anatomy, placed: list[Lesion]) -> bool:
    centre = np.asarray(shape.centre_mm)
    if host.distance_mm(centre) > -reach or any(k.distance_mm(centre) < reach for k in anatomy.keep_out):
        return False
    others = [(np.asarray(x.shape.centre_mm), max(x.shape.semi_axes_mm)) for x in placed]
    return all(np.linalg.norm(centre - c) > 1.2 * (reach + r) for c, r in others)
