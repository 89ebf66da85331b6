"""The stored bytes of each frame: found in the file, one frame at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.errors import ReadError
from medmap.read.dicom.codecs import PixelSpec
from medmap.read.dicom.elements import Elements

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
MAX_FRAGMENTS = 2_000_000


@dataclass(frozen=True)
class Frames:
    """Where the frames of a file lie.

    Args:
        elements: The file's elements.
        spec: How a frame is stored.
        count: Number of frames.
        parts: For encapsulated pixels, each frame's (offset, length) fragments; empty for others.
    """

    elements: Elements
    spec: PixelSpec
    count: int
    parts: tuple[tuple[tuple[int, int], ...], ...] = ()

    @classmethod
    def of(cls, elements: Elements, header: Any, spec: PixelSpec, count: int, notes: list[str]) -> Frames:
        """The frames that the header declares, all of which must be there.

        Raises:
            ReadError: Fewer bytes or fragments than declared.
        """
        if spec.compressed:
            if elements.length is not None and elements.pixels:
                raise ReadError("compressed pixels are stored as if they were not", got=spec.transfer_syntax)
            return cls(elements, spec, count, _grouped(elements, header, count))
        full = replace(spec, photometric="YBR_FULL") if spec.halved else spec
        have = elements.length
        if have is None:
            raise ReadError("uncompressed pixels are stored in fragments", got=spec.transfer_syntax or "no syntax")
        if spec.halved and have * 8 >= count * full.bits:
            spec = full  # chrominance is there for every pixel, whatever the header says
        need = -(-count * spec.bits // 8)
        there = max(0, min(have, elements.size - elements.offset))
        if there < need:
            raise ReadError("the file is truncated", got=f"{there} bytes of pixels", expected=f"{need} bytes",
                            remedy="copy the original file again")  # fmt: skip
        if have > need + 1:
            notes.append(f"the pixels are {have - need} bytes longer than the header declares; the rest was left out")
        return cls(elements, spec, count)

    def stored(self, number: int) -> tuple[bytes, int]:
        """The bytes of a frame, and how many bits before it share its first byte (1-bit pixels)."""
        read_at, spec = self.elements.read_at, self.spec
        if spec.compressed:
            return b"".join(read_at(at, length) for at, length in self.parts[number]), 0
        begin = number * spec.bits
        end = -(-(begin + spec.bits) // 8)
        swapped = self.elements.big_endian and spec.bits_allocated == 8 and spec.words
        first = begin // 8 - (begin // 8 % 2 if swapped else 0)
        last = end + (end % 2 if swapped else 0)
        data = read_at(self.elements.offset + first, last - first)
        return data, begin - first * 8


def _grouped(elements: Elements, header: Any, count: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Fragments by frame (PS3.5, A.4): one each, else by an offset table, else by where codestreams begin."""
    table, found = _fragments(elements)
    if count == 1:
        return (tuple(found),)
    if len(found) == count:
        return tuple((fragment,) for fragment in found)
    extended = header.get("ExtendedOffsetTable")
    if isinstance(extended, bytes) and len(extended) == 8 * count:
        table = tuple(int(v) for v in np.frombuffer(extended, "<u8"))
    first = found[0][0] - 8
    if len(table) == count:
        starts = [first + offset for offset in table]
    else:
        starts = [at - 8 for at, length in found if elements.read_at(at, min(length, 8)).startswith(_STARTS)]
    if len(starts) != count or starts[0] != first or sorted(set(starts)) != starts:
        raise ReadError("the file holds fewer frames than its header declares, or hides where they begin",
                        got=f"{len(found)} fragments", expected=f"{count} frames")  # fmt: skip
    edges = [*starts[1:], found[-1][0] + found[-1][1] + 1]
    groups: list[list[tuple[int, int]]] = [[] for _ in starts]
    number = 0
    for at, length in found:
        while at - 8 >= edges[number]:
            number += 1
        groups[number].append((at, length))
    if not all(groups):
        raise ReadError("the table of frames points beside the frames", got=f"{len(found)} fragments")
    return tuple(tuple(group) for group in groups)


def _fragments(elements: Elements) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """The basic offset table, and (offset, length) of each fragment."""
    at = elements.offset
    found: list[tuple[int, int]] = []
    table: tuple[int, ...] | None = None
    while True:
        head = elements.read_at(at, 8)
        if len(head) < 8 and found and table is not None:
            break  # the delimiter is missing, which harms nothing: a cut frame has no end marker
        length = int.from_bytes(head[4:], "little")
        if head[:4] == _END:
            break
        if head[:4] != _ITEM or at + 8 + length > elements.size:
            raise ReadError("the file is truncated or damaged between the fragments of its pixels",
                            remedy="copy the original file again")  # fmt: skip
        at += 8
        if table is None:
            data = elements.read_at(at, length // 4 * 4)
            table = tuple(int(v) for v in np.frombuffer(data, "<u4"))
        else:
            found.append((at, length))
        at += length
        if len(found) > MAX_FRAGMENTS:
            raise ReadError("the file holds more fragments than any object", expected=f"at most {MAX_FRAGMENTS}")
    if not found:
        raise ReadError("the file is truncated: no fragment of its pixels is there")
    return table or (), found


def stored_words(elements: Elements, header: Any, count: int) -> NDArray[Any]:
    """The first ``count`` words of uncompressed pixels with all their bits, also those beyond the stored ones.

    Raises:
        ReadError: Compressed pixels, or fewer words.
    """
    spec = PixelSpec.of(header, elements.syntax)
    if spec.compressed or spec.bits_allocated not in (8, 16) or not elements.pixels:
        raise ReadError("an overlay lies in the unused bits of pixels that have none", got=elements.syntax)
    width = spec.bits_allocated // 8
    data = elements.read_at(elements.offset, count * width)
    if len(data) < count * width:
        raise ReadError("an overlay is truncated", got=f"{len(data)} bytes", expected=f"{count * width} bytes")
    return np.frombuffer(data, f"{'>' if elements.big_endian else '<'}u{width}")
