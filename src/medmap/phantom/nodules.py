"""Chest CT with pulmonary nodules for detection: where each one is, how large and how dense is known exactly.

The reconstruction is zoomed to one lung, as a radiologist's is. Vessels branch and taper from 6 to 1 mm and are as
dense as a solid nodule, so that neither a threshold nor a size tells them apart. A nodule is an ellipsoid within ten
percent of a ball; its truth is the ball of the same volume, as a list of centres and diameters states it (LUNA16).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medmap.errors import DataError, UsageError
from medmap.geometry import Geometry
from medmap.image import Image, Source
from medmap.phantom import anatomy as anatomy_room
from medmap.phantom.anatomy import BLOOD_HU, BONE_HU, Anatomy, Ellipsoid, Point
from medmap.phantom.canvas import Canvas
from medmap.phantom.cases import SITES, Box

Floats = NDArray[np.float64]
NoduleKind = Literal["solid", "part-solid", "ground-glass"]
Piece = tuple[Point, Point, float, float]  # ends and radii of a vessel's piece, mm

SHAPE = (160, 160, 80)
DIAMETER_MM = (4.0, 12.0)
MOST = 5  # nodules of a case
EMPTY = 0.2  # share of cases without a nodule
SOLID_HU, CORE_HU, GLASS_HU = (0.0, 50.0), (-20.0, 40.0), (-560.0, -380.0)
KINDS: tuple[tuple[NoduleKind, float], ...] = (("solid", 0.7), ("part-solid", 0.2), ("ground-glass", 0.1))
ROOT_RADIUS_MM, LEAST_RADIUS_MM = (2.2, 3.0), 0.55  # the last piece ends at 0.5 mm
# reconstruction kernels: sigma of the noise's correlation in voxels, range of its standard deviation in HU
KERNELS: Mapping[str, tuple[float, tuple[float, float]]] = MappingProxyType(
    {"soft": (0.75, (25.0, 31.0)), "sharp": (0.45, (32.0, 40.0))}
)
RIB_MM = (13, 4.5, 40)  # the one row of ribs that a slice through the chest shows, which a volume has many of


@dataclass(frozen=True)
class Nodule:
    """A nodule as a list of findings states it.

    Args:
        centre_mm: Its centre, LPS millimetres.
        diameter_mm: Of the ball of its volume.
        value_hu: Density of its outer part.
        kind: solid, part-solid (a dense core in ground glass) or ground-glass.
    """

    centre_mm: Point
    diameter_mm: float
    value_hu: float
    kind: NoduleKind = "solid"

    def corners(self, geometry: Geometry) -> tuple[float, ...]:
        """Corners of the smallest box around the ball in index coordinates; integers lie at voxel centres.

        An index axis sees a ball of radius r from ``centre − r·|row|`` to ``centre + r·|row|``, with the rows of the
        inverse affine; the corners lie half a voxel inside, and a ball below one voxel becomes its centre.
        """
        to_index = np.linalg.inv(geometry.affine_lps_mm)
        centre = to_index[:3, :3] @ np.asarray(self.centre_mm) + to_index[:3, 3]
        half = np.maximum(np.linalg.norm(to_index[:3, :3], axis=1) * self.diameter_mm / 2 - 0.5, 0)
        return (*(float(v) for v in centre - half), *(float(v) for v in centre + half))


@dataclass(frozen=True, eq=False)
class ChestCase:
    """One synthetic chest CT and everything that is true of it.

    Args:
        id, patient: ``chest-0007``, ``C0007``.
        image: What the scanner shows, HU.
        nodules: From the largest to the smallest; none in one case of five.
        vessels: Pieces of the vessels: both ends (LPS mm) and the radius at each (mm).
        site, columns: Where it was taken; its kernel and slice thickness.
    """

    id: str
    patient: str
    image: Image
    nodules: tuple[Nodule, ...]
    vessels: tuple[Piece, ...]
    site: str
    columns: Mapping[str, str | float | None] = field(default_factory=dict)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Corners in index coordinates and the class index 0, in the order of ``nodules``."""
        return tuple((nodule.corners(self.image.geometry), 0) for nodule in self.nodules)


