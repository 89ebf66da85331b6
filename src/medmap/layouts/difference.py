"""What changed from one version of a dataset to the next, for people to read.

Cases are matched by identifier. A mask is compared by the hash recorded at import where there is one, else by its
bytes; one that changed is read, and each structure's voxels counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, Dataset, Ref
from medmap.errors import DatasetError, counted
from medmap.layouts.cases import known_cell
from medmap.layouts.hashes import sha256_of
from medmap.layouts.kept import vocabulary
from medmap.read import read_ref

MOVED_VOXELS = 1e-6  # below this a corner stands where it stood
SHOWN = 50


@dataclass(frozen=True)
class Change:
    """One thing that changed.

    Args:
        kind: added, removed, label, boxes, mask, target, annotated, split, patient, input, column or
            dataset.
        case: The case's identifier; empty for the dataset as a whole.
        text: What changed, from what to what.
    """

    kind: str
    case: str
    text: str


@dataclass(frozen=True)
class Difference:
    """What changed between two versions of a dataset.

    Args:
        old: Name, version and digest of the one before.
        new: Name, version and digest of the one after.
        follows: Whether the new one names the old one as its parent.
        changes: In the order of the cases.
    """

    old: str
    new: str
    follows: bool
    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def of(self, kind: str) -> tuple[Change, ...]:
        """The changes of one kind."""
        return tuple(c for c in self.changes if c.kind == kind)

    def as_text(self, shown: int = SHOWN) -> str:
        """Some lines for a person: the two versions, counts, then at most ``shown`` changes."""
        counts: dict[str, int] = {}
        for change in self.changes:
            counts[change.kind] = counts.get(change.kind, 0) + 1
        lines = [f"from {self.old}", f"to   {self.new}"]
        if not self.follows:
            lines.append("the new version does not name the old one as its parent")
        if not self.changes:
            return "\n".join([*lines, "nothing changed"]) + "\n"
        lines.append(", ".join(f"{kind}: {n}" for kind, n in counts.items()))
        lines += [f"  {c.kind}: {c.case + ': ' if c.case else ''}{c.text}" for c in self.changes[:shown]]
        if len(self.changes) > shown:
            lines.append(f"  … and {len(self.changes) - shown} more")
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        changes = [{"kind": c.kind, "case": c.case, "text": c.text} for c in self.changes]
        return {"old": self.old, "new": self.new, "follows": self.follows, "changes": changes}


def difference(old: Dataset, new: Dataset) -> Difference:
    """What changed from ``old`` to ``new``; reads the masks whose bytes differ, no other pixel.

    Raises:
        DatasetError: Two tasks, or a truth file that is absent from both versions' records.

    Example:
        >>> from medmap.dataset import Case, InputSpec, Ref, Truth
        >>> from medmap.results import Label
        >>> def version(label: int) -> Dataset:
        ...     case = Case("c1", "p1", {"image": Ref("a.png")}, Truth(True, label))
        ...     return Dataset("d", "classify", (case,), {"image": InputSpec()}, (Label("benign"), Label("malignant")))
        >>> print(difference(version(0), version(1)).changes[0].text)
        benign → malignant
    """
    if old.task != new.task:
        raise DatasetError("two tasks are not two versions of one dataset", got=new.task, expected=old.task)
    before, after = {c.id: c for c in old}, {c.id: c for c in new}
    changes = list(_whole(old, new))
    changes += [Change("removed", i, _describe(old, c)) for i, c in before.items() if i not in after]
    for case_id, case in after.items():
        if case_id not in before:
            changes.append(Change("added", case_id, _describe(new, case)))
            continue
        for compare in _COMPARISONS:
            changes += [Change(kind, case_id, text) for kind, text in compare(old, new, before[case_id], case)]
    return Difference(_called(old), _called(new), new.parent == old.digest, tuple(changes))


def _called(dataset: Dataset) -> str:
    return f"{dataset.name}, version {dataset.version}, {dataset.digest[:19]}…, {counted(len(dataset), 'case')}"


def _whole(old: Dataset, new: Dataset) -> list[Change]:
    rows: list[tuple[str, object, object]] = [
        ("labels", ", ".join(old.label_names), ", ".join(new.label_names)),
        ("inputs", ", ".join(old.inputs), ", ".join(new.inputs)),
        ("regions", dict(old.regions), dict(new.regions)),
        ("ignore value", old.ignore, new.ignore),
        ("positive class", old.positive, new.positive),
    ]
    return [Change("dataset", "", f"{what}: {a or 'none'} → {b or 'none'}") for what, a, b in rows if a != b]


def _describe(dataset: Dataset, case: Case) -> str:
    parts = [f"split {case.split}" if case.split else "no split"]
    truth = case.truth
    if not truth.annotated:
        return ", ".join([*parts, "not annotated"])
    if truth.boxes is not None:
        parts.append(counted(len(truth.boxes), "box", "boxes"))
    if truth.masks:
        parts.append("mask")
    text = vocabulary(dataset).cell(truth)
    return ", ".join([*parts, text] if text else parts)


Found = list[tuple[str, str]]


def _simple(old: Dataset, new: Dataset, before: Case, after: Case) -> Found:
    found: Found = []
    if before.split != after.split:
        found.append(("split", f"{before.split or 'none'} → {after.split or 'none'}"))
    if before.patient != after.patient:
        found.append(("patient", f"{before.patient} → {after.patient}"))
    for name in sorted({*before.inputs, *after.inputs}):
        a, b = before.inputs.get(name), after.inputs.get(name)
        if (a is None) != (b is None):
            found.append(("input", f"{name} {'acquired' if a is None else 'gone'}"))
    for name in sorted({*before.columns, *after.columns}):
        one, two = before.columns.get(name), after.columns.get(name)
        if one != two:
            found.append(("column", f"{name}: {_word(one)} → {_word(two)}"))
    return found


def _word(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _label(old: Dataset, new: Dataset, before: Case, after: Case) -> Found:
    one, two = vocabulary(old).cell(before.truth), vocabulary(new).cell(after.truth)
    found: Found = []
    if one != two:
        found.append(("label", f"{one or 'not annotated'} → {two or 'not annotated'}"))
    if before.truth.known != after.truth.known:
        looked = [known_cell(c.truth.known, vocabulary(d)) or "all" for d, c in ((old, before), (new, after))]
        found.append(("annotated", f"{looked[0]} → {looked[1]}"))
    return found


# boxes --------------------------------------------------------------------------------------------------------------


def _boxes(old: Dataset, new: Dataset, before: Case, after: Case) -> Found:
    if before.truth.boxes is None or after.truth.boxes is None:
        if before.truth.boxes is after.truth.boxes:
            return []
        counts = [
            "not annotated" if c.truth.boxes is None else counted(len(c.truth.boxes), "box", "boxes")
            for c in (before, after)
        ]
        return [("boxes", f"{counts[0]} → {counts[1]}")]
    one = [(old.label_names[i], box) for box, i in before.truth.boxes]
    two = [(new.label_names[i], box) for box, i in after.truth.boxes]
    found = _changed(one, two)
    mine = [(old.label_names[i], box) for box, i in before.truth.ignored]
    theirs = [(new.label_names[i], box) for box, i in after.truth.ignored]
    return found + [("boxes", f"ignored: {text}") for _, text in _changed(mine, theirs)]


Named = tuple[str, tuple[float, ...]]


def _changed(old: Sequence[Named], new: Sequence[Named]) -> Found:
    """Boxes matched by overlap: equal ones fall out, overlapping ones moved or changed class, others came or went."""
    left, right = list(old), list(new)
    for item in old:
        same = next((b for b in right if b[0] == item[0] and _near(item[1], b[1])), None)
        if same is not None:
            left.remove(item)
            right.remove(same)
    pairs = sorted(
        ((overlap(a[1], b[1]), i, j) for i, a in enumerate(left) for j, b in enumerate(right)),
        key=lambda row: (-row[0], row[1], row[2]),
    )
    found: Found = []
    used: tuple[set[int], set[int]] = (set(), set())
    for share, i, j in pairs:
        if share <= 0 or i in used[0] or j in used[1]:
            continue
        used[0].add(i)
        used[1].add(j)
        (name, box), (other, moved) = left[i], right[j]
        words = [f"{name} → {other}"] if name != other else [name]
        words += [] if _near(box, moved) else [f"moved from {_corners(box)} to {_corners(moved)}"]
        found.append(("boxes", " ".join(words)))
    found += [("boxes", f"{n} removed at {_corners(b)}") for i, (n, b) in enumerate(left) if i not in used[0]]
    found += [("boxes", f"{n} added at {_corners(b)}") for j, (n, b) in enumerate(right) if j not in used[1]]
    return found


def _near(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and max(abs(x - y) for x, y in zip(a, b, strict=True)) <= MOVED_VOXELS


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes of corner voxels, whole voxels counted; 0 for different numbers of axes.

    Example:
        >>> overlap((0, 0, 1, 1), (0, 1, 1, 2))
        0.3333333333333333
    """
    if len(a) != len(b):
        return 0.0
    half = len(a) // 2
    one, two = np.reshape(a, (2, half)), np.reshape(b, (2, half))
    shared = np.prod(np.maximum(np.minimum(one[1], two[1]) - np.maximum(one[0], two[0]) + 1, 0))
    total = np.prod(one[1] - one[0] + 1) + np.prod(two[1] - two[0] + 1) - shared
    return float(shared / total)


