"""The loop, its numbers and the fast step."""

from __future__ import annotations

from medmap.fit.fast import FlatWeights, keep_heap
from medmap.fit.loop import FitSection, FitState, fit, laid_out, logits, open_fabric, start, step

__all__ = [
    "FitSection",
    "FitState",
    "FlatWeights",
    "fit",
    "keep_heap",
    "laid_out",
    "logits",
    "open_fabric",
    "start",
    "step",
]
