"""From a spec to a network, and from a name to the numbers it publishes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from medmap.errors import ConfigError
from medmap.networks import catalogue, libraries
from medmap.networks.detectors import build_detector
from medmap.networks.layers import set_dropout
from medmap.networks.measure import SIZE_REFUSALS, output_shape
from medmap.networks.slices import SliceWise, plane_spec
from medmap.networks.spec import NetworkInfo, NetworkSpec, SizeError, shape_text
from medmap.networks.stages import feature_layer
from medmap.networks.stems import fit_stem

QUICK_MOMENTUM = 0.1
# Sizes that networks were drawn for, tried in this order when one asks which size would fit.
_USUAL_SIDES = (32, 48, 64, 75, 80, 96, 112, 128, 144, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)


def build(spec: NetworkSpec, *, seed: int | None = None) -> nn.Module:
    """Make a network with fresh weights; nothing is fetched or read.

    Small images get a stem of their own (the rule stands in `medmap.networks.stems`), the first layer takes
    ``spec.in_channels``, the last one gives ``spec.outputs`` logits after dropout of ``spec.dropout``. Batch norms
    follow the data with a momentum of at least 0.1.

    Args:
        spec: What is wanted.
        seed: Draw the weights from this seed and leave torch's global generator as it was; None draws from the
            global generator.

    Returns:
        A network in training mode: (batch, in_channels, *input_shape) → (batch, outputs), float32; a dense one →
        (batch, outputs, *input_shape), a U-Net while it trains a list of that and coarser ones; one for boxes →
        (batch, places, outputs + 2 · dimensions).

    Raises:
        SizeError: A size that the network cannot take; the message names one that it can.
        ConfigError: An unknown name (with the closest ones), or a width other than 1 asked of a library's network.

    Example:
        >>> net = build(NetworkSpec("cnn", 2, in_channels=1, outputs=2, input_shape=(28, 28)), seed=0)
        >>> net(torch.zeros(4, 1, 28, 28)).shape
        torch.Size([4, 2])
    """
    if seed is None:
        return _build(spec)
    # The CPU's generator alone: torch.manual_seed would reseed the GPUs, which fork_rng without devices leaves out.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _build(spec)


def _build(spec: NetworkSpec) -> nn.Module:
    if spec.boxes:
        return _with_quick_statistics(build_detector(spec)).train()
    if spec.slices:
        return SliceWise(_build(plane_spec(spec)), spec.slices, spec.slice_axis).train()
    prefixed = catalogue.split_name(spec.name)
    row = catalogue.row(spec.name, spec.dimensions, dense=spec.dense) if prefixed is None else None
    if spec.width != 1.0 and (row is None or row.library != "medmap"):
        raise ConfigError(
            f"{spec.name} has a fixed width",
            got=f"network.width = {spec.width}",
            expected="1.0",
            remedy=f"take {'unet' if spec.dense else 'small_resnet or cnn'} for another width, or a wider or narrower "
            "network of the same family",
        )
    if row is not None:
        _refuse_small(spec, row)
        net = row.make(row.entry, spec)
        if row.library != "medmap" and not spec.dense:
            fit_stem(net, spec)
        if row.library not in ("medmap", "timm"):  # these were told when they were made
            set_dropout(net, spec.dropout)
        return _with_quick_statistics(net).train()
    try:
        return _with_quick_statistics(_build_prefixed(spec)).train()
    except SizeError as refusal:
        fitting = None if refusal.expected is not None else _fitting_size(spec)
        if fitting is None:
            raise
        raise SizeError(
            refusal.what, got=refusal.got, expected=f"for example {shape_text(fitting)}", remedy=refusal.remedy
        ) from refusal


def _with_quick_statistics(net: nn.Module) -> nn.Module:
    """Let batch norms follow the last ten-odd batches.

    MobileNet and MONAI's EfficientNet follow the last hundred (momentum 0.01), which suits half a million steps; a
    study of a few hundred images would be judged by the statistics of its first epochs.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) and module.momentum is not None:
            module.momentum = max(module.momentum, QUICK_MOMENTUM)
    return net


