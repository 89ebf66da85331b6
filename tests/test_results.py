from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids import oblique_geometry, oblique_image
from medmap.errors import DataError, GeometryError
from medmap.geometry import Crop, Flip, Geometry, Pad, Permute, Resample, Trace
from medmap.image import Image
from medmap.results import Boxes, Label, Mask, Picture, Prediction, Scores
from test_geometry import exact_traces, flat_geometry, survivors

CAT, DOG = Label("cat", "SCT:1"), Label("dog")


def box_of(array: np.ndarray) -> np.ndarray:
    where = np.argwhere(array)
    return np.concatenate([where.min(axis=0), where.max(axis=0)])


def one_box(corners: np.ndarray, geometry: Geometry) -> Boxes:
    return Boxes(corners[None], np.array([0]), np.array([0.5]), (CAT, DOG), geometry)


# -- scores ----------------------------------------------------------------------------------------------------------


def test_scores_cannot_be_written_and_have_no_place() -> None:
    mine = np.array([0.3, 0.7])
    scores = Scores((CAT, DOG), mine, spread=np.array([0.1, 0.1]), uncalibrated=np.array([0.2, 0.8]))
    mine[0] = 9
    assert scores.values.tolist() == [0.3, 0.7]
    for array in (scores.values, scores.spread, scores.uncalibrated):
        assert array is not None
        assert not array.flags.writeable
    assert scores.moved(Trace(oblique_geometry())) is scores


@pytest.mark.parametrize(
    ("values", "kind", "sentence"),
    [
        ([0.5], "multiclass", "one score for each class"),
        ([[0.5, 0.5]], "multiclass", "one score for each class"),
        ([np.nan, 0.5], "multiclass", "not a finite number"),
        ([np.inf, 0.5], "regression", "not a finite number"),
        ([-0.1, 1.0], "multilabel", "outside 0…1"),
        ([1.1, 0.0], "binary", "outside 0…1"),
    ],
)
def test_scores_that_are_none_are_refused(values: list[float], kind: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Scores((CAT, DOG), np.array(values), kind)  # type: ignore[arg-type]


def test_scores_of_no_class_are_refused() -> None:
    with pytest.raises(DataError, match="one score for each class"):
        Scores((), np.zeros(0))


def test_a_regression_may_leave_the_unit_interval() -> None:
    assert Scores((Label("age_years"),), np.array([63.2]), "regression").values[0] == 63.2


def test_scores_as_json() -> None:
    scores = Scores((CAT, DOG), np.array([0.25, 0.75]), calibrated=True, spread=np.array([0, 0.5]), decided=("dog",))
    assert json.loads(json.dumps(scores.as_json())) == {
        "type": "scores",
        "kind": "multiclass",
        "scores": {"cat": 0.25, "dog": 0.75},
        "codes": {"cat": "SCT:1"},
        "spread": [0.0, 0.5],
        "calibrated": True,
        "decided": ["dog"],
        "abstained": False,
    }
    assert Scores((CAT,), np.array([1.0])).as_json()["spread"] is None


# -- boxes and masks: the same place by two ways ----------------------------------------------------------------------


@given(exact_traces(), st.data())
def test_a_moved_box_is_the_box_of_the_moved_mask(trace: Trace, data: st.DataObject) -> None:
    before, after = survivors(trace)
    if not len(before):
        return
    low, high = after.min(axis=0), after.max(axis=0)  # exact steps keep boxes boxes: what survives is one
    corners = np.sort(
        [[data.draw(st.integers(int(a), int(b))) for a, b in zip(low, high, strict=True)] for _ in "ab"], 0
    )
    array = np.zeros(trace.target.shape, np.uint8)
    array[tuple(slice(a, b + 1) for a, b in corners.T)] = 1
    mask = Mask(array, trace.target, {1: CAT}).moved(trace)
    boxes = one_box(corners.ravel(), trace.target).moved(trace)
    np.testing.assert_allclose(boxes.corners[0], box_of(mask.array), atol=1e-9)
    assert boxes.geometry == mask.geometry == trace.source
    np.testing.assert_allclose(boxes.centres_mm(), one_box(corners.ravel(), trace.target).centres_mm(), atol=1e-9)


@given(st.data(), st.tuples(*[st.integers(1, 4)] * 3))
def test_the_same_across_whole_factors_of_resampling(data: st.DataObject, factors: tuple[int, int, int]) -> None:
    coarse = oblique_geometry()
    fine = coarse.resampled([n * f for n, f in zip(coarse.shape, factors, strict=True)])
    trace = Trace(fine, (Resample(coarse.shape), Flip((1,))))
    corners = np.sort([[data.draw(st.integers(0, n - 1)) for n in coarse.shape] for _ in "ab"], 0)
    array = np.zeros(coarse.shape, np.uint8)
    array[tuple(slice(a, b + 1) for a, b in corners.T)] = 1
    moved = one_box(corners.ravel(), trace.target).moved(trace)
    np.testing.assert_allclose(
        moved.corners[0], box_of(Mask(array, trace.target, {1: CAT}).moved(trace).array), atol=1e-9
    )
    np.testing.assert_allclose(moved.sizes_mm(), one_box(corners.ravel(), trace.target).sizes_mm(), atol=1e-9)


@given(st.tuples(*[st.integers(1, 24)] * 3))
def test_resampling_by_any_factor_keeps_place_and_size_of_a_box(shape: tuple[int, int, int]) -> None:
    trace = Trace(oblique_geometry(), (Resample(shape),))
    box = one_box(np.array([0, 0, 0, *(n - 1 for n in shape)]), trace.target)
    moved = box.moved(trace)
    np.testing.assert_allclose(moved.corners[0], (0, 0, 0, 4, 6, 10), atol=1e-9)
    np.testing.assert_allclose(moved.sizes_mm(), box.sizes_mm(), atol=1e-9)
    np.testing.assert_allclose(moved.centres_mm(), box.centres_mm(), atol=1e-9)


def test_a_box_smaller_than_a_voxel_of_the_source_becomes_a_voxel() -> None:
    trace = Trace(oblique_geometry(), (Resample((15, 21, 33)),))
    box = one_box(np.array([6, 6, 6, 6, 6, 6]), trace.target)
    moved = box.moved(trace)
    np.testing.assert_allclose(moved.sizes_mm(), [trace.source.spacing_mm], atol=1e-9)
    np.testing.assert_allclose(moved.centres_mm(), box.centres_mm(), atol=1e-9)


def test_boxes_in_two_dimensions_and_none_at_all() -> None:
    flat = flat_geometry()
    trace = Trace(flat, (Permute((1, 0)), Pad((2, 0), (0, 0))))
    boxes = one_box(np.array([2, 0, 4, 1]), trace.target).moved(trace)
    assert boxes.corners.tolist() == [[0, 0, 1, 2]]
    np.testing.assert_allclose(boxes.sizes_mm(), [[2 * 0.7, 3 * 1.3]])
    nothing = Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), (CAT,), flat)
    assert nothing.moved(Trace(flat)).corners.shape == (0, 4)
    assert nothing.as_json()["boxes"] == []


