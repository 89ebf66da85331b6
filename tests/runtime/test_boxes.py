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
    assert suppressed(corners, scores, labels, most).tolist() == theirs.tolist()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 40), ndim=st.sampled_from([2, 3]))
def test_what_is_kept_overlaps_no_more_than_allowed(seed: int, count: int, ndim: int) -> None:
    corners, scores, labels = some_boxes(seed, count, ndim)
    kept = suppressed(corners, scores, labels, 0.4)
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(scores[kept]) <= 0).all()
    shared = box_iou(corners[kept], corners[kept]) - np.eye(len(kept))
    same = labels[kept][:, None] == labels[kept][None]
    assert not (shared[same] > 0.4).any()


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
    kept = suppressed(corners, scores, labels, 0.2)
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
