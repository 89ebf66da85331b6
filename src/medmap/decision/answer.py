"""A decision applied: logits to probabilities to answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medmap.decision.inputs import Bools, Floats, Ints, Kind, table_of
from medmap.decision.temperature import probabilities_of, warmth
from medmap.decision.value import Decision
from medmap.errors import UsageError


class Decided(NamedTuple):
    """The answer for each case.

    ``predicted`` (n,) class indices, or (n, C) of 0 and 1 for multi-label; ``abstained`` (n,) cases left to a person.
    """

    predicted: Ints
    abstained: Bools


def calibrated(logits: ArrayLike, decision: Decision, kind: Kind) -> Floats:
    """Probabilities after the decision's temperature and prior shift.

    Args:
        logits: (n, C) finite; ordinal: (n, C − 1).
        decision: What was fitted.
        kind: As ``apply_temperature``.

    Returns:
        (n, C) probabilities in [0, 1].

    Raises:
        UsageError: Shapes that do not fit together.
        DatasetError: A logit that is not finite.

    Source: Guo et al. (2017); Saerens et al., Neural Comput. 14:21–41 (2002).

    Example:
        >>> calibrated([[0.0, 2.0]], Decision(temperature=2.0), "binary").round(3).tolist()
        [[0.269, 0.731]]
    """
    z = table_of("logits", logits, kind)
    return probabilities_of(z / warmth(decision.temperature, z.shape[1], kind) + shift_of(decision, z.shape[1]), kind)


def shift_of(decision: Decision, width: int) -> Floats:
    """(C,) what the decision adds to the scaled logits."""
    if decision.prior_shift is None:
        return np.zeros(width)
    if len(decision.prior_shift) != width:
        raise UsageError("the prior shift does not fit the logits", got=len(decision.prior_shift), expected=width)
    return np.array(decision.prior_shift)


def decide(probabilities: ArrayLike, decision: Decision, kind: Kind) -> Decided:
    """Probabilities to answers.

    Binary: the positive class from its threshold on. Multi-label: each label from its threshold on. Several exclusive
    classes or grades: the largest probability; their thresholds are operating points of each class against the rest.
    Without thresholds, 0.5. A case is left to a person where its largest probability is below ``abstain_below``;
    multi-label: where that holds for any label (present or absent).

    Args:
        probabilities: (n, C), calibrated, in [0, 1].
        decision: What was fitted.
        kind: As ``apply_temperature``.

    Raises:
        UsageError: Shapes that do not fit together, a binary decision that does not name its positive class.
        DatasetError: A probability that is NaN or outside [0, 1].

    Example:
        >>> d = Decision(thresholds=(0.7, 0.3), target="youden", positive=1, abstain_below=0.6)
        >>> answer = decide([[0.65, 0.35], [0.9, 0.1], [0.55, 0.45]], d, "binary")
        >>> answer.predicted.tolist(), answer.abstained.tolist()
        ([1, 0, 1], [False, False, True])
    """
    table = table_of("probabilities", probabilities, kind, chances=True)
    width = table.shape[1]
    limits = np.array(decision.thresholds or (0.5,) * width)
    if len(limits) != width:
        raise UsageError("thresholds and probabilities do not fit", got=f"{len(limits)}", expected=f"{width}")
    if kind == "binary":
        if decision.positive is None and decision.thresholds:
            raise UsageError("the decision does not name its positive class", expected="positive 0 or 1")
        positive = 1 if decision.positive is None else decision.positive
        called = table[:, positive] >= limits[positive]
        predicted = np.where(called, positive, 1 - positive)
    elif kind == "multilabel":
        predicted = (table >= limits).astype(np.int64)
    else:
        predicted = table.argmax(axis=1)
    abstained = np.zeros(len(table), dtype=np.bool_)
    if decision.abstain_below is not None:
        surest = np.maximum(table, 1 - table).min(axis=1) if kind == "multilabel" else table.max(axis=1)
        abstained = surest < decision.abstain_below
    return Decided(predicted.astype(np.int64), abstained)
