"""Luminance and chrominance to red, green and blue (PS3.3, C.7.6.3.1.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# YBR_FULL: the whole range of luminance; chrominance about the middle of the range.
_FULL = np.array([[1.0, 0.0, 1.402], [1.0, -0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587], [1.0, 1.772, 0.0]])
# YBR_PARTIAL: the matrix of the standard, which leaves 16 levels below and 20 above; its inverse.
_PARTIAL = np.linalg.inv(
    np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]])
)  # fmt: skip
_SLAB = 2**18  # pixels at a time: floating-point copies stay small


def to_rgb(samples: NDArray[Any], photometric: str, bits: int) -> NDArray[Any]:
    """Red, green and blue from luminance and two chrominances; anything that is not YBR is returned as it is.

    Args:
        samples: (rows, columns, 3) unsigned.
        photometric: DICOM's photometric interpretation; ``YBR_ICT`` and ``YBR_RCT`` are undone by the decoder.
        bits: Stored bits of a sample.

    Example:
        >>> to_rgb(np.array([[[76, 85, 255]]], np.uint8), "YBR_FULL", 8).tolist()
        [[[254, 0, 0]]]
    """
    if not photometric.startswith(("YBR_FULL", "YBR_PARTIAL")):
        return samples
    partial = photometric.startswith("YBR_PARTIAL")
    matrix = (_PARTIAL if partial else _FULL).astype(np.float32 if bits <= 16 else np.float64)
    half = 2 ** (bits - 1)
    offset = np.array([16 * 2 ** (bits - 8) if partial else 0, half, half], matrix.dtype)
    flat = samples.reshape(-1, 3)
    out = np.empty_like(flat)
    for start in range(0, len(flat), _SLAB):
        values = (flat[start : start + _SLAB].astype(matrix.dtype) - offset) @ matrix.T
        np.clip(np.rint(values, out=values), 0, 2**bits - 1, out=values)
        out[start : start + _SLAB] = values
    return out.reshape(samples.shape)


def from_422(packed: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """(rows, columns, 3) from samples in the order Y₁ Y₂ B R, two pixels sharing a chrominance (YBR_FULL_422)."""
    pairs = packed.reshape(rows, columns // 2, 4)
    full = np.empty((rows, columns // 2, 2, 3), packed.dtype)
    full[..., 0] = pairs[..., :2]
    full[..., 1] = pairs[..., 2:3]
    full[..., 2] = pairs[..., 3:4]
    return full.reshape(rows, columns, 3)