def _corners(box: Sequence[float]) -> str:
    return json.dumps([round(v, 2) for v in box])


# masks --------------------------------------------------------------------------------------------------------------


def _masks(old: Dataset, new: Dataset, before: Case, after: Case) -> Found:
    ours, theirs = before.truth.masks, after.truth.masks
    if not ours and not theirs:
        return []
    if len(ours) != len(theirs):
        return [("mask", f"{len(ours) or 'no'} → {len(theirs) or 'no'} masks")]
    found: Found = []
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        observer = f"observer {n}: " if len(ours) > 1 else ""
        if _hash(old, a) != _hash(new, b) or a.member != b.member:
            found += [("mask", observer + text) for text in _changed_mask(old, new, a, b)]
    return found


def _hash(dataset: Dataset, ref: Ref) -> str:
    """What was recorded at import, which a file that was changed in place no longer has; else of the file."""
    return dataset.hashes.get(ref.path) or sha256_of(dataset.resolve(ref))


def _changed_mask(old: Dataset, new: Dataset, a: Ref, b: Ref) -> list[str]:
    if _gone(old, a):
        return [f"{b.path} changed; the file of the old version no longer exists as it was"]
    one, two = read_ref(old, a), read_ref(new, b)
    if one.array.shape != two.array.shape:
        return [f"another grid: {one.array.shape} → {two.array.shape}"]
    sized = two.geometry.has_size and two.geometry.ndim == 3
    volume_ml = two.geometry.voxel_volume_mm3 / 1000 if sized else None
    moved = [] if one.geometry.same_grid(two.geometry, 1e-2) else ["the grid lies elsewhere"]
    return moved + _structures(one.array, two.array, old, new, volume_ml)


