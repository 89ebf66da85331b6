"""U-Nets, plain and with a residual encoder: an image in, a number for each class and voxel out.

The layout is nnU-Net's (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z; residual encoders: Isensee et
al. 2024, https://arxiv.org/abs/2404.09556): each stage starts with a strided convolution, channels double up to a
largest width, the way up is a transposed convolution, lower stages are trained too (deep supervision). Two things
differ, for plain processors: each convolution is followed directly by a batch norm, which an exporter folds into it,
and a lower stage's answer stays at its own resolution, where the truth is brought to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medmap.networks.layers import BATCH_NORM, CONVOLUTION
from medmap.networks.own import scaled
from medmap.networks.spec import NetworkSpec

BASE_WIDTH = 32
LARGEST_WIDTH = {2: 512, 3: 320}
CONVOLUTIONS = 2  # a stage of the plain encoder, and of the decoder
RESIDUAL_BLOCKS = (1, 2, 3, 3, 3, 3, 3)
SMALLEST_SIDE = 4  # voxels of the deepest map along an axis
MOST_HALVINGS = 5
# An axis is halved when its voxels are at most this much thicker than the finest ones, as they are at that stage.
ANISOTROPY = 2.0
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_INSTANCE_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def unet_strides(input_shape: Sequence[int], spacing: Sequence[float] | None = None) -> tuple[tuple[int, ...], ...]:
    """How each stage after the first reduces each axis.

    An axis is halved while its map keeps four voxels a side and it is not much coarser than the finest axis; so thick
    slices stay apart until their plane is as coarse as they are.

    Args:
        input_shape: Voxels of the patch along each axis.
        spacing: Relative or absolute edge lengths of a voxel; None for cubes.

    Example:
        >>> unet_strides((40, 56, 40))
        ((2, 2, 2), (2, 2, 2), (2, 2, 2))
        >>> unet_strides((16, 128, 128), (4.0, 1.0, 1.0))
        ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    """
    sides = [float(side) for side in input_shape]
    size = list(spacing or (1.0,) * len(sides))
    found: list[tuple[int, ...]] = []
    while len(found) < MOST_HALVINGS:
        able = [side / 2 >= SMALLEST_SIDE for side in sides]
        finest = min((size[a] for a in range(len(sides)) if able[a]), default=None)
        if finest is None:
            break
        step = tuple(2 if able[a] and size[a] < ANISOTROPY * finest else 1 for a in range(len(sides)))
        found.append(step)
        sides = [side / by for side, by in zip(sides, step, strict=True)]
        size = [length * by for length, by in zip(size, step, strict=True)]
    return tuple(found)


def multiple_of(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """What each side of a patch must be a multiple of.

    Example:
        >>> multiple_of(((1, 2, 2), (2, 2, 2)))
        (2, 4, 4)
    """
    total = [1] * len(strides[0]) if strides else []
    for step in strides:
        total = [have * by for have, by in zip(total, step, strict=True)]
    return tuple(total)


class _Convolution(nn.Sequential):
    """Convolution, norm, leaky relu."""

    def __init__(self, dimensions: int, channels: tuple[int, int], stride: Sequence[int], norm: str) -> None:
        super().__init__(
            CONVOLUTION[dimensions](*channels, 3, stride=tuple(stride), padding=1, bias=False),
            _norm(dimensions, channels[1], norm),
            nn.LeakyReLU(0.01, inplace=True),
        )


def _norm(dimensions: int, channels: int, kind: str) -> Any:
    if kind == "instance":
        return _INSTANCE_NORM[dimensions](channels, affine=True)
    return BATCH_NORM[dimensions](channels)


class _Residual(nn.Module):
    """Two convolutions and a shortcut that averages where the block reduces (ResNet-D)."""

    def __init__(self, dimensions: int, channels: tuple[int, int], stride: Sequence[int], norm: str) -> None:
        super().__init__()
        before, after = channels
        self.first = _Convolution(dimensions, channels, stride, norm)
        self.second = CONVOLUTION[dimensions](after, after, 3, padding=1, bias=False)
        self.last_norm = _norm(dimensions, after, norm)
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            pool: Callable[..., nn.Module] = nn.AvgPool2d if dimensions == 2 else nn.AvgPool3d
            shortcut.append(pool(tuple(stride), tuple(stride)))
        if before != after:
            shortcut += [CONVOLUTION[dimensions](before, after, 1, bias=False), _norm(dimensions, after, norm)]
        self.shortcut = nn.Sequential(*shortcut)
        self.relu = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.relu(self.last_norm(self.second(self.first(image))) + self.shortcut(image))
        return output


def encoder_stages(
    dimensions: int,
    in_channels: int,
    strides: Sequence[Sequence[int]],
    widths: Sequence[int],
    *,
    residual: bool,
    norm: str,
) -> nn.ModuleList:
    """Make the stages of an encoder: each reduced by its stride, of which the first is usually 1."""
    stages: list[nn.Module] = []
    before = in_channels
    for depth, (step, width) in enumerate(zip(map(tuple, strides), widths, strict=True)):
        count = RESIDUAL_BLOCKS[min(depth, len(RESIDUAL_BLOCKS) - 1)] if residual else CONVOLUTIONS
        make: type[nn.Module] = _Residual if residual else _Convolution
        blocks = [make(dimensions, (before, width), step, norm)]
        blocks += [make(dimensions, (width, width), (1,) * dimensions, norm) for _ in range(count - 1)]
        stages.append(nn.Sequential(*blocks))
        before = width
    return nn.ModuleList(stages)


def stage_widths(dimensions: int, stages: int, width: float) -> list[int]:
    """Channels of each stage: doubled from one to the next, up to a largest number."""
    largest = scaled(LARGEST_WIDTH[dimensions], width)
    return [min(largest, scaled(BASE_WIDTH * 2**depth, width)) for depth in range(stages)]


def initialise(net: nn.Module) -> None:
    """Draw fresh weights for leaky rectifiers (He et al. 2015); a residual block starts as its shortcut."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=0.01, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in net.modules():
        if isinstance(module, _Residual):
            nn.init.zeros_(module.last_norm.weight)


