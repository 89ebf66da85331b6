"""What is asked of a network, and what a network says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medmap.errors import ConfigError, SizeError

__all__ = ["NetworkInfo", "NetworkSpec", "SizeError", "Stem", "shape_text"]

Stem = Literal["auto", "small", "standard"]


@dataclass(frozen=True)
class NetworkSpec:
    """The network that a task wants: a name, what goes in and what comes out.

    Args:
        name: A plain name (`names(dimensions)` lists them), or a library's own name behind its prefix:
            ``torchvision:vgg19``, ``timm:regnety_002``, ``monai:DenseNet169``; dense ones of pictures also as
            ``unet+timm:resnet34`` (a decoder over an encoder).
        dimensions: 2 or 3 spatial dimensions.
        in_channels: Channels of the image, at least 1.
        outputs: Numbers per image, at least 1 (logits: nothing is squashed).
        input_shape: Spatial shape in pixels or voxels, ``dimensions`` long, in the order of the tensor.
        dropout: Probability before the last layer, 0 ≤ p < 1; 0 is none. What the network's authors used stands in
            `NetworkInfo.usual_dropout`.
        width: Multiplier of the channels; only medmap's own networks take another than 1.
        stem: ``auto`` follows the rule of `stem_strides`, ``small`` never reduces before the first stage,
            ``standard`` is the library's stem untouched.
        init: Where starting weights come from; carried here for the record, applied by `load_weights`.
        dense: Whether ``outputs`` are numbers for each pixel or voxel instead of for the image.
        strides: For a U-Net, how each stage after the first reduces each axis; None goes by `unet_strides`.
        norm: For a U-Net, ``batch`` or ``instance``.
        slices: For a dense network of volumes, how many neighbouring slices (odd) a picture's network sees at once;
            0 is a network of volumes.
        slice_axis: Spatial axis across the slices, 0 to 2.
        boxes: Whether the network finds boxes: ``outputs`` classes for each place that a box may be.
        finest: For boxes, the first stage of the encoder on whose map boxes are looked for; 0 is the image's grid.
        anchors: For ``retinanet`` and ``faster_rcnn``, the sides in voxels of the boxes that each map starts from,
            one row a map, the finest first.

    Raises:
        ConfigError: A value outside its range.

    Example:
        >>> NetworkSpec("resnet18", dimensions=2, in_channels=1, outputs=2, input_shape=(28, 28)).stem
        'auto'
    """

    name: str
    dimensions: Literal[2, 3]
    in_channels: int
    outputs: int
    input_shape: tuple[int, ...]
    dropout: float = 0.0
    width: float = 1.0
    stem: Stem = "auto"
    init: str | None = None
    dense: bool = False
    strides: tuple[tuple[int, ...], ...] | None = None
    norm: Literal["batch", "instance"] = "batch"
    slices: int = 0
    slice_axis: int = 2
    boxes: bool = False
    finest: int = 3
    anchors: tuple[tuple[tuple[float, ...], ...], ...] = ()

    @property
    def two_stage(self) -> bool:
        """Whether places only propose boxes and a second stage decides (`medmap.networks.two_stage`)."""
        return self.name.partition("+")[0] == "faster_rcnn"

    def __post_init__(self) -> None:
        """Check every range, so that a spec that exists can be believed."""
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        anchors = tuple(tuple(tuple(sides) for sides in row) for row in self.anchors)
        object.__setattr__(self, "anchors", anchors)
        if self.strides is not None:
            object.__setattr__(self, "strides", tuple(tuple(step) for step in self.strides))
        volumes = self.dense and self.dimensions == 3
        axes = 2 if self.slices else self.dimensions
        checks: tuple[tuple[str, bool, object, str], ...] = (
            ("network.dimensions", self.dimensions in (2, 3), self.dimensions, "2 or 3"),
            ("network.in_channels", _is_count(self.in_channels), self.in_channels, "a whole number of at least 1"),
            ("network.outputs", _is_count(self.outputs), self.outputs, "a whole number of at least 1"),
            (
                "network.input_shape",
                len(self.input_shape) == self.dimensions and all(_is_count(side) for side in self.input_shape),
                self.input_shape,
                f"{self.dimensions} whole numbers of at least 1",
            ),
            ("network.dropout", 0.0 <= self.dropout < 1.0, self.dropout, "a probability from 0 up to but not 1"),
            ("network.width", 0.0 < self.width <= 16.0, self.width, "a multiplier above 0, at most 16"),
            ("network.norm", self.norm in ("batch", "instance"), self.norm, "batch or instance"),
            (
                "network.strides",
                all(len(step) == axes and set(step) <= {1, 2} for step in self.strides or ()),
                self.strides,
                f"{axes} numbers a stage, each 1 or 2",
            ),
            (
                "network.slices",
                self.slices == 0 or (_is_count(self.slices) and self.slices % 2 == 1 and volumes),
                self.slices,
                "0, or 1, 3, 5 … for masks of volumes",
            ),
            ("network.finest", 0 <= self.finest <= 8, self.finest, "0 to 8"),
            (
                "network.anchors",
                all(len(sides) == self.dimensions and min(sides) > 0 for row in self.anchors for sides in row),
                self.anchors,
                f"{self.dimensions} sides in voxels for each anchor",
            ),
            ("network.slice_axis", self.slice_axis in (0, 1, 2), self.slice_axis, "0, 1 or 2"),
            ("network.stem", self.stem in ("auto", "small", "standard"), self.stem, "auto, small or standard"),
        )
        for field, good, got, expected in checks:
            if not good:
                raise ConfigError(f"{field} is out of range", got=repr(got), expected=expected)


@dataclass(frozen=True)
class NetworkInfo:
    """The numbers of a network that its neighbours need.

    Args:
        name: The name that `build` takes.
        library: ``torchvision``, ``timm``, ``monai`` or ``medmap``.
        dimensions: 2 or 3.
        smallest_input: Shortest side in pixels or voxels that still gives a feature map, with the stem ``auto``.
        multiple_of: A size at or above `smallest_input` that is a multiple of this always fits; others may.
        licence: SPDX identifier of the code; weights have a licence of their own.
        feature_layer: Module whose output is the last feature map (or the last tokens) that keeps its place in
            the image: what Grad-CAM looks at.
        usual_dropout: The dropout that the authors published, before the last layer.
        weights: A hub name for `load_weights` that fits this network, None where there is none.
    """

    name: str
    library: str
    dimensions: int
    smallest_input: int
    multiple_of: int
    licence: str
    feature_layer: str
    usual_dropout: float = 0.0
    weights: str | None = None


def shape_text(shape: tuple[int, ...]) -> str:
    """Write a spatial shape as people do.

    Example:
        >>> shape_text((28, 28))
        '28 × 28'
    """
    return " × ".join(str(side) for side in shape)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
