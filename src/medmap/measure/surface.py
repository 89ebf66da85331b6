"""The surface between a mask's voxels and the rest: its area, and its triangles for a mesh.

Marching cubes on a mask (Lorensen and Cline, SIGGRAPH 1987): between the centres of eight neighbouring voxels the
surface passes midway between inside and outside. Where two inside voxels touch only across a face's diagonal they are
parted, on both sides of the face alike, so that the surface is always closed. The table of the 256 cases is derived
from that rule. Area is IBSI's C0JK.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from medmap.geometry import Floats, Geometry

Bools = NDArray[np.bool_]
Triangle = tuple[int, int, int]
_SLAB_VOXELS = 4_000_000
# a corner's number holds its place: bit a is its index along axis a
CORNERS = np.array([[c >> axis & 1 for axis in range(3)] for c in range(8)])
EDGES = tuple((c, c | 1 << axis) for axis in range(3) for c in range(8) if not c >> axis & 1)
_EDGE_NUMBERS = {frozenset(edge): number for number, edge in enumerate(EDGES)}
_MIDDLES = np.array([CORNERS[list(edge)].mean(axis=0) for edge in EDGES])


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed surface of triangles.

    Args:
        vertices_mm: (vertices, 3) in LPS millimetres.
        triangles: (triangles, 3) indices of vertices, counter-clockwise seen from outside.
    """

    vertices_mm: Floats
    triangles: NDArray[np.int64]

    @property
    def area_mm2(self) -> float:
        """Sum of the triangles' areas."""
        a, b, c = (self.vertices_mm[self.triangles[:, corner]] for corner in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    @property
    def volume_mm3(self) -> float:
        """What the surface encloses, by the divergence theorem; IBSI RNU0."""
        moved = self.vertices_mm - (self.vertices_mm[0] if len(self.vertices_mm) else 0)
        a, b, c = (moved[self.triangles[:, corner]] for corner in range(3))
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def surface_area_mm2(region: Bools, affine_lps_mm: Floats) -> float:
    """The area of the surface around a region, right on oblique, anisotropic and sheared grids.

    Args:
        region: (three axes); what lies beyond it is outside.
        affine_lps_mm: (4, 4) of its grid.
    """
    counts = np.zeros(256, np.int64)
    for _, cases in _cubes(region):
        counts += np.bincount(cases.ravel(), minlength=256)
    edges = affine_lps_mm[:3, :3]
    area = 0.0
    for case in np.flatnonzero(counts):
        corners = _MIDDLES[np.array(_triangles(int(case)), int).reshape(-1, 3)] @ edges.T
        sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area += counts[case] * np.linalg.norm(sides, axis=1).sum() / 2
    return float(area)


def mesh_of(region: Bools, geometry: Geometry) -> Mesh:
    """The surface around a region as triangles; empty where the region is.

    Args:
        region: (geometry's shape), three axes.
        geometry: The grid.

    Raises:
        GeometryError: No millimetres.
    """
    geometry.require_size("a mesh")
    sizes = np.array(region.shape) + 1  # of the grid of cubes; cube 0 begins one voxel before the region
    keys = [np.empty((0, 3), np.int64)]
    for start, cases in _cubes(region):
        for case in np.unique(cases):
            edges = np.array(_triangles(int(case)), int).reshape(-1, 3)
            if not len(edges):
                continue
            low = np.argwhere(cases == case) + np.array((start, 0, 0))
            base = low[:, None, None, :] + CORNERS[np.array(EDGES)[edges, 0]]
            number = (base[..., 0] * (sizes[1] + 1) + base[..., 1]) * (sizes[2] + 1) + base[..., 2]
            keys.append((number * 3 + edges // 4).reshape(-1, 3))
    used, triangles = np.unique(np.concatenate(keys), return_inverse=True)
    corner, axis = used // 3, used % 3
    corner, last = np.divmod(corner, sizes[2] + 1)
    places = np.stack([*np.divmod(corner, sizes[1] + 1), last], axis=1) - 1.0
    places[np.arange(len(axis)), axis] += 0.5
    triangles = triangles.reshape(-1, 3)
    if np.linalg.det(geometry.affine_lps_mm[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    return Mesh(geometry.to_world(places) if len(places) else np.empty((0, 3)), triangles.astype(np.int64))


def _cubes(region: Bools) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Slabs of cubes between eight voxels each: where the slab begins and, bit by bit, which corners are inside."""
    sizes = tuple(n + 1 for n in region.shape)
    step = max(1, _SLAB_VOXELS // (sizes[1] * sizes[2]))
    for start in range(0, sizes[0], step):
        stop = min(start + step, sizes[0])
        padded = np.zeros((stop - start + 1, sizes[1] + 1, sizes[2] + 1), np.uint8)
        part = region[max(start - 1, 0) : stop]
        padded[1 - min(start, 1) :][: len(part), 1:-1, 1:-1] = part
        cases = np.zeros((stop - start, sizes[1], sizes[2]), np.uint8)
        for number, (i, j, k) in enumerate(CORNERS):
            cases |= padded[i : i + cases.shape[0], j : j + sizes[1], k : k + sizes[2]] << np.uint8(number)
        yield start, cases


@cache
def _triangles(case: int) -> tuple[Triangle, ...]:
    """The triangles of one case, each the numbers of three edges, counter-clockwise seen from outside."""
    found: list[Triangle] = []
    for loop in _loops(case):
        found += next((t for t in _triangulations(loop) if not _along_a_face(t, loop)), next(_triangulations(loop)))
    return tuple(found)


def _loops(case: int) -> list[list[int]]:
    """The closed lines in which the surface cuts the faces of a cube, each the numbers of the edges it crosses."""
    following: dict[int, int] = {}
    for face in _faces():
        inside = [bool(case >> corner & 1) for corner in face]
        for first in range(4):
            if not inside[first] or inside[first - 1]:
                continue
            last = first
            while inside[(last + 1) % 4]:
                last += 1
            enters = _EDGE_NUMBERS[frozenset((face[first - 1], face[first]))]
            leaves = _EDGE_NUMBERS[frozenset((face[last % 4], face[(last + 1) % 4]))]
            following[enters] = leaves
    loops = []
    while following:
        edge, then = following.popitem()
        loop = [edge]
        while then != edge:
            loop.append(then)
            then = following.pop(then)
        loops.append(loop)
    return loops


@cache
def _faces() -> tuple[tuple[int, int, int, int], ...]:
    """The corners of the six faces, counter-clockwise seen from outside."""
    faces = []
    for axis in range(3):
        b, c = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        faces += [(0, c, b | c, b), tuple(1 << axis | corner for corner in (0, b, b | c, c))]
    return tuple(faces)  # type: ignore[arg-type]


def _triangulations(loop: list[int]) -> Iterator[list[Triangle]]:
    """All ways of cutting a loop into triangles."""
    if len(loop) < 3:
        yield []
        return
    for middle in range(1, len(loop) - 1):
        for left in _triangulations(loop[: middle + 1]):
            for right in _triangulations(loop[middle:]):
                yield [*left, (loop[0], loop[middle], loop[-1]), *right]


def _along_a_face(triangles: list[Triangle], loop: list[int]) -> bool:
    """Whether a cut runs within a face of the cube, where the neighbouring cube may have one too."""
    sides = {frozenset(pair) for pair in zip(loop, [*loop[1:], loop[0]], strict=True)}
    cuts = {frozenset(pair) for a, b, c in triangles for pair in ((a, b), (b, c), (c, a))} - sides
    faces = [set(face) for face in _faces()]
    return any(any({*EDGES[a], *EDGES[b]} <= face for face in faces) for a, b in map(tuple, cuts))
