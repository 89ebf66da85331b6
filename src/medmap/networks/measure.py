"""What a network costs and whether a size fits it, found without computing anything (torch's ``meta`` device)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medmap.errors import ConfigError

# What torch and the libraries raise when an image is too small for a layer.
SIZE_REFUSALS = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, ZeroDivisionError)


@contextmanager
def _judging(net: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and every module back in its own mode after."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def meta_forward(net: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Run a network on shapes only.

    Args:
        net: The network; neither its weights nor its statistics are touched.
        input_shape: (batch, channels, *spatial).

    Returns:
        The output on the meta device: a shape without numbers.
    """
    state = {
        name: torch.empty_like(value, device="meta")
        for source in (net.named_parameters(), net.named_buffers())
        for name, value in source
    }
    image = torch.empty(input_shape, device="meta")
    with torch.no_grad(), _judging(net):
        output: Tensor = torch.func.functional_call(net, state, (image,))
    return output


def output_shape(net: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape of a network's output for (batch, channels, *spatial).

    Nothing is computed, except where a network keeps numbers outside its state: that one runs on zeros.

    Raises:
        ConfigError: The output is not one tensor.
        RuntimeError: The size does not fit (or another of `SIZE_REFUSALS`).
    """
    try:
        output: object = meta_forward(net, input_shape)
    except SIZE_REFUSALS as refusal:
        if "meta" not in str(refusal):
            raise
        parameter = next(net.parameters())
        with torch.no_grad(), _judging(net):
            output = net(torch.zeros(input_shape, device=parameter.device, dtype=parameter.dtype))
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"{type(net).__name__} does not give one tensor, so it is no classifier",
            got=type(output).__name__,
            remedy="choose a network for classification",
        )
    return tuple(output.shape)


def count_parameters(net: nn.Module, *, trainable_only: bool = False) -> int:
    """Count a network's weights; a shared one counts once.

    Args:
        net: The network.
        trainable_only: Leave out those that are frozen.
    """
    return sum(value.numel() for value in net.parameters() if value.requires_grad or not trainable_only)


def flops(net: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Count the floating point operations of one forward pass: multiplications and additions each count.

    Convolutions, matrix products and attention are counted (torch.utils.flop_counter); norms and activations are not.

    Args:
        net: The network.
        input_shape: (channels, *spatial) of one image, or (batch, channels, *spatial).

    Returns:
        Operations for the whole batch, one image where no batch is given.

    Raises:
        ConfigError: The network cannot take this shape.
    """
    from torch.utils.flop_counter import FlopCounterMode

    dimensions = next((module.weight.ndim for module in net.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)), 4)
    shape = input_shape if len(input_shape) == dimensions else (1, *input_shape)
    try:
        with FlopCounterMode(display=False) as counter:
            meta_forward(net, shape)
    except SIZE_REFUSALS as refusal:
        raise ConfigError(
            f"{type(net).__name__} cannot take this shape", got=input_shape, remedy="give (channels, *spatial)"
        ) from refusal
    return int(counter.get_total_flops())
