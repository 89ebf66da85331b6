"""Pairs of small masks on every kind of grid, and what brute force says of them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from grids import oblique_geometry
from medmap.geometry import Geometry


def sheared(shape: tuple[int, ...]) -> Geometry:
    """A tilted gantry: the third axis is not at right angles to the second."""
    affine = np.eye(4)
    affine[:3, :3] = [[0.7, 0.0, 0.1], [0.0, 1.3, 0.9], [0.0, 0.0, 2.9]]
    return Geometry(shape, affine)


def grids(shape: tuple[int, ...]) -> tuple[Geometry, ...]:
    """An oblique, a sheared and a straight grid of a shape."""
    oblique = Geometry(shape, oblique_geometry().affine_lps_mm)
    return oblique, sheared(shape), Geometry.from_spacing(shape, (0.7, 1.3, 2.9)[: len(shape)])


@st.composite
def pairs(draw: st.DrawFn, labels: int = 1, empty: bool = True) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Truth and prediction, alike to some degree, with a grid; sometimes a plane."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    ndim = 3 if seed % 4 else 2
    shape = tuple(int(n) for n in rng.integers(1, 9, ndim))
    density = rng.uniform(0, 1)
    truth = np.where(rng.random(shape) < density, rng.integers(1, labels + 1, shape), 0).astype(np.uint8)
    prediction = np.where(rng.random(shape) < rng.uniform(0, 0.7), np.roll(truth, 1, axis=0), truth)
    if seed % 7 == 0:
        prediction = np.zeros_like(truth)
    if not empty:
        truth.flat[0], prediction.flat[-1] = 1, 1
    return truth, prediction, grids(shape)[int(rng.integers(3))]


def border(mask: np.ndarray) -> np.ndarray:
    """(n, axes) indices of the voxels with a face neighbour outside, looked at one by one."""
    found = []
    for index in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                there = index.copy()
                there[axis] += step
                inside = 0 <= there[axis] < mask.shape[axis]
                if not inside or not mask[tuple(there)]:
                    found.append(tuple(index))
    return np.array(sorted(set(found)), dtype=np.int64).reshape(-1, mask.ndim)


def brute_force(truth: np.ndarray, prediction: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Distances of every surface voxel to every other, in the world, and the smallest of them."""
    first, second = (geometry.to_world(border(mask)) for mask in (truth, prediction))
    apart = np.linalg.norm(first[:, None] - second[None], axis=2)
    return apart.min(axis=1), apart.min(axis=0)
