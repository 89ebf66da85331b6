"""Found and true boxes for tests: nodules in oblique volumes with millimetres, cells in pictures without."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.geometry import Geometry
from medmap.results import Boxes, Label

NODULES, CELLS = (Label("nodule"),), (Label("red"), Label("white"), Label("platelet"))


def grid(number: int, flat: bool) -> Geometry:
    """A picture, or a turned volume of thick slices that differ from case to case."""
    if flat:
        return Geometry.without_size((300, 400))
    turn, step = 0.1 * number, 1.5 + 0.1 * (number % 5)
    affine = np.eye(4)
    affine[:3, 0] = [0.8 * np.cos(turn), 0.8 * np.sin(turn), 0]
    affine[:3, 1] = [-0.8 * np.sin(turn), 0.8 * np.cos(turn), 0]
    affine[2, 2] = step
    affine[:3, 3] = [-120.5, 33.0 * number, 7.25]
    return Geometry((160, 150, 60), affine)


def scene(number: int, flat: bool, skill: float = 1.0) -> tuple[list, list, Boxes]:
    """True boxes, boxes to ignore, and what was found; every fifth case has no finding."""
    rng = np.random.default_rng([number, flat])
    here = grid(number, flat)
    labels = CELLS if flat else NODULES
    spacing = np.ones(2) if flat else np.array(here.spacing_mm)
    shape = np.array(here.shape)
    true, ignored, found = [], [], []

    def box(centre: np.ndarray, size_mm: float) -> np.ndarray:
        half = np.maximum(size_mm / spacing, 1) / 2
        low = np.clip(centre - half + 0.5, 0, shape - 1)
        return np.concatenate([low, np.clip(centre + half - 0.5, low, shape - 1)])

    noise = np.random.default_rng([number, flat, round(100 * skill)])
    for _ in range(0 if number % 5 == 4 else rng.integers(1, 8 if flat else 4)):
        size = rng.uniform(12, 90) if flat else rng.uniform(3.2, 14)
        centre, label = rng.uniform(0.2, 0.8, len(shape)) * shape, int(rng.integers(len(labels)))
        kept = (tuple(box(centre, size).tolist()), label)
        (ignored if rng.random() < 0.1 else true).append(kept)
        for _ in range(int(noise.choice(3, p=[0.15 / skill, 0.8 - 0.15 / skill, 0.2]))):
            moved = box(
                centre + noise.normal(0, 0.06 * size / skill, len(shape)) / spacing, size * noise.uniform(0.9, 1.1)
            )
            found.append((moved, label, noise.beta(5, 2)))
    for _ in range(int(noise.poisson(1.5 / skill))):
        alarm = box(noise.uniform(0.1, 0.9, len(shape)) * shape, noise.uniform(4, 40 if flat else 12))
        found.append((alarm, int(noise.integers(len(labels))), noise.beta(2, 5)))
    corners = np.array([row[0] for row in found]).reshape(-1, 2 * len(shape))
    ids, scores = ([row[i] for row in found] for i in (1, 2))
    cut = (0.5, 0.45, 0.4)[: len(labels)]
    return true, ignored, Boxes(corners, np.array(ids, int), np.array(scores), labels, here, True, cut)


def dataset(n: int = 24, *, flat: bool = False, known: bool = False) -> Dataset:
    """Cases of which the last two are of one patient; of the first only class 0 is known where ``known``."""
    cases = []
    for i in range(n):
        true, ignored, _ = scene(i, flat)
        seen = (0,) if known and i == 0 else None
        if seen:
            true, ignored = ([b for b in some if b[1] == 0] for some in (true, ignored))
        truth = Truth(annotated=True, boxes=tuple(true), ignored=tuple(ignored), known=seen)
        columns = {"age": 40.0 + i, "note": "=1+1"}
        inputs = {"image": Ref(f"{i}.nii.gz" if not flat else f"{i}.png")}
        cases.append(Case(f"c{i}", f"p{min(i, n - 2)}", inputs, truth, "test", ("north", "south")[i % 2], columns))
    return Dataset(
        "cells" if flat else "nodules", "detect", tuple(cases), {"image": InputSpec("CT")}, CELLS if flat else NODULES
    )


def answers(data: Dataset, *, skill: float = 1.0) -> Iterator[tuple[Case, Boxes]]:
    """What a detector says of each case."""
    for case in data:
        yield case, scene(int(case.id[1:]), data.name == "cells", skill)[2]
