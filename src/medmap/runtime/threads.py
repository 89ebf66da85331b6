"""Work that lets go of Python's lock, on several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def side_by_side(work: Callable[[Any], Any], items: Iterable[Any], threads: int) -> None:
    """Call ``work`` for each item, ``threads`` of them at a time; what one raises is raised."""
    if threads == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
