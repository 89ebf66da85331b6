"""Pretrained weights by a hub's name, through the library's own downloader: the only user of a network in this room."""

from __future__ import annotations

import difflib
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import Tensor

from medmap.errors import WeightsError
from medmap.networks.weight_files import read_weights

HUBS = ("torchvision", "timm")
_TIMM_FILE = "model.safetensors"


def is_hub_name(source: str) -> bool:
    """Tell ``torchvision:…`` and ``timm:…`` from a path."""
    return source.partition(":")[0] in HUBS and ":" in source


def fetch(source: str) -> dict[str, Tensor]:
    """Fetch pretrained weights, or take them from the library's own cache.

    Args:
        source: ``torchvision:NAME:WEIGHTS`` (``torchvision:resnet18:IMAGENET1K_V1``) or ``timm:NAME.TAG``
            (``timm:resnet18.a1_in1k``).

    Returns:
        The weights by name.

    Raises:
        WeightsError: An unknown name, or a file that cannot be fetched; the message names the file to provide.
    """
    library, _, entry = source.partition(":")
    return _from_torchvision(source, entry) if library == "torchvision" else _from_timm(source, entry)


def _from_torchvision(source: str, entry: str) -> dict[str, Tensor]:
    from torchvision import models

    name, _, tag = entry.partition(":")
    try:
        offered = models.get_model_weights(name)
    except ValueError as unknown:
        close = difflib.get_close_matches(name, models.list_models(), n=3)
        raise WeightsError(
            "torchvision has no network of this name",
            got=source,
            expected=" or ".join(f"torchvision:{other}:IMAGENET1K_V1" for other in close) or None,
        ) from unknown
    if tag not in offered.__members__:
        raise WeightsError(
            f"torchvision has no weights {tag or '(none named)'} for {name}",
            got=source,
            expected=" or ".join(f"torchvision:{name}:{member}" for member in offered.__members__),
        )
    weights = offered[tag]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as failure:  # no network, wrong hash, full disk
        _not_fetched(source, weights.url, failure)
    return state


def _from_timm(source: str, entry: str) -> dict[str, Tensor]:
    import timm
    from huggingface_hub import constants, try_to_load_from_cache
    from safetensors import SafetensorError
    from timm.models import get_pretrained_cfg, load_state_dict_from_hf

    try:
        config: Any = get_pretrained_cfg(entry) if timm.is_model(entry) else None
    except RuntimeError:  # a tag that this network does not have
        config = None
    if config is None or not config.hf_hub_id:
        close = difflib.get_close_matches(entry, timm.list_pretrained(), n=3, cutoff=0.5)
        raise WeightsError(
            "timm has no pretrained weights of this name",
            got=source,
            expected=" or ".join(f"timm:{other}" for other in close) or None,
        )
    file = config.hf_hub_filename or _TIMM_FILE
    cached = try_to_load_from_cache(config.hf_hub_id, file)
    if isinstance(cached, str):
        return read_weights(Path(cached))
    url = f"{constants.ENDPOINT}/{config.hf_hub_id}/resolve/main/{file}"
    constants.HF_HUB_DISABLE_TELEMETRY = True
    # The hub's client lets its transport's own errors through; which transport that is depends on its version.
    transport: type[Exception] = getattr(sys.modules.get("httpx"), "HTTPError", OSError)
    try:
        if not getproxies():  # without a network the hub's client would retry for half a minute
            socket.getaddrinfo(urlsplit(url).hostname, None)
        state: dict[str, Tensor] = load_state_dict_from_hf(config.hf_hub_id, filename=file, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, transport) as failure:
        _not_fetched(source, url, failure)
    return state


def _not_fetched(source: str, url: str, failure: Exception) -> NoReturn:
    file = url.rpartition("/")[2]
    raise WeightsError(
        f"the weights {source} cannot be fetched ({type(failure).__name__}), and training does not start without them",
        got=url,
        expected=f"the file {file}",
        remedy=f"fetch {url} on a machine with a network, bring {file} here, and give --init path/to/{file}",
    ) from failure
