"""``weights.safetensors``: all members' tensors in one file, by name ``member0/…``; numbers, never a pickle."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medmap.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
DTYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
_TENSOR = re.compile(r"member(0|[1-9][0-9]{0,3})/(.+)", re.DOTALL)
_AGAIN = "get the bundle again from where it was made"


def pack_weights(states: Sequence[Mapping[str, Tensor]]) -> bytes:
    """The members' state dictionaries as one safetensors file; the same weights give the same bytes.

    Args:
        states: One state dictionary a member, in the members' order.

    Raises:
        BundleError: No member, a member without tensors, something that is no tensor, or a weight that is not finite.
    """
    import torch
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for index, state in enumerate(states):
        if not state:
            raise BundleError("a member of the bundle has no weights", got=f"member {index}")
        for name, tensor in state.items():
            if not isinstance(tensor, torch.Tensor):
                raise BundleError("a weight is no tensor", got=f"member {index}, {name}: {type(tensor).__name__}")
            _refuse_not_finite(tensor, f"member {index}, {name}")
            # a copy of its own: tied and sliced tensors share memory, which the format does not know
            tensors[f"member{index}/{name}"] = tensor.detach().to("cpu", copy=True).contiguous()
    if not tensors:
        raise BundleError("a bundle needs the weights of at least one member")
    return bytes(save(tensors))


def check_weights(path: Path, members: int) -> None:
    """Read the header of ``weights.safetensors``: every tensor belongs to a member, every member has tensors.

    Raises:
        BundleError: A pickle or other garbage, truncated, sizes beyond the file, an unknown name or type.
    """
    from safetensors import SafetensorError, safe_open

    found: set[int] = set()
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                match = _TENSOR.fullmatch(key)
                if match is None or int(match[1]) >= members:
                    raise BundleError(f"{path} holds a tensor of no member", got=repr(key[:200]), remedy=_AGAIN)
                if (dtype := str(file.get_slice(key).get_dtype())) not in DTYPES:
                    raise BundleError(f"{path} holds a tensor of a type medmap does not write", got=dtype)
                found.add(int(match[1]))
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(
            f"{path} is not a whole safetensors file", got=" ".join(str(error).split())[:300], remedy=_AGAIN
        ) from error
    if missing := sorted(set(range(members)) - found):
        raise BundleError(f"{path} lacks the weights of a member", got=f"none for member {missing[0]}", remedy=_AGAIN)


def count_weights(path: Path) -> int:
    """Numbers that ``weights.safetensors`` holds, of all members together; only its header is read.

    Raises:
        BundleError: It is no whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(
            f"{path} is not a whole safetensors file", got=" ".join(str(error).split())[:300], remedy=_AGAIN
        ) from error


def read_weights(path: Path, member: int) -> dict[str, Tensor]:
    """The state dictionary of one member, on the CPU.

    Raises:
        BundleError: The file cannot be read, or a weight is not finite.
    """
    from safetensors import SafetensorError, safe_open

    prefix = f"member{member}/"
    state: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for key in file.keys():  # noqa: SIM118
                if key.startswith(prefix):
                    state[key.removeprefix(prefix)] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read", got=" ".join(str(error).split())[:300], remedy=_AGAIN) from error
    for name, tensor in state.items():
        _refuse_not_finite(tensor, f"{path.name}, member {member}, {name}")
    return state


def _refuse_not_finite(tensor: Tensor, where: str) -> None:
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise BundleError("a weight is NaN or infinite", got=where, remedy="train again or take an earlier bundle")


def require_fit(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights whose names or shapes are not the network's.

    Raises:
        BundleError: A tensor is missing, too many, or of another shape than the network's.
    """
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state or name not in wanted:
            what = "lack a tensor of" if name not in state else "hold a tensor unknown to"
            raise BundleError(f"{where}: the weights {what} the network", got=repr(name[:200]), remedy=_AGAIN)
        if wanted[name].shape != state[name].shape:
            raise BundleError(
                f"{where}: the tensor {name!r:.200} does not fit the network",
                got=tuple(state[name].shape),
                expected=tuple(wanted[name].shape),
                remedy=_AGAIN,
            )
