"""The doors to torchvision, timm and MONAI: one function each, from a library's own name to a fresh network.

Nothing here fetches: weights are never asked for, and names that would make a library look at the network
(``hf-hub:``, ``local-dir:``) are not names to it.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from medmap.errors import ConfigError
from medmap.networks.layers import CONVOLUTION, convolution_like, first_convolution
from medmap.networks.spec import NetworkSpec, SizeError, shape_text
from medmap.networks.stems import vit_patch

LICENCES = {"torchvision": "BSD-3-Clause", "timm": "Apache-2.0", "monai": "Apache-2.0", "medmap": "Apache-2.0"}
_VIT_SIZES = {"vit_small": (384, 6), "vit_base": (768, 12)}
_VIT_DEPTH = 12
_MONAI_CLASSIFIERS = ("resnet", "DenseNet", "SENet", "SEResNet", "SEResNext")
# What a library raises when a network cannot be made of, or cannot take, what it was given.
REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ZeroDivisionError, NotImplementedError)


def library_names(library: str, dimensions: int) -> list[str]:
    """List what a library offers for classification in so many dimensions; touches no network."""
    if library == "torchvision":
        from torchvision import models

        return list(models.list_models(module=models if dimensions == 2 else models.video))
    if library == "timm":
        import timm

        return list(timm.list_models()) if dimensions == 2 else []
    from monai.networks import nets

    found = [name for name in dir(nets) if name.startswith(_MONAI_CLASSIFIERS) and name[-1].isdigit()]
    return [*found, *(f"efficientnet-b{size}" for size in range(9))]


def unknown_name(library: str, entry: str, dimensions: int) -> ConfigError:
    """Say that a library has no such network, and which names come closest."""
    close = difflib.get_close_matches(entry, library_names(library, dimensions), n=3, cutoff=0.5)
    return ConfigError(
        f"{library} has no {dimensions}-D network of this name for classification",
        got=f"{library}:{entry}",
        expected=" or ".join(f"{library}:{name}" for name in close) or None,
        remedy=f"see the names of {library}, or medmap's plain names",
    )


def from_torchvision(entry: str, spec: NetworkSpec) -> nn.Module:
    """Make a network of torchvision without weights.

    Raises:
        ConfigError: An unknown name, or a size that the network cannot take (`SizeError`).
    """
    from torchvision import models

    if entry not in library_names("torchvision", spec.dimensions):
        raise unknown_name("torchvision", entry, spec.dimensions)
    arguments: dict[str, Any] = {"weights": None, "num_classes": spec.outputs}
    if entry in ("inception_v3", "googlenet"):
        arguments |= {"aux_logits": False, "init_weights": True}
    elif entry.startswith("vit_"):
        arguments["image_size"] = _square(entry, spec)
    elif entry.startswith("maxvit"):
        arguments["input_size"] = spec.input_shape
    try:
        net: nn.Module = models.get_model(entry, **arguments)
    except REFUSALS as refusal:
        raise refused(spec, refusal) from refusal
    if entry.startswith("efficientnet"):
        _start_head_small(net)
    name, convolution = first_convolution(net)
    if convolution.in_channels != spec.in_channels:
        net.set_submodule(name, convolution_like(convolution, in_channels=spec.in_channels))
    return net


def _square(entry: str, spec: NetworkSpec) -> int:
    patch = int(entry.rsplit("_", 1)[-1])
    height, width = spec.input_shape
    if height != width or height % patch:
        side = max(patch, round(max(height, width) / patch) * patch)
        raise SizeError(
            f"{spec.name} takes square images whose side is a multiple of {patch}",
            got=shape_text(spec.input_shape),
            expected=shape_text((side, side)),
            remedy="resize or pad the images, or choose vit_small or vit_base, which choose their patch",
        )
    return height


def from_timm(entry: str, spec: NetworkSpec) -> nn.Module:
    """Make a network of timm without weights; those bound to an image size are made for this one.

    Raises:
        ConfigError: An unknown name, or a size that the network cannot take (`SizeError`).
    """
    import timm

    if spec.dimensions != 2 or not timm.is_model(entry):
        raise unknown_name("timm", entry, spec.dimensions)
    arguments: dict[str, Any] = {
        "pretrained": False,
        "num_classes": spec.outputs,
        "in_chans": spec.in_channels,
        "drop_rate": spec.dropout,
    }
    try:
        try:
            net: nn.Module = timm.create_model(entry, img_size=spec.input_shape, **arguments)
        except TypeError as refusal:
            if "img_size" not in str(refusal):
                raise
            net = timm.create_model(entry, **arguments)
    except REFUSALS as refusal:
        raise refused(spec, refusal) from refusal
    return _divisible(net, spec)


def _divisible(net: nn.Module, spec: NetworkSpec) -> nn.Module:
    """Refuse a size whose edge the patches would silently cut off."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if not isinstance(patch, tuple) or len(patch) != spec.dimensions:
        return net
    sides = tuple(max(1, round(side / step)) * step for side, step in zip(spec.input_shape, patch, strict=True))
    if sides != spec.input_shape:
        raise SizeError(
            f"{spec.name} cuts the image into patches of {shape_text(patch)}, and the size is no multiple of that",
            got=shape_text(spec.input_shape),
            expected=shape_text(sides),
            remedy="resize or pad the images",
        )
    return net


