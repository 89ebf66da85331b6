"""Small chests with a lopsided organ and its mask, written as NIfTI; a test makes wrong what it wants to be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.results import Label
from medmap.write import write

SHAPE = (40, 36, 24)
SPACING = (8.0, 8.0, 9.0)
Change = Callable[[Image], Image]


def chest(seed: int) -> tuple[Image, Image]:
    """A body in air with a large bright organ on the patient's right and a small one on the left, and their labels."""
    rng = np.random.default_rng([seed, 5])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1).astype(float)
    middle = np.array([20, 18, 12]) + rng.uniform(-1, 1, 3)

    def ellipsoid(offset: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        return ((((grid - middle - offset) / radii) ** 2).sum(axis=-1)) < 1

    body = ((((grid[..., :2] - middle[:2]) / rng.uniform((13, 10), (17, 15))) ** 2).sum(axis=-1)) < 1
    wide = rng.uniform(0.9, 1.1)
    right, left = ellipsoid((-7, 0, 1), (5 * wide, 7, 8)), ellipsoid((8, 3, 0), (3 * wide, 4, 5))
    values = np.where(body, 0.0, -1000.0) + np.where(right, 120.0, 0) + np.where(left, 80.0, 0)
    values += np.where(body, 1000 * gaussian_filter(rng.normal(size=SHAPE), 2), 0) + rng.normal(0, 8, SHAPE)
    mask = np.where(right, 1, np.where(left, 2, 0)).astype(np.uint8)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = rng.uniform(-50, 50, 3).round(2)
    geometry = Geometry(SHAPE, affine)
    image = Image(np.rint(values).astype(np.int16), geometry, "HU")
    return image, Image(mask, geometry, "label")


@dataclass
class Chests:
    """A data set of chests; ``images`` and ``masks`` hold what is done to a case's own before it is written."""

    folder: Path
    count: int = 12
    images: dict[int, Change] = field(default_factory=dict)
    masks: dict[int, Change] = field(default_factory=dict)
    names: tuple[str, ...] = ("background", "right organ", "left organ")
    splits: Callable[[int], str | None] = lambda i: "train" if i % 3 else "test"

    def write(self) -> Dataset:
        cases = []
        for i in range(self.count):
            image, mask = chest(i)
            image = self.images.get(i, lambda x: x)(image)
            mask = self.masks.get(i, lambda x: x)(mask)
            write(image, self.folder / f"c{i:02d}.nii.gz")
            write(mask, self.folder / f"c{i:02d}_mask.nii.gz")
            truth = Truth(annotated=True, masks=(Ref(f"c{i:02d}_mask.nii.gz"),))
            cases.append(Case(f"c{i:02d}", f"p{i:02d}", {"image": Ref(f"c{i:02d}.nii.gz")}, truth, self.splits(i)))
        labels = tuple(Label(name) for name in self.names)
        return Dataset("chests", "segment", tuple(cases), {"image": InputSpec("CT")}, labels, root=self.folder)


def relocated(offset_mm: tuple[float, float, float] = (0.0, 0.0, 40.0)) -> Change:
    """The same voxels, elsewhere in the world."""

    def change(image: Image) -> Image:
        affine = image.geometry.affine_lps_mm.copy()
        affine[:3, 3] += offset_mm
        return replace(image, geometry=Geometry(image.geometry.shape, affine))

    return change


def values(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other voxels on the same grid."""
    return lambda image: image.with_array(np.ascontiguousarray(change(image.array)), "planted")
