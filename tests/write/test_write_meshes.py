"""Meshes: closed, outward, in place; read back by readers of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medmap as mm
from grids import oblique_geometry
from medmap.errors import DataError, GeometryError
from medmap.geometry import Geometry
from medmap.results import Label, Mask

GRID = oblique_geometry()


def two() -> Mask:
    array = np.zeros(GRID.shape, np.uint8)
    array[0:3, 2:6, 1:9] = 1
    array[4, 0:2, 9:11] = 2
    return Mask(array, GRID, {1: Label("liver"), 2: Label("big, odd"), 3: Label("none")})


def one(mask: Mask) -> Mask:
    return Mask((mask.array == 1).astype(np.uint8), GRID, {1: Label("liver")})


def read_stl(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Header, (n, 3) normals, (n, 3, 3) corners, by the description of the format."""
    data = path.read_bytes()
    n = int.from_bytes(data[80:84], "little")
    assert len(data) == 84 + 50 * n
    numbers = np.array([np.frombuffer(data, "<f4", 12, 84 + 50 * i) for i in range(n)], float).reshape(n, 4, 3)
    return data[:80].decode("ascii"), numbers[:, 0], numbers[:, 1:]


def volume_mm3(corners: np.ndarray) -> float:
    return float(np.linalg.det(corners - corners[0, 0]).sum() / 6)


def test_an_stl_is_closed_outward_and_as_large_as_its_voxels(tmp_path: Path) -> None:
    mask = one(two())
    header, normals, corners = read_stl(mm.write(mask, tmp_path / "liver.stl"))
    assert "LPS millimetres" in header
    assert not header.startswith("solid")  # as a text file would
    voxels_mm3 = int(mask.array.sum()) * GRID.voxel_volume_mm3
    assert 0.75 * voxels_mm3 < volume_mm3(corners) < voxels_mm3  # the corners of few voxels are cut
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ij,ij->i", sides, normals) > 0).all()
    middle = GRID.to_world([[1.0, 3.5, 4.5]])[0]
    assert corners.reshape(-1, 3).mean(axis=0) == pytest.approx(middle, abs=0.5)


def test_an_obj_holds_each_structure_as_an_object(tmp_path: Path) -> None:
    lines = mm.write(two(), tmp_path / "all.obj").read_text().splitlines()
    assert "LPS millimetres" in lines[0]
    assert [line for line in lines if line.startswith("o ")] == ["o liver", "o big_odd"]
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    faces = np.array([line.split()[1:] for line in lines if line.startswith("f ")], int) - 1
    _, _, corners = read_stl(mm.write(one(two()), tmp_path / "liver.stl"))
    of_first = vertices[faces[: len(corners)]]
    np.testing.assert_allclose(of_first, corners, atol=1e-3)
    assert volume_mm3(vertices[faces]) > volume_mm3(of_first)


def test_what_has_no_surface_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one structure"):
        mm.write(two(), tmp_path / "two.stl")
    with pytest.raises(DataError, match="no surface"):
        mm.write(Mask(np.zeros(GRID.shape, np.uint8), GRID, {1: Label("none")}), tmp_path / "none.obj")
    flat = Geometry.without_size((5, 6))
    with pytest.raises(GeometryError, match="millimetres"):
        mm.write(Mask(np.ones((5, 6), np.uint8), flat, {1: Label("spot")}), tmp_path / "flat.obj")
    assert list(tmp_path.iterdir()) == []
