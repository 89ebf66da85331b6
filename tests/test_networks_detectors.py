"""Detectors: their answers, their priors, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from medmap.errors import ConfigError
from medmap.networks import NetworkSpec, SizeError, build, load_weights, places_per_map, priors
from medmap.networks.two_stage import PROPOSED, First, apart, sampled_regions
from medmap.runtime import export_onnx, measure_parity, open_engine

STEPS = {2: ((2, 2), (2, 2), (2, 2)), 3: ((1, 2, 2), (2, 2, 2), (2, 2, 2))}
UNLIKE = {2: ((2, 1), (2, 2), (2, 2)), 3: STEPS[3]}  # axes that are not reduced alike
SHAPE = {2: (32, 48), 3: (16, 32, 32)}


def spec_of(name: str, ndim: int, **options: object) -> NetworkSpec:
    plain: dict[str, object] = {"width": 0.25, "strides": STEPS[ndim], "finest": 1, "boxes": True}
    return NetworkSpec(name, ndim, 1, 3, SHAPE[ndim], **{**plain, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["fcos", "retinanet", "fcos+plain"])
def test_a_detector_answers_for_every_place_and_the_same_when_exported(name: str, ndim: int, tmp_path: Path) -> None:
    anchors = (((8.0,) * ndim, (12.0,) * ndim),) * 3 if name == "retinanet" else ()
    spec = spec_of(name, ndim, anchors=anchors)
    net = build(spec, seed=0)
    images = torch.randn(2, 1, *SHAPE[ndim])
    net(images).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    answer = net.eval()(images)
    each = 2 if anchors else 1
    places = sum(int(np.prod(np.array(SHAPE[ndim]) // step)) * each for step in np.cumprod(STEPS[ndim], axis=0))
    assert answer.shape == (2, places, 3 + 2 * ndim)
    assert priors(spec).shape == (places, 2 * ndim)
    assert sum(places_per_map(spec)) == places
    assert torch.sigmoid(answer[..., :3]).mean() < 0.05  # a fresh network believes in hardly anything
    export_onnx(net, images.numpy(), tmp_path / "model.onnx")
    for kind in ("onnx", "openvino"):
        engine = open_engine(kind, model_path=tmp_path / "model.onnx")  # type: ignore[arg-type]
        reference = open_engine("torch", module=net, device="cpu")
        assert measure_parity(reference, engine, images.numpy(), class_axis=2).passed
        engine.close()


def test_priors_lie_where_the_places_look() -> None:
    spec = spec_of("fcos", 2)
    found = priors(spec)
    first, second = places_per_map(spec)[:2]
    assert found[0].tolist() == [1.0, 1.0, 8.0, 8.0]  # the first of places two pixels apart, four of their steps wide
    assert found[1].tolist() == [1.0, 3.0, 8.0, 8.0]
    assert found[first].tolist() == [2.0, 2.0, 16.0, 16.0]
    assert found[first + second].tolist() == [4.0, 4.0, 32.0, 32.0]
    net = build(spec, seed=0).eval()
    blank = torch.zeros(1, 1, 32, 48)
    before = net(blank)[0]
    blank[0, 0, 20, 30] = 50.0  # what answers most to one pixel is the place around it
    changed = (net(blank)[0] - before).abs().sum(1)[:first]
    centre = found[int(changed.argmax()), :2]
    assert np.abs(centre - [20.5, 30.5]).max() <= 4


def test_an_encoder_of_timm_and_one_of_a_segmenter_start_a_detector() -> None:
    spec = NetworkSpec("retinanet+timm:resnet18", 2, 1, 2, (64, 64), boxes=True, finest=2)
    net = build(spec, seed=0)
    assert net(torch.zeros(2, 1, 64, 64)).shape[1:] == (sum(places_per_map(spec)), 6)
    unet = build(NetworkSpec("residual_unet", 2, 1, 2, SHAPE[2], width=0.25, strides=STEPS[2], dense=True), seed=1)
    mine = build(spec_of("fcos", 2, strides=STEPS[2]), seed=0)
    report = load_weights(mine, dict(unet.state_dict()), expect=0.3)
    loaded = [name for name in report.loaded if name.startswith("encoder.")]
    assert loaded
    assert torch.equal(mine.state_dict()[loaded[0]], unet.state_dict()[loaded[0]])


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"name": "yolo"}, ConfigError, "no network for detection"),
        ({"name": "fcos+monai:resnet18"}, ConfigError, "no network for detection"),
        ({"name": "fcos+timm:resnet181"}, ConfigError, "timm has no network"),
        ({"finest": 7}, ConfigError, "beyond the encoder"),
        ({"name": "retinanet", "anchors": (((8.0, 8.0),),)}, ConfigError, "each map of the pyramid has its anchors"),
        ({"name": "retinanet", "anchors": (((8.0, -8.0),),) * 3}, ConfigError, "anchors is out of range"),
        ({"input_shape": (30, 48)}, SizeError, "multiples of 8 × 8"),
    ],
)
def test_detectors_that_cannot_be_are_refused(change: dict[str, object], error: type[Exception], sentence: str) -> None:
    given = {"name": "fcos", "input_shape": SHAPE[2], "width": 0.25, "strides": STEPS[2], "finest": 1, **change}
    with pytest.raises(error, match=sentence):
        build(NetworkSpec(dimensions=2, in_channels=1, outputs=3, boxes=True, **given), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("ndim", [2, 3])
def test_two_stages_answer_alike_packed_and_whole(ndim: int) -> None:
    spec = spec_of("faster_rcnn", ndim)
    net = build(spec, seed=0).eval()
    images = torch.randn(2, 1, *SHAPE[ndim])
    with torch.inference_mode():
        answer = net(images)
        packed = First(net)(images)
        heads, maps = net.unpacked(packed)
        boxes, sure = net.proposed(heads)
        again = net.together(net.second(net.regions(maps, boxes)), boxes, sure)
    torch.testing.assert_close(answer, again)
    assert answer.shape == (2, PROPOSED, 3 + 2 * ndim)
    edges = answer[..., 3:]
    assert (edges[..., :ndim] >= 0).all()
    assert (edges[..., ndim:] <= torch.tensor(SHAPE[ndim])).all()
    assert (edges[..., ndim:] - edges[..., :ndim] >= 1 - 1e-5).all()
    assert (answer[..., :3][~sure] == -20).all()


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_region_is_cut_where_its_box_lies(ndim: int) -> None:
    """Each map holds its own place along each axis: a region's values say where it was cut."""
    net = build(spec_of("faster_rcnn", ndim, strides=UNLIKE[ndim]), seed=0).eval()
    maps = []
    for step in net.steps:
        sides = [side // by for side, by in zip(SHAPE[ndim], step, strict=True)]
        place = torch.zeros(1, net.pyramid.channels, *sides)
        for axis, (side, by) in enumerate(zip(sides, step, strict=True)):
            place[0, axis] = ((torch.arange(side) + 0.5) * by).reshape([-1 if a == axis else 1 for a in range(ndim)])
        maps.append(place)
    low, high = torch.tensor([6.0, 10.0, 4.0][:ndim]), torch.tensor([13.0, 28.0, 15.0][:ndim])
    region = net.regions(maps, torch.cat([low, high])[None, None])[0]
    for axis in range(ndim):
        assert region[axis].mean().item() == pytest.approx((low + high)[axis].item() / 2, abs=0.01)
        assert (region[axis].diff(dim=axis) > 0).all()


def test_regions_of_volumes_are_those_of_torchvision_in_a_plane() -> None:
    """A volume that is the same in every slice, cut by boxes through all of it, is RoIAlign of one slice."""
    torch.manual_seed(0)
    plane = torch.randn(5, 24, 20)
    boxes = torch.tensor([[4.0, 6.0, 31.0, 29.0], [10.0, 2.0, 20.0, 38.0]])
    volume = plane[:, :, :, None].expand(5, 24, 20, 8)
    whole = torch.cat([boxes[:, :2], torch.zeros(2, 1), boxes[:, 2:], torch.full((2, 1), 16.0)], dim=1)
    mine = sampled_regions(volume, whole, (2, 2, 2))
    turned = [boxes[:, [1, 0, 3, 2]]]
    theirs = roi_align(plane[None], turned, (4, 4), spatial_scale=0.5, sampling_ratio=2, aligned=True)
    torch.testing.assert_close(mine, theirs[..., None].expand_as(mine), atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_proposals_of_volumes_are_kept_as_those_of_pictures(seed: int) -> None:
    """Flat boxes in volumes overlap as their pictures do."""
    rng = torch.Generator().manual_seed(seed)
    low = torch.rand(80, 2, generator=rng) * 20
    flat = torch.cat([low, low + 2 + torch.rand(80, 2, generator=rng) * 10], dim=1)
    deep = torch.cat([flat[:, :2], torch.zeros(80, 1), flat[:, 2:], torch.full((80, 1), 7.0)], dim=1)
    assert apart(deep).tolist() == apart(flat).tolist()
