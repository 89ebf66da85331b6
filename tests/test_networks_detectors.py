"""Detectors: their answers, their priors, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medmap.errors import ConfigError
from medmap.networks import NetworkSpec, SizeError, build, load_weights, places_per_map, priors
from medmap.networks.two_stage import PROPOSED, First
from medmap.runtime import export_onnx, measure_parity, open_engine

STEPS = {2: ((2, 2), (2, 2), (2, 2)), 3: ((1, 2, 2), (2, 2, 2), (2, 2, 2))}
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
        ({"name": "faster_rcnn", "strides": ((2, 1), (2, 2), (2, 2))}, ConfigError, "reduced alike along both axes"),
        ({"input_shape": (30, 48)}, SizeError, "multiples of 8 × 8"),
    ],
)
def test_detectors_that_cannot_be_are_refused(change: dict[str, object], error: type[Exception], sentence: str) -> None:
    given = {"name": "fcos", "input_shape": SHAPE[2], "width": 0.25, "strides": STEPS[2], "finest": 1, **change}
    with pytest.raises(error, match=sentence):
        build(NetworkSpec(dimensions=2, in_channels=1, outputs=3, boxes=True, **given), seed=0)  # type: ignore[arg-type]


def test_two_stages_answer_alike_packed_and_whole() -> None:
    spec = spec_of("faster_rcnn", 2)
    net = build(spec, seed=0).eval()
    images = torch.randn(2, 1, *SHAPE[2])
    with torch.inference_mode():
        answer = net(images)
        packed = First(net)(images)
        heads, maps = net.unpacked(packed)
        boxes, sure = net.proposed(heads)
        again = net.together(net.second(net.regions(maps, boxes)), boxes, sure)
    torch.testing.assert_close(answer, again)
    assert answer.shape == (2, PROPOSED, 3 + 4)
    edges = answer[..., 3:]
    assert (edges[..., :2] >= 0).all()
    assert (edges[..., 2:] <= torch.tensor(SHAPE[2])).all()
    assert (edges[..., 2:] - edges[..., :2] >= 1 - 1e-5).all()
    assert (answer[..., :3][~sure] == -20).all()


def test_a_region_is_cut_where_its_box_lies() -> None:
    """Each map holds its own row or column number: a region's values say where it was cut."""
    spec = spec_of("faster_rcnn", 2)
    net = build(spec, seed=0).eval()
    channels = net.pyramid.channels
    maps = []
    for step in net.steps:
        rows, columns = SHAPE[2][0] // step[0], SHAPE[2][1] // step[1]
        place = torch.zeros(1, channels, rows, columns)
        place[0, 0] = (torch.arange(rows)[:, None] + 0.5) * step[0]
        place[0, 1] = (torch.arange(columns)[None] + 0.5) * step[1]
        maps.append(place)
    box = torch.tensor([[[6.0, 10.0, 20.0, 38.0]]])
    region = net.regions(maps, box)[0]
    assert region[0].mean().item() == pytest.approx(13.0, abs=1.1)  # within half a step of its map
    assert region[1].mean().item() == pytest.approx(24.0, abs=1.1)
    assert (region[0].diff(dim=0) > 0).all()
    assert (region[1].diff(dim=1) > 0).all()
