"""Boxes go where augmentation takes what they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmap import augment
from medmap.augment import AugmentSection, Drawn

STILL = tuple(tuple(row) for row in np.eye(2).tolist())


def ellipsoid(shape: tuple[int, ...], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Voxels whose centres lie in the ellipsoid of a box given by its edges."""
    grid = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in shape], indexing="ij"), axis=-1)
    return (((grid - (low + high) / 2) / ((high - low) / 2)) ** 2).sum(-1) <= 1


def box_of(mask: np.ndarray) -> np.ndarray:
    where = np.argwhere(mask)
    return np.concatenate([where.min(0), where.max(0) + 1]).astype(float)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), ndim=st.sampled_from([2, 3]))
def test_a_moved_box_is_the_box_of_the_moved_mask(seed: int, ndim: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (64, 56) if ndim == 2 else (40, 36, 32)
    half = rng.uniform(4, 8, ndim)
    centre = np.array(shape) / 2 + rng.uniform(-3, 3, ndim)
    low, high = centre - half, centre + half
    section = AugmentSection(
        rotate_deg=180, scale=0.3, shift=0.05, shear_deg=8, flip_axes=tuple(range(ndim)), brightness=0, contrast=0,
        gamma=0, noise=0, cutout=0, probability=1,
    )  # fmt: skip
    drawn = augment.draw(section, rng, ndim)
    mask = torch.from_numpy(ellipsoid(shape, low, high)[None, None].astype(np.float32))
    boxes = torch.from_numpy(np.concatenate([low, high])[None, None].astype(np.float32))
    image, moved = augment.apply_with_boxes(mask, boxes, [drawn])
    seen = box_of(image[0, 0].numpy() > 0.5)
    assert np.abs(moved[0, 0].numpy() - seen).max() <= 1.3  # the ellipsoid's voxels say where it ends to about one


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), axes=st.sampled_from([(), (0,), (1,), (0, 1)]))
def test_flips_take_any_box_exactly(seed: int, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, 2)
    high = low + rng.integers(1, 12, 2)
    mask = np.zeros((40, 36), np.float32)
    mask[low[0] : high[0], low[1] : high[1]] = 1
    boxes = torch.tensor([[[*low, *high]]], dtype=torch.float32)
    image, moved = augment.apply_with_boxes(
        torch.from_numpy(mask)[None, None], boxes, [Drawn(STILL, (0.0, 0.0), flips=axes)]
    )
    np.testing.assert_allclose(moved[0, 0].numpy(), box_of(image[0, 0].numpy() > 0.5), atol=1e-4)


def test_a_shift_and_a_zoom_take_a_box_exactly() -> None:
    half = tuple(tuple(row) for row in (np.eye(2) * 0.5).tolist())  # the image is read half as wide: twice as large
    boxes = torch.tensor([[[20.0, 20.0, 24.0, 28.0, 1.0]]])
    _, moved = augment.apply_with_boxes(torch.zeros(1, 1, 40, 40), boxes, [Drawn(half, (0.0, 0.0))])
    assert moved[0, 0].tolist() == [20.0, 20.0, 28.0, 36.0, 1.0]
    _, moved = augment.apply_with_boxes(torch.zeros(1, 1, 40, 40), boxes, [Drawn(STILL, (0.25, 0.0))])
    assert moved[0, 0].tolist() == [10.0, 20.0, 14.0, 28.0, 1.0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_mosaic_keeps_its_boxes_on_what_they_hold(ndim: int) -> None:
    shape = (48,) * ndim
    images, rows = [], []
    for number in range(4):
        low = np.full(ndim, 6 + 6 * number)
        images.append(ellipsoid(shape, low, low + 12).astype(np.float32))
        rows.append([*low, *(low + 12), 1.0, 1.0])
    boxes = torch.tensor(rows, dtype=torch.float32)[:, None]
    batch = torch.from_numpy(np.stack(images))[:, None]
    made, found = augment.mosaic(batch, boxes, 1.0, np.random.default_rng(3))
    assert made.shape == batch.shape
    assert not torch.equal(made, batch)
    for image, mine in zip(made[:, 0].numpy(), found.numpy(), strict=True):
        covered = np.zeros(shape, bool)
        for row in mine[mine[:, 2 * ndim] != 0]:
            low, high = np.round(row[:ndim]).astype(int), np.round(row[ndim : 2 * ndim]).astype(int)
            covered[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
            share = np.prod(high - low) / 12**ndim
            assert (row[2 * ndim] > 0) == (share >= 0.5)
        assert (image[~covered] > 0).sum() <= 0.1 * 12**ndim * 4  # slivers below a tenth of a box are left out
    same, kept = augment.mosaic(batch, boxes, 0.0, np.random.default_rng(3))
    assert torch.equal(same, batch)
    assert torch.equal(kept, boxes)


def test_mosaics_are_made_of_one_kind_of_image() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 16, 16).clone()
    made, _ = augment.mosaic(images, torch.zeros(4, 0, 6), 1.0, np.random.default_rng(0), [(0,), None, (0,), None])
    for number, one in enumerate(made):
        assert set(one.unique().int().tolist()) <= {number % 2, number % 2 + 2}
    alone, _ = augment.mosaic(images, torch.zeros(4, 0, 6), 1.0, np.random.default_rng(0), [0, 1, 2, 3])
    assert torch.equal(alone, images)
