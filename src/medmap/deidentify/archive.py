"""A folder or zip of any size, file by file: nothing is held but the file at hand and what was finished before.

A journal beside the output says what is done, so that a stopped run goes on where it stopped. It names the files that
were not copied; like the key it is readable by its owner alone and stays with the key, never with the data. An output
file appears under its name only when it is whole.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medmap.deidentify.instance import made
from medmap.deidentify.profile import Profile
from medmap.deidentify.secrets import Key
from medmap.errors import InterruptedRun, LimitError, MedmapError, MissingToolError, ReadError, UsageError
from medmap.read.dicom import is_dicom

LIMIT_BYTES = 1 << 33  # one file, unpacked
_RATIO = 1000  # no image is packed better than this; a zip bomb is
_CHUNK = 16
_HEAD = 144
_MOST_FOLDERS = 200  # within one another
FOLDER_UNREADABLE = "a folder that cannot be read"
FOLDER_TOO_DEEP = f"folders nested more than {_MOST_FOLDERS} deep"
FILE_UNREADABLE = "the file cannot be read"
LINK_TO_NOTHING = "a link that leads nowhere"
LINK_TO_FOLDER = "a link to a folder, which is not followed"
NO_FILE = "neither a file nor a folder"
_LEFT_ON_PURPOSE = (LINK_TO_FOLDER, NO_FILE)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Found:
    """One file of the source.

    Args:
        path: The file, or the zip that holds it.
        member: Its name in the zip, or None.
        name: Path from the source, for the journal alone.
        stamp: Size and time of change: another file under the same name is another file.
        problem: Why it is not opened at all; empty where it can be tried.
    """

    path: Path
    member: str | None
    name: str
    stamp: str
    problem: str = ""


@dataclass(frozen=True)
class Work:
    """What every worker knows.

    Args:
        output: The folder to write.
        journal: The journal's file.
        profile, key: As asked for.
    """

    output: Path
    journal: Path
    profile: Profile
    key: Key

    def digest(self, found: Found) -> str:
        """The file's name in the journal's list of finished files."""
        return self.key.short("source", f"{found.name}\0{found.stamp}")


def files_of(source: Path) -> Iterator[Found]:
    """Every file under a folder, in a zip, or the one file itself; zips in folders are opened too.

    Links to files are read, links to folders are not followed. What cannot be opened is in the stream with its problem,
    so that nothing is missing without a word. Nothing is unpacked to the disk, so a member's name can lead nowhere, and
    a folder's list is never held: a flat folder may have a million files.
    """
    if source.is_file():
        yield from _one(source, source.name)
    else:
        yield from _below(source)


def _below(source: Path) -> Iterator[Found]:
    """A folder's files, depth first; only the folders on the way down are open."""
    opened: list[tuple[Iterator[os.DirEntry[str]], str]] = []
    try:
        opened.append((os.scandir(source), ""))
    except OSError:
        yield Found(source, None, ".", "", FOLDER_UNREADABLE)
    while opened:
        entries, place = opened[-1]
        try:
            entry = next(entries, None)
        except OSError:
            yield Found(source / place, None, place or ".", "", FOLDER_UNREADABLE)
            entry = None
        if entry is None:
            opened.pop()
            continue
        path, name = Path(entry.path), place + entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield from _one(path, name)
        elif len(opened) >= _MOST_FOLDERS:
            yield Found(path, None, name, "", FOLDER_TOO_DEEP)
        else:
            try:
                opened.append((os.scandir(path), name + "/"))
            except OSError:
                yield Found(path, None, name, "", FOLDER_UNREADABLE)


def _problem(path: Path) -> str:
    """Why something is never opened; a pipe, for one, would be waited for for ever."""
    try:
        if path.is_file():
            return ""
        if path.is_dir():
            return LINK_TO_FOLDER
        return NO_FILE if path.exists() else LINK_TO_NOTHING
    except OSError:  # a link in a circle, a folder that may be listed and not entered
        return FILE_UNREADABLE


def _one(path: Path, name: str) -> Iterator[Found]:
    if problem := _problem(path):
        yield Found(path, None, name, "", problem)
        return
    try:
        status = path.stat()
    except OSError:  # it has gone since the folder was listed
        yield Found(path, None, name, "", FILE_UNREADABLE)
        return
    stamp = f"{status.st_size} {status.st_mtime_ns}"
    if path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as packed:
                members = [m for m in packed.infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError, OSError):
            yield Found(path, "", name, stamp)  # opening it says that it is damaged
            return
        for member in members:
            yield Found(path, member.filename, f"{name}#{member.filename}", f"{stamp} {member.header_offset}")
    else:
        yield Found(path, None, name, stamp)


class Finished:
    """The files that an earlier run has finished: eight bytes each.

    Args:
        digests: Their names in the journal, sixteen hexadecimal digits.

    Example:
        >>> finished = Finished(["00000000000000ff"])
        >>> len(finished), "00000000000000ff" in finished, "00000000000000fe" in finished
        (1, True, False)
    """

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self._numbers = np.unique(np.fromiter((int(digest, 16) for digest in digests), np.uint64))

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, digest: str) -> bool:
        number = np.uint64(int(digest, 16))
        at = int(np.searchsorted(self._numbers, number))
        return at < len(self._numbers) and bool(self._numbers[at] == number)


def run(source: Path, work: Work, done: Finished, workers: int, progress: Progress | None) -> None:
    """Every file that is not done, in this process or in several.

    Raises:
        InterruptedRun: Stopped; what is finished stays finished.
        ReadError: A worker process was killed.
    """
    todo = (found for found in files_of(source) if work.digest(found) not in done)
    count = len(done)
    total = sum(1 for _ in files_of(source)) if progress is not None else 0
    try:
        for finished in _finished(todo, work, workers):
            count += finished
            if progress is not None:
                progress(count, max(total, count))
    except KeyboardInterrupt as error:
        raise InterruptedRun("stopped; what is finished is kept", remedy="go on with --resume") from error
    except BrokenProcessPool as error:
        raise ReadError("a worker process was killed", remedy="go on with --resume, or with fewer --workers") from error


def _finished(todo: Iterator[Found], work: Work, workers: int) -> Iterator[int]:
    if workers == 1:
        start(work)
        for found in todo:
            yield several([found])
        return
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=start, initargs=(work,)) as pool:
        running: set[Future[int]] = set()
        while True:
            for chunk in _chunks(todo, workers * 3 - len(running)):
                running.add(pool.submit(several, chunk))
            if not running:
                return
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                yield future.result()


def _chunks(todo: Iterator[Found], most: int) -> Iterator[list[Found]]:
    for _ in range(most):
        chunk = list(islice(todo, _CHUNK))
        if not chunk:
            return
        yield chunk


# -- in a worker -----------------------------------------------------------------------------------------------------


class _Desk:
    """What a process works with: the work, its journal, and the action lists it has written there already."""

    work: Work
    journal: int
    written: dict[str, str]


def start(work: Work) -> None:
    """Open the journal in this process."""
    _Desk.work = work
    _Desk.journal = os.open(work.journal, os.O_WRONLY | os.O_APPEND)
    _Desk.written = {}


def several(chunk: Iterable[Found]) -> int:
    """Do some files; each is in the journal as soon as it stands in the output."""
    count = 0
    for found in chunk:
        line = {"s": _Desk.work.digest(found), **_outcome(found)}
        _write(line)
        count += 1
    return count


