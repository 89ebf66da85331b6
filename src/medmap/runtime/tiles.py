"""Windows whose answers are not scores on the window: each is run and handed on with where it lies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from medmap.errors import NotFiniteError
from medmap.runtime.windows import Network, Windows

Floats = NDArray[np.float32]


def each_window(
    network: Network, image: Floats, windows: Windows, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[tuple[int, ...], Floats]]:
    """Run a network on every window of an image.

    Args:
        network: (N, channels, *patch) float32 to (N, …) float32.
        image: (channels, *spatial) float32; an image smaller than a window stands at its low corner.
        windows: How to cover it; ``mirror`` is not looked at.
        progress: Called with windows done and windows in all.

    Yields:
        Index of the window's first voxel along each axis, and the answer for it.

    Raises:
        NotFiniteError: The network's answer holds NaN or infinity.
    """
    corners = list(itertools.product(*windows.starts(image.shape[1:])))
    for start in range(0, len(corners), windows.batch):
        chosen = corners[start : start + windows.batch]
        batch = np.full((len(chosen), image.shape[0], *windows.patch), windows.fill, np.float32)
        for window, corner in zip(batch, chosen, strict=True):
            part = image[(slice(None), *(slice(a, a + n) for a, n in zip(corner, windows.patch, strict=True)))]
            window[(slice(None), *(slice(n) for n in part.shape[1:]))] = part
        answers = np.asarray(network(batch), dtype=np.float32)
        if not np.isfinite(answers).all():
            raise NotFiniteError("the network's answer is no number", got="NaN or infinity")
        yield from zip(chosen, answers, strict=True)
        if progress is not None:
            progress(min(start + windows.batch, len(corners)), len(corners))