def _gone(dataset: Dataset, ref: Ref) -> bool:
    """Whether a file no longer holds what was recorded at import."""
    recorded = dataset.hashes.get(ref.path)
    path = dataset.resolve(ref)
    return not path.is_file() or (recorded is not None and sha256_of(path) != recorded)


def _structures(one: NDArray[Any], two: NDArray[Any], old: Dataset, new: Dataset, volume_ml: float | None) -> list[str]:
    found: list[str] = []
    for value in sorted({*np.unique(one).tolist(), *np.unique(two).tolist()} - {0}):
        ours, theirs = one == value, two == value
        added, removed = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
        if added or removed:
            size = f" ({(added - removed) * volume_ml:+.3g} ml)" if volume_ml is not None else ""
            found.append(f"{_named(new, value)}: {counted(added, 'voxel')} added, {removed} removed{size}")
    return found


def _named(dataset: Dataset, value: float) -> str:
    if value == dataset.ignore:
        return "ignore"
    whole = value == int(value) and 0 <= value < len(dataset.labels)
    return dataset.labels[int(value)].name if whole else f"value {value:g}"


def _target(old: Dataset, new: Dataset, before: Case, after: Case) -> Found:
    a, b = before.truth.target, after.truth.target
    if a is None and b is None:
        return []
    if a is None or b is None:
        return [("target", "added" if a is None else "removed")]
    return [("target", f"{b.path} changed")] if _hash(old, a) != _hash(new, b) else []


_COMPARISONS: tuple[Callable[[Dataset, Dataset, Case, Case], Found], ...] = (_simple, _label, _boxes, _masks, _target)
