"""Coarse to fine: where structures fill a small part of a large field, they are looked for first, then outlined."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Dataset
from medmap.errors import DataError
from medmap.plan.fingerprint import Fingerprint
from medmap.read import read_ref
from medmap.runtime import occupied

MASKS = 24  # looked at, evenly spread over the cases
FIELD_PATCHES = 8  # a field of fewer patches is soon looked at whole
SMALL_PART = 0.25  # of the field that structures and what is around them may take
COARSE_PATCHES = 3  # of the coarse network that make up a field
ACROSS = 4  # coarse voxels that the structures together are across at least
AROUND_STEPS = 3  # coarse voxels around what is found, at least ``AROUND_MM``
AROUND_MM = 10.0


@dataclass(frozen=True)
class Cascade:
    """How a coarse network sees the images.

    Args:
        facts: The fingerprint at the coarse spacing.
        around_mm: How far around what it finds the fine one looks.
        reason: Why, in words.
    """

    facts: Fingerprint
    around_mm: float
    reason: str


def cascade(pool: Dataset, facts: Fingerprint, patch: tuple[int, ...]) -> Cascade | str | None:
    """The coarse network that helps, or why none does, or None where the question does not arise.

    Args:
        pool: The cases to learn from.
        facts: Their fingerprint.
        patch: Voxels that the fine network sees at once.
    """
    spacing = facts.spacing_mm
    if facts.dimensions != 3 or spacing is None or math.prod(facts.shape) <= FIELD_PATCHES * math.prod(patch):
        return None
    field = np.array(facts.shape) * np.array(spacing)
    sides = np.array(list(_sides_mm(pool)))
    if not len(sides):
        return None
    coarse = _coarse_mm(field, np.array(spacing), COARSE_PATCHES * math.prod(patch))
    coarse = np.minimum(coarse, np.median(sides, axis=0).min() / ACROSS)
    coarse = np.maximum(spacing, np.round(coarse, 1))
    around = max(AROUND_MM, math.ceil(AROUND_STEPS * float(coarse.max())))
    part = float(np.median(np.minimum(1, (sides + 2 * around) / field).prod(axis=1)))
    shape = tuple(int(n) for n in np.maximum(1, np.round(field / coarse)))
    shown = " × ".join(f"{side:.0f}" for side in field)
    if part > SMALL_PART or math.prod(shape) * 2 > math.prod(facts.shape):
        return f"the structures and {around:g} mm around them take {part:.0%} of {shown} mm: looked for everywhere"
    at = " × ".join(f"{step:.3g}" for step in coarse)
    reason = (
        f"the structures and {around:g} mm around them take {part:.0%} of {shown} mm: a coarse network finds them at "
        f"{at} mm, the other outlines them there (coarse=null leaves it out)"
    )
    seen = replace(facts, shape=shape, spacing_mm=tuple(float(step) for step in coarse), same_shape=False)
    return Cascade(seen, around, reason)


def _coarse_mm(field: NDArray[np.float64], spacing: NDArray[np.float64], voxels: int) -> NDArray[np.float64]:
    """The finest spacing, as alike along the axes as the images allow, at which a field has so many voxels."""
    low, high = float(spacing.min()), float(field.max())
    for _ in range(60):
        step = (low + high) / 2
        if (field / np.maximum(spacing, step)).prod() > voxels:
            low = step
        else:
            high = step
    return np.maximum(spacing, high)


def _sides_mm(pool: Dataset) -> Iterator[tuple[float, ...]]:
    """Of the box around all structures, for cases that have some; turned as preparation turns volumes."""
    structures = sorted({value for some in pool.regions.values() for value in some} or range(1, len(pool.labels)))
    cases = [case for case in pool if case.truth.masks]
    for at in np.unique(np.linspace(0, len(cases) - 1, min(MASKS, len(cases))).astype(int)) if cases else ():
        try:
            mask = read_ref(pool, cases[int(at)].truth.masks[0])
        except DataError:
            continue  # `check` names it; the store lists it as failed
        if mask.ndim != 3:
            continue  # likewise
        mask = mask.oriented("LPS") if mask.geometry.kind == "patient" else mask
        ends = occupied(np.isin(mask.array, structures), 3)
        if ends is not None and mask.geometry.has_size:
            yield tuple((after - first) * mm for (first, after), mm in zip(ends, mask.spacing_mm, strict=True))
