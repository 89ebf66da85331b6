"""A network seen as a row of stages from the image to the head: to freeze, to thaw, to learn at different speeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from medmap.errors import ConfigError

# What the libraries call the list of a network's stages; it is walked into, anything else is one stage.
_BODIES = ("features", "stages", "blocks", "_blocks", "layers", "encoder", "model")
_POOLS = (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d, nn.Identity)
# Learned tensors that are no weights of a map: they are never decayed (https://arxiv.org/abs/2010.11929, appendix B).
_NEVER_DECAYED = ("pos_embed", "pos_embedding", "cls_token", "class_token", "relative_position_bias_table")
_FEATURE_LAYERS = (
    # (attribute that gives the family away, name of the layer); the first that is there counts
    ("layer4", "layer4"),
    ("Mixed_7c", "Mixed_7c"),
    ("inception5b", "inception5b"),
    ("encoder.layers", "encoder.layers.{last}.ln_1"),
    ("norm", "norm"),
    ("features", "features"),
    ("stages", "stages"),
    ("_conv_head", "_bn1"),
    ("conv_head", "conv_head"),
)


def stages(net: nn.Module) -> list[list[str]]:
    """Divide a network into stages from the image to the head; every parameter belongs to exactly one.

    A stage is a block of the network (``layer1``, ``features.denseblock2``, ``blocks.3``). Single layers before the
    first block make the first stage together, those after a block belong to it; in a body of single layers (VGG) a
    stage ends where the map is pooled. The head, the last top-level part that has weights, is the last stage.

    Args:
        net: A network from `build`, or any whose parts are defined in the order of use.

    Returns:
        For each stage the names of its modules, and of parameters that belong to no module of the row (``cls_token``).

    Example:
        >>> from torchvision.models import resnet18
        >>> stages(resnet18())
        [['conv1', 'bn1'], ['layer1'], ['layer2'], ['layer3'], ['layer4'], ['fc']]
    """
    children = _with_weights(net)
    if len(children) == 1 and len(_with_weights(net.get_submodule(children[0]))) > 1:  # a wrapper
        return [[f"{children[0]}.{name}" for name in names] for names in stages(net.get_submodule(children[0]))]
    if not children:
        return [[name for name, _ in net.named_parameters()]]
    head = children[-1]
    row: list[list[str]] = [[]]
    for name, single in _units(net, "", head):
        if name == "":  # a pool
            if row[-1]:
                row.append([])
        elif single:
            row[-1].append(name)
        else:
            fresh = len(row) == 1 and row[-1] and all(_is_direct(net, old) for old in row[-1])
            if row[-1] and not fresh:
                row.append([])
            row[-1].append(name)
    if not row[-1]:
        row.pop()
    return [*row, [head]]


def _with_weights(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_children() if any(True for _ in child.parameters())]


def _units(module: nn.Module, prefix: str, head: str) -> Iterator[tuple[str, bool]]:
    """Walk the bodies: (name, whether it is a single layer); an empty name is a pool."""
    for name, _ in module.named_parameters(recurse=False):
        yield prefix + name, True
    for name, child in module.named_children():
        path = prefix + name
        if path == head:
            continue
        if isinstance(child, _POOLS):
            if prefix:
                yield "", True
        elif name in _BODIES and any(True for _ in child.children()):
            yield from _units(child, f"{path}.", head)
        elif any(True for _ in child.parameters()):
            yield path, not any(True for _ in child.children())


def _is_direct(net: nn.Module, name: str) -> bool:
    return any(name == parameter for parameter, _ in net.named_parameters()) and "." not in name


def stage_parameters(net: nn.Module) -> list[dict[str, nn.Parameter]]:
    """Give each stage's parameters by their full names; a shared one belongs to the first stage that has it."""
    row = stages(net)
    found: list[dict[str, nn.Parameter]] = [{} for _ in row]
    home = {name: index for index, names in enumerate(row) for name in names}
    for name, parameter in net.named_parameters():
        parts = name.split(".")
        owners = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        index = next((home[owner] for owner in owners if owner in home), 0)
        found[index][name] = parameter
    return found


