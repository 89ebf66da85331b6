"""Scores and truth as arrays that were looked at."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmap.errors import DatasetError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Kind = Literal["binary", "multiclass", "multilabel", "ordinal"]
KINDS = ("binary", "multiclass", "multilabel", "ordinal")
ROUNDING = 1e-6  # a softmax in single precision may leave [0, 1] by this much


def check_kind(kind: str) -> None:
    """Refuse a kind of classification that is unknown."""
    if kind not in KINDS:
        raise UsageError("unknown kind of classification", got=kind, expected=" | ".join(KINDS))


def table_of(name: str, values: ArrayLike, kind: str, *, chances: bool = False) -> Floats:
    """(n, C) finite numbers; two columns for binary, two or more for exclusive classes."""
    check_kind(kind)
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} are not numbers", got=type(values).__name__) from error
    fewest = 2 if kind in ("binary", "multiclass") or (kind == "ordinal" and chances) else 1
    if table.ndim != 2 or table.shape[1] < fewest or (kind == "binary" and table.shape[1] != 2):
        wanted = "(cases, 2)" if kind == "binary" else f"(cases, {fewest} or more)"
        raise UsageError(f"{name} have the wrong shape for {kind}", got=table.shape, expected=wanted)
    if not np.isfinite(table).all():
        raise DatasetError(f"{name} are not all finite", got=f"{int((~np.isfinite(table)).sum())} NaN or infinite")
    if chances and table.size and (table.min() < -ROUNDING or table.max() > 1 + ROUNDING):
        raise DatasetError(f"{name} are no probabilities", got=f"{table.min():g} … {table.max():g}", expected="0 … 1")
    return np.clip(table, 0, 1) if chances else table


def truth_of(values: ArrayLike, kind: str, cases: int, width: int) -> Floats:
    """(n,) class indices, or (n, C) of 0, 1 and NaN."""
    truth = np.asarray(values, dtype=np.float64)
    shape = (cases, width) if kind == "multilabel" else (cases,)
    if truth.shape != shape:
        raise UsageError("truth has the wrong shape", got=truth.shape, expected=shape)
    if kind == "multilabel":
        if not np.isin(truth[~np.isnan(truth)], (0.0, 1.0)).all():
            raise DatasetError("a multi-label truth is 0, 1 or NaN (unknown)", got="another value")
    elif not np.isin(truth, np.arange(width)).all():
        wrong = truth[~np.isin(truth, np.arange(width))][0]
        raise DatasetError("truth names a class that is not there", got=f"{wrong:g}", expected=f"0 … {width - 1}")
    return truth
