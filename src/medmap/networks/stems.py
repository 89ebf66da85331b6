"""The first layers for small images.

The libraries' networks were drawn for photographs of 224 pixels: their stem reduces every side by 4 (2 in EfficientNet
and MobileNet) before the first stage looks at anything. At 28 pixels that throws the image away.

**The rule** (`stem_strides`). An image is small when its shortest side is at most 64. Then the stem keeps the full
resolution as long as at most 4096 positions (64 × 64, 16 × 16 × 16) reach the first stage, which is about what these
networks were designed to pay for (56 × 56 at 224 pixels). Where more would reach it, sides are halved, at most twice:
in 2-D all sides together, in 3-D the longest first (those within a quarter of the longest together), so that thick
slices stay apart while their plane is reduced. So 28 × 28 and 64 × 64 keep every pixel, 28 × 28 × 28 is halved once,
and 16 × 128 × 128 becomes 16 × 32 × 32.

What it does to each family:

* ResNet, SE-ResNet, DenseNet: the 7×7 convolution becomes 3×3 with that stride; the max-pool goes, unless the rule
  asks for a reduction by 4.
* EfficientNet, MobileNet: the first convolution's stride becomes that stride, at most 2.
* ConvNeXt, Swin: the patch is as large as the stride, instead of 4.
* VGG: of the five max-pools, the last ones go that would take the shortest side below 2 (the layers before them then
  see what they saw when they were pretrained); the head averages the map and has 512 hidden units instead of 4096 over
  a 7×7 map.
* ViT: the patch is chosen from the size (`vit_patch`), not from a stride.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import nn

from medmap.errors import ConfigError
from medmap.networks.layers import MAX_POOL, AnyConvolution, convolution_like
from medmap.networks.spec import NetworkSpec, SizeError, Stem, shape_text

SMALL_SIDE = 64
MOST_POSITIONS = 4096
MOST_STRIDE = 4
VIT_PATCH = 16
VIT_FEWEST_TOKENS = 49
VIT_MOST_TOKENS = 4096
VGG_HIDDEN = 512


def stem_strides(input_shape: tuple[int, ...], stem: Stem) -> tuple[int, ...] | None:
    """Say how much the stem may reduce each axis, by the rule at the top of this module.

    Args:
        input_shape: Spatial shape.
        stem: ``small`` is 1 for every axis whatever the cost; ``standard`` is never small.

    Returns:
        1, 2 or 4 for each axis; None where the library's own stem stays.

    Example:
        >>> stem_strides((28, 28), "auto"), stem_strides((28, 28, 28), "auto"), stem_strides((224, 224), "auto")
        ((1, 1), (2, 2, 2), None)
    """
    if stem == "standard" or (stem == "auto" and min(input_shape) > SMALL_SIDE):
        return None
    strides = [1] * len(input_shape)
    if stem == "small":
        return tuple(strides)
    while True:
        left = [math.ceil(side / stride) for side, stride in zip(input_shape, strides, strict=True)]
        if math.prod(left) <= MOST_POSITIONS:
            return tuple(strides)
        together = len(left) == 2  # a plane's pixels are square; a volume's voxels seldom are cubes
        longest = [
            axis
            for axis, side in enumerate(left)
            if strides[axis] < MOST_STRIDE and (together or 4 * side >= 3 * max(left))
        ]
        if not longest:
            return tuple(strides)
        for axis in longest:
            strides[axis] *= 2


def vit_patch(input_shape: tuple[int, ...], stem: Stem) -> int:
    """Choose a vision transformer's patch: 16 if ``standard``; else the largest that gives enough tokens.

    ``auto`` takes the largest side up to 16 that divides every side of the image and gives at least 49 tokens
    (7 × 7, the fewest that any stage of these networks sees at 224 pixels); ``small`` at least 196 (14 × 14).

    Args:
        input_shape: Spatial shape.
        stem: See above.

    Returns:
        The patch's side in pixels or voxels.

    Raises:
        SizeError: No patch divides the shape; the message names the nearest shape that fits.

    Example:
        >>> vit_patch((28, 28), "auto"), vit_patch((224, 224), "auto"), vit_patch((28, 28, 28), "auto")
        (4, 16, 7)
    """
    patch = _patch_or_none(input_shape, stem)
    if patch is None:
        fitting = nearest_fit(input_shape, lambda shape: _patch_or_none(shape, stem) is not None)
        raise SizeError(
            "the vision transformer cuts the image into equal patches, and none fits this size",
            got=shape_text(input_shape),
            expected=None if fitting is None else f"for example {shape_text(fitting)}",
            remedy="resize or pad the images to a multiple of 16, or choose another network",
        )
    return patch


def _patch_or_none(shape: tuple[int, ...], stem: Stem) -> int | None:
    if stem == "standard":
        return VIT_PATCH if all(side % VIT_PATCH == 0 for side in shape) else None
    fewest = VIT_FEWEST_TOKENS if stem == "auto" else 4 * VIT_FEWEST_TOKENS
    common = math.gcd(*shape)
    for patch in range(min(VIT_PATCH, common), 0, -1):
        tokens = math.prod(shape) // patch ** len(shape)
        if common % patch == 0 and tokens >= fewest:
            return patch if tokens <= VIT_MOST_TOKENS and (patch > 1 or min(shape) <= VIT_PATCH) else None
    return None


def nearest_fit(shape: tuple[int, ...], fits: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...] | None:
    """Find the shape nearest to one that does not fit: a little larger first, then a little smaller.

    Every side is brought to a multiple of 2, 4, 8, 16 or 32, downwards or upwards, the smallest change in all first.
    """
    candidates: set[tuple[int, ...]] = set()
    for step in (2, 4, 8, 16, 32):
        below = [max(step, side // step * step) for side in shape]
        candidates |= set(itertools.product(*((side, side + step) for side in below)))
    ranked = sorted(candidates, key=lambda new: (sum(abs(a - b) for a, b in zip(new, shape, strict=True)), -sum(new)))
    return next((new for new in ranked if fits(new)), None)


def fit_stem(net: nn.Module, spec: NetworkSpec) -> None:
    """Give a library's network the stem that its spec asks for, in place.

    A family that the table below does not know keeps its own stem under ``auto``.

    Raises:
        ConfigError: ``small`` is asked of a family without a known small stem.
    """
    strides = stem_strides(spec.input_shape, spec.stem)
    if strides is None:
        return
    families = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(net).__mro__]
    change = next((_STEMS[family] for family in families if family in _STEMS), None)
    if change is not None:
        change(net, strides, spec)
    elif spec.stem == "small" and _PATCHED.isdisjoint(families):
        raise ConfigError(
            f"medmap knows no small-image stem for {spec.name}",
            got="network.stem = small",
            expected="auto or standard",
            remedy="choose a network of another family, such as resnet18, or enlarge the images",
        )


def _stride_of(strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(stride, 2) for stride in strides)


def _replace_stem(net: nn.Module, convolution: str, pool: str, strides: tuple[int, ...]) -> None:
    old = net.get_submodule(convolution)
    if not isinstance(old, AnyConvolution):  # a "deep" stem of several convolutions keeps them
        return
    ones = (1,) * len(strides)
    new = convolution_like(old, kernel=tuple(3 * one for one in ones), stride=_stride_of(strides), padding=ones)
    net.set_submodule(convolution, new)
    steps = tuple(max(1, stride // 2) for stride in strides)
    pooled: nn.Module = nn.Identity()
    if max(steps) > 1:
        kernel = tuple(3 if step > 1 else 1 for step in steps)
        pooled = MAX_POOL[len(steps)](kernel, stride=steps, padding=tuple(size // 2 for size in kernel))
    net.set_submodule(pool, pooled)


def _resnet(net: nn.Module, strides: tuple[int, ...], spec: NetworkSpec) -> None:
    _replace_stem(net, "conv1", "maxpool", strides)


def _senet(net: nn.Module, strides: tuple[int, ...], spec: NetworkSpec) -> None:
    _replace_stem(net, "layer0.conv1", "layer0.pool", strides)


def _densenet(net: nn.Module, strides: tuple[int, ...], spec: NetworkSpec) -> None:
    _replace_stem(net, "features.conv0", "features.pool0", strides)


def _stride(path: str) -> Callable[[nn.Module, tuple[int, ...], NetworkSpec], None]:
    def change(net: nn.Module, strides: tuple[int, ...], spec: NetworkSpec) -> None:
        convolution = net.get_submodule(path)
        if isinstance(convolution, nn.Conv2d):
            convolution.stride = (min(strides[0], 2), min(strides[1], 2))
        elif isinstance(convolution, nn.Conv3d):
            convolution.stride = (min(strides[0], 2), min(strides[1], 2), min(strides[2], 2))

    return change


def _patch(path: str) -> Callable[[nn.Module, tuple[int, ...], NetworkSpec], None]:
    def change(net: nn.Module, strides: tuple[int, ...], spec: NetworkSpec) -> None:
        old = net.get_submodule(path)
        if isinstance(old, AnyConvolution) and tuple(old.kernel_size) == tuple(old.stride):
            net.set_submodule(path, convolution_like(old, kernel=strides, stride=strides))
            parent = net.get_submodule(path.rpartition(".")[0])
            if hasattr(parent, "tuple_patch_size"):  # the video Swin pads by it
                setattr(parent, "tuple_patch_size", strides)  # noqa: B010 - a Module's attributes are Tensor | Module

    return change


def _vgg(net: nn.Module, strides: tuple[int, ...], spec: NetworkSpec) -> None:
    features = net.get_submodule("features")
    pools = [name for name, module in features.named_children() if isinstance(module, nn.MaxPool2d)]
    kept = min(len(pools), max(0, int(math.log2(min(spec.input_shape))) - 1))
    for name in pools[kept:]:
        features.set_submodule(name, nn.Identity())
    net.set_submodule("avgpool", nn.AdaptiveAvgPool2d(1))
    channels = [module.out_channels for module in features.modules() if isinstance(module, nn.Conv2d)][-1]
    net.set_submodule(
        "classifier",
        nn.Sequential(
            nn.Linear(channels, VGG_HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(spec.dropout),
            nn.Linear(VGG_HIDDEN, spec.outputs),
        ),
    )


_STEMS: dict[str, Callable[[nn.Module, tuple[int, ...], NetworkSpec], None]] = {
    "torchvision.models.resnet.ResNet": _resnet,
    "timm.models.resnet.ResNet": _resnet,
    "monai.networks.nets.resnet.ResNet": _resnet,
    "monai.networks.nets.senet.SENet": _senet,
    "torchvision.models.densenet.DenseNet": _densenet,
    "monai.networks.nets.densenet.DenseNet": _densenet,
    "torchvision.models.efficientnet.EfficientNet": _stride("features.0.0"),
    "torchvision.models.mobilenetv2.MobileNetV2": _stride("features.0.0"),
    "torchvision.models.mobilenetv3.MobileNetV3": _stride("features.0.0"),
    "timm.models.efficientnet.EfficientNet": _stride("conv_stem"),
    "timm.models.mobilenetv3.MobileNetV3": _stride("conv_stem"),
    "monai.networks.nets.efficientnet.EfficientNet": _stride("_conv_stem"),
    "torchvision.models.convnext.ConvNeXt": _patch("features.0.0"),
    "timm.models.convnext.ConvNeXt": _patch("stem.0"),
    "torchvision.models.swin_transformer.SwinTransformer": _patch("features.0.0"),
    "torchvision.models.video.swin_transformer.SwinTransformer3d": _patch("patch_embed.proj"),
    "torchvision.models.vgg.VGG": _vgg,
}
# Their patch is chosen when they are built.
_PATCHED = {"timm.models.vision_transformer.VisionTransformer"}
