"""Volumes through networks for pictures: neighbours, any axis, what trains, what starts them, what an exporter sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medmap.errors import ConfigError
from medmap.networks import NetworkSpec, SliceWise, build, load_weights, stages
from medmap.runtime import export_onnx, open_engine

SHAPE = (16, 24, 5)


def net_of(name: str = "unet", seed: int = 0, **changes: object) -> nn.Module:
    values: dict[str, object] = {"in_channels": 2, "outputs": 3, "input_shape": SHAPE, "dense": True, "slices": 3}
    values |= {"width": 0.25} if name == "unet" else {}
    return build(NetworkSpec(name, 3, **{**values, **changes}), seed=seed)  # type: ignore[arg-type]


class _Seen(nn.Module):
    """Gives back the channels that it sees."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures


@settings(max_examples=25, deadline=None)
@given(axis=st.integers(0, 2), slices=st.sampled_from([1, 3, 5, 7]), channels=st.integers(1, 3))
def test_each_slice_sees_its_neighbours_and_the_last_ones_are_repeated(axis: int, slices: int, channels: int) -> None:
    volume = torch.arange(2 * channels * 4 * 3 * 5, dtype=torch.float32).reshape(2, channels, 4, 3, 5)
    seen = SliceWise(_Seen(), slices, axis)(volume)
    assert isinstance(seen, Tensor)
    count, beyond = volume.shape[2 + axis], slices // 2
    for at in range(count):
        neighbours = [min(max(at + step, 0), count - 1) for step in range(-beyond, beyond + 1)]
        expected = torch.cat([volume.select(2 + axis, n) for n in neighbours], dim=1)
        torch.testing.assert_close(seen.select(2 + axis, at), expected)


@pytest.mark.parametrize("name", ["unet", "unet+timm:resnet18", "monai:AttentionUnet"])
@pytest.mark.parametrize("axis", [0, 2])
def test_each_voxel_gets_a_number_for_each_class(name: str, axis: int) -> None:
    shape = (5, 32, 48) if axis == 0 else (32, 48, 5)
    net = net_of(name, input_shape=shape, slice_axis=axis)
    volume = torch.randn(2, 2, *shape)
    answers = net(volume)
    stack = answers if isinstance(answers, list) else [answers]
    assert tuple(stack[0].shape) == (2, 3, *shape)
    assert all(answer.shape[2 + axis] == 5 for answer in stack), "lower stages keep the slices"
    sum(a.square().mean() for a in stack).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in net.parameters())
    assert tuple(net.eval()(volume).shape) == (2, 3, *shape)


def test_slice_by_slice_is_the_pictures_network_on_every_slice() -> None:
    net = net_of(slices=1).eval()
    assert isinstance(net, SliceWise)
    volume = torch.randn(1, 2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(net(volume)[..., 2], net.network(volume[..., 2]), atol=1e-5, rtol=1e-4)


def test_stages_and_weights_pass_through_the_wrapper() -> None:
    net = net_of("unet+timm:resnet18", seed=1, input_shape=(32, 32, 5))
    assert stages(net)[1] == ["network.encoder.model.layer1"]
    assert stages(net)[-1] == ["network.head"]
    classifier = build(NetworkSpec("timm:resnet18", 2, 1, 2, (32, 32), stem="standard"), seed=5)
    report = load_weights(net, classifier.state_dict())
    assert report.share == 1.0
    assert report.adapted == ("network.encoder.model.conv1.weight",)
    mine = net.get_parameter("network.encoder.model.layer3.0.conv1.weight")
    torch.testing.assert_close(mine, classifier.get_parameter("layer3.0.conv1.weight"))
    plane = build(NetworkSpec("unet", 2, 6, 3, SHAPE[:2], dense=True, width=0.25), seed=4)
    assert load_weights(net_of(seed=2), plane.state_dict()).fresh == ()


@pytest.mark.parametrize("name", ["unet", "unet+timm:resnet18"])
@pytest.mark.parametrize("axis", [1, 2])
def test_exported_it_answers_the_same(name: str, axis: int, tmp_path: Path) -> None:
    shape = (32, 4, 48) if axis == 1 else (32, 48, 4)
    net = net_of(name, input_shape=shape, slice_axis=axis, norm="instance").eval()
    volumes = np.random.default_rng(0).standard_normal((3, 2, *shape), dtype=np.float32)
    export_onnx(net, volumes[:1], tmp_path / "model.onnx")
    with torch.no_grad():
        expected = net(torch.from_numpy(volumes)).numpy()
    for kind in ("onnx", "openvino"):
        engine = open_engine(kind, model_path=tmp_path / "model.onnx", threads=1)
        np.testing.assert_allclose(engine(volumes), expected, atol=2e-4)


@pytest.mark.parametrize(
    "changes",
    [{"slices": 2}, {"slices": -1}, {"slice_axis": 3}, {"dense": False}, {"strides": ((2, 2, 2),)}],
)
def test_refusals(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"network\.(slices|slice_axis|strides)"):
        net_of(**changes)  # type: ignore[arg-type]


def test_pictures_have_no_slices() -> None:
    with pytest.raises(ConfigError, match=r"network\.slices"):
        NetworkSpec("unet", 2, 1, 2, (16, 16), dense=True, slices=3)
