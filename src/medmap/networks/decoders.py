"""Decoders of segmentation-models-pytorch over an encoder of timm: a picture in, a number for each class and pixel out.

``unet+timm:resnet34`` is a U-Net whose way down is timm's ResNet-34. Its encoder keeps timm's names, so that weights of
a classifier (a bundle, a file, a hub's name) start it. Nothing here fetches.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from medmap.errors import ConfigError
from medmap.networks.libraries import REFUSALS, refused
from medmap.networks.spec import NetworkSpec, SizeError, shape_text

# Name here → (class there, its argument for dropout, its argument for norms).
DECODERS: dict[str, tuple[str, str | None, str | None]] = {
    "unet": ("Unet", None, "decoder_use_norm"),
    "unetplusplus": ("UnetPlusPlus", None, "decoder_use_norm"),
    "deeplabv3": ("DeepLabV3", "decoder_aspp_dropout", None),
    "deeplabv3plus": ("DeepLabV3Plus", "decoder_aspp_dropout", None),
    "fpn": ("FPN", "decoder_dropout", None),
}
ENCODERS = "timm"


def decoder_prefixes() -> tuple[str, ...]:
    """List what may stand before the colon: ``unet+timm``, ``fpn+timm``, …."""
    return tuple(f"{decoder}+{ENCODERS}" for decoder in DECODERS)


class EncoderDecoder(nn.Module):
    """An encoder that gives maps of several sizes, a decoder that joins them, a head.

    Args:
        encoder: (batch, channels, *shape) → maps, the image itself first.
        decoder: Maps → one map.
        head: That map → logits, possibly of another size than the image.

    Shapes:
        (batch, channels, *shape) → (batch, outputs, *shape).
    """

    # Modules that weights of another network, a classifier's, may start.
    starts_from = ("encoder.model",)

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        """Map images to logits of their own size."""
        logits: Tensor = self.head(self.decoder(self.encoder(image)))
        if logits.shape[2:] != image.shape[2:]:
            logits = functional.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
        return logits


def from_decoders(prefix: str, entry: str, spec: NetworkSpec) -> nn.Module:
    """Make a decoder over one of timm's encoders, without weights.

    Args:
        prefix: One of `decoder_prefixes`.
        entry: timm's name of the encoder.
        spec: What is wanted; ``norm`` is that of the decoder (U-Net, U-Net++), ``dropout`` that of DeepLab and FPN.

    Raises:
        ConfigError: An unknown encoder, one without maps of halved sizes, a classifier or a volume asked for, or a
            size that the network cannot take (`SizeError`).
    """
    import segmentation_models_pytorch as smp

    decoder = prefix.partition("+")[0]
    maker, dropout, norm = DECODERS[decoder]
    _refuse_other_uses(spec, entry)
    arguments: dict[str, Any] = {
        "encoder_name": f"tu-{entry}",
        "encoder_weights": None,
        "in_channels": spec.in_channels,
        "classes": spec.outputs,
    }
    if dropout is not None:
        arguments[dropout] = spec.dropout
    if norm is not None and spec.norm == "instance":
        arguments[norm] = {"type": "instancenorm", "affine": True}
    try:
        try:
            made: Any = getattr(smp, maker)(**arguments, img_size=spec.input_shape)
        except TypeError as refusal:
            if "img_size" not in str(refusal):
                raise
            made = getattr(smp, maker)(**arguments)
    except (*REFUSALS, KeyError) as refusal:
        raise _unfit(spec, decoder, entry, refusal) from refusal
    if made.requires_divisible_input_shape:
        _require_multiple(spec, int(made.encoder.output_stride))
    return EncoderDecoder(made.encoder, made.decoder, made.segmentation_head)


def _refuse_other_uses(spec: NetworkSpec, entry: str) -> None:
    import timm

    if not spec.dense:
        raise ConfigError(
            f"{spec.name} gives a class for each pixel, not for the image",
            got=spec.name,
            remedy=f"timm:{entry} classifies images",
        )
    if spec.dimensions != 2:
        raise ConfigError(
            f"{spec.name} takes pictures, not volumes",
            got="3 dimensions",
            expected="network.slices = 1 (slice by slice) or 3, 5 … (each slice with its neighbours)",
            remedy="set network.slices, or take unet, residual_unet or a network of monai",
        )
    if not timm.is_model(entry):
        close = difflib.get_close_matches(entry, timm.list_models(), n=3, cutoff=0.5)
        raise ConfigError(
            "timm has no network of this name for an encoder",
            got=spec.name,
            expected=" or ".join(f"{spec.name.partition(':')[0]}:{name}" for name in close) or None,
        )


def _unfit(spec: NetworkSpec, decoder: str, entry: str, refusal: Exception) -> ConfigError:
    """Say why an encoder and a decoder do not go together."""
    said = str(refusal)
    if isinstance(refusal, SizeError | AssertionError) or "img_size" in said or "divisible" in said:
        return refused(spec, refusal)
    lines = said.strip().splitlines()
    return ConfigError(
        f"{entry} is no encoder for {decoder}" + (f" ({lines[0][:160]})" if lines else ""),
        got=spec.name,
        expected="an encoder of timm with maps of halved sizes"
        + (" that can be dilated" if decoder.startswith("deeplab") else ""),
        remedy="take for example resnet34, efficientnet_b0, regnety_008, convnext_tiny (for unet, unetplusplus, fpn)",
    )


def _require_multiple(spec: NetworkSpec, step: int) -> None:
    sides = tuple(max(1, round(side / step)) * step for side in spec.input_shape)
    if sides != spec.input_shape:
        raise SizeError(
            f"{spec.name} takes images whose sides are multiples of {step}",
            got=shape_text(spec.input_shape),
            expected=shape_text(sides),
            remedy=f"set prepare.shape to {list(sides)}, or take the decoder unet, which takes any size",
        )
