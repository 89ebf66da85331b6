"""Cases, their truth and their splits, without a pixel: a dataset of 100,000 cases opens in seconds."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from medmap.errors import DatasetError, UsageError
from medmap.results import Label, ScoreKind

TaskName = Literal["classify", "detect", "segment", "enhance"]
TASKS: tuple[str, ...] = get_args(TaskName)
Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
COLUMN_TYPES = str | float | None


@dataclass(frozen=True, slots=True)
class Ref:
    """A file, or a member of one: an npz row, a DICOM frame.

    Args:
        path: Relative to the dataset's root, or absolute.
        member: What inside the file, in the reader's words; None for the whole file.

    Example:
        >>> str(Ref.parse("breastmnist.npz#train_images/3"))
        'breastmnist.npz#train_images/3'
    """

    path: str
    member: str | None = None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """``path`` or ``path#member``."""
        path, _, member = text.partition("#")
        return cls(path, member or None)

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}#{self.member}"


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known about a case.

    Args:
        annotated: False when nobody has looked; then everything else is empty.
        label: Class index (binary, multiclass, ordinal).
        values: One number a class, 0, 1 or NaN for unknown or uncertain (multi-label); or the target (regression).
        masks: Label maps, one an observer.
        boxes: Corner coordinates and class index; empty means looked at and nothing found.
        target: The better image (enhance).
        known: Indices of the classes that were looked at, ascending; None: all of them. What is not in it is neither
            present nor absent.
        ignored: Boxes like ``boxes`` that are neither found nor missed: crowds, difficult objects.
    """

    annotated: bool = False
    label: int | None = None
    values: tuple[float, ...] | None = None
    masks: tuple[Ref, ...] = ()
    boxes: tuple[tuple[tuple[float, ...], int], ...] | None = None
    target: Ref | None = None
    known: tuple[int, ...] | None = None
    ignored: tuple[tuple[tuple[float, ...], int], ...] = ()

    def __repr__(self) -> str:
        # what is not said is not shown: the digest of a dataset without partial labels stays what it was
        shown = f"annotated={self.annotated!r}, label={self.label!r}, values={self.values!r}, masks={self.masks!r}"
        shown += f", boxes={self.boxes!r}, target={self.target!r}"
        shown += f", known={self.known!r}" if self.known is not None else ""
        shown += f", ignored={self.ignored!r}" if self.ignored else ""
        return f"Truth({shown})"


@dataclass(frozen=True, slots=True)
class Case:
    """One example: inputs by name (None: not acquired), truth and clinical columns (None: not recorded)."""

    id: str
    patient: str
    inputs: Mapping[str, Ref | None]
    truth: Truth = Truth()
    split: str | None = None
    site: str | None = None
    columns: Mapping[str, COLUMN_TYPES] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What is known of an input before reading a pixel.

    Args:
        modality: DICOM modality code (CT, MR, US …) or the owner's word.
        channels: Names of the channels in one file, in order, when there are several; empty: one, or not known.
    """

    modality: str | None = None
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Ordered cases with their label names and codes.

    Args:
        name: A short name.
        task: classify, detect, segment or enhance.
        cases: In a fixed order; ids are unique.
        inputs: Input names and what is known of each.
        labels: The classes in index order (segment: index 0 is the background).
        kind: How the classes hang together (classify): binary, multiclass, multilabel, ordinal, regression.
        root: Folder that relative paths start from.
        positive: Index of the class that a binary score speaks of.
        regions: Overlapping structures: name → label values.
        ignore: Label value that no loss and no metric looks at.
        mirror_pairs: Names of classes that a left-right flip swaps.
        licence: Licence of the data, in the owner's words.
        source: Where the data comes from.
        patients_known: False when patient equals case only for want of an identifier.
        version: 1, and one more each time corrected labels replace it.
        parent: Digest of the version that this one replaces.
        hashes: Truth file (as its reference names it) → sha256 of its bytes, where they were recorded.

    Raises:
        DatasetError: Parts that contradict each other.
    """

    name: str
    task: TaskName
    cases: tuple[Case, ...]
    inputs: Mapping[str, InputSpec]
    labels: tuple[Label, ...] = ()
    kind: ScoreKind = "multiclass"
    root: Path = Path()
    positive: int | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignore: int | None = None
    mirror_pairs: tuple[tuple[str, str], ...] = ()
    licence: str | None = None
    source: str | None = None
    patients_known: bool = True
    version: int = 1
    parent: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise DatasetError("unknown task", got=repr(self.task), expected=", ".join(TASKS))
        if not self.cases:
            raise DatasetError(f"the dataset {self.name} has no cases")
        if not self.inputs:
            raise DatasetError(f"the dataset {self.name} names no input")
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise DatasetError("two classes have the same name", got=[n for n, c in Counter(names).items() if c > 1])
        if self.kind == "binary" and (len(self.labels) != 2 or self.positive not in (0, 1)):
            raise DatasetError(
                "a binary dataset has two classes and says which is positive", got=(names, self.positive)
            )
        self._check_cases()

    def _check_cases(self) -> None:
        seen: set[str] = set()
        for case in self.cases:
            if not case.id or case.id in seen:
                raise DatasetError("a case's identifier is empty or stands twice", got=repr(case.id))
            seen.add(case.id)
            if not case.patient:
                raise DatasetError("a case names no patient", remedy="repeat the case's identifier", case=case.id)
            if case.split is not None and case.split not in SPLITS:
                raise DatasetError("unknown split", got=repr(case.split), expected=", ".join(SPLITS), case=case.id)
            label = case.truth.label
            if label is not None and not 0 <= label < len(self.labels):
                raise DatasetError("unknown class", got=label, expected=f"0 to {len(self.labels) - 1}", case=case.id)
            values = case.truth.values
            if self.kind == "multilabel" and values is not None and len(values) != len(self.labels):
                raise DatasetError(
                    "a multi-label truth has one value a class",
                    got=len(values),
                    expected=len(self.labels),
                    case=case.id,
                )
            self._check_partial(case)
            if not case.inputs.keys() <= self.inputs.keys():
                raise DatasetError("unknown input", got=sorted(case.inputs), expected=sorted(self.inputs), case=case.id)

    def _check_partial(self, case: Case) -> None:
        truth, count = case.truth, len(self.labels)
        wrong = [label for _, label in (*(truth.boxes or ()), *truth.ignored) if not 0 <= label < count]
        if wrong:
            raise DatasetError("a box of an unknown class", got=wrong[0], expected=f"0 to {count - 1}", case=case.id)
        if truth.ignored and truth.boxes is None:
            raise DatasetError("boxes to ignore without boxes", remedy="give boxes, if need be none", case=case.id)
        if truth.known is None:
            return
        if not truth.annotated or not truth.known:
            raise DatasetError("classes that were looked at belong to an annotated case", case=case.id)
        if list(truth.known) != sorted(set(truth.known)) or truth.known[0] < 0 or truth.known[-1] >= count:
            raise DatasetError(
                "the classes that were looked at are no list of classes",
                got=truth.known,
                expected=f"0 to {count - 1}, ascending",
                case=case.id,
            )

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        try:
            return self._by_id[case_id]
        except KeyError:
            raise DatasetError(f"the dataset {self.name} has no such case", got=repr(case_id)) from None

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in index order."""
        return tuple(label.name for label in self.labels)

    @property
    def has_splits(self) -> bool:
        """Whether the owner supplied splits for at least one case."""
        return any(case.split is not None for case in self.cases)

    def where(self, keep: Callable[[Case], bool]) -> Dataset:
        """The dataset of the cases for which ``keep`` holds.

        Raises:
            DatasetError: None is left.
        """
        cases = tuple(case for case in self.cases if keep(case))
        if not cases:
            raise DatasetError(f"no case of {self.name} is left after selection")
        return self.with_cases(cases)

    def with_cases(self, cases: Sequence[Case]) -> Dataset:
        """The same dataset with other cases."""
        return replace(self, cases=tuple(cases))

    def split(self, name: str) -> Dataset:
        """The cases of one split; ``all`` is everything.

        Raises:
            UsageError: An unknown name, or a split without cases.
        """
        if name == "all":
            return self
        counts = Counter(case.split for case in self.cases)
        if name not in SPLITS or not counts[name]:
            have = ", ".join(f"{k}: {v}" for k, v in sorted(counts.items(), key=str) if k)
            raise UsageError(
                f"{self.name} has no {name} split", got=have or "no splits", expected="train, val, test or all"
            )
        return self.where(lambda case: case.split == name)

    def resolve(self, ref: Ref) -> Path:
        """The file a reference points to."""
        path = Path(ref.path)
        return path if path.is_absolute() else self.root / path

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of the cases, truth, splits and label names (not of the pixels; see ``files_digest``).

        Where the truth files' hashes were recorded (``import``), a corrected mask gives another digest.
        """
        head: dict[str, object] = {
            "task": self.task,
            "kind": self.kind,
            "labels": [(x.name, x.code) for x in self.labels],
            "positive": self.positive,
            "inputs": sorted(self.inputs),
            "regions": sorted(self.regions.items()),
            "ignore": self.ignore,
        }
        channels = {name: spec.channels for name, spec in self.inputs.items() if spec.channels}
        head.update({"channels": sorted(channels.items())} if channels else {})
        head.update({"hashes": sorted(self.hashes.items())} if self.hashes else {})
        running = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for case in self.cases:
            running.update(repr(_row(case)).encode())
        return f"sha256:{running.hexdigest()}"

    def files_digest(self) -> str:
        """``sha256:…`` of the table and of every referenced file's bytes, each file read once.

        Of a folder that holds a series, every file in it counts.

        Raises:
            DatasetError: A file is absent or unreadable.
        """
        running = hashlib.sha256(self.digest.encode())
        paths = {self.resolve(r) for c in self.cases for r in (*c.inputs.values(), *c.truth.masks, c.truth.target) if r}
        inside = (p.rglob("*") if p.is_dir() else (p,) for p in paths)
        for path in sorted({p for files in inside for p in files if not p.is_dir()}):
            try:
                with path.open("rb") as file:
                    running.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise DatasetError("a referenced file cannot be read", got=str(error)) from error
        return f"sha256:{running.hexdigest()}"


def _row(case: Case) -> tuple[object, ...]:
    inputs = sorted((k, str(v) if v else None) for k, v in case.inputs.items())
    return (case.id, case.patient, case.split, case.site, inputs, case.truth, sorted(case.columns.items()))


# -- splits: always by patient, stratified, seeded ------------------------------------------------------------------


def stratum(case: Case) -> tuple[object, ...]:
    """What a split keeps balanced: the class, the set of positive labels, or whether something was found."""
    truth = case.truth
    if truth.label is not None:
        return ("label", truth.label)
    if truth.values is not None:
        return ("values", *(int(v) if v in (0, 1) else -1 for v in truth.values))
    if truth.boxes is not None:
        return ("boxes", tuple(sorted({label for _, label in truth.boxes})))
    return ("annotated", truth.annotated)


def deal(cases: Sequence[Case], shares: Sequence[float], seed: int) -> list[list[Case]]:
    """Deal cases into parts of about the given shares: whole patients, each stratum spread evenly.

    Patients are shuffled by ``seed``, ordered by how rare their strata are, and each goes to the part that is
    furthest behind in that patient's rarest stratum (Sechidis et al. 2011, iterative stratification, over patients);
    what earlier strata left uneven counts too, so that many rare strata do not all end in the largest part. No part
    stays empty while there are patients for it.

    Raises:
        UsageError: Shares that are not positive.
    """
    if not shares or min(shares) <= 0:
        raise UsageError("shares of a split are positive numbers", got=list(shares))
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    groups = [by_patient[p] for p in sorted(by_patient)]
    np.random.default_rng([seed, 0x5EED]).shuffle(groups)
    totals = Counter(stratum(case) for case in cases)
    counts = [Counter(stratum(case) for case in group) for group in groups]
    order = sorted(range(len(groups)), key=lambda g: (min(totals[s] for s in counts[g]), -len(groups[g])))
    share = np.asarray(shares, dtype=np.float64) / sum(shares)
    have = {s: np.zeros(len(share)) for s in totals}
    size = np.zeros(len(share))
    parts: list[list[Case]] = [[] for _ in share]
    for done, g in enumerate(order):
        rarest = min(counts[g], key=lambda s: (totals[s], str(s)))
        behind = share * totals[rarest] - have[rarest] + share * size.sum() - size
        room = share * len(cases) - size
        empty = [p for p, part in enumerate(parts) if not part]
        open_parts = empty if len(order) - done <= len(empty) else range(len(parts))
        best = max(open_parts, key=lambda p: (round(float(behind[p]), 9), round(float(room[p]), 9), -p))
        for s, n in counts[g].items():
            have[s][best] += n
        size[best] += len(groups[g])
        parts[best].extend(groups[g])
    return parts


def with_splits(dataset: Dataset, seed: int = 0, shares: Sequence[float] = (0.7, 0.1, 0.2)) -> Dataset:
    """The dataset with every case in train, val or test.

    Supplied splits are kept. Cases without one are dealt by patient; a patient who already has a split keeps it. Where
    some cases are test (or val), the owner has said which, and no further one is dealt there.
    When the owner supplied train and test only, validation cases are taken from train, never from test.
    A test share of 0 keeps no case back: every one is then judged by cross-validation alone.

    Raises:
        UsageError: Shares that are not three numbers (train, val, test), the first two of them positive.
    """
    if len(shares) != len(SPLITS):
        raise UsageError("a split has three shares", got=list(shares), expected=", ".join(SPLITS))
    stated = {case.split for case in dataset}
    dealt = [name for name in (SPLITS if shares[2] else SPLITS[:2]) if name == "train" or name not in stated]
    if all(case.split is not None for case in dataset):
        if "val" in stated or "train" not in stated:
            return dataset
        train = [case for case in dataset if case.split == "train"]
        _, held = deal(train, (1 - shares[1] / (shares[0] + shares[1]), shares[1] / (shares[0] + shares[1])), seed)
        chosen = {case.id: "val" for case in held}
        return _reassigned(dataset, chosen)
    known = {case.patient: case.split for case in dataset if case.split is not None}
    open_cases = [case for case in dataset if case.split is None and case.patient not in known]
    chosen = {case.id: str(known[case.patient]) for case in dataset if case.split is None and case.patient in known}
    for name, part in zip(dealt, deal(open_cases, [shares[SPLITS.index(name)] for name in dealt], seed), strict=True):
        chosen.update({case.id: name for case in part})
    return _reassigned(dataset, chosen)


def _reassigned(dataset: Dataset, chosen: Mapping[str, str]) -> Dataset:
    return dataset.with_cases([replace(c, split=chosen[c.id]) if c.id in chosen else c for c in dataset])


def folds(cases: Sequence[Case], count: int, seed: int) -> list[list[Case]]:
    """``count`` disjoint parts by patient, stratified; each serves once as the held-out part.

    Raises:
        UsageError: Fewer than two folds, or fewer patients than folds.
    """
    patients = len({case.patient for case in cases})
    if count < 2 or patients < count:
        raise UsageError("cross-validation needs at least two folds and a patient for each", got=(count, patients))
    return deal(cases, [1.0] * count, seed)


def known_values(values: Sequence[float]) -> list[bool]:
    """Which entries of a multi-label truth are known (not NaN)."""
    return [not math.isnan(v) for v in values]
