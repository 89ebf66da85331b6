"""Where starting weights come from: a bundle, a run, a weights file or a hub name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medmap.bundle import Bundle

if TYPE_CHECKING:
    import torch


def initial_weights(source: str, member: int) -> str | Mapping[str, torch.Tensor]:
    """What ``networks.load_weights`` takes: a bundle's own tensors, verified, else the source as it was named.

    Args:
        source: A bundle or run folder, a weights file or a hub name.
        member: Number of the network to start; a bundle's members start the new ones in turn.

    Raises:
        BundleError: The folder holds a bundle that is damaged.
    """
    folder = Path(source)
    if not folder.is_dir() or not any((folder / part).exists() for part in ("spec.json", "bundle")):
        return source
    bundle = Bundle.load(folder)
    return bundle.state_dict(member % len(bundle.spec.members))
