"""Tables in a header: the modality LUT and palettes, also segmented ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError

MOST_ENTRIES = 65536  # a descriptor's count has 16 bits, and 0 stands for this


def descriptor(value: Any, signed: bool) -> tuple[int, int, int]:
    """(entries, first stored value mapped, bits of an entry) of a LUT descriptor (PS3.3, C.11.1.1.1).

    Raises:
        ReadError: Not three whole numbers of a possible table.

    Example:
        >>> descriptor([0, 65535, 16], signed=True)
        (65536, -1, 16)
    """
    numbers = list(value) if hasattr(value, "__len__") and not isinstance(value, (str, bytes)) else []
    if len(numbers) != 3 or not all(isinstance(n, int) for n in numbers):
        raise ReadError("a lookup table has no usable descriptor", got=str(value)[:40], expected="three whole numbers")
    count, first, bits = numbers
    if not (0 <= count <= MOST_ENTRIES and 1 <= bits <= 16):
        raise ReadError("a lookup table has an impossible descriptor", got=numbers)
    if signed and first > 32767:
        first -= 65536
    return count or MOST_ENTRIES, first, bits


def entries(value: Any, count: int, bits: int, big_endian: bool = False) -> NDArray[np.uint16]:
    """The table's entries, whether the file keeps them as words or (with at most 8 bits) packed into bytes.

    Raises:
        ReadError: Fewer than the descriptor declares.
    """
    if isinstance(value, (bytes, bytearray)):
        packed = bits <= 8 and len(value) in (count, count + 1)
        order = ">" if big_endian else "<"
        if packed and big_endian and len(value) % 2 == 0:
            value = np.frombuffer(value, ">u2").astype("<u2").tobytes()
        width = 1 if packed else 2
        found = np.frombuffer(value, "u1" if packed else f"{order}u2", len(value) // width)
    elif value is None or isinstance(value, str):
        found = np.zeros(0, np.uint16)
    else:
        found = np.asarray(value).reshape(-1)
    if len(found) < count:
        raise ReadError("a lookup table is shorter than it declares", got=len(found), expected=f"{count} entries")
    return found[:count].astype(np.int64).astype(np.uint16)


def expanded(words: NDArray[np.uint16], count: int) -> NDArray[np.uint16]:
    """A segmented palette written out: runs of entries, straight lines, and repeats of earlier ones (PS3.3, C.7.9.2).

    Raises:
        ReadError: A segment of no known kind, or more or fewer entries than declared.

    Example:
        >>> expanded(np.array([0, 1, 10, 1, 2, 20], np.uint16), 3).tolist()
        [10, 15, 20]
    """
    out: list[int] = []
    _segments(words.tolist(), 0, None, (out, count))
    if len(out) != count:
        raise ReadError("a segmented palette gives another number of entries", got=len(out), expected=count)
    return np.array(out, np.uint16)


def _segments(words: list[int], at: int, most: int | None, into: tuple[list[int], int], inner: bool = False) -> None:
    out, count = into
    done = 0
    while at + 1 < len(words) and (most is None or done < most):
        kind, length = words[at], words[at + 1]
        if kind == 0:
            out.extend(words[at + 2 : at + 2 + length])
            at += 2 + length
        elif kind == 1 and out and at + 2 < len(words):
            start, end = out[-1], words[at + 2]
            out.extend(round(start + (end - start) * n / length) for n in range(1, min(length, count + 1) + 1))
            at += 3
        elif kind == 2 and not inner and at + 3 < len(words):
            offset = words[at + 2] | words[at + 3] << 16
            _segments(words, offset, length, into, inner=True)
            at += 4
        else:
            raise ReadError("a segmented palette is damaged", got=f"a segment of kind {kind}", expected="0, 1 or 2")
        done += 1
        if len(out) > count:
            raise ReadError("a segmented palette gives more entries than it declares", expected=count)
