"""Rules for the connected parts of a mask: found on cases with truths, applied to masks without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmap.decision import ComponentRule, Parts, fit_rule, kept_parts, parts_of
from medmap.errors import DataError, UsageError

VOXEL = 0.7 * 1.3 * 2.9


def blobs(*sizes: int, value: int = 2) -> np.ndarray:
    """Bars of the given lengths in a volume, apart from each other."""
    labels = np.zeros((4 * len(sizes) + 1, 5, 30), np.uint8)
    for n, size in enumerate(sizes):
        labels[4 * n, 2, :size] = value
    return labels


def test_parts_are_measured_beside_the_truth() -> None:
    truth = blobs(10, 0, 0)
    truth[8, 2, :2] = 255
    labels = blobs(8, 3, 4)
    found = parts_of(labels, truth, 2, VOXEL, ignored=255)
    np.testing.assert_allclose(found.sizes, np.array([8, 3, 4]) * VOXEL)
    np.testing.assert_array_equal(found.counted, [8, 3, 2])
    np.testing.assert_array_equal(found.hits, [8, 0, 0])
    assert found.truth == 10
    assert found.dice(ComponentRule()) == pytest.approx(2 * 8 / (13 + 10))
    assert found.dice(ComponentRule(largest_only=True)) == pytest.approx(2 * 8 / (8 + 10))
    assert found.dice(ComponentRule(smallest=3.5 * VOXEL)) == pytest.approx(2 * 8 / (10 + 10))
    nothing = parts_of(labels, truth, 1, VOXEL)
    assert (len(nothing.sizes), nothing.truth, nothing.dice(ComponentRule())) == (0, 0, 1)


def test_corners_touch() -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    assert len(parts_of(labels, labels, 1, 1.0).sizes) == 1


def test_small_inventions_are_dropped_and_large_structures_stay() -> None:
    truth = [blobs(20 + n, 12, 0) for n in range(6)]
    found = [blobs(20 + n, 12, 1 + n % 3) for n in range(6)]
    rule = fit_rule([parts_of(a, b, 2, VOXEL) for a, b in zip(found, truth, strict=True)])
    assert rule is not None
    assert not rule.largest_only
    assert 3 * VOXEL < rule.smallest < 12 * VOXEL
    kept, dropped = kept_parts(found[2], {2: rule}, VOXEL)
    np.testing.assert_array_equal(kept, truth[2])
    assert dropped == 1
    assert found[2].sum() > truth[2].sum()  # the mask given is as it was


def test_the_largest_alone_where_inventions_are_large() -> None:
    truth = [blobs(20 + n, 0) for n in range(6)]
    found = [blobs(20 + n, 5 + 2 * n) for n in range(6)]
    found[0] = blobs(6, 0)  # a true one that no size would keep beside the inventions
    truth[0] = blobs(6, 0)
    rule = fit_rule([parts_of(a, b, 2, 1.0) for a, b in zip(found, truth, strict=True)])
    assert rule is not None
    for one, wanted in zip(found, truth, strict=True):
        np.testing.assert_array_equal(kept_parts(one, {2: rule}, 1.0)[0], wanted)


def test_what_is_there_in_everybody_is_never_dropped_whole() -> None:
    truth = [blobs(20 + n, 0) for n in range(6)]
    found = [blobs(20 + n, 3) for n in range(6)]
    rule = fit_rule([parts_of(a, b, 2, 1.0) for a, b in zip(found, truth, strict=True)])
    assert rule is not None
    assert rule.always
    small = blobs(2, 0, 0)
    np.testing.assert_array_equal(kept_parts(small, {2: rule}, 1.0)[0], small)
    np.testing.assert_array_equal(kept_parts(blobs(2, 1, 0), {2: rule}, 1.0)[0], small)
    absent = [*truth[:5], blobs(0, 0)]
    rule = fit_rule([parts_of(a, b, 2, 1.0) for a, b in zip([*found[:5], blobs(0, 3)], absent, strict=True)])
    assert rule is not None
    assert not rule.always, "it may be missing: what is small may be nothing"
    assert not kept_parts(small, {2: rule}, 1.0)[0].any()


def test_one_case_alone_sets_no_rule() -> None:
    truth, found = [blobs(40, 0)] * 20, [blobs(40, 0)] * 19 + [blobs(40, 5)]
    cases = [parts_of(a, b, 2, 1.0) for a, b in zip(found, truth, strict=True)]
    everything, best = (np.mean([c.dice(rule) for c in cases]) for rule in (ComponentRule(), ComponentRule(smallest=9)))
    assert best - everything > 0.001
    assert fit_rule(cases) is None, "the gain is one case's, and no larger than its standard error"


def test_nothing_is_gained_by_nothing() -> None:
    whole = [parts_of(blobs(9, 4), blobs(9, 4), 2, 1.0)] * 8
    assert fit_rule(whole) is None
    noisy = [parts_of(blobs(20, 0, 2), blobs(20, 0, 0), 2, 1.0)] * 4
    assert fit_rule(noisy) is None  # four cases tell too little
    assert fit_rule([*noisy, noisy[0]]) is not None


@given(st.integers(0, 10_000), st.floats(0, 30), st.booleans())
def test_what_is_kept_is_part_of_what_was_there(seed: int, smallest: float, largest_only: bool) -> None:
    labels = (np.random.default_rng(seed).random((6, 7, 8)) > 0.7).astype(np.uint8) * 3
    rule = ComponentRule(largest_only, smallest)
    kept, dropped = kept_parts(labels, {3: rule, 1: rule}, 1.0)
    assert set(np.unique(kept)) <= {0, 3}
    assert not (kept > labels).any()
    again, gone = kept_parts(kept, {3: rule}, 1.0)
    np.testing.assert_array_equal(again, kept)
    assert gone == 0
    before = parts_of(labels, labels, 3, 1.0)
    assert len(before.sizes) - dropped == len(parts_of(kept, kept, 3, 1.0).sizes)


def test_wrong_rules_and_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        ComponentRule(smallest=float("nan"))
    with pytest.raises(UsageError, match="out of range"):
        ComponentRule(smallest=10**400)
    with pytest.raises(UsageError, match="true or false"):
        ComponentRule(always=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="different shapes"):
        parts_of(np.zeros((3, 3), np.uint8), np.zeros((3, 4), np.uint8), 1, 1.0)
    nothing = Parts(np.zeros(0), np.zeros(0), np.zeros(0), 4.0)
    assert nothing.dice(ComponentRule()) == 0


@pytest.mark.parametrize(
    ("rule", "unit", "words"),
    [
        (ComponentRule(smallest=7.5), "voxels", "parts below 8 voxels are dropped"),
        (ComponentRule(smallest=12345.5), "voxels", "parts below 12346 voxels are dropped"),
        (ComponentRule(smallest=7.4999), "mm³", "parts below 7.5 mm³ are dropped"),
        (ComponentRule(smallest=123456.7), "mm²", "parts below 123000 mm² are dropped"),
        (ComponentRule(largest_only=True), "mm³", "only the largest part is kept"),
    ],
)
def test_a_rule_in_words_has_whole_voxels_and_three_digits_of_a_size(
    rule: ComponentRule, unit: str, words: str
) -> None:
    assert rule.in_words(unit) == words