def parameter_groups(
    net: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    freeze: tuple[int, ...] = (),
) -> list[dict[str, Any]]:
    """Make an optimiser's groups: earlier stages learn slower, norms and biases do not decay.

    A stage that is ``depth`` stages before the head learns with ``lr * layer_decay**depth``
    (https://arxiv.org/abs/1801.06146, section 3.2). Vectors (norms, biases), position embeddings and class tokens get
    no weight decay. Parameters that are frozen now (`set_frozen`) are in the groups all the same, so that they can thaw
    later: an optimiser passes over what has no gradient.

    Args:
        net: The network.
        lr: Learning rate of the head, above 0.
        weight_decay: Decay of the weights, at least 0.
        layer_decay: Factor for each stage, 0 < layer_decay ≤ 1.
        freeze: Indices of stages that never learn: their parameters are in no group.

    Returns:
        Dictionaries of ``params``, ``lr``, ``weight_decay``, ``stage`` (index) and ``name``, from input to head.

    Raises:
        ConfigError: A value outside its range.
    """
    per_stage = stage_parameters(net)
    if lr <= 0 or weight_decay < 0:
        raise ConfigError("a learning rate is above 0 and a weight decay is not below 0", got=(lr, weight_decay))
    if not 0 < layer_decay <= 1:
        raise ConfigError("layer_decay is out of range", got=layer_decay, expected="above 0, at most 1")
    if any(not 0 <= index < len(per_stage) for index in freeze):
        raise ConfigError("freeze names a stage that is not there", got=freeze, expected=f"0 to {len(per_stage) - 1}")
    groups: list[dict[str, Any]] = []
    for index, parameters in enumerate(per_stage):
        if index in freeze:
            continue
        speed = lr * layer_decay ** (len(per_stage) - 1 - index)
        for decayed in (True, False):
            members = [value for name, value in parameters.items() if _is_decayed(name, value) == decayed]
            if members:
                groups.append(
                    {
                        "params": members,
                        "lr": speed,
                        "weight_decay": weight_decay if decayed else 0.0,
                        "stage": index,
                        "name": f"stage {index}, {'weights' if decayed else 'norms and biases'}",
                    }
                )
    return groups


def _is_decayed(name: str, value: nn.Parameter) -> bool:
    return value.ndim > 1 and name.rpartition(".")[2] not in _NEVER_DECAYED


class _KeepFrozen:
    """Before every forward pass: the frozen stages are in evaluation mode, whatever `Module.train` said since."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __call__(self, net: nn.Module, inputs: object) -> None:
        for name in self.names:
            for module in net.get_submodule(name).modules():
                if module.training:
                    module.training = False


def set_frozen(net: nn.Module, n_stages: int) -> None:
    """Freeze the first stages of a network and thaw the others, in place.

    Frozen weights get no gradient; frozen batch norms use and keep the statistics they have and frozen dropout is off,
    also after a later ``net.train()``.

    Args:
        net: The network.
        n_stages: How many of `stages`, from the input; 0 thaws everything. The head is never frozen by this.

    Raises:
        ConfigError: Fewer than none, or so many that the head would be frozen.
    """
    row = stages(net)
    if not 0 <= n_stages < len(row):
        raise ConfigError(
            "the number of frozen stages is out of range",
            got=n_stages,
            expected=f"0 to {len(row) - 1}: {type(net).__name__} has {len(row)} stages, the last is its head",
        )
    for key, hook in list(net._forward_pre_hooks.items()):
        if isinstance(hook, _KeepFrozen):
            del net._forward_pre_hooks[key]
            for name in hook.names:
                net.get_submodule(name).train(net.training)
    for index, parameters in enumerate(stage_parameters(net)):
        for parameter in parameters.values():
            parameter.requires_grad_(index >= n_stages)
    direct = {name for name, _ in net.named_parameters()}
    modules = tuple(name for names in row[:n_stages] for name in names if name not in direct)
    if modules:
        keep = _KeepFrozen(modules)
        net.register_forward_pre_hook(keep)
        keep(net, None)


def feature_layer(net: nn.Module) -> str:
    """Name the module whose output is the last one that keeps its place in the image: Grad-CAM looks at it.

    It gives (batch, channels, *map) in convolutional networks, (batch, *map, channels) in Swin, and the tokens that
    enter the last block's attention, class token first, in a vision transformer: behind that block the gradient of
    the class reaches no patch.

    Args:
        net: A network from `build`.

    Raises:
        ConfigError: The network has no such layer that medmap could find.
    """
    modules: dict[str, nn.Module] = dict(net.named_modules())
    blocks = modules.get("blocks")
    if hasattr(net, "cls_token") and isinstance(blocks, nn.Sequential) and f"blocks.{len(blocks) - 1}.norm1" in modules:
        return f"blocks.{len(blocks) - 1}.norm1"
    known = getattr(net, "feature_info", None)  # timm
    if isinstance(known, list) and known and known[-1].get("module") in modules:
        return str(known[-1]["module"])
    for attribute, layer in _FEATURE_LAYERS:
        if attribute in modules:
            last = [name for name, _ in modules[attribute].named_children()]
            name: str = layer.format(last=last[-1] if last else "")
            if name in modules:
                return name
    convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    if not convolutions:
        raise ConfigError("the network has no layer that keeps its place in the image", got=type(net).__name__)
    return convolutions[-1]