def test_boxes_as_json() -> None:
    flat = Geometry.from_spacing((5, 7), (0.5, 2))
    boxes = Boxes(np.array([[0, 1, 2, 3]]), np.array([0]), np.array([0.5]), (CAT,), flat)
    (row,) = json.loads(json.dumps(boxes.as_json()))["boxes"]
    expected = {"index": [0, 1, 2, 3], "centre_mm": [0.5, 4, 0], "size_mm": [1.5, 6], "label": "cat", "score": 0.5}
    assert row == {**expected, "code": "SCT:1", "called": True, "first_slice": None, "last_slice": None}
    unsized = Boxes(np.array([[0, 1, 2, 3]]), np.array([0]), np.array([0.5]), (CAT,), Geometry.without_size((5, 7)))
    (row,) = unsized.as_json()["boxes"]
    assert row["centre_mm"] is None
    assert row["size_mm"] is None
    with pytest.raises(GeometryError, match="needs millimetres"):
        unsized.centres_mm()
    with pytest.raises(GeometryError, match="needs millimetres"):
        unsized.sizes_mm()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=8))
def test_the_slices_of_boxes_are_those_of_their_voxels(spans: list[tuple[int, int]]) -> None:
    grid = Geometry.from_spacing((5, 7, 30), (0.7, 1.3, 2.9))
    rows = [[0, 1, first, 3, 4, first + more] for first, more in spans]
    boxes = Boxes(np.array(rows), np.zeros(len(rows)), np.full(len(rows), 0.5), (CAT,), grid)
    assert boxes.slices().tolist() == [[first, first + more] for first, more in spans]
    told = boxes.as_json()["boxes"]
    assert [[row["first_slice"], row["last_slice"]] for row in told] == boxes.slices().tolist()
    assert boxes.slices(0).tolist() == [[0, 3]] * len(rows)


@pytest.mark.parametrize(("low", "high", "expected"), [(4.3, 4.4, [4, 4]), (4.5, 4.5, [5, 5]), (3.6, 5.2, [4, 5])])
def test_a_box_between_voxels_has_a_slice(low: float, high: float, expected: list[int]) -> None:
    grid = Geometry.from_spacing((5, 7, 30), (0.7, 1.3, 2.9))
    boxes = Boxes(np.array([[0, 0, low, 1, 1, high]]), np.array([0]), np.array([0.5]), (CAT,), grid)
    assert boxes.slices().tolist() == [expected]


