"""The networks with a plain name: which library makes each, and the numbers its neighbours need."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from medmap.errors import ConfigError
from medmap.networks import decoders, libraries, own, unet
from medmap.networks.spec import NetworkInfo, NetworkSpec

LIBRARIES: dict[str, Callable[[str, NetworkSpec], nn.Module]] = {
    "torchvision": libraries.from_torchvision,
    "timm": libraries.from_timm,
    "monai": libraries.from_monai,
}
# Behind these prefixes stand networks that answer for each pixel, whose encoder is a library's.
DECODED: dict[str, Callable[[str, NetworkSpec], nn.Module]] = {
    prefix: partial(decoders.from_decoders, prefix) for prefix in decoders.decoder_prefixes()
}
MULTIPLE_OF_VIT = 16


@dataclass(frozen=True)
class Row:
    """One network: where it comes from and what it needs.

    Args:
        library: Whose network it is.
        entry: Its name there.
        make: The function that makes it.
        feature_layer: See `NetworkInfo`.
        smallest: Shortest side with the stem ``auto`` or ``small``.
        smallest_standard: Shortest side with the stem ``standard``.
        multiple_of: See `NetworkInfo`.
        usual_dropout: See `NetworkInfo`.
        weights: See `NetworkInfo`.
    """

    library: str
    entry: str
    make: Callable[[str, NetworkSpec], nn.Module]
    feature_layer: str
    smallest: int = 8
    smallest_standard: int = 32
    multiple_of: int = 1
    usual_dropout: float = 0.0
    weights: str | None = None


def _torchvision(entry: str, feature_layer: str, smallest: int = 8, dropout: float = 0.0, tag: str = "1K_V1") -> Row:
    return Row(
        "torchvision",
        entry,
        libraries.from_torchvision,
        feature_layer,
        smallest=smallest,
        smallest_standard=max(32, smallest),
        usual_dropout=dropout,
        weights=f"torchvision:{entry}:{'KINETICS400_V1' if tag == 'video' else f'IMAGENET{tag}'}",
    )


def _monai(entry: str, feature_layer: str, smallest: int = 8, smallest_standard: int = 32, dropout: float = 0.0) -> Row:
    return Row(
        "monai",
        entry,
        libraries.from_monai,
        feature_layer,
        smallest=smallest,
        smallest_standard=smallest_standard,
        usual_dropout=dropout,
    )


def _vit(entry: str, weights: str | None) -> Row:
    # The class token is all that the head reads, so the gradient reaches the patches before the last block only.
    return Row(
        "timm",
        entry,
        libraries.plain_vit,
        "blocks.11.norm1",
        smallest=7,
        smallest_standard=16,
        multiple_of=MULTIPLE_OF_VIT,
        weights=weights,
    )


_CNN = Row("medmap", "cnn", own.build_cnn, "features", smallest_standard=8, usual_dropout=0.5)
_SMALL_RESNET = Row("medmap", "small_resnet", own.build_small_resnet, "stages", smallest_standard=8)
_EFFICIENTNET_DROPOUT = (0.2, 0.2, 0.3, 0.3, 0.4)

_ROWS: dict[int, dict[str, Row]] = {
    2: {
        "cnn": _CNN,
        "small_resnet": _SMALL_RESNET,
        "vgg16": _torchvision("vgg16", "features", dropout=0.5),
        "vgg16_bn": _torchvision("vgg16_bn", "features", dropout=0.5),
        "resnet18": _torchvision("resnet18", "layer4"),
        "resnet34": _torchvision("resnet34", "layer4"),
        "resnet50": _torchvision("resnet50", "layer4"),
        "densenet121": _torchvision("densenet121", "features"),
        "inception_v3": _torchvision("inception_v3", "Mixed_7c", smallest=75, dropout=0.5),
        **{
            f"efficientnet_b{size}": _torchvision(f"efficientnet_b{size}", "features", dropout=dropout)
            for size, dropout in enumerate(_EFFICIENTNET_DROPOUT)
        },
        "convnext_tiny": _torchvision("convnext_tiny", "features"),
        "mobilenet_v3_small": _torchvision("mobilenet_v3_small", "features", dropout=0.2),
        "mobilenet_v3_large": _torchvision("mobilenet_v3_large", "features", dropout=0.2),
        "vit_small": _vit("vit_small", "timm:vit_small_patch16_224.augreg_in21k_ft_in1k"),
        "vit_base": _vit("vit_base", "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k"),
        "swin_tiny": _torchvision("swin_t", "norm"),
    },
    3: {
        "cnn": _CNN,
        "small_resnet": _SMALL_RESNET,
        "resnet10": _monai("resnet10", "layer4"),
        "resnet18": _monai("resnet18", "layer4"),
        "resnet34": _monai("resnet34", "layer4"),
        "resnet50": _monai("resnet50", "layer4"),
        "densenet121": _monai("DenseNet121", "features"),
        "seresnet50": _monai("SEResNet50", "layer4"),
        "efficientnet_b0": _monai("efficientnet-b0", "_bn1", dropout=0.2),
        "vit_small": _vit("vit_small", None),
        "vit_base": _vit("vit_base", None),
        "swin_tiny": _torchvision("swin3d_t", "norm", tag="video"),
    },
}


_DENSE_ROWS: dict[str, Row] = {
    "unet": Row("medmap", "plain", unet.build_unet, "decoder"),
    "residual_unet": Row("medmap", "residual", unet.build_unet, "decoder"),
}


def _table(dimensions: int, dense: bool) -> dict[str, Row]:
    if dense:
        return _DENSE_ROWS if dimensions in (2, 3) else {}
    return _ROWS.get(dimensions, {})


def names(dimensions: int, *, dense: bool = False) -> tuple[str, ...]:
    """List the plain names of the networks in 2 or 3 dimensions: classifiers, or those that answer for each voxel.

    Example:
        >>> "resnet18" in names(3), "vgg16" in names(3), "unet" in names(3, dense=True)
        (True, False, True)
    """
    return tuple(_table(dimensions, dense))


def split_name(name: str) -> tuple[str, str] | None:
    """Split ``library:entry`` or ``decoder+library:entry``; None for a plain name.

    Raises:
        ConfigError: The prefix is not a library that medmap knows.
    """
    prefix, colon, entry = name.partition(":")
    if not colon:
        return None
    if prefix not in LIBRARIES and prefix not in DECODED:
        raise ConfigError(
            "a network's prefix names the library it comes from, after a decoder for segmentation",
            got=name,
            expected=", ".join(f"{library}:NAME" for library in (*LIBRARIES, *DECODED)),
        )
    return prefix, entry


def row(name: str, dimensions: int, *, dense: bool = False) -> Row:
    """Find the row of a plain name.

    Raises:
        ConfigError: There is none; the message names the closest, in this number of dimensions or another library.
    """
    rows = _table(dimensions, dense)
    if name in rows:
        return rows[name]
    if dense:
        raise ConfigError(
            f"medmap has no {dimensions}-D network for segmentation of this name",
            got=repr(name),
            expected=", ".join(rows)
            + ", or monai:SegResNet, monai:VNet, monai:UNETR …"
            + (", or unet+timm:resnet34, deeplabv3plus+timm:resnet50, fpn+timm:efficientnet_b0 …" * (dimensions == 2)),
        )
    elsewhere = [f"{other}-D" for other, table in _ROWS.items() if name in table]
    expected = difflib.get_close_matches(name.lower(), rows, n=3, cutoff=0.5)
    expected += [f"{library}:{name}" for library in LIBRARIES if name in libraries.library_names(library, dimensions)]
    raise ConfigError(
        f"medmap has no {dimensions}-D network of this name" + (f" (it exists in {elsewhere[0]})" if elsewhere else ""),
        got=repr(name),
        expected=" or ".join(expected) or "one of " + ", ".join(rows),
        remedy=f"take one of {', '.join(rows)}, or a library's own name as torchvision:NAME, timm:NAME or monai:NAME",
    )


def info(name: str, dimensions: int) -> NetworkInfo:
    """Publish the numbers of a plain name."""
    found = row(name, dimensions)
    return NetworkInfo(
        name=name,
        library=found.library,
        dimensions=dimensions,
        smallest_input=found.smallest,
        multiple_of=found.multiple_of,
        licence=libraries.LICENCES[found.library],
        feature_layer=found.feature_layer,
        usual_dropout=found.usual_dropout,
        weights=found.weights,
    )
