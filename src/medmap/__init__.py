"""medmap: everything is a mapping.

A medical image is mapped to a class, to boxes, to a mask or to a better image. The names below are the whole public
front; each is imported from its room when it is first used, so that ``import medmap`` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> room; __getattr__ fetches from there (PEP 562)
_ROOMS = {
    "Geometry": "geometry",
    "Trace": "geometry",
    "Image": "image",
    "Case": "dataset",
    "Dataset": "dataset",
    "Prediction": "results",
    "Scores": "results",
    "Boxes": "results",
    "Mask": "results",
    "Picture": "results",
    "Decision": "decision",
    "MedmapError": "errors",
    "MedmapWarning": "errors",
    "LeakageWarning": "errors",
    "read": "read",
    "write": "write",
    "open_dataset": "layouts",
    "Issue": "check",
    "check": "check",
    "Bundle": "bundle",
    "Run": "plan",
    "plan": "plan",
    "train": "train",
    "predict": "predict",
    "Report": "evaluate",
    "evaluate": "evaluate",
}

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'medmap' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"medmap.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
