"""Every plain name is built, run, trained one step and saved; sizes and names that cannot be are refused."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medmap import networks
from medmap.errors import ConfigError
from medmap.fit import FitSection, laid_out, start
from medmap.networks import NetworkSpec, SizeError, build
from medmap.networks.layers import DropoutLinear, first_convolution

EVERY = [(dimensions, name) for dimensions in (2, 3) for name in networks.names(dimensions)]
# Large ones are run on torch's meta device only: shapes without numbers.
LARGE = {
    (2, "vgg16_bn"), (2, "resnet34"), (2, "resnet50"), (2, "inception_v3"), (2, "convnext_tiny"), (2, "vit_base"),
    (2, "efficientnet_b1"), (2, "efficientnet_b2"), (2, "efficientnet_b3"), (2, "efficientnet_b4"),
    (2, "mobilenet_v3_large"), (3, "resnet18"), (3, "resnet34"), (3, "resnet50"), (3, "seresnet50"), (3, "vit_base"),
    (3, "vit_small"), (3, "swin_tiny"),
}  # fmt: skip


def small_spec(dimensions: int, name: str, **changes: Any) -> NetworkSpec:
    side = 75 if name == "inception_v3" else {2: 28, 3: 16}[dimensions]
    values: dict[str, Any] = {"in_channels": 1, "outputs": 3, "input_shape": (side,) * dimensions} | changes
    return NetworkSpec(name, dimensions, **values)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was built by asking the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestEveryNetwork:
    @pytest.mark.parametrize(("dimensions", "name"), EVERY)
    def test_shapes_channels_and_published_numbers(self, dimensions: int, name: str) -> None:
        channels = 1 + EVERY.index((dimensions, name)) % 4
        spec = small_spec(dimensions, name, in_channels=channels, dropout=0.3)
        with torch.device("meta"):
            net = build(spec, seed=0)
        assert first_convolution(net)[1].in_channels == channels
        assert net(torch.empty((2, channels, *spec.input_shape), device="meta")).shape == (2, 3)
        published = networks.describe(name, dimensions)  # type: ignore[arg-type]
        assert published.feature_layer == networks.feature_layer(net)
        assert published.smallest_input <= min(spec.input_shape)
        assert published.licence in ("Apache-2.0", "BSD-3-Clause")
        seen: list[torch.Size] = []
        hook = net.get_submodule(published.feature_layer).register_forward_hook(lambda *out: seen.append(out[2].shape))
        net.eval()(torch.empty((1, channels, *spec.input_shape), device="meta"))
        hook.remove()
        assert len(seen[0]) == (3 if name.startswith("vit") else 2 + dimensions)
        drops = [m.probability for m in net.modules() if isinstance(m, DropoutLinear)]
        drops += [m.p for m in net.modules() if isinstance(m, nn.Dropout)]
        assert 0.3 in drops, "the dropout asked for stands before the last layer"
        per_stage = networks.stage_parameters(net)
        assert all(per_stage), "no stage is empty"
        assert sorted(name for stage in per_stage for name in stage) == sorted(n for n, _ in net.named_parameters())

    @pytest.mark.parametrize(("dimensions", "name"), [pair for pair in EVERY if pair not in LARGE])
    def test_one_step_same_seed_and_back_from_a_file(self, dimensions: int, name: str, tmp_path: Path) -> None:
        spec = small_spec(dimensions, name)
        before = torch.get_rng_state()
        net = build(spec, seed=7)
        again = build(spec, seed=7)
        assert torch.equal(before, torch.get_rng_state()), "the global generator is where it was"
        state = net.state_dict()
        assert all(torch.equal(state[key], value) for key, value in again.state_dict().items())
        image = torch.randn(2, 1, *spec.input_shape, generator=torch.Generator().manual_seed(0))
        nn.functional.cross_entropy(net(image), torch.tensor([0, 2])).backward()
        gradients = {key: value.grad for key, value in net.named_parameters()}
        assert all(value is not None and torch.isfinite(value).all() for value in gradients.values())
        torch.optim.SGD(net.parameters(), lr=1e-5).step()  # two images and a 1³ map: steep
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "w.safetensors")
        again.load_state_dict(load_file(tmp_path / "w.safetensors"))
        with torch.no_grad():
            assert torch.equal(net.eval()(image), again.eval()(image))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize(("dimensions", "name"), [(2, "resnet18"), (2, "cnn"), (2, "vit_small"), (3, "resnet10")])
    def test_any_number_of_channels(self, dimensions: int, name: str, channels: int) -> None:
        spec = small_spec(dimensions, name, in_channels=channels)
        with torch.device("meta"):
            net = build(spec)
        assert net(torch.empty((2, channels, *spec.input_shape), device="meta")).shape == (2, 3)

    @pytest.mark.parametrize(("dimensions", "name"), EVERY)
    def test_the_smallest_and_a_large_size(self, dimensions: int, name: str) -> None:
        published = networks.describe(name, dimensions)  # type: ignore[arg-type]
        large = 96 if dimensions == 2 else 80
        standard = 75 if name == "inception_v3" else 32
        for side, stem in ((published.smallest_input, "auto"), (large, "auto"), (standard, "standard")):
            spec = small_spec(dimensions, name, input_shape=(side,) * dimensions, stem=stem)
            with torch.device("meta"):
                net = build(spec)
            assert networks.measure.output_shape(net.eval(), (1, 1, *spec.input_shape)) == (1, 3)
        if published.multiple_of == 1:
            with pytest.raises(SizeError, match="at least"):
                build(small_spec(dimensions, name, input_shape=(published.smallest_input - 1,) * dimensions))

    @pytest.mark.parametrize(
        ("dimensions", "name"),
        [(d, n) for d, n in EVERY if n in ("cnn", "small_resnet", "resnet10", "efficientnet_b0", "mobilenet_v3_small")],
    )
    def test_a_fresh_network_answers_at_a_sane_scale(self, dimensions: int, name: str) -> None:
        net = build(small_spec(dimensions, name), seed=0)
        image = torch.randn(8, 1, *small_spec(dimensions, name).input_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for _ in range(3):
                net(image)
            assert 1e-5 < net.eval()(image).abs().max() < 10
        assert all(m.momentum >= 0.1 for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d))

    def test_unseeded_builds_follow_the_global_generator(self) -> None:
        torch.manual_seed(3)
        one = build(small_spec(2, "cnn"))
        two = build(small_spec(2, "cnn"))
        assert not torch.equal(first_convolution(one)[1].weight, first_convolution(two)[1].weight)


class TestStems:
    def test_the_rule(self) -> None:
        strides = networks.stem_strides
        assert strides((28, 28), "auto") == (1, 1)
        assert strides((64, 64), "auto") == (1, 1)
        assert strides((64, 128), "auto") == (2, 2), "a plane's sides stay together"
        assert strides((65, 65), "auto") is None
        assert strides((16, 16, 16), "auto") == (1, 1, 1)
        assert strides((28, 28, 28), "auto") == (2, 2, 2)
        assert strides((16, 128, 128), "auto") == (1, 4, 4), "thick slices stay apart"
        assert strides((28, 28, 28), "small") == (1, 1, 1)
        assert strides((28, 28), "standard") is None

    @pytest.mark.parametrize(
        ("name", "side"), [("resnet18", 4), ("densenet121", 3), ("mobilenet_v3_small", 2), ("convnext_tiny", 3)]
    )
    def test_a_small_image_keeps_its_resolution(self, name: str, side: int) -> None:
        with torch.device("meta"):
            net = build(small_spec(2, name))
        seen: list[torch.Size] = []
        net.get_submodule(networks.feature_layer(net)).register_forward_hook(lambda *out: seen.append(out[2].shape))
        net.eval()(torch.empty((1, 1, 28, 28), device="meta"))
        assert seen[0][2:] == (side, side)

    def test_thick_slices_stay_apart_in_the_stem(self) -> None:
        spec = small_spec(3, "resnet10", input_shape=(16, 128, 128))
        with torch.device("meta"):
            net = build(spec)
            stem = nn.Sequential(net.get_submodule("conv1"), net.get_submodule("maxpool"))
        assert stem(torch.empty((1, 1, 16, 128, 128), device="meta")).shape[2:] == (16, 32, 32)

    def test_vit_patches(self) -> None:
        assert networks.vit_patch((28, 28), "auto") == 4
        assert networks.vit_patch((224, 224), "auto") == 16
        assert networks.vit_patch((28, 28), "small") == 2

    def test_small_is_refused_where_it_is_unknown(self) -> None:
        with pytest.raises(ConfigError, match="knows no small-image stem for torchvision:squeezenet1_1"):
            build(small_spec(2, "torchvision:squeezenet1_1", stem="small"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "dimensions", "shape", "stem", "words"),
        [
            ("inception_v3", 2, (28, 28), "auto", "got 28 × 28, expected for example 75 × 75"),
            ("inception_v3", 2, (224, 28), "auto", "expected for example 224 × 75"),
            ("densenet121", 2, (28, 28), "standard", "expected for example 32 × 32"),
            ("vit_small", 2, (225, 224), "standard", "got 225 × 224, expected for example 224 × 224"),
            ("vit_small", 2, (29, 29), "auto", "expected for example 30 × 30"),
            ("vit_small", 3, (28, 28, 30), "standard", "expected for example 32 × 32 × 32"),
            ("torchvision:vit_b_16", 2, (100, 100), "auto", "expected 96 × 96"),
            ("torchvision:maxvit_t", 2, (28, 28), "auto", "expected for example 224 × 224"),
            ("torchvision:alexnet", 2, (28, 28), "auto", "expected for example 64 × 64"),
            ("timm:vit_tiny_patch16_224", 2, (28, 28), "auto", "expected 32 × 32"),
            ("cnn", 2, (7, 28), "auto", "expected for example 8 × 28"),
        ],
    )
    def test_a_size_that_does_not_fit_names_one_that_does(
        self, name: str, dimensions: int, shape: tuple[int, ...], stem: str, words: str
    ) -> None:
        with pytest.raises(SizeError) as caught, torch.device("meta"):
            build(small_spec(dimensions, name, input_shape=shape, stem=stem))
        assert words in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("resnet19", "resnet18"),
            ("ResNet18", "expected resnet18"),
            ("resnet101", "torchvision:resnet101"),
            ("seresnet50", "it exists in 3-D"),
            ("zzz", "one of cnn"),
            ("timm:resnet181", "timm:resnet18"),
            ("timm:hf-hub:someone/model", "timm has no"),
            ("timm:local-dir:/tmp", "timm has no"),
            ("torchvision:resnet_18", "torchvision:resnet18"),
            ("torchvision:fasterrcnn_resnet50_fpn", "for classification"),
            ("monai:UNet", "monai has no"),
            ("monai:BasicUNet", "is no classifier"),
            ("hf-hub:someone/model", "torchvision:NAME, timm:NAME, monai:NAME"),
            ("", "one of cnn"),
        ],
    )
    def test_an_unknown_name(self, name: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            build(small_spec(2, name, input_shape=(32, 32)))

    @pytest.mark.parametrize(
        "change",
        [
            {"dimensions": 4},
            {"in_channels": 0},
            {"outputs": True},
            {"input_shape": (28,)},
            {"input_shape": (28, 0)},
            {"dropout": 1.0},
            {"width": 0.0},
            {"width": math.nan},
            {"stem": "tiny"},
        ],
    )
    def test_a_spec_out_of_range(self, change: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=f"network.{next(iter(change))}"):
            replace(small_spec(2, "cnn"), **change)

    def test_width_belongs_to_our_own(self) -> None:
        assert networks.count_parameters(build(small_spec(2, "small_resnet", width=0.5))) < 1_000_000
        with pytest.raises(ConfigError, match="fixed width"):
            build(small_spec(2, "resnet18", width=0.5))


class TestPrefixedNames:
    @pytest.mark.parametrize(
        ("name", "dimensions"),
        [
            ("torchvision:resnet18", 2),
            ("torchvision:squeezenet1_1", 2),
            ("timm:resnet10t", 2),
            ("timm:mobilenetv3_small_050", 2),
            ("timm:vit_tiny_patch16_224", 2),
            ("torchvision:r3d_18", 3),
            ("monai:DenseNet121", 3),
            ("monai:efficientnet-b0", 3),
        ],
    )
    def test_no_row_is_needed(self, name: str, dimensions: int) -> None:
        spec = small_spec(dimensions, name, input_shape=(32,) * dimensions, in_channels=2, dropout=0.1)
        net = build(spec, seed=0).eval()
        with torch.no_grad():
            assert net(torch.zeros(1, 2, *spec.input_shape)).shape == (1, 3)
        assert networks.feature_layer(net) in dict(net.named_modules())
        assert sum(map(len, networks.stage_parameters(net))) == len(list(net.parameters()))

    def test_describe_finds_the_smallest_size(self) -> None:
        found = networks.describe("torchvision:alexnet", 2)
        assert (found.smallest_input, found.library, found.licence) == (64, "torchvision", "BSD-3-Clause")
        assert networks.describe("timm:vit_tiny_patch16_224", 2).multiple_of == 16


class TestFirstLayer:
    @pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 4), (1, 3), (2, 5)])
    def test_the_response_to_a_grey_image_is_kept(self, old: int, new: int) -> None:
        net = build(small_spec(2, "resnet18", in_channels=old), seed=1).eval()
        grey = torch.randn(2, 1, 28, 28)
        with torch.no_grad():
            before = net(grey.expand(-1, old, -1, -1))
            assert networks.adapt_first_layer(net, new) == "conv1"
            after = net(grey.expand(-1, new, -1, -1))
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)

    def test_what_cannot_be_adapted_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no convolution"):
            networks.adapt_first_layer(nn.Linear(3, 3), 1)
        with pytest.raises(ConfigError, match="groups of channels"):
            networks.adapt_first_layer(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), 2)


class TestMeasure:
    def test_flops_of_a_known_network(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 2))
        expected = 2 * (16 * 8 * 3 * 9) + 2 * (8 * 16 * 2)
        assert networks.flops(net, (3, 4, 4)) == expected
        assert networks.flops(net, (5, 3, 4, 4)) == 5 * expected
        with pytest.raises(ConfigError, match="cannot take this shape"):
            networks.flops(net, (3, 5, 5))

    def test_flops_touch_nothing(self) -> None:
        net = build(small_spec(2, "small_resnet"), seed=0)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        assert networks.flops(net, (1, 28, 28)) > 1e8
        assert net.training
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())

    def test_parameters_count_once(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1] = net[0]
        assert networks.count_parameters(net) == 20
        net[0].bias.requires_grad_(False)
        assert networks.count_parameters(net, trainable_only=True) == 16


@pytest.mark.parametrize(("dimensions", "name"), [(2, "small_resnet"), (2, "cnn"), (3, "small_resnet"), (3, "cnn")])
def test_our_own_networks_train_in_bfloat16_as_they_are_laid_out(dimensions: int, name: str) -> None:
    spec = small_spec(dimensions, name)
    section = FitSection(epochs=1, precision="bfloat16", channels_last=True)
    net = start(build(spec, seed=0), section, torch.device("cpu")).net
    image = laid_out(torch.randn(2, 1, *spec.input_shape), True)
    kinds: set[torch.dtype] = set()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.BatchNorm2d | nn.BatchNorm3d | nn.Linear):
            module.register_forward_hook(lambda *out: kinds.add(out[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(image)
    assert kinds == {torch.bfloat16}, "nothing goes back to float32 on the way"
    nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
    assert all(torch.isfinite(value.grad).all() for value in net.parameters() if value.grad is not None)


def test_import_brings_no_network_library() -> None:
    code = (
        "import sys, medmap.networks; "
        "print([name for name in ('timm', 'monai', 'torchvision', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_all_is_what_can_be_imported() -> None:
    assert networks.__all__ == sorted(networks.__all__)
    assert all(hasattr(networks, name) for name in networks.__all__)
