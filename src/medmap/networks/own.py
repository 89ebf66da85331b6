"""medmap's own small networks, for what no library has: the textbook `cnn` and a residual network for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medmap.networks.layers import AVERAGE_POOL, BATCH_NORM, CONVOLUTION, MAX_POOL, DropoutLinear
from medmap.networks.spec import NetworkSpec
from medmap.networks.stems import stem_strides

CNN_WIDTHS = (32, 64, 128)
CNN_DENSE = 128
RESNET_WIDTHS = (32, 64, 128, 256)
STANDARD_STRIDE = 4


def scaled(channels: int, width: float) -> int:
    """Multiply a number of channels and round to a multiple of 8, which keeps vector and tile units full.

    Example:
        >>> scaled(32, 0.7)
        24
    """
    return max(8, round(channels * width / 8) * 8)


class ConvolutionalNetwork(nn.Module):
    """The textbook recipe: 3×3 convolutions of 32, 64 and 128 channels, each with max-pooling, then a dense head.

    The last map is averaged in whole blocks to 4 to 7 positions a side where it is larger than that, so that the
    dense layer stays small on large images; at 28 pixels nothing is averaged.

    Args:
        dimensions: 2 or 3.
        in_channels: Channels of the image.
        outputs: Logits.
        input_shape: Spatial shape, every side at least 8.
        widths: Channels of the blocks.
        dropout: Probability before the last layer; the textbook's is 0.5.

    Shapes:
        (batch, in_channels, *input_shape) → (batch, outputs). The head is bound to `input_shape`.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        outputs: int,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = CNN_WIDTHS,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels, shape = in_channels, list(input_shape)
        for width in widths:
            convolution = CONVOLUTION[dimensions](channels, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            blocks.append(nn.Sequential(convolution, nn.ReLU(inplace=True), MAX_POOL[dimensions](2)))
            channels, shape = width, [side // 2 for side in shape]
        self.features = nn.Sequential(*blocks)
        kernel = tuple(max(1, side // 4) for side in shape)
        self.pool = nn.Identity() if max(kernel) == 1 else AVERAGE_POOL[dimensions](kernel)
        positions = 1
        for side, step in zip(shape, kernel, strict=True):
            positions *= side // step
        self.head = nn.Sequential(
            nn.Linear(channels * positions, CNN_DENSE),
            nn.ReLU(inplace=True),
            DropoutLinear(CNN_DENSE, outputs, dropout),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, in_channels, *input_shape) to logits (batch, outputs)."""
        logits: Tensor = self.head(self.pool(self.features(image)).flatten(1))
        return logits


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut, the relu last (https://arxiv.org/abs/1512.03385).

    Every convolution is followed directly by its norm, so that an exporter can fold the two. The last norm starts at
    zero: the block starts as its shortcut (https://arxiv.org/abs/1706.02677, section 5.1).

    Args:
        dimensions: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out.
        stride: 1, or 2 to halve every side.
    """

    def __init__(self, dimensions: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        convolution, norm = CONVOLUTION[dimensions], BATCH_NORM[dimensions]
        self.conv1 = convolution(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                convolution(in_channels, out_channels, 1, stride=stride, bias=False), norm(out_channels)
            )

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, in_channels, *shape) to (batch, out_channels, *shape / stride)."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(image)))))
        output: Tensor = self.relu(residual + self.shortcut(image))
        return output


class SmallResNet(nn.Module):
    """A residual network for small images, half as wide as ResNet-18 and quick on a CPU in bfloat16, channels last.

    Only convolution, batch norm, relu, addition and a mean: each has a bfloat16 kernel for channels-last memory, none
    makes autocast go back to float32. The first stage works at the resolution that the stem leaves.

    Args:
        dimensions: 2 or 3.
        in_channels: Channels of the image.
        outputs: Logits.
        widths: Channels of the stages; every stage after the first halves the sides.
        blocks: Residual blocks in a stage.
        stem_strides: How much the stem reduces each axis: 1 or 2 by its convolution, 4 with a max-pool after it.
        dropout: Probability before the last layer.

    Shapes:
        (batch, in_channels, *shape) → (batch, outputs), for any shape.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        outputs: int,
        *,
        widths: Sequence[int] = RESNET_WIDTHS,
        blocks: int = 2,
        stem_strides: Sequence[int] = (1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        stride = tuple(min(step, 2) for step in stem_strides)
        stem: list[nn.Module] = [
            CONVOLUTION[dimensions](in_channels, widths[0], 3, stride=stride, padding=1, bias=False),
            BATCH_NORM[dimensions](widths[0]),
            nn.ReLU(inplace=True),
        ]
        if max(stem_strides) > 2:
            pool = tuple(max(1, step // 2) for step in stem_strides)
            stem.append(MAX_POOL[dimensions](pool, ceil_mode=True))
        self.stem = nn.Sequential(*stem)
        stages: list[nn.Module] = []
        channels = widths[0]
        for index, width in enumerate(widths):
            first = ResidualBlock(dimensions, channels, width, stride=1 if index == 0 else 2)
            rest = [ResidualBlock(dimensions, width, width, stride=1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.head = DropoutLinear(channels, outputs, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, ResidualBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, in_channels, *shape) to logits (batch, outputs)."""
        maps = self.stages(self.stem(image))
        logits: Tensor = self.head(maps.mean(dim=tuple(range(2, 2 + self.dimensions))))
        return logits


def build_cnn(entry: str, spec: NetworkSpec) -> nn.Module:
    """Build the textbook recipe for a spec."""
    widths = [scaled(channels, spec.width) for channels in CNN_WIDTHS]
    return ConvolutionalNetwork(
        spec.dimensions, spec.in_channels, spec.outputs, spec.input_shape, widths=widths, dropout=spec.dropout
    )


def build_small_resnet(entry: str, spec: NetworkSpec) -> nn.Module:
    """Build the small residual network for a spec; its ``standard`` stem reduces every axis by 4."""
    strides = stem_strides(spec.input_shape, spec.stem) or (STANDARD_STRIDE,) * spec.dimensions
    widths = [scaled(channels, spec.width) for channels in RESNET_WIDTHS]
    return SmallResNet(
        spec.dimensions,
        spec.in_channels,
        spec.outputs,
        widths=widths,
        stem_strides=strides,
        dropout=spec.dropout,
    )
