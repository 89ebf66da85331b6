"""Preparation: fitted once, the same everywhere, and with a way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmap.errors import BundleError, DataError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.prepare import PrepareSection, Recipe, fit, geometric_steps, to_channels


def picture(shape: tuple[int, ...] = (30, 20), seed: int = 0, dtype: type = np.uint8) -> Image:
    values = np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)
    return Image(values, Geometry.without_size(shape), "arbitrary")


def test_fit_makes_training_images_standard() -> None:
    images = [picture(seed=n) for n in range(8)]
    recipe = fit(PrepareSection(shape=(30, 20)), images)
    seen = np.stack([recipe.apply(image).tensors["image"] for image in images])
    assert seen.shape == (8, 1, 30, 20)
    assert seen.dtype == np.float32
    assert abs(float(seen.mean())) < 1e-3
    assert abs(float(seen.std()) - 1) < 1e-2


def test_eight_bit_range_is_the_type_range() -> None:
    recipe = fit(PrepareSection(shape=(30, 20)), [picture()])
    assert (recipe.low, recipe.high) == (0.0, 255.0)


def test_window_is_fitted_from_percentiles_and_clips() -> None:
    values = np.linspace(-1000, 3000, 600).reshape(30, 20).astype(np.float32)
    image = Image(values, Geometry.from_spacing((30, 20), (1, 1)), "HU")
    recipe = fit(PrepareSection(shape=(30, 20), intensity="window", window=(-100, 300)), [image])
    out = recipe.apply(image).tensors["image"]
    assert out.min() == pytest.approx((0 - recipe.mean[0]) / recipe.std[0], abs=1e-5)
    assert out.max() == pytest.approx((1 - recipe.mean[0]) / recipe.std[0], abs=1e-5)
    assert recipe.apply(image).trace.lossy_intensity


def test_zscore_ignores_scale_and_offset() -> None:
    image = picture(dtype=np.float32)
    other = Image(image.array * 7 + 100, image.geometry, "arbitrary")
    recipe = fit(PrepareSection(shape=(30, 20), intensity="zscore"), [image])
    a, b = (recipe.apply(x).tensors["image"] for x in (image, other))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_standardising_is_undone() -> None:
    images = [picture((30, 20), seed) for seed in range(4)]
    recipe = fit(PrepareSection(shape=(30, 20), channels=3), images)
    seen = recipe.apply(images[0]).tensors["image"]
    wanted = np.moveaxis(np.repeat(images[0].array[..., None], 3, axis=-1), -1, 0) / 255
    np.testing.assert_allclose(recipe.unstandardised(seen), wanted, atol=1e-5)
    np.testing.assert_allclose(recipe.unstandardised(seen[None, None], axis=2)[0, 0], wanted, atol=1e-5)
    own = fit(PrepareSection(shape=(30, 20), intensity="zscore"), images)
    seen = own.apply(images[0]).tensors["image"]
    np.testing.assert_array_equal(own.unstandardised(seen), seen)


def test_json_round_trip_gives_the_same_tensors() -> None:
    recipe = fit(PrepareSection(shape=(12, 16), channels=3), [picture()])
    again = Recipe.from_json(json.loads(json.dumps(recipe.as_json())))
    assert again.digest == recipe.digest
    np.testing.assert_array_equal(
        recipe.apply(picture(seed=5)).tensors["image"], again.apply(picture(seed=5)).tensors["image"]
    )


@pytest.mark.parametrize("change", [{"extra": 1}, {"low": "x"}, {"prepare": {"shape": [3]}}])
def test_damaged_recipe_is_refused(change: dict[str, object]) -> None:
    data = fit(PrepareSection(shape=(30, 20)), [picture()]).as_json() | change
    with pytest.raises(BundleError, match="recipe"):
        Recipe.from_json(data)


def test_nothing_to_fit_on() -> None:
    with pytest.raises(DataError, match="at least one training image"):
        fit(PrepareSection(shape=(4, 4)), [])


def test_flat_images_are_refused() -> None:
    flat = Image(np.full((4, 4), 7, np.float32), Geometry.without_size((4, 4)))
    with pytest.raises(DataError, match="no spread"):
        fit(PrepareSection(shape=(4, 4), intensity="window"), [flat])


def test_a_volume_for_a_picture_recipe_is_refused() -> None:
    recipe = fit(PrepareSection(shape=(30, 20)), [picture()])
    volume = Image(np.zeros((5, 6, 7), np.uint8), Geometry.without_size((5, 6, 7)))
    with pytest.raises(DataError, match="dimensions"):
        recipe.apply(volume)


def test_two_channels_for_three_are_refused() -> None:
    image = Image(np.zeros((4, 4, 2), np.uint8), Geometry.without_size((4, 4)), channels=("a", "b"))
    with pytest.raises(DataError, match="channels"):
        to_channels(image, 3)


def test_colour_becomes_grey_by_luma() -> None:
    array = np.zeros((2, 2, 3), np.uint8)
    array[..., 1] = 100
    image = Image(array, Geometry.without_size((2, 2)), "colour", ("red", "green", "blue"))
    assert to_channels(image, 1) == pytest.approx(np.full((2, 2, 1), 58.7), abs=1e-3)


def test_values_that_are_not_finite_become_the_smallest_finite_one() -> None:
    array = np.array([[1.0, np.nan], [np.inf, 3.0]])
    assert to_channels(Image(array, Geometry.without_size((2, 2))), 1)[..., 0].tolist() == [[1, 1], [1, 3]]
    with pytest.raises(DataError, match="no finite value"):
        to_channels(Image(np.full((2, 2), np.nan), Geometry.without_size((2, 2))), 1)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 24)] * 3),
    target=st.tuples(*[st.integers(4, 16)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
    voxel=st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.0, 2.5)]),
)
def test_volumes_keep_their_proportions_and_their_place(
    shape: tuple[int, ...], target: tuple[int, ...], spacing: tuple[float, ...], voxel: tuple[float, ...]
) -> None:
    grid = Geometry.from_spacing(shape, spacing)
    image = Image(np.zeros(shape, np.uint8), grid)
    recipe = Recipe(PrepareSection(shape=target, proportions=voxel), 0, 255, (0.0,), (1.0,))
    prepared = recipe.apply(image)
    assert prepared.tensors["image"].shape == (1, *target)
    found = np.array(prepared.trace.target.spacing_mm) / voxel
    # padding gives the voxels their proportions, up to a voxel of rounding and the tolerance of stretching
    assert found.max() / found.min() < 1.06 + 1.5 * max(1 / n for n in shape)
    centre = (np.array(target) - 1) / 2
    source_centre = grid.to_world([(np.array(shape) - 1) / 2])[0]
    moved = prepared.trace.target.to_world([centre])[0]
    assert np.abs(moved - source_centre).max() <= max(spacing) * 0.51 + 1e-6


def test_orientation_turns_every_volume_the_same_way(image: Image) -> None:
    section = PrepareSection(shape=(8, 8, 8), orientation="LPS", intensity="zscore")
    turned = image.moved(*image.geometry.oriented("RAI"))
    recipe = fit(section, [image])
    a, b = recipe.apply(image), recipe.apply(turned)
    np.testing.assert_allclose(a.tensors["image"], b.tensors["image"], atol=1e-4)
    assert a.trace.target.orientation == b.trace.target.orientation == "LPS"


def test_no_step_where_the_image_fits() -> None:
    assert geometric_steps(picture((8, 8)), PrepareSection(shape=(8, 8))) == ()


def test_a_spacing_out_of_range_does_not_ask_for_all_memory() -> None:
    image = Image(np.random.default_rng(0).normal(size=(8, 8, 8)), Geometry.from_spacing((8, 8, 8), (1.0, 1.0, 1.0)))
    recipe = fit(PrepareSection(shape=(8, 8, 8), grid="spacing", spacing_mm=(1.0, 1.0, 1.0)), [image])
    far = Image(image.array, Geometry.from_spacing((8, 8, 8), (1e9, 1.0, 1.0)))
    with pytest.raises(DataError, match=r"too large.*8e\+09 × 8 × 8 mm"):
        recipe.apply(far)
