"""The loop, its numbers and the fast step."""

from __future__ import annotations

from medmap.fit.fast import FlatWeights, keep_heap
from medmap.fit.loop import FitSection, FitState, batch_to, fit, forwarding, laid_out, logits, open_fabric, start, step

__all__ = [
    "FitSection",
    "FitState",
    "FlatWeights",
    "batch_to",
    "fit",
    "forwarding",
    "keep_heap",
    "laid_out",
    "logits",
    "open_fabric",
    "start",
    "step",
]
