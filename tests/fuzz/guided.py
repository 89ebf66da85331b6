"""What both fuzz targets share: only medmap's own readers tell atheris where they have been, which keeps runs fast."""

from __future__ import annotations

import sys
from collections.abc import Callable


def fuzz(target: Callable[[bytes], object]) -> None:
    """Hand a target to atheris, with the command line's arguments, until it stops.

    Args:
        target: Takes any bytes; whatever it raises is a finding.
    """
    import atheris

    for name, module in list(sys.modules.items()):
        if name.startswith("medmap.read."):
            own = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == name]
            inside = [thing for kind in own if isinstance(kind, type) for thing in vars(kind).values()]
            for thing in (*own, *(getattr(thing, "__func__", thing) for thing in inside)):
                if hasattr(thing, "__code__"):
                    atheris.instrument_func(thing)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
