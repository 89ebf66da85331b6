"""Synthetic photographs of the fundus: a round orange field on black, vessels, a rim that is dim on one side."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

SHAPE = (480, 500)
RADIUS = 230.0


def fundus(seed: int, dim: float = 0.0) -> np.ndarray:
    """(480, 500, 3) uint8.

    Args:
        seed: Which eye.
        dim: 0…1: how dark the field becomes to the left, as where the pupil was in the way.
    """
    rng = np.random.default_rng([seed, 11])
    rows, columns = np.indices(SHAPE)
    inside = np.hypot(rows - 240, columns - 250) <= RADIUS
    light = 0.85 + 0.15 * gaussian_filter(rng.normal(size=SHAPE), 25) * 25
    light *= 1 - dim * np.clip((250 - columns) / RADIUS, 0, 1) ** 0.5
    vessels = np.zeros(SHAPE)
    for _ in range(14):  # from the disc outward, each in a slow curve
        angle, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.004)
        at = np.array([240.0, 300.0])
        for _ in range(260):
            row, column = np.rint(at).astype(int)
            if inside[row, column]:
                vessels[row - 1 : row + 2, column - 1 : column + 2] = 1
            angle += bend
            at = np.clip(at + np.array([np.sin(angle), np.cos(angle)]), 2, 476)
    for n in range(9):  # pieces of small vessels side by side, as even as letters
        column = 170 + 13 * n
        vessels[330 - n % 2 : 345 - n % 3, column : column + 3] = 1
    light *= 1 - 0.45 * gaussian_filter(vessels, 0.6)
    colour = np.stack([215 * light, 95 * light, 45 * light], axis=-1) * inside[..., None]
    return np.clip(np.rint(colour + rng.normal(0, 1.0, colour.shape)), 0, 255).astype(np.uint8)
