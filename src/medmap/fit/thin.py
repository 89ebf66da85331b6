"""Gradients of volumes that are no deeper than the kernel, which torch gets wrong on a CPU.

oneDNN's kernels for a weight's gradient (torch 2.15, 3-D, no dilation) leave part of it unwritten or write outside it
where zero padding makes up for a depth below the kernel's: in bfloat16 from a kernel of 2 on (a 3×3×3 kernel on two
slices, the deepest stage of a U-Net), in float32 with kernel 7 and stride 2. With the same zeros put beside the image
first the result is the same and the gradient right. Found by a sweep over kernels, strides and depths; the other two
axes are not concerned. ``tests/test_fit.py`` holds it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def zeros_beside(images: torch.Tensor, layer: nn.Conv3d) -> tuple[torch.Tensor, list[int]]:
    """Thin volumes with the padding of their depth put beside them, others as they are; and what is left to pad."""
    padding = [int(side) for side in layer.padding]
    if not _thin(images.shape[2], layer) or not padding[0]:
        return images, padding
    return functional.pad(images, [0, 0, 0, 0, padding[0], padding[0]]), [0, *padding[1:]]


def _thin(depth: int, layer: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    return 1 < layer.kernel_size[0] >= depth


class _SafeConv3d(nn.Conv3d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):  # torch pads these beside the image itself
            return super().forward(images)
        images, padding = zeros_beside(images, self)
        return functional.conv3d(images, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _SafeConvTranspose3d(nn.ConvTranspose3d):
    """Its gradient convolves its output; the padding, which cuts slices off the output here, is done by cutting."""

    def forward(self, images: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        cut = int(self.padding[0])
        span = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        depth = (images.shape[2] - 1) * self.stride[0] - 2 * cut + span
        if output_size is not None or any(self.output_padding) or not cut or not _thin(depth, self):
            return super().forward(images, output_size)
        padding = [0, *self.padding[1:]]
        full = functional.conv_transpose3d(
            images, self.weight, self.bias, self.stride, padding, 0, self.groups, self.dilation
        )
        return full[:, :, cut : cut + depth]


_SAFE: dict[type[nn.Module], type[nn.Module]] = {nn.Conv3d: _SafeConv3d, nn.ConvTranspose3d: _SafeConvTranspose3d}


def keep_safe(net: nn.Module) -> None:
    """Let a network's 3-D convolutions learn rightly from thin volumes too; what they answer stays the same."""
    for module in net.modules():
        if type(module) in _SAFE:
            module.__class__ = _SAFE[type(module)]
