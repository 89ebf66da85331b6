"""Weights files read as data: whatever else they hold is refused, and nothing in them is executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from medmap.errors import WeightsError

BUNDLE_WEIGHTS = "weights.safetensors"
_FROM_TORCH = (".pth", ".pt")
# The keys under which training programmes save a network.
_NESTED = ("state_dict", "model_state_dict", "model", "network", "weights")
# What torch.load raises on a file that is broken, or that holds more than numbers.
_BROKEN = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError,
    TypeError, ImportError, MemoryError, zipfile.BadZipFile,
)  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a file or a bundle's folder; nothing in it is executed.

    Raises:
        WeightsError: Absent, unreadable, broken, of an unknown kind, or holding more than numbers.
    """
    file = path / BUNDLE_WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(
            "there are no starting weights here",
            got=str(path),
            expected="a .safetensors, .pth or .pt file, a bundle's folder, torchvision:NAME:WEIGHTS or timm:NAME.TAG",
            remedy="check the path given as --init",
        )
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(file)
    if suffix in _FROM_TORCH:
        return _read_torch(file)
    raise WeightsError(
        "the kind of this weights file is unknown",
        got=file.name,
        expected="a name ending in .safetensors, .pth or .pt",
        remedy="save it as safetensors",
    )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(file, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as failure:
        raise _broken(file, failure) from failure
    return state


def _read_torch(file: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                packed = [item.filename for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]
            if packed:  # torch never packs: a small file that unpacks to a large one is not torch's
                raise WeightsError(
                    "the weights file is compressed inside, which torch never does",
                    got=file.name,
                    remedy="save it again with torch.save or as safetensors",
                )
        content: object = torch.load(file, map_location="cpu", weights_only=True)
    except _BROKEN as failure:
        raise _broken(file, failure) from failure
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = (
        {str(name): value for name, value in content.items() if _is_plain(value)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise WeightsError(
            "the file holds no weights by name",
            got=f"{type(content).__name__} in {file.name}",
            expected="a state_dict",
            remedy="save net.state_dict(), not the network itself",
        )
    return tensors


def _broken(file: Path, failure: BaseException) -> WeightsError:
    more = "weights_only" in str(failure).lower() or "weights only" in str(failure).lower()
    what = "the weights file is broken, or holds more than numbers, which is never executed" if more else None
    return WeightsError(
        what or "the weights file cannot be read; it is broken, truncated or not readable for you",
        got=f"{file.name} ({type(failure).__name__})",
        expected="numbers by name (safetensors, or a state_dict saved by torch.save)",
        remedy="fetch or copy the file again, or have its owner save it as safetensors",
    )


def _is_plain(value: object) -> bool:
    """Tell a tensor of plain numbers from everything else a file may hold, sparse and empty-shelled ones included."""
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