def chest_case(
    seed: int = 0,
    number: int = 0,
    *,
    shape: tuple[int, int, int] = SHAPE,
    nodules: int | None = None,
    diameter_mm: tuple[float, float] = DIAMETER_MM,
) -> ChestCase:
    """A chest CT zoomed to one lung, with nodules among vessels.

    Args:
        seed, number: The same two give the same case, on every machine.
        shape: Voxels; the usual 160 × 160 × 80 show a whole lung. Voxels are 0.75 to 0.85 mm wide and 1.5 to 2.5 mm
            high; every third case lies obliquely in its grid.
        nodules: How many; None: none in one case of five, else one to five.
        diameter_mm: Range of their diameter; small ones are as frequent as large ones on a logarithmic scale.

    Raises:
        UsageError: A shape without three axes, a negative number, a range that is none.
        DataError: No room for the nodules.
    """
    low, high = diameter_mm
    if len(shape) != 3 or min(shape) < 24 or max(shape) > 512:
        raise UsageError("a chest has three axes", got=tuple(shape), expected="24 to 512 voxels along each")
    if (nodules is not None and nodules < 0) or number < 0 or seed < 0:
        raise UsageError("a phantom has no negative number", got=(seed, number, nodules))
    if not 0 < low <= high <= 40:
        raise UsageError("diameters are a range in mm", got=diameter_mm, expected="0 < low ≤ high ≤ 40")
    rng = np.random.default_rng([seed, number, 0x0C4E57])
    body = anatomy_room.chest(rng)
    lung = body.hosts[int(rng.integers(2))]
    geometry = _grid(rng, lung, shape, oblique=number % 3 == 2)
    vessels = _vessels(rng, lung)
    count = _count(rng) if nodules is None else nodules
    balls = _placed(rng, count, diameter_mm, _Room(geometry, body, lung, vessels))
    canvas = Canvas(geometry, body.background)
    _paint_body(canvas, rng, body, lung)
    for start, end, first, last in vessels:
        canvas.tube((start, end), (first, last), BLOOD_HU)
    found = [_painted(canvas, rng, centre, radius) for centre, radius in balls]
    kernel = list(KERNELS)[int(rng.integers(len(KERNELS)))]
    array = _scanned(rng, canvas, kernel)
    table = rng.uniform((-60, -260, -1400), (60, -60, -100))  # the isocentre is not the origin of the world
    affine = geometry.affine_lps_mm.copy()
    affine[:3, 3] += table
    source = Source(format="phantom", modality="CT")
    return ChestCase(
        id=f"chest-{number:04d}",
        patient=f"C{number:04d}",
        image=Image(array, Geometry(shape, affine), "HU", source=source, steps=("synthetic phantom",)),
        nodules=tuple(replace(n, centre_mm=_point(np.asarray(n.centre_mm) + table)) for n in found),
        vessels=tuple((_point(np.asarray(a) + table), _point(np.asarray(b) + table), r, s) for a, b, r, s in vessels),
        site=SITES[int(rng.integers(len(SITES)))],
        columns=MappingProxyType({"kernel": kernel, "slice_mm": round(float(geometry.spacing_mm[2]), 3)}),
    )


def _grid(rng: np.random.Generator, lung: Ellipsoid, shape: tuple[int, int, int], oblique: bool) -> Geometry:
    """A grid around the lung, anisotropic; an oblique one is turned by up to 15° about each axis."""
    pixel, thickness = rng.uniform(0.75, 0.85), rng.uniform(1.5, 2.5)
    angles = np.radians(rng.uniform(-15, 15, 3)) * oblique
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = [a for a in range(3) if a != axis]
        rotation = np.eye(3)
        rotation[[one, other], [one, other]] = math.cos(angle)
        rotation[one, other], rotation[other, one] = -math.sin(angle), math.sin(angle)
        turn = turn @ rotation
    affine = np.eye(4)
    affine[:3, :3] = turn * (pixel, pixel, thickness)
    middle = np.asarray(lung.centre_mm) + rng.uniform(-4, 4, 3)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Geometry(shape, affine)


def _count(rng: np.random.Generator) -> int:
    some = int(rng.integers(1, MOST + 1))
    return 0 if rng.random() < EMPTY else some


def _point(vector: Floats) -> Point:
    return float(vector[0]), float(vector[1]), float(vector[2])


# -- vessels ----------------------------------------------------------------------------------------------------------


