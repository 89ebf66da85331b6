"""FROC against LUNA16's rule, computed independently, and by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from medmap.errors import UsageError
from medmap.metrics import Bootstrap, BoxList, HitRule, find_hits, froc_curve
from medmap.metrics import boxes as boxes_module
from medmap.metrics.froc import ALARM, DOUBLE, HIT, OUTCOMES, RATES, SPARED, UNSEEN, jackknife, rank_findings
from medmap.metrics.inputs import Patients


def points(rows, diameter=None, scores=None, ignored=None):
    """Boxes of some size around points (case, x, y, z); positions and diameters are what is judged."""
    rows = np.asarray(rows, float).reshape(-1, 4)
    n = len(rows)
    around = np.concatenate([rows[:, 1:] - 2, rows[:, 1:] + 2], axis=1)
    size = np.full(n, 4.0) if diameter is None else np.asarray(diameter, float)
    return BoxList(rows[:, 0], around, np.zeros(n), scores, ignored, rows[:, 1:], size)


def by_luna16(found, true, cases):
    """Sensitivity at the seven rates as the challenge's script has it: loops over scans, scikit-learn's ROC."""
    right, chance, left_out = [], [], []
    for case in range(cases):
        marks = np.flatnonzero(found.cases == case)
        rest = set(marks.tolist())
        for row in np.flatnonzero(true.cases == case):
            near = [
                m for m in marks if ((found.centres[m] - true.centres[row]) ** 2).sum() < (true.diameters[row] / 2) ** 2
            ]
            rest -= set(near)
            if true.ignored[row]:
                continue
            right.append(1.0)
            left_out.append(not near)
            chance.append(max((found.scores[m] for m in near), default=-1e10))
        for mark in rest:
            right.append(0.0)
            chance.append(found.scores[mark])
            left_out.append(False)
    right, chance, left_out = np.array(right), np.array(chance), np.array(left_out, bool)
    kept, detected = right[~left_out], right[~left_out].sum()
    if not len(kept) or len(set(kept)) == 1:
        return None
    false_rate, true_rate, _ = roc_curve(kept, chance[~left_out])
    alarms = false_rate * (len(kept) - detected) / cases
    return np.interp(RATES, alarms, true_rate * detected / right.sum())


def scans(seed, cases=12):
    """Findings and marks near and far, with ties, doubles and findings to ignore."""
    rng = np.random.default_rng(seed)
    true, diameters, ignored, found, scores = [], [], [], [], []
    for case in range(cases):
        for _ in range(rng.integers(0, 4)):
            place = rng.uniform(0, 40, 3)
            true.append((case, *place))
            diameters.append(rng.uniform(3, 14))
            ignored.append(rng.random() < 0.25)
            for _ in range(rng.integers(0, 4)):
                found.append((case, *(place + rng.normal(0, 2.5, 3))))
                scores.append(round(rng.random() ** 0.5, 2))
        for _ in range(rng.integers(0, 9)):
            found.append((case, *rng.uniform(0, 40, 3)))
            scores.append(round(rng.random(), 2))
    return points(found, scores=scores), points(true, diameters, ignored=ignored)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_froc_is_that_of_luna16(seed):
    found, true = scans(seed)
    expected = by_luna16(found, true, 12)
    if expected is None:
        return
    curve = froc_curve(find_hits(found, true), found, true, 12)
    np.testing.assert_allclose(curve.at(), expected, atol=1e-12)


def test_worked_example():
    # four scans; findings A (radius 3) and B (radius 2) in scan 0, C in scan 1; scans 2 and 3 have none
    true = points([(0, 10, 10, 10), (0, 30, 30, 30), (1, 10, 10, 10)], [6, 4, 5])
    found = points(
        [
            (0, 11, 10, 10),  # on A
            (0, 10, 12, 10),  # on A too: counts once
            (0, 33, 30, 30),  # 3 mm beside B, whose radius is 2: a false alarm, and B is missed
            (1, 10, 10, 12),  # on C
            (2, 5, 5, 5),
            (3, 5, 5, 5),
        ],
        scores=[0.6, 0.9, 0.8, 0.5, 0.7, 0.3],
    )
    hits = find_hits(found, true)
    assert [OUTCOMES[o] for o in hits.outcomes] == [
        "double",
        "hit",
        "false alarm",
        "hit",
        "false alarm",
        "false alarm",
    ]
    assert hits.scores.tolist() == [0.9, -np.inf, 0.5]
    assert hits.truth.tolist() == [0, 0, -1, 2, -1, -1]
    curve = froc_curve(hits, found, true, 4)
    # called from: ∞, 0.9 (A), 0.8 (alarm), 0.7 (alarm), 0.5 (C), 0.3 (alarm)
    np.testing.assert_allclose(curve.alarms, [0, 0, 0.25, 0.5, 0.5, 0.75])
    np.testing.assert_allclose(curve.sensitivity, np.array([0, 1, 1, 1, 2, 2]) / 3)
    np.testing.assert_allclose(curve.at(), np.array([1, 1, 2, 2, 2, 2, 2]) / 3)


def test_the_edge_of_a_finding_is_outside_it():
    true = points([(0, 10, 10, 10)], [6])
    assert find_hits(points([(0, 13, 10, 10)]), true).outcomes.tolist() == [ALARM]
    assert find_hits(points([(0, 12.999, 10, 10)]), true).outcomes.tolist() == [HIT]


def test_a_mark_between_two_findings_counts_for_both():
    true = points([(0, 10, 10, 10), (0, 12, 10, 10)], [6, 6])
    hits = find_hits(points([(0, 11.2, 10, 10)], scores=[0.4]), true)
    assert hits.scores.tolist() == [0.4, 0.4]
    assert hits.truth.tolist() == [1]  # the nearer one


def test_a_mark_on_an_ignored_finding_is_dropped():
    true = points([(0, 10, 10, 10), (0, 30, 30, 30)], [6, 6], ignored=[True, False])
    found = points([(0, 10, 10, 10), (0, 30, 30, 31)], scores=[0.9, 0.4])
    hits = find_hits(found, true)
    assert hits.outcomes.tolist() == [SPARED, HIT]
    assert froc_curve(hits, found, true, 1).at().tolist() == [1.0] * 7


def test_by_overlap_a_second_box_is_a_false_alarm():
    box = [[0.0, 0.0, 9.0, 9.0], [0.0, 1.0, 9.0, 10.0]]
    found, true = BoxList([0, 0], box, [0, 0], [0.5, 0.6]), BoxList([0], box[:1], [0])
    assert find_hits(found, true, HitRule("iou", 0.5)).outcomes.tolist() == [ALARM, HIT]
    assert find_hits(found, true).outcomes.tolist() == [DOUBLE, HIT]
    assert find_hits(found, true, most=1).outcomes.tolist() == [UNSEEN, HIT]


def test_classes_do_not_meet():
    box = [[0.0, 0.0, 9.0, 9.0]]
    for rule in (HitRule(), HitRule("iou", 0.3)):
        assert find_hits(BoxList([0], box, [1]), BoxList([0], box, [0]), rule).outcomes.tolist() == [ALARM]


def test_blocks_of_pairs_change_nothing(monkeypatch):
    found, true = scans(4)
    whole = find_hits(found, true)
    monkeypatch.setattr(boxes_module, "_MOST_PAIRS", 3)
    parts = find_hits(found, true)
    np.testing.assert_array_equal(whole.by, parts.by)
    np.testing.assert_array_equal(whole.outcomes, parts.outcomes)


def test_no_alarm_no_finding():
    none = points([])
    one = points([(0, 10, 10, 10)], [6])
    assert froc_curve(find_hits(one, one), one, one, 2).at().tolist() == [1.0] * 7
    assert froc_curve(find_hits(none, one), none, one, 2).at().tolist() == [0.0] * 7
    assert froc_curve(find_hits(one, none), one, none, 2).at().tolist() == [0.0] * 7


def ranking(seed):
    found, true = scans(seed)
    who = Patients.of([f"p{case // 2}" for case in range(12)], 12)
    return rank_findings(find_hits(found, true), found, true, np.ones((12, 1), bool), who), found, true


def test_draws_are_the_curve_of_the_cases_drawn():
    rank, found, true = ranking(7)
    weights = np.random.default_rng(1).integers(0, 3, (8, 6))
    for row, value in zip(weights, rank.weighted(weights.astype(float)), strict=True):
        drawn = [case for case in range(12) for _ in range(row[case // 2])]
        again = []
        for boxes in (found, true):
            rows = np.concatenate([np.flatnonzero(boxes.cases == case) for case in drawn])
            numbers = np.concatenate([np.full((boxes.cases == case).sum(), n) for n, case in enumerate(drawn)])
            again.append(replace(boxes.at(rows), cases=numbers))
        curve = froc_curve(find_hits(*again), *again, len(drawn))
        np.testing.assert_allclose(value, curve.at(), atol=1e-12)


def test_bootstrap_and_jackknife_agree_roughly():
    rank, _, _ = ranking(3)
    value = float(rank.values().mean())
    draws = np.concatenate([rank.weighted(w).mean(axis=1) for w in Bootstrap(500).weights(6)])
    low, high = jackknife(value, rank.weighted(1.0 - np.eye(6)).mean(axis=1))
    assert low < value < high
    spread = np.quantile(draws, 0.975) - np.quantile(draws, 0.025)
    assert 0.3 < spread / (high - low) < 3
    assert jackknife(0.5, np.array([0.5])) is None


def test_rules_and_refusals():
    assert HitRule.usual(3, True) == HitRule("centre")
    assert HitRule.usual(2, True) == HitRule("iou", 0.5)
    assert HitRule.usual(3, False) == HitRule("iou", 0.1)
    for rule in (HitRule(), HitRule("iou", 0.25)):
        assert str(HitRule.parse(str(rule))) == str(rule)
    for text in ("near", "iou 0", "iou x"):
        with pytest.raises(UsageError, match="rule of hits"):
            HitRule.parse(text)
    one = points([(3, 1, 1, 1)])
    with pytest.raises(UsageError, match="not counted"):
        froc_curve(find_hits(one, one), one, one, 2)
    with pytest.raises(UsageError, match="other axes"):
        find_hits(one, BoxList([0], [[0, 0, 1, 1]], [0]))
