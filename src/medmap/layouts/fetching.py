"""Public datasets by name: one file each, its checksum mandatory, an interrupted download continued."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medmap.errors import ReadError, UsageError
from medmap.layouts.medmnist import OFFICIAL

# The MedMNIST authors' own deposit (version 3: the 28-pixel files)
MEDMNIST_URL = "https://zenodo.org/records/10519652/files"
TIMEOUT_S = 60
MAX_BYTES = 64 * 2**30
_CHUNK = 2**20


@dataclass(frozen=True)
class Public:
    """A public dataset.

    Args:
        filename: What its file is called.
        url: Folder on the web that holds it.
        md5: Checksum as its authors publish it. It finds damage, and a mistaken file; it is no signature.
        licence: The owner's licence.
    """

    filename: str
    url: str
    md5: str
    licence: str


PUBLIC: dict[str, Public] = {
    name: Public(f"{name}.npz", MEDMNIST_URL, official.md5, official.licence) for name, official in OFFICIAL.items()
}


def fetch(
    name: str,
    dest: str | Path,
    source: str | Path | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """A public dataset's file in the folder ``dest``, verified by its checksum.

    Args:
        name: A name from ``PUBLIC``, such as ``breastmnist``.
        dest: A folder; made when it does not exist.
        source: A folder or address to take it from instead of its public place (a mirror, a share in the hospital).
        progress: Called with bytes done and bytes in all (None: unknown).

    Returns:
        The path of the file.

    Raises:
        UsageError: An unknown name, or another file of that name stands there.
        ReadError: It cannot be fetched, or its checksum is wrong.
    """
    if name not in PUBLIC:
        raise UsageError("unknown public dataset", got=repr(name), expected=", ".join(sorted(PUBLIC)))
    wanted = PUBLIC[name]
    target = Path(dest) / wanted.filename
    part = target.with_name(f".{target.name}.part")
    with _writing(target):
        if target.exists():
            if _md5(target) == wanted.md5:
                return target
            raise UsageError(f"{target} exists and is another file", remedy="move it away; nothing is overwritten")
        target.parent.mkdir(parents=True, exist_ok=True)
    address = str(source) if source is not None else wanted.url
    if urllib.parse.urlsplit(address).scheme in ("http", "https"):
        _download(_file_url(address, wanted.filename), part, progress)
    else:
        _copy(_local(address, wanted.filename), part, progress)
    with _writing(target):
        found = _md5(part)
        if found != wanted.md5:
            part.unlink()
            raise ReadError(
                f"{wanted.filename} is not the published file: its checksum is wrong",
                got=f"MD5 {found}",
                expected=wanted.md5,
                remedy="fetch it again, or from another place with --from",
            )
        part.replace(target)
    return target


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written", got=error.strerror, remedy="check free space and permissions"
        ) from error


def _file_url(address: str, filename: str) -> str:
    return address if address.rsplit("?", 1)[0].endswith(".npz") else f"{address.rstrip('/')}/{filename}"


def _local(address: str, filename: str) -> Path:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        path = Path(urllib.request.url2pathname(parts.path))
    elif parts.scheme and "://" in address:
        raise UsageError("a dataset is fetched over https, http or from a folder", got=address)
    else:
        path = Path(address)
    return path / filename if path.is_dir() else path


def _copy(path: Path, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    try:
        source = path.open("rb")
        size = path.stat().st_size
    except OSError as error:
        raise ReadError(f"{path} cannot be read", got=error.strerror) from error
    with source:
        _pour(source, part, 0, size, progress)


def _download(url: str, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    with _writing(part):
        have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        # the scheme is http or https: anything else was refused or taken as a folder above
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            start = _start_of(answer.headers.get("Content-Range")) if answer.status == 206 else 0
            if start not in (0, have):
                raise ReadError(f"{url} answered with another part of the file", got=start, expected=have)
            length = answer.headers.get("Content-Length")
            total = int(length) + start if length and length.isdigit() else None
            _pour(answer, part, start, total, progress)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416:  # 416: nothing is left to fetch; the checksum decides
                raise ReadError(f"{url} cannot be fetched", got=f"HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise ReadError(
            f"{url} cannot be fetched",
            got=" ".join(str(error).split())[:200],
            remedy="try again (it continues where it stopped), or give a folder or mirror with --from",
        ) from error


def _start_of(content_range: str | None) -> int:
    """First byte of ``bytes 100-199/200`` (RFC 9110, 14.4); -1 when it does not say."""
    first = (content_range or "").removeprefix("bytes ").split("-")[0].strip()
    return int(first) if first.isascii() and first.isdigit() else -1


def _pour(
    source: IO[bytes], part: Path, done: int, total: int | None, progress: Callable[[int, int | None], None] | None
) -> None:
    """Append ``source`` to ``part`` from byte ``done`` on; failures of reading and of writing stay apart."""
    with _writing(part):
        file = part.open("r+b" if done else "wb")
    with file:
        file.seek(done)
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > MAX_BYTES:
                raise ReadError("the file never ends", got=f"{done} bytes", expected=f"at most {MAX_BYTES} bytes")
            with _writing(part):
                file.write(chunk)
            if progress is not None:
                progress(done, total)
        with _writing(part):
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise ReadError("the connection broke off", got=f"{done} of {total} bytes", remedy="call again; it continues")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
