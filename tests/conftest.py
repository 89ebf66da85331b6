# ruff: noqa: E402  (the environment is set before any library is imported)
"""What every test shares: the phantom grid, the real data, one thread, no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# One thread a process: tests run side by side. Set before any library starts its pool.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
import pytest
from hypothesis import settings

from medmap.geometry import Geometry
from medmap.image import Image

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("medmap", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("medmap")


def _no_network(event: str, args: tuple[object, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):  # noqa: S104
        raise RuntimeError(f"a test reached for the network: {event} {host}")


sys.addaudithook(_no_network)


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


@pytest.fixture
def geometry() -> Geometry:
    return oblique_geometry()


@pytest.fixture
def image() -> Image:
    return oblique_image()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; absent elsewhere."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not here: {folder}")
    return folder
