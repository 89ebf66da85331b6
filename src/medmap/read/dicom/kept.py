"""A series by its folder and UID: what was found in an archive is remembered, and looked at again before it is used.

A dataset asks for its series one by one. What is asked for is always compared with the disk. The rest of a large
archive, whose every file would have to be asked about, is compared as often as takes a small part of the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medmap.errors import ReadError
from medmap.read.dicom import kinds
from medmap.read.dicom.gather import Gathered, gather
from medmap.read.dicom.instances import Instance, stamp_of
from medmap.read.dicom.studies import Series, Study, sorted_studies
from medmap.read.opened import Opened

KEPT_ARCHIVES = 16
QUICK_S = 0.005  # an archive that is compared in less is compared every time
SHARE = 20  # a larger one at most as often as makes one part in so many of the time


@dataclass
class _Kept:
    """An archive as it was found.

    Args:
        found: Its objects and folders.
        studies: Made of them.
        series: By UID.
        itself: Size and time of last change where it is a file.
        compared_at: When all of it was last compared with the disk, on the clock that only rises.
        took_s: How long that took.
    """

    found: Gathered
    studies: tuple[Study, ...]
    series: Mapping[str, Series]
    itself: tuple[int, int]
    compared_at: float = field(default_factory=time.monotonic)
    took_s: float = 0.0

    def holds(self, path: Path, wanted: Series | None) -> bool:
        """Whether the disk is as it was found, as far as ``wanted`` needs it (None: all of it)."""
        if wanted is not None:
            if not self._unchanged(path, wanted.instances, {str(i.path.parent) for i in wanted.instances}):
                return False
            if self.took_s > QUICK_S and time.monotonic() - self.compared_at < SHARE * self.took_s:
                return True
        begin = time.monotonic()
        same = self._unchanged(path, self.found.instances, self.found.folders)
        self.compared_at = time.monotonic()
        self.took_s = self.compared_at - begin
        return same

    def _unchanged(self, path: Path, instances: Iterable[Instance], folders: Iterable[str]) -> bool:
        """Whether no folder got or lost a file, and no object was overwritten (which leaves its folder as it was)."""
        if self.itself != _stamp(path):
            return False
        known = self.found.folders
        try:
            if any(os.stat(folder).st_mtime_ns != known[folder] for folder in folders if folder in known):
                return False
        except OSError:
            return False
        last: Path | None = None
        for instance in instances:
            if instance.path is not last and stamp_of(instance.path) != instance.stamp:
                return False
            last = instance.path  # the members of a zip share it
        return True


_KEPT: dict[str, _Kept] = {}
_KEPT_LOCK = threading.Lock()


def is_kept(path: Path) -> bool:
    """Whether objects were found there before."""
    return _key(path) in _KEPT


def kept_studies(path: Path) -> tuple[Study, ...]:
    """``studies``, remembered in this process until something below ``path`` (or the file) changes."""
    kept = _KEPT.get(_key(path))
    return kept.studies if kept is not None and kept.holds(path, None) else _scanned(path).studies


def series_named(path: Path, uid: str) -> Series | None:
    """The series of that UID in a folder, zip or DICOMDIR; None where it holds none."""
    kept = _KEPT.get(_key(path))
    if kept is None or not kept.holds(path, kept.series.get(uid)):
        kept = _scanned(path)
    return kept.series.get(uid)


def _key(path: Path) -> str:
    return str(path.absolute())


def _stamp(path: Path) -> tuple[int, int]:
    return stamp_of(path) if path.is_file() else (0, 0)


def _scanned(path: Path) -> _Kept:
    itself = _stamp(path)
    begin = time.monotonic()
    found = gather(path)
    studies = tuple(sorted_studies(path, found))
    series: dict[str, Series] = {}
    for study in studies:
        for one in study.series:
            series.setdefault(one.uid, one)
    kept = _Kept(found, studies, series, itself, begin)
    with _KEPT_LOCK:
        while len(_KEPT) >= KEPT_ARCHIVES:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[_key(path)] = kept
    return kept


def series_in(path: Path, member: str | None) -> tuple[Series, int | str | None]:
    """The series that ``folder#uid`` or ``folder#uid/part`` means; the only series of images without ``member``.

    Raises:
        ReadError: There is none, or several and none was named.
    """
    if member is not None:
        uid, _, part = member.partition("/")
        found = series_named(path, uid)
        if found is None:
            raise ReadError(f"{path} holds no series {uid!r}", got=_listing(_every(path)))
        return found, part or None
    every = _every(path)
    pictures = [s for s in every if s.readable and s.kind in kinds.IMAGES]
    chosen = pictures if len(pictures) == 1 else [s for s in pictures if s.kind in ("volume", "picture", "cine")]
    if len(pictures) != 1:
        raise ReadError(
            f"{path} holds {len(pictures) or 'no'} series of images" + (", not one" if pictures else ""),
            got=_listing(every),
            remedy=f"name one: {path}#{(chosen or pictures)[0].uid}" if pictures else None,
        )
    return pictures[0], None


def _every(path: Path) -> list[Series]:
    return [series for study in kept_studies(path) for series in study.series]


def _listing(every: list[Series]) -> str:
    rows = [f"{s.uid} ({s.modality} {s.kind}, {len(s.instances)})" for s in every]
    return ", ".join(rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "") or "nothing"


def open_series(path: Path, member: str | None) -> Opened:
    """The header of a series in a folder, zip or DICOMDIR, with the way to its pixels.

    Raises:
        ReadError: No such series, or one that is no even volume.
    """
    series, part = series_in(path, member)
    return series.open(part)
