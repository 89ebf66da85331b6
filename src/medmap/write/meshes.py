"""Masks as surfaces: STL and OBJ in LPS millimetres, closed, with normals that point outward."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medmap.errors import DataError, GeometryError
from medmap.measure import Mesh, mesh_of
from medmap.results import Label, Mask

_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_SAID = "LPS millimetres"


def write_stl(mask: Mask, path: Path) -> None:
    """Binary STL of a mask with one structure; the header says that coordinates are LPS millimetres.

    Raises:
        GeometryError: No millimetres, or a plane.
        DataError: Several structures with voxels (an STL file holds one surface), or none.
    """
    found = list(_meshes(mask))
    if len(found) > 1:
        raise DataError(
            "an STL file holds one structure", got=", ".join(label.name for label, _ in found),
            remedy="write one mask a structure, or obj",
        )  # fmt: skip
    mesh = found[0][1]
    corners = mesh.vertices_mm[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    facets = np.zeros(len(corners), _STL)
    facets["corners"] = corners
    facets["normal"] = normals / np.where(lengths > 0, lengths, 1)
    with path.open("wb") as file:
        file.write(f"medmap: {_SAID}".encode("ascii").ljust(80))
        file.write(np.uint32(len(facets)).astype("<u4").tobytes())
        file.write(facets.tobytes())


def write_obj(mask: Mask, path: Path) -> None:
    """Wavefront OBJ with one object a structure; a comment says that coordinates are LPS millimetres.

    Raises:
        GeometryError: No millimetres, or a plane.
        DataError: No structure with voxels.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"# medmap: {_SAID}\n")
        first = 1
        for label, mesh in _meshes(mask):
            name = re.sub(r"[^\w.-]+", "_", label.name)
            file.write(f"o {name}\n")
            np.savetxt(file, mesh.vertices_mm, fmt="v %.4f %.4f %.4f")
            np.savetxt(file, mesh.triangles + first, fmt="f %d %d %d")
            first += len(mesh.vertices_mm)


def single_structures(mask: Mask) -> Iterator[tuple[str, Mask]]:
    """Each structure that has voxels as a mask of its own, under a name that can stand in a file's name."""
    for channel, (value, label) in enumerate(mask.labels.items()):
        region = mask.array[..., channel] if mask.array.dtype == np.bool_ else mask.array == value
        if region.any():
            plain = re.sub(r"[^a-z0-9]+", "-", label.name.lower()).strip("-")[:40]
            name = f"{value}-{plain}".rstrip("-")
            yield name, Mask(region.astype(np.uint8), mask.geometry, {1: label}, mask.calibrated)


def _meshes(mask: Mask) -> Iterator[tuple[Label, Mesh]]:
    from scipy import ndimage

    mask.geometry.require_size("a mesh")
    if mask.geometry.ndim != 3:
        raise GeometryError("a mesh needs a three-dimensional mask", got=f"shape {mask.geometry.shape}")
    some = False
    for _, one in single_structures(mask):
        some = True
        box = ndimage.find_objects(one.array)[0]
        grid = mask.geometry.crop([s.start for s in box], [s.stop - s.start for s in box])
        yield one.labels[1], mesh_of(one.array[box] > 0, grid)
    if not some:
        raise DataError("an empty mask has no surface", got="no voxel of any structure")
