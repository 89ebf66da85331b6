from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from grids import oblique_geometry, oblique_image
from medmap.errors import GeometryError, ReadError
from medmap.geometry import Crop, Flip, Geometry, Pad, Permute, Resample
from medmap.image import Image, Source

RGB = ("red", "green", "blue")


def colour() -> Image:
    array = np.arange(385 * 3, dtype=np.uint16).reshape(5, 7, 11, 3)
    return Image(array, oblique_geometry(), "colour", RGB)


def test_voxels_cannot_be_written() -> None:
    mine = np.zeros((5, 7, 11), np.float32)
    image = Image(mine, oblique_geometry())
    with pytest.raises(ValueError, match="read-only"):
        image.array[0, 0, 0] = 1
    with pytest.raises(FrozenInstanceError):
        image.quantity = "HU"  # type: ignore[misc]
    mine[0, 0, 0] = 1  # the caller's own array stays the caller's to write
    assert mine.flags.writeable


def test_an_image_answers_for_its_grid(image: Image) -> None:
    assert image.ndim == 3
    assert image.spacing_mm == pytest.approx((0.7, 1.3, 2.9))
    with pytest.raises(GeometryError, match="needs millimetres"):
        _ = Image(np.zeros((5, 7)), Geometry.without_size((5, 7))).spacing_mm


