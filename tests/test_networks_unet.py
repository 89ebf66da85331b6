"""U-Nets: shapes, strides for thick slices, what trains, and what an exporter sees."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medmap.errors import ConfigError
from medmap.networks import NetworkSpec, build, multiple_of, names, stages, unet_strides
from medmap.runtime import export_onnx, open_engine

LEARNING = ("unet", "residual_unet", "monai:SegResNet", "monai:AttentionUnet")


@given(
    shape=st.lists(st.integers(1, 200), min_size=2, max_size=3),
    spacing=st.lists(st.floats(0.2, 9.0), min_size=3, max_size=3),
)
def test_no_map_gets_smaller_than_four_voxels(shape: list[int], spacing: list[float]) -> None:
    strides = unet_strides(shape, spacing[: len(shape)])
    total = multiple_of(strides) or (1,) * len(shape)
    assert all(by == 1 or side / by >= 4 for side, by in zip(shape, total, strict=True))
    assert all(max(step) == 2 for step in strides), "a stage reduces something"


def test_thick_slices_stay_apart_until_their_plane_is_as_coarse() -> None:
    assert unet_strides((32, 128, 128), (5.0, 1.0, 1.0))[:2] == ((1, 2, 2), (1, 2, 2))
    assert unet_strides((64, 64, 64))[0] == (2, 2, 2)
    assert unet_strides((3, 3)) == ()


@pytest.mark.parametrize("name", ["unet", "residual_unet"])
@pytest.mark.parametrize("shape", [(16, 24), (16, 8, 24)])
def test_each_voxel_gets_a_number_for_each_class(name: str, shape: tuple[int, ...]) -> None:
    dims = len(shape)
    net = build(NetworkSpec(name, dims, 2, 3, shape, dense=True, width=0.25), seed=0)  # type: ignore[arg-type]
    images = torch.randn(2, 2, *shape)
    answers = net(images)
    assert isinstance(answers, list)
    assert tuple(answers[0].shape) == (2, 3, *shape)
    assert all(a.shape[2] > b.shape[2] for a, b in pairwise(answers))
    sum(a.square().mean() for a in answers).backward()
    assert all(p.grad is not None for p in net.parameters()), "every weight learns"
    assert tuple(net.eval()(images).shape) == (2, 3, *shape)
    assert len(stages(net)) > 3


def test_instance_norm_does_not_know_the_batch() -> None:
    net = build(NetworkSpec("unet", 2, 1, 2, (16, 16), dense=True, width=0.25, norm="instance"), seed=0).eval()
    images = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["monai:SegResNet", "monai:VNet", "monai:AttentionUnet", "monai:UNETR", "monai:SwinUNETR"]
)
def test_networks_of_monai_answer_for_each_voxel(name: str) -> None:
    with torch.device("cpu" if "Swin" in name else "meta"):  # Swin reads numbers while it is made
        side = 64 if "Swin" in name else 32
        net = build(NetworkSpec(name, 3, 1, 2, (side, side, side), dense=True))
        assert tuple(net.eval()(torch.zeros(1, 1, side, side, side)).shape) == (1, 2, side, side, side)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *[(name, shape) for name in LEARNING for shape in ((32, 48), (16, 32, 16))],
        ("monai:VNet", (32, 48)),  # of volumes it has 45 million weights
    ],
)
def test_they_learn_and_exported_they_answer_the_same(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    width = 1.0 if ":" in name else 0.25
    net = build(NetworkSpec(name, len(shape), 2, 3, shape, dense=True, width=width), seed=0)  # type: ignore[arg-type]
    images = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(0))
    answers = net(images)
    (answers[0] if isinstance(answers, list) else answers).square().mean().backward()
    assert next(net.parameters()).grad is not None
    net.eval()
    export_onnx(net, images[:1].numpy(), tmp_path / "model.onnx")
    with torch.no_grad():
        expected = net(images).numpy()
    for kind in ("onnx", "openvino"):
        engine = open_engine(kind, model_path=tmp_path / "model.onnx", threads=1)
        np.testing.assert_allclose(engine(images.numpy()), expected, atol=2e-4)


def test_names_and_refusals() -> None:
    assert set(names(3, dense=True)) == {"unet", "residual_unet"}
    with pytest.raises(ConfigError, match="for segmentation"):
        build(NetworkSpec("resnet18", 2, 1, 2, (32, 32), dense=True))
    with pytest.raises(ConfigError, match="gives no class for each voxel"):
        build(NetworkSpec("monai:DenseNet121", 3, 1, 2, (32, 32, 32), dense=True))
    with pytest.raises(ConfigError, match="strides"):
        NetworkSpec("unet", 2, 1, 2, (16, 16), dense=True, strides=((3, 2),))
