"""Expected Dice against a plain softmax, and against truths drawn from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.runtime import ExpectedOverlapSink, Place, mean_dice


def gathered(scores: np.ndarray, axis: int, step: int = 2):
    sink = ExpectedOverlapSink(threads=2)
    region = tuple((0, n) for n in scores.shape[1:])
    for first in range(0, scores.shape[1 + axis], step):
        last = min(first + step, scores.shape[1 + axis])
        part = scores.take(range(first, last), 1 + axis)
        sink.add(part, Place(axis, first, last, region))
    return sink.finish()


@given(st.integers(0, 1000), st.integers(0, 2), st.sampled_from([(5, 6, 7), (5, 6)]))
def test_sums_are_those_of_a_softmax(seed: int, axis: int, shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(seed).normal(0, 3, (4, *shape)).astype(np.float32)
    found = gathered(scores, axis % len(shape))
    chance = np.exp(scores.astype(np.float64))
    chance /= chance.sum(0)
    best = scores.argmax(0)
    for c in range(4):
        assert found.found[c] == (best == c).sum()
        assert found.hits[c] == pytest.approx(chance[c][best == c].sum(), rel=1e-6, abs=1e-6)
        assert found.expected[c] == pytest.approx(chance[c].sum(), rel=1e-6)


def test_it_is_what_truths_of_these_chances_give() -> None:
    rng = np.random.default_rng(3)
    scores = np.stack([np.zeros((30, 40)), rng.normal(0, 2, (30, 40))]).astype(np.float32)
    expected = gathered(scores, 0).dice[1]
    mask, chance = scores[1] > 0, 1 / (1 + np.exp(-scores[1]))
    truths = rng.random((300, 30, 40)) < chance
    dice = 2 * (truths & mask).sum((1, 2)) / (truths.sum((1, 2)) + mask.sum())
    assert expected == pytest.approx(dice.mean(), abs=0.005)


def test_sure_is_one_and_absent_is_nothing() -> None:
    scores = np.full((3, 4, 4), -30.0, np.float32)
    scores[0], scores[1, :2] = 0, 30
    found = gathered(scores, 0)
    assert found.dice[1] == pytest.approx(1)
    assert np.isnan(found.dice[2])
    assert mean_dice(found.dice, (1, 2)) == pytest.approx(1)
    assert mean_dice(found.dice, (2,)) is None
    assert ExpectedOverlapSink().finish().dice.shape == (0,)
