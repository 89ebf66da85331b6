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
from medmap.write.captions import LINE
from medmap.write.colours import COLOURS
from medmap.write.overlays import HEIGHT, MOST, overlay
from medmap.write.planes import outline_around, picture_of, values_of

CAPTION = LINE + 4  # of one line


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


def photograph(shape: tuple[int, int]) -> Image:
    """A fundus-like picture: its red saturated over most of it."""
    rng = np.random.default_rng(3)
    array = np.stack([np.full(shape, 255), rng.integers(60, 160, shape), rng.integers(0, 40, shape)], axis=-1)
    return Image(array.astype(np.uint8), Geometry.without_size(shape), "colour", ("red", "green", "blue"))


def test_a_photograph_keeps_its_colours_and_its_size() -> None:
    image = photograph((500, 640))
    array = np.zeros((500, 640), np.uint8)
    array[100:300, 200:203] = 1  # a vessel of three pixels
    picture = overlay(Mask(array, image.geometry, {1: Label("vessel")}), image).array
    assert picture.shape[1] == 640
    assert picture.shape[0] == 500 + CAPTION
    around = np.zeros((500, 640), bool)
    around[98:302, 198:205] = True
    around[array > 0] = False
    np.testing.assert_array_equal(picture[:500][~around], image.array[~around])  # the vessel itself among it
    line = (picture[:500] == COLOURS[0]).all(axis=-1)
    assert line[100:300, [199, 203]].all()
    assert line[[99, 300], 200:203].all()
    assert line.sum() == 2 * 200 + 2 * 3
    np.testing.assert_array_equal(picture[150:200, 198], image.array[150:200, 198] // 2)  # seen on any ground
    assert has(picture[500:], COLOURS[0])


def test_a_large_picture_is_made_smaller_and_loses_no_thin_structure() -> None:
    image = photograph((300, 2 * MOST))
    array = np.zeros((300, 2 * MOST), np.uint8)
    array[77, 500:900] = 1
    array[150:152, 2001] = 2
    picture = overlay(Mask(array, image.geometry, {1: Label("thin"), 2: Label("spot")}), image).array
    assert picture.shape == (150 + CAPTION + LINE, MOST, 3)
    assert has(picture[:150], COLOURS[1])
    rows, columns = np.nonzero((picture[:150] == COLOURS[0]).all(axis=-1))
    assert (columns.min(), columns.max()) == (249, 450)
    assert set(rows.tolist()) == {38, 39}


def test_pixels_that_are_no_squares_are_shown_in_true_proportions() -> None:
    geometry = Geometry.from_spacing((400, 500), (0.5, 1.0))
    mask = Mask(np.zeros((400, 500), np.uint8), geometry, {1: Label("spot")})
    picture = overlay(mask, Image(np.zeros((400, 500), np.uint8), geometry)).array
    assert picture.shape == (400 + CAPTION, 1000, 3)


def test_where_structures_meet_each_has_its_line() -> None:
    labels = np.zeros((9, 12), np.uint16)
    labels[2:7, 2:6], labels[2:7, 6:12] = 1, 3
    picture = np.full((9, 12, 3), 200, np.uint8)
    outline_around(picture, labels)
    assert (picture[3, 5] == COLOURS[0]).all()
    assert (picture[3, 6] == COLOURS[2]).all()
    assert (picture[3, 1] == COLOURS[0]).all()
    assert (picture[3, 11] == COLOURS[2]).all()  # at the picture's edge
    assert (picture[3, 3] == 200).all()
    assert (picture[3, 0] == 100).all()
    assert (picture[0, 4] == 100).all()


def test_colours_are_stretched_alike() -> None:
    grid = Geometry.without_size((50, 60))
    deep = Image(photograph((50, 60)).array.astype(np.uint16) * 100, grid, "colour", ("red", "green", "blue"))
    shown = picture_of(values_of(deep), (50, 60)).astype(int)
    assert shown[..., 0].min() == 255  # red is brightest everywhere, and not stretched by itself
    assert shown[..., 1].max() < 170
    opaque = np.concatenate([deep.array, deep.array[..., :1]], axis=-1)
    four = Image(opaque, grid, "colour", ("red", "green", "blue", "alpha"))
    np.testing.assert_array_equal(values_of(four), deep.array)
    series = Image(deep.array, grid, "arbitrary", ("T1", "T2", "FLAIR"))
    np.testing.assert_array_equal(values_of(series), deep.array[..., 0])


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
