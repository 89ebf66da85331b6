"""Networks that find boxes: an encoder, a feature pyramid, and heads that answer for every place a box may be.

* ``fcos``: one box for each place of a map, told by its distances to the box's sides; no anchors to choose (Tian et
  al. 2019, https://arxiv.org/abs/1904.01355; as one box of a fixed size for each place: Zhang et al. 2020,
  https://arxiv.org/abs/1912.02424).
* ``retinanet``: several boxes for each place, the anchors, told by how they must be moved and stretched (Lin et al.
  2017, https://arxiv.org/abs/1708.02002; Feature Pyramid Networks: https://arxiv.org/abs/1612.03144).

Both work in 2-D and 3-D, over medmap's own encoder (that of its U-Nets, whose weights fit) or one of timm's, and answer
with one tensor of fixed shape, which every engine can run; boxes are made of it outside the graph. ``faster_rcnn``
(`medmap.networks.two_stage`) puts a second stage behind the same encoder and pyramid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medmap.errors import ConfigError
from medmap.networks.layers import CONVOLUTION
from medmap.networks.own import scaled
from medmap.networks.spec import NetworkSpec, SizeError, shape_text
from medmap.networks.unet import encoder_stages, initialise, multiple_of, stage_widths, unet_strides

HEADS = ("fcos", "retinanet", "faster_rcnn")
PYRAMID_WIDTH = 96  # channels of every map of the pyramid, times ``width``
EARLY = 2  # the finest map from which on the first stage of the encoder reduces the image
TOWER = 2  # convolutions of a head before its last one
GROUPS = 8
SIDE_OF_STEP = 4.0  # an ``fcos`` place stands for a box of so many steps of its map
RARE = 0.01  # what a fresh network believes of any place: Lin et al. 2017, section 4.1


def split_detector(name: str) -> tuple[str, str]:
    """Split a detector's name into its head and its encoder; medmap's own encoder is called ``residual``.

    Raises:
        ConfigError: Another head, or an encoder of another library than timm.

    Example:
        >>> split_detector("retinanet"), split_detector("fcos+timm:resnet18")
        (('retinanet', 'residual'), ('fcos', 'timm:resnet18'))
    """
    head, _, encoder = name.partition("+")
    known = encoder in ("", "plain", "residual") or encoder.startswith("timm:")
    if head not in HEADS or not known:
        raise ConfigError(
            "medmap has no network for detection of this name",
            got=repr(name),
            expected=", ".join((*HEADS, *(f"{head}+timm:resnet18" for head in HEADS))),
        )
    return head, encoder or "residual"


def map_steps(spec: NetworkSpec) -> tuple[tuple[int, ...], ...]:
    """How many voxels apart the places of each map of the pyramid are along each axis, the finest map first."""
    _, encoder = split_detector(spec.name)
    if encoder.startswith("timm:"):
        stages = [(reduction,) * spec.dimensions for reduction in _reductions(encoder.removeprefix("timm:"))]
    else:
        stages = [(1,) * spec.dimensions]
        for step in spec.strides or unet_strides(spec.input_shape):
            stages.append(tuple(have * by for have, by in zip(stages[-1], step, strict=True)))
    kept = tuple(stages[spec.finest :])
    if not kept:
        raise ConfigError("network.finest lies beyond the encoder", got=spec.finest, expected=f"0 to {len(stages) - 1}")
    return kept


def anchors_of(spec: NetworkSpec) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """The sides in voxels of the boxes that each place of each map stands for."""
    head, _ = split_detector(spec.name)
    steps = map_steps(spec)
    if head == "fcos" or not spec.anchors:
        return tuple((tuple(SIDE_OF_STEP * by for by in step),) for step in steps)
    if len(spec.anchors) != len(steps):
        raise ConfigError(
            "each map of the pyramid has its anchors", got=f"{len(spec.anchors)} rows", expected=len(steps)
        )
    return spec.anchors


def priors(spec: NetworkSpec) -> NDArray[np.float32]:
    """Centre and sides of the box that each answer of a detector starts from.

    Returns:
        (places, 2 · dimensions) float32 in voxels of the network's input, voxel ``i`` reaching from ``i`` to
        ``i + 1``; in the order of the network's answers: map by map, place by place, anchor by anchor.
    """
    found = []
    for step, shapes in zip(map_steps(spec), anchors_of(spec), strict=True):
        sides = [math.ceil(side / by) for side, by in zip(spec.input_shape, step, strict=True)]
        axes = [(np.arange(side) + 0.5) * by for side, by in zip(sides, step, strict=True)]
        centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 1, spec.dimensions)
        boxes = np.broadcast_to(np.array(shapes)[None], (len(centres), len(shapes), spec.dimensions))
        both = np.concatenate([np.broadcast_to(centres, boxes.shape), boxes], axis=-1)
        found.append(both.reshape(-1, 2 * spec.dimensions))
    return np.concatenate(found).astype(np.float32)


def places_per_map(spec: NetworkSpec) -> tuple[int, ...]:
    """How many answers each map of the pyramid gives, anchors counted."""
    return tuple(
        math.prod(math.ceil(side / by) for side, by in zip(spec.input_shape, step, strict=True)) * len(shapes)
        for step, shapes in zip(map_steps(spec), anchors_of(spec), strict=True)
    )


class _Tower(nn.Sequential):
    """Convolutions that all maps share, each with its group norm."""

    def __init__(self, dimensions: int, channels: int, depth: int = TOWER) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                CONVOLUTION[dimensions](channels, channels, 3, padding=1, bias=False),
                nn.GroupNorm(GROUPS, channels),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        super().__init__(*layers)


class Pyramid(nn.Module):
    """A feature pyramid: each map gets what the coarser ones know.

    Args:
        dimensions: 2 or 3.
        widths: Channels of the encoder's maps, the finest first.
        channels: Channels of every map of the pyramid.
    """

    def __init__(self, dimensions: int, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        self.channels = channels
        self.lateral = nn.ModuleList(convolution(width, channels, 1) for width in widths)
        self.smooth = nn.ModuleList(_Tower(dimensions, channels, depth=1) for _ in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map the encoder's maps to maps of the same sizes."""
        thin = [lateral(one) for lateral, one in zip(self.lateral, maps, strict=True)]
        for number in range(len(thin) - 1, 0, -1):
            finer = thin[number - 1]
            thin[number - 1] = finer + functional.interpolate(thin[number], size=finer.shape[2:], mode="nearest")
        return [smooth(one) for smooth, one in zip(self.smooth, thin, strict=True)]


