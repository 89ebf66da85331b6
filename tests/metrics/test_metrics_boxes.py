"""Boxes held against true ones: overlap, COCO's matching and average precision, against pycocotools."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from medmap.errors import UsageError
from medmap.metrics import Bootstrap, BoxList, average_precisions, box_iou, match_boxes
from medmap.metrics import boxes as boxes_module
from medmap.metrics.average_precision import ranked
from medmap.metrics.inputs import Patients

COCO_SIZES = (None, (0, 32), (32, 96), (96, 1e5))


def scene(seed, cases=40, classes=3, whole=True):
    """True boxes (case, x, y, w, h, class, crowd) and found ones (…, class, score); whole numbers make ties."""
    rng = np.random.default_rng(seed)
    true, found = [], []
    for case in range(cases):
        for _ in range(rng.integers(0, 9)):
            place, size, label = rng.uniform(0, 400, 2), rng.uniform(4, 160, 2), rng.integers(classes)
            true.append((case, *place, *size, label, rng.random() < 0.1))
            for _ in range(rng.integers(0, 4)):
                moved, grown = rng.normal(0, 6, (2, 2))
                called = rng.integers(classes) if rng.random() < 0.1 else label
                found.append((case, *(place + moved), *np.maximum(size + grown, 2), called, rng.random()))
        for _ in range(rng.integers(0, 6)):
            alarm = (*rng.uniform(0, 400, 2), *rng.uniform(4, 160, 2))
            found.append((case, *alarm, rng.integers(classes), rng.random()))
    true, found = np.array(true, float).reshape(-1, 7), np.array(found, float).reshape(-1, 7)
    if whole:
        true[:, 1:5], found[:, 1:5], found[:, 6] = true[:, 1:5].round(), found[:, 1:5].round(), found[:, 6].round(1)
    return true, found


def as_lists(true, found):
    """The same as values of medmap; the size is the root of the area, so that ranges are COCO's."""

    def corners(rows):
        return np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5] - 1], axis=1)

    sizes = [np.sqrt(rows[:, 3] * rows[:, 4]) for rows in (true, found)]
    return (
        BoxList(true[:, 0], corners(true), true[:, 5], ignored=true[:, 6], diameters=sizes[0]),
        BoxList(found[:, 0], corners(found), found[:, 5], found[:, 6], diameters=sizes[1]),
    )


def by_pycocotools(true, found, cases, classes, most=100):
    """(thresholds, classes, size ranges) average precision, NaN for none."""
    annotations = [
        {
            "id": number,
            "image_id": int(row[0]) + 1,
            "bbox": row[1:5].tolist(),
            "area": row[3] * row[4],
            "category_id": int(row[5]) + 1,
            "iscrowd": int(row[6]),
        }
        for number, row in enumerate(true, start=1)
    ]
    results = [
        {
            "image_id": int(row[0]) + 1,
            "bbox": row[1:5].tolist(),
            "category_id": int(row[5]) + 1,
            "score": row[6],
        }
        for row in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number + 1} for number in range(cases)],
            "categories": [{"id": number + 1} for number in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(results), "bbox")
        judged.params.maxDets = [1, 2, most]
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][:, :, :, :, 2]
    return np.where((precision > -1).any(axis=1), precision.mean(axis=1), np.nan)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [3, 100])
def test_average_precision_equals_pycocotools(seed, most):
    true, found = scene(seed, whole=seed % 2 == 0)
    expected = by_pycocotools(true, found, 40, 3, most)
    truths, finds = as_lists(true, found)
    for number, sizes in enumerate(COCO_SIZES):
        ours = average_precisions(match_boxes(finds, truths, most=most, sizes=sizes), 3, Patients.of(None, 40))
        np.testing.assert_allclose(ours.values, expected[:, :, number], atol=1e-9, rtol=0)
    assert np.isfinite(expected).any()


def test_blocks_of_pairs_change_nothing(monkeypatch):
    truths, finds = as_lists(*scene(3))
    whole = match_boxes(finds, truths)
    monkeypatch.setattr(boxes_module, "_MOST_PAIRS", 5)
    parts = match_boxes(finds, truths)
    np.testing.assert_array_equal(whole.truth, parts.truth)
    np.testing.assert_array_equal(whole.ignored, parts.ignored)


@given(st.integers(1, 3), st.integers(0, 10**6))
def test_iou_is_that_of_voxels(ndim, seed):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 8, (4, ndim))
    corners = np.concatenate([low, low + rng.integers(0, 6, (4, ndim))], axis=1)
    masks = np.zeros((4, *(14,) * ndim), bool)
    for mask, row in zip(masks, corners, strict=True):
        mask[tuple(slice(a, b + 1) for a, b in zip(row[:ndim], row[ndim:], strict=True))] = True
    expected = [[(a & b).sum() / (a | b).sum() for b in masks[2:]] for a in masks[:2]]
    np.testing.assert_allclose(box_iou(corners[:2], corners[2:]), expected)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_order_of_cases_and_boxes_does_not_matter(seed):
    true, found = scene(seed, cases=6, whole=False)
    if not len(true) or not len(found):
        return
    rng = np.random.default_rng(seed)
    names = rng.permutation(6)
    shuffled = [rows[rng.permutation(len(rows))] for rows in (true, found)]
    for rows in shuffled:
        rows[:, 0] = names[rows[:, 0].astype(int)]
    values = []
    for one in ((true, found), shuffled):
        truths, finds = as_lists(*one)
        values.append(average_precisions(match_boxes(finds, truths), 3, Patients.of(None, 6)).values)
    np.testing.assert_allclose(*values, atol=1e-12)


