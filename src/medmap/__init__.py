"""medmap: everything is a mapping.

A medical image is mapped to a class, to boxes, to a mask or to a better image. The names below are the whole public
front; each is imported from its room when it is first used, so that ``import medmap`` costs milliseconds.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.check import Issue, check
    from medmap.dataset import Case, Dataset
    from medmap.decision import Decision
    from medmap.deidentify import deidentify
    from medmap.errors import LeakageWarning, MedmapError, MedmapWarning
    from medmap.evaluate import Report, choose_run, evaluate
    from medmap.evaluate.folders import compare
    from medmap.geometry import Geometry, Trace
    from medmap.image import Image
    from medmap.layouts import open_dataset
    from medmap.measure import Instances, StructureMeasurements, instances, measure
    from medmap.plan import Run, plan
    from medmap.predict import predict
    from medmap.read import choose, read, studies
    from medmap.results import Boxes, Mask, Picture, Prediction, Scores
    from medmap.train import train
    from medmap.write import write

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
    "StructureMeasurements": "measure",
    "measure": "measure",
    "Instances": "measure",
    "instances": "measure",
    "MedmapError": "errors",
    "MedmapWarning": "errors",
    "LeakageWarning": "errors",
    "read": "read",
    "studies": "read",
    "choose": "read",
    "write": "write",
    "open_dataset": "layouts",
    "Issue": "check",
    "check": "check",
    "deidentify": "deidentify",
    "Bundle": "bundle",
    "Run": "plan",
    "plan": "plan",
    "train": "train",
    "predict": "predict",
    "Report": "evaluate",
    "evaluate": "evaluate",
    "compare": "evaluate",
    "choose_run": "evaluate",
}

__all__ = [
    "__version__",
    *_ROOMS,
]


class _Front(ModuleType):
    """The package itself: a room (``medmap.read``, the module) never takes the place of its verb (``mm.read``)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _ROOMS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'medmap' has no attribute {name!r}")
    value: Any = getattr(importlib.import_module(f"medmap.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
