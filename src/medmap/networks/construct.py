"""From a spec to a network, and from a name to the numbers it publishes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from medmap.errors import ConfigError
from medmap.networks import catalogue, libraries
from medmap.networks.layers import set_dropout
from medmap.networks.measure import SIZE_REFUSALS, output_shape
from medmap.networks.spec import NetworkInfo, NetworkSpec, SizeError, shape_text
from medmap.networks.stages import feature_layer
from medmap.networks.stems import fit_stem

# Sizes that networks were drawn for, tried in this order when one asks which size would fit.
_USUAL_SIDES = (32, 48, 64, 75, 80, 96, 112, 128, 144, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)


def build(spec: NetworkSpec, *, seed: int | None = None) -> nn.Module:
    """Make a network with fresh weights; nothing is fetched or read.

    Small images get a stem of their own (the rule stands in `medmap.networks.stems`), the first layer takes
    ``spec.in_channels``, the last one gives ``spec.outputs`` logits after dropout of ``spec.dropout``.

    Args:
        spec: What is wanted.
        seed: Draw the weights from this seed and leave torch's global generator as it was; None draws from the
            global generator.

    Returns:
        A network in training mode: (batch, in_channels, *input_shape) → (batch, outputs), float32.

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
    prefixed = catalogue.split_name(spec.name)
    if prefixed is None:
        row = catalogue.row(spec.name, spec.dimensions)
        library, entry, make = row.library, row.entry, row.make
        _refuse_small(spec, row)
    else:
        library, entry = prefixed
        make = catalogue.LIBRARIES[library]
    if spec.width != 1.0 and library != "medmap":
        raise ConfigError(
            f"{spec.name} has a fixed width",
            got=f"network.width = {spec.width}",
            expected="1.0",
            remedy="take small_resnet or cnn for another width, or a wider or narrower network of the same family",
        )
    net = make(entry, spec)
    if library != "medmap":
        fit_stem(net, spec)
        if library != "timm":  # timm was told when it was asked
            set_dropout(net, spec.dropout)
    if prefixed is not None:
        _check_prefixed(net, spec)
    return net.train()


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


def _check_prefixed(net: nn.Module, spec: NetworkSpec) -> None:
    """Refuse what no row vouches for: a size that does not fit, an output that is no classifier's."""
    try:
        shape = output_shape(net, (1, spec.in_channels, *spec.input_shape))
    except SIZE_REFUSALS as refusal:
        fitting = _fitting_size(net, spec)
        raise SizeError(
            f"{spec.name} cannot take images of this size",
            got=shape_text(spec.input_shape),
            expected=None if fitting is None else f"for example {shape_text(fitting)}",
            remedy="resize the images, or take a network for small images such as small_resnet or cnn",
        ) from refusal
    if shape != (1, spec.outputs):
        raise ConfigError(
            f"{spec.name} is no classifier",
            got=f"an output of shape {shape} for one image",
            expected=(1, spec.outputs),
            remedy="choose a network for classification",
        )


def _fitting_size(net: nn.Module, spec: NetworkSpec) -> tuple[int, ...] | None:
    for side in _USUAL_SIDES:
        shape = tuple(max(side, own) for own in spec.input_shape)
        try:
            if shape != spec.input_shape and output_shape(net, (1, spec.in_channels, *shape)) == (1, spec.outputs):
                return shape
        except SIZE_REFUSALS:
            continue
    return None


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