def test_a_volume_and_a_plane_of_the_same_thickness_agree():
    true, found = scene(1)
    flat = as_lists(true, found)
    thick = [
        BoxList(b.cases, np.insert(b.corners, [2, 4], [3.0, 7.0], axis=1), b.labels, b.scores, b.ignored) for b in flat
    ]
    np.testing.assert_array_equal(match_boxes(flat[1], flat[0]).truth, match_boxes(thick[1], thick[0]).truth)


def test_a_crowd_takes_many_and_a_finding_one():
    box = [0.0, 0.0, 9.0, 9.0]
    found = BoxList([0, 0, 0], [box, box, [0.0, 0.0, 4.0, 4.0]], [0, 0, 0], [0.9, 0.8, 0.7])
    plain = match_boxes(found, BoxList([0], [box], [0]), [0.5])
    assert plain.hit.tolist() == [[True, False, False]]
    crowd = match_boxes(found, BoxList([0], [box], [0], ignored=[True]), [0.5])
    assert not crowd.hit.any()
    assert crowd.ignored.all()  # the small one by the share of its own area


def test_draws_are_the_value_of_the_cases_drawn():
    true, found = scene(5, cases=8, classes=1)
    truths, finds = as_lists(true, found)
    who = Patients.of(["a", "a", "b", "c", "d", "e", "e", "f"], 8)
    boxes = ranked(match_boxes(finds, truths, [0.5]), 0, 0, who)
    rng = np.random.default_rng(0)
    for _ in range(10):
        weights = rng.integers(0, 3, who.count)
        times = weights[who.codes]
        drawn = [
            np.concatenate([rows[rows[:, 0] == case] for case in range(8) for _ in range(times[case])] or [rows[:0]])
            for rows in (true, found)
        ]
        numbers = [case for case in range(8) for _ in range(times[case])]
        for rows in drawn:  # each drawn case is a case of its own
            start = 0
            for number, case in enumerate(numbers):
                n = int(((true if rows is drawn[0] else found)[:, 0] == case).sum())
                rows[start : start + n, 0] = number
                start += n
        if not len(drawn[0]):
            continue
        again = as_lists(*drawn)
        # ties of score within a draw may stand in another order: their precision is the same at the end of the tie
        matches = match_boxes(again[1], again[0], [0.5])
        expected = average_precisions(matches, 1, Patients.of(None, len(numbers)))
        value = boxes.weighted(weights[None].astype(float))[0]
        assert value == pytest.approx(expected.values[0, 0], abs=0.02)


def test_intervals_come_from_draws():
    truths, finds = as_lists(*scene(2))
    found = average_precisions(match_boxes(finds, truths, [0.5]), 3, Patients.of(None, 40), Bootstrap(200))
    assert found.draws.shape == (1, 3, 200)
    low, high = np.quantile(found.draws[0, 0], [0.025, 0.975])
    assert low < found.values[0, 0] < high


def test_nothing_to_find_and_nothing_found():
    none, one = np.zeros((0, 4)), np.array([[0.0, 0.0, 3.0, 3.0]])
    empty, box = BoxList([], none, []), BoxList([0], one, [0])
    who = Patients.of(None, 1)
    assert average_precisions(match_boxes(empty, box), 1, who).values.max() == 0
    assert np.isnan(average_precisions(match_boxes(box, empty), 1, who).values).all()
    assert np.isnan(average_precisions(match_boxes(empty, empty), 1, who).values).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (([0], [[3, 0, 2, 5]], [0]), "swapped"),
        (([0], [[0, 0, np.nan, 5]], [0]), "undefined"),
        (([0], [[0, 0, 5]], [0]), "two corners"),
        (([0, 1], [[0, 0, 5, 5]], [0]), "cases do not fit"),
        (([-1], [[0, 0, 5, 5]], [0]), "numbered from 0"),
        (([0], [[0, 0, 5, 5]], [0], [np.inf]), "not all finite"),
    ],
)
def test_refused(values, says):
    with pytest.raises(UsageError, match=says):
        BoxList(*values)


def test_refused_to_match():
    flat, deep = BoxList([0], [[0, 0, 5, 5]], [0]), BoxList([0], [[0, 0, 0, 5, 5, 5]], [0])
    with pytest.raises(UsageError, match="other axes"):
        match_boxes(flat, deep)
    for wrong in ([], [0.0], [1.2]):
        with pytest.raises(UsageError, match="threshold"):
            match_boxes(flat, flat, wrong)
    with pytest.raises(UsageError, match="same axes"):
        box_iou([[0, 0, 1, 1]], [[0, 0, 0, 1, 1, 1]])
