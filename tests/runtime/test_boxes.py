"""Boxes of several windows and networks made one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from medmap.errors import NotFiniteError
from medmap.metrics import box_iou
from medmap.runtime import Windows, each_window, fused, suppressed


def some_boxes(seed: int, count: int, ndim: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (count, ndim))
    return (
        np.concatenate([low, low + rng.uniform(3, 25, (count, ndim))], 1),
        rng.random(count),
        rng.integers(0, 3, count),
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), most=st.sampled_from([0.3, 0.5, 0.7]))
def test_suppression_is_that_of_torchvision(seed: int, count: int, most: float) -> None:
    corners, scores, labels = some_boxes(seed, count)
    edges = corners.copy()
    edges[:, 2:] += 1
    theirs = torchvision.ops.batched_nms(
        torch.from_numpy(edges), torch.from_numpy(scores), torch.from_numpy(labels), most
    )
    kept, where = suppressed(corners, scores, labels, most, vote=2.0)
    assert kept.tolist() == theirs.tolist()
    np.testing.assert_allclose(where, corners[kept])  # nobody had a say


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 40), ndim=st.sampled_from([2, 3]))
def test_what_is_kept_overlaps_no_more_than_allowed(seed: int, count: int, ndim: int) -> None:
    corners, scores, labels = some_boxes(seed, count, ndim)
    kept, where = suppressed(corners, scores, labels, 0.4, vote=0.6)
    assert where.shape == (len(kept), 2 * ndim)
    assert (where[:, :ndim] <= where[:, ndim:]).all()
    assert (box_iou(where, corners[kept]).diagonal() > 0.4).all()
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(scores[kept]) <= 0).all()
    shared = box_iou(corners[kept], corners[kept]) - np.eye(len(kept))
    same = labels[kept][:, None] == labels[kept][None]
    assert not (shared[same] > 0.4).any()


def test_suppressed_boxes_say_where_the_kept_one_lies() -> None:
    corners = np.array([[0, 0, 9, 9], [1, 0, 10, 9], [0, 3, 9, 12], [0, 0, 9, 9]], dtype=float)
    scores, labels = np.array([0.8, 0.4, 0.7, 0.9]), np.array([0, 0, 0, 1])
    kept, where = suppressed(corners, scores, labels, 0.3, vote=0.6)
    assert kept.tolist() == [3, 0]
    np.testing.assert_allclose(where, [[0, 0, 9, 9], [0.2, 0, 9.2, 9]])  # weights 0.64 and 0.16; 0.54 is too far away
    nothing, nowhere = suppressed(np.zeros((0, 6)), np.zeros(0), np.zeros(0, int), 0.3, vote=0.6)
    assert (len(nothing), nowhere.shape) == (0, (0, 6))


def test_a_hair_of_a_score_does_not_move_a_box() -> None:
    """What lower precision does: one of two nearly equal boxes becomes the surer one."""
    corners = np.array([[0, 0, 9, 9], [1, 0, 10, 9]], dtype=float)
    one, other = (suppressed(corners, np.array(s), np.zeros(2), 0.5, vote=0.6)[1] for s in ([0.9, 0.899], [0.9, 0.901]))
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_one_finding_of_two_networks_is_one_box() -> None:
    corners = np.array([[0, 0, 9, 9], [1, 0, 10, 9], [30, 30, 39, 39]], dtype=float)
    who = np.array([0, 1, 0])
    found, scores, labels = fused(corners, np.array([0.9, 0.6, 0.8]), np.array([0, 0, 0]), who, least=0.5, count=2)
    np.testing.assert_allclose(found, [[0.4, 0, 9.4, 9], [30, 30, 39, 39]])
    np.testing.assert_allclose(scores, [0.75, 0.4])  # the mean of both; what one of two found counts half
    assert labels.tolist() == [0, 0]
    _, apart, _ = fused(corners[:2], np.array([0.9, 0.6]), np.array([0, 1]), who[:2], least=0.5, count=2)
    np.testing.assert_allclose(apart, [0.45, 0.3])  # two classes are two findings
    nothing = fused(np.zeros((0, 6)), np.zeros(0), np.zeros(0, int), np.zeros(0, int), least=0.5, count=3)
    assert [len(part) for part in nothing] == [0, 0, 0]


def test_a_voter_s_second_box_in_a_place_pulls_nothing_down() -> None:
    corners = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [0, 2, 9, 11]], dtype=float)
    found, scores, _ = fused(
        corners, np.array([0.9, 0.7, 0.1]), np.zeros(3, int), np.array([0, 1, 1]), least=0.4, count=2
    )
    np.testing.assert_allclose(found, [[0, 0, 9, 9]])
    np.testing.assert_allclose(scores, [0.8])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4))
def test_voters_that_agree_say_what_each_says(seed: int, count: int) -> None:
    corners, scores, labels = some_boxes(seed, 20)
    kept, _ = suppressed(corners, scores, labels, 0.2, vote=2.0)
    alone = corners[kept], scores[kept], labels[kept]
    together = [np.concatenate([part] * count) for part in alone]
    voters = np.repeat(np.arange(count), len(kept))
    found = fused(together[0], together[1], together[2], voters, least=0.5, count=count)
    for mine, theirs in zip(found, alone, strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_windows_are_run_and_handed_on_with_their_place() -> None:
    image = np.arange(2 * 10 * 7, dtype=np.float32).reshape(2, 10, 7)
    seen = list(each_window(lambda batch: batch, image, Windows((6, 8), 0.5, batch=2, fill=-1.0)))
    assert [corner for corner, _ in seen] == [(0, 0), (3, 0), (4, 0)]
    for (row, _), window in seen:
        np.testing.assert_array_equal(window[:, :, :7], image[:, row : row + 6])
        assert (window[:, :, 7:] == -1).all()
    with pytest.raises(NotFiniteError, match="no number"):
        list(each_window(lambda batch: batch * np.nan, image, Windows((6, 8))))
