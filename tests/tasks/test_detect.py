"""The detection task: which place answers for what, what a patch holds, and how numbers become boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmap.dataset import Case, Ref, Truth
from medmap.metrics import box_iou
from medmap.networks import NetworkSpec
from medmap.results import Boxes, Label
from medmap.tasks.box_reading import Found
from medmap.tasks.box_targets import assigned, decoded, edges_of, generalised_overlap, overlap
from medmap.tasks.detect import Detect, DetectSection, within
from medmap.tasks.protocol import Batch
from medmap.testing import check_task

LABELS = (Label("cell"), Label("clump"))
STRIDES = ((2, 2), (2, 2), (2, 2))


def task_of(name: str = "fcos", shape: tuple[int, ...] = (32, 32), **section: Any) -> Detect:
    strides = tuple((2,) * len(shape) for _ in range(3))
    anchors = (((8.0,) * len(shape), (14.0,) * len(shape)),) * 3 if name == "retinanet" else ()
    spec = NetworkSpec(
        name,
        len(shape),
        1,
        2,
        shape,
        width=0.25,
        strides=strides,
        finest=1,
        boxes=True,
        anchors=anchors,  # type: ignore[arg-type]
    )
    return Detect(DetectSection(**section), LABELS, spec)


def rows_of(*boxes: tuple[Any, ...]) -> np.ndarray:
    """(edges …, state, class 0, class 1)."""
    return np.array(boxes, dtype=np.float32)


def case(name: str = "a") -> Case:
    return Case(name, name, {"image": Ref("x")})


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_the_task_keeps_its_promises(name: str) -> None:
    task = task_of(name)
    rng = np.random.default_rng(0)
    examples = [
        {"image": rng.normal(size=(1, 40, 36)).astype(np.float16), "boxes": rows_of((4, 4, 14, 16, 1, 1, 0))},
        {"image": rng.normal(size=(1, 30, 36)).astype(np.float16), "boxes": rows_of().reshape(0, 7)},
    ]
    options = {"dimensions": 2, "in_channels": 1, "input_shape": (32, 32), "width": 0.25, "strides": STRIDES}
    extra = {"finest": 1, "anchors": task.spec.anchors}
    check_task(task, examples, [case("a"), case("b")], network=name, **options, **extra)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), anchored=st.booleans(), ndim=st.sampled_from([2, 3]))
def test_a_box_told_by_its_place_is_read_back(seed: int, anchored: bool, ndim: int) -> None:
    rng = np.random.default_rng(seed)
    centre, sides = rng.uniform(10, 30, (5, ndim)), rng.uniform(4, 12, (5, ndim))
    priors = torch.from_numpy(np.concatenate([centre, sides], 1))
    low = torch.from_numpy(centre - rng.uniform(1, 9, (5, ndim)))
    high = torch.from_numpy(centre + rng.uniform(1, 9, (5, ndim)))
    place, size = priors[:, :ndim], priors[:, ndim:]
    if anchored:
        numbers = torch.cat([((low + high) / 2 - place) / size, torch.log((high - low) / size)], 1)
    else:
        numbers = torch.cat([torch.log((place - low) / size * 2), torch.log((high - place) / size * 2)], 1)
    np.testing.assert_allclose(decoded(numbers, priors, anchored), torch.cat([low, high], 1), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 6), name=st.sampled_from(["fcos", "retinanet"]))
def test_every_truth_has_a_place_and_no_place_two(seed: int, count: int, name: str) -> None:
    task = task_of(name)
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 24, (count, 2))
    truths = torch.from_numpy(np.concatenate([low, low + rng.uniform(1, 8, (count, 2))], 1)).float()
    priors = torch.from_numpy(task._priors)
    which = assigned(truths, priors, task._places, task._each)
    assert set(which.tolist()) - {-1} == set(range(count)) or len(overlap(truths, truths).triu(1).nonzero())
    assert which.shape == (len(priors),)
    empty = assigned(truths[:0], priors, task._places, task._each)
    assert (empty == -1).all()


def test_overlaps_are_those_of_the_metrics() -> None:
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 10, (2, 8, 3))
    a, b = (np.concatenate([one, one + rng.uniform(2, 9, (8, 3))], 1) for one in low)
    mine = overlap(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    corners = [np.concatenate([x[:, :3], x[:, 3:] - 1], 1) for x in (a, b)]
    np.testing.assert_allclose(mine, box_iou(*corners), atol=1e-9)
    iou, generalised = generalised_overlap(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(iou.numpy(), np.diag(mine), atol=1e-9)
    assert (generalised <= iou + 1e-12).all()
    apart = generalised_overlap(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))
    assert apart[1].item() == pytest.approx(-0.5)  # a hull of four, two of it empty


def test_a_patch_holds_boxes_cut_at_its_edge() -> None:
    rows = rows_of(
        (2, 2, 8, 8, 1, 1, 0), (28, 10, 36, 20, 1, 0, 1), (31.5, 0, 40, 8, 1, 1, 0), (10, 10, 12, 12, -1, 1, 0)
    )
    found = within(rows, np.array([4, 4]), np.array([26, 26]))
    np.testing.assert_allclose(found[0], [0, 0, 4, 4, -1, 1, 0])  # 44 % of the first one: spared
    np.testing.assert_allclose(found[1], [24, 6, 26, 16, -1, 0, 1])
    np.testing.assert_allclose(found[2], [6, 6, 8, 8, -1, 1, 0])
    assert len(found) == 3  # of the third nothing is seen


class Fixed(torch.nn.Module):
    """Says the same of every image, zeros at first."""

    def __init__(self, task: Detect) -> None:
        super().__init__()
        self.numbers = torch.nn.Parameter(torch.zeros(1, len(task._priors), 6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.numbers


def test_what_is_spared_or_was_not_looked_for_costs_nothing() -> None:
    task = task_of()
    images = torch.zeros(1, 1, 32, 32)
    net = Fixed(task)
    spared = torch.tensor([[[8.0, 8, 24, 24, -1, 1, 0]]])
    task.loss(net, Batch(images, spared, ("a",))).backward()
    pulled = net.numbers.grad[0, :, :2].abs().sum(1)
    inside = ((task._priors[:, :2] > 8) & (task._priors[:, :2] < 24)).all(1)
    assert (pulled[inside] == 0).all()
    assert (pulled[~inside] > 0).all()
    partly = Detect(task.section, LABELS, task.spec, {"a": (0,)})
    net.numbers.grad = None
    there = torch.tensor([[[8.0, 8, 16, 16, 1, 1, 0]]])
    partly.loss(net, Batch(images, there, ("a",))).backward()
    assert (net.numbers.grad[..., 1] == 0).all()
    assert (net.numbers.grad[..., 0] != 0).any()
    assert (net.numbers.grad[..., 2:] != 0).any()


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_of_the_hardest_negatives_only_the_surest_wrong_places_teach(name: str) -> None:
    task = task_of(name, negatives="hardest")
    net = Fixed(task)
    images = torch.zeros(1, 1, 32, 32)
    nothing = torch.zeros(1, 0, 7)
    with torch.no_grad():
        net.numbers[..., :2] = -4
        net.numbers[0, 5:25, 1] = torch.arange(20) / 10  # 20 false alarms of class 1, ever surer
    task.loss(net, Batch(images, nothing, ("a",))).backward()
    taught = (net.numbers.grad[0, :, :2] != 0).nonzero().tolist()
    assert taught == [[place, 1] for place in range(9, 25)]  # the surest 16
    net.numbers.grad = None
    there = torch.tensor([[[8.0, 8, 18, 18, 1, 1, 0]]])
    task.loss(net, Batch(images, there, ("a",))).backward()
    pushed = net.numbers.grad[0, :, :2]
    findings = int((pushed < 0).sum())
    assert findings > 0
    assert int((pushed > 0).sum()) == max(16, 3 * findings)


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16)])
def test_windows_are_put_together_without_doubles_or_gaps(shape: tuple[int, ...]) -> None:
    """A network that reads boxes off the image: each object is told once, as if there were one window."""
    ndim = len(shape)
    task = task_of(shape=shape, overlap=0.5)
    places = task._priors
    rng = np.random.default_rng(2)
    whole = tuple(2 * side + 9 for side in shape)
    image = np.zeros((1, *whole), np.float32)
    centres = []
    for _ in range(6):
        for _ in range(100):
            centre = np.array([int(rng.integers(3, side - 3)) for side in whole])
            if all(np.abs(centre - other).max() > 7 for other in centres):
                break
        centres.append(centre)
        image[(0, *centre)] = 1

    def network(batch: np.ndarray) -> np.ndarray:
        numbers = np.full((len(batch), len(places), 2 + 2 * ndim), -9.0, np.float32)
        for window, row in zip(batch, numbers, strict=True):
            for at in np.argwhere(window[0] > 0.5):
                nearest = int(np.abs(places[:, :ndim] - (at + 0.5)).sum(1).argmin())
                low, high = at + 0.5 - 2.5, at + 0.5 + 2.5  # five voxels a side around it
                mine = places[nearest]
                row[nearest, 0] = 3.0
                to_low, to_high = mine[:ndim] - low, high - mine[:ndim]
                row[nearest, 2:] = np.log(np.concatenate([to_low, to_high]) / np.tile(mine[ndim:] / 2, 2))
        return numbers

    found = task.reading.found(network, image)
    assert len(found.scores) == 6
    middles = (found.corners[:, :ndim] + found.corners[:, ndim:]) / 2
    for centre in centres:
        low, high = np.maximum(centre - 2, 0), np.minimum(centre + 2, np.array(whole) - 1)
        assert np.abs(middles - (low + high) / 2).max(1).min() < 1e-3
    views = ((), (0,), (1,))
    turned = task.reading.viewed(network, image, views)
    assert len(turned.scores) == 6
    np.testing.assert_allclose(np.sort(turned.scores), np.sort(found.scores), rtol=1e-5)


def test_numbers_become_boxes_with_scores() -> None:
    task = task_of()
    numbers = np.full((len(task._priors), 6), -9.0, np.float32)
    numbers[:, 2:] = 0.0
    numbers[40, 1] = 2.0
    boxes = task.decode(numbers)
    assert isinstance(boxes, Boxes)
    assert boxes.label_ids.tolist() == [1]
    np.testing.assert_allclose(boxes.scores, [1 / (1 + np.exp(-2))])
    edges = edges_of(torch.from_numpy(task._priors[40:41])).numpy()[0]
    np.testing.assert_allclose(boxes.corners[0], np.clip(edges - [0, 0, 1, 1], 0, 31), atol=1e-5)


def test_the_score_of_perfect_boxes_is_one() -> None:
    task = task_of()
    truth = rows_of((2, 2, 12, 12, 1, 1, 0), (14, 14, 24, 26, 1, 0, 1))
    perfect = Found(truth[:, :4].astype(float) - [0, 0, 1, 1], np.array([0.9, 0.8]), np.array([0, 1]))
    assert task.score([(perfect, truth)], [case()]).value == pytest.approx(1.0)
    swapped = Found(perfect.corners, perfect.scores, perfect.labels[::-1])
    assert task.score([(swapped, truth)], [case()]).value == 0.0
    nothing = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    assert task.score([(nothing, truth)], [case()]).value == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["fcos", "retinanet"]))
def test_small_truths_beside_each_other_keep_a_place_each(seed: int, name: str) -> None:
    task = task_of(name)
    rng = np.random.default_rng(seed)
    low = rng.uniform(2, 24, (6, 2))
    low[1] = low[0] + 1  # nearly the same place
    truths = torch.tensor(np.concatenate([low, low + rng.uniform(2, 5, (6, 2))], 1), dtype=torch.float32)
    which = assigned(truths, torch.from_numpy(task._priors), task._places, task._each)
    assert set(which.tolist()) >= set(range(6))


def two_stages(known: dict[str, tuple[int, ...]]) -> tuple[Detect, Any]:
    spec = NetworkSpec("faster_rcnn", 2, 1, 2, (32, 32), width=0.25, strides=STRIDES, finest=1, boxes=True)
    task = Detect(DetectSection(), LABELS, spec, known)
    torch.manual_seed(0)
    options = {"dimensions": 2, "in_channels": 1, "input_shape": (32, 32), "width": 0.25, "strides": STRIDES}
    return task, task.network("faster_rcnn", finest=1, **options)


def test_proposals_of_classes_that_nobody_looked_for_are_not_pushed_down() -> None:
    images, nothing = torch.randn(1, 1, 32, 32), torch.zeros(1, 0, 7)
    for known, pushed in (({}, True), ({"a": (0,)}, False)):
        task, net = two_stages(known)
        told = net.heads(net.maps(images)).detach().requires_grad_()
        task._of_places(told, Batch(images, nothing, ("a",)), 1).backward()
        assert bool((told.grad[..., 0] != 0).any()) is pushed


def test_the_second_stage_weighs_a_case_alike_whichever_class_was_looked_for() -> None:
    images, nothing = torch.randn(1, 1, 32, 32), torch.zeros(1, 0, 7)
    losses = []
    for known in ((0,), (1,)):
        task, net = two_stages({"a": known})
        maps = net.maps(images)
        torch.manual_seed(1)
        loss = task._of_proposals(net, maps, net.heads(maps).float(), Batch(images, nothing, ("a",)))
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_a_box_of_a_class_that_nobody_looked_for_is_no_false_alarm() -> None:
    task = task_of()
    corners = np.array([[4.0, 4, 12, 12], [15, 15, 25, 25]])
    found = Found(corners, np.array([0.9, 0.95]), np.array([0, 1]))
    truth = rows_of((3.5, 3.5, 12.5, 12.5, 1, 1, 0))
    partly = Case("a", "a", {"image": Ref("x")}, truth=Truth(boxes=(), known=(0,)))
    assert task.score([(found, truth)], [partly]).value == pytest.approx(1.0)
