"""What an earlier ``medmap predict`` left in its folder: whose answers they are, and which cases are finished."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmap.cli.settings import require_folder
from medmap.errors import UsageError

ANSWER = re.compile(r"[0-9]{6,}\.json")
# What a call leaves, whole or (the names with a point) as it was killed while writing.
OWN = re.compile(
    r"\.?([0-9]{6,}\.(json|((overlay|uncertainty|instances)\.)?png|((uncertainty|instances)\.)?nii\.gz|obj|[a-z0-9-]+\.stl|(sr|(instances\.)?seg|rtstruct|gsps)\.dcm)"
    r"|(index|coco)\.json|(scores|structures|instances|boxes|luna16|worklist)\.csv)(\.[0-9a-f]{16})?"
    r"|\.[0-9a-f]{16}(\.[a-z0-9.]+)?"
)
FORETOLD = ("expected_dice", "probable_dice")
KEPT = ("input", "files", "unwritten", "warnings", *FORETOLD)  # of a row, in the JSON of its case
_ORDER = ("case", "input", "files", "unwritten", "outputs", "warnings", "error", *FORETOLD)
Row = dict[str, Any]


def earlier(
    output: Path, resume: bool, digests: Sequence[str], formats: Sequence[str], view: Mapping[str, Any] | None = None
) -> dict[tuple[str, str], Row]:
    """What an earlier call finished, by case and input.

    Args:
        output: The folder of the answers.
        resume: Whether to go on in it.
        digests: Of the bundles that answer.
        formats: Of a case's files.
        view: How they look, beyond what they say themselves.

    Raises:
        UsageError: The folder is in use and ``resume`` was not asked for, or it is of other bundles, formats or another
            view.
    """
    require_folder(output)
    present = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if not present:
        return {}
    if not resume:
        raise UsageError(f"{output} is not empty", remedy="choose another folder with -o, or go on with --resume")
    if foreign := [name for name in present if not OWN.fullmatch(name)]:
        raise UsageError(f"{output} holds something else than answers", got=foreign[0], remedy="choose another folder")
    if "index.json" in present:
        _require_same(output, _document(output / "index.json").get("bundles"), list(digests))
    rows: dict[tuple[str, str], Row] = {}
    for name in present:
        if not ANSWER.fullmatch(name):
            continue
        found = _document(output / name)
        _require_same(output, found.get("bundle"), "+".join(digests))
        _require_same_words(output, found.get("view", {}), dict(view or {}), "were looked for otherwise")
        _require_same_words(output, found.get("formats", [*formats]), [*formats], "are files of other formats")
        there = all((output / str(file)).exists() for file in found.get("files", ()))
        if there and {"case", "input", "outputs", "warnings"} <= found.keys():
            row: Row = {"files": [name], "unwritten": {}, "error": None}
            row |= {key: found[key] for key in ("case", "outputs", *KEPT) if key in found}
            rows[str(found["case"]), str(found["input"])] = _ordered(row)
    _clear(output)
    return rows


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is no answer of medmap's", got=str(error), remedy="choose another folder") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no answer of medmap's", got=type(found).__name__, remedy="choose another folder")
    return found


def _require_same(output: Path, found: object, expected: object) -> None:
    if found != expected:
        remedy = "resume with the bundle it was begun with, or choose another folder"
        raise UsageError(f"{output} holds the answers of another bundle", got=found, expected=expected, remedy=remedy)


def _require_same_words(output: Path, found: object, expected: object, what: str) -> None:
    if found != expected:
        remedy = "resume with the options it was begun with, or choose another folder"
        raise UsageError(f"{output} holds answers that {what}", got=found, expected=expected, remedy=remedy)


def _ordered(row: Row) -> Row:
    """A row as a call that was not interrupted has it, to the order of its words."""
    return {key: row[key] for key in _ORDER if key in row}


def _clear(output: Path) -> None:
    """Remove files that a killed call had begun and not finished; nobody else knows their names."""
    for path in output.iterdir():
        if path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
