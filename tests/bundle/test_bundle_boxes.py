"""Two engines' boxes: what is the same, what is lost against the truth, and when that is too much."""

from __future__ import annotations

import numpy as np
import pytest

from medmap.bundle.boxes import BoxLikeness
from medmap.decision import Decision
from medmap.networks import NetworkSpec, priors
from medmap.results import Label
from medmap.tasks.detect import Detect, DetectSection

SPEC = NetworkSpec("fcos", 2, 1, 1, (32, 32), width=0.25, strides=((2, 2),) * 3, finest=1, boxes=True)
TASK = Detect(DetectSection(), (Label("cell"),), SPEC)
DECISION = Decision(temperature=(1.0,), prior_shift=(0.0,), thresholds=(0.5,), target="f1")
PLACES = priors(SPEC)


def numbers(*boxes: tuple[int, float, float]) -> np.ndarray:
    """(1 input, 1 member, places, 1 + 4): at each place a score's logit and how much wider its box is."""
    found = np.zeros((1, 1, len(PLACES), 5), np.float32)
    found[..., 0] = -9
    for place, logit, wider in boxes:
        found[0, 0, place, 0] = logit
        found[0, 0, place, 1:] = wider
    return found


def truth_at(place: int) -> np.ndarray:
    middle, half = PLACES[place, :2], PLACES[place, 2:] / 2
    return np.array([[*(middle - half), *(middle + half), 1, 1]], np.float32)


INSIDE, OTHER = 120, 200  # places of the finest map, their boxes inside the image


def test_the_same_boxes_pass() -> None:
    likeness = BoxLikeness(TASK, DECISION)
    both = numbers((INSIDE, 2.0, 0.0))
    likeness.add(both, both + 1e-4, [truth_at(INSIDE)])
    assert likeness.result() == {"boxes_matched": 1.0, "ap50_drop": pytest.approx(0.0)}
    assert likeness.passed() is True
    assert likeness.again().result() == {"boxes_matched": None, "ap50_drop": None}


def test_boxes_that_are_gone_or_elsewhere_fail() -> None:
    expected, truth = numbers((INSIDE, 2.0, 0.0)), [truth_at(INSIDE)]
    gone = BoxLikeness(TASK, DECISION)
    gone.add(expected, numbers(), truth)
    assert gone.result() == {"boxes_matched": 0.0, "ap50_drop": pytest.approx(1.0)}
    assert gone.passed() is False
    wider = BoxLikeness(TASK, DECISION)
    wider.add(expected, numbers((INSIDE, 2.0, 0.1)), None)
    assert wider.result()["boxes_matched"] == 0.0
    assert wider.passed() is False  # without a truth the boxes themselves must be the same
    still = BoxLikeness(TASK, DECISION)
    still.add(expected, numbers((INSIDE, 2.0, 0.1)), truth)
    assert still.result() == {"boxes_matched": 0.0, "ap50_drop": pytest.approx(0.0)}
    assert still.passed() is False  # right still, but somewhere else


def test_boxes_called_by_one_engine_alone_fail() -> None:
    """Whether it is the reference or the other: the same place, but above the operating point on one side."""
    called, below = numbers((INSIDE, 2.0, 0.0)), numbers((INSIDE, -1.0, 0.0))
    for expected, found in ((called, below), (below, called)):
        likeness = BoxLikeness(TASK, DECISION)
        likeness.add(expected, found, None)
        assert likeness.result()["boxes_matched"] == 0.0
        assert likeness.passed() is False


def test_one_of_many_boxes_may_differ_where_the_truth_says_what_it_costs() -> None:
    places = [INSIDE + 8 * n for n in range(3)]
    many = numbers(*((place, 2.0, 0.0) for place in places))
    likeness = BoxLikeness(TASK, DECISION)
    for _ in range(11):
        likeness.add(many, many, [np.concatenate([truth_at(place) for place in places])])
    likeness.add(many, numbers((places[0], 2.0, 0.1), *((place, 2.0, 0.0) for place in places[1:])), None)
    assert 0.95 < likeness.result()["boxes_matched"] < 0.99
    assert likeness.passed() is True


def test_only_reported_boxes_must_come_back() -> None:
    likeness = BoxLikeness(TASK, DECISION)
    likeness.add(numbers((INSIDE, 2.0, 0.0), (OTHER, -1.0, 0.0)), numbers((INSIDE, 2.0, 0.0)), None)
    assert likeness.result()["boxes_matched"] == 1.0
    nothing = BoxLikeness(TASK, DECISION)
    nothing.add(numbers(), numbers(), None)
    assert nothing.passed() is None  # the numbers themselves must tell
    assert nothing.decides is False


@pytest.mark.parametrize(("found", "passes"), [(np.full(7, -20.0), True), (np.array([3.0, 4, 4, 20, 20, 0, 0]), False)])
def test_proposals_in_another_order_are_judged_by_boxes_alone(found: np.ndarray, passes: bool) -> None:
    spec = NetworkSpec("faster_rcnn", 2, 1, 1, (32, 32), width=0.25, strides=((2, 2),) * 3, finest=1, boxes=True)
    likeness = BoxLikeness(Detect(DetectSection(), (Label("cell"),), spec), DECISION)
    empty = np.tile(np.array([-20.0, 0, 0, 1, 1], np.float32), (1, 1, 4, 1))
    other = empty.copy()
    other[0, 0, 0] = found[:5]
    likeness.add(empty, other, None)
    assert likeness.decides is True
    assert likeness.passed() is passes
