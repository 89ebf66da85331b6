"""Several inputs of one case as the channels of one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from grids import oblique_geometry
from medmap.augment import OFF, apply, draw
from medmap.errors import DataError
from medmap.geometry import Crop, Geometry, Resample
from medmap.image import Image, Source
from medmap.prepare import PrepareSection, fit, joined

SLOPE = np.array([0.3, -0.2, 0.5])


def ramp(geometry: Geometry, **more: object) -> Image:
    """An image whose value is a linear function of the place: linear interpolation gives it back exactly."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
    affine = np.asarray(geometry.affine_lps_mm)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return Image((world @ SLOPE).astype(np.float32), geometry, **more)  # type: ignore[arg-type]


def test_inputs_are_brought_to_the_first_ones_grid() -> None:
    first = oblique_geometry()
    finer = Resample(tuple(2 * n for n in first.shape)).apply(first)
    shorter = Crop((1, 2, 3), tuple(n - 5 for n in finer.shape)).apply(finer)
    found = joined({"t1": ramp(first), "flair": ramp(shorter)})
    assert found.channels == ("t1", "flair")
    assert found.geometry == first
    inside = np.isfinite(found.array[..., 1])
    assert 0.1 < inside.mean() < 1  # what lies beyond the second's field of view is not known
    deep = ndimage.binary_erosion(inside)  # at its outer voxels' edges the last value is held
    assert deep.any()
    np.testing.assert_allclose(found.array[..., 1][deep], found.array[..., 0][deep], atol=1e-3)
    np.testing.assert_allclose(found.array[..., 1][inside], found.array[..., 0][inside], atol=1.0)


def test_a_coarser_input_reaches_to_its_voxels_edges() -> None:
    fine = Geometry.from_spacing((8, 8, 8), (1.0, 1.0, 1.0))
    coarse = Resample((4, 4, 4)).apply(fine)
    found = joined({"t1": ramp(fine), "flair": ramp(coarse)})
    assert np.isfinite(found.array).all()
    middle = (slice(1, -1),) * 3
    np.testing.assert_allclose(found.array[..., 1][middle], found.array[..., 0][middle], atol=1e-4)


def test_what_was_not_acquired_is_nan_then_zero_and_said() -> None:
    grid = oblique_geometry()
    images = {"t1": None, "flair": ramp(grid, source=Source(warnings=("odd",)))}
    found = joined(images)
    assert np.isnan(found.array[..., 0]).all()
    assert found.source.warnings == ("odd", "t1 was not acquired: the network sees the others")
    section = PrepareSection(shape=grid.shape, grid="native", intensity="zscore", channels=2)
    recipe = fit(section, [joined({"t1": ramp(grid), "flair": ramp(grid)})])
    tensors = recipe.apply(found).tensors["image"]
    assert not tensors[0].any()
    assert tensors[1].std() == pytest.approx(1, abs=1e-3)
    alone = joined({"flair": ramp(grid)})
    np.testing.assert_array_equal(alone.array, ramp(grid).array)
    assert alone.channels == ("image",)


def test_each_channel_has_its_own_lowest_value() -> None:
    grid = Geometry.from_spacing((4, 4), (1.0, 1.0))
    high = np.full((4, 4), 1000.0, np.float32)
    high[0, 0] = np.nan
    high[1, 1] = 900
    low = np.arange(16, dtype=np.float32).reshape(4, 4)
    section = PrepareSection(shape=(4, 4), grid="native", intensity="zscore", channels=2)
    image = joined({"a": Image(high, grid), "b": Image(low, grid)})
    tensors = fit(section, [image]).apply(image).tensors["image"]
    assert tensors[0, 0, 0] == tensors[0, 1, 1]


def test_what_cannot_be_joined_is_refused() -> None:
    flat = Geometry.without_size((4, 4))
    grey = Image(np.zeros((4, 4), np.float32), flat)
    colour = Image(np.zeros((4, 4, 3), np.uint8), flat, "colour", channels=("R", "G", "B"))
    with pytest.raises(DataError, match="several channels"):
        joined({"a": grey, "b": colour})
    with pytest.raises(DataError, match="nothing says how they lie"):
        joined({"a": grey, "b": Image(np.zeros((4, 5), np.float32), Geometry.without_size((4, 5)))})
    with pytest.raises(DataError, match="pictures and volumes"):
        joined({"a": grey, "b": ramp(oblique_geometry())})
    with pytest.raises(DataError, match="none of the inputs was acquired"):
        joined({"a": None, "b": None})


def test_channels_are_withheld_and_never_all() -> None:
    section = OFF.model_copy(update={"drop_inputs": 0.6})
    rng = np.random.default_rng(0)
    drawn = [draw(section, rng, 2) for _ in range(200)]
    images = torch.ones(200, 3, 4, 4) + torch.rand(200, 3, 4, 4)
    found = apply(images, drawn)
    gone = (found == 0).flatten(2).all(2)
    assert not gone.all(1).any()
    assert 0.4 < gone.float().mean() < 0.65
    assert torch.equal(found[~gone], images[~gone])
    assert torch.equal(apply(images, drawn), found)
    assert (apply(images[:, :1], drawn) != 0).all()  # a single input is never withheld