@given(st.lists(st.tuples(st.floats(-9, 15), st.floats(0, 12), st.floats(-9, 15), st.floats(0, 12)), max_size=8))
def test_boxes_end_where_their_image_ends(rows: list[tuple[float, float, float, float]]) -> None:
    flat = Geometry.from_spacing((5, 7), (0.5, 2))
    corners = np.array([[i, j, i + high, j + wide] for i, high, j, wide in rows]).reshape(-1, 4)
    scores = np.linspace(0.1, 0.9, len(rows))
    cut = Boxes(corners, np.zeros(len(rows)), scores, (CAT,), flat).inside()
    assert (cut.corners >= 0).all()
    assert (cut.corners <= [4, 6, 4, 6]).all()
    edges = [(row[:2] - 0.5, row[2:] + 0.5) for row in corners]
    # what a box shares with the image, edge to edge, is what is kept of it
    shared = [np.minimum(b, (4.5, 6.5)) - np.maximum(a, -0.5) for a, b in edges]
    for row, score in zip(cut.corners, cut.scores, strict=True):
        mine = shared[int(np.argmin(np.abs(scores - score)))]
        assert (np.abs(row[2:] - row[:2] + 1 - np.maximum(mine, 1)) < 1 + 1e-9).all()
    whole = [n for n, row in enumerate(corners) if (row[:2] >= 0).all() and (row[2:] <= (4, 6)).all()]
    assert np.array_equal(cut.corners[np.isin(cut.scores, scores[whole])], corners[whole])
    beyond = [n for n, (a, b) in enumerate(edges) if (b < -0.5).any() or (a > (4.5, 6.5)).any()]
    assert not np.isin(scores[beyond], cut.scores).any()


def test_boxes_below_their_class_s_threshold_are_kept_and_not_called() -> None:
    flat = flat_geometry()
    scores = np.array([0.5, 0.4, 0.9])
    boxes = Boxes(np.tile([0, 0, 1, 1], (3, 1)), np.array([0, 1, 1]), scores, (CAT, DOG), flat, thresholds=(0.6, 0.4))
    assert boxes.called.tolist() == [False, True, True]
    assert boxes.taken(boxes.called).scores.tolist() == [0.4, 0.9]
    assert boxes.taken(np.argsort(-boxes.scores)).label_ids.tolist() == [1, 0, 1]
    told = boxes.as_json()
    assert told["thresholds"] == {"cat": 0.6, "dog": 0.4}
    assert [row["called"] for row in told["boxes"]] == [False, True, True]
    with pytest.raises(DataError, match="each class has its threshold"):
        replace(boxes, thresholds=(0.5,))


