"""Volumes through networks for pictures: slice by slice, or each slice with its neighbours as channels ("2.5-D").

Where slices are few or much thicker than their pixels, a volume's third axis holds little that a convolution across it
could learn, and a picture's network is cheaper and may start from a classifier's weights (on when each is better:
Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 2).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from medmap.networks.spec import NetworkSpec


class SliceWise(nn.Module):
    """A picture's network applied to every slice of a volume.

    Args:
        network: (batch, channels · slices, *plane) → (batch, outputs, *plane), or a list of such answers while it
            trains. Channels of one slice stand together, the lowest slice first.
        slices: Odd; how many neighbouring slices the network sees at once. At the ends the last slice is repeated.
        axis: Spatial axis across the slices, 0 to 2.

    Shapes:
        (batch, channels, *volume) → (batch, outputs, *volume); lists stay lists.
    """

    def __init__(self, network: nn.Module, slices: int, axis: int) -> None:
        super().__init__()
        self.network = network
        self.slices = slices
        self.axis = axis
        inside = tuple(getattr(network, "starts_from", ()))
        self.starts_from = ("network", *(f"network.{part}" for part in inside))

    def forward(self, volume: Tensor) -> Tensor | list[Tensor]:
        """Map a volume to logits on its grid."""
        stack = volume.movedim(2 + self.axis, 1)
        count = stack.shape[1]
        if self.slices > 1:
            beyond = self.slices // 2
            padded = torch.cat([stack[:, :1]] * beyond + [stack] + [stack[:, -1:]] * beyond, dim=1)
            stack = torch.cat([padded[:, first : first + count] for first in range(self.slices)], dim=2)
        answers = self.network(stack.reshape(-1, *stack.shape[2:]))
        if isinstance(answers, Tensor):
            return self._stacked(answers, count)
        return [self._stacked(answer, count) for answer in answers]

    def _stacked(self, pictures: Tensor, count: int) -> Tensor:
        return pictures.reshape(-1, count, *pictures.shape[1:]).movedim(1, 2 + self.axis)


def plane_spec(spec: NetworkSpec) -> NetworkSpec:
    """Say what the network inside a `SliceWise` is asked for.

    Example:
        >>> volume = NetworkSpec("unet", 3, 2, 4, (64, 48, 8), dense=True, slices=3)
        >>> plane = plane_spec(volume)
        >>> plane.dimensions, plane.in_channels, plane.input_shape
        (2, 6, (64, 48))
    """
    plane = tuple(side for axis, side in enumerate(spec.input_shape) if axis != spec.slice_axis)
    channels = spec.in_channels * spec.slices
    return replace(spec, dimensions=2, in_channels=channels, input_shape=plane, slices=0, slice_axis=2)
