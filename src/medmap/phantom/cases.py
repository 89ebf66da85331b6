"""Labelled synthetic cases for the four mappings, from a seed, with exact truth.

Case ``i`` of a seed is the same whatever the number of cases asked for, and on every machine. Nothing here comes
from a patient: every image is named synthetic in its source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medmap.errors import UsageError
from medmap.geometry import Geometry
from medmap.image import Image, Quantity, Source
from medmap.phantom import anatomy as anatomy_room
from medmap.phantom import physics
from medmap.phantom.anatomy import Anatomy, Lesion, LesionWish, Point

Floats = NDArray[np.float64]
Modality = Literal["CT", "MR", "US"]
Box = tuple[tuple[float, ...], int]

LESION_HU = (-540.0, -160.0)
LESION_SIGNAL = (0.66, 0.84)
# Some lesions are next to invisible: they keep a classifier's AUROC below 1, as in life.
OCCULT = 0.12
OCCULT_VALUE: Mapping[str, tuple[float, float]] = MappingProxyType({"CT": (-810.0, -720.0), "MR": (0.50, 0.56)})
BLOCK = 20  # cases among which positives are counted out, so that a prefix of the cases keeps the prevalence


@dataclass(frozen=True)
class Scanner:
    """A make of scanner: what its noise and sharpness are.

    Args:
        photons: CT: photons a ray starts with, at a pixel of 5 mm.
        soft: CT: reconstruction kernel.
        noise: MR: sigma as a part of white matter's signal.
        bias: MR: strength of the bias field, natural logarithm.
    """

    photons: float
    soft: bool
    noise: float
    bias: float


SCANNERS: Mapping[str, Scanner] = MappingProxyType(
    {
        "Alpha 16": Scanner(photons=9e3, soft=True, noise=0.12, bias=0.25),
        "Beta 64": Scanner(photons=1.5e4, soft=False, noise=0.09, bias=0.35),
    }
)
SITES = ("north", "south")
LABEL_NAMES: Mapping[Modality, tuple[str, str]] = MappingProxyType(
    {"CT": ("no nodule", "nodule"), "MR": ("no lesion", "lesion"), "US": ("benign", "malignant")}
)
STRUCTURES: Mapping[Modality, Mapping[int, str]] = MappingProxyType(
    {
        "CT": MappingProxyType({1: "lung", 2: "nodule"}),
        "MR": MappingProxyType({1: "ventricle", 2: "lesion"}),
        "US": MappingProxyType({2: "lesion"}),
    }
)


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """One synthetic case and everything that is true of it.

    Args:
        id: ``phantom-0007``.
        patient: ``P0007``: several cases may share one.
        image: What the scanner shows.
        clean: The same scan without noise (and, in MR, without the bias field).
        label: 1 when there is a lesion (in ultrasound: a malignant one), else 0.
        mask: (*shape) uint8: 1 the organ, 2 a lesion (``structures`` names them).
        structures: Mask value → name.
        lesions: Exact ellipsoids in LPS mm, with their HU or signal; none for ultrasound, which has no millimetres.
        boxes: (low corner …, high corner …) in index coordinates, integers at voxel centres, and the class index 0;
            the boxes of the lesions' voxels, in the order of ``lesions``.
        site, columns: Where it was taken; age (years), sex, scanner.
    """

    id: str
    patient: str
    image: Image
    clean: Image
    label: int
    mask: NDArray[np.uint8]
    structures: Mapping[int, str]
    lesions: tuple[Lesion, ...]
    boxes: tuple[Box, ...]
    site: str = SITES[0]
    columns: Mapping[str, str | float | None] = field(default_factory=dict)

    @property
    def centres_mm(self) -> tuple[Point, ...]:
        """Exact centres of the lesions, LPS millimetres."""
        return tuple(lesion.shape.centre_mm for lesion in self.lesions)


def oblique() -> Image:
    """The geometry test phantom: 5×7×11 voxels of 0.7×1.3×2.9 mm, oblique, off-origin, every voxel unique.

    A cube at the origin forgives every mistake of axis order, sign and spacing; this one forgives none.

    Example:
        >>> image = oblique()
        >>> image.array.shape, [round(s, 6) for s in image.spacing_mm], len(np.unique(image.array))
        ((5, 7, 11), [0.7, 1.3, 2.9], 385)
    """
    a, b, c = (math.radians(v) for v in (23.0, -17.0, 31.0))
    turn_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    turn_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    turn_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn_z @ turn_y @ turn_x @ np.diag([0.7, 1.3, 2.9])
    affine[:3, 3] = (-41.3, 17.9, 123.4)
    values = np.random.default_rng(5711).permutation(385).astype(np.int16).reshape(5, 7, 11)
    return Image(values, Geometry((5, 7, 11), affine), "arbitrary", source=Source(format="phantom", modality="MR"))


# -- one case ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wish:
    """What one case should be like."""

    shape: tuple[int, ...]
    lesions: int
    scanner: Scanner
    radius_mm: tuple[float, float] | None = None
    value: tuple[float, float] | None = None


def ct_slice(
    seed: int = 0,
    *,
    shape: tuple[int, ...] = (64, 64),
    lesions: int = 1,
    radius_mm: tuple[float, float] | None = None,
    lesion_hu: tuple[float, float] = LESION_HU,
    photons: float = 1.5e4,
) -> PhantomCase:
    """An axial CT slice of a chest, in HU, with nodules of known size and contrast.

    Args:
        seed: The same seed gives the same case.
        shape: Rows and columns, 8 to 512.
        lesions: How many nodules.
        radius_mm: Range of their radius; by default what the pixels can show, from 5 mm.
        lesion_hu: Range of their density; lung is near −840, vessels near 40.
        photons: Photons a ray starts with, at a pixel of 5 mm: fewer make more noise.

    Raises:
        UsageError: A negative number of lesions.
        DataError: A shape of other than two axes or too small, no room for the lesions.
    """
    wish = _Wish(_of(shape, 2), lesions, Scanner(photons, False, 0, 0), radius_mm, lesion_hu)
    return _case("CT", seed, wish)


def ct_volume(
    seed: int = 0,
    *,
    shape: tuple[int, ...] = (48, 48, 32),
    lesions: int = 1,
    radius_mm: tuple[float, float] | None = None,
    lesion_hu: tuple[float, float] = LESION_HU,
    photons: float = 1.5e4,
) -> PhantomCase:
    """A CT volume of a chest: as ``ct_slice``, every slice scanned by itself."""
    wish = _Wish(_of(shape, 3), lesions, Scanner(photons, False, 0, 0), radius_mm, lesion_hu)
    return _case("CT", seed, wish)


def mr_volume(
    seed: int = 0,
    *,
    shape: tuple[int, ...] = (48, 48, 32),
    lesions: int = 1,
    radius_mm: tuple[float, float] | None = None,
    noise: float = 0.08,
    bias: float = 0.3,
) -> PhantomCase:
    """An MR image of a head (FLAIR-like) with bright lesions in the white matter, Rician noise and a bias field.

    Args:
        seed: The same seed gives the same case.
        shape: Two axes for an axial slice, three for a volume.
        lesions: How many lesions.
        radius_mm: Range of their radius; by default what the voxels can show, from 3 mm.
        noise: Sigma in each channel as a part of white matter's signal.
        bias: Strength of the bias field, natural logarithm; 0 is none.

    Raises:
        UsageError: A negative number of lesions.
        DataError: A shape that shows nothing, no room for the lesions.
    """
    return _case("MR", seed, _Wish(tuple(shape), lesions, Scanner(1, False, noise, bias), radius_mm))


def ultrasound(seed: int = 0, *, shape: tuple[int, ...] = (64, 64), malignant: bool = False) -> PhantomCase:
    """A breast-like ultrasound picture with one dark lesion in speckle, 8 bit, without a pixel size.

    A benign lesion is an ellipse wider than tall; a malignant one is taller than wide with a spiculated margin
    (Stavros et al. 1995).
    """
    return _case("US", seed, _Wish(_of(shape, 2), int(malignant), SCANNERS["Alpha 16"]))


def _of(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    if len(shape) != ndim:
        raise UsageError("the phantom has another number of axes", got=tuple(shape), expected=f"{ndim} axes")
    return tuple(shape)


def _case(modality: Modality, seed: int, wish: _Wish) -> PhantomCase:
    if wish.lesions < 0:
        raise UsageError("a phantom has no negative number of lesions", got=wish.lesions)
    rng = np.random.default_rng([seed, 0, 0x0CA5E])
    return _MAKERS[modality](rng, rng, wish)


def _lesion_wish(
    rng: np.random.Generator, wish: _Wish, least_mm: float, geometry: Geometry, value: tuple[float, float]
) -> LesionWish:
    """Lesions of the asked size, or of a size that these voxels can show."""
    voxel = float(np.prod(geometry.spacing_mm)) ** (1 / geometry.ndim)
    usual = (min(1.4 * least_mm + 0.6 * voxel, 16.0), min(1.8 * least_mm + 1.6 * voxel, 24.0))
    low, high = wish.radius_mm or usual
    radii = tuple(float(v) for v in rng.uniform(low, high, wish.lesions))
    return LesionWish(radii, wish.value or value, geometry.ndim == 2, may_shrink=wish.radius_mm is None)


def _ct(body: np.random.Generator, rng: np.random.Generator, wish: _Wish) -> PhantomCase:
    geometry = anatomy_room.axial_grid(wish.shape, anatomy_room.CHEST_FIELD_OF_VIEW_MM, 240.0)
    chest = anatomy_room.chest(body)
    flat = geometry.ndim == 2
    lesions = anatomy_room.place_lesions(rng, chest, _lesion_wish(rng, wish, 5.0, geometry, LESION_HU))
    truth = anatomy_room.render(chest, lesions, geometry)
    slices = truth[None] if flat else np.moveaxis(truth, 2, 0)
    pixel = geometry.spacing_mm[0]
    # the dose of a slice is shared by its pixels: smaller pixels, fewer photons each
    photons = wish.scanner.photons * pixel / 5.0
    scans = [physics.scan_ct(slices, pixel, dose, rng, wish.scanner.soft) for dose in (photons, None)]
    noisy, clean = (np.clip(np.rint(s), -1024, 3071).astype(np.int16) for s in scans)
    if flat:
        return _assemble("CT", (noisy[0], clean[0]), geometry, chest, lesions)
    return _assemble("CT", (np.moveaxis(noisy, 0, 2), np.moveaxis(clean, 0, 2)), geometry, chest, lesions)


def _mr(body: np.random.Generator, rng: np.random.Generator, wish: _Wish) -> PhantomCase:
    geometry = anatomy_room.axial_grid(wish.shape, anatomy_room.HEAD_FIELD_OF_VIEW_MM, 220.0)
    head = anatomy_room.head(body)
    lesions = anatomy_room.place_lesions(rng, head, _lesion_wish(rng, wish, 3.0, geometry, LESION_SIGNAL))
    truth = anatomy_room.render(head, lesions, geometry)
    biased = truth * physics.bias_field(geometry.shape, wish.scanner.bias, rng)
    noisy = physics.rician(biased, wish.scanner.noise * anatomy_room.WHITE, rng)
    arrays = (np.rint(1000 * noisy).astype(np.int16), np.rint(1000 * truth).astype(np.int16))
    return _assemble("MR", arrays, geometry, head, lesions)


def _us(body: np.random.Generator, rng: np.random.Generator, wish: _Wish) -> PhantomCase:
    """Layers, one dark lesion; it always has one, and ``wish.lesions`` says whether it is malignant."""
    malignant = wish.lesions > 0
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, n) for n in wish.shape], indexing="ij")
    depth = rows + body.uniform(0.02, 0.06) * np.sin(columns * body.uniform(2, 4) + body.uniform(0, 6))
    reflectivity = np.where(depth < body.uniform(-0.75, -0.6), 0.5, 1.0)
    reflectivity = np.where(depth > body.uniform(0.5, 0.7), 0.35, reflectivity)
    centre = rng.uniform(-0.25, 0.25, 2)
    tall = rng.normal(1.12 if malignant else 0.82, 0.15)
    radius = rng.uniform(0.24, 0.4)
    spikes = max(0.0, rng.normal(0.15 if malignant else 0.06, 0.05))
    down, across = (rows - centre[0]) / tall, columns - centre[1]
    angle = np.arctan2(down, across)
    edge = radius * (1 + spikes * np.sin(int(rng.integers(7, 12)) * angle + rng.uniform(0, 6)))
    inside = np.hypot(down, across) < edge
    reflectivity = np.where(inside, reflectivity * rng.uniform(0.05, 0.2), reflectivity)
    behind = (np.abs(across) < radius * 0.8) & (down > edge)
    # behind a malignant lesion there is often shadow, behind a benign one often enhancement; not always
    typical = rng.random() < 0.7
    reflectivity = np.where(behind, reflectivity * (0.6 if malignant == typical else 1.3), reflectivity)
    grain = 0.018 * max(wish.shape)
    noisy = physics.speckle(reflectivity, grain, rng)
    clean = np.clip(0.75 + np.log10(reflectivity + 1e-3) / 3, 0, 1)
    arrays = tuple(np.rint(255 * a).astype(np.uint8) for a in (noisy, clean))
    geometry = Geometry.without_size(wish.shape)
    source = Source(format="phantom", modality="US")
    images = [Image(a, geometry, "arbitrary", source=source, steps=("synthetic phantom",)) for a in arrays]
    mask = np.where(inside, 2, 0).astype(np.uint8)
    return PhantomCase("", "", images[0], images[1], int(malignant), mask, STRUCTURES["US"], (), (box_of(inside),))


_MAKERS = {"CT": _ct, "MR": _mr, "US": _us}


def _assemble(
    modality: Modality,
    arrays: tuple[NDArray[np.int16], NDArray[np.int16]],
    geometry: Geometry,
    body: Anatomy,
    lesions: tuple[Lesion, ...],
) -> PhantomCase:
    quantity: Quantity = "HU" if modality == "CT" else "arbitrary"
    source = Source(format="phantom", modality=modality)
    noisy, clean = (
        Image(np.ascontiguousarray(a), geometry, quantity, source=source, steps=("synthetic phantom",)) for a in arrays
    )
    points = anatomy_room.voxel_centres_mm(geometry)
    return PhantomCase(
        id="phantom-0000",
        patient="P0000",
        image=noisy,
        clean=clean,
        label=int(bool(lesions)),
        mask=anatomy_room.label_map(body, lesions, geometry),
        structures=STRUCTURES[modality],
        lesions=lesions,
        boxes=tuple(box_of(lesion.shape.inside(points)) for lesion in lesions),
    )


def box_of(inside: NDArray[np.bool_]) -> Box:
    """The box of a region: low corner, high corner (both inside it), class index 0.

    Example:
        >>> region = np.zeros((6, 6), bool)
        >>> region[2:4, 1:5] = True
        >>> box_of(region)
        ((2.0, 1.0, 3.0, 4.0), 0)
    """
    where = np.argwhere(inside)
    return (tuple(float(v) for v in (*where.min(0), *where.max(0))), 0)


# -- many cases -------------------------------------------------------------------------------------------------------


def classification(
    n: int,
    seed: int = 0,
    *,
    shape: tuple[int, ...] = (64, 64),
    modality: Modality = "CT",
    prevalence: float = 0.5,
    images_per_patient: int = 1,
    shortcut: float = 0.0,
) -> list[PhantomCase]:
    """Cases with and without a lesion (ultrasound: malignant and benign), at a contrast that has to be learned.

    Args:
        n: How many cases.
        seed: The same seed gives the same cases.
        shape: Two axes for slices, three for volumes.
        modality: CT, MR or US (2-D only).
        prevalence: Share of positives, counted out in every 20 cases.
        images_per_patient: Cases that share a patient: one anatomy, one label, other lesions and noise.
        shortcut: From 0 (the site says nothing) to 1 (every positive comes from one site, scanned by its scanner).

    Raises:
        UsageError: A number outside its range.
    """
    _ranges(n, prevalence, shortcut)
    if images_per_patient < 1:
        raise UsageError("a patient has at least one image", got=images_per_patient)
    cases = []
    for i in range(n):
        patient = i // images_per_patient
        positive = _positive(seed, patient, prevalence)
        occult = np.random.default_rng([seed, i, 0x0CC1]).random() < OCCULT
        cases.append(_drawn(_Place(seed, i, patient, modality, tuple(shape), shortcut), int(positive), occult))
    return cases


def segmentation(
    n: int,
    seed: int = 0,
    *,
    shape: tuple[int, ...] = (64, 64),
    modality: Modality = "CT",
    lesions: tuple[int, int] = (0, 3),
    shortcut: float = 0.0,
) -> list[PhantomCase]:
    """Cases with a mask of the organ (1) and of zero to three lesions (2); ``mask`` is the truth.

    Args:
        n: How many cases.
        seed: The same seed gives the same cases.
        shape: Two axes for slices, three for volumes.
        modality: CT or MR; US has exactly one lesion a picture.
        lesions: Fewest and most lesions of a case.
        shortcut: As in ``classification``.

    Raises:
        UsageError: A number outside its range.
    """
    _ranges(n, 0.5, shortcut)
    low, high = lesions
    if not 0 <= low <= high:
        raise UsageError("lesions are a range from fewest to most", got=lesions)
    counts = [int(np.random.default_rng([seed, i, 0xC0]).integers(low, high + 1)) for i in range(n)]
    return [_drawn(_Place(seed, i, i, modality, tuple(shape), shortcut), counts[i]) for i in range(n)]


def detection(
    n: int,
    seed: int = 0,
    *,
    shape: tuple[int, ...] = (64, 64),
    modality: Modality = "CT",
    lesions: tuple[int, int] = (0, 3),
) -> list[PhantomCase]:
    """Cases with the boxes of zero to three lesions in index coordinates, and their exact centres in mm."""
    return segmentation(n, seed, shape=shape, modality=modality, lesions=lesions)


def enhancement(
    n: int, seed: int = 0, *, shape: tuple[int, ...] = (64, 64), modality: Modality = "CT"
) -> list[PhantomCase]:
    """Pairs: ``image`` is noisy, ``clean`` is the same scan without noise (and, in MR, without bias)."""
    return segmentation(n, seed, shape=shape, modality=modality, lesions=(0, 2))


def _ranges(n: int, prevalence: float, shortcut: float) -> None:
    if n < 1:
        raise UsageError("a phantom data set has at least one case", got=n)
    if not 0 <= prevalence <= 1:
        raise UsageError("a prevalence lies between 0 and 1", got=prevalence)
    if not 0 <= shortcut <= 1:
        raise UsageError("a shortcut's strength lies between 0 and 1", got=shortcut)


def _positive(seed: int, patient: int, prevalence: float) -> bool:
    order = np.random.default_rng([seed, patient // BLOCK, 0xB10C]).permutation(BLOCK)
    return bool(order[patient % BLOCK] < round(BLOCK * prevalence))


@dataclass(frozen=True)
class _Place:
    """Which case of which data set is to be drawn."""

    seed: int
    number: int
    patient: int
    modality: Modality
    shape: tuple[int, ...]
    shortcut: float


def _drawn(place: _Place, lesions: int, occult: bool = False) -> PhantomCase:
    modality, shortcut = place.modality, place.shortcut
    if modality not in _MAKERS:
        raise UsageError("the phantom knows no such modality", got=repr(modality), expected=", ".join(_MAKERS))
    body, rng, person = (
        np.random.default_rng([place.seed, number, purpose])
        for number, purpose in ((place.patient, 0xB0D4), (place.number, 0x1A6E), (place.patient, 0xFACE))
    )
    usual = SITES[int(lesions > 0)] if person.random() < shortcut else SITES[int(person.integers(2))]
    # each site has a scanner of its own, and one patient in ten is scanned on the other
    own = list(SCANNERS)[SITES.index(usual)]
    scanner = own if person.random() < 0.9 or shortcut > 0 else next(name for name in SCANNERS if name != own)
    age = float(np.clip(np.rint(person.normal(60 + 3 * (lesions > 0), 12)), 20, 90))
    sex = "FM"[int(person.integers(2))]
    value = OCCULT_VALUE.get(modality) if occult else None
    case = _MAKERS[modality](body, rng, _Wish(_checked(place.shape, modality), lesions, SCANNERS[scanner], value=value))
    columns: Mapping[str, str | float | None] = MappingProxyType({"age": age, "sex": sex, "scanner": scanner})
    name = f"phantom-{place.number:04d}"
    return replace(case, id=name, patient=f"P{place.patient:04d}", site=usual, columns=columns)


def _checked(shape: tuple[int, ...], modality: Modality) -> tuple[int, ...]:
    return _of(shape, 2) if modality == "US" else tuple(shape)
