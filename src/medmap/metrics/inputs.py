"""What the metrics take: arrays that were looked at, and patients as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import DatasetError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Kind = Literal["binary", "multiclass", "multilabel", "ordinal"]
ROUNDING = 1e-6  # a softmax in single precision may leave [0, 1] by this much
KINDS = ("binary", "multiclass", "multilabel", "ordinal")


@dataclass(frozen=True, eq=False)
class Patients:
    """Which cases belong together: the unit of every interval.

    Args:
        codes: (n,) index of each case's patient, 0 … count − 1.
        count: Number of patients.
    """

    codes: Ints
    count: int

    @classmethod
    def of(cls, patients: Sequence[str] | None, n: int) -> Patients:
        """From one identifier a case; None means that every case is a patient of its own.

        Raises:
            UsageError: Not one identifier a case.
            DatasetError: An empty identifier.
        """
        if patients is None:
            return cls(np.arange(n), n)
        if len(patients) != n:
            raise UsageError("every case needs its patient", got=f"{len(patients)} patients", expected=f"{n}")
        names, codes = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
        if len(names) and names[0] == "":
            raise DatasetError("a case has an empty patient", remedy="give each case its patient's pseudonym")
        return cls(codes.astype(np.int64).reshape(-1), len(names))

    def at(self, where: Bools | Ints) -> Patients:
        """The same patients for some of the cases; a patient may be left with none."""
        return Patients(self.codes[where], self.count)

    def repeated(self, times: int) -> Patients:
        """Each case taken ``times`` times in a row."""
        return Patients(np.repeat(self.codes, times), self.count)

    def totals(self, values: ArrayLike) -> Floats:
        """(count,) sum of ``values`` (n,) over each patient's cases."""
        sums = np.bincount(self.codes, weights=np.asarray(values, dtype=np.float64), minlength=self.count)
        return np.asarray(sums, dtype=np.float64)

    def sizes(self) -> Ints:
        """(count,) cases of each patient."""
        return np.bincount(self.codes, minlength=self.count)

    @property
    def clustered(self) -> bool:
        """Whether some patient has several cases."""
        return bool((self.sizes() > 1).any())


def numbers(name: str, values: ArrayLike) -> Floats:
    """(n,) finite numbers.

    Raises:
        UsageError: Not a row of numbers.
        DatasetError: NaN or infinite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} are not numbers", got=type(values).__name__) from error
    if array.ndim != 1:
        raise UsageError(f"{name} have the wrong shape", got=array.shape, expected="(cases,)")
    if not np.isfinite(array).all():
        raise DatasetError(f"{name} are not all finite", got=f"{int((~np.isfinite(array)).sum())} NaN or infinite")
    return array


def chances(name: str, values: ArrayLike) -> Floats:
    """(n,) probabilities.

    Raises:
        UsageError: Not a row of numbers.
        DatasetError: NaN, or outside [0, 1].
    """
    array = numbers(name, values)
    if array.size and (array.min() < -ROUNDING or array.max() > 1 + ROUNDING):
        raise DatasetError(f"{name} are no probabilities", got=f"{array.min():g} … {array.max():g}", expected="0 … 1")
    return np.clip(array, 0, 1)


def yes_no(name: str, values: ArrayLike) -> Bools:
    """(n,) booleans, from booleans or from 0 and 1.

    Raises:
        UsageError: Not a row of numbers.
        DatasetError: A value other than 0 and 1.
    """
    array = np.asarray(values)
    if array.dtype == np.bool_ and array.ndim == 1:
        return np.asarray(array, dtype=np.bool_)
    array = numbers(name, values)
    if not np.isin(array, (0.0, 1.0)).all():
        raise DatasetError(
            f"{name} are not yes or no", got=f"{array[~np.isin(array, (0.0, 1.0))][0]:g}", expected="0 or 1"
        )
    return np.asarray(array == 1)


def whole_numbers(name: str, values: ArrayLike, classes: int | None = None) -> Ints:
    """(n,) integers; with ``classes``, in 0 … classes − 1.

    Raises:
        UsageError: Not a row of numbers.
        DatasetError: A fraction, or a class outside the range.
    """
    array = numbers(name, values)
    if (array != np.rint(array)).any():
        raise DatasetError(f"{name} are not whole numbers", got=f"{array[array != np.rint(array)][0]:g}")
    if classes is not None and array.size and (array.min() < 0 or array.max() >= classes):
        worst = array.max() if array.max() >= classes else array.min()
        raise DatasetError(f"{name} name a class that is not there", got=f"{worst:g}", expected=f"0 … {classes - 1}")
    return array.astype(np.int64)


def same_length(**arrays: NDArray[np.generic]) -> int:
    """The common number of cases.

    Raises:
        UsageError: The lengths differ.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(
            "truth and prediction are of different cases", got=", ".join(f"{v} {k}" for k, v in lengths.items())
        )
    return next(iter(lengths.values()))


@dataclass(frozen=True)
class Classes:
    """What the columns of a table of probabilities mean.

    Args:
        kind: ``binary`` and ``multiclass`` (one class a case), ``ordinal`` (the same, in order), ``multilabel``.
        labels: Name of each column.
        positive: Column that a binary score speaks of; needed for ``binary``, absent otherwise.

    Raises:
        UsageError: An unknown kind, labels that repeat, a positive class that is not there.

    Example:
        >>> Classes("binary", ("malignant", "benign"), positive=0).labels[0]
        'malignant'
    """

    kind: Kind
    labels: tuple[str, ...]
    positive: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
        if self.kind not in KINDS:
            raise UsageError("unknown kind of classification", got=self.kind, expected=" | ".join(KINDS))
        if not self.labels or len(set(self.labels)) < len(self.labels) or "all" in self.labels:
            raise UsageError("labels must be there, differ and not be 'all'", got=self.labels)
        if self.kind != "multilabel" and len(self.labels) < 2:
            raise UsageError("a class alone decides nothing", got=self.labels, expected="two labels or more")
        if self.kind != "binary":
            if self.positive is not None:
                raise UsageError(f"a positive class has no meaning for {self.kind}", got=self.positive)
        elif len(self.labels) != 2 or self.positive not in (0, 1):
            raise UsageError(
                "binary needs two labels and which of them is positive",
                got=f"{len(self.labels)} labels, positive {self.positive}",
                expected="positive 0 or 1",
            )