@pytest.mark.parametrize(
    ("array", "options", "error", "sentence"),
    [
        (np.zeros((5, 7, 11), complex), {}, ReadError, "real numbers"),
        (np.array([["a"]]), {}, ReadError, "real numbers"),
        (np.zeros((5, 7, 11)), {"quantity": "hounsfield"}, ReadError, "unknown quantity"),
        (np.zeros((5, 11, 7)), {}, GeometryError, "does not fit its geometry"),
        (np.zeros((5, 7, 11, 3)), {}, GeometryError, "does not fit its geometry"),
        (np.zeros((5, 7, 11)), {"channels": RGB}, GeometryError, "does not fit its geometry"),
        (np.zeros((5, 7, 11, 3)), {"time_s": (0.0, 0.1)}, GeometryError, "does not fit its geometry"),
        (np.zeros((5, 7, 11)), {"channels": ()}, GeometryError, "at least one channel"),
    ],
)
def test_an_image_that_contradicts_itself_is_refused(
    array: np.ndarray, options: dict[str, object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        Image(array, oblique_geometry(), **options)  # type: ignore[arg-type]


def test_channels_first_is_the_same_voxels() -> None:
    image = colour()
    first = image.channels_first()
    assert first.shape == (3, 5, 7, 11)
    for n in range(3):
        np.testing.assert_array_equal(first[n], image.array[..., n])
    assert np.shares_memory(first, image.array)
    assert oblique_image().channels_first().shape == (1, 5, 7, 11)


def test_time_comes_before_channels() -> None:
    array = np.arange(385 * 6).reshape(5, 7, 11, 2, 3)
    cine = Image(array, oblique_geometry(), channels=RGB, time_s=(0.0, 0.04))
    first = cine.channels_first()
    assert first.shape == (6, 5, 7, 11)
    np.testing.assert_array_equal(first[4], array[..., 1, 1])
    moved = cine.moved(Flip((1,)), Crop((1, 1, 1), (2, 3, 4)))
    np.testing.assert_array_equal(moved.array, array[:, ::-1][1:3, 1:4, 1:5])
    assert moved.time_s == (0.0, 0.04)


def test_select_picks_channels_by_name() -> None:
    image = colour()
    two = image.select(["blue", "red"])
    assert two.channels == ("blue", "red")
    np.testing.assert_array_equal(two.array, image.array[..., [2, 0]])
    one = image.select(["green"])
    assert one.array.shape == (5, 7, 11)
    np.testing.assert_array_equal(one.array, image.array[..., 1])
    plain = oblique_image()
    assert plain.select(["image"]) is plain
    for wrong in (["alpha"], []):
        with pytest.raises(ReadError, match="no such channel"):
            image.select(wrong)


def test_equal_voxels_hash_alike_whatever_the_file(image: Image) -> None:
    same = replace(image, array=image.array.copy(), source=Source("elsewhere.nii", "nifti"))
    assert same.content_sha256() == image.content_sha256()
    big_endian = replace(image, array=image.array.astype(">i2"))
    assert big_endian.content_sha256() == image.content_sha256()
    fortran = replace(image, array=np.asfortranarray(image.array))
    assert fortran.content_sha256() == image.content_sha256()
    one_voxel = image.array.copy()
    one_voxel[4, 6, 10] += 1
    assert replace(image, array=one_voxel).content_sha256() != image.content_sha256()
    assert replace(image, array=image.array.astype(np.int32)).content_sha256() != image.content_sha256()
    other_shape = Image(image.array.reshape(7, 5, 11), Geometry.from_spacing((7, 5, 11), (1, 1, 1)))
    assert other_shape.content_sha256() != image.content_sha256()


def test_what_was_done_is_written_down(image: Image) -> None:
    done = image.moved(Permute((2, 1, 0)), Flip((0,)), Pad((1, 0, 0), (0, 0, 0)), fill=-1000)
    assert done.steps == ("permute", "flip", "pad")
    assert (done.array[0] == -1000).all()
    np.testing.assert_array_equal(done.array[1:], image.array.transpose(2, 1, 0)[::-1])
    doubled = done.with_array(done.array * 2, "doubled", quantity="arbitrary")
    assert doubled.steps[-1] == "doubled"
    assert doubled.quantity == "arbitrary"
    assert doubled.geometry == done.geometry


def test_match_and_oriented_bring_an_image_home(image: Image) -> None:
    turned = image.oriented("RAI")
    assert turned.geometry.orientation == "RAI"
    home = turned.match(image.geometry)
    np.testing.assert_array_equal(home.array, image.array)
    assert home.geometry.same_grid(image.geometry)
    larger = image.match(image.geometry.pad((1, 0, 0), (0, 0, 2)), fill=-5)
    assert larger.array.shape == (6, 7, 13)
    assert (larger.array[0] == -5).all()


def test_interpolating_integers_gives_real_numbers(image: Image) -> None:
    assert image.moved(Resample((10, 7, 11))).array.dtype == np.float32
    assert image.moved(Resample((10, 7, 11)), order=0).array.dtype == np.int16


def test_a_mask_is_laid_on_its_images_grid_when_no_mark_is_lost() -> None:
    grid = oblique_geometry()
    array = np.zeros(grid.shape, np.uint8)
    array[2:4, 2:5, 3:6] = 1
    mask = Image(array, grid, "label")
    assert mask.laid_on(grid) is mask
    for steps in ((Flip((0, 2)),), (Permute((2, 0, 1)),), (Crop((1, 1, 2), (4, 5, 6)),), (Pad((1, 0, 2), (0, 3, 0)),)):
        laid = mask.moved(*steps).laid_on(grid)
        np.testing.assert_array_equal(laid.array, array)
        assert laid.geometry.same_grid(grid)


@pytest.mark.parametrize("voxels", [(1, 0, 0), (0, -3, 0), (0, 0, 40), (0.5, 0, 0)])
def test_a_mask_with_as_many_voxels_elsewhere_is_refused(voxels: tuple[float, ...]) -> None:
    grid = oblique_geometry()
    affine = grid.affine_lps_mm.copy()
    affine[:3, 3] += affine[:3, :3] @ voxels
    empty = Image(np.zeros(grid.shape, np.uint8), Geometry(grid.shape, affine), "label")
    with pytest.raises(GeometryError, match=r"another grid.*origin.*--fix geometry"):
        empty.laid_on(grid)


def test_a_mask_that_marks_what_lies_outside_its_image_is_refused() -> None:
    grid = oblique_geometry()
    wide = grid.pad((2, 0, 0), (0, 0, 0))
    mask = Image(np.ones(wide.shape, np.uint8), wide, "label")
    with pytest.raises(GeometryError, match="outside its image: got 154 of 539"):
        mask.laid_on(grid)
