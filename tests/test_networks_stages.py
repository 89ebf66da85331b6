"""Stages from the image to the head: order, freezing that survives train(), thawing, slower early layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medmap import networks
from medmap.errors import ConfigError
from medmap.networks import NetworkSpec, build


def net_of(name: str = "small_resnet", channels: int = 1) -> nn.Module:
    return build(NetworkSpec(name, 2, in_channels=channels, outputs=2, input_shape=(16, 16), dropout=0.2), seed=0)


def step(net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad(set_to_none=True)
    image = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    nn.functional.cross_entropy(net(image), torch.tensor([0, 1, 0, 1])).backward()
    optimiser.step()


def changed(before: dict[str, torch.Tensor], net: nn.Module) -> set[str]:
    return {name for name, value in net.state_dict().items() if not torch.equal(before[name], value)}


def test_stages_go_from_the_image_to_the_head() -> None:
    assert networks.stages(net_of()) == [["stem"], ["stages.0"], ["stages.1"], ["stages.2"], ["stages.3"], ["head"]]
    assert networks.stages(net_of("resnet18"))[0] == ["conv1", "bn1"]
    vit = networks.stages(net_of("vit_small"))
    assert vit[0] == ["cls_token", "pos_embed", "patch_embed"]
    assert vit[-2:] == [["blocks.11", "norm"], ["head"]]
    assert len(networks.stages(net_of("densenet121"))) == 9
    assert networks.stages(nn.Linear(2, 2)) == [["weight", "bias"]]


def test_frozen_stages_stand_still_even_after_train() -> None:
    net = net_of()
    optimiser = torch.optim.AdamW(networks.parameter_groups(net, lr=0.1, weight_decay=0.1))
    networks.set_frozen(net, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    step(net, optimiser)
    moved = changed(before, net)
    assert not any(name.startswith(("stem.", "stages.0.", "stages.1.")) for name in moved), "statistics included"
    assert any(name.startswith("stages.2.") and "running_mean" in name for name in moved)
    assert any(name.startswith("head.") for name in moved)


def test_thawed_stages_learn_again() -> None:
    net = net_of()
    optimiser = torch.optim.AdamW(networks.parameter_groups(net, lr=0.1, weight_decay=0.1))
    networks.set_frozen(net, 5)
    networks.set_frozen(net, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step(net, optimiser)
    moved = {name.rpartition(".")[0].partition(".conv")[0] for name in changed(before, net)}
    assert {"stages.0.0", "stages.3.1", "head"} <= moved
    assert not any(name.startswith("stem") for name in moved)
    networks.set_frozen(net, 0)
    assert not net._forward_pre_hooks
    assert all(module.training for module in net.modules())
    assert all(value.requires_grad for value in net.parameters())


def test_a_copy_of_a_frozen_network_is_frozen() -> None:
    net = net_of()
    networks.set_frozen(net, 2)
    twin = copy.deepcopy(net).train()
    twin(torch.zeros(2, 1, 16, 16))
    assert not twin.get_submodule("stem").training
    assert net.get_submodule("stages.2").training


def test_class_token_and_positions_freeze_with_the_first_stage() -> None:
    net = net_of("vit_small")
    networks.set_frozen(net, 1)
    frozen = {name for name, value in net.named_parameters() if not value.requires_grad}
    assert frozen == {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}


@pytest.mark.parametrize("count", [-1, 6, 99])
def test_freezing_the_head_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 5"):
        networks.set_frozen(net_of(), count)


def test_early_stages_learn_slower_and_norms_do_not_decay() -> None:
    net = net_of()
    groups = networks.parameter_groups(net, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    speeds = {group["stage"]: group["lr"] for group in groups}
    assert speeds == {0: 0.5**5, 1: 0.5**4, 2: 0.5**3, 3: 0.25, 4: 0.5, 5: 1.0}
    for group in groups:
        flat = all(value.ndim == 1 for value in group["params"])
        assert group["weight_decay"] == (0.0 if flat else 0.05)
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    tokens = [g for g in networks.parameter_groups(net_of("vit_small"), lr=1.0, weight_decay=0.05) if g["stage"] == 0]
    assert sorted((len(group["params"]), group["weight_decay"]) for group in tokens) == [(1, 0.05), (3, 0.0)]


def test_a_frozen_stage_is_in_no_group() -> None:
    groups = networks.parameter_groups(net_of(), lr=1.0, weight_decay=0.0, freeze=(0, 2))
    assert {group["stage"] for group in groups} == {1, 3, 4, 5}


@pytest.mark.parametrize(
    "change", [{"lr": 0.0}, {"weight_decay": -1.0}, {"layer_decay": 0.0}, {"layer_decay": 1.5}, {"freeze": (9,)}]
)
def test_groups_out_of_range_are_refused(change: dict[str, object]) -> None:
    values: dict[str, object] = {"lr": 1.0, "weight_decay": 0.0} | change
    with pytest.raises(ConfigError):
        networks.parameter_groups(net_of(), **values)  # type: ignore[arg-type]


def test_a_network_without_a_map_has_no_feature_layer() -> None:
    with pytest.raises(ConfigError, match="keeps its place"):
        networks.feature_layer(nn.Linear(2, 2))
    assert networks.feature_layer(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten())) == "0"