def _vessels(rng: np.random.Generator, lung: Ellipsoid) -> list[Piece]:
    """Trees that grow from the hilum into the lung, halving their cross-section at each fork (Murray's law)."""
    x, y, z = lung.centre_mm
    a, b, c = lung.semi_axes_mm
    outward = math.copysign(1.0, x)
    pieces: list[Piece] = []
    for _ in range(int(rng.integers(5, 8))):
        hilum = np.array([x - outward * 0.72 * a, y + rng.uniform(-0.3, 0.3) * b, z + rng.uniform(-0.3, 0.3) * c])
        aim = np.array([outward * rng.uniform(0.2, 1), rng.uniform(-1, 1), rng.uniform(-1, 1)])
        growing = [(hilum, aim / np.linalg.norm(aim), float(rng.uniform(*ROOT_RADIUS_MM)))]
        while growing:
            point, heading, radius = growing.pop()
            end, heading, last = _branch(rng, point, heading, radius, pieces)
            if float(lung.distance_mm(end)) > -2:
                continue
            children = [last * float(rng.uniform(0.68, 0.9)) for _ in range(2)]
            growing += [(end, _turned(rng, heading), child) for child in children if child >= LEAST_RADIUS_MM]
    return pieces


def _branch(
    rng: np.random.Generator, point: Floats, heading: Floats, radius: float, pieces: list[Piece]
) -> tuple[Floats, Floats, float]:
    """A branch of two pieces, slightly bent; gives where it ends, whither it points and how thick it is there."""
    length = 5 + float(rng.uniform(5, 9)) * radius
    for _ in range(2):
        heading = heading + rng.normal(0, 0.12, 3)
        heading = heading / np.linalg.norm(heading)
        end = point + heading * length / 2
        pieces.append((_point(point), _point(end), radius, 0.95 * radius))
        point, radius = end, 0.95 * radius
    return point, heading, radius


def _turned(rng: np.random.Generator, heading: Floats) -> Floats:
    """A direction 20° to 55° off another."""
    across = np.cross(heading, rng.normal(size=3))
    angle = math.radians(rng.uniform(20, 55))
    turned: Floats = math.cos(angle) * heading + math.sin(angle) * across / np.linalg.norm(across)
    return turned


# -- nodules ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Room:
    """Where a nodule may lie."""

    geometry: Geometry
    body: Anatomy
    lung: Ellipsoid
    vessels: list[Piece]

    def takes(self, centre: Floats, radius: float, others: list[tuple[Floats, float]]) -> bool:
        """Whether a nodule lies in the lung and in the picture, clear of the heart, thick vessels and the others."""
        half = np.linalg.norm(np.linalg.inv(self.geometry.affine_lps_mm)[:3, :3], axis=1) * 1.1 * radius + 1
        index = self.geometry.to_index([centre])[0]
        if (index < half).any() or (index > np.asarray(self.geometry.shape) - 1 - half).any():
            return False
        # one that touches the pleura is still one; its centre lies in the lung
        if float(self.lung.distance_mm(centre)) > -0.7 * radius:
            return False
        if any(float(shape.distance_mm(centre)) < radius + 2 for shape in self.body.keep_out):
            return False
        if any(np.linalg.norm(centre - c) < radius + r + 5 for c, r in others):
            return False
        return self._from_thick_vessels_mm(centre) > radius + 1

    def _from_thick_vessels_mm(self, centre: Floats) -> float:
        """Distance to the nearest vessel thicker than 2 mm; thin ones may run into a nodule, as they do."""
        thick = np.array([(*a, *b, r) for a, b, r, _ in self.vessels if r > 1.0]).reshape(-1, 7)
        along = thick[:, 3:6] - thick[:, :3]
        t = ((centre - thick[:, :3]) * along).sum(1) / np.maximum((along**2).sum(1), 1e-9)
        away = centre - thick[:, :3] - np.clip(t, 0, 1)[:, None] * along
        return float(np.min(np.linalg.norm(away, axis=1) - thick[:, 6], initial=np.inf))


