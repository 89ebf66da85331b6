"""Surface distances against brute force on oblique, sheared and flat grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mask_pairs import border, brute_force, grids, pairs

from medmap.errors import GeometryError, UsageError
from medmap.geometry import Geometry
from medmap.metrics import surfaces
from medmap.metrics.surfaces import surface_distances, surface_voxels
from medmap.phantom import oblique

Pair = tuple[np.ndarray, np.ndarray, Geometry]


@given(pairs(empty=False))
def test_distances_are_those_of_brute_force(pair: Pair) -> None:
    truth, prediction, geometry = pair[0] > 0, pair[1] > 0, pair[2]
    found = surface_distances(truth, prediction, geometry)
    there, back = brute_force(truth, prediction, geometry)
    np.testing.assert_allclose(found.truth_to_prediction_mm, there, atol=1e-9)
    np.testing.assert_allclose(found.prediction_to_truth_mm, back, atol=1e-9)
    both = np.concatenate([there, back])
    assert found.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-9)
    assert found.hausdorff_mm == pytest.approx(both.max(), abs=1e-9)
    assert found.assd_mm == pytest.approx(both.mean(), abs=1e-9)
    for tolerance in (0.7, 1.3, 2.0):
        assert found.nsd(tolerance) == pytest.approx((both <= tolerance + 1e-6).mean(), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_oblique_phantom_agrees_with_brute_force(seed: int) -> None:
    image = oblique()
    rng = np.random.default_rng(seed)
    truth = image.array > rng.integers(50, 300)
    prediction = np.roll(truth, 1, axis=int(rng.integers(3))) | (image.array < rng.integers(1, 20))
    found = surface_distances(truth, prediction, image.geometry)
    there, back = brute_force(truth, prediction, image.geometry)
    assert np.abs(np.sort(found.truth_to_prediction_mm) - np.sort(there)).max() < 1e-6
    assert np.abs(np.sort(found.prediction_to_truth_mm) - np.sort(back)).max() < 1e-6


@given(pairs(labels=3), st.sampled_from([1, 7, 50]))
def test_the_surfaces_of_all_labels_come_from_one_pass(pair: Pair, slab: int) -> None:
    labels = pair[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surfaces, "_SLAB_VOXELS", slab)
        flat, values = surface_voxels(labels)
    for value in range(1, 4):
        expected = border(labels == value)
        here = np.stack(np.unravel_index(flat[values == value], labels.shape), axis=1)
        assert np.array_equal(here, expected)


@given(pairs(empty=False))
def test_swapping_the_masks_swaps_the_directions(pair: Pair) -> None:
    truth, prediction, geometry = pair[0] > 0, pair[1] > 0, pair[2]
    one, two = surface_distances(truth, prediction, geometry), surface_distances(prediction, truth, geometry)
    assert np.array_equal(one.truth_to_prediction_mm, two.prediction_to_truth_mm)
    assert (one.hd95_mm, one.assd_mm, one.nsd(1.0)) == pytest.approx((two.hd95_mm, two.assd_mm, two.nsd(1.0)))


def test_a_tilted_gantry_is_not_taken_for_a_straight_one() -> None:
    truth, prediction = np.zeros((2, 3, 5, 3), bool)
    truth[1, 3, 0] = prediction[1, 2, 1] = True
    tilted, straight = grids(truth.shape)[1:]
    expected = float(np.linalg.norm(tilted.affine_lps_mm[:3, :3] @ (0, -1, 1)))
    assert surface_distances(truth, prediction, tilted).hd95_mm == pytest.approx(expected)
    assert surface_distances(truth, prediction, straight).hd95_mm != pytest.approx(expected, abs=0.1)


def test_threads_change_nothing() -> None:
    rng = np.random.default_rng(3)
    truth, prediction = rng.random((2, 9, 8, 7)) < 0.4
    geometry = grids(truth.shape)[0]
    one, two = (surface_distances(truth, prediction, geometry, workers) for workers in (1, 2))
    assert np.array_equal(one.truth_to_prediction_mm, two.truth_to_prediction_mm)


def test_refusals() -> None:
    mask = np.ones((4, 4), bool)
    grid = Geometry.from_spacing((4, 4), (1.0, 1.0))
    with pytest.raises(GeometryError, match="needs millimetres"):
        surface_distances(mask, mask, Geometry.without_size((4, 4)))
    with pytest.raises(GeometryError, match="does not fit"):
        surface_distances(mask[1:], mask, grid)
    with pytest.raises(UsageError, match="no surface"):
        surface_distances(mask, mask & False, grid)
    for tolerance in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="tolerance"):
            surface_distances(mask, mask, grid).nsd(tolerance)
