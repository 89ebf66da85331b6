"""Stored numbers to what they mean: ``slope · stored + intercept``, without losing whole numbers on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rescaled_type(stored: np.dtype[Any], slope: float, intercept: float, bits: int | None = None) -> np.dtype[Any]:
    """The type that holds every rescaled value: whole numbers stay whole, else float32 (16 bits) or float64.

    ``bits`` narrows the range of the stored values.

    Example:
        >>> rescaled_type(np.dtype(np.uint16), 1, -1024, bits=12), rescaled_type(np.dtype(np.int16), 0.5, 0)
        (dtype('int16'), dtype('float32'))
    """
    if slope == 1 and intercept == 0:
        return stored
    if stored.kind in "iub" and slope == int(slope) and intercept == int(intercept):
        if stored.kind == "b":
            low, high = 0, 1
        elif bits is not None:
            low, high = (0, 2**bits - 1) if stored.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        else:
            limits = np.iinfo(stored)
            low, high = int(limits.min), int(limits.max)
        ends = sorted((low * int(slope) + int(intercept), high * int(slope) + int(intercept)))
        for name in ("uint8", "int16", "uint16", "int32", "int64"):
            if np.iinfo(name).min <= ends[0] and ends[1] <= np.iinfo(name).max:
                return np.dtype(name)
    return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)


def rescaled(stored: NDArray[Any], slope: float, intercept: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """``slope · stored + intercept`` in ``dtype`` (from ``rescaled_type``)."""
    if slope == 1 and intercept == 0:
        return stored
    if dtype.kind in "iu":
        # arithmetic that wraps around is exact where the result fits, and `rescaled_type` made it fit
        out = stored.astype(dtype)
        if slope != 1:
            out *= np.array(int(slope)).astype(dtype)
        out += np.array(int(intercept)).astype(dtype)
        return out
    with np.errstate(over="ignore"):  # what is beyond the type becomes infinity, which `check` and `read` name
        return (stored * np.float64(slope) + np.float64(intercept)).astype(dtype)
