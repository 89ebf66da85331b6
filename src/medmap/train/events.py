"""What a training tells whoever listens: warnings first, then lines, then how far it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from medmap.errors import LeakageWarning, MedmapWarning


@dataclass(frozen=True)
class Event:
    """One thing told.

    Args:
        kind: ``warning`` and ``line`` are sentences; ``progress`` says how far ``text`` is.
        text: What is told.
        done, total: For progress.
    """

    kind: Literal["warning", "leakage", "line", "progress"]
    text: str
    done: float = 0
    total: float = 0


Listener = Callable[[Event], None]


def warn_only(event: Event) -> None:
    """The listener of the Python interface: warnings become Python warnings, the rest is silent."""
    if event.kind == "leakage":
        warnings.warn(event.text, LeakageWarning, stacklevel=4)
    elif event.kind == "warning":
        warnings.warn(event.text, MedmapWarning, stacklevel=4)
