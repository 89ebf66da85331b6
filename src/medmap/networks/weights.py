"""Starting weights: matched by name and reported; never a silent random start."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from medmap.errors import WeightsError
from medmap.networks.hub import fetch, is_hub_name
from medmap.networks.layers import AnyConvolution, adapt_channels, first_convolution
from medmap.networks.stages import stages
from medmap.networks.weight_files import read_weights

# What training programmes wrap around a network.
_PREFIXES = ("", "module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "module.backbone.", "encoder.")
_POSITIONS = ("pos_embed", "pos_embedding", "position_embeddings")
# torchvision's DenseNet files still carry the names of 2017.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_\w+))$")

_FLATTENED = re.compile(r"^([a-z]+(?:_[a-z]+)*)_(\d+)\.")


@dataclass(frozen=True)
class TransferReport:
    """What became of a network's tensors when starting weights were loaded.

    Args:
        loaded: Names taken as they were.
        adapted: Names taken after the number of channels, or the grid of positions, was changed.
        fresh: Names left as they were drawn, the head's among them where it has another size.
        source: Where the weights came from.
        share: Share of the backbone's parameters (all but the head) that was taken, 0 to 1.
    """

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]
    source: str = ""
    share: float = 1.0

    def __str__(self) -> str:
        """Say it in a sentence for a log."""
        parts = [f"{len(self.loaded)} tensors loaded from {self.source}"]
        parts += [f"adapted: {', '.join(self.adapted)}"] if self.adapted else []
        parts += [f"fresh: {', '.join(self.fresh)}"] if self.fresh else []
        return "; ".join(parts)


def load_weights(net: nn.Module, source: str | Path | Mapping[str, Tensor], *, expect: float = 0.5) -> TransferReport:
    """Start a network from weights, in place, and say what was taken.

    Tensors are matched by name (a wrapper's prefix is passed over; a classifier's start the encoder of a network for
    segmentation, which is then the backbone). The first convolution takes weights for another
    number of channels by the rule of `adapt_channels`; position embeddings of another grid are interpolated. A layer
    that does not fit is left fresh as a whole and reported; nothing changes in the network unless the report is good.

    Args:
        net: A network from `build`.
        source: A ``.safetensors`` file; a ``.pth`` or ``.pt`` file, of which only numbers are read
            (``torch.load(weights_only=True)``: nothing in it is executed); tensors by name; or a hub's name such as
            ``torchvision:resnet18:IMAGENET1K_V1`` or ``timm:resnet18.a1_in1k``, which is fetched.
        expect: Smallest share of the backbone's parameters that must be matched, 0 to 1.

    Returns:
        The names loaded, adapted and left fresh.

    Raises:
        WeightsError: The file is absent, broken, holds more than numbers, cannot be fetched, does not fit this
            network, or contains NaN or infinity.
    """
    if isinstance(source, Mapping):
        origin, state = "the tensors given", dict(source)
    else:
        origin = str(source)
        state = fetch(origin) if isinstance(source, str) and is_hub_name(source) else read_weights(Path(source))
    own = {name: value.detach() for name, value in net.state_dict().items()}
    offered, inside = _best_names(own, state, getattr(net, "starts_from", ()))
    taken, adapted = _match(net, own, offered)
    head = tuple(f"{name}." for name in stages(net)[-1])
    backbone = {n: value for n, value in net.named_parameters() if n.startswith(inside) and not n.startswith(head)}
    total = sum(value.numel() for value in backbone.values())
    share = sum(value.numel() for name, value in backbone.items() if name in taken) / max(1, total)
    if share < expect or not taken:
        raise WeightsError(
            f"these weights belong to another network: {share:.0%} of the backbone's parameters match",
            got=origin,
            expected=f"at least {expect:.0%} of {type(net).__name__}'s",
            remedy="give weights of this network, or choose the network that they were trained in"
            " (network.stem = standard where they come from large images)",
        )
    for name, value in taken.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError("the weights contain NaN or infinity", got=f"{name} in {origin}", remedy="give others")
    with torch.no_grad():
        for name, value in taken.items():
            own[name].copy_(value)
    return TransferReport(
        loaded=tuple(name for name in own if name in taken and name not in adapted),
        adapted=tuple(name for name in own if name in adapted),
        fresh=tuple(name for name in own if name not in taken and not name.endswith("num_batches_tracked")),
        source=origin,
        share=share,
    )


def _best_names(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], parts: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """Find the wrapper's prefix, and the part of the network, under which the most names match.

    Args:
        own: The network's tensors.
        state: Those offered.
        parts: Modules inside the network that may be started alone, an encoder by a classifier's weights.

    Returns:
        The tensors offered by the network's own names, and the prefix of the part that they are for ("" for all).
    """
    renamed = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    stripped = [
        {name.removeprefix(prefix): value for name, value in renamed.items() if name.startswith(prefix)}
        for prefix in _PREFIXES
    ]
    candidates = [(candidate, "") for candidate in stripped]
    for inside in (f"{part}." for part in parts):
        mine = {_unflattened(name.removeprefix(inside)): name for name in own if name.startswith(inside)}
        for candidate in stripped:
            known = {_unflattened(name): value for name, value in candidate.items()}
            candidates.append(({mine[name]: known[name] for name in mine.keys() & known.keys()}, inside))
    return max(candidates, key=lambda candidate: len(own.keys() & candidate[0].keys()))


def _unflattened(name: str) -> str:
    """timm's encoders flatten the list of stages: ``stages_0.…`` is a classifier's ``stages.0.…``."""
    return _FLATTENED.sub(r"\1.\2.", name)


def _match(
    net: nn.Module, own: Mapping[str, Tensor], offered: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str]]:
    """Pair tensors by name; a layer of which one tensor does not fit takes none."""
    first = f"{first_convolution(net)[0]}.weight" if any(isinstance(m, AnyConvolution) for m in net.modules()) else ""
    taken: dict[str, Tensor] = {}
    adapted: set[str] = set()
    unfit: set[str] = set()
    for name, value in own.items():
        other = offered.get(name)
        if other is not None and other.shape != value.shape:
            other = _adapted(name, other, value, is_first=name == first)
            adapted |= set() if other is None else {name}
        if other is None or other.is_floating_point() != value.is_floating_point():
            unfit |= set() if name.endswith("num_batches_tracked") else {name.rpartition(".")[0]}
        else:
            taken[name] = other
    single = {name for name, _ in net.named_parameters(recurse=False)}
    kept = {name: value for name, value in taken.items() if name in single or name.rpartition(".")[0] not in unfit}
    return kept, adapted & kept.keys()


def _adapted(name: str, other: Tensor, value: Tensor, *, is_first: bool) -> Tensor | None:
    if (
        is_first
        and other.ndim == value.ndim
        and (other.shape[0], *other.shape[2:]) == (value.shape[0], *value.shape[2:])
    ):
        return adapt_channels(other, value.shape[1])
    if name.rpartition(".")[2] in _POSITIONS and other.ndim == value.ndim == 3 and other.shape[2] == value.shape[2]:
        return _resized_positions(other, value.shape[1])
    return None


def _resized_positions(positions: Tensor, tokens: int) -> Tensor | None:
    """Interpolate a square grid of position embeddings, one class token first or none, to another square grid.

    Source: https://arxiv.org/abs/2010.11929, section 3.2 (fine-tuning at another resolution).
    """
    for extra in (1, 0):
        old, new = (round((count - extra) ** 0.5) for count in (positions.shape[1], tokens))
        if old * old + extra == positions.shape[1] and new * new + extra == tokens and min(old, new) > 0:
            grid = positions[:, extra:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
            grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False, antialias=True)
            return torch.cat([positions[:, :extra].float(), grid.flatten(2).transpose(1, 2)], dim=1)
    return None