def from_monai(entry: str, spec: NetworkSpec) -> nn.Module:
    """Make a network of MONAI without weights: a classifier, or one that answers for each voxel.

    Raises:
        ConfigError: An unknown name, one of another kind, or a size that the network cannot take.
    """
    from monai.networks import nets
    from monai.networks.nets.efficientnet import EfficientNet, EfficientNetBN
    from monai.utils.module import OptionalImportError

    values: dict[str, Any] = {
        "spatial_dims": spec.dimensions,
        "in_channels": spec.in_channels,
        "n_input_channels": spec.in_channels,
        "out_channels": spec.outputs,
        "num_classes": spec.outputs,
        "pretrained": False,
    }
    if spec.dense:
        values |= {"img_size": spec.input_shape, "channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2)}
    if entry.startswith("efficientnet-b"):
        values["model_name"] = entry
    maker: Any = EfficientNetBN if "model_name" in values else getattr(nets, entry, None)
    arguments = _monai_arguments(maker, set(values))
    if arguments is None:
        raise unknown_name("monai", entry, spec.dimensions)
    given = {name: values[name] for name in arguments}
    if entry.startswith("resnet"):
        # MedicalNet's stem and shortcuts (https://arxiv.org/abs/1904.00625); type A would cut the gradient.
        given |= {"conv1_t_stride": 2, "shortcut_type": "B", "bias_downsample": False}
    try:
        net: nn.Module = maker(**given)
    except OptionalImportError as missing:
        raise ConfigError(
            f"{spec.name} needs a package that is not installed: {str(missing).splitlines()[0]}",
            remedy="install that package, or choose a plain name",
        ) from missing
    except REFUSALS as refusal:
        raise refused(spec, refusal) from refusal
    if isinstance(net, EfficientNet):
        _mend_efficientnet(net)
    return net


def _monai_arguments(maker: Any, known: set[str]) -> set[str] | None:
    """Name the arguments that medmap fills in; None where the maker is no classifier that these suffice for."""
    if inspect.isfunction(maker):  # resnet10 … resnet200 hand everything on
        return known - {"in_channels", "out_channels"} if maker.__name__.startswith("resnet") else None
    if not (inspect.isclass(maker) and issubclass(maker, nn.Module)):
        return None
    own = inspect.signature(maker).parameters.values()
    names = {item.name for item in own}
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    unfilled = {item.name for item in own if item.default is item.empty and item.kind not in variable} - known
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in own):
        names |= set(inspect.signature(maker.__mro__[1]).parameters)
    if unfilled or "spatial_dims" not in names or names.isdisjoint({"num_classes", "out_channels"}):
        return None
    return names & known


