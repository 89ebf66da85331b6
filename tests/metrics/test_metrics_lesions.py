"""Lesions counted, matched, refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from mask_pairs import pairs

from medmap.errors import UsageError
from medmap.geometry import Geometry
from medmap.metrics.lesions import LesionCounts, lesion_counts

Pair = tuple[np.ndarray, np.ndarray, Geometry]


def row(text: str) -> np.ndarray:
    return np.array([[c == "x" for c in text]])


@pytest.mark.parametrize(
    ("truth", "prediction", "counts", "sensitivity", "precision", "f1"),
    [
        ("xx..x.x", ".xx...x", (3, 2, 2, 2), 2 / 3, 1.0, 0.8),
        ("xx..xx.", ".......", (2, 0, 0, 0), 0.0, None, 0.0),
        (".......", "x..x...", (0, 2, 0, 0), None, 0.0, 0.0),
        (".......", ".......", (0, 0, 0, 0), None, None, 1.0),
        ("x.x.x.x", "xxxxxxx", (4, 1, 4, 1), 1.0, 1.0, 1.0),
        ("x......", "..x....", (1, 1, 0, 0), 0.0, 0.0, 0.0),
    ],
)
def test_counts(truth, prediction, counts, sensitivity, precision, f1) -> None:
    found = lesion_counts(row(truth), row(prediction))
    assert found == LesionCounts(*counts)
    assert (found.sensitivity, found.precision) == (sensitivity, precision)
    assert found.f1 == pytest.approx(f1)


def test_a_share_of_the_lesion_may_be_asked_for() -> None:
    truth, prediction = row("xxxx...xx"), row("...xxxxxx")
    assert lesion_counts(truth, prediction).found == 2
    assert lesion_counts(truth, prediction, overlap=0.25).found == 1  # a quarter is not more than a quarter
    assert lesion_counts(truth, prediction, overlap=0.2).found == 2
    assert lesion_counts(truth, prediction, overlap=0.6).confirmed == 0


def test_corners_join_and_faces_do_not() -> None:
    mask = np.eye(3, dtype=bool)
    assert lesion_counts(mask, mask).truth == 1
    assert lesion_counts(mask, mask, connectivity="faces").truth == 3


@given(pairs())
def test_swapping_the_masks_swaps_sensitivity_and_precision(pair: Pair) -> None:
    one = lesion_counts(pair[0] > 0, pair[1] > 0)
    two = lesion_counts(pair[1] > 0, pair[0] > 0)
    assert (one.sensitivity, one.precision, one.f1) == (two.precision, two.sensitivity, two.f1)


def test_refusals() -> None:
    mask = np.ones((2, 2), bool)
    with pytest.raises(UsageError, match="shapes"):
        lesion_counts(mask, mask[1:])
    for overlap in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="share"):
            lesion_counts(mask, mask, overlap=overlap)
    with pytest.raises(UsageError, match="connectivity"):
        lesion_counts(mask, mask, connectivity="edges")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="contradict"):
        LesionCounts(1, 1, 2, 0)
