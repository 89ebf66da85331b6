"""Losses of masks against plain computations of their formulas, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.test_segment import Fixed, task

from medmap.tasks import Batch
from medmap.tasks.mask_losses import boundary_loss, centre_line_loss, signed_distances, soft_skeleton, tversky_loss
from medmap.tasks.protocol import IGNORED


def one(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def tube(ndim: int) -> np.ndarray:
    """A straight tube of three voxels' width along the first axis."""
    mask = np.zeros((15, *[9] * (ndim - 1)), bool)
    mask[1:-1, *[slice(3, 6)] * (ndim - 1)] = True
    return mask


@given(st.integers(0, 50), st.floats(0.1, 0.9))
def test_tversky_is_its_formula(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    p, y, w = rng.random((2, 3, 5, 4)), rng.integers(0, 2, (2, 3, 5, 4)), rng.integers(0, 2, (2, 3, 5, 4))
    hit, missed, invented = ((w * a).sum((0, 2, 3)) for a in (p * y, (1 - p) * y, p * (1 - y)))
    expected = 1 - ((hit + 1e-5) / (hit + share * missed + (1 - share) * invented + 1e-5)).mean()
    found = tversky_loss(*(torch.tensor(a) for a in (p, y.astype(float), w.astype(float))), share)
    assert float(found) == pytest.approx(expected)


def test_distances_are_negative_inside_and_zero_between() -> None:
    line = np.array([False, False, True, True, True, True, False, False])[None, None, :, None].repeat(8, 3)
    found = signed_distances(line)[0, 0, :, 0] * 8
    np.testing.assert_allclose(found, [1.5, 0.5, -0.5, -1.5, -1.5, -0.5, 0.5, 1.5])
    assert not signed_distances(np.zeros((1, 1, 4, 4), bool)).any()
    assert not signed_distances(np.ones((1, 1, 4, 4, 4), bool)).any()


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_boundary_loss_grows_with_the_distance(ndim: int) -> None:
    truth, weight = one(tube(ndim)), torch.ones(1, 1, *tube(ndim).shape)
    found = [float(boundary_loss(one(np.roll(tube(ndim), step, ndim - 1)), truth, weight)) for step in range(4)]
    assert found == sorted(found)
    assert found[0] < 0
    absent = torch.zeros_like(truth)
    assert float(boundary_loss(truth, absent, weight)) == 0  # where there is no boundary there is no distance


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_skeleton_of_a_tube_is_its_middle(ndim: int) -> None:
    line = soft_skeleton(one(tube(ndim)), 3)[0, 0].numpy()
    middle = np.zeros_like(line)
    middle[2:-2, *[4] * (ndim - 1)] = 1
    np.testing.assert_array_equal(line[3:-3], middle[3:-3])


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_gap_costs_more_than_a_thin_side(ndim: int) -> None:
    truth, weight = one(tube(ndim)), torch.ones(1, 1, *tube(ndim).shape)
    cut, thin = tube(ndim), tube(ndim)
    cut[6:9] = False
    thin[:, 3] = False  # a whole side is gone: far more voxels than the gap
    assert thin.sum() < cut.sum()
    lost = [float(centre_line_loss(one(mask), truth, weight)) for mask in (tube(ndim), thin, cut)]
    assert lost[0] == pytest.approx(0, abs=1e-4)
    assert lost[1] < lost[2]
    assert float(centre_line_loss(truth, torch.zeros_like(truth), weight)) == 0


@pytest.mark.parametrize("weights", [{"boundary": 1.0}, {"cldice": 1.0}, {"boundary": 0.5, "cldice": 0.5}])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 6, 8, 8)])
def test_what_is_ignored_or_not_looked_at_has_no_gradient(weights: dict[str, float], shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(1)
    truth = torch.randint(0, 3, shape, generator=rng).short()
    truth[0, :2] = IGNORED
    logits = torch.randn(1, 3, *shape[1:], generator=rng)
    learned = task(shape[1:], {"a": (0, 1)}, dice=0.0, cross_entropy=0.0, **weights)
    network = Fixed(logits.clone())
    value = learned.loss(network, Batch(torch.zeros(1, 1, *shape[1:]), truth, ("a",)))
    value.backward()
    gradient = network.logits[0].grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert not gradient[0, :, :2].any()
    assert gradient[0, :, 2:].any()
    # only the sum of the classes that were not told apart matters: the third class is part of the background
    turned = logits.clone()
    turned[:, [0, 2]] = turned[:, [2, 0]]
    again = learned.loss(Fixed(turned), Batch(torch.zeros(1, 1, *shape[1:]), truth, ("a",)))
    assert again.item() == pytest.approx(value.item(), abs=1e-6)


@pytest.mark.parametrize("weights", [{"boundary": 1.0}, {"cldice": 1.0}])
def test_they_lead_to_the_truth(weights: dict[str, float]) -> None:
    mask = torch.from_numpy(tube(2).astype(np.int16))[None]
    learned = task(tuple(mask.shape[1:]), cross_entropy=0.0, dice=0.1, **weights)
    network = Fixed(torch.zeros(1, 3, *mask.shape[1:]))
    steps = torch.optim.Adam(network.parameters(), lr=0.2)
    for _ in range(60):
        steps.zero_grad()
        learned.loss(network, Batch(torch.zeros(1, 1, *mask.shape[1:]), mask, ("a",))).backward()
        steps.step()
    assert (network.logits[0].argmax(1) == mask).float().mean() > 0.95