class Heads(nn.Module):
    """Classes and boxes for every place, by the same convolutions on all maps.

    Args:
        dimensions: 2 or 3.
        channels: Of the maps.
        classes: Numbers a place for what it is.
        anchors: Boxes a place.
        levels: How many maps; each has a scale of its own for the sides it tells.
    """

    def __init__(self, dimensions: int, channels: int, classes: int, anchors: int, levels: int) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        self.class_tower, self.box_tower = _Tower(dimensions, channels), _Tower(dimensions, channels)
        self.classes = convolution(channels, anchors * classes, 3, padding=1)
        self.sides = convolution(channels, anchors * 2 * dimensions, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        self.anchors = anchors

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the pyramid to (batch, places, classes + 2 · dimensions)."""
        answers = []
        for level, one in enumerate(maps):
            classes = self._rows(self.classes(self.class_tower(one)))
            sides = self._rows(self.sides(self.box_tower(one)) * self.scales[level])
            answers.append(torch.cat([classes, sides], dim=-1))
        return torch.cat(answers, dim=1)

    def _rows(self, numbers: Tensor) -> Tensor:
        batch, channels = numbers.shape[:2]
        apart = numbers.reshape(batch, self.anchors, channels // self.anchors, -1)
        return apart.permute(0, 3, 1, 2).reshape(batch, -1, channels // self.anchors)


class Detector(nn.Module):
    """A one-stage detector.

    Args:
        encoder: Image → maps of all stages, the finest first: a list of stages, or a network that gives a list.
        finest: The first of them that is used.
        pyramid: Those maps → maps of one width.
        heads: Those → the answer.

    Shapes:
        (batch, channels, *shape) → (batch, places, classes + 2 · dimensions) float32: logits of the classes, then how
        the box of that place differs from its prior (`medmap.tasks.detect` decodes it).
    """

    def __init__(self, encoder: nn.Module, finest: int, pyramid: Pyramid, heads: Heads) -> None:
        super().__init__()
        self.encoder, self.finest, self.pyramid, self.heads = encoder, finest, pyramid, heads
        self.starts_from = ("encoder",)

    def maps(self, image: Tensor) -> list[Tensor]:
        """The pyramid's maps of an image."""
        if not isinstance(self.encoder, nn.ModuleList):
            return list(self.pyramid(self.encoder(image)[self.finest :]))
        found: list[Tensor] = []
        for stage in self.encoder:
            image = stage(image)
            found.append(image)
        return list(self.pyramid(found[self.finest :]))

    def forward(self, image: Tensor) -> Tensor:
        """Map images to numbers for every place."""
        answer: Tensor = self.heads(self.maps(image))
        return answer


def build_detector(spec: NetworkSpec) -> nn.Module:
    """Make a detector with fresh weights.

    Raises:
        ConfigError: An unknown head or encoder, anchors that do not fit the maps, a volume for an encoder of pictures.
    """
    head, name = split_detector(spec.name)
    encoder, widths = _encoder(name, spec)
    counts = {len(shapes) for shapes in anchors_of(spec)}
    if len(counts) > 1:
        raise ConfigError("every map has the same number of anchors", got=sorted(counts))
    channels = max(GROUPS, scaled(PYRAMID_WIDTH, spec.width))
    pyramid = Pyramid(spec.dimensions, widths[spec.finest :], channels)
    levels = len(widths) - spec.finest
    two = head == "faster_rcnn"
    heads = Heads(spec.dimensions, channels, 1 if two else spec.outputs, counts.pop(), levels)
    net = Detector(encoder, spec.finest, pyramid, heads)
    if two:
        net = _two_stage(net, spec, channels)
    for part in (pyramid, heads) if name.startswith("timm:") else (net,):
        initialise(part)
    nn.init.normal_(heads.classes.weight, std=0.01)
    with torch.no_grad():
        for name, value in heads.classes.named_parameters():
            if name == "bias":
                value.fill_(-math.log((1 - RARE) / RARE))
    nn.init.normal_(heads.sides.weight, std=0.01)
    return net


def _two_stage(net: Detector, spec: NetworkSpec, channels: int) -> Detector:
    from medmap.networks.two_stage import TwoStage, second_of

    parts = (net.pyramid, net.heads, second_of(spec, channels))
    return TwoStage(net.encoder, spec.finest, parts, torch.from_numpy(priors(spec)), map_steps(spec), spec.input_shape)


def _encoder(name: str, spec: NetworkSpec) -> tuple[nn.Module, list[int]]:
    if name.startswith("timm:"):
        return _timm_encoder(name.removeprefix("timm:"), spec)
    strides = spec.strides or unet_strides(spec.input_shape)
    step = multiple_of(strides) or (1,) * spec.dimensions
    if any(side % by for side, by in zip(spec.input_shape, step, strict=True)):
        fitting = tuple(math.ceil(side / by) * by for side, by in zip(spec.input_shape, step, strict=True))
        raise SizeError(
            f"{spec.name} takes images whose sides are multiples of {shape_text(step)}",
            got=shape_text(spec.input_shape),
            expected=shape_text(fitting),
            remedy=f"set prepare.shape to {list(fitting)}",
        )
    widths = stage_widths(spec.dimensions, len(strides) + 1, spec.width)
    whole = (1,) * spec.dimensions
    # maps at full resolution cost most; where boxes are looked for on far coarser ones, the first stage reduces already
    early = strides and spec.finest >= EARLY and spec.stem != "small"
    steps = [strides[0], whole, *strides[1:]] if early else [whole, *strides]
    stages = partial(encoder_stages, spec.dimensions, spec.in_channels, steps, widths)
    return stages(residual=name == "residual", norm=spec.norm), widths


def _timm_encoder(entry: str, spec: NetworkSpec) -> tuple[nn.Module, list[int]]:
    import timm

    if spec.dimensions != 2:
        raise ConfigError(
            f"{spec.name} takes pictures, not volumes", got="3 dimensions", remedy="take fcos or retinanet alone"
        )
    _require_timm(entry)
    made: Any = timm.create_model(entry, pretrained=False, features_only=True, in_chans=spec.in_channels)
    return made, list(made.feature_info.channels())


def _reductions(entry: str) -> list[int]:
    import timm

    _require_timm(entry)
    with torch.device("meta"):
        made: Any = timm.create_model(entry, pretrained=False, features_only=True)
    return list(made.feature_info.reduction())


def _require_timm(entry: str) -> None:
    import timm

    if not timm.is_model(entry):
        raise ConfigError("timm has no network of this name for an encoder", got=entry, expected="for example resnet18")
