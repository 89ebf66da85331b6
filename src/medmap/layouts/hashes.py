"""``truth.sha256`` beside ``dataset.yaml``: what the truth files held when the dataset was imported.

One line a file, as ``sha256sum`` writes it, so that ``sha256sum --check`` reads it in the dataset's root. A mask that
somebody corrected has another hash, and the dataset another digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medmap.dataset import Dataset
from medmap.errors import DatasetError, ReadError

HASHES = "truth.sha256"
_LINE = re.compile(r"([0-9a-f]{64})[ ][ *](.+)")
_AT_ONCE = 4


def truth_files(dataset: Dataset) -> dict[str, Path]:
    """Masks and targets by the path that their references name, each once, sorted."""
    refs = {ref for case in dataset for ref in (*case.truth.masks, case.truth.target) if ref is not None}
    return {path: dataset.root / path for path in sorted({ref.path for ref in refs})}


def hashed(dataset: Dataset) -> dict[str, str]:
    """sha256 of every truth file, each read once.

    Raises:
        DatasetError: A file is absent or unreadable.
    """
    files = truth_files(dataset)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(files, pool.map(sha256_of, files.values()), strict=True))


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal.

    Raises:
        DatasetError: Absent or unreadable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"the truth file {path} cannot be read", got=error.strerror) from error


def hashes_text(hashes: Mapping[str, str]) -> str:
    """The contents of ``truth.sha256``.

    Raises:
        DatasetError: A file's name with a line break.
    """
    if any(len(path.splitlines()) != 1 for path in hashes):
        raise DatasetError("a truth file has a line break in its name", remedy="rename it")
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(hashes.items()))


def read_hashes(path: Path) -> dict[str, str]:
    """What ``truth.sha256`` says; nothing when it is absent.

    Raises:
        ReadError: Unreadable.
        DatasetError: A line that is no hash and path.
    """
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(f"{path} cannot be read", got=str(error)) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DatasetError(f"{path}, line {number}: no sha256 and path", got=repr(line[:80]))
        found[match[2]] = match[1]
    return found
