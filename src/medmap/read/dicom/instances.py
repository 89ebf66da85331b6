"""One DICOM object of a study: where it lies, what was scanned of it, and the way to its bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmap.errors import ReadError
from medmap.read.dicom.scan import PixelPlace


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

    def content(self, start: int) -> bytes:
        """The bytes of the object from ``start``."""
        if self.member is not None:
            from medmap.read.archive import member_bytes

            return member_bytes(self.path, self.member)[start:]
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(descriptor, max(0, self.stamp[0] - start), start)
        finally:
            os.close(descriptor)


def stamp_of(path: Path) -> tuple[int, int]:
    """(size, time of last change in ns); zeros where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns
