"""All DICOM objects of a file, a folder, a zip or a DICOMDIR, scanned; and what was found that is none."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from medmap.errors import LimitError, MedmapError, ReadError
from medmap.read.archive import opened
from medmap.read.dicom.file import is_dicom
from medmap.read.dicom.instances import Instance
from medmap.read.dicom.kinds import kind_of_class
from medmap.read.dicom.scan import Scanned, scan, scan_bytes
from medmap.read.opened import at_the_door, heard

DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory
HEAD_BYTES = 2**16  # of a member of a zip, read before its whole
MAX_FILES = 5_000_000
PEEK = 512
FIRST_FILES = 64  # tell how fast a drive is
MAX_THREADS = 16


@dataclass
class Gathered:
    """What a folder, zip or DICOMDIR holds.

    Args:
        instances: The objects, in order of their names.
        others: How many files are no DICOM.
        damaged: (name, sentence) of DICOM files that cannot be read.
        missing: Files that a DICOMDIR names and that are not there.
        folders: Every folder that was looked into, with the time of its last change.
    """

    instances: list[Instance] = field(default_factory=list)
    others: int = 0
    damaged: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)


def gather(path: Path, workers: int | None = None) -> Gathered:
    """Scan everything below ``path``.

    Args:
        path: A file, folder, zip or DICOMDIR.
        workers: Files scanned side by side; None: as many as hide the delay of a network drive.

    Raises:
        ReadError: It is not there, or a zip or DICOMDIR that cannot be understood.
        LimitError: More files than are scanned.
    """
    with at_the_door(path, "DICOM"):
        found = Gathered()
        if path.is_dir():
            _scan_files(_walk(path, found), found, workers)
            return found
        if not path.is_file():
            raise ReadError(f"{path} does not exist" if not path.exists() else f"{path} is a pipe or a device")
        with path.open("rb") as file:
            head = file.read(PEEK)
        if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            _scan_zip(path, found)
            return found
        if not is_dicom(head):
            raise ReadError(f"{path} is neither DICOM, nor a zip, nor a folder of them")
        if _is_directory(path):
            _scan_files(_listed(path, found), found, workers)
            return found
        _take(found, str(path), scan(path), (path, None))
        return found


def _walk(folder: Path, found: Gathered) -> Iterator[Path]:
    """Every plain file below a folder, in order; hidden ones and links to folders are left out."""
    open_folders = [str(folder)]
    count = 0
    while open_folders:
        here = open_folders.pop()
        found.folders[here] = os.stat(here).st_mtime_ns
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        open_folders += [e.path for e in reversed(entries) if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
        for entry in entries:
            if entry.name[0] != "." and entry.is_file():
                count += 1
                if count > MAX_FILES:
                    raise LimitError(f"{folder} holds too many files", expected=f"at most {MAX_FILES}")
                yield Path(entry.path)


def _scan_files(paths: Iterable[Path], found: Gathered, workers: int | None) -> None:
    def one(path: Path) -> Scanned | MedmapError | None:
        try:
            return _scan_file(path)
        except MedmapError as error:
            return error

    listed = list(paths)
    results: list[Any] = []
    if workers is None:
        begin, busy = time.perf_counter(), time.thread_time()
        results = [one(path) for path in listed[:FIRST_FILES]]
        workers = threads_for(time.perf_counter() - begin, time.thread_time() - busy)
    rest = listed[len(results) :]
    if workers <= 1 or len(rest) < FIRST_FILES:
        results += map(one, rest)
    else:
        with ThreadPoolExecutor(min(workers, MAX_THREADS)) as pool:
            results += pool.map(one, rest)
    for path, result in zip(listed, results, strict=True):
        _take(found, str(path), result, (path, None))


def threads_for(elapsed_s: float, busy_s: float) -> int:
    """How many threads to scan with, by what the first files took: more only where most of it was waiting for a drive.

    Python runs one thread at a time, so on a local disk a second one only costs.

    Example:
        >>> threads_for(0.010, 0.009), threads_for(0.100, 0.010), threads_for(9, 0.01)
        (1, 10, 16)
    """
    return max(1, min(MAX_THREADS, round(elapsed_s / max(busy_s, 1e-6) - 0.25)))


def _scan_file(path: Path) -> Scanned | None:
    """None for what is no DICOM."""
    with at_the_door(path, "DICOM"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not is_dicom(os.pread(descriptor, PEEK, 0)):
                return None
            return scan_bytes(lambda at, count: os.pread(descriptor, count, at), str(path))
        finally:
            os.close(descriptor)


def _take(found: Gathered, name: str, result: Scanned | MedmapError | None, where: tuple[Path, str | None]) -> None:
    if result is None:
        found.others += 1
        return
    if isinstance(result, MedmapError):
        found.damaged.append((name, str(result)))
        return
    values = result.values
    if values.get("SOPClassUID") == DIRECTORY or not (values.get("SOPClassUID") or values.get("Rows")):
        found.others += 1
        return
    if (
        result.own
        and result.pixels is None
        and "Rows" in values
        and kind_of_class(values.get("SOPClassUID", "")) is None
    ):
        found.damaged.append((name, f"{name} is truncated: its pixels are missing"))
        return
    if "SOPInstanceUID" not in values and "Rows" not in values:
        found.damaged.append((name, f"{name} is truncated, or no object: it has neither an identifier nor a picture"))
        return
    status = os.stat(where[0])
    found.instances.append(
        Instance(
            path=where[0],
            member=where[1],
            sop_class_uid=values.get("SOPClassUID", ""),
            sop_instance_uid=values.get("SOPInstanceUID", ""),
            number=values.get("InstanceNumber"),
            header=values,
            transfer_syntax=result.transfer_syntax,
            pixels=result.pixels,
            stamp=(status.st_size, status.st_mtime_ns),
        )
    )


def _scan_zip(path: Path, found: Gathered) -> None:
    """Members are scanned where they are; only as much of each is unpacked as its header takes."""
    with opened(path) as (archive, members):
        for name in sorted(members):
            with archive.open(members[name]) as file:
                have = bytearray(file.read(HEAD_BYTES))
                if not is_dicom(bytes(have[:PEEK])):
                    found.others += 1
                    continue

                def read_at(offset: int, count: int, file: Any = file, have: bytearray = have) -> bytes:
                    while len(have) < offset + count and (more := file.read(2**20)):
                        have.extend(more)
                    return bytes(have[offset : offset + count])

                result: Scanned | MedmapError
                try:
                    result = scan_bytes(read_at, f"{path}, {name}")
                except MedmapError as error:
                    result = error
                _take(found, f"{path}, {name}", result, (path, name))


# -- DICOMDIR --------------------------------------------------------------------------------------------------------


def _is_directory(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR":
        return True
    with path.open("rb") as file:
        return DIRECTORY.encode() in file.read(PEEK)


def _listed(path: Path, found: Gathered) -> Iterator[Path]:
    """The files that a DICOMDIR names, by its records (PS3.10 section 8, PS3.3 annex F), whatever their order.

    Raises:
        ReadError: No directory, or one without a record; a name that leads outside its folder.
    """
    import pydicom

    with heard([], "pydicom"), at_the_door(path, "DICOMDIR"):
        records = pydicom.dcmread(path, force=True).get("DirectoryRecordSequence")
    if not records:
        raise ReadError(f"{path} lists no file", remedy="give the folder beside it")
    root = path.parent
    seen: set[str] = set()
    for record in records:
        parts = record.get("ReferencedFileID")
        if not parts:
            continue
        names = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        inside = PurePosixPath(*names)
        if inside.is_absolute() or ".." in inside.parts or "\\" in str(inside) or "\0" in str(inside):
            raise ReadError(f"{path} names a file outside its folder", got=repr(str(inside)[:200]))
        if str(inside) in seen:
            continue
        seen.add(str(inside))
        target = _on_disk(root, names)
        if target is None:
            found.missing.append(str(inside))
        else:
            yield target


def _on_disk(root: Path, names: Sequence[str]) -> Path | None:
    """The file, also where a medium's upper-case names were copied in lower case, or got an extension."""
    for spelled in (names, [n.lower() for n in names], [*names[:-1], f"{names[-1]}.dcm"]):
        target = root.joinpath(*spelled)
        try:
            if stat.S_ISREG(target.stat().st_mode):
                return target
        except (OSError, ValueError):
            continue
    return None
