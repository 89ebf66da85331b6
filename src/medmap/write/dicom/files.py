"""DICOM data sets to files: all of them or none, and never over another file unless asked."""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medmap.config import write_atomically
from medmap.errors import UsageError
from medmap.write.dicom.slice import IMPLEMENTATION

IMPLEMENTATION_NAME = "MEDMAP"


def save_objects(datasets: Sequence[Any], path: Path, overwrite: bool) -> Path:
    """Write one object to a file, or several into a folder of their own.

    Args:
        datasets: Complete data sets.
        path: The file of one object. Several are written to the folder of this name (without ``.dcm``), which is
            absent or empty.
        overwrite: Replace the one file.

    Returns:
        The file, or the folder.

    Raises:
        UsageError: Something is there already, or the place cannot be written.
    """
    try:
        if len(datasets) == 1:
            if not overwrite and os.path.lexists(path):
                raise UsageError(f"{path} exists", remedy="choose another name, or give overwrite=True")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, encoded(datasets[0]))
            return path
        return _folder(datasets, path.with_suffix("") if path.suffix.lower() == ".dcm" else path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written", got=error.strerror or str(error), remedy="check space and permission"
        ) from error


def encoded(header: Any) -> bytes:
    """A DICOM file's bytes: a preamble of zeros, the file meta information of medmap, the data set."""
    from pydicom.filewriter import dcmwrite

    header.file_meta.ImplementationClassUID = IMPLEMENTATION
    header.file_meta.ImplementationVersionName = IMPLEMENTATION_NAME
    header.preamble = bytes(128)
    buffer = io.BytesIO()
    dcmwrite(buffer, header, enforce_file_format=True)
    return buffer.getvalue()


def _folder(datasets: Sequence[Any], path: Path) -> Path:
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} holds something already", remedy="name a folder that does not exist")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{secrets.token_hex(8)}")
    try:
        aside.mkdir()
        for number, header in enumerate(datasets, 1):
            (aside / f"IM{number:06d}.dcm").write_bytes(encoded(header))
        aside.replace(path)  # an empty folder gives way
    finally:
        if aside.exists():
            shutil.rmtree(aside)
    return path
