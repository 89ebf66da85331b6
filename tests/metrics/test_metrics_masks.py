"""Scores of masks: the conventions, invariances, and agreement with MONAI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mask_pairs import brute_force, grids, pairs
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.metrics import masks
from medmap.metrics.lesions import LesionCounts
from medmap.metrics.masks import MaskRules, MaskScores, as_regions, confusion, mask_scores
from medmap.read import read

Pair = tuple[np.ndarray, np.ndarray, Geometry]
NAMES = {1: "liver", 2: "spleen", 3: "tumour"}


def same(one: MaskScores, two: MaskScores) -> None:
    assert (one.truth_voxels, one.prediction_voxels, one.common_voxels, one.lesions) == (
        two.truth_voxels,
        two.prediction_voxels,
        two.common_voxels,
        two.lesions,
    )
    for name in ("hd95_mm", "assd_mm", "nsd", "volume_error_ml"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), abs=1e-9)


@given(pairs(labels=3))
def test_every_structure_is_scored_as_if_it_were_alone(pair: Pair) -> None:
    truth, prediction, geometry = pair
    for score, (value, name) in zip(mask_scores(*pair, NAMES), NAMES.items(), strict=True):
        one, two = truth == value, prediction == value
        assert score.structure == name
        assert (score.truth_voxels, score.prediction_voxels, score.common_voxels) == (
            one.sum(),
            two.sum(),
            (one & two).sum(),
        )
        both, either = one.sum() + two.sum(), (one | two).sum()
        assert score.dice == pytest.approx(2 * (one & two).sum() / both if both else 1)
        assert score.iou == pytest.approx((one & two).sum() / either if either else 1)
        if one.any() and two.any():
            there, back = brute_force(one, two, geometry)
            assert score.assd_mm == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-9)
        alone = mask_scores(one.astype(np.uint8), two.astype(np.uint8), geometry, {1: name})[0]
        same(score, alone)


@given(pairs(labels=3), st.integers(0, 5))
def test_no_number_depends_on_the_order_of_the_axes(pair: Pair, turn: int) -> None:
    truth, prediction, geometry = pair
    order = list(np.random.default_rng(turn).permutation(truth.ndim))
    moved = [np.asfortranarray(a.transpose(order)) if turn % 2 else a.transpose(order) for a in (truth, prediction)]
    if truth.ndim == 2:
        affine = geometry.affine_lps_mm.copy()
        affine[:, :2] = affine[:, order]
        there = Geometry(tuple(truth.shape[a] for a in order), affine)
    else:
        there = geometry.permute(order)
    for one, two in zip(mask_scores(*pair, NAMES), mask_scores(*moved, there, NAMES), strict=True):
        same(one, two)


@given(pairs(labels=2))
def test_padding_and_flipping_change_nothing_but_the_field_of_view(pair: Pair) -> None:
    truth, prediction, geometry = pair
    moved = [np.pad(a, [(2, 1)] * a.ndim)[::-1] for a in (truth, prediction)]
    there = geometry.pad((2,) * truth.ndim, (1,) * truth.ndim).flip((0,))
    for one, two in zip(mask_scores(*pair, NAMES), mask_scores(*moved, there, NAMES), strict=True):
        if bool(one.truth_voxels) != bool(one.prediction_voxels):
            assert two.hd95_mm == pytest.approx(there.field_of_view_diagonal_mm)
            continue
        same(one, two)


@given(pairs(labels=2))
def test_swapping_truth_and_prediction(pair: Pair) -> None:
    truth, prediction, geometry = pair
    for one, two in zip(mask_scores(*pair, NAMES), mask_scores(prediction, truth, geometry, NAMES), strict=True):
        assert (one.dice, one.iou, one.lesion_f1) == (two.dice, two.iou, two.lesion_f1)
        assert (one.hd95_mm, one.assd_mm, one.nsd) == pytest.approx((two.hd95_mm, two.assd_mm, two.nsd))
        if geometry.ndim == 3:
            assert one.volume_error_ml == pytest.approx(-two.volume_error_ml)


def test_missed_and_invented_structures_count() -> None:
    truth, prediction = np.zeros((2, 5, 6, 7), np.uint8)
    truth[1, 1, 1] = 1
    prediction[2, 2, 2] = 2
    geometry = grids(truth.shape)[0]
    missed, invented, absent = mask_scores(truth, prediction, geometry, NAMES)
    far = geometry.field_of_view_diagonal_mm
    for score in (missed, invented):
        assert (score.dice, score.iou, score.nsd, score.hd95_mm, score.assd_mm) == (0, 0, 0, far, far)
        assert score.lesion_f1 == 0
    assert (missed.lesion_sensitivity, missed.lesion_precision) == (0, None)
    assert (invented.lesion_sensitivity, invented.lesion_precision) == (None, 0)
    voxel_ml = geometry.voxel_volume_mm3 / 1000
    assert (missed.volume_error_ml, invented.volume_error_ml) == pytest.approx((-voxel_ml, voxel_ml))
    assert (absent.dice, absent.iou, absent.nsd, absent.hd95_mm, absent.assd_mm) == (1, 1, 1, 0, 0)
    assert (absent.lesion_f1, absent.lesion_sensitivity, absent.volume_error_ml) == (1, None, 0)


def test_without_millimetres_overlap_is_still_known() -> None:
    truth = np.eye(5, dtype=np.uint8)
    score = mask_scores(truth, np.roll(truth, 1, axis=0), Geometry.without_size((5, 5)), {1: "vessel"})[0]
    assert (score.dice, score.lesions.found) == (0.0, 1 if score.common_voxels else 0)
    for name in ("hd95_mm", "assd_mm", "nsd", "tolerance_mm", "volume_error_ml", "volume_truth_ml"):
        assert getattr(score, name) is None
    flat = mask_scores(truth, truth, Geometry.from_spacing((5, 5), (1, 1), "detector"), {1: "vessel"})[0]
    assert (flat.hd95_mm, flat.nsd, flat.volume_truth_ml, flat.volume_prediction_ml) == (0, 1, None, None)


def test_regions_may_overlap() -> None:
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 3, (2, 5, 6, 7)).astype(np.uint8)
    regions = {"whole": (1, 2), "core": (2,)}
    geometry = grids(truth.shape)[1]
    names = {1: "whole", 2: "core"}
    both = mask_scores(as_regions(truth, regions), as_regions(prediction, regions), geometry, names)
    for score, values in zip(both, regions.values(), strict=True):
        one, two = (np.isin(a, values).astype(np.uint8) for a in (truth, prediction))
        same(score, mask_scores(one, two, geometry, {1: score.structure})[0])
    only = mask_scores(as_regions(truth, regions), as_regions(prediction, regions), geometry, names, known=["core"])
    assert [score.structure for score in only] == ["core"]
    same(only[0], both[1])
    one = mask_scores(truth > 0, prediction > 0, geometry, {1: "whole"})
    same(one[0], both[0])


def test_partial_labels_and_ignored_voxels() -> None:
    rng = np.random.default_rng(2)
    truth, prediction = rng.integers(0, 4, (2, 5, 6, 7)).astype(np.uint8)
    geometry = grids(truth.shape)[0]
    every = mask_scores(truth, prediction, geometry, NAMES)
    some = mask_scores(truth, prediction, geometry, NAMES, known={"tumour", "liver"})
    assert some == (every[0], every[2])
    away = rng.random(truth.shape) < 0.3
    without = [np.where(away, 0, a).astype(np.uint8) for a in (truth, prediction)]
    expected = mask_scores(*without, geometry, NAMES)
    assert mask_scores(truth, prediction, geometry, NAMES, ignore=away) == expected
    marked = np.where(away, 255, truth).astype(np.uint8)
    assert mask_scores(marked, prediction, geometry, NAMES, ignore=255) == expected
    assert truth.max() == 3  # what was given is not changed


def test_a_tolerance_for_each_structure() -> None:
    truth = np.zeros((6, 6, 6), np.uint8)
    truth[1:3], truth[3:5] = 1, 2
    geometry = Geometry.from_spacing(truth.shape, (1, 1, 1))
    rules = MaskRules({"liver": 0.5})
    first, second = mask_scores(truth, np.roll(truth, 1, axis=0), geometry, {1: "liver", 2: "spleen"}, rules=rules)
    assert (first.tolerance_mm, second.tolerance_mm, second.nsd) == (0.5, 2.0, 1.0)
    assert first.nsd is not None
    assert first.nsd < 1


# MONAI 1.6 calls its own deprecated argument (seen 2026-11-30)
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
def test_monai_measures_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blurred = rng.random((14, 15, 16))
    truth = blurred > 0.4
    prediction = np.roll(truth, 1, axis=2) & (rng.random(truth.shape) < 0.9)
    spacing = (0.7, 1.3, 2.9)
    score = mask_scores(truth, prediction, Geometry.from_spacing(truth.shape, spacing), {1: "a"})[0]
    y, guess = (torch.from_numpy(a)[None, None].float() for a in (truth, prediction))
    more = {"include_background": True, "spacing": spacing}
    assert score.hd95_mm == pytest.approx(compute_hausdorff_distance(guess, y, percentile=95, **more).item(), rel=1e-6)
    assert score.assd_mm == pytest.approx(
        compute_average_surface_distance(guess, y, symmetric=True, **more).item(), rel=1e-6
    )
    theirs = compute_surface_dice(guess, y, [2.0], include_background=True, spacing=spacing, use_subvoxels=False)
    assert score.nsd == pytest.approx(theirs.item(), rel=1e-6)


def test_two_observers_of_real_vessels_agree_as_published(shared_data: Path) -> None:
    """CHASE_DB1 (Fraz et al. 2012): Dice between the two observers is 0.777."""
    dice = []
    for first in sorted((shared_data / "chase_db1").rglob("*_1stHO.png")):
        truth, second = (
            read(str(path)).array > 0 for path in (first, first.with_name(first.name.replace("1st", "2nd")))
        )
        dice.append(mask_scores(truth, second, Geometry.without_size(truth.shape), {1: "vessel"})[0].dice)
    assert len(dice) == 28
    assert np.mean(dice) == pytest.approx(0.777, abs=0.001)


def test_the_confusion_matrix() -> None:
    rng = np.random.default_rng(4)
    truth, prediction = rng.integers(0, 4, (2, 9, 9)).astype(np.uint16)
    table = confusion(truth, prediction, [1, 2, 3])
    assert table.sum() == truth.size
    for a in range(4):
        for b in range(4):
            assert table[a, b] == ((truth == a) & (prediction == b)).sum()


def test_many_slabs_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    truth, prediction = rng.integers(0, 4, (2, 9, 5, 4)).astype(np.uint8)
    whole = confusion(truth, prediction, [1, 2, 3])
    monkeypatch.setattr(masks, "_CHUNK_VOXELS", 30)
    assert np.array_equal(confusion(truth, prediction, [1, 2, 3]), whole)


def test_refusals() -> None:
    truth = np.ones((4, 5), np.uint8)
    grid = Geometry.from_spacing((4, 5), (1, 1))
    for names in ({}, {1: "a", 2: "a"}, {1: "all"}, {1: ""}):
        with pytest.raises(UsageError, match="names"):
            mask_scores(truth, truth, grid, names)
    for value in (0, -1, 70_000):
        with pytest.raises(UsageError, match="out of range"):
            mask_scores(truth, truth, grid, {value: "a"})
    with pytest.raises(UsageError, match="not there"):
        mask_scores(truth, truth, grid, {1: "a"}, known=["b"])
    for wrong in (truth.astype(np.float32), truth.astype(np.int16), truth > 0):
        with pytest.raises(DataError, match="no label map"):
            mask_scores(truth, wrong, grid, {1: "a"})
    with pytest.raises(GeometryError, match="prediction does not fit"):
        mask_scores(truth, truth.T, grid, {1: "a"})
    with pytest.raises(GeometryError, match="mask does not fit"):
        mask_scores(truth > 0, truth > 0, grid, {1: "a", 2: "b"})
    with pytest.raises(DataError, match="prediction has labels that no structure has: got 7"):
        mask_scores(truth, truth * 7, grid, {1: "a"})
    with pytest.raises(DataError, match="truth has labels"):
        mask_scores(truth.astype(np.uint32) * 70_000, truth, grid, {1: "a"})
    for ignore in (truth, truth[1:] > 0):
        with pytest.raises(GeometryError, match="ignored voxels"):
            mask_scores(truth, truth, grid, {1: "a"}, ignore=ignore)
    with pytest.raises(UsageError, match="no label to ignore"):
        mask_scores(truth > 0, truth > 0, grid, {1: "a"}, ignore=255)
    with pytest.raises(DataError, match="two label maps"):
        confusion(truth, truth.T, [1])
    with pytest.raises(UsageError, match="tolerance"):
        MaskRules({"a": 0})
    with pytest.raises(UsageError, match="share"):
        MaskRules(lesion_overlap=1)
    with pytest.raises(UsageError, match="contradict"):
        MaskScores("a", 1, 1, 2, None, None, None, None, None, LesionCounts(0, 0, 0, 0))
    with pytest.raises(UsageError, match="hd95_mm of a is no measure"):
        MaskScores("a", 1, 1, 1, float("nan"), 1.0, 1.0, 2.0, None, LesionCounts(0, 0, 0, 0))