def _placed(
    rng: np.random.Generator, count: int, diameter_mm: tuple[float, float], room: _Room
) -> list[tuple[Floats, float]]:
    """Centres and radii, the largest first.

    Raises:
        DataError: There is no room.
    """
    low, high = np.log(diameter_mm)
    radii = sorted((float(r) for r in np.exp(rng.uniform(low, high, count)) / 2), reverse=True)
    placed: list[tuple[Floats, float]] = []
    for radius in radii:
        for _ in range(2000):
            index = rng.uniform(0, np.asarray(room.geometry.shape) - 1)
            centre = room.geometry.to_world([index])[0]
            if room.takes(centre, radius, placed):
                placed.append((centre, radius))
                break
        else:
            raise DataError(
                "no room for the nodules",
                got=f"{count} of up to {2 * radii[0]:.1f} mm in {room.geometry.shape}",
                remedy="ask for fewer or smaller ones, or a larger shape",
            )
    return placed


def _painted(canvas: Canvas, rng: np.random.Generator, centre: Floats, radius: float) -> Nodule:
    """Paint a nodule of a kind drawn by chance."""
    stretch = np.exp(rng.uniform(-0.1, 0.1, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    kind = KINDS[int(np.searchsorted(np.cumsum([share for _, share in KINDS]), rng.random()))][0]
    turn = float(rng.uniform(0, 180))
    value, core = float(rng.uniform(*SOLID_HU)), float(rng.uniform(*CORE_HU))
    if kind != "solid":
        value = float(rng.uniform(*GLASS_HU))
    canvas.small_ellipsoid(Ellipsoid(_point(centre), _point(radius * stretch), turn), value)
    if kind == "part-solid":
        inner = radius * float(rng.uniform(0.5, 0.7))
        away = rng.normal(size=3)
        middle = centre + away / np.linalg.norm(away) * 0.2 * radius
        canvas.small_ellipsoid(Ellipsoid(_point(middle), _point(inner * stretch), turn), core)
    return Nodule(_point(centre), 2 * radius, value, kind)


# -- body and scanner -------------------------------------------------------------------------------------------------


def _paint_body(canvas: Canvas, rng: np.random.Generator, body: Anatomy, lung: Ellipsoid) -> None:
    """Fat, muscle, lungs, heart, spine and rows of ribs that slope downwards to the front."""
    organs = [(shape, value) for shape, value in body.painted if isinstance(shape, Ellipsoid)]
    ribs = {i for i, (shape, _) in enumerate(organs) if shape.semi_axes_mm == RIB_MM}
    for i, (shape, value) in enumerate(organs):
        if i not in ribs:
            canvas.ellipsoid(shape, value)
    wide, deep = lung.semi_axes_mm[0] + 26, lung.semi_axes_mm[1] + 16
    spacing, first = rng.uniform(20, 26), rng.uniform(-150, -126)
    angles = np.radians(np.arange(0, 361, 15))
    for level in first + spacing * np.arange(13):
        x = 1.6 * wide * np.cos(angles)
        y = 1.25 * deep * np.sin(angles)
        ring = np.stack([x, y, level + 10 * np.sin(angles)], axis=1)
        for start, end in pairwise(ring):
            canvas.tube((_point(start), _point(end)), (4.0, 4.0), BONE_HU)


def _scanned(rng: np.random.Generator, canvas: Canvas, kernel: str) -> NDArray[np.int16]:
    """What a scanner makes of it: a slight blur, uneven parenchyma, noise that the kernel correlates; whole HU."""
    sigma, (least, most) = KERNELS[kernel]
    sharp = canvas.values
    blurred = _smoothed(sharp, (0.5, 0.5, 0.3))
    for width, deviation in ((3.0, 12.0), (sigma, float(rng.uniform(least, most)))):
        grain = rng.standard_normal(sharp.shape, dtype=np.float32)
        sigmas = (width, width, 0.4 * width)
        gain = math.prod(float(np.linalg.norm(_weights(s))) for s in sigmas)
        blurred += _smoothed(grain, sigmas) * np.float32(deviation / gain)
    return np.clip(np.rint(blurred), -1024, 3071).astype(np.int16)


def _weights(sigma: float) -> NDArray[np.float32]:
    """A Gaussian's weights, three sigmas wide, that add to one."""
    reach = max(1, math.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def _smoothed(values: NDArray[np.float32], sigmas: tuple[float, float, float]) -> NDArray[np.float32]:
    from scipy.ndimage import correlate1d

    for axis, sigma in enumerate(sigmas):
        values = correlate1d(values, _weights(sigma), axis=axis, mode="nearest")
    return values