@pytest.mark.parametrize(
    ("corners", "ids", "scores", "error", "sentence"),
    [
        ([[2, 1, 0, 3]], [0], [0.5], GeometryError, "swapped"),
        ([[np.nan, 1, 2, 3]], [0], [0.5], GeometryError, "swapped or undefined"),
        ([[0, 1, 2, 3]], [2], [0.5], DataError, "unknown class"),
        ([[0, 1, 2, 3]], [-1], [0.5], DataError, "unknown class"),
        ([[0, 1, 2, 3]], [0], [1.5], DataError, "outside 0…1"),
        ([[0, 1, 2, 3]], [0], [np.nan], DataError, "outside 0…1"),
        ([[0, 1, 2]], [0], [0.5], DataError, "each box has its corners"),
        ([[0, 1, 2, 3]], [], [], DataError, "each box has its corners"),
        ([[0, 1, 2, 3]], [0, 1], [0.5], DataError, "each box has its corners"),
    ],
)
def test_boxes_that_are_none_are_refused(
    corners: list[list[float]], ids: list[int], scores: list[float], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        Boxes(np.array(corners), np.array(ids, int), np.array(scores), (CAT, DOG), flat_geometry())


def test_results_off_the_prepared_grid_are_refused() -> None:
    trace = Trace(oblique_geometry(), (Crop((0, 0, 0), (4, 7, 11)),))
    with pytest.raises(GeometryError, match="not on the prepared grid"):
        one_box(np.array([0, 0, 0, 1, 1, 1]), oblique_geometry()).moved(trace)
    with pytest.raises(GeometryError, match="not on the prepared grid"):
        Mask(np.zeros((5, 7, 11), np.uint8), oblique_geometry(), {1: CAT}).moved(trace)


# -- masks -----------------------------------------------------------------------------------------------------------


@given(exact_traces())
def test_a_mask_comes_back_where_it_was(trace: Trace) -> None:
    source = (oblique_image().array % 3).astype(np.uint8)
    moved = Mask(trace.forward(source), trace.target, {1: CAT, 2: DOG}).moved(trace)
    kept, _ = survivors(trace)
    expected = np.zeros_like(source)
    expected[tuple(kept.T)] = source[tuple(kept.T)]
    np.testing.assert_array_equal(moved.array, expected)
    assert moved.labels == {1: CAT, 2: DOG}
    assert not moved.array.flags.writeable


def test_overlapping_regions_ride_along() -> None:
    trace = Trace(oblique_geometry(), (Flip((2,)), Resample((10, 14, 22))))
    source = np.random.default_rng(3).random((5, 7, 11, 2)) > 0.5
    moved = Mask(trace.forward(source, order=0), trace.target, {1: CAT, 2: DOG}).moved(trace)
    np.testing.assert_array_equal(moved.array, source)
    rows = moved.as_json()["structures"]
    assert [row["voxels"] for row in rows] == source.reshape(-1, 2).sum(axis=0).tolist()


def test_a_mask_as_json_counts_voxels_and_millilitres() -> None:
    array = np.zeros((5, 7, 11), np.uint8)
    array[:2] = 2
    rows = json.loads(json.dumps(Mask(array, oblique_geometry(), {1: CAT, 2: DOG}).as_json()))["structures"]
    assert rows[0] == {"value": 1, "label": "cat", "code": "SCT:1", "voxels": 0, "volume_ml": 0}
    assert rows[1]["voxels"] == 154
    assert rows[1]["volume_ml"] == pytest.approx(154 * 0.7 * 1.3 * 2.9 / 1000)
    flat = Mask(array[..., 0], flat_geometry(), {2: DOG}).as_json()["structures"]
    assert flat[0]["volume_ml"] is None


@pytest.mark.parametrize(
    ("array", "labels", "error", "sentence"),
    [
        (np.zeros((5, 7), np.uint8), {1: CAT}, GeometryError, "does not fit its geometry"),
        (np.zeros((5, 7, 11, 2), bool), {1: CAT}, GeometryError, "does not fit its geometry"),
        (np.zeros((5, 7, 11), np.int16), {1: CAT}, DataError, "unsigned integers"),
        (np.zeros((5, 7, 11), np.float32), {1: CAT}, DataError, "unsigned integers"),
        (np.zeros((5, 7, 11), np.uint8), {0: CAT}, DataError, "background"),
    ],
)
def test_a_mask_that_is_none_is_refused(
    array: np.ndarray, labels: dict[int, Label], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        Mask(array, oblique_geometry(), labels)


# -- pictures and predictions ----------------------------------------------------------------------------------------


def test_a_picture_goes_back_unless_intensities_were_lost(image: Image) -> None:
    trace = Trace(image.geometry, (Permute((1, 2, 0)), Crop((0, 0, 0), (7, 11, 4))))
    moved = Picture(image.moved(*trace.steps)).moved(trace)
    np.testing.assert_array_equal(moved.image.array[:4], image.array[:4])
    assert (moved.image.array[4] == 0).all()
    assert moved.image.geometry == image.geometry
    assert moved.image.steps[-1] == "back"
    assert moved.as_json() == {"type": "picture", "shape": [5, 7, 11], "quantity": "HU"}
    lossy = Trace(image.geometry, (), lossy_intensity="clipped to −1000…400 HU")
    with pytest.raises(GeometryError, match="clipped to −1000…400 HU"):
        Picture(image).moved(lossy)


def test_a_prediction_is_plain_and_fixed() -> None:
    outputs = {"class": Scores((CAT, DOG), np.array([0.25, 0.75]))}
    prediction = Prediction("c1", outputs, {"image": oblique_geometry()}, "sha256:0", ("small",))
    outputs.clear()
    assert list(prediction.outputs) == ["class"]
    with pytest.raises(TypeError):
        prediction.outputs["more"] = prediction.outputs["class"]  # type: ignore[index]
    data = json.loads(json.dumps(prediction.as_json()))
    assert data["outputs"]["class"]["scores"] == {"cat": 0.25, "dog": 0.75}
    assert Geometry.from_json(data["geometry"]["image"]) == oblique_geometry()
    assert data["warnings"] == ["small"]


def test_a_prediction_says_how_sure_it_is() -> None:
    told = Prediction("a", {}, expected_dice=0.9)
    assert told.uncertainty == pytest.approx(0.1)
    assert told.as_json()["expected_dice"] == 0.9
    assert Prediction("a", {}).uncertainty is None
    assert "expected_dice" not in Prediction("a", {}).as_json()
