"""Files that other programs wrote about a dataset: read within limits, refused in one sentence, paths kept inside."""

from __future__ import annotations

import json
import mmap
import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from medmap.dataset import TaskName
from medmap.errors import DatasetError, LayoutError, LimitError, ReadError

MAX_JSON_BYTES = 2 * 2**30
MAX_VALUE = 10_000  # of a class in a mask
SHOWN = 3


class Foreign(BaseModel):
    """What medmap needs of a file that others wrote; whatever else it says is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


F = TypeVar("F", bound=Foreign)


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        ReadError: Absent, unreadable or not text.
        LayoutError: No JSON.
        LimitError: Larger than any list of cases.
    """
    try:
        if not path.is_file():
            raise ReadError(f"{path} does not exist or is no file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise LimitError(f"{path} is too large for a list of cases", expected=f"at most {MAX_JSON_BYTES} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ReadError(f"{path} cannot be read", got=error.strerror) from error
    except UnicodeDecodeError as error:
        raise ReadError(f"{path} is not text in UTF-8") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is no valid JSON", got=" ".join(str(error).split())[:120]) from error


def json_object(path: Path) -> dict[str, Any]:
    """The contents of a JSON file that holds keys and values.

    Raises:
        LayoutError: No JSON, or something else in it.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise LayoutError(f"{path} does not hold keys and values", got=type(data).__name__)
    return data


def parsed(model: type[F], data: Any, where: str) -> F:
    """What a foreign file says, as far as medmap needs it.

    Raises:
        LayoutError: A key is missing or holds something else; the first such place is named.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        if first["type"] == "missing":
            raise LayoutError(f"{where}: {place} is missing") from error
        got = " ".join(repr(first["input"]).split())[:80]
        raise LayoutError(f"{where}: {place} is not usable ({first['msg'].lower()})", got=got) from error


def mentions(path: Path, *words: str) -> bool:
    """Whether a file holds all words; a file of any size is searched, not parsed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(word.encode()) >= 0 for word in words)
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def inside(text: str, where: str, *, absolute: bool = False) -> str:
    """A path as a list of cases names it, normalised; it may not lead out of the folder.

    Args:
        text: The path as written; ``\\`` counts as ``/``.
        where: The place, for the message.
        absolute: Whether a path from the root of the disk is welcome.

    Raises:
        DatasetError: Empty, with a NUL, leading out of the folder, or absolute where that is not welcome.

    Example:
        >>> inside("./imagesTr/a.nii.gz", "dataset.json")
        'imagesTr/a.nii.gz'
    """
    path = text.replace("\\", "/")
    if not path.strip() or "\0" in path:
        raise DatasetError(f"{where}: no path", got=repr(text[:80]))
    if path.startswith("/"):
        if absolute:
            return posixpath.normpath(path)
        raise DatasetError(
            f"{where}: an absolute path in a layout whose paths are relative",
            got=repr(text[:200]),
            expected="a path inside",
        )
    path = posixpath.normpath(path)
    if path == ".." or path.startswith("../"):
        raise DatasetError(f"{where}: the path leads out of the dataset's folder", got=repr(text[:200]))
    return path


def require_files(root: Path, paths: Iterable[str], where: str) -> None:
    """Refuse a list that names files which are not there; each folder is listed once.

    Raises:
        DatasetError: How many are absent, and the first of them.
    """
    listed: dict[Path, set[str]] = {}
    missing: list[str] = []
    for path in paths:
        file = root / path
        if file.parent not in listed:
            try:
                listed[file.parent] = {entry.name for entry in file.parent.iterdir()}
            except OSError:
                listed[file.parent] = set()
        if file.name not in listed[file.parent]:
            missing.append(path)
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (" …" if len(missing) > SHOWN else "")
        raise DatasetError(f"{where} names {len(missing)} files that do not exist", got=shown)


def require_task(task: TaskName | None, only: TaskName, layout: str) -> None:
    """Refuse a task that a layout does not hold.

    Raises:
        DatasetError: Another task than ``only`` was asked for.
    """
    if task not in (None, only):
        raise DatasetError(f"{layout} holds truth for one task", got=task, expected=only)


# what a mask's numbers mean ---------------------------------------------------------------------------------------


def names_by_value(names: dict[int, str], where: str) -> tuple[str, ...]:
    """Names of the classes 0, 1, 2 … of a label map; a value that the owner does not use gets a name that says so.

    Raises:
        DatasetError: Negative or huge values.

    Example:
        >>> names_by_value({1: "core", 4: "enhancing"}, "dataset.json")
        ('background', 'core', 'unused_2', 'unused_3', 'enhancing')
    """
    if not names or min(names) < 0 or max(names) > MAX_VALUE:
        raise DatasetError(f"{where}: class numbers out of range", got=sorted(names)[:5], expected=f"0 to {MAX_VALUE}")
    given = {0: "background", **names}
    return tuple(given.get(value, f"unused_{value}") for value in range(max(given) + 1))


# words that layouts use for a modality, in lower case → DICOM's code
_MODALITIES = {
    "ct": "CT", "mr": "MR", "mri": "MR", "pet": "PT", "pt": "PT", "us": "US", "ultrasound": "US", "xray": "DX",
    "x-ray": "DX", "dx": "DX", "cr": "CR", "mg": "MG", "op": "OP", "fundus": "OP", "oct": "OPT", "sm": "SM",
    "rgb": "XC",
}  # fmt: skip


def modality_code(word: str) -> str | None:
    """DICOM's code for a layout's word for a modality; None for words that name a sequence or nothing.

    Example:
        >>> modality_code("MRI"), modality_code("FLAIR")
        ('MR', None)
    """
    return _MODALITIES.get(word.strip().lower())
