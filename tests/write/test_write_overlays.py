"""Overlays: every structure's outline in its own colour, named below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medmap as mm
from medmap.errors import GeometryError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.results import Label, Mask
from medmap.write.colours import COLOURS
from medmap.write.overlays import HEIGHT, overlay


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).any())


def test_a_volume_is_outlined_in_three_planes(image: Image, tmp_path: Path) -> None:
    array = np.zeros(image.geometry.shape, np.uint8)
    array[1:4, 1:6, 2:9] = 4
    array[1:4, 1:6, 2:4] = 9
    mask = Mask(array, image.geometry, {4: Label("liver"), 7: Label("absent"), 9: Label("lesion")})
    picture = overlay(mask, image.oriented("RAI"))
    assert has(picture.array[:HEIGHT], COLOURS[3])
    assert has(picture.array[:HEIGHT], COLOURS[8])
    assert not has(picture.array, COLOURS[6])
    assert mm.read(mm.write(picture, tmp_path / "a.png")).array.shape == picture.array.shape


def test_a_plane_is_shown_as_it_lies() -> None:
    geometry = Geometry.without_size((40, 60))
    array = np.zeros((40, 60), np.uint8)
    array[2:8, 40:50] = 1
    picture = overlay(Mask(array, geometry, {1: Label("spot")}), Image(np.zeros((40, 60), np.uint8), geometry))
    rows, columns = np.nonzero((picture.array[:HEIGHT] == COLOURS[0]).all(axis=-1))
    assert columns.mean() / picture.array.shape[1] == pytest.approx(44.5 / 60, abs=0.03)
    assert rows.mean() / HEIGHT == pytest.approx(5.0 / 40, abs=0.03)


def test_a_structure_has_its_colour_whatever_else_is_there() -> None:
    geometry = Geometry.without_size((40, 60))
    labels = {1: Label("left"), 2: Label("right")}
    array = np.zeros((40, 60), np.uint8)
    array[2:8, 40:50] = 2
    apart = np.stack([array == 1, array == 2], axis=-1)
    for voxels in (array, apart):
        picture = overlay(Mask(voxels, geometry, labels), Image(np.zeros((40, 60), np.uint8), geometry)).array
        assert has(picture[:HEIGHT], COLOURS[1])
        assert has(picture[HEIGHT:], COLOURS[1])  # in the legend
        assert not has(picture, COLOURS[0])


def test_an_image_that_lies_elsewhere_is_refused(image: Image) -> None:
    other = Geometry.from_spacing((4, 5, 6), (1, 1, 1.3), origin_mm=(500, 0, 0))
    mask = Mask(np.ones((4, 5, 6), np.uint8), other, {1: Label("all")})
    with pytest.raises(GeometryError):
        overlay(mask, image)
