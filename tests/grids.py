"""The oblique grid of the house rules, for every test that needs one."""

from __future__ import annotations

import numpy as np

from medmap.geometry import Geometry
from medmap.image import Image


def rotation(x_deg: float, y_deg: float, z_deg: float) -> np.ndarray:
    """(3, 3): turns about x, then y, then z."""
    a, b, c = np.radians([x_deg, y_deg, z_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def oblique_geometry() -> Geometry:
    """The grid of the house rules: 5×7×11 voxels, 0.7×1.3×2.9 mm, oblique, off the origin; never a cube."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(12, -23, 31) * (0.7, 1.3, 2.9)
    affine[:3, 3] = (-13.7, 42.1, -88.3)
    return Geometry((5, 7, 11), affine, frame_of_reference="1.2.3")


def oblique_image() -> Image:
    """Every voxel of the oblique grid has its own value, 1…385, in no order."""
    values = np.random.default_rng(7).permutation(np.arange(1, 386)).reshape(5, 7, 11)
    return Image(values.astype(np.int16), oblique_geometry(), quantity="HU")
