"""Dice foretold by a line: fitted, applied, refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.decision import Decision, ExpectedDice, fit_expected_dice
from medmap.errors import BundleError, UsageError


@given(st.integers(0, 1000))
def test_the_line_is_least_squares_and_rising(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, found = rng.random(9), rng.random(9)
    line = fit_expected_dice(said.tolist(), found.tolist())
    assert line is not None
    slope, intercept = np.polyfit(said, found, 1)
    if slope >= 0:
        assert (line.slope, line.intercept) == pytest.approx((slope, intercept))
    else:  # the probabilities say nothing: the mean of all
        assert (line.slope, line.intercept) == pytest.approx((0, found.mean()))
    assert 0 <= line.of(0.0) <= line.of(1.0) <= 1
    assert Decision.from_json(Decision(expected_dice=line.to_json()).to_json()).expected_dice == line.to_json()


def test_cases_that_are_alike_have_no_order() -> None:
    line = fit_expected_dice([0.8] * 6, [0.7] * 6)
    assert line is not None
    assert line.rank_correlation is None
    assert line.of(0.3) == pytest.approx(0.7)
    assert fit_expected_dice([0.8] * 4, [0.7] * 4) is None


def test_what_is_no_line_is_refused() -> None:
    with pytest.raises(UsageError, match="slope of 0 or more"):
        ExpectedDice(-1.0, 0.0, 0.0, None, 6)
    with pytest.raises(BundleError):
        Decision.from_json({**Decision().to_json(), "expected_dice": {"steepness": 1}})
    assert ExpectedDice.from_json({}) is None


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (0.82, "mostly were the worse ones (rank correlation 0.82;"),
        (0.4, "only loosely tells the worse masks from the better ones"),
        (-0.1, "does not tell the worse masks from the better ones (rank correlation −0.10;"),
        (None, "these cases cannot show"),
    ],
)
def test_what_it_is_and_how_well_it_did_is_said_plainly(rank: float | None, words: str) -> None:
    told = ExpectedDice(0.9, 0.05, 0.0234, rank, 32).in_words()
    assert told.startswith("Expected Dice: beside each new mask the bundle says which Dice to expect of it")
    assert "On the 32 cases judged here it was off by 0.023 on average" in told
    assert words in told
