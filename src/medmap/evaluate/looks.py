"""Every look at a test set is written down: one that has often been looked at has been learned from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medmap.bundle import digest_of_cases

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.dataset import Dataset

LOG = "looks.jsonl"


@dataclass(frozen=True)
class Looks:
    """How often a test set was looked at.

    Args:
        count: This look's number, or None where it could not be written down.
        warnings: What a reader must know about it, in sentences.
    """

    count: int | None
    warnings: tuple[str, ...] = ()


def log_look(bundles: Sequence[Bundle], dataset: Dataset, split: str, cases: Sequence[str]) -> Looks:
    """Write a look at a test set into the run folder of the first bundle and count those at the same cases.

    The line says when, at which dataset and cases, and which bundles. Looks at the training and validation splits are
    not counted: those are there to be looked at.

    Args:
        bundles: Those that answered; ``looks.jsonl`` is kept beside the first one's folder.
        dataset: The dataset the cases are of.
        split: test, all, train or val.
        cases: Identifiers of the cases that were evaluated.
    """
    if split in ("train", "val", "oof") or not bundles:
        return Looks(None)
    path = bundles[0].path.parent / LOG
    these = digest_of_cases(cases)
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset.digest,
        "name": dataset.name,
        "split": split,
        "cases": len(cases),
        "cases_digest": these,
        "bundles": [bundle.digest for bundle in bundles],
    }
    try:
        earlier, unreadable = _earlier(path, these)
        with path.open("a", encoding="utf-8") as file:  # one write of one line: looks side by side do not mix
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        return Looks(None, (f"This look at the test set could not be written down in {path.parent.name}: {error}.",))
    count = earlier + 1
    told = []
    if count > 1:
        told.append(
            f"This is look number {count} at this test set. Whoever chooses a model by its test result has learned "
            "from the test set: the numbers then are too good."
        )
    if unreadable:
        told.append(f"{unreadable} lines of {LOG} cannot be read; earlier looks may be missing from the count.")
    return Looks(count, tuple(told))


def _earlier(path: Path, these: str) -> tuple[int, int]:
    """Looks at these cases so far, and lines that cannot be read."""
    if not path.exists():
        return 0, 0
    seen = unreadable = 0
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            seen += isinstance(entry, dict) and entry.get("cases_digest") == these
        except ValueError:
            unreadable += 1
    return seen, unreadable
