"""One DICOM object of a study: where it lies, what was scanned of it, and the way to the bytes of its frames."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmap.errors import LimitError, ReadError
from medmap.read.dicom.scan import PixelPlace
from medmap.read.opened import DEFAULT_LIMIT_BYTES

ITEM, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
MAX_FRAGMENTS = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object, in a file of its own or in a zip.

    Args:
        path: The file, or the zip.
        member: Its name in the zip; None for a file of its own.
        sop_class_uid, sop_instance_uid: What kind of object, and which.
        number: InstanceNumber.
        header: What was scanned, by DICOM keyword.
        transfer_syntax: UID.
        pixels: Where the pixels lie, where that is known.
        stamp: (size, time of last change in ns) when it was scanned.
    """

    path: Path
    member: str | None
    sop_class_uid: str
    sop_instance_uid: str
    number: int | None
    header: Mapping[str, Any]
    transfer_syntax: str
    pixels: PixelPlace | None
    stamp: tuple[int, int] = (0, 0)

    @property
    def frames(self) -> int:
        """Number of frames: 1 where none is stated."""
        return max(1, int(self.header.get("NumberOfFrames", 1)))

    def require_unchanged(self) -> None:
        """Refuse a file that is another one than was scanned.

        Raises:
            ReadError: It was changed or removed since.
        """
        found = stamp_of(self.path)
        if found != self.stamp:
            raise ReadError(f"{self.path} was changed or removed after its folder was scanned", remedy="read it again")

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """The object as a file, for readers that want one; a member of a zip is put into a temporary folder."""
        if self.member is None:
            yield self.path
            return
        from medmap.read.archive import member_bytes

        with tempfile.TemporaryDirectory(prefix="medmap-") as folder:
            path = Path(folder) / "object.dcm"
            path.write_bytes(member_bytes(self.path, self.member))
            yield path

    def content(self, start: int, length: int | None) -> bytes:
        """Bytes of the object from ``start``; all that follow without ``length``."""
        if self.member is not None:
            from medmap.read.archive import member_bytes

            whole = member_bytes(self.path, self.member)
            return whole[start:] if length is None else whole[start : start + length]
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            wanted = os.fstat(descriptor).st_size - start if length is None else length
            if wanted > DEFAULT_LIMIT_BYTES:
                raise LimitError(f"{self.path} declares more pixels than may be allocated", got=f"{wanted} bytes")
            return os.pread(descriptor, max(0, wanted), start)
        finally:
            os.close(descriptor)


def stamp_of(path: Path) -> tuple[int, int]:
    """(size, time of last change in ns); zeros where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def frame_bytes(instance: Instance, index: int, frame_nbytes: int, compressed: bool) -> bytes:
    """The stored bytes of one frame.

    Args:
        instance: Scanned by medmap's own walk (``pixels`` is known).
        index: From 0.
        frame_nbytes: Size of an uncompressed frame.
        compressed: Whether frames are encapsulated.

    Raises:
        ReadError: Truncated, or damaged between the fragments.
    """
    place = instance.pixels
    if place is None:
        raise ReadError(f"{instance.path}: where the pixels lie is not known")
    if not compressed:
        return instance.content(place.offset + index * frame_nbytes, frame_nbytes)
    table, fragments = fragments_of(instance.content(place.offset, None), str(instance.path))
    if instance.frames == 1:
        return b"".join(data for _, data in fragments)
    if len(fragments) == instance.frames:
        return fragments[index][1]
    if len(table) != instance.frames:
        table = _starts_by_markers(fragments, instance.frames)
    if len(table) == instance.frames:
        end = table[index + 1] if index + 1 < len(table) else None
        picked = [data for at, data in fragments if at >= table[index] and (end is None or at < end)]
        if picked:
            return b"".join(picked)
    raise ReadError(
        f"{instance.path} does not say which fragments belong to a frame",
        got=f"{len(fragments)} fragments for {instance.frames} frames",
    )


def _starts_by_markers(fragments: list[tuple[int, bytes]], frames: int) -> tuple[int, ...]:
    """Where frames begin when no offset table says so: after fragments that end a codestream (FF D9 in all JPEGs)."""
    starts, begins = [], True
    for at, data in fragments:
        if begins:
            starts.append(at)
        begins = data.rstrip(b"\0").endswith(b"\xff\xd9")
    return tuple(starts) if len(starts) == frames else ()


def fragments_of(data: bytes, name: str) -> tuple[tuple[int, ...], list[tuple[int, bytes]]]:
    """The offset table and the fragments of encapsulated pixels (PS3.5, annex A.4); offsets count from the first.

    Raises:
        ReadError: An item that is none, or one that reaches beyond the end.

    Example:
        >>> item = lambda data: ITEM + len(data).to_bytes(4, "little") + data
        >>> fragments_of(item(b"") + item(b"ab") + item(b"cd") + SEQUENCE_END + bytes(4), "x")
        ((), [(0, b'ab'), (10, b'cd')])
    """
    at, found = 0, []
    table: tuple[int, ...] | None = None
    first = 0
    while at + 8 <= len(data):
        tag = data[at : at + 4]
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or at + 8 + length > len(data):
            raise ReadError(f"{name} is truncated or damaged between the fragments of its pixels")
        value = data[at + 8 : at + 8 + length]
        if table is None:
            table = tuple(int.from_bytes(value[n : n + 4], "little") for n in range(0, length // 4 * 4, 4))
            first = at + 8 + length
        else:
            found.append((at - first, value))
        at += 8 + length
        if len(found) > MAX_FRAGMENTS:
            raise ReadError(f"{name} holds more fragments than any object", expected=f"at most {MAX_FRAGMENTS}")
    if not found:
        raise ReadError(f"{name} is truncated: no fragment of its pixels is there")
    return table or (), found