def _build_prefixed(spec: NetworkSpec) -> nn.Module:
    """Make a network that no row vouches for, and check that it takes the size and answers as it is asked to."""
    library, _, entry = spec.name.partition(":")
    net = {**catalogue.LIBRARIES, **catalogue.DECODED}[library](entry, spec)
    if not spec.dense:
        fit_stem(net, spec)
    if library in ("torchvision", "monai"):  # the others were told when they were asked
        set_dropout(net, spec.dropout)
    try:
        shape = output_shape(net, (1, spec.in_channels, *spec.input_shape))
    except SIZE_REFUSALS as refusal:
        raise SizeError(
            f"{spec.name} cannot take images of this size",
            got=shape_text(spec.input_shape),
            remedy="resize the images, or take a network for small images such as small_resnet or cnn",
        ) from refusal
    expected = (1, spec.outputs, *spec.input_shape) if spec.dense else (1, spec.outputs)
    if shape != expected:
        raise ConfigError(
            f"{spec.name} gives no class for each {'voxel' if spec.dimensions == 3 else 'pixel'}"
            if spec.dense
            else f"{spec.name} is no classifier",
            got=f"an output of shape {shape} for one image",
            expected=expected,
            remedy=f"choose a network for {'segmentation' if spec.dense else 'classification'}",
        )
    return net


def _fitting_size(spec: NetworkSpec) -> tuple[int, ...] | None:
    """Find a larger size that a library's network takes, by making it on torch's meta device (nothing is drawn)."""
    for side in _USUAL_SIDES:
        shape = (side,) * spec.dimensions
        if side < max(spec.input_shape) or shape == spec.input_shape:
            continue
        try:
            with torch.device("meta"):
                _build_prefixed(replace(spec, input_shape=shape))
        except ConfigError:
            continue
        return shape
    return None


def _refuse_small(spec: NetworkSpec, row: catalogue.Row) -> None:
    smallest = row.smallest_standard if spec.stem == "standard" else row.smallest
    if min(spec.input_shape) < smallest and row.multiple_of == 1:  # a patched network says itself what fits
        fitting = tuple(max(side, smallest) for side in spec.input_shape)
        raise SizeError(
            f"{spec.name} needs at least {smallest} pixels a side",
            got=shape_text(spec.input_shape),
            expected=f"for example {shape_text(fitting)}",
            remedy="enlarge the images, or take a network for small images such as small_resnet or cnn",
        )


def describe(name: str, dimensions: Literal[2, 3]) -> NetworkInfo:
    """Publish the numbers of a network that its neighbours need.

    A plain name costs nothing. A library's own name has no row: it is made once or a few times (seconds) to find the
    smallest of the usual sides from 32 to 512 that it takes.

    Args:
        name: A plain or prefixed name.
        dimensions: 2 or 3.

    Raises:
        ConfigError: An unknown name, or one that takes none of the usual sizes.

    Example:
        >>> describe("inception_v3", 2).smallest_input
        75
    """
    prefixed = catalogue.split_name(name)
    if prefixed is None:
        return catalogue.info(name, dimensions)
    last: SizeError | None = None
    for side in _USUAL_SIDES:
        try:
            spec = NetworkSpec(
                name, dimensions, in_channels=3, outputs=2, input_shape=(side,) * dimensions, stem="standard"
            )
            net = build(spec, seed=0)
        except SizeError as refusal:
            last = refusal
            continue
        patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
        return NetworkInfo(
            name=name,
            library=prefixed[0],
            dimensions=dimensions,
            smallest_input=side,
            multiple_of=max(patch) if isinstance(patch, tuple) else 1,
            licence=libraries.LICENCES[prefixed[0]],
            feature_layer=feature_layer(net),
        )
    raise SizeError(f"{name} takes none of the usual sizes", remedy="choose another network") from last
