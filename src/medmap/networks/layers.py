"""Layers that the networks share: convolutions by dimension, replaced convolutions, the last layer with dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medmap.errors import ConfigError

AnyConvolution = nn.Conv2d | nn.Conv3d
# By number of dimensions. Callables, as torch's annotations want tuples of a length that only the spec knows.
CONVOLUTION: dict[int, Callable[..., AnyConvolution]] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM: dict[int, Callable[..., nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class DropoutLinear(nn.Linear):
    """A linear layer that drops some of its inputs while training; its weights are named as `torch.nn.Linear`'s are.

    Args:
        in_features: Numbers in.
        out_features: Numbers out.
        probability: Share of inputs dropped while training, 0 ≤ p < 1.
        bias: Whether a bias is added.
    """

    def __init__(self, in_features: int, out_features: int, probability: float, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.probability = probability

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, in_features) to (…, out_features)."""
        if self.training and self.probability > 0.0:
            input = functional.dropout(input, self.probability, training=True)
        return functional.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the probability beside the sizes."""
        return f"{super().extra_repr()}, probability={self.probability}"


def first_convolution(net: nn.Module) -> tuple[str, AnyConvolution]:
    """Find the convolution that sees the image: the first one in the order of definition.

    Raises:
        ConfigError: The network has no 2-D or 3-D convolution.
    """
    for name, module in net.named_modules():
        if isinstance(module, AnyConvolution):
            return name, module
    raise ConfigError(
        "the network has no convolution that could take another number of channels",
        got=type(net).__name__,
        remedy="give an image with the channels that the network was made for",
    )


def convolution_like(
    old: AnyConvolution,
    *,
    in_channels: int | None = None,
    kernel: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    padding: Sequence[int] | None = None,
) -> AnyConvolution:
    """Make a freshly drawn convolution that differs from an old one only in what is named.

    The weights are drawn by He's rule, fan out (https://arxiv.org/abs/1502.01852), the bias is zero.
    """
    channels = old.in_channels if in_channels is None else in_channels
    if old.groups != 1 and channels != old.in_channels:
        raise ConfigError(
            "the first convolution works on groups of channels and cannot take another number of them",
            got=channels,
            expected=old.in_channels,
        )
    old_padding = old.padding if isinstance(old.padding, str) else tuple(old.padding)
    new = CONVOLUTION[len(old.kernel_size)](
        channels,
        old.out_channels,
        tuple(old.kernel_size if kernel is None else kernel),
        stride=tuple(old.stride if stride is None else stride),
        padding=old_padding if padding is None else tuple(padding),
        dilation=tuple(old.dilation),
        groups=old.groups,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Give a convolution's weights another number of input channels and keep the response to a grey image.

    Rule: every new channel gets the mean over the old channels times old / new. An image that says the same in all of
    its channels then gives the response it gave before, whatever the two numbers are.

    Args:
        weight: (out, old, *kernel).
        in_channels: The new number of channels.

    Returns:
        (out, in_channels, *kernel); the weight itself where the number is unchanged.

    Example:
        >>> adapt_channels(torch.ones(1, 3, 1, 1), 1).flatten().tolist()
        [3.0]
    """
    old = weight.shape[1]
    if old == in_channels:
        return weight
    mean = weight.mean(dim=1, keepdim=True) * (old / in_channels)
    return mean.expand(-1, in_channels, *weight.shape[2:]).contiguous()


def adapt_first_layer(module: nn.Module, in_channels: int) -> str:
    """Replace the first convolution by one for another number of channels, by the rule of `adapt_channels`.

    Args:
        module: A network; changed in place.
        in_channels: Channels of the images it will see.

    Returns:
        The name of the convolution.

    Raises:
        ConfigError: There is no convolution, or it works on groups of channels.
    """
    name, old = first_convolution(module)
    if old.in_channels == in_channels:
        return name
    new = convolution_like(old, in_channels=in_channels)
    with torch.no_grad():
        new.weight.copy_(adapt_channels(old.weight, in_channels))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    module.set_submodule(name, new)
    return name


def set_dropout(net: nn.Module, probability: float) -> None:
    """Set the dropout before the last layer, wherever the network keeps it.

    The library's own dropout layers of the head (top-level ones, and those in the child that holds the last linear
    layer) get the probability; where there are none, the last linear layer becomes a `DropoutLinear`, which changes
    no name and no random number.
    """
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    head = linear[-1] if linear else ""
    own = [
        module
        for name, module in net.named_modules()
        if isinstance(module, nn.Dropout)
        and ("." not in name or ("." in head and name.split(".")[0] == head.split(".")[0]))
    ]
    for module in own:
        module.p = probability
    if own or not linear or probability == 0.0:
        return
    old = net.get_submodule(head)
    if isinstance(old, nn.Linear):
        with torch.device("meta"):  # nothing is drawn: the weights are the old ones
            new = DropoutLinear(old.in_features, old.out_features, probability, bias=old.bias is not None)
        new.weight, new.bias = old.weight, old.bias
        net.set_submodule(head, new)
