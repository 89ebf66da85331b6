"""Augmentation: drawn as plain values, applied the same way every time."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmap import augment
from medmap.augment import OFF, AugmentSection, Drawn

STRONG = AugmentSection(
    probability=1, rotate_deg=40, shift=0.2, scale=0.4, shear_deg=20, flip_axes=(0, 1), brightness=0.5, contrast=0.5,
    gamma=0.5, noise=0.5, blur_voxels=1.5, cutout=0.5, cutout_probability=1,
)  # fmt: skip


def batch(shape: tuple[int, ...] = (4, 2, 9, 13)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), ndim=st.sampled_from([2, 3]))
def test_the_same_draw_gives_the_same_image(seed: int, ndim: int) -> None:
    images = batch((3, 1, *[7, 9, 11][:ndim]))
    draws = [[augment.draw(STRONG, np.random.default_rng([seed, n]), ndim) for n in range(3)] for _ in range(2)]
    assert draws[0] == draws[1]
    json.dumps([dataclasses.asdict(d) for d in draws[0]])
    out = [augment.apply(images, d) for d in draws]
    assert torch.equal(out[0], out[1])
    assert out[0].shape == images.shape
    assert torch.isfinite(out[0]).all()


def test_off_changes_nothing_and_does_not_share_memory() -> None:
    images = batch()
    out = augment.apply(images, [augment.draw(OFF, np.random.default_rng(n), 2) for n in range(4)])
    torch.testing.assert_close(out, images, atol=1e-6, rtol=0)
    out.zero_()
    assert images.abs().sum() > 0


def still(**changes: object) -> Drawn:
    return dataclasses.replace(Drawn(matrix=((1.0, 0.0), (0.0, 1.0)), shift=(0.0, 0.0)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_flip_is_a_flip(axis: int) -> None:
    images = batch((1, 1, 6, 10))
    out = augment.apply(images, [still(flips=(axis,))])
    torch.testing.assert_close(out, images.flip(2 + axis), atol=1e-5, rtol=0)


def test_a_quarter_turn_turns_a_picture_that_is_no_square() -> None:
    images = torch.zeros(1, 1, 5, 9)
    images[0, 0, 2, 4 + 2] = 1  # two voxels right of the centre
    turned = augment.apply(images, [still(matrix=((0.0, -1.0), (1.0, 0.0)))])
    where = turned[0, 0].argmax().item()
    row, column = divmod(int(where), 9)
    assert (abs(row - 2), column) == (2, 4)  # two voxels above or below it: a rotation in voxels, not in sides
    assert turned.max() == pytest.approx(1.0, abs=1e-4)


def test_a_shift_moves_by_its_part_of_the_side() -> None:
    images = torch.zeros(1, 1, 10, 10)
    images[0, 0, 5, 5] = 1
    out = augment.apply(images, [still(shift=(0.2, 0.0))])
    assert out[0, 0, 3, 5] == pytest.approx(1.0, abs=1e-4)


def test_zoom_scales_about_the_centre() -> None:
    images = torch.zeros(1, 1, 9, 9)
    images[0, 0, 4, 4] = 1
    out = augment.apply(images, [still(matrix=((0.5, 0.0), (0.0, 0.5)))])
    assert out[0, 0, 4, 4] == pytest.approx(1.0, abs=1e-4)
    assert out.sum() > 3


def test_cut_out_replaces_a_box_only() -> None:
    images = batch((1, 1, 20, 20))
    out = augment.apply(images, [still(box=(0.5, 0.5, 0.3))])
    changed = ~torch.isclose(out, images, atol=1e-5)[0, 0]
    assert 30 <= int(changed.sum()) <= 36
    assert changed[7:13, 7:13].all()


def test_brightness_and_contrast_are_what_was_drawn() -> None:
    images = batch((1, 1, 8, 8))
    out = augment.apply(images, [still(brightness=0.3, contrast=1.5)])
    torch.testing.assert_close(out, (images - images.mean()) * 1.5 + images.mean() + 0.3)


def test_noise_has_the_drawn_deviation() -> None:
    images = torch.zeros(1, 1, 100, 100)
    out = augment.apply(images, [still(noise=0.2, noise_seed=3)])
    assert out.std().item() == pytest.approx(0.2, rel=0.05)


def test_blur_keeps_the_mean_of_a_spot() -> None:
    images = torch.zeros(1, 1, 21, 21)
    images[0, 0, 10, 10] = 1
    out = augment.apply(images, [still(blur_voxels=1.2)])
    assert out.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert out.max() < 0.2


@pytest.mark.parametrize(
    ("modality", "names", "ndim", "patient", "flips"),
    [
        ("US", ["malignant", "benign"], 2, False, (1,)),
        ("SM", ["tumour"], 2, False, (0, 1)),
        ("SM", ["left lobe"], 2, False, ()),
        ("CT", ["kidney-left", "kidney-right"], 2, False, ()),
        ("CR", ["pneumonia"], 2, False, ()),
        ("US", ["a"], 3, True, ()),
        (None, ["a"], 2, False, ()),
    ],
)
def test_flips_follow_anatomy(
    modality: str | None, names: list[str], ndim: int, patient: bool, flips: tuple[int, ...]
) -> None:
    assert augment.allowed_flips(modality, ndim, names, patient) == flips


def test_mixup_keeps_the_larger_share_at_home() -> None:
    weights = augment.mixup_weights(AugmentSection(mixup=0.4), np.random.default_rng(0), 64)
    assert weights is not None
    assert weights.min() >= 0.5
    assert weights.max() <= 1
    assert augment.mixup_weights(OFF, np.random.default_rng(0), 64) is None


def test_a_crop_shows_a_part_from_inside() -> None:
    images = torch.arange(100.0).reshape(1, 1, 10, 10)
    section = OFF.model_copy(update={"crop": 0.5})
    for seed in range(20):
        drawn = augment.draw(section, np.random.default_rng(seed), 2)
        kept = drawn.matrix[0][0]
        assert 0.5 <= kept <= 1
        assert all(abs(s) <= (1 - kept) / 2 + 1e-9 for s in drawn.shift)
        out = augment.apply(images, [drawn])
        step = float(out[0, 0, 5, 6] - out[0, 0, 5, 5])
        assert step == pytest.approx(kept, abs=1e-3)
        assert out.min() >= images.min()
        assert out.max() <= images.max()


def test_across_thick_slices_nothing_moves() -> None:
    moves = {"probability": 1, "rotate_deg": 40, "shift": 0.2, "scale": 0.4, "shear_deg": 20, "crop": 0.3}
    section = OFF.model_copy(update={**moves, "flat_axis": 1})
    volume = torch.zeros(1, 1, 9, 5, 9)
    volume[..., 2, :] = torch.rand(1, 1, 9, 9) + 1
    for seed in range(20):
        drawn = augment.draw(section, np.random.default_rng(seed), 3)
        matrix = np.array(drawn.matrix)
        np.testing.assert_array_equal(matrix[1], (0, 1, 0))
        np.testing.assert_array_equal(matrix[:, 1], (0, 1, 0))
        assert drawn.shift[1] == 0
        moved = augment.apply(volume, [drawn])
        assert float(moved[..., [0, 1, 3, 4], :].abs().max()) < 1e-4, "nothing leaves its slice"
