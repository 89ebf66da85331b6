"""Which cases each member of the ensemble learns from, and which judge it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, folds
from medmap.errors import DataError
from medmap.feed import Store
from medmap.plan import EnsembleSection

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Member:
    """One network to train.

    Args:
        number: Its place in the ensemble.
        fold: The part it leaves out, or None without folds.
        seed: Decides its starting weights and every draw.
        learn, judge: Rows of the store.
    """

    number: int
    fold: int | None
    seed: int
    learn: Rows
    judge: Rows


def members(store: Store, section: EnsembleSection, seed: int) -> list[Member]:
    """The members a run asks for.

    Cases whose pixels are identical count as one patient when folds are dealt: no member is judged on an image that
    it learned from.

    Raises:
        DataError: No training case, or too few patients for the folds.
    """
    if not section.folds:
        learn = _rows(store, lambda case: case.split == "train")
        judge = _rows(store, lambda case: case.split == "val")
        if len(learn) < 2:
            raise DataError("there are too few training cases", got=len(learn), expected="at least 2")
        return [Member(n, None, seed + 7919 * n, learn, judge) for n in range(section.members)]
    result = []
    parts: list[Rows] = []
    for number in range(section.members):
        fold, again = number % section.folds, number // section.folds
        if fold == 0:
            parts = _dealt(store, section.folds, seed + again)
        learn = np.concatenate([p for i, p in enumerate(parts) if i != fold])
        result.append(Member(number, fold, seed + 7919 * number, np.sort(learn), parts[fold]))
    return result


def _rows(store: Store, keep: object) -> Rows:
    return np.array([row for row, case in enumerate(store.cases) if keep(case)], dtype=np.intp)  # type: ignore[operator]


def _dealt(store: Store, count: int, seed: int) -> list[Rows]:
    pool = [case for case in store.cases if case.split != "test"]
    patient = joined_patients([case.patient for case in store.cases], store.hashes)
    row_of = {case.id: row for row, case in enumerate(store.cases)}
    named: list[Case] = [replace(case, patient=patient[row_of[case.id]]) for case in pool]
    if len({case.patient for case in named}) < count:
        raise DataError("there are fewer patients than folds", got=len({c.patient for c in named}), expected=count)
    return [np.sort(np.array([row_of[case.id] for case in part], dtype=np.intp)) for part in folds(named, count, seed)]


def joined_patients(patients: Sequence[str], hashes: Sequence[str]) -> list[str]:
    """Patients named so that two who share an identical image have one name."""
    parent: dict[str, str] = {p: p for p in patients}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owners: dict[str, set[str]] = defaultdict(set)
    for patient, digest in zip(patients, hashes, strict=True):
        if digest:
            owners[digest].add(patient)
    for group in owners.values():
        first, *others = sorted(group)
        for other in others:
            parent[root(other)] = root(first)
    return [root(p) for p in patients]
