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
    """Write a look at a test set into the run folder of every bundle and count those at the same cases.

    The line says when, at which dataset and cases, and which bundles. Looks at the training and validation splits are
    not counted: those are there to be looked at. Of all cases together, those of the test split count, or, in data
    without splits, every one.

    Args:
        bundles: Those that answered; ``looks.jsonl`` is kept beside the folder of each.
        dataset: The dataset the cases are of.
        split: test, all, train or val.
        cases: Identifiers of the cases that were evaluated.

    Returns:
        The count of the bundle that has looked most often.
    """
    held = _held_out(dataset, split, cases)
    if not held or not bundles:
        return Looks(None)
    these = digest_of_cases(held)
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset.digest,
        "name": dataset.name,
        "split": split,
        "cases": len(held),
        "cases_digest": these,
        "bundles": [bundle.digest for bundle in bundles],
    }
    counts, told, unreadable = [], [], 0
    for folder in dict.fromkeys(bundle.path.resolve().parent for bundle in bundles):
        path = folder / LOG
        try:
            earlier, spoilt = _earlier(path, these)
            with path.open("a", encoding="utf-8") as file:  # one write of one line: looks side by side do not mix
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            told.append(f"This look at the test set could not be written down in {folder.name}: {error}.")
            continue
        counts.append(earlier + 1)
        unreadable += spoilt
    count = max(counts, default=None)
    if count is not None and count > 1:
        told.append(
            f"This is look number {count} at this test set. Whoever chooses a model by its test result has learned "
            "from the test set: the numbers then are too good."
        )
    if unreadable:
        told.append(f"{unreadable} lines of {LOG} cannot be read; earlier looks may be missing from the count.")
    return Looks(count, tuple(told))


def _held_out(dataset: Dataset, split: str, cases: Sequence[str]) -> list[str]:
    """Those of the cases that are a test set."""
    if split in ("train", "val", "oof"):
        return []
    if split == "test":
        return list(cases)
    of = {case.id: case.split for case in dataset}
    tested = [case for case in cases if of.get(case) == "test"]
    return tested or [case for case in cases if of.get(case) is None]


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
