"""Decoders over timm's encoders: shapes, sizes, stages, a classifier's weights in the encoder, the exported graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medmap.errors import ConfigError, SizeError, WeightsError
from medmap.networks import NetworkSpec, build, load_weights, parameter_groups, set_frozen, stages
from medmap.networks.decoders import decoder_prefixes
from medmap.runtime import export_onnx, open_engine

SHAPE = (64, 96)


def net_of(name: str, seed: int = 0, **changes: object) -> nn.Module:
    values: dict[str, object] = {"in_channels": 2, "outputs": 3, "input_shape": SHAPE, "dense": True}
    return build(NetworkSpec(name, 2, **{**values, **changes}), seed=seed)  # type: ignore[arg-type]


def encoder_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return net.get_submodule("encoder.model").state_dict()


@pytest.mark.parametrize("prefix", decoder_prefixes())
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_pixel_gets_a_number_for_each_class(prefix: str, norm: str) -> None:
    net = net_of(f"{prefix}:resnet18", norm=norm)
    images = torch.randn(2, 2, *SHAPE)
    logits = net(images)
    assert tuple(logits.shape) == (2, 3, *SHAPE)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters()), "every weight learns"
    assert tuple(net.eval()(images[:1]).shape) == (1, 3, *SHAPE)


@pytest.mark.parametrize("encoder", ["convnext_atto", "regnety_002", "mobilenetv3_small_050", "efficientnet_b0"])
def test_other_families_are_encoders_too(encoder: str) -> None:
    net = net_of(f"unet+timm:{encoder}", in_channels=1).eval()
    assert tuple(net(torch.zeros(1, 1, *SHAPE)).shape) == (1, 3, *SHAPE)


def test_a_unet_takes_any_size_and_the_others_say_which() -> None:
    net = net_of("unet+timm:resnet18", input_shape=(50, 37)).eval()
    assert tuple(net(torch.zeros(1, 2, 50, 37)).shape) == (1, 3, 50, 37)
    with pytest.raises(SizeError, match="multiples of 32: got 60 × 64, expected 64 × 64"):
        net_of("fpn+timm:resnet18", input_shape=(60, 64))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("unet+timm:resnet35", {}, "expected unet.timm:resnet"),
        ("unet+timm:vit_tiny_patch16_224", {}, "is no encoder for unet"),
        ("unet+timm:resnet18", {"dense": False}, "timm:resnet18 classifies images"),
        ("linknet+timm:resnet18", {}, "after a decoder"),
        ("unet+timm:resnet18", {"width": 0.5}, "fixed width"),
    ],
)
def test_refusals(name: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        net_of(name, **changes)


def test_volumes_are_pointed_to_slices() -> None:
    with pytest.raises(ConfigError, match=r"network\.slices"):
        build(NetworkSpec("unet+timm:resnet18", 3, 1, 2, (8, 32, 32), dense=True))


def test_dropout_is_the_decoders_own() -> None:
    dropped = [m.p for m in net_of("deeplabv3plus+timm:resnet18", dropout=0.3).modules() if isinstance(m, nn.Dropout)]
    assert dropped == [0.3]
    encoder = net_of("unet+timm:efficientnet_b0", dropout=0.3).get_submodule("encoder")
    assert not any(type(m).__name__ == "DropoutLinear" for m in encoder.modules())


def test_the_encoder_is_a_row_of_stages() -> None:
    net = net_of("unet+timm:resnet18")
    row = stages(net)
    assert row[0] == ["encoder.model.conv1", "encoder.model.bn1"]
    assert row[1:] == [[f"encoder.model.layer{n}"] for n in range(1, 5)] + [["decoder"], ["head"]]
    set_frozen(net, 2)
    assert not net.get_parameter("encoder.model.layer1.0.conv1.weight").requires_grad
    assert net.get_parameter("encoder.model.layer2.0.conv1.weight").requires_grad
    groups = parameter_groups(net, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    assert {group["lr"] for group in groups if group["stage"] == 0} == {0.5**6}


@pytest.mark.parametrize(
    ("encoder", "channels"), [("resnet18", 2), ("resnet18", 1), ("convnext_atto", 2), ("mobilenetv3_small_050", 2)]
)
def test_a_classifiers_weights_start_the_encoder(tmp_path: Path, encoder: str, channels: int) -> None:
    spec = NetworkSpec(f"timm:{encoder}", 2, 2, 5, SHAPE, stem="standard")
    classifier = build(spec, seed=7).state_dict()
    save_file({name: value.clone() for name, value in classifier.items()}, tmp_path / "weights.safetensors")
    net = net_of(f"unet+timm:{encoder}", seed=1, in_channels=channels)
    decoder = {name: value.clone() for name, value in net.get_submodule("decoder").state_dict().items()}
    report = load_weights(net, tmp_path / "weights.safetensors")
    assert report.share == 1.0, "the share is the encoder's"
    for name, value in encoder_of(net).items():
        if not (channels != 2 and value.ndim == 4 and value.shape[1] == channels):
            head, _, tail = name.partition(".")
            stem, _, number = head.rpartition("_")
            old = classifier.get(name, classifier.get(f"{stem}.{number}.{tail}"))
            assert old is not None
            torch.testing.assert_close(value, old)
    assert bool(report.adapted) == (channels != 2)
    for name, value in net.get_submodule("decoder").state_dict().items():
        torch.testing.assert_close(value, decoder[name])


def test_torchvisions_resnet_and_a_whole_segmenter_fit_and_others_do_not() -> None:
    net = net_of("unet+timm:resnet18", seed=1)
    theirs = build(NetworkSpec("resnet18", 2, 2, 5, SHAPE, stem="standard"), seed=7)
    assert load_weights(net, theirs.state_dict()).share == 1.0
    again = net_of("unet+timm:resnet18", seed=2)
    assert load_weights(again, net.state_dict()).fresh == ()
    with pytest.raises(WeightsError, match="another network"):
        load_weights(net, build(NetworkSpec("small_resnet", 2, 2, 5, SHAPE)).state_dict())


@pytest.mark.parametrize("prefix", decoder_prefixes())
def test_exported_they_answer_the_same(prefix: str, tmp_path: Path) -> None:
    net = net_of(f"{prefix}:resnet18", input_shape=(32, 64)).eval()
    images = np.random.default_rng(0).standard_normal((3, 2, 32, 64), dtype=np.float32)
    export_onnx(net, images[:1], tmp_path / "model.onnx")
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    engine = open_engine("onnx", model_path=tmp_path / "model.onnx", threads=1)
    np.testing.assert_allclose(engine(images), expected, atol=2e-4)


def test_making_one_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    net_of("fpn+timm:resnet18")