def _mend_efficientnet(net: nn.Module) -> None:
    """Let MONAI's EfficientNet take any size, start at a sane scale, and have its swish exported and cast.

    MONAI pads every convolution by amounts computed once for 224 pixels or more; at 28 voxels the kernels no longer
    fit. Padding every convolution by half of its kernel is the same "same" padding without a size. It also draws
    depthwise convolutions as if each output saw every channel, so that a volume's signal fades to 1e-15 on its way;
    they are drawn again by He's rule with the fan of one group, as the authors' own code does.
    """
    for parent in list(net.modules()):
        for name, _ in list(parent.named_children()):
            convolution = getattr(parent, name.removesuffix("_padding"), None)
            if name.endswith("_padding") and isinstance(convolution, nn.Conv2d | nn.Conv3d):
                convolution.padding = tuple(size // 2 for size in convolution.kernel_size)
                parent.set_submodule(name, nn.Identity())
                if convolution.groups > 1:
                    fan = convolution.weight[0, 0].numel() * convolution.out_channels / convolution.groups
                    nn.init.normal_(convolution.weight, std=(2.0 / fan) ** 0.5)
    set_swish: Callable[[bool], None] = getattr(net, "set_swish")  # noqa: B009 - a Module's attributes are Tensor | Module
    set_swish(False)
    _start_head_small(net)


def _start_head_small(net: nn.Module) -> None:
    """Draw EfficientNet's last layer with σ = 0.01: both libraries scale it for 1000 outputs, and shout with two."""
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)


def plain_vit(entry: str, spec: NetworkSpec) -> nn.Module:
    """Make timm's vision transformer with the patch of `vit_patch`; in 3-D with a volume's patches before it.

    Raises:
        SizeError: No patch fits the size.
    """
    from timm.models.vision_transformer import VisionTransformer

    hidden, heads = _VIT_SIZES[entry]
    patch = vit_patch(spec.input_shape, spec.stem)
    arguments: dict[str, Any] = {} if spec.dimensions == 2 else {"embed_layer": VolumePatches}
    make: Callable[..., nn.Module] = VisionTransformer  # timm's annotations know flat images only
    return make(
        img_size=spec.input_shape,
        patch_size=patch,
        in_chans=spec.in_channels,
        num_classes=spec.outputs,
        embed_dim=hidden,
        depth=_VIT_DEPTH,
        num_heads=heads,
        drop_rate=spec.dropout,
        **arguments,
    )


class VolumePatches(nn.Module):
    """Cut a volume into cubes and embed each: what timm's transformer wants in front of it, in 3-D.

    Args:
        img_size: Spatial shape (three sides).
        patch_size: Side of a cube in voxels; divides every side.
        in_chans: Channels of the image.
        embed_dim: Numbers per token.
        bias: Whether the embedding adds a bias.
        others: What timm says to a flat image's patches; of no meaning here.

    Shapes:
        (batch, in_chans, depth, height, width) → (batch, tokens, embed_dim).
    """

    def __init__(
        self,
        img_size: tuple[int, int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        bias: bool = True,
        **others: object,
    ) -> None:
        super().__init__()
        self.img_size = tuple(img_size)
        self.patch_size = (patch_size,) * 3
        self.grid_size = tuple(side // patch_size for side in img_size)
        self.num_patches = math.prod(self.grid_size)
        self.proj = CONVOLUTION[3](in_chans, embed_dim, patch_size, stride=patch_size, bias=bias)

    def forward(self, volume: Tensor) -> Tensor:
        """Embed every cube."""
        tokens: Tensor = self.proj(volume).flatten(2).transpose(1, 2)
        return tokens


def refused(spec: NetworkSpec, refusal: Exception) -> SizeError:
    """Turn a library's refusal to make a network into a sentence."""
    lines = str(refusal).strip().splitlines()
    return SizeError(
        f"{spec.name} cannot be made for images of {shape_text(spec.input_shape)} with {spec.in_channels} channels"
        + (f" ({lines[0][:160]})" if lines else ""),
        remedy="change prepare's size to one that the network takes, or choose another network",
    )