def _outcome(found: Found) -> dict[str, object]:
    work = _Desk.work
    if found.problem in _LEFT_ON_PURPOSE:
        return {"skip": found.problem, "path": found.name}
    if found.problem:
        return {"fail": found.problem, "path": found.name, "again": True}
    try:
        with _opened(found) as file:
            head = file.read(_HEAD)
            file.seek(0)
            if not is_dicom(head):
                return {"skip": "not DICOM", "path": found.name}
            result = made(file, work.profile, work.key)
    except MissingToolError:
        raise  # of the machine, not of this file
    except MedmapError as error:
        return {"fail": str(error), "path": found.name}
    except OSError as error:
        return {"fail": f"{FILE_UNREADABLE}: {type(error).__name__}", "path": found.name, "again": True}
    if result is None:
        return {"skip": "DICOMDIR", "path": found.name}
    name = f"{result.folder}/{result.name}-{work.digest(found)[:8]}.dcm"
    _put(work.output / name, result.content)
    line: dict[str, object] = {"o": name, "a": _actions(result.actions)}
    if result.residuals:
        line["r"] = [[r.place, r.kind] for r in result.residuals]
    if result.notes:
        line["n"] = list(result.notes)
    if result.modality:
        line["p"] = result.modality
    if result.boxes:
        line["b"] = result.boxes
    return line


def _opened(found: Found) -> BinaryIO:
    if found.member is None:
        if found.path.stat().st_size > LIMIT_BYTES:
            raise LimitError(
                "the file is too large", got=f"{found.path.stat().st_size} bytes", expected=f"{LIMIT_BYTES}"
            )
        return found.path.open("rb")
    try:
        packed = _zip(found.path)
        member = packed.getinfo(found.member)
        if member.file_size > LIMIT_BYTES or member.file_size > max(member.compress_size, 1 << 16) * _RATIO:
            raise LimitError("the packed file is too large", got=f"{member.file_size} bytes unpacked")
        return io.BytesIO(packed.read(member))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ReadError("a file in the zip is damaged or encrypted", got=type(error).__name__) from None


@lru_cache(maxsize=4)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _actions(actions: object) -> str:
    rows = sorted([tag, action, count] for (tag, action), count in actions.items())  # type: ignore[attr-defined]
    text = json.dumps(rows, separators=(",", ":"))
    if text not in _Desk.written:
        name = _Desk.work.key.short("actions", text, 12)
        _write({"actions": name, "rows": rows})
        if len(_Desk.written) > 4096:
            _Desk.written.clear()
        _Desk.written[text] = name
    return _Desk.written[text]


def _write(line: dict[str, object]) -> None:
    os.write(_Desk.journal, (json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n").encode())


# -- the journal -----------------------------------------------------------------------------------------------------


def begin_journal(path: Path, profile: Profile, key: Key, *, resume: bool) -> Finished:
    """Make the journal, or read what an earlier run has finished.

    What could not be read then is tried again: it failed for reasons of the machine, such as rights.

    Raises:
        UsageError: A journal without ``resume``, or one of another profile or key.
    """
    head = {
        "medmap_deidentify": 1,
        "keep": sorted(profile.keep),
        "clean": sorted(profile.clean),
        "key": key.short("key", ""),
    }
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(head) + "\n")
        return Finished()
    if not resume:
        raise UsageError(f"an earlier run left {path}", remedy="go on with --resume, or choose another output")
    lines = journal_lines(path)
    if next(lines, None) != head:
        raise UsageError(f"{path} belongs to a run with other options or another key", remedy="choose another output")
    done = Finished(str(line["s"]) for line in lines if "s" in line and "again" not in line)
    with path.open("r+b") as file:  # a line cut by a kill is ended, so that it spoils none after it
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"resumed":1}\n')
    return done


def journal_lines(path: Path) -> Iterator[dict[str, object]]:
    """The journal's lines; one that a kill cut short is left out."""
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def lines_that_count(path: Path) -> Iterator[dict[str, object]]:
    """The journal's lines without what an earlier run could not read: the last run has tried it again."""
    runs = sum(1 for line in journal_lines(path) if "resumed" in line)
    for line in journal_lines(path):
        runs -= "resumed" in line
        if runs == 0 or "again" not in line:
            yield line