class UNet(nn.Module):
    """A U-Net of any depth, in 2-D or 3-D.

    Args:
        dimensions: 2 or 3.
        in_channels: Channels of the image.
        outputs: Numbers for each voxel.
        strides: How each stage after the first reduces each axis, from `unet_strides`.
        widths: Channels of each stage, one more than there are strides.
        residual: A residual encoder, with more blocks in deeper stages.
        norm: ``batch`` (folded away at export) or ``instance`` (for batches of one or two).

    Shapes:
        (batch, in_channels, *shape), each side a multiple of `multiple_of`, → (batch, outputs, *shape). While it
        trains: a list, that answer first, then those of the lower stages but the two lowest at their own resolution.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        outputs: int,
        *,
        strides: Sequence[Sequence[int]],
        widths: Sequence[int],
        residual: bool = False,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        steps = [(1,) * dimensions, *strides]
        self.encoder = encoder_stages(dimensions, in_channels, steps, widths, residual=residual, norm=norm)
        up, decoder, heads = [], [], []
        for depth in reversed(range(len(strides))):
            width = widths[depth]
            up.append(_TRANSPOSED[dimensions](widths[depth + 1], width, tuple(strides[depth]), tuple(strides[depth])))
            count = 1 if residual else CONVOLUTIONS
            blocks = [_Convolution(dimensions, (2 * width, width), (1,) * dimensions, norm)]
            blocks += [_Convolution(dimensions, (width, width), (1,) * dimensions, norm) for _ in range(count - 1)]
            decoder.append(nn.Sequential(*blocks))
            supervised = depth == 0 or depth < len(strides) - 1
            heads.append(CONVOLUTION[dimensions](width, outputs, 1) if supervised else nn.Identity())
        self.up, self.decoder = nn.ModuleList(up), nn.ModuleList(decoder)
        self.heads = nn.ModuleList(heads if strides else [CONVOLUTION[dimensions](widths[0], outputs, 1)])
        initialise(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Map (batch, in_channels, *shape) to logits (batch, outputs, *shape); see the class for training."""
        maps: list[Tensor] = []
        for stage in self.encoder:
            image = stage(image)
            maps.append(image)
        answers: list[Tensor] = []
        now = maps.pop()
        if not self.up:
            answers.append(self.heads[0](now))
        for number, (up, stage, head) in enumerate(zip(self.up, self.decoder, self.heads, strict=False)):
            now = stage(torch.cat([up(now), maps.pop()], dim=1))
            last = number == len(self.up) - 1
            if last or (self.training and not isinstance(head, nn.Identity)):
                answers.append(head(now))
        return answers[::-1] if self.training else answers[-1]


def build_unet(entry: str, spec: NetworkSpec) -> nn.Module:
    """Build a U-Net for a spec; ``entry`` is ``plain`` or ``residual``."""
    strides = spec.strides or unet_strides(spec.input_shape)
    widths = stage_widths(spec.dimensions, len(strides) + 1, spec.width)
    return UNet(
        spec.dimensions,
        spec.in_channels,
        spec.outputs,
        strides=strides,
        widths=widths,
        residual=entry == "residual",
        norm=spec.norm,
    )
